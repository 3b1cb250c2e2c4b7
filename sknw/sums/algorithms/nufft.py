"""Gaussian sums by non-uniform FFT, with an audited error.

`fourier` sums with *absolute* error. Whether that is enough depends on the query: the error of a
ratio is the absolute error over the mass. So exact sums at a few keys come first. Their
masses say how accurate the transform must be, and the difference between both sums, times a
safety factor, is the audited error. It is never taken to be less than what rounding and the
tolerance make of the heaviest key, and where keys are much heavier than most, points about those
are audit points too. Queries with too little mass for the error, and queries outside the grid's
box, are inaccurate: the engine takes exact sums for them.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor, working_memory_bytes
from sknw.kernels import Kernel
from sknw.sums.algorithms import fourier
from sknw.sums.algorithms.algorithm import Algorithm, Gradients, Wanted
from sknw.sums.algorithms.blocks import Blocks
from sknw.sums.algorithms.costs import seconds_of_pairs, seconds_of_transforms
from sknw.sums.algorithms.dense import Dense
from sknw.sums.algorithms.fourier import FourierSums, Grid
from sknw.sums.algorithms.shares import share_inaccurate, share_of_near_pairs
from sknw.sums.monomials import Monomials
from sknw.sums.problem import Problem
from sknw.support import tuning
from sknw.support.threads import n_threads

_MOST_FEATURES = 3
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class NufftSet:
    """The transforms of one member of the batch, and what their error demands.

    Parameters
    ----------
    sums : FourierSums
        Transforms of the keys.
    tolerance : float
        Error aimed at, relative to the sum of a column's absolute values.
    error : float
        Audited error of the mass relative to the total weight; 0 where no audit was asked for.
    least_mass : float
        Below this mass, a row is inaccurate.
    """

    sums: FourierSums
    tolerance: float
    error: float = 0.0
    least_mass: float = 0.0


@dataclass(frozen=True, eq=False)
class NufftState:
    """Keys with their value columns, and the transforms of each member of the batch."""

    kernel: Kernel
    keys: Tensor
    columns: Tensor
    sets: list[NufftSet]
    monomials: Monomials


@dataclass(frozen=True, eq=False)
class NufftPlan:
    """Queries, the key that each leaves out, and which ones lie within the grid."""

    queries: Tensor | None
    exclude: Tensor | None
    served: list[np.ndarray]


class Nufft(Algorithm):
    """Non-uniform fast Fourier transforms (finufft)."""

    name = "nufft"
    is_approximate = True
    is_linear = True

    def unsupported_reasons(self, problem: Problem) -> list[str]:
        """Say what has no fast transform, or no room for its grid."""
        kernel, reasons = problem.kernel, []
        if kernel.formula != ("gaussian", "profile"):
            reasons.append(f"kernel {kernel.name!r} has no fast transform")
        if kernel.codes is not None:
            reasons.append("categories have no fast transform")
        if problem.n_features > _MOST_FEATURES:
            reasons.append(
                f"at most {_MOST_FEATURES} embedded dimensions, not {problem.n_features}"
            )
        if problem.dtype != torch.float64:
            reasons.append("needs float64")
        if problem.device.type != "cpu":
            reasons.append(f"runs on the CPU, not on {problem.device}")
        if not fourier.available():
            reasons.append(
                fourier.broken_because() or "finufft is not installed (pip install finufft)"
            )
        is_new = problem.keys is not None and self.name not in problem.prepared
        if not reasons and is_new and self._grid(problem) is None:
            reasons.append(
                "the bandwidth is so small beside the range of the keys that its grid would exceed "
                f"{_grid_bytes() / 2**20:.0f} MiB "
                f"({tuning.GRID_SHARE_OF_MEMORY:.0%} of the working memory)"
            )
        return reasons

    def _grid(self, problem: Problem) -> Grid | None:
        """Return the grid that the first member of the batch would need."""
        if "grid" not in problem.memo:
            keys = to_numpy(problem.keys[0])
            grid = _grid_of(
                keys,
                self._typical_tolerance,
                problem.order,
                low_upsampling=self._may_have_low_upsampling,
            )
            problem.memo["grid"] = grid
        return problem.memo["grid"]

    @property
    def _may_have_low_upsampling(self) -> bool:
        return self.rtol >= tuning.LOW_UPSAMPLING_RTOL

    @property
    def _typical_tolerance(self) -> float:
        return float(np.clip(1e-4 * self.rtol, *tuning.TRANSFORM_TOLERANCES))

    def seconds(self, problem: Problem) -> float:
        """Add up transforms, and exact sums at the audit points and of inaccurate rows."""
        grid = self._grid(problem)
        n_points = problem.n_queries
        n_audit_points = 0 if self.name in problem.prepared else tuning.AUDIT_POINTS
        if n_audit_points:
            n_points += problem.n_keys
        inaccurate = share_inaccurate(problem, grid, tuning.TRANSFORM_TOLERANCES[0] / self.rtol)
        near = share_of_near_pairs(problem, tuning.NO_SHARE, tuning.TAIL_KEYS_PER_BLOCK)
        n_exact = n_audit_points * problem.n_keys + inaccurate * near * problem.n_pairs
        transforms = seconds_of_transforms(problem, grid.n_points, n_points)
        return transforms + seconds_of_pairs(problem, n_exact)

    def prepare(
        self,
        kernel: Kernel,
        keys: Tensor,
        columns: Tensor,
        like: NufftState | None = None,
        *,
        monomials: Monomials | None = None,
    ) -> NufftState:
        """Transform the keys; as accurately as audit points say, or as the earlier state was."""
        monomials = monomials or Monomials.up_to(keys.shape[2], 0)
        if like is None:
            members = zip(keys, columns, strict=True)
            sets = [self._audited(kernel, *member, monomials) for member in members]
        else:
            sets = [
                _transformed(
                    to_numpy(points),
                    to_numpy(values),
                    earlier.tolerance,
                    monomials.order,
                    low_upsampling=earlier.sums.grid.has_low_upsampling,
                )
                for points, values, earlier in zip(keys, columns, like.sets, strict=True)
            ]
        return NufftState(kernel, keys, columns, sets, monomials)

    def _audited(
        self, kernel: Kernel, keys: Tensor, columns: Tensor, monomials: Monomials
    ) -> NufftSet:
        """Transform as accurately as the audit points' masses ask for, and measure the error there.

        A grid of low upsampling is kept if it turns out to be good enough for poor audit points,
        with a safety factor.
        """
        spread_out = _spread_out(len(keys))
        audit_points = np.concatenate([to_numpy(keys[spread_out]), _about_heavy(keys, columns[0])])
        points, values = to_numpy(keys), to_numpy(columns)
        audit = _Audit.of(kernel, keys, columns, audit_points, self.rtol, monomials)
        masses = audit.exact[0, 0, : len(spread_out)]
        poor_mass = float(np.quantile(masses, tuning.POOR_AUDIT_POINTS))
        aim = (
            tuning.AIM_SAFETY_FACTOR
            * poor_mass
            / audit.least_mass(audit.sizes_of(np.abs(values).sum(axis=1)))
        )
        tolerance = float(np.clip(aim, *tuning.TRANSFORM_TOLERANCES))
        for low_upsampling in (True, False) if self._may_have_low_upsampling else (False,):
            found = _transformed(
                points, values, tolerance, monomials.order, low_upsampling=low_upsampling
            )
            errors = audit.errors(found)
            least_mass = audit.least_mass(errors)
            if (
                not found.sums.grid.has_low_upsampling
                or least_mass <= tuning.AIM_SAFETY_FACTOR * poor_mass
            ):
                break
        error = float(errors[0, 0] / values[0].sum())
        return replace(found, error=error, least_mass=least_mass)

    def plan(self, state: NufftState, queries: Tensor | None, exclude: Tensor | None) -> NufftPlan:
        """Nothing is to be known before the sums."""
        return NufftPlan(queries, exclude, [])

    def moments(self, state: NufftState, plan: NufftPlan, *, squares: bool = False) -> Tensor:
        """Return the plain moments, (b, p, k, m), 0 at queries outside the grid's box."""
        found, exponents = [], list(map(tuple, state.monomials.exponents.tolist()))
        for b, member in enumerate(state.sets):
            points = member.sums.keys if plan.queries is None else to_numpy(plan.queries[b])
            moments, served = member.sums.moments_at(points, exponents)
            if plan.queries is None:
                # a key's weight for itself is 1, and its step zero
                moments[0] -= to_numpy(state.columns[b])
            plan.served.append(served)
            found.append(to_tensor(moments, dtype=torch.float64, device="cpu"))
        total = found[0][None] if len(found) == 1 else torch.stack(found)
        if plan.exclude is not None:
            total -= _left_out(state, plan)
        return (
            total
            if state.kernel.formula[1] == "profile"
            else total * state.kernel.derivative_factor
        )

    def pullback(
        self, state: NufftState, plan: NufftPlan, grad: Tensor, wanted: Wanted
    ) -> Gradients:
        """Return the gradients of sums by transforms, and of moments by pairs of blocks.

        The latter are moments of one order more, in as many columns as there are moments.
        """
        if state.monomials.order == 0:
            return super().pullback(state, plan, grad, wanted)
        blocks = Blocks(self.rtol)
        exact = blocks.prepare(state.kernel, state.keys, state.columns, monomials=state.monomials)
        return blocks.pullback(exact, blocks.plan(exact, plan.queries, plan.exclude), grad, wanted)

    def inaccurate_rows(self, state: NufftState, plan: NufftPlan, sums: Tensor) -> Tensor:
        """Return rows outside the box, or whose mass is too little for the audited error."""
        rows = []
        for member, served, mass in zip(state.sets, plan.served, sums[:, 0], strict=True):
            within = to_tensor(served, dtype=torch.bool, device="cpu")
            rows.append(~within | (mass < member.least_mass))
        return torch.stack(rows)

    def report(self, state: NufftState, plan: NufftPlan) -> dict:
        """Return the audited error; no pair was evaluated but at the audit points."""
        return {
            "evaluator": "finufft",
            "share_of_pairs": 0.0,
            "audited_error": max(member.error for member in state.sets),
        }


def _left_out(state: NufftState, plan: NufftPlan) -> Tensor:
    """Return what the excluded keys add to each query's moments, (b, p, k, m)."""
    excludes = plan.exclude >= 0
    index = plan.exclude.clamp_min(0)
    steps = state.keys[:, index] - plan.queries  # (b, m, d)
    weights = torch.exp(-steps.square().sum(dim=-1) / 2).masked_fill(~excludes, 0.0)
    columns, found = state.columns[:, :, index], [None] * len(state.monomials)
    for place, product in state.monomials.times(weights, list(steps.unbind(dim=-1))):
        found[place] = product[:, None] * columns
    return torch.stack(found, dim=1)


def _exact_moments(
    kernel: Kernel, keys: Tensor, columns: Tensor, queries: Tensor, monomials: Monomials
) -> Tensor:
    """Return moments (p, k, m) at a few queries (m, d)."""
    dense = Dense(0.0)
    only_sums = monomials.order == 0
    state = dense.prepare(
        kernel, keys[None], columns[None], monomials=None if only_sums else monomials
    )
    return dense.moments(state, dense.plan(state, queries[None], None))[0]


def _spread_out(n: int) -> np.ndarray:
    """Return indices of at most `AUDIT_POINTS` of n keys."""
    return np.unique(np.linspace(0, n - 1, tuning.AUDIT_POINTS).astype(np.int64))


def _about_heavy(keys: Tensor, weights: Tensor) -> np.ndarray:
    """Return points (m, d) at and about the heaviest keys (n, d); none where all are alike.

    The error is largest there, and a sum that leaves such a key out is all cancellation.
    """
    heaviest = weights.topk(min(tuning.MOST_HEAVY_KEYS, len(weights))).indices
    points = to_numpy(keys[heaviest[weights[heaviest] > tuning.HEAVY_KEY * weights.mean()]])
    towards = np.ones(points.shape[1]) / math.sqrt(points.shape[1])
    distances = tuning.DISTANCES_ABOUT_HEAVY
    return np.concatenate([points + distance * towards for distance in distances])


@dataclass(frozen=True, eq=False)
class _Audit:
    """Exact moments at audit points, and what an error of the moments means for their ratios.

    Parameters
    ----------
    audit_points : ndarray of shape (m, d)
        Where the sums are known.
    exact : ndarray of shape (p, k, m)
        The moments there.
    largest : ndarray of shape (k,)
        Largest absolute value of each column.
    sizes, ranges : ndarray of shape (k - 1,)
        Largest absolute value, and range, of the values whose weighted means are asked for.
    rtol : float
        Largest error of a mean, relative to the range.
    largest_steps : ndarray of shape (p,)
        Largest value of each ``t^a K``, at least 1.
    exponents : list of tuple of int
        The exponents a.
    """

    audit_points: np.ndarray
    exact: np.ndarray
    largest: np.ndarray
    sizes: np.ndarray
    ranges: np.ndarray
    rtol: float
    largest_steps: np.ndarray
    exponents: list[tuple[int, ...]]

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        keys: Tensor,
        columns: Tensor,
        audit_points: np.ndarray,
        rtol: float,
        monomials: Monomials,
    ) -> "_Audit":
        """Sum over all pairs of an audit point and a key."""
        queries = to_tensor(audit_points, dtype=keys.dtype, device="cpu")
        exact = to_numpy(_exact_moments(kernel, keys, columns, queries, monomials))
        # u^a exp(−u²/2) is largest at u = √a
        halves = monomials.exponents / 2
        largest_steps = np.exp(halves * np.log(np.maximum(2 * halves, 1)) - halves).prod(axis=1)
        columns = to_numpy(columns)
        in_use = columns[0] > 0
        values = columns[1:, in_use] / columns[0, in_use]
        sizes, ranges = np.abs(values).max(axis=1), np.ptp(values, axis=1)
        largest = np.abs(columns).max(axis=1)
        largest_steps = np.maximum(largest_steps, 1)
        exponents = list(map(tuple, monomials.exponents.tolist()))
        return cls(audit_points, exact, largest, sizes, ranges, rtol, largest_steps, exponents)

    def sizes_of(self, columns: np.ndarray) -> np.ndarray:
        """Return how large the moments (p, k) of columns of such sizes (k,) may be."""
        return self.largest_steps[:, None] * columns

    def errors(self, found: NufftSet) -> np.ndarray:
        """Return about the largest error of each column's moments anywhere, (p, k).

        At the audit points, times a safety factor; and at least what the tolerance leaves of the
        heaviest key, and rounding of the largest sum.
        """
        moments, served = found.sums.moments_at(self.audit_points, self.exponents)
        seen = np.abs(moments - self.exact)[..., served].max(axis=2, initial=0.0)
        rounding = _EPS * self.exact[0, 0].max() * np.append(1.0, self.sizes)
        at_least = self.sizes_of(found.tolerance * self.largest + rounding)
        return np.maximum(tuning.AUDIT_SAFETY_FACTOR * seen, at_least)

    def least_mass(self, errors: np.ndarray) -> float:
        """Return the mass at which errors (p, k) of moments are just tolerable for their ratios.

        An error e of a sum and e₀ of the mass move a ratio by at most ``(e + |value| e₀) / mass``.
        Moments of the weights alone count beside the mass as they are.
        """
        varies = self.ranges > 0
        moved = (errors[:, 1:] + self.sizes * errors[:, :1])[:, varies] / self.ranges[varies]
        of_weights = errors[:, 0] if len(errors) > 1 or not varies.any() else 0.0
        return float(max(np.max(moved, initial=0.0), np.max(of_weights)) / self.rtol)


def _grid_bytes() -> int:
    return int(tuning.GRID_SHARE_OF_MEMORY * working_memory_bytes())


def _grid_of(
    keys: np.ndarray, tolerance: float, order: int, *, low_upsampling: bool
) -> Grid | None:
    return Grid.of(keys, tolerance, _grid_bytes(), order=order, low_upsampling=low_upsampling)


def _transformed(
    keys: np.ndarray, columns: np.ndarray, tolerance: float, order: int, *, low_upsampling: bool
) -> NufftSet:
    """Transform the keys that have a say, without an audit."""
    in_use = columns.any(axis=0)
    points = keys if in_use.all() else keys[in_use]
    if len(points) == 0:
        points = keys[:1]
    grid = _grid_of(points, tolerance, order, low_upsampling=low_upsampling)
    while grid is None:  # accuracy costs memory; inaccurate rows get exact sums
        if tolerance > tuning.TRANSFORM_TOLERANCES[1]:
            raise ValueError(
                "No algorithm can do this problem: nufft: a grid for these points would exceed "
                f"{_grid_bytes() / 2**20:.0f} MiB. Use algorithm='auto'."
            )
        tolerance *= 10
        grid = _grid_of(points, tolerance, order, low_upsampling=low_upsampling)
    return NufftSet(FourierSums.of(keys, columns, grid, n_threads()), tolerance)
