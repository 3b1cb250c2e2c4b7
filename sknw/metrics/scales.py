"""Scales inside the softmax: one for all features, or one for each."""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from sknw._arrays import to_numpy, to_tensor
from sknw.metrics._base import Metric


class Scales(torch.nn.Module):
    """``z = w ∘ u`` with w a scalar or one value per feature."""

    def __init__(self, w: Tensor):
        super().__init__()
        self.w = torch.nn.Parameter(w)

    def set_scales(self, w: np.ndarray) -> None:
        """Take the scales (n_scales,)."""
        with torch.no_grad():
            self.w.copy_(
                to_tensor(w, dtype=self.w.dtype, device=self.w.device).reshape(self.w.shape)
            )

    def forward(self, u: Tensor) -> Tensor:
        """Scale the columns of u (n, d)."""
        return u * self.w.to(u.dtype)


class ScaleMetric(Metric):
    """A metric whose parameter is a scale; subclasses say how many."""

    @abstractmethod
    def n_scales(self, n_features: int) -> int | None:
        """Return how many scales there are; None for one common to all features."""

    def build(self, n_features: int) -> Scales:
        """Return unit scales in float64."""
        n_scales = self.n_scales(n_features)
        shape = () if n_scales is None else (n_scales,)
        return Scales(torch.ones(shape, dtype=torch.float64, device="cpu"))

    def describe(self, module: Scales) -> float | np.ndarray:
        """Return the scales: a float, or an array of shape (n_features,)."""
        w = to_numpy(module.w).copy()
        return float(w) if w.ndim == 0 else w

    def initial(self, w_init, n_features: int) -> np.ndarray:
        """Return starting scales as an array of shape (1,) or (n_features,), checked.

        Raises
        ------
        ValueError
            If w_init has the wrong shape, or a scale that is zero (its gradient vanishes) or not
            finite.
        """
        n_scales = self.n_scales(n_features) or 1
        values = np.asarray(w_init)
        if values.dtype.kind not in "iuf":
            raise ValueError(f"w_init must be numeric; got {w_init!r}.")
        if values.ndim and values.shape != (n_scales,):
            raise ValueError(
                f"w_init must be a number or an array of shape ({n_scales},), one value per "
                f"scale that {type(self).__name__} learns; got shape {values.shape}."
            )
        if not (np.isfinite(values).all() and (values != 0).all()):
            raise ValueError(f"w_init must be finite and not zero; got {w_init}.")
        return np.broadcast_to(values.astype(np.float64), (n_scales,)).copy()


class ScalarMetric(ScaleMetric):
    """One learned scale for all features: the textbook's parametric attention."""

    def n_scales(self, n_features: int) -> None:
        """One common scale."""
        return None


class DiagonalMetric(ScaleMetric):
    """One learned scale per feature."""

    def n_scales(self, n_features: int) -> int:
        """One scale per feature."""
        return n_features
