"""Rows kept out of training, to judge it by.

Of two metrics the simpler one is kept unless the other is better by more than one standard error.
The errors are paired: with ``D_i`` the simpler metric's squared error of validation row i less the
other's, and weights w normalised to ``Σ w_i = 1``, the richer metric is taken only where the mean
``Σ w_i D_i`` exceeds its standard error ``sqrt(Σ w_i² (D_i − D̄)²)``.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_tensor
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.smoothing.smoother import smooth
from sknw.sums.engine import full_precision
from sknw.support.random import OwnDraws


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


@dataclass(frozen=True, eq=False)
class Embedding:
    """A trained module's map of rows to points at bandwidth 1, and the problem there.

    Of codes of categories the module gives what a mismatch costs, not points.

    Parameters
    ----------
    module : torch.nn.Module
        The module, of rows in units of the bandwidth.
    bandwidth : Tensor of shape (n_columns,)
        The starting scale.
    task : LeaveOneOut
        The problem with the kernel of the points.
    factors : Tensor of shape (n_columns,) or None
        What the points are rows multiplied by, where there are codes.
    """

    module: torch.nn.Module
    bandwidth: Tensor
    task: LeaveOneOut
    factors: Tensor | None

    @classmethod
    def of(cls, module: torch.nn.Module, task: LeaveOneOut, bandwidth: np.ndarray) -> "Embedding":
        """Ask the module for the scales of codes."""
        bandwidth = to_tensor(bandwidth, dtype=task.rows.dtype, device=task.rows.device)
        if task.kernel.codes is None:
            return cls(module, bandwidth, task, None)
        kernel, factors = task.kernel.scaled_by(module(1 / bandwidth[None])[0].detach())
        return cls(module, bandwidth, replace(task, kernel=kernel), factors)

    def points(self, rows: Tensor) -> Tensor:
        """Return the points (m, q) of rows (m, n_columns), in the precision of the task."""
        rows = rows.to(self.bandwidth.dtype)
        if self.factors is None:
            return in_blocks(self.module, rows / self.bandwidth)
        return rows * self.factors


def in_blocks(module: torch.nn.Module, rows: Tensor, size: int = 8192) -> Tensor:
    """Return the module's embedding of rows, some at a time so that memory stays small."""
    with full_precision(rows), OwnDraws(0):
        return torch.cat([module(block) for block in rows.split(size)])
