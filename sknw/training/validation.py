"""Rows kept out of training, to judge it by.

Of two metrics the simpler one is kept unless the other is better by more than one standard error.
The errors are paired: with ``D_i`` the simpler metric's squared error of validation row i less the
other's, and weights w normalised to ``Σ w_i = 1``, the richer metric is taken only where the mean
``Σ w_i D_i`` exceeds its standard error ``sqrt(Σ w_i² (D_i − D̄)²)``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sknw._arrays import to_tensor
from sknw.leave_one_out import LeaveOneOut
from sknw.smoother import smooth
from sknw.sums.engine import full_precision


@dataclass(frozen=True, eq=False)
class Validation:
    """Rows that are predicted from the training rows.

    Parameters
    ----------
    rows : LeaveOneOut
        The rows, their values and their weights.
    """

    rows: LeaveOneOut

    def at_most(self, size: int) -> "Validation":
        """Return so many of the rows, evenly spaced."""
        if len(self.rows) <= size:
            return self
        index = np.linspace(0, len(self.rows) - 1, size).astype(int)
        keys = to_tensor(index, dtype=torch.int64, device=self.rows.rows.device)
        return Validation(self.rows.among(keys, size))

    def embedded(self, module: torch.nn.Module, task: LeaveOneOut, bandwidth: np.ndarray) -> Tensor:
        """Return the rows' embedding (m, q), in the precision of the task."""
        dtype, device = task.rows.dtype, task.rows.device
        bandwidth = to_tensor(bandwidth, dtype=dtype, device=device)
        return in_blocks(module, self.rows.rows.to(dtype) / bandwidth)

    def errors(self, queries: Tensor, keys: Tensor, task: LeaveOneOut) -> Tensor:
        """Return squared errors (m,) over the variances, averaged over outputs.

        `queries` (m, q) and `keys` (n, q) are the rows' and the task's embedding.
        """
        with torch.no_grad():
            predictions = smooth(
                task.kernel,
                queries[None],
                keys[None],
                task.values[None],
                task.weights[None],
                algorithm=task.algorithm if task.algorithm == "dense" else "auto",
                rtol=task.rtol,
                empty_neighborhood=task.empty_neighborhood,
            )[0]
            errors = predictions.double() - self.rows.values.double()
            return (errors.square() / task.variance.double()).mean(dim=1)

    @property
    def shares(self) -> Tensor:
        """Weights that sum to 1, (m,)."""
        weights = self.rows.weights.double()
        return weights / weights.sum()

    def mean(self, errors: Tensor) -> float:
        """Return the weighted mean of errors (m,)."""
        return (self.shares @ errors).item()

    def is_better(self, errors: Tensor, simpler: Tensor) -> bool:
        """Whether errors (m,) are lower than a simpler metric's by more than a standard error."""
        gain = simpler - errors
        mean = self.shares @ gain
        standard_error = (self.shares.square() @ (gain - mean).square()).sqrt()
        return bool(mean > standard_error)


def in_blocks(module: torch.nn.Module, rows: Tensor, size: int = 8192) -> Tensor:
    """Return the module's embedding of rows, some at a time so that memory stays small."""
    with full_precision(rows):
        return torch.cat([module(block) for block in rows.split(size)])
