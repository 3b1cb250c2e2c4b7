"""The leave-one-out problem: the loss that bandwidth selection and metric training both minimise.

Each observation is predicted from all the others; the loss is the weighted mean of the squared
errors over the outputs' variances, averaged over outputs, so units do not matter. For one output,
`unit` turns it back into squared units of y. Observations with equal X share their sums
(`sknw.smoothing.cells`): the keys of the sums are the cells.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import accumulator_dtype, least_weight, to_tensor, weights_tensor
from sknw.data.observations import Observations
from sknw.fitting.criteria import Targets
from sknw.kernels import Kernel
from sknw.smoothing.cells import Cells, OwnCells
from sknw.smoothing.smoother import smooth, value_columns
from sknw.sums import Layout, Problem, choose, has_own_threads
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
    kernel, algorithm, rtol, empty_neighborhood
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
    kernel: Kernel
    algorithm: str
    rtol: float
    empty_neighborhood: str
    observations: Observations
    held_out: Tensor | None = None
    progress: Progress = SILENT

    @classmethod
    def of(
        cls,
        observations: Observations,
        kernel: Kernel,
        *,
        algorithm: str,
        rtol: float,
        empty_neighborhood: str,
        dtype: torch.dtype,
        device: str,
        progress: Progress = SILENT,
    ) -> "LeaveOneOut":
        """Put the observations on the device.

        Rows with an empty neighbourhood count with the error of the policy's value; where the
        policy has none (``"nan"``, ``"raise"``), with the error of the mean of the others.
        """
        single = observations.y.shape[1] == 1
        has_value = empty_neighborhood in ("nearest", "mean")
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
            variance=to_tensor(observations.y_variance, dtype=dtype, device=device),
            unit=float(observations.y_variance[0] * observations.y_scale[0] ** 2)
            if single
            else 1.0,
            kernel=kernel,
            algorithm=algorithm,
            rtol=rtol,
            empty_neighborhood=empty_neighborhood if has_value else "mean",
            observations=observations,
            progress=progress,
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.observations.n_features

    @property
    def n_columns(self) -> int:
        """Number of columns of the rows."""
        return self.rows.shape[1]

    @property
    def effective_size(self) -> float:
        """Kish's effective number of rows, ``(Σw)²/Σw²``."""
        return float(self.weights.sum().square() / self.weights.square().sum())

    @cached_property
    def targets(self) -> Targets:
        """What the errors of the rows held out are measured by."""
        observations, like = self.observations, self.variance
        single = self.values.shape[1] == 1
        of_deviation = float(observations.y_deviation[0] * observations.y_scale[0])
        weights = self.held_out_weights.to(accumulator_dtype(like.device))
        return Targets(
            shares=weights / weights.sum(),
            variance=like,
            deviation=to_tensor(observations.y_deviation, dtype=like.dtype, device=like.device),
            n_rows=len(self),
            effective_size=self.effective_size,
            unit=self.unit,
            absolute_unit=of_deviation if single else 1.0,
        )

    def predictions(self, embedded: Tensor) -> Tensor:
        """Return the leave-one-out predictions of the rows held out, (m, k), at embedded rows."""
        keys, values, weights = self._keys(embedded)
        queried, own = self.queried
        return smooth(
            self.kernel,
            None if queried is None else keys[queried][None],
            keys[None],
            values[None],
            weights[None],
            exclude=queried,
            own=own,
            algorithm=self.able_algorithm(embedded, needs_grad=torch.is_grad_enabled()),
            rtol=self.rtol,
            empty_neighborhood=self.empty_neighborhood,
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
        errors = self.errors(self.predictions(embedded))
        return (self.mean(errors.square()) / self.variance).mean()

    @cached_property
    def columns(self) -> Tensor:
        """Weights of the rows, and weights times values, (1 + k, n)."""
        return value_columns(self.values[None], self.weights[None])[0]

    def errors(self, means: Tensor) -> Tensor:
        """Return the errors (m, k) of means of the rows held out."""
        return means - (self.values if self.held_out is None else self.values[self.held_out])

    def mean(self, of_rows: Tensor) -> Tensor:
        """Return the weighted mean (k,) over the rows held out of what each has (m, k)."""
        weights = self.held_out_weights.to(of_rows.dtype)
        return (weights @ of_rows) / weights.sum()  # (m) @ (m, k) -> (k)

    def able_algorithm(
        self, embedded: Tensor, scales: Tensor | None = None, *, needs_grad: bool = False
    ) -> str:
        """Return the algorithm, or ``"auto"`` where it cannot do the bandwidth on trial."""
        if self.algorithm in ("auto", "dense"):
            return self.algorithm
        try:
            self.algorithm_at(embedded.detach(), scales, needs_grad=needs_grad)
        except ValueError:
            return "auto"
        return self.algorithm

    def algorithm_at(self, embedded: Tensor, scales: Tensor | None, *, needs_grad: bool) -> str:
        """Return the name of the algorithm of embedded rows (n, q), at scales (q,) if given."""
        kernel, (keys, *_), (queried, _) = self.kernel, self._keys(embedded), self.queried
        if scales is not None:
            kernel, factors = kernel.scaled_by(scales.detach())
            keys = keys * factors.to(keys.dtype)
        return choose(
            self.algorithm,
            Problem.of(
                kernel,
                None if queried is None else keys[queried][None],
                keys[None],
                n_columns=1 + self.values.shape[1],
                leave_one_out=True,
                needs_grad=needs_grad,
                rtol=self.rtol,
            ),
        ).name

    def threads(self) -> AbstractContextManager:
        """Return a context in which torch leaves the cores to the sums, if those are most of it."""
        rows = self.rows
        small = len(rows) <= tuning.ROWS_OF_ONE_THREAD
        if small and has_own_threads(self.kernel, rows.dtype, rows.device, len(rows) ** 2):
            return torch_threads(1)
        return nullcontext()

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of each feature over all keys, (n_features,)."""
        return self.observations.spread

    def subsample(self, size: int, random_state: np.random.RandomState) -> "LeaveOneOut":
        """Return the problem of a random subset of the rows; itself if it is no larger."""
        return self if size >= len(self) else self.take(self._draw(size, random_state))

    def take(self, index: Tensor) -> "LeaveOneOut":
        """Return the problem of these rows alone."""
        rows, values, weights = self.rows[index], self.values[index], self.weights[index]
        cells = None if self.cells is None else self.cells.take(index)
        return replace(self, rows=rows, values=values, weights=weights, cells=cells)

    def among(self, rows: Tensor, n_held_out: int) -> "LeaveOneOut":
        """Return the problem of these rows (index), of which the first are held out."""
        all_held_out = n_held_out == len(rows)
        held_out = None if all_held_out else torch.arange(n_held_out, device=self.rows.device)
        return replace(self.take(rows), held_out=held_out)

    def single(self) -> "LeaveOneOut":
        """Return the problem in float32, its sums to no more digits than that needs."""
        tensors = (self.rows, self.values, self.weights, self.variance)
        rows, values, weights, variance = (tensor.float() for tensor in tensors)
        weights = weights.clamp_min(least_weight(torch.float32))
        return replace(
            self,
            rows=rows,
            values=values,
            weights=weights,
            cells=None if self.cells is None else self.cells.single(),
            variance=variance,
            rtol=max(self.rtol, tuning.RTOL_OF_FLOAT32_TRAINING),
        )

    def split(
        self, share: float, random_state: np.random.RandomState
    ) -> tuple["LeaveOneOut", "LeaveOneOut"]:
        """Return the problems of two parts of the rows, a random share of them in the second."""
        order = random_state.permutation(len(self))
        n_second = int(np.clip(round(share * len(self)), 1, len(self) - 1))
        parts = np.sort(order[n_second:]), np.sort(order[:n_second])
        first, second = (
            self.take(to_tensor(part, dtype=torch.int64, device=self.rows.device)) for part in parts
        )
        return first, second

    def hold_out(self, size: int, random_state: np.random.RandomState) -> "LeaveOneOut":
        """Return the problem with the loss of a random subset of the rows, all keys kept."""
        if size >= len(self):
            return self
        return self.hold_out_rows(self._draw(size, random_state))

    def hold_out_rows(self, rows: Tensor) -> "LeaveOneOut":
        """Return the problem with the loss of these rows (index), all keys kept."""
        return replace(self, held_out=rows)

    def in_compact_order(self) -> "LeaveOneOut":
        """Return the problem with near rows together, where many make that worthwhile."""
        if len(self) < tuning.FEWEST_KEYS_TO_SORT:
            return self
        spread = self.spread[self.observations.features.of_column]
        spread = to_tensor(spread, dtype=self.rows.dtype, device=self.rows.device)
        return self.take(
            Layout.of(self.rows / spread, tuning.KEYS_OF_A_SORTED_BLOCK, self.kernel.n_codes).order
        )

    def _draw(self, size: int, random_state: np.random.RandomState) -> Tensor:
        chosen = np.sort(random_state.choice(len(self), size, replace=False))
        return to_tensor(chosen, dtype=torch.int64, device=self.rows.device)
