"""Plain Gaussian sums ``S_c(q) = Σ_j v_cj exp(−|q − z_j|²/2)`` by Fourier series, up to 3 axes.

On a box of period P, so wide that no periodic image of a key weighs anything, the kernel is a short
Fourier series, and with ξ the multiples of 2π/P up to where the kernel's transform vanishes

    S(q) ≈ (√(2π) / P)^d Σ_ξ exp(−|ξ|²/2) F(ξ) exp(iξ·q),    F(ξ) = Σ_j v_j exp(−iξ·z_j).

That is one non-uniform FFT from the keys to the modes and one from the modes to the queries. The
kernel is real and even, so two columns travel as the real and the imaginary part of one transform.
The error is absolute, relative to ``Σ_j |v_cj|``. Moments are such sums under other kernels, whose
coefficients are those of K times Hermite polynomials of the frequency.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from itertools import pairwise, repeat, takewhile
from threading import Event
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermeval

from sknw.support import tuning
from sknw.support.compat import is_installed
from sknw.support.threads import shared_out


def available() -> bool:
    """Return whether finufft, which does the transforms, is installed and works."""
    return is_installed("finufft") and broken_because() is None


@cache
def broken_because() -> str | None:
    """Return why finufft, though installed, cannot be imported, and warn of it once."""
    if not is_installed("finufft"):
        return None
    try:
        import_module("finufft")
    except Exception as error:  # a library that is not found is an OSError, others ImportErrors
        reason = f"finufft cannot be imported ({type(error).__name__}: {error})"
        warnings.warn(
            f"{reason}: sums of many rows take other algorithms, which are slower.",
            RuntimeWarning,
            stacklevel=2,
        )
        return reason
    return None


@dataclass(frozen=True)
class Grid:
    """A periodic box with as many Fourier modes as the tolerance needs.

    Parameters
    ----------
    low, high : ndarray of shape (d,)
        Corners of the box.
    whole : bool
        Whether the box holds every key. If not, queries outside are not served.
    tolerance : float
        Largest error of a sum, relative to ``Σ_j |v_cj|``, between 1e-14 and 1e-4.
    max_bytes : int
        Memory for a call, beside its arguments, its result and the series that is kept.
    order : int
        Largest total degree of the moments that will be asked for.
    upsampling : float
        Points of the FFT's grid per mode and axis.

    A grid of low upsampling keeps the tolerance for what periodic images add. Its transforms are
    less accurate: their error is that of `LOW_UPSAMPLING_TOLERANCE` beside the sums of the densest
    region, which is for the caller to measure.
    """

    low: np.ndarray
    high: np.ndarray
    whole: bool
    tolerance: float
    max_bytes: int
    order: int = 0
    upsampling: float = 2.0

    @classmethod
    def of(
        cls,
        keys: np.ndarray,
        tolerance: float,
        max_bytes: int,
        *,
        order: int = 0,
        low_upsampling: bool = False,
    ) -> "Grid | None":
        """Return a grid around keys (n, d), or around their bulk; None if none fits.

        Keys without a value in any column are better left out: they only widen the box.
        `low_upsampling` allows such a grid where it takes in more of the keys.
        """
        for low, high, whole in _boxes(keys):
            if not np.isfinite(high - low).all():
                return None
            grid = cls(low, high, whole, tolerance, max_bytes, order)
            sparse = 2 * len(keys) < math.prod(grid.modes)
            if tolerance >= tuning.COARSE_TOLERANCE and (sparse or not grid._fits):
                grid = replace(grid, upsampling=tuning.COARSE_UPSAMPLING)
            if (low_upsampling or tolerance >= tuning.LOW_UPSAMPLING_TOLERANCE) and not grid._fits:
                grid = replace(grid, upsampling=tuning.LOW_UPSAMPLING)
            if grid._fits and grid._rounding_error(keys) <= tolerance:
                return grid
        return None

    @property
    def has_low_upsampling(self) -> bool:
        """Whether the transforms are less accurate than the tolerance."""
        return (
            self.upsampling == tuning.LOW_UPSAMPLING
            and self.tolerance < tuning.LOW_UPSAMPLING_TOLERANCE
        )

    @property
    def cutoff(self) -> float:
        """Where the kernel is negligible, times as many steps as the order says."""
        return _cutoff(self.tolerance, self.order)

    @property
    def highest(self) -> float:
        """Where the kernel's transform is negligible."""
        if self.has_low_upsampling:
            return _cutoff(
                tuning.LOW_UPSAMPLING_SAFETY_FACTOR * tuning.LOW_UPSAMPLING_TOLERANCE, self.order
            )
        return self.cutoff

    @property
    def period(self) -> np.ndarray:
        """Period (d,): points up to `cutoff` outside the box are clear of the others' images."""
        return self.high - self.low + 2 * self.cutoff

    @property
    def modes(self) -> tuple[int, ...]:
        """Number of frequencies on each axis, odd."""
        return tuple(int(self.highest * period / math.pi) | 1 for period in self.period)

    @property
    def n_points(self) -> int:
        """Size of the FFT."""
        return math.prod(math.ceil(self.upsampling * n) for n in self.modes)

    @property
    def n_bytes(self) -> int:
        """Memory of one transform, beside its rows."""
        # the grid with a copy of what is spread onto it; a block's modes beside the kernel's
        return 32 * (self.n_points + math.prod(self.modes))

    @property
    def _row_bytes(self) -> int:
        return 8 * len(self.low) + 40  # angles, order, a complex value, and as much for masks

    @property
    def _fits(self) -> bool:
        return self.n_bytes + tuning.ROWS_OF_A_TRANSFORM * self._row_bytes <= self.max_bytes

    def _rounding_error(self, keys: np.ndarray) -> float:
        """Bound what rounding to the box's scale does: it matters for the keys near one query."""
        error = np.finfo(np.float64).eps / 2 * self.period.max()
        if error <= self.tolerance:
            return error
        cells = np.floor(_sample(keys)[:, self.period.argmax()])
        counts = np.unique(cells, return_counts=True)[1]
        return error * counts.max() / counts.sum()

    @property
    def _frequencies(self) -> Iterator[np.ndarray]:
        """Frequencies along each axis."""
        for n, period in zip(self.modes, self.period, strict=True):
            yield 2 * math.pi / period * np.arange(-(n // 2), n // 2 + 1)

    def kernel(self) -> np.ndarray:
        """Return the kernel's Fourier coefficients, in the shape of the modes."""
        product = np.ones(())
        for frequency, period in zip(self._frequencies, self.period, strict=True):
            axis = math.sqrt(2 * math.pi) / period * np.exp(-(frequency**2) / 2)
            product = product[..., None] * axis
        return product

    def multiplier(self, exponents: tuple[int, ...]) -> np.ndarray:
        """Return the coefficients of ``t^a K`` over those of K, in the shape of the modes.

        With t the step from the query to the key, each factor t is ``i d/dξ`` of the transform:
        Hermite polynomials times a power of i.
        """
        product = np.ones(())
        for frequency, exponent in zip(self._frequencies, exponents, strict=True):
            product = product[..., None] * hermeval(frequency, np.eye(exponent + 1)[exponent])
        return 1j ** sum(exponents) * product

    def fold(self, points: np.ndarray, margin: float) -> tuple[np.ndarray, slice | np.ndarray]:
        """Return angles (d, m') of the points up to `margin` off the box, and which those are."""
        angles = np.subtract(points.T, (self.low + self.high)[:, None] / 2, order="C")
        angles *= (2 * math.pi / self.period)[:, None]
        limit = math.pi * (1 - 2 * (self.cutoff - margin) / self.period)
        inside = (np.abs(angles) <= limit[:, None]).all(axis=0)
        return (angles, slice(None)) if inside.all() else (angles.compress(inside, axis=1), inside)

    def plan(self, kind: int, n_threads: int) -> Any:
        """Return finufft's plan of type 1 (points to modes) or 2 (modes to points)."""
        from finufft import Plan

        options = {"upsampfac": self.upsampling, "nthreads": n_threads, "showwarn": 0}
        isign = -1 if kind == 1 else 1
        eps = tuning.LOW_UPSAMPLING_TOLERANCE if self.has_low_upsampling else self.tolerance
        return Plan(kind, self.modes, eps=eps, isign=isign, **options)

    def in_threads(self, task: Callable, n_rows: int, n_threads: int) -> list:
        """Return ``task(blocks of rows, n_threads)`` for each of several shares of the rows.

        Transforms side by side, one thread each, beat threads that share one: those wait for each
        other, and add in no fixed order. They are left for large grids with few rows.
        """
        size = max(tuning.ROWS_OF_A_TRANSFORM, self.n_points)
        size = min(size, (self.max_bytes - self.n_bytes) // self._row_bytes)
        affordable = self.max_bytes // (self.n_bytes + size * self._row_bytes)
        worth = n_rows // max(
            tuning.FEWEST_ROWS_OF_A_TRANSFORM, self.n_points // tuning.GRID_POINTS_PER_ROW
        )
        n_tasks = max(1, min(n_threads, worth, affordable))
        n_blocks = -(-n_rows // (size * n_tasks)) * n_tasks
        ends = np.linspace(0, n_rows, n_blocks + 1, dtype=int)
        blocks = [slice(*pair) for pair in pairwise(ends)]
        shares = [blocks[i::n_tasks] for i in range(n_tasks)]
        n_inside = n_threads // n_tasks if self.n_points > tuning.LARGE_GRID else 1
        if n_tasks == 1:
            return [task(blocks, n_inside)]

        def share(blocks: list[slice], stop: Event) -> Any:
            return task(takewhile(lambda _: not stop.is_set(), blocks), n_inside)

        return shared_out(share, shares, n_tasks)


@dataclass(frozen=True)
class FourierSums:
    """The sums over one set of keys, as Fourier series.

    Parameters
    ----------
    keys : ndarray of shape (n, d)
        The keys in bandwidths.
    n_columns : int
        Number of value columns, k.
    grid : Grid
        The box, and the accuracy.
    series : ndarray of shape (ceil(k / 2), *modes)
        Fourier coefficients; two columns are the real and the imaginary part of one series.
    n_threads : int
        Threads that a call may use.
    """

    keys: np.ndarray
    n_columns: int
    grid: Grid
    series: np.ndarray
    n_threads: int

    @classmethod
    def of(cls, keys: np.ndarray, columns: np.ndarray, grid: Grid, n_threads: int) -> "FourierSums":
        """Transform columns (k, n) at keys (n, d); those too far from the box do not count."""
        shape = (-(-len(columns) // 2), *grid.modes)

        def transform(blocks: Iterable[slice], n_threads: int) -> np.ndarray:
            plan, total = grid.plan(1, n_threads), np.zeros(shape, dtype=complex)
            for rows in blocks:
                angles, inside = grid.fold(keys[rows], grid.cutoff)
                plan.setpts(*angles)
                for series, pair in zip(total, _pairs(columns), strict=True):
                    series += plan.execute(_packed(pair[:, rows][:, inside]))
            return total

        series, *others = grid.in_threads(transform, len(keys), n_threads)
        for other in others:
            series += other
        series *= grid.kernel()
        return cls(keys, len(columns), grid, series, n_threads)

    def at(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums (k, m) at queries (m, d), and which of them (m,) can be trusted."""
        moments, served = self.moments_at(queries, [(0,) * queries.shape[1]])
        return moments[0], served

    def moments_at(
        self, queries: np.ndarray, exponents: Sequence[tuple[int, ...]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return sums of kernel times ``t^a`` (p, k, m) for exponents a, and which to trust."""
        grid, sums = self.grid, np.zeros((len(exponents), self.n_columns, len(queries)))
        served = np.full(len(queries), grid.whole)  # zero, where it is far from every key
        margin = grid.cutoff if grid.whole else 0.0

        def evaluate(blocks: Iterable[slice], n_threads: int) -> None:
            plan = grid.plan(2, n_threads)
            for rows in blocks:
                angles, inside = grid.fold(queries[rows], margin)
                served[rows][inside] = True
                plan.setpts(*angles)
                for a, moments in zip(exponents, sums, strict=True):
                    factor = grid.multiplier(a) if any(a) else None
                    for series, pair in zip(self.series, _pairs(moments), strict=True):
                        values = plan.execute(series if factor is None else series * factor)
                        for column, part in zip(pair, (values.real, values.imag), strict=False):
                            column[rows][inside] = part

        grid.in_threads(evaluate, len(queries), self.n_threads)
        return sums, served


def _cutoff(tolerance: float, order: int = 0) -> float:
    """Return where ``u^order exp(−u²/2)`` is as small as the tolerance asks for."""
    log_weight = math.log(tuning.NEGLIGIBLE_SHARE * tolerance)
    cutoff = math.sqrt(-2 * log_weight)
    for _ in range(tuning.FIXED_POINT_STEPS if order else 0):
        cutoff = math.sqrt(-2 * log_weight + 2 * order * math.log(cutoff))
    return cutoff


def _boxes(points: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Yield corners of a box around all points, then of boxes around fewer and fewer of them."""
    yield points.min(axis=0), points.max(axis=0), True
    tails = np.array(tuning.BOX_TAILS)
    low, high = np.quantile(_sample(points), [tails, 1 - tails], axis=0)
    yield from zip(low, high, repeat(False))


def _sample(points: np.ndarray) -> np.ndarray:
    return points[:: max(1, len(points) // tuning.SAMPLE_FOR_A_BOX)]


def _pairs(columns: np.ndarray) -> Iterator[np.ndarray]:
    """Cut columns (k, m) into pairs; the last of an odd number stays alone."""
    for i in range(0, len(columns), 2):
        yield columns[i : i + 2]


def _packed(pair: np.ndarray) -> np.ndarray:
    """Return one or two real columns as the parts of a complex one."""
    packed = np.zeros(pair.shape[1], dtype=complex)
    packed.real = pair[0]
    if len(pair) == 2:
        packed.imag = pair[1]
    return packed
