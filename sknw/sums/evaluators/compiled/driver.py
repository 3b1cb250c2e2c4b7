"""The compiled loops as an evaluator: numpy views of CPU tensors, and the project's own threads.

Threads are Python's, as many as torch would use (`torch.get_num_threads`), started for a call and
gone after it; the compiled code runs outside the interpreter's lock. No thread setting of the
process is touched. A call of a loop ends within a fraction of a second, so that Ctrl-C is heard.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Event
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor, torch_dtype
from sknw.kernels import Kernel
from sknw.kernels.codes import Codes
from sknw.sums.evaluators.compiled.formulas import FAMILIES, FORMS
from sknw.sums.evaluators.compiled.readiness import LOOPS
from sknw.sums.evaluators.evaluator import Evaluator
from sknw.sums.geometry.distances import edge_allowance
from sknw.sums.geometry.interactions import Pairs
from sknw.support import tuning
from sknw.support.threads import n_threads as available_threads
from sknw.support.threads import shared_out

_CHUNKS_PER_THREAD = 64
_NUMBERS_PER_CALL = 2e8  # that the pairs of a first call read: some hundredths of a second
_NUMBERS_OF_A_KERNEL = 8  # that are read in the time that its formula takes
_SHORT_CALL, _LONG_CALL = 0.02, 0.1  # seconds
# Squared distances up to this are rounded by less than matters to a weight, by bytes of a float.
_FAR = {8: 1e6, 4: 1e2}
_NEAR = {8: 1000.0, 4: 120.0}  # powers of two that are none of the smallest, by bytes of a float
_NONE = np.empty(0, dtype=np.int64)
_switched_off = threading.local()


@contextmanager
def disabled() -> Iterator[None]:
    """Let torch evaluate every tile in the block, in this thread; for tests and benchmarks."""
    before = getattr(_switched_off, "value", False)
    _switched_off.value = True
    try:
        yield
    finally:
        _switched_off.value = before


def _loops() -> ModuleType | None:
    """Return the compiled loops; None without numba."""
    return LOOPS.module()


# Points scaled by this have 2^−s for their Gaussian weight: no constant is left in the loop.
_TO_POWERS = math.sqrt(0.5 / math.log(2))
_OF_POWERS = {"profile": 1.0, "slope": -0.5}  # forms of a Gaussian as multiples of that


@dataclass(frozen=True, eq=False)
class FusedPoints:
    """Points feature-first, (b, d, n); the last features are codes of categories."""

    features: np.ndarray
    n_codes: int = 0

    @cached_property
    def to_powers(self) -> np.ndarray:
        """The points with numbers scaled for powers of two."""
        factors = np.full((self.features.shape[1], 1), _TO_POWERS, dtype=self.dtype)
        factors[len(factors) - self.n_codes :] = 1
        return self.features * factors

    @cached_property
    def span(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest coordinates for powers of two, (b, d) each; NaN if one is."""
        return self.to_powers.min(axis=2), self.to_powers.max(axis=2)

    def __len__(self) -> int:
        return self.features.shape[2]

    @property
    def dtype(self) -> np.dtype:
        """Precision of the points."""
        return self.features.dtype


@dataclass(frozen=True, eq=False)
class Shift:
    """What weights are relative to.

    Parameters
    ----------
    nearest : ndarray of shape (m,)
        Squared distance of each query's nearest key, without mismatches of categories that have to
        match exactly; infinity where there is none.
    anchors : ndarray of shape (d, m)
        That key.
    squared : ndarray of shape (m,)
        Its squared distance with all mismatches.
    """

    nearest: np.ndarray
    anchors: np.ndarray
    squared: np.ndarray

    @classmethod
    def none(cls, n_features: int, dtype: np.dtype) -> "Shift":
        """Return the shift of plain weights."""
        nothing = np.empty(0, dtype=dtype)
        return cls(nothing, np.empty((n_features, 0), dtype=dtype), nothing)


class Fused(Evaluator):
    """Distance, kernel and accumulation in a core's registers and first cache."""

    name = "fused"

    def accepts(
        self, kernel: Kernel, dtype: torch.dtype, device: torch.device, order: int = 0
    ) -> bool:
        """Take sums of CPU tensors under kernels with a compiled formula, with numba installed."""
        return (
            order == 0
            and kernel.formula is not None
            and device.type == "cpu"
            and dtype in (torch.float32, torch.float64)
            and not getattr(_switched_off, "value", False)
            and kernel.formula[0] in FAMILIES
            and LOOPS.installed
        )

    def does(self, precision: str, seconds: float) -> bool:
        """Whether it does work that takes torch so long: see `Loops.usable`."""
        return LOOPS.usable(precision, seconds) and _loops() is not None

    def points(self, rows: Tensor, n_codes: int = 0) -> FusedPoints:
        """Stand the points feature-first."""
        return FusedPoints(to_numpy(rows.mT.contiguous()), n_codes)

    def sums(self, kernel, queries, keys, columns, exclude, pairs, shift=None) -> Tensor:
        """Return ``Σ_j K_ij v_j``, shape (b, k, m); relative to the `Shift` if given."""
        queries, exclude = _with_identity(queries, keys, exclude)
        columns = _columns(columns, keys)
        out = np.zeros((*columns.shape[:2], len(queries)))
        for b in range(len(columns)):
            one_column, weight = _without_common_weight(columns[b])
            call = _Call(kernel, queries, keys, b, exclude, pairs, shift)
            call.run("add_sums", one_column, weight is not None, out=out[b])
            out[b] *= call.unit(0)
            if weight is not None:
                out[b, 0] *= weight
        return to_tensor(out, dtype=torch.float64, device="cpu")

    def has_squares(self, kernel, n_columns) -> bool:
        """Two columns under a Gaussian, whose slope is a multiple of itself."""
        family, form = kernel.formula
        return family == "gaussian" and form == "profile" and n_columns == 2

    def moments(self, kernel, queries, keys, columns, exclude, pairs, monomials) -> Tensor:
        """Return sums, and where asked for also those of squared steps, (b, 1 + d, k, m)."""
        if len(monomials) == 1:
            return self.sums(kernel, queries, keys, columns, exclude, pairs)[:, None]
        queries, exclude = _with_identity(queries, keys, exclude)
        columns, d = _columns(columns, keys), keys.features.shape[1]
        out = np.zeros((len(columns), 1 + d, 2, len(queries)))
        for b in range(len(columns)):
            one_column, weight = _without_common_weight(columns[b])
            call = _Call(kernel, queries, keys, b, exclude, pairs, None)
            call.run(
                "add_squares", one_column, weight is not None, out=out[b].reshape(2 + 2 * d, -1)
            )
            out[b, 1:] *= call.unit(2)
            if weight is not None:
                out[b, :, 0] *= weight
        return to_tensor(out, dtype=torch.float64, device="cpu")

    def steps(self, kernel, queries, keys, left, right, exclude, pairs, *, squared=False) -> Tensor:
        """Return ``Σ_j K_ij ⟨left_i, right_j⟩ (q_i − z_j)``, shape (b, m, d)."""
        steps_to_itself = queries is None  # are zero, so no key needs to be left out
        queries, exclude = _with_identity(queries, keys, exclude)
        if steps_to_itself:
            exclude = _NONE
        left, right = _columns(_even(left), keys), _columns(_even(right), keys)
        out = np.zeros(queries.features.shape)
        for b in range(len(left)):
            call = _Call(kernel, queries, keys, b, exclude, pairs, None)
            call.run("add_steps", left[b], right[b], squared, out=out[b])
            out[b] *= call.unit(2 if squared else 1)
        return to_tensor(out, dtype=torch.float64, device="cpu").mT

    def nearest(
        self,
        queries: FusedPoints,
        keys: FusedPoints,
        exclude: Tensor | None,
        pairs: Pairs | None,
        *,
        codes: Codes | None = None,
        exactly: bool,
    ) -> Shift:
        """Return each query's nearest key, for one set.

        First by rounded distances; then, where rounding may matter or it has to be `exactly` that
        key, by what others are nearer.
        """
        queries, exclude = _with_identity(queries, keys, exclude)
        pairs = pairs or Pairs.all(len(queries), len(keys), keys.features.shape[1])
        points, tiles = (queries.features[0], keys.features[0]), _tiles(pairs, keys.dtype, 1.0)
        mismatches = _mismatches(codes, 0, keys.dtype, 1.0)

        def search(anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            smallest = np.full(len(queries), np.inf, dtype=keys.dtype)
            index = np.zeros(len(queries), dtype=np.int64)

            def task(first: int, last: int) -> int:
                return _loops().find_nearest(
                    *points, mismatches, exclude, anchors, tiles, first, last, smallest, index
                )

            _in_threads(task, pairs, _numbers_per_pair(keys, 0))
            return smallest, index

        rough, index = search(np.empty((len(points[1]), 0), dtype=keys.dtype))
        anchors = np.ascontiguousarray(points[1][:, index])
        reached = rough[np.isfinite(rough)]
        if exactly or reached.max(initial=0.0) > _FAR[keys.dtype.itemsize]:
            excess, nearer = search(anchors)
            anchors = np.where(excess < 0, points[1][:, nearer], anchors)
        squared = _distances_of_anchors(codes, points[0], anchors)
        squared[np.isinf(rough)] = np.inf
        nearest = squared
        if codes is not None:
            nearest = _distances_of_anchors(codes.without_exact, points[0], anchors)
            nearest[np.isinf(rough)] = np.inf
        return Shift(nearest, anchors, squared)


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a compiled driver, for member b of the batch."""

    kernel: Kernel
    queries: FusedPoints
    keys: FusedPoints
    b: int
    exclude: np.ndarray
    pairs: Pairs | None
    shift: Shift | None

    @property
    def by_powers(self) -> bool:
        """Whether the points are scaled and the weights powers of two."""
        family, form = self.kernel.formula
        return family == "gaussian" and form in _OF_POWERS and self.shift is None

    @property
    def is_near(self) -> bool:
        """Whether all pairs are so near that the loops need not guard against vanishing weights.

        Only asked for up to three features: other loops have the guard in any case.
        """
        d, n_pairs = self.keys.features.shape[1], len(self.queries) * len(self.keys)
        is_few = d <= 3 and self.kernel.codes is None
        if self.pairs is not None or not is_few or n_pairs <= tuning.PAIRS_WORTH_A_LOOK:
            return False
        (low, high), (key_low, key_high) = self.queries.span, self.keys.span
        with np.errstate(over="ignore", invalid="ignore"):
            farthest = np.maximum(high[self.b] - key_low[self.b], key_high[self.b] - low[self.b])
            squared = np.square(farthest, dtype=np.float64).sum()
        return bool(squared < _NEAR[self.keys.dtype.itemsize])

    def unit(self, degree: int) -> float:
        """Return the factor for sums of weights times coordinates to that degree."""
        return _OF_POWERS[self.kernel.formula[1]] / _TO_POWERS**degree if self.by_powers else 1.0

    def edges(self, points: FusedPoints) -> np.ndarray:
        """Return the points' allowances at the edge of the support, (m,); none where is none."""
        if not self.kernel.has_edge:
            return np.empty(0, dtype=points.dtype)
        kernel = self.kernel.of_members(slice(self.b, self.b + 1))
        features = points.features[self.b : self.b + 1]
        features = to_tensor(features, dtype=torch_dtype(features.dtype), device="cpu")
        return to_numpy(edge_allowance(kernel, features.mT)[0])

    def run(self, driver: str, *arguments: Any, out: np.ndarray) -> None:
        """Let the driver add to `out` in several threads."""
        loops, (family, form) = _loops(), self.kernel.formula
        if self.by_powers:
            is_near = driver == "add_sums" and self.is_near
            family, form = "near power" if is_near else "power", "profile"
        points = [
            at.to_powers if self.by_powers else at.features for at in (self.queries, self.keys)
        ]
        scale = _TO_POWERS if self.by_powers else 1.0
        if self.pairs is None:
            sizes = len(self.queries), len(self.keys), points[0].shape[1]
            pairs, tiles = _all_pairs(*sizes, self.keys.dtype)
        else:
            pairs = self.pairs
            tiles = _tiles(pairs, self.keys.dtype, scale)
        shift = self.shift or Shift.none(points[0].shape[1], self.keys.dtype)
        codes = FAMILIES.index(family), FORMS.index(form)
        before = (
            *(rows[self.b] for rows in points),
            _mismatches(self.kernel.codes, self.b, self.keys.dtype, scale),
            *arguments,
            self.exclude,
            shift.nearest,
            shift.anchors,
            (self.edges(self.queries), self.edges(self.keys)),
            tiles,
        )

        def task(first: int, last: int) -> int:
            return getattr(loops, driver)(*before, first, last, *codes, out)

        n_numbers = _numbers_per_pair(self.keys, len(arguments[0]))
        evaluated = _in_threads(task, pairs, n_numbers)
        if self.pairs is not None:
            pairs.pair_counts.append(evaluated)


def _numbers_per_pair(keys: FusedPoints, n_columns: int) -> int:
    return _NUMBERS_OF_A_KERNEL + keys.features.shape[1] + n_columns


def _without_common_weight(columns: np.ndarray) -> tuple[np.ndarray, float | None]:
    """Return columns (k, n) with ones in the first where it is constant, and that constant."""
    first = columns[0, 0]
    if not first > 0 or (columns[0] != first).any():
        return columns, None
    if first != 1:
        columns = np.concatenate([np.ones_like(columns[:1]), columns[1:]])
    return columns, float(first)


def _mismatches(
    codes: Codes | None, b: int, dtype: np.dtype, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return costs and caps (c,) of member b of a batch, for points whose numbers are scaled."""
    if codes is None:
        return np.empty(0, dtype=dtype), np.empty(0, dtype=dtype)
    costs = scale**2 * codes.costs_in(dtype.itemsize)[b]
    return costs.astype(dtype), codes.caps.astype(dtype)


def _distances_of_anchors(
    codes: Codes | None, queries: np.ndarray, anchors: np.ndarray
) -> np.ndarray:
    """Return squared distances (m,) of queries (d, m) from their anchors."""
    if codes is None:
        return np.square(queries - anchors).sum(axis=0)
    n_numbers = len(queries) - len(codes)
    squared = np.square(queries[:n_numbers] - anchors[:n_numbers]).sum(axis=0)
    costs, caps = _mismatches(codes, 0, queries.dtype, 1.0)
    steps = np.minimum(np.abs(queries[n_numbers:] - anchors[n_numbers:]), caps[:, None])
    return squared + costs @ steps


@lru_cache(maxsize=64)
def _all_pairs(
    n_queries: int, n_keys: int, n_features: int, dtype: np.dtype
) -> tuple[Pairs, tuple[np.ndarray, ...]]:
    """Return all pairs, and them as the loops take them; a search asks a hundred times."""
    pairs = Pairs.all(n_queries, n_keys, n_features)
    return pairs, _tiles(pairs, dtype, 1.0)


def _tiles(pairs: Pairs, dtype: np.dtype, scale: float) -> tuple[np.ndarray, ...]:
    """Return the pairs, of points that are scaled, as the compiled loops take them."""
    found = []
    for side in pairs.queries, pairs.keys:
        at = (scale * side.low, scale * side.high, scale**2 * side.box_reaches)
        found += [side.starts, *(np.ascontiguousarray(array, dtype=dtype) for array in at)]
    return *found, np.ascontiguousarray(scale**2 * pairs.queries.reaches, dtype=dtype)


def _with_identity(
    queries: FusedPoints | None, keys: FusedPoints, exclude: Tensor | np.ndarray | None
) -> tuple[FusedPoints, np.ndarray]:
    """Write leave-one-out of the keys as queries that each exclude a key."""
    if queries is None:
        return keys, np.arange(len(keys), dtype=np.int64)
    if exclude is None:
        return queries, _NONE
    return queries, exclude if isinstance(exclude, np.ndarray) else to_numpy(exclude)


def _columns(columns: Tensor, keys: FusedPoints) -> np.ndarray:
    return np.ascontiguousarray(to_numpy(columns), dtype=keys.dtype)


def _even(columns: Tensor) -> Tensor:
    """Append a column of zeros where the number of columns (b, k, n) is odd."""
    if columns.shape[1] % 2 == 0:
        return columns
    return torch.cat([columns, torch.zeros_like(columns[:, :1])], dim=1)


def _in_threads(
    task: Callable[[int, int], int], pairs: Pairs, n_numbers: int = _NUMBERS_OF_A_KERNEL
) -> int:
    """Run the task over all blocks of queries, in several threads where that pays.

    A pair reads so many numbers. Returns the sum of what the task returns.
    """
    n_blocks = len(pairs)
    worth = int(min(pairs.possible / tuning.PAIRS_PER_THREAD, n_blocks))
    n_threads = max(1, min(available_threads(), worth))
    largest = n_blocks if n_threads == 1 else max(1, n_blocks // (n_threads * _CHUNKS_PER_THREAD))
    fewest = _NUMBERS_PER_CALL * n_blocks / max(1, pairs.possible * n_numbers)
    pace = _Pace(n_blocks, max(1, min(int(fewest), largest)), largest)

    def timed(chunk: tuple[int, int], _: Event) -> int:
        start = time.perf_counter()
        found = task(*chunk)
        pace.adjust(time.perf_counter() - start)
        return found

    return sum(shared_out(timed, pace.chunks(), n_threads))


@dataclass
class _Pace:
    """How many blocks a call takes: so many that it pays, so few that Ctrl-C is heard.

    What of the pairs of a block is near enough to be evaluated shows only then.
    """

    n_blocks: int
    size: int
    largest: int

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Yield the first block and the end of one call after another."""
        first = 0
        while first < self.n_blocks:
            end = min(first + self.size, self.n_blocks)
            yield first, end
            first = end

    def adjust(self, seconds: float) -> None:
        """Let the next calls take twice the blocks, or half."""
        if seconds < _SHORT_CALL:
            self.size = min(2 * self.size, self.largest)
        elif seconds > _LONG_CALL:
            self.size = max(1, self.size // 2)
