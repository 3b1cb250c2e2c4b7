"""What a solver minimises, and what it returns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.fitting.criteria import CRITERIA
from sknw.fitting.leave_one_out import LeaveOneOut, with_kernel
from sknw.fitting.objective import Objective
from sknw.fitting.parametrization import Widths
from sknw.fitting.scale_objective import (
    CriterionOfScales,
    criterion_of_scales,
    scale_objective,
)
from sknw.metrics.embedding import Embedding
from sknw.metrics.learned_module import LearnedModule
from sknw.sums.engine import full_precision
from sknw.support.random import OwnDraws
from sknw.training.coordinates import Coordinates, PlainCoordinates, ScaleCoordinates
from sknw.training.validation import Validation


@dataclass(frozen=True, eq=False)
class TrainingProblem:
    """The penalised leave-one-out loss of a module's learned parameters, as one vector w (p,).

    What is minimised is ``loss + alpha ‖w‖²`` in squared units of y (several outputs: in units of
    their variances).

    Parameters
    ----------
    model : LearnedModule
        Embedding of the rows. The values of its learned parameters do not matter here.
    task : LeaveOneOut
        Keys, values and weights.
    bandwidth : ndarray of shape (n_columns,)
        The starting scale: the module sees ``(x − centre)/bandwidth``.
    alpha : float
        Strength of the penalty.
    validation : Validation or None, default=None
        Rows that are not in the task, to judge by.
    draws : OwnDraws or None, default=None
        What dropout and the like draw from; None: the same draws in every evaluation.
    """

    model: LearnedModule
    task: LeaveOneOut
    bandwidth: np.ndarray
    alpha: float
    validation: Validation | None = None
    draws: OwnDraws | None = None

    @cached_property
    def scaled(self) -> Tensor:
        """The keys in units of the bandwidth, (n, n_columns); for metrics that are no scales."""
        return self.task.rows / self.unit

    @cached_property
    def unit(self) -> Tensor:
        """The bandwidth as a tensor like the keys, (n_columns,)."""
        rows = self.task.rows
        return to_tensor(self.bandwidth, dtype=rows.dtype, device=rows.device)

    def embed(self, w: Tensor) -> Tensor:
        """Return the embedded keys for parameters w."""
        with full_precision(self.scaled), self.draws or OwnDraws(0):
            return torch.func.functional_call(
                self.model.module, self.model.named(w), (self.scaled,)
            )

    def loss(self, w: np.ndarray) -> float:
        """Return the leave-one-out loss in units of variance, at parameters w (p,)."""
        scales = self._column_scales(w)
        if scales is not None:
            return float(self._of_scales.values(scales[None])[0])
        with torch.no_grad():
            return self.task.loss(self.embed(self._tensor(w))).item()

    def loss_and_gradient(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the leave-one-out loss in units of variance and its gradient (p,)."""
        scales = self._column_scales(w)
        if scales is not None:
            loss, by_log_scales = self._of_scales.value_and_gradient(scales)
            index = self.model.metric.scale_of_column(self.task.rows.shape[1])
            by_log = np.bincount(index, by_log_scales, minlength=len(w))
            # the loss is a function of the squares of scales, so it is flat at zero
            return loss, np.divide(by_log, w, out=np.zeros_like(by_log), where=w != 0)
        with torch.inference_mode(False), torch.enable_grad():
            at = self._tensor(w).clone().requires_grad_()
            loss = self.task.loss(self.embed(at))
            (gradient,) = torch.autograd.grad(loss, at)
        return loss.item(), to_numpy(gradient)

    def _tensor(self, w: np.ndarray) -> Tensor:
        return to_tensor(w, dtype=torch.float64, device=self.task.rows.device)

    @cached_property
    def _of_scales(self) -> CriterionOfScales:
        return criterion_of_scales(self.task, CRITERIA["loo"])

    def total(self, w: np.ndarray, loss: float) -> float:
        """Return the objective, in units of variance, at parameters w of a known loss."""
        return loss / self.task.unit + self.penalty(w)[0]

    def final_loss(self, w: np.ndarray) -> float:
        """Return the loss at parameters w (p,) in squared units of y, as predictions have it."""
        if len(self.task) < 2:
            return np.nan
        self.model.module.eval()
        return self.loss(w) * self.task.unit

    def validation_errors(self, w: np.ndarray) -> Tensor:
        """Return the validation rows' squared errors (m,) in units of variance."""
        task, kernel = self.task, self.task.method.kernel
        embedding = Embedding.of(self.model.at(w).eval(), kernel, self.bandwidth, like=task.rows)
        queries, keys = (embedding.points(rows) for rows in (self.validation.rows.rows, task.rows))
        return self.validation.errors(queries, keys, with_kernel(task, embedding.kernel))

    def penalty(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the penalty in the same units, and its gradient (p,)."""
        if not self.alpha:
            return 0.0, np.zeros_like(w)
        strength = self.alpha / self.task.unit
        with np.errstate(over="ignore"):  # of a descent that diverges
            return strength * float(np.square(w).sum()), 2 * strength * w

    def objective(self, coordinates: Coordinates, memory: dict | None = None) -> Objective:
        """Return loss and penalty as functions of coordinates."""

        def penalty(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self.penalty(coordinates.values(x))
            return value, coordinates.by_coordinates(x, gradient)

        of_alpha = penalty if self.alpha else None
        if isinstance(coordinates, ScaleCoordinates):
            return scale_objective(
                self.task, CRITERIA["loo"], coordinates, penalty=of_alpha, memory=memory
            )

        def loss_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
            loss, gradient = self.loss_and_gradient(coordinates.values(x))
            return loss, coordinates.by_coordinates(x, gradient)

        return Objective(
            lambda points: np.array([self.loss(coordinates.values(x)) for x in points]),
            loss_and_gradient,
            of_alpha,
            memory,
            self.task.progress,
            lambda loss: loss * self.task.unit,
        )

    def _column_scales(self, w: np.ndarray) -> np.ndarray | None:
        """Return the scales (n_columns,) of the rows that parameters (p,) stand for.

        None if they are no scales.
        """
        index = self.model.metric.scale_of_column(self.task.rows.shape[1])
        return None if index is None else np.atleast_1d(w)[index] / self.bandwidth

    @property
    def is_scale(self) -> bool:
        """Whether the parameters are scales of the columns."""
        return self.model.metric.scale_of_column(self.task.rows.shape[1]) is not None

    def coordinates(self, start: np.ndarray) -> Coordinates:
        """Return the coordinates in which to walk from a start (p,)."""
        features = self.task.observations.features
        if not self.is_scale:
            deviation = self.task.observations.extent.deviation[features.of_column]
            spread = deviation / self.bandwidth  # of the columns that the module sees
            return PlainCoordinates(self.model.metric.magnitudes(self.model.at(start), spread))
        shared = np.zeros(features.n_features, dtype=int) if len(start) == 1 else None
        of_feature = np.arange(features.n_features) if shared is None else shared
        return ScaleCoordinates(
            self.widths, of_feature, features.of_column, self.bandwidth, np.sign(start)
        )

    @cached_property
    def widths(self) -> Widths:
        """The range of ``1/|w|`` for scales: the bandwidths ``bandwidth/w`` worth trying."""
        ranges = Widths.of(self.task.observations, self.task.method.kernel)
        bandwidth = self.bandwidth[self.task.observations.features.first_columns]
        lower, upper, spread = (
            at / bandwidth for at in (ranges.lower, ranges.upper, ranges.spread)
        )
        if len(self.model.values) == len(lower):
            return Widths(lower, upper, spread)
        return Widths(lower.min(keepdims=True), upper.max(keepdims=True), spread.max(keepdims=True))

    def on(self, task: LeaveOneOut) -> "TrainingProblem":
        """Return the same problem on other rows."""
        return replace(self, task=task)

    def single(self) -> "TrainingProblem":
        """Return a copy of the problem in float32."""
        return replace(self, model=self.model.single(), task=self.task.single())


@dataclass(frozen=True)
class Result:
    """The end of a training.

    Parameters
    ----------
    w : ndarray of shape (p,)
        Learned parameters.
    loss_curve : list of float
        Entry t is the loss before step t + 1.
    loss : float or None
        Loss at `w`; None: not computed.
    n_iter : int
        Number of steps.
    converged : bool
        Whether `tol` ended the training.
    message : str
        Why it ended, where it did not converge.
    validation_curve : list of float
        Entry t is the validation loss after step t + 1.
    state : dict or None
        What the solver needs to go on.
    buffers : dict of str to ndarray
        The module's buffers at `w`, where training may have changed them.
    """

    w: np.ndarray
    loss_curve: list[float]
    loss: float | None
    n_iter: int
    converged: bool
    message: str = ""
    validation_curve: list[float] = field(default_factory=list)
    state: dict | None = None
    buffers: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """The estimator's parameters that steer a solver; their docstring is the estimator's.

    `on_step` gets the step's number, the loss before it and a function that returns the module
    after it; training ends where it returns true.
    """

    max_iter: int
    tol: float
    learning_rate_init: float | None
    n_iter_no_change: int
    batch_size: int | str = "auto"
    keeps_state: bool = False
    on_step: Callable[[int, float, Callable[[], torch.nn.Module]], bool | None] | None = None


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
        screened: TrainingProblem | None,
        random_state: np.random.RandomState,
    ) -> Result:
        """Return the best end over all starts w (p,).

        Parameters
        ----------
        problem : TrainingProblem
            What to minimise.
        starts : sequence of ndarray of shape (p,)
            Where to start, the most promising first.
        settings : Settings
            When to stop, and how far to step.
        screened : TrainingProblem or None
            The problem on a subsample, on which starts may be compared; None: do not.
        random_state : RandomState
            Draws what is random.
        """

    @abstractmethod
    def resume(self, problem: TrainingProblem, settings: Settings, state: dict) -> Result:
        """Go on from the state that an earlier training left, as if it had not stopped."""
