"""The promise: no prediction is farther than ``rtol`` times the range of y from the exact one.

Every algorithm and evaluator, over a covering design of kernels, dimensions, bandwidths, shapes of
data, tolerances and weights, with queries from the middle of the data to a million ranges away. The
judge writes every matrix out, as `reference` does, but in extended precision: far outside, where an
exponent is 10^16, float64 has no digit left of what the weights differ by.

What rounding of the inputs does to a prediction is part of no promise. `rounding` bounds it query
by query, and `test_rounding_explains_little` makes sure that this excuses few of them.
"""

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import reference
import sklearn
import torch

from sknw import NadarayaWatsonRegressor
from sknw.kernels import KERNELS
from sknw.sums import blocks, exact, fourier, fused
from sknw.sums import evaluators as evaluators_module

pytestmark = pytest.mark.filterwarnings("ignore::sknw._types.EmptyNeighborhoodWarning")

EPS = float(np.finfo(np.float64).eps)
LIGHT_TAILED = reference.INFINITE_SUPPORT
WORKING_MEMORY = 48  # MiB: bounds the grids of the transforms, and so the time they take

# --- the judge -----------------------------------------------------------------------------------

COMPACT_PROFILES = {
    **reference.COMPACT_PROFILES,
    # sin(π(1 − u)/2) is cos(πu/2), with relative accuracy at the edge of the support
    "cosine": lambda u: np.sin(np.longdouble(np.pi) * (1 - u) / 2),
}


@dataclass(frozen=True)
class Judgement:
    """Exact predictions (m, k), and what rounding may add to their error (m, k)."""

    values: np.ndarray
    rounding: np.ndarray


@dataclass(frozen=True)
class Judge:
    """Queries (m, d) against rows (n, d) in bandwidth units, in extended precision.

    `mass` (n,) holds the rows' weights, `usable` (m, n) tells which rows a query may use, and `eps`
    is the rounding of the arithmetic that is judged.
    """

    kernel: str
    bandwidth: np.longdouble
    queries: np.ndarray
    rows: np.ndarray
    y: np.ndarray
    mass: np.ndarray
    usable: np.ndarray
    eps: float

    def judge(self) -> Judgement:
        steps = self.queries[:, None] - self.rows  # (m, n, d)
        sq = np.where(self.usable, np.square(steps).sum(axis=-1), np.inf)
        nearest = sq.argmin(axis=1)
        # |q − z_j|² − |q − z_k|² for the nearest k, without the common |q|²
        apart = self.rows - self.rows[nearest][:, None]
        middle = self.rows + self.rows[nearest][:, None] - 2 * self.queries[:, None]
        excess = np.where(self.usable, (apart * middle).sum(axis=-1), np.inf)
        error = self.excess_error(steps, apart)
        sq, excess, error = (a / self.bandwidth**2 for a in (sq, excess, error))
        steps = steps / self.bandwidth
        if self.kernel in LIGHT_TAILED:
            return self.light_tailed(sq, excess, error)
        return self.compact(sq, steps, excess, error)

    def excess_error(self, steps: np.ndarray, apart: np.ndarray) -> np.ndarray:
        """Bound the error of `excess` that rounded coordinates make, (m, n).

        Scaling a row z to bandwidth units and to the centre costs it ``eps |z|`` per coordinate,
        which moves its squared distance by ``2 eps |z| |q − z|``; the query's own rounding moves all
        distances alike but for ``2 eps |q| |z_j − z_k|``. The arithmetic on rounded coordinates is
        a handful of operations per feature on the same terms.
        """
        of_rows = (np.abs(self.rows) * np.abs(steps)).sum(axis=-1)
        of_queries = (np.abs(self.queries)[:, None] * np.abs(apart)).sum(axis=-1)
        return 8 * self.eps * (of_rows + of_queries).astype(float)

    def light_tailed(self, sq, excess, error) -> Judgement:
        nearest = sq.min(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore"):
            if self.kernel == "gaussian":
                exponent, wobble, size = excess / 2, error / 2, sq / 2
            else:
                roots = np.sqrt(sq) + np.sqrt(nearest)
                roots = np.where(roots > 0, roots, np.inf)
                exponent, size = excess / roots, np.sqrt(sq)
                # a distance is never wrong by more than its points are
                norms = np.sqrt(np.square(self.rows).sum(axis=1)) + np.sqrt(
                    np.square(self.queries).sum(axis=1, keepdims=True)
                )
                norms = norms / self.bandwidth
                wobble = np.minimum(error / roots, 8 * self.eps * (norms + size))
        alone = ~self.usable.any(axis=1)
        exponent = np.where(self.usable, exponent, np.inf)
        lowest = np.where(alone, 0, exponent.min(axis=1))[:, None]
        weights = np.exp(lowest - exponent) * self.mass
        # plain sums exponentiate numbers of this size; deeper rows are relative to the nearest
        plain = np.minimum(np.where(np.isfinite(size), size, 0), 600)
        wobble = wobble.astype(float) + 8 * self.eps * plain.astype(float)
        return self.means(weights, np.expm1(np.minimum(wobble, 50)) * weights)

    def compact(self, sq, steps, excess, error) -> Judgement:
        profile = COMPACT_PROFILES[self.kernel]

        def weights_at(sq):
            u = np.sqrt(np.clip(sq, 0, 1))
            return np.where((sq < 1) & self.usable, profile(u), 0.0) * self.mass

        points = (np.abs(self.rows) + np.abs(self.queries)[:, None]) / self.bandwidth
        wobble = 8 * self.eps * (np.abs(steps) * points).sum(axis=-1).astype(float)
        if KERNELS[self.kernel].smooth and steps.shape[-1] > 1:
            # tiles of matrix products: see sknw.sums.tiles
            wobble = wobble + PRODUCT_ERROR[self.eps]
        weights = weights_at(sq)
        low, high = weights_at(sq - wobble), weights_at(sq + wobble)
        found = self.means(weights, low - high)
        is_empty = weights.sum(axis=1) == 0
        unsure = (low.sum(axis=1) > 0) == is_empty
        nearest = self.nearest(excess, error)
        values = np.where(is_empty[:, None], nearest.values, found.values)
        rounding = np.where(is_empty[:, None], nearest.rounding, found.rounding)
        return Judgement(values, np.where(unsure[:, None], np.ptp(self.y, axis=0), rounding))

    def nearest(self, excess, error) -> Judgement:
        """Means of the nearest rows; rounding may leave any mixture of those nearly as near.

        Rows with equal coordinates stay equally near, whatever is rounded.
        """
        nearly = self.usable & (excess <= 2 * error)
        tied = excess <= excess.min(axis=1, keepdims=True)
        found = self.means(tied * self.mass * self.usable, np.zeros(excess.shape))
        alike = (self.rows[:, None] == self.rows).all(axis=-1)  # (n, n)
        same = alike[excess.argmin(axis=1)] & self.usable
        ambiguous = (nearly & ~same).any(axis=1)[:, None]
        off = np.where(nearly[..., None], np.abs(self.y - found.values[:, None]), 0).max(axis=1)
        return Judgement(found.values, np.where(ambiguous, off.astype(float), 0.0) + found.rounding)

    def means(self, weights, wobble) -> Judgement:
        """Weighted means, and the first order of what wobbling weights do to them."""
        total = weights.sum(axis=1, keepdims=True)
        total = np.where(total > 0, total, 1)
        values = (weights @ self.y) / total
        deviations = np.abs(self.y[None] - values[:, None])  # (m, n, k)
        moved = (np.asarray(wobble)[..., None] * deviations).sum(axis=1) / total
        # 2: the total wobbles too; then n terms are added up and scaled back to units of y
        n, scale = len(self.y), np.ptp(self.y, axis=0) + np.abs(self.y).max(axis=0)
        rounding = 2 * moved.astype(float) + self.eps * (n**0.5 + 8) * scale.astype(float)
        return Judgement(values.astype(float), np.minimum(rounding, np.ptp(self.y, axis=0)))


PRODUCT_ERROR = {EPS: 1e-12, float(np.finfo(np.float32).eps): 1e-5}


def judgement(case, queries, rows=None) -> Judgement:
    """What `case` predicts exactly at queries; with `rows`, those rows left out of themselves."""
    in_use = case.weights > 0
    X, y = case.X[in_use].astype(np.longdouble), case.y[in_use].reshape(in_use.sum(), -1)
    centre = np.median(X, axis=0)
    usable = np.ones((len(queries), len(X)), dtype=bool)
    if rows is not None:
        usable = ~reference.twins(case.X, case.y)[np.ix_(rows, in_use)]
    h = np.longdouble(case.bandwidth)
    mass = (case.weights[in_use] / case.weights.max()).astype(np.longdouble)
    return Judge(
        case.kernel, h, queries - centre, X - centre, y.astype(np.longdouble), mass, usable, case.eps,
    ).judge()  # fmt: skip


# --- the data ------------------------------------------------------------------------------------


def uniform(rng, n, d):
    return rng.uniform(-2, 2, size=(n, d))


def gaussian(rng, n, d):
    return rng.normal(size=(n, d))


def cauchy(rng, n, d):
    return rng.standard_cauchy(size=(n, d))


def clustered(rng, n, d):
    return rng.normal(size=(5, d))[rng.integers(5, size=n)] + 1e-3 * rng.normal(size=(n, d))


def lattice(rng, n, d):
    return rng.integers(-4, 5, size=(n, d)) / 4.0


def with_outlier(rng, n, d):
    points = rng.normal(size=(n, d))
    points[n // 3] = 1e6
    return points


def duplicated(rng, n, d):
    return rng.normal(size=(n // 10, d))[np.arange(n) % (n // 10)]


def offset(rng, n, d):
    return rng.normal(size=(n, d)) + 1e6


SHAPES = (uniform, gaussian, cauchy, clustered, lattice, with_outlier, duplicated, offset)
MULTIPLES = (0.01, 0.1, 1.0, 10.0, 100.0)
DIMENSIONS = (1, 2, 3, 5, 8)
RTOLS = (1e-3, 1e-6, 1e-8, 1e-10)
WEIGHTINGS = ("equal", "uneven")
OUTPUTS = (1, 2)
N_ROWS, N_QUERIES = 300, 12


@dataclass(frozen=True)
class Case:
    """A regression problem, and how it is to be done."""

    shape: Callable
    d: int
    kernel: str
    multiple: float
    rtol: float
    weighting: str = "equal"
    n_outputs: int = 1
    n: int = N_ROWS
    dtype: type = np.float64

    def __post_init__(self):
        rng = np.random.default_rng([self.d, SHAPES.index(self.shape), self.n_outputs])
        X = self.shape(rng, self.n, self.d).astype(self.dtype)
        y = np.sin(2 * X @ np.linspace(1, 0.2, self.d)) + 0.3 * rng.normal(size=self.n)
        if self.shape is duplicated:
            y[: self.n // 2] = y[0]  # twins
        if self.n_outputs == 2:
            y = np.column_stack([y, 1e-6 * (5 + rng.permutation(y))])
        weights = np.ones(self.n)
        if self.weighting == "uneven":
            weights = rng.choice([0.0, 1e-6, 1.0, 3.0], size=self.n, p=[0.1, 0.4, 0.3, 0.2])
        vars(self).update(X=X, y=y, weights=weights, rng=rng)

    @property
    def id(self):
        return "-".join(
            str(part)
            for part in (
                self.shape.__name__, f"{self.d}d", self.kernel, f"h{self.multiple:g}",
                f"{self.rtol:g}", self.weighting, f"{self.n_outputs}y",
            )
        )  # fmt: skip

    @property
    def spread(self):
        low, high = np.quantile(self.X.astype(float), [0.25, 0.75], axis=0)
        return (high - low).mean()

    @property
    def bandwidth(self):
        return float(
            self.multiple * 0.6 * self.spread * self.d**0.5 * self.n ** (-1 / (4 + self.d))
        )

    @property
    def eps(self):
        return float(np.finfo(self.dtype).eps)

    def queries(self):
        """Between rows, at rows, at the edge, and 10, 1000 and a million ranges outside."""
        rng, X = np.random.default_rng(0), self.X.astype(float)
        picked = X[rng.integers(len(X), size=(3 * N_QUERIES))]
        between = (picked[:N_QUERIES] + picked[N_QUERIES : 2 * N_QUERIES]) / 2
        near = picked[2 * N_QUERIES :] + 0.1 * self.spread * rng.normal(size=(N_QUERIES, self.d))
        low, high = np.quantile(X, [0.02, 0.98], axis=0)
        middle, extent = (low + high) / 2, (high - low).max()
        directions = rng.normal(size=(N_QUERIES, self.d))
        directions /= np.abs(directions).max(axis=1, keepdims=True)
        edge = middle + directions * (high - low) / 2
        distances = np.repeat([1e1, 1e3, 1e6], 4)[:, None]
        far = middle + extent * directions * distances
        return np.concatenate([X[:N_QUERIES], between, near, edge, far]).astype(self.dtype)

    def fitted(self, algorithm):
        model = NadarayaWatsonRegressor(
            self.bandwidth, kernel=self.kernel, algorithm=algorithm, rtol=self.rtol
        )
        return model.fit(self.X, self.y, self.weights)
