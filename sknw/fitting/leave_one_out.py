"""The leave-one-out problem: the loss that bandwidth selection and metric training both minimise.

Each observation is predicted from all the others; the loss is the weighted mean of the squared
errors over the outputs' variances, averaged over outputs, so units do not matter. For one output,
`unit` turns it back into squared units of y. Observations with equal X share their sums
(`sknw.smoothing.cells`): the keys of the sums are the cells.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sknw.data.arrays import accumulator_dtype, least_weight, to_tensor, weights_tensor
from sknw.data.observations import Observations
from sknw.fitting.criteria import Targets
from sknw.kernels import Kernel
from sknw.smoothing.cells import Cells, OwnCells
from sknw.smoothing.method import Method
from sknw.smoothing.smooth import smooth
from sknw.smoothing.smoother import value_columns
from sknw.sums import Problem, choose, has_own_threads
from sknw.support import tuning
from sknw.support.progress import SILENT, Progress
from sknw.support.threads import torch_threads


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Rows, values and weights on a device, and the loss of an embedding of the rows.

    Parameters
    ----------
    rows : Tensor of shape (n, n_columns)
        Centred observations in the units of X.
    values : Tensor of shape (n, k)
        Scaled targets.
    weights : Tensor of shape (n,)
        Weights of the observations.
    cells : Cells or None
        Which rows are equal; None: all are distinct.
    variance : Tensor of shape (k,)
        Weighted variance of each scaled output over all observations.
    unit : float
        Squared units of y in one unit of loss; 1 for several outputs.
    method : Method
        How to smooth.
    observations : Observations
        Where the rows come from.
    held_out : Tensor of shape (m,) or None, default=None
        Rows that are predicted; None: all. Their neighbours are always all other rows.
    progress : Progress, default=SILENT
        Whom to tell of stages, steps and evaluations.
    """

    rows: Tensor
    values: Tensor
    weights: Tensor
    cells: Cells | None
    variance: Tensor
    unit: float
    method: Method
    observations: Observations
    held_out: Tensor | None = None
    progress: Progress = SILENT

    @classmethod
    def of(
        cls,
        observations: Observations,
        method: Method,
        *,
        dtype: torch.dtype,
        device: str,
        progress: Progress = SILENT,
    ) -> "LeaveOneOut":
        """Put the observations on the device.

        Rows with an empty neighbourhood count with the error of the policy's value; where the
        policy has none (``"nan"``, ``"raise"``), with the error of the mean of the others.
        """
        if method.empty_neighborhood not in ("nearest", "mean"):
            method = replace(method, empty_neighborhood="mean")
        keys = to_tensor(observations.keys, dtype=dtype, device=device)
        values = to_tensor(observations.y, dtype=dtype, device=device)
        weights = weights_tensor(observations.weights, dtype=dtype, device=device)
        cells = None
        if not observations.are_distinct:
            labels = to_tensor(observations.cell, dtype=torch.int64, device=device)
            keys = keys[labels]
            cells = Cells.of(labels, value_columns(values[None], weights[None])[0])
        return cls(
            rows=keys,
            values=values,
            weights=weights,
            cells=cells,
            variance=to_tensor(observations.target_scale.variance, dtype=dtype, device=device),
            unit=observations.target_scale.variance_unit,
            method=method,
            observations=observations,
            progress=progress,
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.observations.features.n_features

    @cached_property
    def targets(self) -> Targets:
        """What the errors of the rows held out are measured by."""
        scale, weights = self.observations.target_scale, self.weights
        wide = accumulator_dtype(weights.device)
        held_out = self.held_out_weights.to(wide)
        deviation = to_tensor(scale.deviation, dtype=weights.dtype, device=weights.device)
        return Targets(
            shares=held_out / held_out.sum(),
            variance=self.variance,
            deviation=deviation,
            n_rows=len(self),
            effective_size=float(weights.sum().square() / weights.square().sum()),
            unit=self.unit,
            absolute_unit=scale.deviation_unit,
        )

    def predictions(self, embedded: Tensor) -> Tensor:
        """Return the leave-one-out predictions of the rows held out, (m, k), at embedded rows."""
        keys, values, weights = self._keys(embedded)
        queried, own = self.queried
        algorithm = self.able_algorithm(embedded, needs_grad=torch.is_grad_enabled())
        return smooth(
            replace(self.method, algorithm=algorithm),
            None if queried is None else keys[queried][None],
            keys[None],
            values[None],
            weights[None],
            exclude=queried,
            own=own,
        )[0]

    def _keys(self, embedded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the keys of the sums, of embedded rows (n, q), their values and their weights."""
        if self.cells is None:
            return embedded, self.values, self.weights
        totals = self.cells.totals
        return embedded[self.cells.first], (totals[1:] / totals[0]).mT, totals[0]

    @cached_property
    def queried(self) -> tuple[Tensor | None, OwnCells | None]:
        """Which keys are queried (None: all), and what the rows held out have in their cells."""
        cells, held_out = self.cells, self.held_out
        if cells is None:
            return held_out, None
        if held_out is None:
            return None, OwnCells(cells.of_row, cells.others)
        queried, of_row = torch.unique(cells.of_row[held_out], return_inverse=True)
        return queried, OwnCells(of_row, cells.others[:, held_out])

    @property
    def held_out_weights(self) -> Tensor:
        """Weights of the rows held out, (m,)."""
        return self.weights if self.held_out is None else self.weights[self.held_out]

    def loss(self, embedded: Tensor) -> Tensor:
        """Return the loss of embedded rows (n, q), a scalar in units of variance."""
        return self.loss_of(self.predictions(embedded))

    def loss_of(self, means: Tensor) -> Tensor:
        """Return the loss of means (m, k) of the rows held out, in units of variance."""
        squares, weights = self.errors(means).square(), self.held_out_weights
        of_outputs = weights.to(squares.dtype) @ squares / weights.sum()  # (m) @ (m, k) -> (k)
        return (of_outputs / self.variance).mean()

    @cached_property
    def columns(self) -> Tensor:
        """Weights of the rows, and weights times values, (1 + k, n)."""
        return value_columns(self.values[None], self.weights[None])[0]

    def errors(self, means: Tensor) -> Tensor:
        """Return the errors (m, k) of means of the rows held out."""
        return means - (self.values if self.held_out is None else self.values[self.held_out])

    def able_algorithm(
        self, embedded: Tensor, scales: Tensor | None = None, *, needs_grad: bool = False
    ) -> str:
        """Return the algorithm, or ``"auto"`` where it cannot do the bandwidth on trial."""
        if self.method.algorithm in ("auto", "dense"):
            return self.method.algorithm
        try:
            self.algorithm_at(embedded.detach(), scales, needs_grad=needs_grad)
        except ValueError:
            return "auto"
        return self.method.algorithm

    def algorithm_at(self, embedded: Tensor, scales: Tensor | None, *, needs_grad: bool) -> str:
        """Return the name of the algorithm of embedded rows (n, q), at scales (q,) if given."""
        kernel, (keys, *_), (queried, _) = self.method.kernel, self._keys(embedded), self.queried
        if scales is not None:
            kernel, factors = kernel.scaled_by(scales.detach())
            keys = keys * factors.to(keys.dtype)
        return choose(
            self.method.algorithm,
            Problem.of(
                kernel,
                None if queried is None else keys[queried][None],
                keys[None],
                n_columns=1 + self.values.shape[1],
                leave_one_out=True,
                needs_grad=needs_grad,
                rtol=self.method.rtol,
                order=2 * self.method.degree,
            ),
        ).name

    def take(self, index: Tensor) -> "LeaveOneOut":
        """Return the problem of these rows alone."""
        rows, values, weights = self.rows[index], self.values[index], self.weights[index]
        cells = None if self.cells is None else self.cells.take(index)
        return replace(self, rows=rows, values=values, weights=weights, cells=cells)

    def single(self) -> "LeaveOneOut":
        """Return the problem in float32, its sums to no more digits than that needs."""
        tensors = (self.rows, self.values, self.weights, self.variance)
        rows, values, weights, variance = (tensor.float() for tensor in tensors)
        weights = weights.clamp_min(least_weight(torch.float32))
        rtol = max(self.method.rtol, tuning.RTOL_OF_FLOAT32_TRAINING)
        return replace(
            self,
            rows=rows,
            values=values,
            weights=weights,
            cells=None if self.cells is None else self.cells.single(),
            variance=variance,
            method=replace(self.method, rtol=rtol),
        )


def with_kernel(task: LeaveOneOut, kernel: Kernel) -> LeaveOneOut:
    """Return the same problem under another kernel."""
    return replace(task, method=replace(task.method, kernel=kernel))


def threads_of(task: LeaveOneOut) -> AbstractContextManager:
    """Return a context in which torch leaves the cores to the sums, if those are most of it."""
    rows = task.rows
    small = len(rows) <= tuning.ROWS_OF_ONE_THREAD
    if small and has_own_threads(task.method.kernel, rows.dtype, rows.device, len(rows) ** 2):
        return torch_threads(1)
    return nullcontext()
