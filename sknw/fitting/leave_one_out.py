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

from sknw.data.arrays import least_weight, to_numpy, to_tensor, weights_tensor
from sknw.data.observations import Observations
from sknw.fitting.parametrization import Widths
from sknw.fitting.scale_loss import ScaleLoss
from sknw.kernels import KERNELS, Kernel
from sknw.smoothing.cells import Cells, OwnCells
from sknw.smoothing.smoother import smooth, smooth_with_own, value_columns
from sknw.sums import Layout, choose_for, has_own_threads
from sknw.support import tuning
from sknw.support.progress import SILENT, Progress
from sknw.support.threads import torch_threads

# A bandwidth is searched between a fraction of the smallest gap and many times the range, where
# the feature's influence on any weight is below rounding of the criterion.
_GAP_FRACTION = 0.1
REHEARSAL_SIZE = 400  # rows of the subsample on which starts are compared
_SPREAD_FRACTION = 1e-7
_EXTENT_MULTIPLE = 1e4
_SCAN_RANGE = (0.01, 10.0)  # multiples of the spread
_SCAN_POINTS = 16
_POLISH_PAIRS = 5e8
_SCAN_POINTS_ONE_PARAMETER = 60
_RTOL_OF_SINGLE = 1e-4
_PAIRS_AT_ONCE = 1e7  # of several scales; more take so long that nothing is gained
_ROWS_OF_ONE_THREAD = 20_000  # more, and torch's own work on the rows wants several
_SORTED_TO = 64  # keys of a compact block


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
    shared : ndarray of shape (n_features,) or None, default=None
        Index of the parameter that is each feature's width; None: every feature has its own.
    bounds : tuple of two ndarray of shape (n_features,) or None, default=None
        Smallest and largest width of each feature; None: what the data make worth trying.
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
    shared: np.ndarray | None = None
    bounds: tuple[np.ndarray, np.ndarray] | None = None
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
    def n_parameters(self) -> int:
        """Number of widths to find."""
        return self.n_features if self.shared is None else int(self.shared.max()) + 1

    @property
    def effective_size(self) -> float:
        """Kish's effective number of rows, ``(Σw)²/Σw²``."""
        return float(self.weights.sum().square() / self.weights.square().sum())

    def sharing(self, shared: np.ndarray) -> "LeaveOneOut":
        """Return the problem in which features share widths: `shared` has each one's parameter."""
        return replace(self, shared=shared)

    def within(self, lower: np.ndarray, upper: np.ndarray) -> "LeaveOneOut":
        """Return the problem with widths between bounds (n_features,) of the features."""
        return replace(self, bounds=(lower, upper))

    def with_gaussian(self) -> "LeaveOneOut":
        """Return the problem of a Gaussian, between bounds that smooth as much."""
        kernel = replace(KERNELS["gaussian"], codes=self.kernel.codes)
        bounds = self.bounds and tuple(bound / self.kernel.search_scale for bound in self.bounds)
        return replace(self, kernel=kernel, bounds=bounds)

    def of_features(self, of_parameters: np.ndarray) -> np.ndarray:
        """Return each feature's own of what parameters have."""
        return of_parameters if self.shared is None else of_parameters[self.shared]

    @property
    def members(self) -> list[np.ndarray]:
        """The features whose width each parameter is."""
        shared = self.of_features(np.arange(self.n_parameters))
        return [np.flatnonzero(shared == index) for index in range(self.n_parameters)]

    def column_scales(self, coordinates: Tensor) -> Tensor:
        """Return one over the width of each column (..., n_columns), at search coordinates."""
        scales = 1 / self.widths.at(coordinates)
        if self._parameter_of_column is None:
            return scales
        return scales[..., self._parameter_of_column]

    def by_coordinates(self, coordinates: np.ndarray, by_log_scales: np.ndarray) -> np.ndarray:
        """Return derivatives by search coordinates of what has these by log-scales of columns."""
        by_log = by_log_scales
        if self._parameter_of_column is not None:
            index = to_numpy(self._parameter_of_column)
            by_log = np.bincount(index, weights=by_log_scales, minlength=self.n_parameters)
        return -by_log * self.widths.slopes(coordinates)

    @cached_property
    def _parameter_of_column(self) -> Tensor | None:
        """Index of the width of each column; None where each has its own."""
        index = self.of_features(np.arange(self.n_parameters))[self.observations.features.of_column]
        if np.array_equal(index, np.arange(self.n_parameters)):
            return None
        return to_tensor(index, dtype=torch.int64, device=self.rows.device)

    @property
    def deviation(self) -> Tensor:
        """Mean absolute deviation of each scaled output over all keys, (k,)."""
        return to_tensor(
            self.observations.y_deviation, dtype=self.variance.dtype, device=self.variance.device
        )

    @property
    def absolute_unit(self) -> float:
        """Units of y in one unit of absolute error; 1 for several outputs."""
        if self.values.shape[1] > 1:
            return 1.0
        return float(self.observations.y_deviation[0] * self.observations.y_scale[0])

    def predictions(self, embedded: Tensor, scales: Tensor | None = None) -> Tensor:
        """Return the leave-one-out predictions of the rows held out, (m, k), at embedded rows."""
        keys, values, weights = self._keys(embedded)
        queried, own = self._queried
        return smooth(
            self.kernel,
            None if queried is None else keys[queried][None],
            keys[None],
            values[None],
            weights[None],
            scales=scales,
            exclude=queried,
            own=own,
            algorithm=self._able_algorithm(embedded, scales),
            rtol=self.rtol,
            empty_neighborhood=self.empty_neighborhood,
        )[0]

    def fitted(self, embedded: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means (m, k) of the rows held out with themselves among the neighbours.

        With them the leverage (m,): how much of each mean is the row's own value.
        """
        keys, values, weights = self._keys(embedded)
        queried, own = self._queried
        means, shares = smooth_with_own(
            self.kernel,
            None if queried is None else keys[queried],
            keys,
            values,
            weights,
            own=queried,
            scales=scales,
            algorithm=self._able_algorithm(embedded, scales),
            rtol=self.rtol,
        )
        if own is not None:
            means, shares = means[own.of_row], shares[own.of_row]
        return means, shares * self._held_out_weights.to(shares.dtype)

    def _keys(self, embedded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the keys of the sums, of embedded rows (n, q), their values and their weights."""
        if self.cells is None:
            return embedded, self.values, self.weights
        totals = self.cells.totals
        return embedded[self.cells.first], (totals[1:] / totals[0]).mT, totals[0]

    @cached_property
    def _queried(self) -> tuple[Tensor | None, OwnCells | None]:
        """Which keys are queried (None: all), and what the rows held out have in their cells."""
        cells, held_out = self.cells, self.held_out
        if cells is None:
            return held_out, None
        if held_out is None:
            return None, OwnCells(cells.of_row, cells.others)
        queried, of_row = torch.unique(cells.of_row[held_out], return_inverse=True)
        return queried, OwnCells(of_row, cells.others[:, held_out])

    @property
    def _held_out_weights(self) -> Tensor:
        return self.weights if self.held_out is None else self.weights[self.held_out]

    def loss(self, embedded: Tensor, scales: Tensor | None = None) -> Tensor:
        """Return the loss of embedded rows (n, q), a scalar in units of variance.

        `scales` (q,) of the embedding's features make for a faster gradient than ``embedded *
        scales``; the embedding itself then gets none.
        """
        short = None if scales is None else self._scale_loss(embedded)
        error = None if short is None else short.at(scales, self._able_algorithm(embedded, scales))
        if error is not None:
            return error / self.variance[0]
        errors = self.errors(self.predictions(embedded, scales))
        return (self.mean(errors.square()) / self.variance).mean()

    def losses(self, embedded: Tensor, scales: Tensor) -> Tensor:
        """Return the losses (b,) at several scales (b, q), without gradients."""
        short = self._scale_loss(embedded)
        with torch.no_grad():
            if short is None or len(scales) * len(self) ** 2 > _PAIRS_AT_ONCE:
                return torch.stack([self.loss(embedded, at) for at in scales])
            return short.at_several(scales) / self.variance[0]

    def loss_and_slope(self, embedded: Tensor, scales: Tensor) -> tuple[float, np.ndarray] | None:
        """Return the loss at scales (q,) and its derivatives by their logarithms.

        None where `sknw.fitting.scale_loss` has no way to them at any scales.
        """
        short = self._scale_loss(embedded)
        if short is None:
            return None
        with torch.no_grad():
            found = short.with_slope(scales, self._able_algorithm(embedded, scales))
        if found is None:
            return self._loss_and_slope_by_torch(embedded, scales)
        variance = float(self.variance[0])
        return found[0].item() / variance, to_numpy(found[1]).astype(np.float64) / variance

    def _loss_and_slope_by_torch(
        self, embedded: Tensor, scales: Tensor
    ) -> tuple[float, np.ndarray]:
        """Return what `loss_and_slope` does at scales where the short way found no answer."""
        with torch.inference_mode(False), torch.enable_grad():
            steps = torch.zeros_like(scales, requires_grad=True)
            errors = self.errors(self.predictions(embedded, scales * steps.exp()))
            loss = (self.mean(errors.square()) / self.variance).mean()
            (slope,) = torch.autograd.grad(loss, steps)
        return loss.item(), to_numpy(slope).astype(np.float64)

    def _scale_loss(self, embedded: Tensor) -> ScaleLoss | None:
        """Return the short way to the loss of an embedding's scales; of one output only."""
        if self.values.shape[1] > 1:
            return None
        rows = slice(None) if self.held_out is None else self.held_out
        queried, own = self._queried
        return ScaleLoss(
            self.kernel,
            embedded if self.cells is None else embedded[self.cells.first],
            self._columns if self.cells is None else self.cells.totals,
            self.values[rows, 0],
            self.weights[rows],
            queried,
            own,
            self.rtol,
            self.empty_neighborhood,
        )

    @cached_property
    def _columns(self) -> Tensor:
        return value_columns(self.values[None], self.weights[None])[0]

    def errors(self, means: Tensor) -> Tensor:
        """Return the errors (m, k) of means of the rows held out."""
        return means - (self.values if self.held_out is None else self.values[self.held_out])

    def mean(self, of_rows: Tensor) -> Tensor:
        """Return the weighted mean (k,) over the rows held out of what each has (m, k)."""
        weights = self._held_out_weights.to(of_rows.dtype)
        return (weights @ of_rows) / weights.sum()  # (m) @ (m, k) -> (k)

    def _able_algorithm(self, embedded: Tensor, scales: Tensor | None) -> str:
        """Return the algorithm, or ``"auto"`` where it cannot do the bandwidth on trial."""
        if self.algorithm in ("auto", "dense"):
            return self.algorithm
        try:
            self.algorithm_at(embedded.detach(), scales, needs_grad=torch.is_grad_enabled())
        except ValueError:
            return "auto"
        return self.algorithm

    def algorithm_at(self, embedded: Tensor, scales: Tensor | None, *, needs_grad: bool) -> str:
        """Return the name of the algorithm of embedded rows (n, q), at scales (q,) if given."""
        kernel, (keys, *_), (queried, _) = self.kernel, self._keys(embedded), self._queried
        if scales is not None:
            kernel, factors = kernel.scaled_by(scales.detach())
            keys = keys * factors.to(keys.dtype)
        return choose_for(
            self.algorithm,
            kernel,
            None if queried is None else keys[queried][None],
            keys[None],
            n_columns=1 + self.values.shape[1],
            leave_one_out=True,
            needs_grad=needs_grad,
            rtol=self.rtol,
        ).name

    def threads(self) -> AbstractContextManager:
        """Return a context in which torch leaves the cores to the sums, if those are most of it."""
        rows = self.rows
        small = len(rows) <= _ROWS_OF_ONE_THREAD
        if small and has_own_threads(self.kernel, rows.dtype, rows.device, len(rows) ** 2):
            return torch_threads(1)
        return nullcontext()

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of each feature over all keys, (n_features,)."""
        return self.observations.spread

    @cached_property
    def widths(self) -> Widths:
        """The range of widths worth trying, for each parameter."""
        spread, extent = self.spread, self.observations.extent
        gap = self.observations.smallest_gap
        typical = np.minimum(spread, self.observations.typical_deviation)
        lower = np.maximum(_GAP_FRACTION * gap, _SPREAD_FRACTION * typical)
        upper = _EXTENT_MULTIPLE * np.where(extent > 0, extent, spread)
        lower, upper = self.bounds or (np.where(extent > 0, lower, upper), upper)
        ranges = Widths(lower, upper, spread * self.kernel.search_scale)
        return ranges if self.shared is None else ranges.shared(self.shared)

    def polish_evaluations(self, has_kinks: bool = False) -> int:
        """Return how many evaluations a search without gradients may spend; 0 if it need not."""
        if self.kernel.has_smooth_loss and not has_kinks:
            return 0
        affordable = _POLISH_PAIRS / len(self) ** 2
        return int(np.clip(affordable, 20 * self.n_parameters, 150 * self.n_parameters))

    def scan_bandwidths(self) -> np.ndarray:
        """Return widths (n_points, n_parameters) from narrow to wide, in equal log-steps.

        Each is one multiple of every spread. With a single parameter the scan starts at the
        smallest width worth trying, since nothing else finds a narrow minimum.
        """
        n_points, narrowest, ranges = _SCAN_POINTS, _SCAN_RANGE[0], self.widths
        if self.n_parameters == 1:
            smooth_loss = self.kernel.has_smooth_loss
            n_points = _SCAN_POINTS_ONE_PARAMETER if smooth_loss else 3 * _SCAN_POINTS_ONE_PARAMETER
            spread = ranges.spread[0] / self.kernel.search_scale
            narrowest = min(narrowest, float(ranges.lower[0] / spread))
        multiples = np.geomspace(narrowest, _SCAN_RANGE[1], n_points)
        return np.clip(multiples[:, None] * ranges.spread, ranges.lower, ranges.upper)

    def subsample(self, size: int, random_state: np.random.RandomState) -> "LeaveOneOut":
        """Return the problem of a random subset of the rows; itself if it is no larger."""
        return self if size >= len(self) else self.taking(self._draw(size, random_state))

    def taking(self, index: Tensor) -> "LeaveOneOut":
        """Return the problem of these rows alone."""
        rows, values, weights = self.rows[index], self.values[index], self.weights[index]
        cells = None if self.cells is None else self.cells.taking(index)
        return replace(self, rows=rows, values=values, weights=weights, cells=cells)

    def among(self, rows: Tensor, n_held_out: int) -> "LeaveOneOut":
        """Return the problem of these rows (index), of which the first are held out."""
        all_held_out = n_held_out == len(rows)
        held_out = None if all_held_out else torch.arange(n_held_out, device=self.rows.device)
        return replace(self.taking(rows), held_out=held_out)

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
            rtol=max(self.rtol, _RTOL_OF_SINGLE),
        )

    def split(
        self, share: float, random_state: np.random.RandomState
    ) -> tuple["LeaveOneOut", "LeaveOneOut"]:
        """Return the problems of two parts of the rows, a random share of them in the second."""
        order = random_state.permutation(len(self))
        n_second = int(np.clip(round(share * len(self)), 1, len(self) - 1))
        parts = np.sort(order[n_second:]), np.sort(order[:n_second])
        first, second = (
            self.taking(to_tensor(part, dtype=torch.int64, device=self.rows.device))
            for part in parts
        )
        return first, second

    def holding_out(self, size: int, random_state: np.random.RandomState) -> "LeaveOneOut":
        """Return the problem with the loss of a random subset of the rows, all keys kept."""
        if size >= len(self):
            return self
        return self.holding_out_rows(self._draw(size, random_state))

    def holding_out_rows(self, rows: Tensor) -> "LeaveOneOut":
        """Return the problem with the loss of these rows (index), all keys kept."""
        return replace(self, held_out=rows)

    def in_compact_order(self) -> "LeaveOneOut":
        """Return the problem with near rows together, where many make that worthwhile."""
        if len(self) < tuning.FEWEST_KEYS_TO_SORT:
            return self
        spread = self.spread[self.observations.features.of_column]
        spread = to_tensor(spread, dtype=self.rows.dtype, device=self.rows.device)
        return self.taking(Layout.of(self.rows / spread, _SORTED_TO, self.kernel.n_codes).order)

    def _draw(self, size: int, random_state: np.random.RandomState) -> Tensor:
        chosen = np.sort(random_state.choice(len(self), size, replace=False))
        return to_tensor(chosen, dtype=torch.int64, device=self.rows.device)
