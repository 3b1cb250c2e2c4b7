"""Exact sums in one feature, in time by the number of points and not of pairs.

Keys and queries are sorted, and one sweep over both has all sums, whatever the bandwidth: see
`sknw.sums.evaluators.compiled.sweeps`. What a kernel must be for that is a polynomial of the
distance within its support, or a cosine or an exponential times one. Then so are its derivative by
the squared distance ``dK/ds = K'(u) / 2u``, times a step or its square, and its product with any
power of a step.

The sweeps are compiled. Until they are, and for few pairs, `Blocks` does the same sums.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.kernels import Kernel
from sknw.sums.algorithms.algorithm import Algorithm, Gradients, Wanted, asked_for
from sknw.sums.algorithms.blocks import Blocks
from sknw.sums.algorithms.costs import seconds_of_sweeps
from sknw.sums.evaluators.compiled.readiness import LOOPS
from sknw.sums.evaluators.registry import FUSED, evaluator_for, likely_evaluator
from sknw.sums.geometry.distances import edge_allowance
from sknw.sums.monomials import Monomials
from sknw.sums.problem import Problem
from sknw.support import tuning
from sknw.support.ordering import ascending_order
from sknw.support.threads import n_threads, shared_out

_MOST_ORDER = 8
_U = Polynomial([0.0, 1.0])
# Kernels that are polynomials of the distance u within their support.
_POLYNOMIALS = {
    "tophat": _U**0,
    "linear": 1 - _U,
    "epanechnikov": 1 - _U**2,
    "biweight": (1 - _U**2) ** 2,
    "triweight": (1 - _U**2) ** 3,
    "tricube": (1 - _U**3) ** 3,
}
_FAMILIES = (*_POLYNOMIALS, "cosine", "exponential")


@dataclass(frozen=True, eq=False)
class Expansion:
    """A kernel times powers of the step, as the sweeps take it.

    Parameters
    ----------
    n_functions : int
        How many functions beside powers there are; 0 for an exponential.
    before, behind : ndarray of shape (p, s)
        Coefficients for the keys before and behind a query.
    at_zero : float
        The kernel's weight of keys where the query is.
    """

    n_functions: int
    before: np.ndarray
    behind: np.ndarray
    at_zero: float

    @property
    def factorials(self) -> np.ndarray:
        """Those of the powers, (s,)."""
        n_functions = max(1, self.n_functions)
        n_powers = self.before.shape[1] // n_functions
        return np.array([float(math.factorial(power)) for power in range(n_powers)] * n_functions)

    @classmethod
    def of(cls, kernel: Kernel, powers: tuple[int, ...]) -> "Expansion":
        """Expand ``(z − q)^a K`` for the powers a."""
        family, form = kernel.formula
        at_zero = float(kernel.profile(torch.zeros(1, dtype=torch.float64)))
        return cls(*_expanded(family, form, powers), at_zero)


@lru_cache(maxsize=64)
def _expanded(
    family: str, form: str, powers: tuple[int, ...]
) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the number of functions, and the coefficients before and behind a query."""
    if family == "exponential":
        expand, n_functions = _of_exponential, 0
    elif family == "cosine":
        expand, n_functions = _of_cosine, 3 if form == "square" else 2
    else:
        expand, n_functions = _of_polynomial(_POLYNOMIALS[family]), 1
    rows = [expand(form, power) for power in powers]
    degree = max(len(function) for row in rows for function in row)
    before = np.zeros((len(rows), max(1, n_functions), degree))
    for at, row in zip(before, rows, strict=True):
        for function, coefficients in zip(at, row, strict=True):
            function[: len(coefficients)] = coefficients
    before = before.reshape(len(rows), -1)
    signs = np.array([(-1.0) ** power for power in powers])[:, None]
    if family == "exponential":  # its moments are of the step itself
        return n_functions, before, signs * before
    return n_functions, signs * before, before


def _singular() -> np.ndarray:
    """Return what stands for a derivative like 1/u: only its products with steps are finite."""
    return np.full(1, np.nan)


def _at_edge(polynomial: Polynomial) -> np.ndarray:
    """Return coefficients in ``t = 1 − u`` of a polynomial in u."""
    return polynomial(1 - _U).coef


def _of_polynomial(kernel: Polynomial) -> Callable[[str, int], list[np.ndarray]]:
    def expand(form: str, power: int) -> list[np.ndarray]:
        if form == "profile":
            return [_at_edge(kernel * _U**power)]
        if form == "square":
            return [_at_edge(kernel**2 * _U**power)]
        doubled = kernel.deriv() * _U**power  # 2u dK/ds u^a
        if doubled.coef[0] != 0:
            return [_singular()]
        return [_at_edge(Polynomial(np.append(doubled.coef[1:], 0.0)) / 2)]

    return expand


def _of_cosine(form: str, power: int) -> list[np.ndarray]:
    """With ``cos(πu/2) = sin(πt/2)``, in cosines and sines of ``πt/2``."""
    zero = np.zeros(1)
    if form == "profile":
        return [zero, _at_edge(_U**power)]
    if form == "square":  # products cos², cos sin, sin²
        return [zero, zero, _at_edge(_U**power)]
    if power == 0:
        return [_singular(), zero]
    return [_at_edge(-np.pi / 4 * _U ** (power - 1)), zero]  # sin(πu/2) = cos(πt/2)


def _of_exponential(form: str, power: int) -> list[np.ndarray]:
    """In powers of the step ``z − q = −u`` of a key before the query."""
    if form == "profile":
        return [(_U**power).coef]
    if power == 0:
        return [_singular()]
    return [(0.5 * _U ** (power - 1)).coef]


@dataclass(frozen=True, eq=False)
class SortedPoints:
    """Points of one member of the batch, ascending, as float64.

    Parameters
    ----------
    order : ndarray of shape (n,) or None
        Which point stands at each place; None: they stood so already.
    points : ndarray of shape (n,)
        The points.
    edges : ndarray of shape (n,) or (0,)
        Their allowances at the edge of the support; none where there is no edge.
    """

    order: np.ndarray | None
    points: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, kernel: Kernel, rows: Tensor) -> "SortedPoints":
        """Sort points (n, 1)."""
        points = to_numpy(rows[:, 0]).astype(np.float64)
        edges = np.empty(0)
        if kernel.has_edge:
            edges = to_numpy(edge_allowance(kernel, rows[None])[0]).astype(np.float64)
        order = ascending_order(points)
        if order is None:
            return cls(None, points, edges)
        return cls(order, points[order], edges[order] if len(edges) else edges)

    def __len__(self) -> int:
        return len(self.points)

    def arranged(self, values: np.ndarray) -> np.ndarray:
        """Return values (..., n) of the points in their order."""
        return values if self.order is None else values[..., self.order]

    @cached_property
    def places(self) -> np.ndarray | None:
        """Where each point stands, (n,); None: where it stood."""
        if self.order is None:
            return None
        places = np.empty_like(self.order)
        places[self.order] = np.arange(len(places))
        return places

    @cached_property
    def mirrored(self) -> "SortedPoints":
        """The points with the other sign."""
        return SortedPoints(None, _turned(-self.points), _turned(self.edges))


def _turned(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values[..., ::-1])


@dataclass(frozen=True, eq=False)
class SortedColumns:
    """Value columns (k, n) of ascending keys.

    Parameters
    ----------
    keys : SortedPoints
        The keys.
    values : ndarray of shape (k, n)
        The columns.
    """

    keys: SortedPoints
    values: np.ndarray
    _moments: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: SortedPoints, columns: np.ndarray) -> "SortedColumns":
        """Arrange columns (k, n)."""
        values = [keys.arranged(column) for column in columns]  # one by one it is quicker
        return cls(keys, np.array(values, dtype=np.float64))

    @cached_property
    def beside(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums (k, n) over equal keys that stand before and behind each; (k, 0) without any."""
        is_equal = self.keys.points[1:] == self.keys.points[:-1]
        if not is_equal.any():
            nothing = np.empty((len(self.values), 0))
            return nothing, nothing
        starts = np.append(True, ~is_equal)
        behind = _sums_before(self.values[:, ::-1], np.append(True, ~is_equal[::-1]))
        return _sums_before(self.values, starts), _turned(behind)

    @cached_property
    def mirrored(self) -> "SortedColumns":
        """The columns of the mirrored keys."""
        return SortedColumns(self.keys.mirrored, _turned(self.values))

    def moments(self, n_functions: int, n_rows: int) -> np.ndarray:
        """Return the moments (b, s, k) of blocks of keys."""
        like = n_functions, n_rows
        if like not in self._moments:
            loops = LOOPS.module()
            out = np.zeros((len(self.keys) // loops.BLOCK, n_rows, len(self.values)))
            loops.add_block_moments(self.keys.points, self.values, n_functions, out)
            self._moments[like] = out
        return self._moments[like]


def _sums_before(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the sums (k, n) of what stands before each column of values in its group.

    Groups are summed one by one: nothing of one is left over in another.
    """
    found, starts = np.zeros(values.shape), np.flatnonzero(starts)
    ends = np.append(starts[1:], values.shape[1])
    for size in np.unique(ends - starts):
        if size > 1:
            groups = starts[ends - starts == size][:, None] + np.arange(size)
            found[:, groups[:, 1:]] = np.cumsum(values[:, groups[:, :-1]], axis=2)
    return found


@dataclass(frozen=True, eq=False)
class SortedState:
    """Sorted keys with their columns, for each member of the batch; and pruned blocks if needed."""

    kernel: Kernel
    keys: Tensor
    columns: Tensor
    monomials: Monomials | None
    like: "SortedState | None"
    blocks: Blocks
    _members: dict[int, SortedPoints] = field(default_factory=dict)

    @cached_property
    def members(self) -> list[SortedPoints]:
        """The keys of each member of the batch."""
        if self.like is not None and self.like.kernel.has_edge == self.kernel.has_edge:
            return self.like.members
        return [SortedPoints.of(self.kernel.member(b), rows) for b, rows in enumerate(self.keys)]

    @cached_property
    def sorted_columns(self) -> list[SortedColumns]:
        """The columns of each member of the batch."""
        pairs = zip(self.members, to_numpy(self.columns), strict=True)
        return [SortedColumns.of(keys, columns) for keys, columns in pairs]

    @cached_property
    def by_blocks(self) -> Any:
        """What pruned blocks prepare for the same keys."""
        like = None if self.like is None else self.like.by_blocks
        return self.blocks.prepare(
            self.kernel, self.keys, self.columns, like, monomials=self.monomials
        )


@dataclass(frozen=True, eq=False)
class SortedPlan:
    """Queries, the key that each leaves out, and the plan of pruned blocks where they do it."""

    queries: Tensor | None
    exclude: Tensor | None
    by_blocks: Any | None


class Sorted(Algorithm):
    """One sweep over sorted queries and keys."""

    name = "sorted"
    is_linear = True

    def unsupported_reasons(self, problem: Problem) -> list[str]:
        """Say what cannot be swept."""
        kernel, reasons = problem.kernel, []
        formula = kernel.formula or (None, None)
        if formula[0] not in _FAMILIES or formula[1] == "derivative":
            reasons.append(f"kernel {kernel.name!r} is no polynomial, cosine or exponential")
        if kernel.codes is not None:
            reasons.append("categories have no order")
        if problem.n_features != 1:
            reasons.append(f"one embedded dimension, not {problem.n_features}")
        if problem.order > _MOST_ORDER:
            reasons.append(f"moments to order {_MOST_ORDER}, not {problem.order}")
        if problem.device.type != "cpu":
            reasons.append(f"runs on the CPU, not on {problem.device}")
        if not LOOPS.installed:
            reasons.append("numba is not installed (pip install numba)")
        return reasons

    def seconds(self, problem: Problem) -> float:
        """Sorting and sweeps; not to be tried as long as blocks would do it."""
        at = (problem.kernel, problem.dtype, problem.device)
        n_pairs = problem.n_queries * problem.n_keys
        if likely_evaluator(*at, n_pairs, problem.n_batch, problem.order) is not FUSED:
            return float("inf")
        powers = tuple(range(problem.order + 1))
        n_functions, coefficients, _ = _expanded(*problem.kernel.formula, powers)
        return seconds_of_sweeps(problem, n_functions, coefficients.shape[1])

    def prepare(
        self,
        kernel: Kernel,
        keys: Tensor,
        columns: Tensor,
        like: SortedState | None = None,
        *,
        monomials: Monomials | None = None,
    ) -> SortedState:
        """Keep the keys; they are sorted when first asked for."""
        like = like if like is not None and like.keys is keys else None
        return SortedState(kernel, keys, columns, monomials, like, Blocks(self.rtol))

    def plan(
        self, state: SortedState, queries: Tensor | None, exclude: Tensor | None
    ) -> SortedPlan:
        """Let pruned blocks plan if they have to do it."""
        keys, order = state.keys, 0 if state.monomials is None else state.monomials.order
        n_queries = (keys if queries is None else queries).shape[1]
        n_pairs = n_queries * keys.shape[1]
        evaluator = evaluator_for(state.kernel, keys.dtype, keys.device, n_pairs, len(keys), order)
        if evaluator is FUSED:
            return SortedPlan(queries, exclude, None)
        return SortedPlan(queries, exclude, state.blocks.plan(state.by_blocks, queries, exclude))

    def moments(self, state: SortedState, plan: SortedPlan, *, squares: bool = False) -> Tensor:
        """Return the plain moments, shape (b, p, k, m)."""
        if plan.by_blocks is not None:
            return state.blocks.moments(state.by_blocks, plan.by_blocks, squares=squares)
        powers = tuple(asked_for(state, squares=squares).exponents[:, 0].tolist())
        expansion = Expansion.of(state.kernel, powers)
        found = [self._moments(state, plan, b, expansion) for b in range(len(state.keys))]
        return to_tensor(np.stack(found), dtype=torch.float64, device="cpu")

    def _moments(
        self, state: SortedState, plan: SortedPlan, b: int, expansion: Expansion
    ) -> np.ndarray:
        """Return the moments (p, k, m) of a member of the batch."""
        keys, exclude = state.members[b], np.empty(0, dtype=np.int64)
        if plan.queries is None:
            queries, exclude = keys, np.arange(len(keys))
        else:
            queries = SortedPoints.of(state.kernel.member(b), plan.queries[b])
            if plan.exclude is not None:
                exclude = queries.arranged(_placed(to_numpy(plan.exclude), keys))
        is_single = state.keys.dtype == torch.float32
        sweep = _Sweep(queries, state.sorted_columns[b], exclude, is_single, expansion)
        found = sweep.moments()
        if queries.order is None:
            return found
        out = np.empty_like(found)
        for at in np.ndindex(out.shape[:2]):  # NumPy is several times slower for all at once
            out[at][queries.order] = found[at]
        return out

    def pullback(
        self, state: SortedState, plan: SortedPlan, grad: Tensor, wanted: Wanted
    ) -> Gradients:
        """Return the gradients of sums by sweeps, and of moments by pairs of blocks."""
        if plan.by_blocks is None and state.monomials is None:
            return super().pullback(state, plan, grad, wanted)
        planned = plan.by_blocks or state.blocks.plan(state.by_blocks, plan.queries, plan.exclude)
        return state.blocks.pullback(state.by_blocks, planned, grad, wanted)

    def report(self, state: SortedState, plan: SortedPlan) -> dict:
        """No pair is evaluated."""
        if plan.by_blocks is not None:
            return state.blocks.report(state.by_blocks, plan.by_blocks)
        return {"evaluator": FUSED.name, "share_of_pairs": 0.0}


def _placed(exclude: np.ndarray, keys: SortedPoints) -> np.ndarray:
    """Return where the keys stand that queries leave out, or -1."""
    if keys.places is None:
        return exclude
    return np.where(exclude >= 0, keys.places[np.maximum(exclude, 0)], -1)


@dataclass(frozen=True, eq=False)
class _Sweep:
    """Sums of one member of the batch, in the order of the sorted queries."""

    queries: SortedPoints
    columns: SortedColumns
    exclude: np.ndarray
    is_single: bool
    expansion: Expansion

    def moments(self) -> np.ndarray:
        """Return the moments (p, k, m)."""
        expansion, last = self.expansion, len(self.keys) - 1
        shape = len(expansion.before), len(self.columns.values), len(self.queries)
        out, mirrored, equal = np.zeros(shape), np.zeros(shape), np.zeros(shape[1:])
        turned = _turned(np.where(self.exclude >= 0, last - self.exclude, -1))
        mirror = self.queries.mirrored, self.columns.mirrored
        calls = self._calls(self.queries, self.columns, self.exclude, expansion.before, out)
        calls += self._calls(*mirror, turned, expansion.behind, mirrored)
        shared_out(lambda call, _: call(), calls, self._n_parts)
        out += mirrored[..., ::-1]
        if expansion.at_zero:
            LOOPS.module().add_equal_keys(
                self.keys.points, self.columns.values, *self.columns.beside,
                self.queries.points, self.exclude, 0, shape[2], equal,
            )  # fmt: skip
            out[0] += expansion.at_zero * equal
        return out

    @property
    def keys(self) -> SortedPoints:
        """The keys."""
        return self.columns.keys

    @property
    def _n_parts(self) -> int:
        """How many threads pay."""
        worth = (len(self.keys) + len(self.queries)) / tuning.POINTS_OF_A_SWEEP
        return max(1, min(n_threads(), int(worth)))

    def _calls(
        self,
        queries: SortedPoints,
        columns: SortedColumns,
        exclude: np.ndarray,
        coefficients: np.ndarray,
        out: np.ndarray,
    ) -> list[Callable]:
        """Return calls of a driver that add what queries get from the keys before them.

        Both directions are two parts of the work already.
        """
        loops, n_functions, keys = LOOPS.module(), self.expansion.n_functions, columns.keys
        scaled = coefficients * self.expansion.factorials
        if n_functions == 0:
            driver = loops.add_decaying_sums
            arguments = keys.points, columns.values, queries.points, exclude, scaled
        else:
            driver = loops.add_window_sums
            arguments = (
                keys.points, columns.values, columns.moments(n_functions, scaled.shape[1]),
                keys.edges, queries.points, queries.edges, exclude, self.is_single, n_functions,
                scaled, coefficients,
            )  # fmt: skip
        cuts = np.linspace(0, len(queries), (self._n_parts + 1) // 2 + 1).astype(int).tolist()
        parts = [part for part in pairwise(cuts) if part[0] < part[1]]
        return [partial(driver, *arguments, *part, out) for part in parts]
