"""What a solver minimises, and what it returns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sknw._arrays import to_tensor
from sknw.leave_one_out import LeaveOneOut
from sknw.widths import Widths


@dataclass(frozen=True)
class TrainingProblem:
    """The penalised leave-one-out loss of a module's scales.

    What is minimised is ``loss + alpha ‖w‖²`` in squared units of y (several outputs: in units of
    their variances).

    Parameters
    ----------
    module : torch.nn.Module
        Embedding whose one parameter is ``w``.
    task : LeaveOneOut
        Keys, values and weights.
    bandwidth : ndarray of shape (n_features,)
        The starting scale: the module sees ``(x − centre)/bandwidth``.
    alpha : float
        Strength of the penalty.
    """

    module: torch.nn.Module
    task: LeaveOneOut
    bandwidth: np.ndarray
    alpha: float

    def embed(self, w: Tensor) -> Tensor:
        """Return the embedded keys for scales w."""
        rows = self.task.rows
        bandwidth = to_tensor(self.bandwidth, dtype=rows.dtype, device=rows.device)
        w = w.reshape(self.module.w.shape)
        return torch.func.functional_call(self.module, {"w": w}, (rows / bandwidth,))

    def loss(self, w: Tensor) -> Tensor:
        """Return the leave-one-out loss in units of variance."""
        return self.task.loss(self.embed(w))

    def penalty(self, w: Tensor) -> Tensor:
        """Return the penalty in the same units."""
        if not self.alpha:
            return w.new_zeros(())
        return self.alpha / self.task.unit * w.square().sum()

    @property
    def widths(self) -> Widths:
        """The range of ``1/|w|``: the bandwidths ``bandwidth/w`` worth trying."""
        widths, bandwidth = self.task.widths, self.bandwidth
        lower, upper = widths.lower / bandwidth, widths.upper / bandwidth
        spread = widths.spread / bandwidth
        if self.module.w.ndim:
            return Widths(lower, upper, spread)
        return Widths(lower.min(keepdims=True), upper.max(keepdims=True), spread.max(keepdims=True))

    def scan(self) -> list[np.ndarray]:
        """Return ``1/w`` (n_scales,) from sharp to broad, one common multiple of every spread."""
        widths = self.task.scan_bandwidths() / self.bandwidth
        if self.module.w.ndim == 0:
            widths = np.exp(np.log(widths).mean(axis=1, keepdims=True))
        return list(widths)

    def on(self, task: LeaveOneOut) -> "TrainingProblem":
        """Return the same problem on other rows."""
        return TrainingProblem(self.module, task, self.bandwidth, self.alpha)


@dataclass(frozen=True)
class Trained:
    """The end of a training.

    Parameters
    ----------
    w : ndarray of shape (n_scales,)
        Learned scales.
    loss_curve : list of float
        Entry t is the loss before step t + 1.
    loss : float
        Loss at `w`.
    objective : float
        Loss at `w` with penalty.
    n_iter : int
        Number of steps.
    converged : bool
        Whether `tol` ended the training.
    message : str
        Why it ended, where it did not converge.
    """

    w: np.ndarray
    loss_curve: list[float]
    loss: float
    objective: float
    n_iter: int
    converged: bool
    message: str = ""


@dataclass(frozen=True)
class Settings:
    """The estimator's parameters that steer a solver; their docstring is the estimator's."""

    max_iter: int
    tol: float
    learning_rate_init: float | None
    n_iter_no_change: int
    report: Callable[[int, float], None] | None = None


class Solver(ABC):
    """A way to minimise a training problem."""

    name: ClassVar[str]
    n_starts: ClassVar[int]  # when the user does not say

    @abstractmethod
    def train(
        self,
        problem: TrainingProblem,
        starts: Sequence[np.ndarray],
        settings: Settings,
        rehearsal: TrainingProblem | None,
    ) -> Trained:
        """Return the best end over all starts w (n_scales,).

        Parameters
        ----------
        problem : TrainingProblem
            What to minimise.
        starts : sequence of ndarray of shape (n_scales,)
            Where to start, the most promising first.
        settings : Settings
            When to stop, and how far to step.
        rehearsal : TrainingProblem or None
            The problem on fewer rows, on which starts may be compared; None: do not.
        """
