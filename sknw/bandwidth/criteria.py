"""Criteria: what a bandwidth search minimises, each a differentiable function of kernel sums.

Every criterion is made of sums that leave each key out: predictions from all others, or means that
count the key itself again, with its leverage ``H_ii`` (the weight it gives itself). What a search
minimises is positive and free of the units of y; what it reports is the criterion as published.

Where a formula needs the number of rows it is Kish's, ``n = (Σw)²/Σw²`` over observations: plain n
without weights, and the same whatever their scale.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sknw.fitting.leave_one_out import LeaveOneOut


class Criterion(ABC):
    """A function of the scales of the columns; lower is better."""

    name: ClassVar[str]
    has_kinks: ClassVar[bool] = False  # even where the kernel has none

    @abstractmethod
    def loss(self, task: LeaveOneOut, scales: Tensor) -> Tensor:
        """Return what is minimised, a positive scalar, at scales (n_columns,)."""

    def losses(self, task: LeaveOneOut, scales: Tensor) -> Tensor:
        """Return what is minimised at several scales (b, n_columns), (b,), without gradients."""
        with torch.no_grad():
            return torch.stack([self.loss(task, at) for at in scales])

    def loss_and_slope(self, task: LeaveOneOut, scales: Tensor) -> tuple[float, np.ndarray] | None:
        """Return what is minimised and its derivatives by log-scales, if there is a short way."""
        return None

    @abstractmethod
    def reported(self, loss: float, task: LeaveOneOut) -> float:
        """Return the criterion that belongs to a loss."""


class SquaredError(Criterion):
    """Weighted mean squared leave-one-out error (Härdle & Marron 1985)."""

    name = "loo"

    def loss(self, task: LeaveOneOut, scales: Tensor) -> Tensor:
        """Return the error in units of the variance of y."""
        return task.loss(task.rows, scales)

    def losses(self, task: LeaveOneOut, scales: Tensor) -> Tensor:
        """Return the errors in units of the variance of y."""
        return task.losses(task.rows, scales)

    def loss_and_slope(self, task: LeaveOneOut, scales: Tensor) -> tuple[float, np.ndarray] | None:
        """Return the error in units of the variance of y, and its derivatives."""
        return task.loss_and_slope(task.rows, scales)

    def reported(self, loss: float, task: LeaveOneOut) -> float:
        """Return the error in squared units of y for one output."""
        return loss * task.unit


class AbsoluteError(Criterion):
    """Weighted mean absolute leave-one-out error, which remote values of y hardly move."""

    name = "loo_absolute"
    has_kinks = True

    def loss(self, task: LeaveOneOut, scales: Tensor) -> Tensor:
        """Return the error in units of the mean absolute deviation of y."""
        errors = task.errors(task.predictions(task.rows, scales))
        return (task.mean(errors.abs()) / task.deviation).mean()

    def reported(self, loss: float, task: LeaveOneOut) -> float:
        """Return the error in units of y for one output."""
        return loss * task.absolute_unit


class _InSample(Criterion):
    """A criterion of the errors with each row among its own neighbours, and of the trace."""

    def loss(self, task: LeaveOneOut, scales: Tensor) -> Tensor:
        """Return the penalised variance of the errors, in units of the variance of y."""
        means, leverage = task.fitted(task.rows, scales)
        variance = (task.mean(task.errors(means).square()) / task.variance).mean()
        trace = leverage.mean() * len(task)  # of a sample of the rows, an unbiased estimate
        return variance * self.penalty(trace / task.effective_size, 1 / task.effective_size)

    @abstractmethod
    def penalty(self, share: Tensor, one: float) -> Tensor:
        """Return the factor on the variance, for ``share = tr H / n`` and ``one = 1/n``."""


class GCV(_InSample):
    """Generalised cross-validation ``σ² / (1 − tr H / n)²`` (Craven & Wahba 1979)."""

    name = "gcv"

    def penalty(self, share: Tensor, one: float) -> Tensor:
        """Return ``1 / (1 − tr H / n)²``; infinite where nothing is left."""
        return torch.where(share < 1, (1 - share).square().reciprocal(), torch.inf)

    def reported(self, loss: float, task: LeaveOneOut) -> float:
        """Return the criterion in squared units of y for one output."""
        return loss * task.unit


class AICc(_InSample):
    """``log σ² + (1 + tr H / n) / (1 − (tr H + 2) / n)`` (Hurvich, Simonoff & Tsai 1998)."""

    name = "aicc"

    def penalty(self, share: Tensor, one: float) -> Tensor:
        """Return the exponential of the second term; infinite where its denominator is not > 0."""
        left = 1 - share - 2 * one
        return torch.where(left > 0, torch.exp((1 + share) / left.clamp_min(1e-3)), torch.inf)

    def reported(self, loss: float, task: LeaveOneOut) -> float:
        """Return the criterion, σ² in squared units of y for one output."""
        return math.log(loss * task.unit) if loss > 0 else -math.inf


CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion for criterion in (SquaredError(), AbsoluteError(), AICc(), GCV())
}
