"""Rows kept out of training, to judge it by.

Of two metrics the simpler one is kept unless the other is better by more than one standard error.
The errors are paired: with ``D_i`` the simpler metric's squared error of validation row i less the
other's, and weights w normalised to ``Σ w_i = 1``, the richer metric is taken only where the mean
``Σ w_i D_i`` exceeds its standard error ``sqrt(Σ w_i² (D_i − D̄)²)``.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.subsets import among, evenly_spaced
from sknw.smoothing.smooth import smooth


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
        return Validation(among(self.rows, evenly_spaced(self.rows, size), size))

    def errors(self, queries: Tensor, keys: Tensor, task: LeaveOneOut) -> Tensor:
        """Return squared errors (m,) over the variances, averaged over outputs.

        `queries` (m, q) and `keys` (n, q) are the rows' and the task's embedding.
        """
        with torch.no_grad():
            algorithm = "dense" if task.method.algorithm == "dense" else "auto"
            predictions = smooth(
                replace(task.method, algorithm=algorithm),
                queries[None],
                keys[None],
                task.values[None],
                task.weights[None],
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
