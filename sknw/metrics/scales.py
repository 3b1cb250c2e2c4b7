"""Scales inside the softmax: one for all features, or one for each."""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from sknw._arrays import to_numpy
from sknw.metrics._base import Metric, numeric


class Scales(torch.nn.Module):
    """``z = w ∘ u`` with w a scalar or one value per feature."""

    def __init__(self, w: Tensor):
        super().__init__()
        self.w = torch.nn.Parameter(w)

    def forward(self, u: Tensor) -> Tensor:
        """Scale the columns of u (n, d)."""
        return u * self.w.to(u.dtype)


class ScaleMetric(Metric):
    """A metric whose parameter is a scale; subclasses say how many."""

    @abstractmethod
    def n_scales(self, n_columns: int) -> int | None:
        """Return how many scales there are; None for one common to all features."""

    def components(self, n_columns: int, n_components: int | None) -> int:
        """One component per column; a number asked for is not used."""
        return n_columns

    def build(self, n_columns: int, n_components: int) -> Scales:
        """Return unit scales in float64."""
        n_scales = self.n_scales(n_columns)
        shape = () if n_scales is None else (n_scales,)
        return Scales(torch.ones(shape, dtype=torch.float64, device="cpu"))

    def lift(self, module: Scales, simpler: Tensor) -> None:
        """Take the diagonal of a diagonal matrix (n_columns, n_columns)."""
        with torch.no_grad():
            module.w.copy_(simpler.diagonal())

    def rescale(self, module: Scales, factor: float) -> None:
        """Multiply the scales."""
        with torch.no_grad():
            module.w.mul_(factor)

    def column_scales(self, w: Tensor, n_columns: int) -> Tensor:
        """Return the scales, one for each column."""
        return w.reshape(-1).expand(n_columns)

    def matrix(self, module: Scales, n_columns: int) -> Tensor:
        """Return the scales on the diagonal."""
        return torch.diag(self.column_scales(module.w.detach(), n_columns))

    def describe(self, module: Scales) -> float | np.ndarray:
        """Return the scales: a float, or an array of shape (n_features,)."""
        w = to_numpy(module.w).copy()
        return float(w) if w.ndim == 0 else w

    def initial(self, w_init, n_columns: int, n_components: int) -> np.ndarray:
        """Return starting scales as an array of shape (1,) or (n_features,), checked.

        Raises
        ------
        ValueError
            If w_init has the wrong shape, or a scale that is zero (its gradient vanishes) or not
            finite.
        """
        n_scales = self.n_scales(n_columns) or 1
        values = numeric(w_init)
        if values.ndim and values.shape != (n_scales,):
            raise ValueError(
                f"w_init must be a number or an array of shape ({n_scales},), one value per "
                f"scale that {type(self).__name__} learns; got shape {values.shape}."
            )
        if not (np.isfinite(values).all() and (values != 0).all()):
            raise ValueError(f"w_init must be finite and not zero; got {w_init}.")
        return np.broadcast_to(values, (n_scales,)).copy()


class ScalarMetric(ScaleMetric):
    """One learned scale for all features: the textbook's parametric attention."""

    def n_scales(self, n_columns: int) -> None:
        """One common scale."""
        return None


class DiagonalMetric(ScaleMetric):
    """One learned scale per feature."""

    simpler = ScalarMetric

    def n_scales(self, n_columns: int) -> int:
        """One scale per feature."""
        return n_columns
