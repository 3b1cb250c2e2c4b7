"""An objective of a search: its logarithm, gradients, and what was seen on the way.

A search runs on the logarithm of the objective, so tolerances are relative and steps do not depend
on the units of y.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sknw.support.progress import SILENT, Progress

_FLOOR = 1e-30  # added to the objective, so that an exact fit has a logarithm
_UNUSABLE = 1e3  # stands for the logarithm where the objective is not finite

Penalty = Callable[[np.ndarray], tuple[float, np.ndarray]]


@dataclass(frozen=True)
class Objective:
    """A loss of coordinates x (p,), with an optional penalty.

    Parameters
    ----------
    losses : callable
        Several coordinates to their losses (b,).
    loss_and_gradient : callable
        Coordinates (p,) to the loss and its gradient (p,).
    penalty : callable or None, default=None
        Coordinates (p,) to what is added to the loss in what is minimised, not in what is reported,
        and its gradient (p,).
    memory : dict or None, default=None
        Filled with values, gradients and losses by coordinates, and asked first; None: keep none.
    progress : Progress, default=SILENT
        Whom to tell of evaluations, and of the stages of a descent.
    in_units : callable, default=float
        A loss to what is told.
    """

    losses: Callable[[Sequence[np.ndarray]], np.ndarray]
    loss_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray]]
    penalty: Penalty | None = None
    memory: dict[bytes, tuple[float, np.ndarray, float]] | None = None
    progress: Progress = SILENT
    in_units: Callable[[float], float] = float
    _seen: dict[bytes, float] = field(default_factory=dict)

    @property
    def n_evaluations(self) -> int:
        """Number of distinct coordinates at which the loss was computed."""
        return len(self._seen)

    @property
    def path(self) -> tuple[list[np.ndarray], list[float]]:
        """The coordinates at which the loss was computed, and the losses, in their order."""
        return [np.frombuffer(x) for x in self._seen], list(self._seen.values())

    def lowest(self) -> tuple[np.ndarray, float, float]:
        """Return where the loss was lowest so far, the loss and the logarithm of the objective."""
        seen, loss = min(self._seen.items(), key=lambda seen: seen[1])
        x = np.frombuffer(seen)
        return x, loss, float(self._log_totals([x], np.array([loss]))[0])

    def reported(self, x: np.ndarray) -> float:
        """Return the loss at coordinates, without penalty."""
        if x.tobytes() not in self._seen:
            self.log_value(x)
        return self._seen[x.tobytes()]

    def log_value(self, x: np.ndarray) -> float:
        """Return the logarithm of the objective."""
        return float(self.log_values([x])[0])

    def log_values(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logarithms of the objective (b,) at several coordinates."""
        if not len(points):
            return np.empty(0)
        values = np.asarray(self.losses(points), dtype=np.float64)
        for point, loss in zip(points, values.tolist(), strict=True):
            self._note(point, loss)
        return self._log_totals(points, values)

    def _log_totals(self, points: Sequence[np.ndarray], losses: np.ndarray) -> np.ndarray:
        """Return the logarithms of the objective (b,) at coordinates whose losses are known."""
        if self.penalty is not None:
            losses = losses + [self.penalty(point)[0] for point in points]
        with np.errstate(invalid="ignore"):
            values = np.log(losses + _FLOOR)
        return np.where(np.isfinite(values), values, _UNUSABLE)

    def log_value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the logarithm of the objective and its gradient (p,)."""
        if self.memory is None:
            return self._log_value_and_gradient(x)
        key = x.tobytes()
        if key not in self.memory:
            value, gradient = self._log_value_and_gradient(x)
            self.memory[key] = value, gradient, self._seen[key]
        value, gradient, self._seen[key] = self.memory[key]
        return value, gradient.copy()

    def _log_value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        total, gradient = self.loss_and_gradient(x)
        self._note(x, total)
        if self.penalty is not None:
            penalty, of_penalty = self.penalty(x)
            total, gradient = total + penalty, gradient + of_penalty
        with np.errstate(invalid="ignore"):
            value, gradient = float(np.log(total + _FLOOR)), gradient / (total + _FLOOR)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return _UNUSABLE, np.zeros_like(x)
        return value, gradient

    def _note(self, x: np.ndarray, loss: float) -> None:
        self._seen[x.tobytes()] = loss
        self.progress.evaluated(self.in_units(loss))
