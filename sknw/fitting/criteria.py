"""Criteria: what a search over widths minimises, each a function of errors and leverages.

A criterion looks at rows that are predicted from all others, or at rows that count themselves among
their own neighbours, with their leverage ``H_ii`` (the weight that a row has in its own estimate).
What a search minimises is positive and free of the units of y; what it reports is the criterion as
published.

Where a formula needs the number of rows it is Kish's, ``n = (Σw)²/Σw²`` over observations: plain n
without weights, and the same whatever their scale.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """What the errors of the rows that are predicted are measured by.

    Parameters
    ----------
    shares : Tensor of shape (m,)
        Each row's share of the weight of all of them.
    variance, deviation : Tensor of shape (k,)
        Weighted variance and mean absolute deviation of each output over all observations.
    n_rows : int
        Number of all observations.
    effective_size : float
        Kish's number of them.
    unit, absolute_unit : float
        Squared units of y in one unit of variance, and units of y in one of the deviation; 1 for
        several outputs.
    """

    shares: Tensor
    variance: Tensor
    deviation: Tensor
    n_rows: int
    effective_size: float
    unit: float
    absolute_unit: float


class Criterion(ABC):
    """A function of errors (..., m, k) and leverages (..., m); lower is better."""

    name: ClassVar[str]
    counts_itself: ClassVar[bool] = False  # whether a row is among its own neighbours
    has_kinks: ClassVar[bool] = False  # even where the kernel has none

    @abstractmethod
    def value(self, errors: Tensor, leverage: Tensor | None, targets: Targets) -> Tensor:
        """Return what is minimised (...), positive."""

    @abstractmethod
    def derivative(
        self, errors: Tensor, leverage: Tensor | None, targets: Targets
    ) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives of the value by the means (m, k) and by the leverages (m,)."""

    @abstractmethod
    def reported(self, value: float, targets: Targets) -> float:
        """Return the criterion as published, for what is minimised."""


class SquaredError(Criterion):
    """Weighted mean squared leave-one-out error (Härdle & Marron 1985)."""

    name = "loo"

    def value(self, errors: Tensor, leverage: Tensor | None, targets: Targets) -> Tensor:
        """Return the error in units of the variance of y."""
        return _weighted_mean(errors.square() / targets.variance, targets)

    def derivative(
        self, errors: Tensor, leverage: Tensor | None, targets: Targets
    ) -> tuple[Tensor, None]:
        """Return twice the errors, weighted."""
        return 2 * _weighted(errors / targets.variance, targets), None

    def reported(self, value: float, targets: Targets) -> float:
        """Return the error in squared units of y for one output."""
        return value * targets.unit


class AbsoluteError(Criterion):
    """Weighted mean absolute leave-one-out error, which remote values of y hardly move."""

    name = "loo_absolute"
    has_kinks = True

    def value(self, errors: Tensor, leverage: Tensor | None, targets: Targets) -> Tensor:
        """Return the error in units of the mean absolute deviation of y."""
        return _weighted_mean(errors.abs() / targets.deviation, targets)

    def derivative(
        self, errors: Tensor, leverage: Tensor | None, targets: Targets
    ) -> tuple[Tensor, None]:
        """Return the signs of the errors, weighted."""
        return _weighted(errors.sign() / targets.deviation, targets), None

    def reported(self, value: float, targets: Targets) -> float:
        """Return the error in units of y for one output."""
        return value * targets.absolute_unit


class _InSample(Criterion):
    """The variance of the errors times a penalty on the trace of the matrix that turns y into fits.

    Of a sample of the rows, the mean leverage times the number of rows estimates the trace.
    """

    counts_itself = True

    def value(self, errors: Tensor, leverage: Tensor | None, targets: Targets) -> Tensor:
        """Return the penalised variance of the errors, in units of the variance of y."""
        variance = _weighted_mean(errors.square() / targets.variance, targets)
        penalty, _ = self.penalty(_trace_share(leverage, targets), 1 / targets.effective_size)
        return variance * penalty

    def derivative(
        self, errors: Tensor, leverage: Tensor | None, targets: Targets
    ) -> tuple[Tensor, Tensor]:
        """Return the derivatives of both factors, each times the other."""
        variance = _weighted_mean(errors.square() / targets.variance, targets)
        share = _trace_share(leverage, targets)
        penalty, slope = self.penalty(share, 1 / targets.effective_size)
        by_means = 2 * _weighted(errors / targets.variance, targets) * penalty
        of_each = targets.n_rows / (targets.effective_size * leverage.shape[-1])
        return by_means, (variance * slope * of_each).expand_as(leverage)

    @abstractmethod
    def penalty(self, share: Tensor, one: float) -> tuple[Tensor, Tensor]:
        """Return the factor on the variance and its derivative by the share.

        For ``share = tr H / n`` and ``one = 1/n``.
        """


class GCV(_InSample):
    """Generalised cross-validation ``σ² / (1 − tr H / n)²`` (Craven & Wahba 1979)."""

    name = "gcv"

    def penalty(self, share: Tensor, one: float) -> tuple[Tensor, Tensor]:
        """Return ``1 / (1 − tr H / n)²`` and its derivative; infinite where nothing is left."""
        left = 1 - share
        value = torch.where(left > 0, left.square().reciprocal(), torch.inf)
        return value, 2 * value / left

    def reported(self, value: float, targets: Targets) -> float:
        """Return the criterion in squared units of y for one output."""
        return value * targets.unit


class AICc(_InSample):
    """``log σ² + (1 + tr H / n) / (1 − (tr H + 2) / n)`` (Hurvich, Simonoff & Tsai 1998)."""

    name = "aicc"

    def penalty(self, share: Tensor, one: float) -> tuple[Tensor, Tensor]:
        """Return the exponential of the second term; infinite where its denominator is not > 0."""
        left = 1 - share - 2 * one
        value = torch.where(left > 0, torch.exp((1 + share) / left.clamp_min(1e-3)), torch.inf)
        return value, value * (2 - 2 * one) / left.square()

    def reported(self, value: float, targets: Targets) -> float:
        """Return the criterion, σ² in squared units of y for one output."""
        return math.log(value * targets.unit) if value > 0 else -math.inf


def _weighted_mean(of_rows: Tensor, targets: Targets) -> Tensor:
    """Return the weighted mean (...) over the rows of (..., m, k), averaged over outputs."""
    return (targets.shares.to(of_rows.dtype) @ of_rows).mean(dim=-1)  # (m) @ (..., m, k)


def _weighted(of_rows: Tensor, targets: Targets) -> Tensor:
    """Return the terms of `_weighted_mean`, for rows (m, k)."""
    return targets.shares.to(of_rows.dtype)[:, None] * of_rows / of_rows.shape[-1]


def _trace_share(leverage: Tensor, targets: Targets) -> Tensor:
    """Return ``tr H / n`` (...), for leverages (..., m)."""
    return leverage.mean(dim=-1) * targets.n_rows / targets.effective_size


CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion for criterion in (SquaredError(), AbsoluteError(), AICc(), GCV())
}
