"""The leave-one-out problem: the loss that bandwidth selection and metric training both minimise.

Each key is predicted from all the others; the loss is the weighted mean of the squared errors over
the outputs' variances, averaged over outputs, so units do not matter. For one output, `unit` turns
it back into squared units of y.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sknw._arrays import to_tensor
from sknw._observations import Observations
from sknw.kernels import Kernel
from sknw.smoother import smooth
from sknw.sums import Layout, choose_for
from sknw.widths import Widths

# A bandwidth is searched between a fraction of the smallest gap and many times the range, where
# the feature's influence on any weight is below rounding of the criterion.
_GAP_FRACTION = 0.1
REHEARSAL_SIZE = 400  # rows of the subsample on which starts are compared
_SPREAD_FRACTION = 1e-7
_EXTENT_MULTIPLE = 1e4
_SCAN_RANGE = (0.01, 10.0)  # multiples of the spread
_SCAN_POINTS = 16
_POLISH_PAIRS = 2e9
_RTOL_OF_SINGLE = 1e-4
_SCAN_POINTS_ONE_FEATURE = 60
_WORTH_SORTING, _SORTED_TO = 20_000, 64  # keys; and keys of a compact block


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Keys, values and weights on a device, and the loss of an embedding of the keys.

    Parameters
    ----------
    rows : Tensor of shape (n, d)
        Centred keys in the units of X.
    values : Tensor of shape (n, k)
        Scaled targets.
    weights : Tensor of shape (n,)
        Weights of the keys.
    variance : Tensor of shape (k,)
        Weighted variance of each scaled output over all keys.
    unit : float
        Squared units of y in one unit of loss; 1 for several outputs.
    kernel, algorithm, rtol, empty_neighborhood
        How to smooth.
    observations : Observations
        Where the keys come from.
    held_out : Tensor of shape (m,) or None, default=None
        Rows that are predicted; None: all. Their neighbours are always all other rows.
    """

    rows: Tensor
    values: Tensor
    weights: Tensor
    variance: Tensor
    unit: float
    kernel: Kernel
    algorithm: str
    rtol: float
    empty_neighborhood: str
    observations: Observations
    held_out: Tensor | None = None

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
    ) -> "LeaveOneOut":
        """Put the keys on the device.

        Rows with an empty neighbourhood count with the error of the policy's value; where the
        policy has none (``"nan"``, ``"raise"``), with the error of the mean of the others.
        """
        n = observations.n_keys
        single = observations.y.shape[1] == 1
        has_value = empty_neighborhood in ("nearest", "mean")
        return cls(
            rows=to_tensor(observations.keys, dtype=dtype, device=device),
            values=to_tensor(observations.y[:n], dtype=dtype, device=device),
            weights=to_tensor(observations.weights, dtype=dtype, device=device),
            variance=to_tensor(observations.y_variance, dtype=dtype, device=device),
            unit=float(observations.y_variance[0] * observations.y_scale[0] ** 2)
            if single
            else 1.0,
            kernel=kernel,
            algorithm=algorithm,
            rtol=rtol,
            empty_neighborhood=empty_neighborhood if has_value else "mean",
            observations=observations,
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.rows.shape[1]

    def predictions(self, embedded: Tensor, scales: Tensor | None = None) -> Tensor:
        """Return the leave-one-out predictions of the rows held out, (m, k), at embedded keys."""
        queries = None if self.held_out is None else embedded[self.held_out][None]
        return smooth(
            self.kernel,
            queries,
            embedded[None],
            self.values[None],
            self.weights[None],
            scales=scales,
            exclude=self.held_out,
            algorithm=self._able_algorithm(embedded, scales),
            rtol=self.rtol,
            empty_neighborhood=self.empty_neighborhood,
        )[0]

    def loss(self, embedded: Tensor, scales: Tensor | None = None) -> Tensor:
        """Return the loss of embedded keys (n, q), a scalar in units of variance.

        `scales` (q,) of the embedding's features make for a faster gradient than ``embedded *
        scales``; the embedding itself then gets none.
        """
        held_out = slice(None) if self.held_out is None else self.held_out
        errors = self.predictions(embedded, scales) - self.values[held_out]
        weights = self.weights[held_out].to(errors.dtype)
        per_output = (weights @ errors.square()) / weights.sum()  # (n) @ (n, k) -> (k)
        return (per_output / self.variance).mean()

    def _able_algorithm(self, embedded: Tensor, scales: Tensor | None) -> str:
        """Return the algorithm, or ``"auto"`` where it cannot do the bandwidth on trial."""
        if self.algorithm in ("auto", "dense"):
            return self.algorithm
        embedded = embedded.detach()
        embedded = embedded if scales is None else embedded * scales.detach().to(embedded.dtype)
        try:
            self.algorithm_at(embedded, needs_grad=torch.is_grad_enabled())
        except ValueError:
            return "auto"
        return self.algorithm

    def algorithm_at(self, embedded: Tensor, *, needs_grad: bool) -> str:
        """Return the name of the algorithm that does the sums of embedded keys (n, q)."""
        queries = None if self.held_out is None else embedded[self.held_out][None]
        return choose_for(
            self.algorithm,
            self.kernel,
            queries,
            embedded[None],
            n_columns=1 + self.values.shape[1],
            leave_one_out=True,
            needs_grad=needs_grad,
            rtol=self.rtol,
        ).name

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of each feature over all keys, (n_features,)."""
        return self.observations.spread

    @cached_property
    def widths(self) -> Widths:
        """The range of bandwidths worth trying for each feature."""
        spread, extent = self.spread, self.observations.extent
        gap = self.observations.smallest_gap
        typical = np.minimum(spread, self.observations.typical_deviation)
        lower = np.maximum(_GAP_FRACTION * gap, _SPREAD_FRACTION * typical)
        upper = _EXTENT_MULTIPLE * np.where(extent > 0, extent, spread)
        return Widths(np.where(extent > 0, lower, upper), upper, spread * self.kernel.search_scale)

    @property
    def polish_evaluations(self) -> int:
        """Evaluations that a search without gradients may spend; 0 where gradients suffice."""
        if self.kernel.has_smooth_loss:
            return 0
        affordable = _POLISH_PAIRS / len(self) ** 2
        return int(np.clip(affordable, 10 * self.n_features, 40 * self.n_features))

    def scan_bandwidths(self) -> np.ndarray:
        """Return bandwidths (n_points, n_features) from narrow to wide, in equal log-steps.

        Each is one multiple of every feature's spread. With a single feature the scan starts at the
        smallest bandwidth worth trying, since nothing else finds a narrow minimum.
        """
        n_points, narrowest = _SCAN_POINTS, _SCAN_RANGE[0]
        if self.n_features == 1:
            smooth_loss = self.kernel.has_smooth_loss
            n_points = _SCAN_POINTS_ONE_FEATURE if smooth_loss else 3 * _SCAN_POINTS_ONE_FEATURE
            narrowest = min(narrowest, float(self.widths.lower[0] / self.spread[0]))
        multiples = np.geomspace(narrowest, _SCAN_RANGE[1], n_points) * self.kernel.search_scale
        return np.clip(multiples[:, None] * self.spread, self.widths.lower, self.widths.upper)

    def subsample(self, size: int, random_state: np.random.RandomState) -> "LeaveOneOut":
        """Return the problem of a random subset of the keys; itself if it is no larger."""
        if size >= len(self):
            return self
        index = self._draw(size, random_state)
        return replace(
            self, rows=self.rows[index], values=self.values[index], weights=self.weights[index]
        )

    def among(self, keys: Tensor, n_held_out: int) -> "LeaveOneOut":
        """Return the problem of these keys (index), of which the first are held out."""
        all_held_out = n_held_out == len(keys)
        return replace(
            self,
            rows=self.rows[keys],
            values=self.values[keys],
            weights=self.weights[keys],
            held_out=None if all_held_out else torch.arange(n_held_out, device=self.rows.device),
        )

    def single(self) -> "LeaveOneOut":
        """Return the problem in float32, its sums to no more digits than that needs."""
        tensors = (self.rows, self.values, self.weights, self.variance)
        rows, values, weights, variance = (tensor.float() for tensor in tensors)
        return replace(
            self,
            rows=rows,
            values=values,
            weights=weights,
            variance=variance,
            rtol=max(self.rtol, _RTOL_OF_SINGLE),
        )

    def split(
        self, share: float, random_state: np.random.RandomState
    ) -> tuple["LeaveOneOut", "LeaveOneOut"]:
        """Return the problems of two parts of the keys, a random share of them in the second."""
        order = random_state.permutation(len(self))
        n_second = int(np.clip(round(share * len(self)), 1, len(self) - 1))
        parts = np.sort(order[n_second:]), np.sort(order[:n_second])
        keys = [to_tensor(p, dtype=torch.int64, device=self.rows.device) for p in parts]
        first, second = (
            replace(self, rows=self.rows[k], values=self.values[k], weights=self.weights[k])
            for k in keys
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
        """Return the problem with near keys together, where many keys make that worthwhile."""
        if len(self) < _WORTH_SORTING:
            return self
        spread = to_tensor(self.spread, dtype=self.rows.dtype, device=self.rows.device)
        order = Layout.of(self.rows / spread, _SORTED_TO).order
        return replace(
            self, rows=self.rows[order], values=self.values[order], weights=self.weights[order]
        )

    def _draw(self, size: int, random_state: np.random.RandomState) -> Tensor:
        chosen = np.sort(random_state.choice(len(self), size, replace=False))
        return to_tensor(chosen, dtype=torch.int64, device=self.rows.device)
