"""Scales inside the softmax: one for all features, or one for each."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.metrics.metric import Metric, numeric


class Scales(torch.nn.Module):
    """``z = w ∘ u`` with w a scalar or one value per feature.

    Parameters
    ----------
    w : Tensor of shape () or (n_features,)
        The scales.
    index : Tensor of shape (n_columns,)
        Which of several scales is each column's.
    """

    def __init__(self, w: Tensor, index: Tensor):
        super().__init__()
        self.w = torch.nn.Parameter(w)
        self.register_buffer("index", index, persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        """Scale the columns of u (n, d)."""
        w = self.w.to(u.dtype)
        return u * (w[self.index] if w.ndim else w)


class ScaleMetric(Metric):
    """A metric whose parameter is a scale; subclasses say how many."""

    is_scalar: ClassVar[bool]

    @abstractmethod
    def scale_of_column(self, n_columns: int) -> np.ndarray:
        """Return which scale each column has, (n_columns,)."""

    def n_scales(self, n_columns: int) -> int:
        """Return how many scales there are."""
        return int(self.scale_of_column(n_columns).max()) + 1

    def components(self, n_columns: int, n_components: int | None) -> int:
        """One component per column; a number asked for is not used."""
        return n_columns

    def build(self, n_columns: int, n_components: int) -> Scales:
        """Return unit scales in float64."""
        index = to_tensor(self.scale_of_column(n_columns), dtype=torch.int64, device="cpu")
        shape = () if self.is_scalar else (self.n_scales(n_columns),)
        return Scales(torch.ones(shape, dtype=torch.float64, device="cpu"), index)

    def embed_matrix(self, module: Scales, simpler: Tensor) -> None:
        """Take the diagonal of a diagonal matrix (n_columns, n_columns)."""
        with torch.no_grad():
            module.w[module.index.to(module.w.device)] = simpler.diagonal().to(module.w.dtype)

    def rescale(self, module: Scales, factor: float) -> None:
        """Multiply the scales."""
        with torch.no_grad():
            module.w.mul_(factor)

    def matrix(self, module: Scales, n_columns: int) -> Tensor:
        """Return the scales on the diagonal."""
        w = torch.atleast_1d(module.w.detach())
        return torch.diag(w[module.index.to(w.device)])

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
        n_scales = self.n_scales(n_columns)
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

    is_scalar = True

    def scale_of_column(self, n_columns: int) -> np.ndarray:
        """Return the same for all."""
        return np.zeros(n_columns, dtype=np.int64)


class DiagonalMetric(ScaleMetric):
    """One learned scale per feature."""

    simpler = ScalarMetric
    is_scalar = False

    def scale_of_column(self, n_columns: int) -> np.ndarray:
        """Return each column's feature."""
        return getattr(self, "feature_of_column_", np.arange(n_columns))


METRICS: dict[str, type[Metric]] = {"scalar": ScalarMetric, "diagonal": DiagonalMetric}
