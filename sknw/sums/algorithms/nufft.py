"""Gaussian sums by non-uniform FFT, with an audited error.

`fourier` sums with *absolute* error. Whether that is enough depends on the query: the error of a
ratio is the absolute error over the mass. So exact sums at a few keys come first. Their
masses say how accurate the transform must be, and the difference between both sums, times a
safety factor, is the audited error. It is never taken to be less than what rounding and the
tolerance make of the heaviest key, and where keys are much heavier than most, points about those
are probes too. Queries with too little mass for the error, and queries outside the grid's box, are
doubtful: the engine does them again exactly.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor, working_memory_bytes
from sknw.kernels import Kernel
from sknw.sums.algorithms import fourier
from sknw.sums.algorithms.algorithm import Algorithm
from sknw.sums.algorithms.costs import seconds_of_pairs, seconds_of_transforms
from sknw.sums.algorithms.dense import Dense
from sknw.sums.algorithms.fourier import FourierSums, Grid
from sknw.sums.algorithms.reach import share_in_reach, share_of_doubt
from sknw.sums.geometry.interactions import NO_SHARE
from sknw.sums.problem import Problem
from sknw.support.threads import n_threads

_MOST_FEATURES = 3
_PROBES = 64
# Keys so many times as heavy as the mean are heavy; so many of them have probes about them, at
# distances from the key itself to where it is about to vanish.
_HEAVY, _MOST_HEAVY, _ABOUT_HEAVY = 8.0, 16, (0.0, 2.5, 6.0)
_EPS = float(np.finfo(np.float64).eps)
_SAFETY = 5.0  # the largest error at all queries beside the largest at the probes
_POOREST = 0.1  # share of the probes whose mass may be too little for the planned accuracy
_HEADROOM = 0.1
_FRUGAL_RTOL = 3e-9  # down to which a frugal grid is worth a trial
_TOLERANCES = 1e-14, 1e-5
_SHARE_OF_MEMORY = 0.75  # of the working memory, for the grid
_KEY_BLOCK = 256  # of the exact sums that rows in doubt are done by


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
        Below this mass, a row is doubtful.
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


@dataclass(frozen=True, eq=False)
class NufftPlan:
    """Queries, the key that each leaves out, and which ones lie within the grid."""

    queries: Tensor | None
    exclude: Tensor | None
    served: list[np.ndarray]


class Nufft(Algorithm):
    """Non-uniform fast Fourier transforms (finufft)."""

    name = "nufft"

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
                f"{_grid_bytes() / 2**20:.0f} MiB ({_SHARE_OF_MEMORY:.0%} of the working memory)"
            )
        return reasons

    def _grid(self, problem: Problem) -> Grid | None:
        """Return the grid that the first member of the batch would need."""
        if "grid" not in problem.memo:
            keys = to_numpy(problem.keys[0])
            grid = _grid_of(keys, self._typical_tolerance, frugal=self.rtol >= _FRUGAL_RTOL)
            problem.memo["grid"] = grid
        return problem.memo["grid"]

    @property
    def _typical_tolerance(self) -> float:
        return float(np.clip(1e-4 * self.rtol, *_TOLERANCES))

    def seconds(self, problem: Problem) -> float:
        """Add up transforms of keys and queries, exact sums at the probes and of rows in doubt."""
        grid = self._grid(problem)
        n_points = problem.n_queries
        n_probes = 0 if self.name in problem.prepared else _PROBES
        if n_probes:
            n_points += problem.n_keys
        doubtful = share_of_doubt(problem, grid, _TOLERANCES[0] / self.rtol)
        n_exact = n_probes * problem.n_keys
        n_exact += doubtful * share_in_reach(problem, NO_SHARE, _KEY_BLOCK) * problem.n_pairs
        transforms = seconds_of_transforms(problem, grid.n_points, n_points)
        return transforms + seconds_of_pairs(problem, n_exact)

    def prepare(
        self, kernel: Kernel, keys: Tensor, columns: Tensor, like: NufftState | None = None
    ) -> NufftState:
        """Transform the keys; as accurately as probes say, or as the earlier state was."""
        if like is None:
            sets = [self._audited(kernel, *member) for member in zip(keys, columns, strict=True)]
        else:
            sets = [
                _transformed(
                    to_numpy(points),
                    to_numpy(values),
                    earlier.tolerance,
                    frugal=earlier.sums.grid.is_frugal,
                )
                for points, values, earlier in zip(keys, columns, like.sets, strict=True)
            ]
        return NufftState(kernel, keys, columns, sets)

    def _audited(self, kernel: Kernel, keys: Tensor, columns: Tensor) -> NufftSet:
        """Transform as accurately as the probes' masses ask for, and measure the error there.

        A frugal grid is kept if it turns out to be good enough for poor probes, with headroom.
        """
        spread_out = _spread_out(len(keys))
        probes = np.concatenate([to_numpy(keys[spread_out]), _about_heavy(keys, columns[0])])
        points, values = to_numpy(keys), to_numpy(columns)
        audit = _Audit.of(kernel, keys, columns, probes, self.rtol)
        poor_mass = float(np.quantile(audit.exact[0, : len(spread_out)], _POOREST))
        aim = _HEADROOM * poor_mass / audit.least_mass(np.abs(values).sum(axis=1))
        tolerance = float(np.clip(aim, *_TOLERANCES))
        for frugal in (True, False) if self.rtol >= _FRUGAL_RTOL else (False,):
            found = _transformed(points, values, tolerance, frugal=frugal)
            errors = audit.errors(found)
            least_mass = audit.least_mass(errors)
            if not found.sums.grid.is_frugal or least_mass <= _HEADROOM * poor_mass:
                break
        error = float(errors[0] / values[0].sum())
        return replace(found, error=error, least_mass=least_mass)

    def plan(self, state: NufftState, queries: Tensor | None, exclude: Tensor | None) -> NufftPlan:
        """Nothing is to be known before the sums."""
        return NufftPlan(queries, exclude, [])

    def sums(self, state: NufftState, plan: NufftPlan) -> Tensor:
        """Return the plain sums, shape (b, k, m), 0 at queries outside the grid's box."""
        found = []
        for b, member in enumerate(state.sets):
            if plan.queries is None:
                sums, served = member.sums.at_keys()
                sums -= to_numpy(state.columns[b])  # K(0) = 1
            else:
                sums, served = member.sums.at(to_numpy(plan.queries[b]))
            plan.served.append(served)
            found.append(to_tensor(sums, dtype=torch.float64, device="cpu"))
        total = found[0][None] if len(found) == 1 else torch.stack(found)
        if plan.exclude is not None:
            total -= _left_out(state, plan)
        return total if state.kernel.formula[1] == "profile" else total * state.kernel.slope_factor

    def doubtful(self, state: NufftState, plan: NufftPlan, sums: Tensor) -> Tensor:
        """Rows outside the box, or whose mass is too little for the audited error."""
        rows = []
        for member, served, mass in zip(state.sets, plan.served, sums[:, 0], strict=True):
            within = to_tensor(served, dtype=torch.bool, device="cpu")
            rows.append(~within | (mass < member.least_mass))
        return torch.stack(rows)

    def report(self, state: NufftState, plan: NufftPlan) -> dict:
        """Return the audited error; no pair was evaluated but at the probes."""
        return {
            "evaluator": "finufft",
            "share_of_pairs": 0.0,
            "audited_error": max(member.error for member in state.sets),
        }


def _left_out(state: NufftState, plan: NufftPlan) -> Tensor:
    """Return what the excluded keys add to each query's sums, (b, k, m)."""
    excludes = plan.exclude >= 0
    index = plan.exclude.clamp_min(0)
    sq = (plan.queries - state.keys[:, index]).square().sum(dim=-1)  # (b, m)
    weights = torch.exp(-sq / 2).masked_fill(~excludes, 0.0)
    return weights[:, None] * state.columns[:, :, index]


def _dense_sums(kernel: Kernel, keys: Tensor, columns: Tensor, queries: Tensor) -> Tensor:
    dense = Dense(0.0)
    state = dense.prepare(kernel, keys[None], columns[None])
    return dense.sums(state, dense.plan(state, queries[None], None))[0]


def _spread_out(n: int) -> np.ndarray:
    """Return indices of at most `_PROBES` of n keys."""
    return np.unique(np.linspace(0, n - 1, _PROBES).astype(np.int64))


def _about_heavy(keys: Tensor, weights: Tensor) -> np.ndarray:
    """Return points (m, d) at and about the heaviest keys (n, d); none where all are alike.

    The error is largest there, and a sum that leaves such a key out is all cancellation.
    """
    heaviest = weights.topk(min(_MOST_HEAVY, len(weights))).indices
    points = to_numpy(keys[heaviest[weights[heaviest] > _HEAVY * weights.mean()]])
    towards = np.ones(points.shape[1]) / math.sqrt(points.shape[1])
    return np.concatenate([points + distance * towards for distance in _ABOUT_HEAVY])


@dataclass(frozen=True, eq=False)
class _Audit:
    """Exact sums at probes, and what an error of the sums means for their ratios.

    Parameters
    ----------
    probes : ndarray of shape (m, d)
        Where the sums are known.
    exact : ndarray of shape (k, m)
        The sums there.
    largest : ndarray of shape (k,)
        Largest absolute value of each column.
    sizes, ranges : ndarray of shape (k - 1,)
        Largest absolute value, and range, of the values whose weighted means are asked for.
    rtol : float
        Largest error of a mean, relative to the range.
    """

    probes: np.ndarray
    exact: np.ndarray
    largest: np.ndarray
    sizes: np.ndarray
    ranges: np.ndarray
    rtol: float

    @classmethod
    def of(
        cls, kernel: Kernel, keys: Tensor, columns: Tensor, probes: np.ndarray, rtol: float
    ) -> "_Audit":
        """Sum over all pairs of a probe and a key."""
        queries = to_tensor(probes, dtype=keys.dtype, device="cpu")
        exact = to_numpy(_dense_sums(kernel, keys, columns, queries))
        columns = to_numpy(columns)
        in_use = columns[0] > 0
        values = columns[1:, in_use] / columns[0, in_use]
        sizes, ranges = np.abs(values).max(axis=1), np.ptp(values, axis=1)
        return cls(probes, exact, np.abs(columns).max(axis=1), sizes, ranges, rtol)

    def errors(self, found: NufftSet) -> np.ndarray:
        """Return about the largest error of each column's sums anywhere, (k,).

        At the probes, times a safety factor; and at least what the tolerance leaves of the heaviest
        key, and rounding of the largest sum.
        """
        sums, served = found.sums.at(self.probes)
        seen = np.abs(sums - self.exact)[:, served].max(axis=1, initial=0.0)
        rounding = _EPS * self.exact[0].max() * np.append(1.0, self.sizes)
        return np.maximum(_SAFETY * seen, found.tolerance * self.largest + rounding)

    def least_mass(self, errors: np.ndarray) -> float:
        """Return the mass at which errors (k,) of the sums are just tolerable for their ratios.

        An error e of a sum and e₀ of the mass move a ratio by at most ``(e + |value| e₀) / mass``.
        """
        varies = self.ranges > 0
        if not varies.any():
            return float(errors[0] / self.rtol)
        moved = (errors[1:] + self.sizes * errors[0])[varies] / self.ranges[varies]
        return float(moved.max() / self.rtol)


def _grid_bytes() -> int:
    return int(_SHARE_OF_MEMORY * working_memory_bytes())


def _grid_of(keys: np.ndarray, tolerance: float, *, frugal: bool) -> Grid | None:
    return Grid.of(keys, tolerance, _grid_bytes(), frugal=frugal)


def _transformed(
    keys: np.ndarray, columns: np.ndarray, tolerance: float, *, frugal: bool
) -> NufftSet:
    """Transform the keys that have a say, without an audit."""
    in_use = columns.any(axis=0)
    points = keys if in_use.all() else keys[in_use]
    if len(points) == 0:
        points = keys[:1]
    grid = _grid_of(points, tolerance, frugal=frugal)
    while grid is None:  # accuracy costs memory; what is doubtful then is done again
        if tolerance > _TOLERANCES[1]:
            raise ValueError(
                "No algorithm can do this problem: nufft: a grid for these points would exceed "
                f"{_grid_bytes() / 2**20:.0f} MiB. Use algorithm='auto'."
            )
        tolerance *= 10
        grid = _grid_of(points, tolerance, frugal=frugal)
    return NufftSet(FourierSums.of(keys, columns, grid, n_threads()), tolerance)
