"""An objective of a search: its logarithm, gradients, and what was seen on the way.

A search runs on the logarithm of the objective, so tolerances are relative and steps do not depend
on the units of y.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.support.progress import SILENT, Progress

_FLOOR = 1e-30  # loss of an exact fit, in units of variance
_UNUSABLE = 1e3  # log objective where it is not finite


@dataclass(frozen=True)
class Objective:
    """A loss of parameters (p,), with an optional penalty.

    Parameters
    ----------
    loss : callable
        Parameters (p,) to a scalar tensor.
    penalty : callable or None, default=None
        Added to the loss in what is minimised, not in what is reported.
    device : torch.device or str, default="cpu"
        Where the loss is computed.
    losses : callable or None, default=None
        Several parameters (b, p) to their losses (b,), without gradients; None: one by one.
    slope : callable or None, default=None
        Parameters (p,) to the loss and its gradient as arrays, or None where it has no short way
        to them; None: by torch.
    memory : dict or None, default=None
        Filled with values, gradients and losses by parameters, and asked first; None: keep none.
    progress : Progress, default=SILENT
        Whom to tell of evaluations, and of the stages of a descent.
    in_units : callable, default=float
        A loss to what is told.
    """

    loss: Callable[[Tensor], Tensor]
    penalty: Callable[[Tensor], Tensor] | None = None
    device: torch.device | str = "cpu"
    losses: Callable[[Tensor], Tensor] | None = None
    slope: Callable[[np.ndarray], tuple[float, np.ndarray] | None] | None = None
    memory: dict[bytes, tuple[float, np.ndarray, float]] | None = None
    progress: Progress = SILENT
    in_units: Callable[[float], float] = float
    _seen: dict[bytes, float] = field(default_factory=dict)

    def _note(self, x: np.ndarray, loss: float) -> None:
        self._seen[x.tobytes()] = loss
        self.progress.evaluated(self.in_units(loss))

    @property
    def n_evaluations(self) -> int:
        """Number of distinct parameters at which the loss was computed."""
        return len(self._seen)

    @property
    def path(self) -> tuple[list[np.ndarray], list[float]]:
        """The parameters at which the loss was computed, and the losses, in their order."""
        return [np.frombuffer(x) for x in self._seen], list(self._seen.values())

    def lowest(self) -> tuple[np.ndarray, float]:
        """Return the parameters of the lowest loss seen so far, and that loss."""
        x, loss = min(self._seen.items(), key=lambda seen: seen[1])
        return np.frombuffer(x), loss

    def _total(self, x: np.ndarray, requires_grad: bool) -> tuple[Tensor, Tensor]:
        parameters = to_tensor(x, dtype=torch.float64, device=self.device).clone()
        parameters.requires_grad_(requires_grad)
        loss = self.loss(parameters)
        total = loss if self.penalty is None else loss + self.penalty(parameters)
        self._note(x, loss.item())
        return parameters, total

    def reported(self, x: np.ndarray) -> float:
        """Return the loss at parameters, without penalty."""
        if x.tobytes() not in self._seen:
            self.log_value(x)
        return self._seen[x.tobytes()]

    def log_value(self, x: np.ndarray) -> float:
        """Return the logarithm of the objective."""
        with torch.no_grad():
            _, total = self._total(x, requires_grad=False)
        return _finite(float(np.log(total.item() + _FLOOR)))

    def log_values(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logarithms of the objective (b,) at several parameters."""
        if self.losses is None or self.penalty is not None or not len(points):
            return np.array([self.log_value(point) for point in points])
        parameters = to_tensor(np.array(points), dtype=torch.float64, device=self.device)
        losses = to_numpy(self.losses(parameters)).astype(np.float64)
        for point, loss in zip(points, losses.tolist(), strict=True):
            self._note(point, loss)
        return np.array([_finite(float(np.log(loss + _FLOOR))) for loss in losses])

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
        known = None if self.slope is None or self.penalty is not None else self.slope(x)
        value, gradient = self._by_torch(x) if known is None else self._logarithm(x, *known)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return _UNUSABLE, np.zeros_like(x)
        return value, gradient

    def _logarithm(
        self, x: np.ndarray, loss: float, gradient: np.ndarray
    ) -> tuple[float, np.ndarray]:
        self._note(x, loss)
        return float(np.log(loss + _FLOOR)), gradient / (loss + _FLOOR)

    def _by_torch(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.inference_mode(False), torch.enable_grad():
            parameters, total = self._total(x, requires_grad=True)
            log_total = torch.log(total + _FLOOR)
            (gradient,) = torch.autograd.grad(log_total, parameters)
        return log_total.item(), to_numpy(gradient)


def _finite(value: float) -> float:
    return value if np.isfinite(value) else _UNUSABLE
