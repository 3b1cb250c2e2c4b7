"""A matrix inside the softmax: combinations of the features, and as many of them as wanted."""

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy
from sknw.metrics.metric import Metric, numeric
from sknw.metrics.scales import DiagonalMetric
from sknw.support import tuning


class Matrix(torch.nn.Module):
    """``z = W u``."""

    def __init__(self, w: Tensor):
        super().__init__()
        self.w = torch.nn.Parameter(w)

    def forward(self, u: Tensor) -> Tensor:
        """Map the rows of u, (n, d) @ (d, q) -> (n, q)."""
        return u @ self.w.to(u.dtype).mT


class FullMetric(Metric):
    """A learned matrix W: the Mahalanobis distance ``(x − x')ᵀ WᵀW (x − x')`` (MLKR)."""

    simpler = DiagonalMetric
    most_rows_as_start = 4000

    def components(self, n_columns: int, n_components: int | None) -> int:
        """Return the rank: by default one component per column.

        Raises
        ------
        ValueError
            If there are more components than columns.
        """
        if n_components is None:
            return n_columns
        if n_components > n_columns:
            raise ValueError(
                f"n_components must be at most the number of features, {n_columns}, for "
                f"FullMetric; got {n_components}."
            )
        return n_components

    def build(self, n_columns: int, n_components: int) -> Matrix:
        """Return the first rows of the unit matrix, in float64."""
        return Matrix(torch.eye(n_components, n_columns, dtype=torch.float64, device="cpu"))

    def embed_matrix(self, module: Matrix, simpler: Tensor) -> None:
        """Take the first rows of the simpler metric's matrix."""
        with torch.no_grad():
            module.w.copy_(simpler[: len(module.w)])

    def rescale(self, module: Matrix, factor: float) -> None:
        """Multiply W."""
        with torch.no_grad():
            module.w.mul_(factor)

    def matrix(self, module: Matrix, n_columns: int) -> Tensor:
        """Return W."""
        return module.w.detach()

    def magnitudes(self, module: Matrix, spread: np.ndarray) -> np.ndarray:
        """Return, for each entry of W, the weight that its column has now."""
        w = to_numpy(module.w)
        columns = np.maximum(np.abs(w).max(axis=0), tuning.LEAST_INFLUENCE / spread)
        return np.broadcast_to(columns, w.shape).reshape(-1).copy()

    def describe(self, module: Matrix) -> np.ndarray:
        """Return W, an array of shape (n_components, n_features)."""
        return to_numpy(module.w).copy()

    def initial(self, w_init, n_columns: int, n_components: int) -> np.ndarray:
        """Return a starting W from a number, a diagonal (n_features,) or a whole matrix.

        Raises
        ------
        ValueError
            If w_init has the wrong shape, is not finite, or is zero (its gradient vanishes).
        """
        values = numeric(w_init)
        if not (np.isfinite(values).all() and values.any()):
            raise ValueError(f"w_init must be finite and not zero; got {w_init}.")
        if values.shape == (n_components, n_columns):
            return values.reshape(-1).copy()
        if values.shape not in ((), (n_columns,)):
            raise ValueError(
                f"w_init must be a number or an array of shape ({n_columns},) or ({n_components}, "
                f"{n_columns}), the shape of W; got shape {values.shape}."
            )
        diagonal = np.diag(np.broadcast_to(values, (n_columns,)))
        return diagonal[:n_components].reshape(-1).copy()


METRICS: dict[str, type[Metric]] = {"full": FullMetric}
