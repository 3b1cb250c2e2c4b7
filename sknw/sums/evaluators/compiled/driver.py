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
from sknw.sums.evaluators.compiled import formulas
from sknw.sums.evaluators.compiled.formulas import FAMILIES, FORMS, Tiles, Weighing
from sknw.sums.evaluators.compiled.readiness import LOOPS
from sknw.sums.evaluators.evaluator import Evaluator
from sknw.sums.geometry.distances import edge_allowance
from sknw.sums.geometry.interactions import Pairs
from sknw.support import tuning
from sknw.support.threads import n_threads as available_threads
from sknw.support.threads import shared_out

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


def _precision(dtype: torch.dtype) -> str:
    return "float64" if dtype == torch.float64 else "float32"


def _torch_seconds(n_pairs: float) -> float:
    return n_pairs * tuning.TORCH_SECONDS_PER_PAIR / available_threads()


# Points scaled by this have 2^−s for their Gaussian weight, so no constant is left in the loop.
# Forms of a Gaussian are multiples of it.
_TO_POWERS = math.sqrt(0.5 / math.log(2))
_OF_POWERS = {"profile": 1.0, "derivative": -0.5}


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
    """

    nearest: np.ndarray
    anchors: np.ndarray

    @classmethod
    def none(cls, n_features: int, dtype: np.dtype) -> "Shift":
        """Return the shift of plain weights."""
        nothing = np.empty(0, dtype=dtype)
        return cls(nothing, np.empty((n_features, 0), dtype=dtype))


class Fused(Evaluator):
    """Distance, kernel and accumulation in a core's registers and first cache."""

    name = "fused"
    has_own_threads = True

    def accepts(
        self, kernel: Kernel, dtype: torch.dtype, device: torch.device, order: int = 0
    ) -> bool:
        """Take CPU tensors and kernels with a compiled formula, with numba installed."""
        return (
            kernel.formula is not None
            and device.type == "cpu"
            and dtype in (torch.float32, torch.float64)
            and not getattr(_switched_off, "value", False)
            and kernel.formula[0] in FAMILIES
            and LOOPS.installed
        )

    def pays(
        self, dtype: torch.dtype, n_pairs: float, n_problems: int, *, may_load: bool = True
    ) -> bool:
        """Whether the pairs are many: for a call of loops that are ready, in all problems."""
        precision, total = _precision(dtype), n_pairs * n_problems
        if not LOOPS.are_ready(precision):
            if n_pairs < tuning.FEWEST_COMPILED_PAIRS:
                return False
        elif total < tuning.FEWEST_COMPILED_PAIRS:
            return False
        if not may_load:
            return LOOPS.likely(precision, _torch_seconds(total))
        return LOOPS.usable(precision, _torch_seconds(total)) and _loops() is not None

    def was_passed_over(self, dtype: torch.dtype, n_pairs: float, n_problems: int) -> None:
        """Count what torch gets: when it has become much, the loops are compiled."""
        if n_pairs >= tuning.FEWEST_COMPILED_PAIRS:
            LOOPS.count(_precision(dtype), _torch_seconds(n_pairs * n_problems))

    def pair_costs(self, dtype: torch.dtype) -> tuple[float, float, float, float]:
        """Those that were measured."""
        return tuning.PAIR_COSTS[self.name, dtype.itemsize]

    def points(self, rows: Tensor, n_codes: int = 0) -> FusedPoints:
        """Stand the points feature-first."""
        return FusedPoints(to_numpy(rows.mT.contiguous()), n_codes)

    def sums(self, kernel, queries, keys, columns, exclude, pairs, shift=None) -> Tensor:
        """Return ``Σ_j K_ij v_j``, shape (b, k, m); relative to the `Shift` if given."""
        queries, exclude = _with_identity(queries, keys, exclude)
        columns = _columns(columns, keys)
        out = np.zeros((*columns.shape[:2], len(queries)))
        for b in range(len(columns)):
            call = _Call(kernel, queries, keys, b, exclude, pairs, shift)
            call.run("add_sums", columns[b], out=out[b])
            out[b] *= call.unit(0)
        return to_tensor(out, dtype=torch.float64, device="cpu")

    def has_shifts(self, kernel: Kernel) -> bool:
        """Kernels that never reach zero, and the limit of a vanishing bandwidth."""
        return kernel.tail is not None

    def has_squares(self, kernel, n_columns) -> bool:
        """Two columns under a Gaussian, whose derivative is a multiple of itself."""
        family, form = kernel.formula
        return family == "gaussian" and form == "profile" and n_columns == 2

    def moments(self, kernel, queries, keys, columns, exclude, pairs, monomials) -> Tensor:
        """Return ``Σ_j K_ij (z_j − q_i)^a v_j`` of each monomial, shape (b, p, k, m)."""
        if len(monomials) == 1:
            return self.sums(kernel, queries, keys, columns, exclude, pairs)[:, None]
        if not monomials.are_squares:
            return self._all_moments(kernel, queries, keys, columns, exclude, pairs, monomials)
        queries, exclude = _with_identity(queries, keys, exclude)
        columns, d = _columns(columns, keys), keys.features.shape[1]
        out = np.zeros((len(columns), 1 + d, 2, len(queries)))
        for b in range(len(columns)):
            call = _Call(kernel, queries, keys, b, exclude, pairs, None)
            call.run("add_squares", columns[b], out=out[b].reshape(2 + 2 * d, -1))
            out[b, 1:] *= call.unit(2)
        return to_tensor(out, dtype=torch.float64, device="cpu")

    def _all_moments(self, kernel, queries, keys, columns, exclude, pairs, monomials) -> Tensor:
        queries, exclude = _with_identity(queries, keys, exclude)
        columns, (places, degrees, features) = _columns(columns, keys), monomials.visits.T
        visits = np.ascontiguousarray(np.stack([degrees, features], axis=1))
        n_batch, k, _ = columns.shape
        out = np.zeros((n_batch, len(monomials), k, len(queries)))
        for b in range(n_batch):
            found = np.zeros((len(monomials) * k, len(queries)))
            call = _Call(kernel, queries, keys, b, exclude, pairs, None)
            call.run("add_moments", columns[b], visits, out=found)
            units = np.array([call.unit(int(degree)) for degree in degrees])
            out[b, places] = units[:, None, None] * found.reshape(-1, k, len(queries))
        return to_tensor(out, dtype=torch.float64, device="cpu")

    def scale_pullback(
        self, kernel, queries, keys, columns, grad, exclude, pairs, monomials
    ) -> Tensor:
        """Return ``Σ_ij K_ij Σ_a ⟨G_ia, v_j⟩ (z_j − q_i)^a (q_i − z_j)²``, (b, d)."""
        has_itself = queries is None
        queries, exclude = _with_identity(queries, keys, exclude)
        if has_itself:  # the step from a key to itself is zero, so none needs to be left out
            exclude = np.empty(0, dtype=np.int64)
        columns, (places, degrees, features) = _columns(columns, keys), monomials.visits.T
        visits = np.ascontiguousarray(np.stack([degrees, features], axis=1))
        grad = to_numpy(grad)[:, places]
        out = np.zeros((len(columns), keys.features.shape[1]))
        for b in range(len(columns)):
            call = _Call(kernel, queries, keys, b, exclude, pairs, None)
            units = np.array([call.unit(int(degree)) / call.unit(0) for degree in degrees])
            of_rows = (grad[b] * units[:, None, None]).reshape(-1, len(queries))
            of_rows = np.ascontiguousarray(of_rows, dtype=keys.dtype)
            found = np.zeros((keys.features.shape[1], len(queries)))
            call.run("add_scale_pullback", columns[b], of_rows, visits, out=found)
            out[b] = call.unit(2) * found.sum(axis=1)
        return to_tensor(out, dtype=torch.float64, device="cpu")

    def steps(self, kernel, queries, keys, left, right, exclude, pairs, *, squared=False) -> Tensor:
        """Return ``Σ_j K_ij ⟨left_i, right_j⟩ (q_i − z_j)``, shape (b, m, d)."""
        has_itself = queries is None
        queries, exclude = _with_identity(queries, keys, exclude)
        if has_itself:  # the step from a key to itself is zero, so none needs to be left out
            exclude = np.empty(0, dtype=np.int64)
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
    ) -> tuple[Shift, Tensor]:
        """Return each query's nearest key, for one set, and its squared distance.

        First by rounded distances; then, where rounding may matter or it has to be `exactly` that
        key, by what others are nearer.
        """
        queries, exclude = _with_identity(queries, keys, exclude)
        pairs = pairs or Pairs.all(len(queries), len(keys), keys.features.shape[1])
        points = formulas.Points(
            queries.features[0], keys.features[0], *_mismatches(codes, 0, keys.dtype, 1.0)
        )
        tiles, plain = _tiles(pairs, keys.dtype, 1.0), Shift.none(len(points.keys), keys.dtype)

        def search(anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            smallest = np.full((1, len(queries)), np.inf, dtype=keys.dtype)
            index = np.zeros(len(queries), dtype=np.int64)
            nothing = plain.nearest
            weighing = Weighing(exclude, nothing, anchors, nothing, nothing, 0, 0)

            def task(first: int, last: int) -> int:
                return _loops().find_nearest(points, weighing, tiles, first, last, smallest, index)

            _in_threads(task, pairs, _numbers_per_pair(keys, 0))
            return smallest[0], index

        rough, index = search(plain.anchors)
        anchors = np.ascontiguousarray(points.keys[:, index])
        reached = rough[np.isfinite(rough)]
        if exactly or reached.max(initial=0.0) > tuning.FAR_SQUARE[keys.dtype.itemsize]:
            excess, nearer = search(anchors)
            anchors = np.where(excess < 0, points.keys[:, nearer], anchors)
        squared = _distances_of_anchors(codes, points.queries, anchors)
        squared[np.isinf(rough)] = np.inf
        nearest = squared
        if codes is not None:
            nearest = _distances_of_anchors(codes.without_exact, points.queries, anchors)
            nearest[np.isinf(rough)] = np.inf
        squared = to_tensor(squared, dtype=torch_dtype(keys.dtype), device="cpu")
        return Shift(nearest, anchors), squared


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
        return bool(squared < tuning.NEAR_POWER[self.keys.dtype.itemsize])

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
        rows = [at.to_powers if self.by_powers else at.features for at in (self.queries, self.keys)]
        scale = _TO_POWERS if self.by_powers else 1.0
        if self.pairs is None:
            sizes = len(self.queries), len(self.keys), rows[0].shape[1]
            pairs, tiles = _all_pairs(*sizes, self.keys.dtype)
        else:
            pairs = self.pairs
            tiles = _tiles(pairs, self.keys.dtype, scale)
        shift = self.shift or Shift.none(rows[0].shape[1], self.keys.dtype)
        weighing = Weighing(
            self.exclude,
            shift.nearest,
            shift.anchors,
            self.edges(self.queries),
            self.edges(self.keys),
            FAMILIES.index(family),
            FORMS.index(form),
        )
        points = formulas.Points(
            *(at[self.b] for at in rows),
            *_mismatches(self.kernel.codes, self.b, self.keys.dtype, scale),
        )

        def task(first: int, last: int) -> int:
            return getattr(loops, driver)(points, *arguments, weighing, tiles, first, last, out)

        n_numbers = _numbers_per_pair(self.keys, len(out))
        evaluated = _in_threads(task, pairs, n_numbers)
        if self.pairs is not None:
            pairs.pair_counts.append(evaluated)


def _numbers_per_pair(keys: FusedPoints, n_sums: int) -> int:
    return tuning.NUMBERS_OF_A_KERNEL + keys.features.shape[1] + n_sums


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
) -> tuple[Pairs, Tiles]:
    """Return all pairs, and them as the loops take them; a search asks a hundred times."""
    pairs = Pairs.all(n_queries, n_keys, n_features)
    return pairs, _tiles(pairs, dtype, 1.0)


def _tiles(pairs: Pairs, dtype: np.dtype, scale: float) -> Tiles:
    """Return the pairs, of points that are scaled, as the compiled loops take them."""
    found = []
    for side in pairs.queries, pairs.keys:
        at = (scale * side.low, scale * side.high, scale**2 * side.box_cutoffs)
        found += [side.starts, *(np.ascontiguousarray(array, dtype=dtype) for array in at)]
    return Tiles(*found, np.ascontiguousarray(scale**2 * pairs.queries.cutoffs, dtype=dtype))


def _with_identity(
    queries: FusedPoints | None, keys: FusedPoints, exclude: Tensor | np.ndarray | None
) -> tuple[FusedPoints, np.ndarray]:
    """Write leave-one-out of the keys as queries that each exclude a key."""
    if queries is None:
        return keys, np.arange(len(keys), dtype=np.int64)
    if exclude is None:
        return queries, np.empty(0, dtype=np.int64)
    return queries, exclude if isinstance(exclude, np.ndarray) else to_numpy(exclude)


def _columns(columns: Tensor, keys: FusedPoints) -> np.ndarray:
    return np.ascontiguousarray(to_numpy(columns), dtype=keys.dtype)


def _even(columns: Tensor) -> Tensor:
    """Append a column of zeros where the number of columns (b, k, n) is odd."""
    if columns.shape[1] % 2 == 0:
        return columns
    return torch.cat([columns, torch.zeros_like(columns[:, :1])], dim=1)


def _in_threads(task: Callable[[int, int], int], pairs: Pairs, n_numbers: int) -> int:
    """Run the task over all blocks of queries, in several threads where that pays.

    A pair reads so many numbers. Returns the sum of what the task returns.
    """
    n_blocks = len(pairs)
    worth = int(min(pairs.possible / tuning.PAIRS_PER_THREAD, n_blocks))
    n_threads = max(1, min(available_threads(), worth))
    n_calls = 1 if n_threads == 1 else n_threads * tuning.CALLS_PER_THREAD
    largest = max(1, n_blocks // n_calls)
    fewest = tuning.NUMBERS_PER_CALL * n_blocks / max(1, pairs.possible * n_numbers)
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
        if seconds < tuning.SHORT_CALL:
            self.size = min(2 * self.size, self.largest)
        elif seconds > tuning.LONG_CALL:
            self.size = max(1, self.size // 2)
