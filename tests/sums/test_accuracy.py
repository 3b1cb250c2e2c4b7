"""The promise: no prediction is farther than ``rtol`` times the range of y from the exact one.

Every algorithm and evaluator over a covering design of shapes of data, dimensions, kernels,
bandwidths, tolerances and weights, with queries from the middle of the data to a million ranges
away. The judge writes every matrix out, as `reference` does, but in extended precision and from
differences: far outside, where an exponent is 10^16, plain float64 has no digit left of what the
weights differ by.

What rounding of the inputs does to a prediction is part of no promise. The judge bounds it query by
query, and `test_rounding_excuses_few` makes sure that this excuses few of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import pytest
import reference
import sklearn
import torch
from designs import pairwise
from evaluation import done_by

from sknw import NadarayaWatsonRegressor
from sknw.kernels import KERNELS
from sknw.sums import kernel_moments
from sknw.sums.algorithms import fourier
from sknw.sums.evaluators import registry as evaluators_module
from sknw.support import tuning

pytestmark = pytest.mark.filterwarnings("ignore::sknw.support.warnings.EmptyNeighborhoodWarning")

LIGHT_TAILED = reference.INFINITE_SUPPORT
COMPACT_PROFILES = {
    **reference.COMPACT_PROFILES,
    # cos(πu/2), with relative accuracy at the edge of the support
    "cosine": lambda u: np.sin(np.longdouble(np.pi) / 2 * (1 - u)),
}
HAS_FUSED = evaluators_module.FUSED.accepts(KERNELS["gaussian"], torch.float64, torch.device("cpu"))
needs_fused = pytest.mark.skipif(not HAS_FUSED, reason="numba is not installed")
needs_finufft = pytest.mark.skipif(not fourier.available(), reason="finufft is not installed")
EVALUATORS = [pytest.param("fused", marks=needs_fused), "torch"]
SORTED_ROUNDING = 1e-13  # of the range, for polynomials about the edge of a window
MEMORY = 256  # MiB of working memory: bounds the grids of the transforms, and so their time


# --- the judge -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """Exact predictions (m, k), and how far rounding alone may lead from them (m, k)."""

    values: np.ndarray
    rounding: np.ndarray


@dataclass(frozen=True)
class Judge:
    """Queries (m, d) against rows (n, d), centred, in extended precision.

    `mass` (n,) holds the rows' weights, `usable` (m, n) tells which rows a query may use, and
    `dtype` is the precision that is judged.
    """

    kernel: str
    bandwidth: np.longdouble
    queries: np.ndarray
    rows: np.ndarray
    y: np.ndarray
    mass: np.ndarray
    usable: np.ndarray
    dtype: type

    @property
    def eps(self) -> float:
        return float(np.finfo(self.dtype).eps)

    def judge(self) -> Judgement:
        steps, apart, sq, excess = self.geometry()
        if self.kernel in LIGHT_TAILED:
            return self.means(*self.light_tailed(sq, excess, self.excess_error(steps, apart)))
        return self.compact(sq, excess, steps, apart)

    def geometry(self) -> tuple[np.ndarray, ...]:
        """Steps and steps from the nearest row (m, n, d); squared distances and excesses (m, n)."""
        steps = self.queries[:, None] - self.rows
        sq = np.where(self.usable, np.square(steps).sum(axis=-1), np.inf)
        nearest = self.rows[sq.argmin(axis=1)][:, None]
        # |q − z_j|² − |q − z_k|² for the nearest row k, from differences
        apart, middle = self.rows - nearest, self.rows + nearest - 2 * self.queries[:, None]
        excess = np.where(self.usable, (apart * middle).sum(axis=-1), np.inf)
        return steps, apart, sq / self.bandwidth**2, excess / self.bandwidth**2

    def moments(self, exponents: np.ndarray) -> tuple[np.ndarray, ...]:
        """Moments (m, p, 1 + k) of weights and values, of absolute values, and their rounding."""
        steps, apart, sq, excess = self.geometry()
        if self.kernel in LIGHT_TAILED:
            weights, error = self.light_tailed(sq, excess, self.excess_error(steps, apart))
            # exponents are clamped: no weight is less than exp(−700), nor any mass than its floor
            error = error + np.exp(-700) / tuning.LEAST_TRUSTED_MASS[self.dtype().itemsize]
        else:
            error = self.distance_error(steps)
            weights, low, high = (self.compact_weights(sq + e) for e in (0, error, -error))
            error = high - low
        steps = -steps / self.bandwidth
        columns = np.column_stack([np.ones(len(self.y)), self.y]).astype(np.longdouble)
        found = [], [], []
        for a in exponents:
            powers = np.prod(steps**a, axis=2)
            found[0].append((weights * powers) @ columns)
            found[1].append((weights * np.abs(powers)) @ np.abs(columns))
            found[2].append((error * np.abs(powers)) @ np.abs(columns))
        values, sizes, rounding = (np.stack(at, axis=1) for at in found)
        n_terms = len(self.y) ** 0.5 + 8 + 2 * exponents.sum(axis=1)[:, None]
        return values, sizes, rounding + self.eps * n_terms * sizes

    # Scaling a row z to the centre and to bandwidths costs eps |z| per coordinate, which moves its
    # squared distance by 2 eps |z| |q − z|. A query's own rounding moves all its distances alike,
    # but for 2 eps |q| |z_j − z_k|. A handful of roundings more of terms no larger, for the
    # arithmetic, makes 8 instead of 2.

    def excess_error(self, steps: np.ndarray, apart: np.ndarray) -> np.ndarray:
        """Bound the error of differences of squared distances, (m, n)."""
        of_rows = (np.abs(self.rows) * np.abs(steps)).sum(axis=-1)
        of_queries = (np.abs(self.queries)[:, None] * np.abs(apart)).sum(axis=-1)
        return (8 * self.eps / self.bandwidth**2 * (of_rows + of_queries)).astype(float)

    def distance_error(self, steps: np.ndarray) -> np.ndarray:
        """Bound the error of squared distances themselves, (m, n)."""
        points = np.abs(self.rows) + np.abs(self.queries)[:, None]
        of_points = 8 * self.eps / self.bandwidth**2 * (points * np.abs(steps)).sum(axis=-1)
        return of_points.astype(float) + self.product_error()

    def product_error(self) -> np.ndarray:
        """Bound the error of squared distances by matrix product, where tiles may take it."""
        if not KERNELS[self.kernel].smooth or self.rows.shape[1] == 1:
            return np.zeros(self.usable.shape)
        rows, queries = (np.square(a).sum(axis=1) for a in (self.rows, self.queries))
        norms = ((queries[:, None] + rows) / self.bandwidth**2).astype(float)
        largest = tuning.PRODUCT_ERROR[self.dtype().itemsize]
        return np.minimum(4 * self.eps * norms, largest)

    def light_tailed(self, sq: np.ndarray, excess: np.ndarray, error: np.ndarray) -> tuple:
        """Weights (m, n) relative to the nearest row's, and their errors."""
        if self.kernel == "gaussian":
            exponent, size, error = excess / 2, sq / 2, error / 2
        else:
            size, nearest = np.sqrt(sq), np.sqrt(sq.min(axis=1, keepdims=True))
            roots = np.where(self.usable & (size > 0), size + nearest, 1)
            exponent = excess / roots
            # no distance is off by more than its points are
            norms = [np.linalg.norm(a.astype(float), axis=1) for a in (self.rows, self.queries)]
            of_points = (norms[0] + norms[1][:, None]) / float(self.bandwidth)
            error = np.minimum(error / roots.astype(float), 8 * self.eps * of_points)
        weights = np.exp(exponent.min(axis=1, keepdims=True) - exponent) * self.mass
        # plain sums exponentiate numbers as large as the floor of the mass allows; below it,
        # weights are relative to the nearest row's
        deepest = -np.log(tuning.LEAST_TRUSTED_MASS[self.dtype().itemsize])
        error = error + 8 * self.eps * np.minimum(size, deepest).astype(float)
        error = error + self.product_error()
        return weights, np.expm1(np.minimum(error, 50)) * weights

    def compact(
        self, sq: np.ndarray, excess: np.ndarray, steps: np.ndarray, apart: np.ndarray
    ) -> Judgement:
        error = self.distance_error(steps)
        weights, low, high = (self.compact_weights(sq + e) for e in (0, error, -error))
        found = self.means(weights, high - low)
        nearest = self.nearest(excess, self.excess_error(steps, apart))
        is_empty = weights.sum(axis=1) == 0
        unsure = is_empty & (high.sum(axis=1) > 0) | ~is_empty & (low.sum(axis=1) == 0)
        values, rounding = (
            np.where(is_empty[:, None], getattr(nearest, name), getattr(found, name))
            for name in ("values", "rounding")
        )
        return Judgement(values, np.where(unsure[:, None], np.ptp(self.y, axis=0), rounding))

    def compact_weights(self, sq: np.ndarray) -> np.ndarray:
        values = COMPACT_PROFILES[self.kernel](np.sqrt(np.clip(sq, 0, 1)))
        return np.where((sq < 1) & self.usable, values, 0.0) * self.mass

    def nearest(self, excess: np.ndarray, error: np.ndarray) -> Judgement:
        """Means of the nearest rows. Rounding may take any of those that are nearly as near.

        Rows with the same coordinates stay equally near, whatever is rounded.
        """
        tied = self.usable & (excess <= excess.min(axis=1, keepdims=True))
        found = self.means(tied * self.mass, np.zeros(tied.shape))
        same = (self.rows[excess.argmin(axis=1)][:, None] == self.rows).all(axis=-1)
        nearly = self.usable & (excess <= 2 * error)
        unsure = (nearly & ~same).any(axis=1)[:, None]
        off = np.where(nearly[..., None], np.abs(self.y - found.values[:, None]), 0).max(axis=1)
        return Judgement(found.values, found.rounding + np.where(unsure, off, 0).astype(float))

    def means(self, weights: np.ndarray, error: np.ndarray) -> Judgement:
        """Weighted means, and what errors of the weights (m, n) do to them."""
        total = weights.sum(axis=1, keepdims=True)
        total[total == 0] = 1
        values = (weights @ self.y) / total
        deviations = np.abs(self.y - values[:, None])  # (m, n, k)
        moved = (error[..., None] * deviations).sum(axis=1) / total
        # twice: the total moves too. Then n terms are added up, and scaled back to units of y.
        spread, size = np.ptp(self.y, axis=0), np.abs(self.y).max(axis=0)
        summed = self.eps * (len(self.y) ** 0.5 + 8) * (spread + size)
        rounding = np.minimum(2 * moved + summed, spread)
        return Judgement(values.astype(float), rounding.astype(float))


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


def outlier(rng, n, d):
    points = rng.normal(size=(n, d))
    points[n // 3] = 1e6
    return points


def duplicated(rng, n, d):
    return rng.normal(size=(n // 10, d))[np.arange(n) % (n // 10)]


def offset(rng, n, d):
    return rng.normal(size=(n, d)) + 1e6


SHAPES = (uniform, gaussian, cauchy, clustered, lattice, outlier, duplicated, offset)
SPREAD_OUT = (cauchy, outlier)
MULTIPLES = (0.01, 0.1, 1.0, 10.0, 100.0)  # of a bandwidth as leave-one-out would choose
RTOLS = (1e-3, 1e-6, 1e-8, 1e-10)
N_ROWS, N_OF_A_KIND, N_LEFT_OUT = 300, 12, 40


@dataclass(frozen=True)
class Case:
    """A regression problem with its queries."""

    shape: Callable
    d: int
    kernel: str
    multiple: float
    rtol: float
    weighting: str = "equal"
    n_outputs: int = 1
    dtype: type = np.float64

    def __str__(self):
        return (
            f"{self.shape.__name__}-{self.d}d-{self.kernel}-h{self.multiple:g}-{self.rtol:g}"
            f"-{self.weighting}-{self.n_outputs}y"
        )

    def __post_init__(self):
        rng = np.random.default_rng([self.d, SHAPES.index(self.shape), self.n_outputs])
        X = self.shape(rng, N_ROWS, self.d).astype(self.dtype)
        y = np.sin(2 * X @ np.linspace(1, 0.2, self.d)) + 0.3 * rng.normal(size=N_ROWS)
        if self.shape is duplicated:
            y[: N_ROWS // 2] = y[0]  # equal rows
        if self.n_outputs == 2:  # of very different scale
            y = np.column_stack([y, 1e-6 * (5 + rng.permutation(y))])
        weights = np.ones(N_ROWS)
        if self.weighting == "uneven":
            weights = rng.choice([0.0, 1e-6, 1.0, 3.0], size=N_ROWS, p=[0.1, 0.4, 0.3, 0.2])
        vars(self).update(X=X, y=y, weights=weights)

    @property
    def spread(self) -> float:
        low, high = np.quantile(self.X.astype(float), [0.25, 0.75], axis=0)
        return float((high - low).mean())

    @property
    def bandwidth(self) -> float:
        return self.multiple * 0.6 * self.spread * self.d**0.5 * N_ROWS ** (-1 / (4 + self.d))

    @property
    def range(self) -> np.ndarray:
        return np.ptp(self.y[self.weights > 0].reshape(-1, self.n_outputs), axis=0)

    @property
    def left_out(self) -> np.ndarray:
        """Rows whose leave-one-out predictions are judged."""
        return np.linspace(0, N_ROWS - 1, N_LEFT_OUT).astype(int)

    def queries(self) -> np.ndarray:
        """At rows, between rows, near rows, at the edge, and 10, 10^3 and 10^6 ranges outside."""
        rng, X, size = np.random.default_rng(0), self.X.astype(float), (N_OF_A_KIND, self.d)
        at, between, near = X[rng.integers(len(X), size=(3, N_OF_A_KIND))]
        between = (at + between) / 2
        near = near + 0.1 * self.spread * rng.normal(size=size)
        low, high = np.quantile(X, [0.02, 0.98], axis=0)
        directions = rng.normal(size=size)
        directions /= np.abs(directions).max(axis=1, keepdims=True)
        edge = (low + high) / 2 + directions * (high - low) / 2
        ranges = np.resize([1e1, 1e3, 1e6], N_OF_A_KIND)[:, None]
        far = (low + high) / 2 + directions * ranges * (high - low).max()
        return np.concatenate([at, between, near, edge, far]).astype(self.dtype)

    def judged(self, queries: np.ndarray, left_out: np.ndarray | None = None) -> Judgement:
        """Judge predictions at queries, or at rows left out together with their copies."""
        in_use = self.weights > 0
        usable = np.ones((len(queries), in_use.sum()), dtype=bool)
        if left_out is not None:
            usable = ~reference.copies(self.X, self.y, self.weights)[np.ix_(left_out, in_use)]
        return self.judge_of(queries, usable).judge()

    def judge_of(self, queries: np.ndarray, usable: np.ndarray) -> Judge:
        """Return the judge of queries that may use some (m, n) of the rows that have weight."""
        in_use = self.weights > 0
        X = self.X[in_use].astype(np.longdouble)
        centre = np.median(X, axis=0)
        return Judge(
            kernel=self.kernel,
            bandwidth=np.longdouble(self.bandwidth),
            queries=queries - centre,
            rows=X - centre,
            y=self.y[in_use].reshape(-1, self.n_outputs).astype(np.longdouble),
            mass=(self.weights[in_use] / self.weights.max()).astype(np.longdouble),
            usable=usable,
            dtype=self.dtype,
        )

    def fitted(self, algorithm: str) -> NadarayaWatsonRegressor:
        model = NadarayaWatsonRegressor(
            self.bandwidth, kernel=self.kernel, algorithm=algorithm, rtol=self.rtol
        )
        return model.fit(self.X, self.y, self.weights)

    def predictions(self, algorithm: str) -> Iterator[np.ndarray]:
        """The same from the estimator."""
        model = self.fitted(algorithm)
        yield model.predict(self.queries()).reshape(-1, self.n_outputs)
        yield model.predict_loo()[self.left_out].reshape(-1, self.n_outputs)


@cache
def judgements(case: Case) -> tuple[Judgement, Judgement]:
    """Of a case's queries, and of its rows left out, whatever algorithm is judged."""
    return case.judged(case.queries()), case.judged(case.X[case.left_out], case.left_out)


def covering(*factors: tuple) -> Iterator[tuple]:
    """121 choices of a level for each factor, such that all pairs of levels of any two occur.

    Of points (a, b) of the plane over the field of 11 elements, no two columns a + ib agree.
    """
    for a, b in product(range(11), repeat=2):
        yield tuple(levels[(a + i * b) % 11 % len(levels)] for i, levels in enumerate(factors))


def name_of(value) -> str:
    """How pytest shows a parameter."""
    return f"dense-by-{value['dense']}" if isinstance(value, dict) else str(value)


# Who evaluates the pairs of each algorithm: a case is judged once by either evaluator.
EVALUATORS_BY_ALGORITHM = tuple(
    {"dense": dense, "blocks": blocks} for dense, blocks in (("fused", "torch"), ("torch", "fused"))
)
DESIGN = [
    (Case(*chosen), pruned, evaluators)
    for *chosen, pruned, evaluators in covering(
        SHAPES,
        (1, 2, 3, 5, 8),
        tuple(KERNELS),
        MULTIPLES,
        RTOLS,
        ("equal", "uneven"),
        (1, 2),
        (True, False),
        EVALUATORS_BY_ALGORITHM,
    )
]
over_design = pytest.mark.parametrize(("case", "pruned", "evaluators"), DESIGN, ids=name_of)


def assert_promise_kept(case: Case, algorithm: str) -> None:
    allowed = {"dense": 0, "sorted": SORTED_ROUNDING}.get(algorithm, case.rtol)
    for found, judged in zip(case.predictions(algorithm), judgements(case), strict=True):
        excess = (np.abs(found - judged.values) - judged.rounding) / case.range - allowed
        worst = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), found.shape)
        assert (excess <= 0).all(), (
            f"query {worst[0]}, output {worst[1]}: got {found[worst]!r}, exact is "
            f"{judged.values[worst]!r}, off by {excess[worst]:.2g} ranges more than {allowed:g}"
        )


# --- the judge against the reference -------------------------------------------------------------

# It does not see the tolerance, nor who evaluates.
JUDGED = [
    Case(*chosen[:4], RTOLS[0], *chosen[4:])
    for chosen in pairwise(
        SHAPES, (1, 2, 3, 5, 8), tuple(KERNELS), MULTIPLES, ("equal", "uneven"), (1, 2)
    )
]


@pytest.mark.parametrize("case", JUDGED, ids=str)
def test_the_judge_agrees_with_the_reference(case):
    queries = case.queries()[: 4 * N_OF_A_KIND]
    judged = case.judged(queries)
    expected = reference.predict(
        case.kernel, queries, case.X, case.y, case.bandwidth, case.weights
    ).reshape(judged.values.shape)
    # distances u in float64: exponents of size u² lose digits
    u = reference.scaled_distances(queries, case.X, case.bandwidth).min(axis=1)[:, None]
    lost = 1e-12 + 1e-15 * np.minimum(u**2, 1e15)
    assert (np.abs(judged.values - expected) <= judged.rounding + lost * case.range).all()


def test_rounding_excuses_few():
    shares = [np.mean(j.rounding > 1e-10 * c.range) for c, *_ in DESIGN for j in judgements(c)]
    assert np.mean(shares) < 0.02
    assert np.mean(np.array(shares) > 0) < 0.15


# --- every algorithm -----------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
@over_design
def test_the_promise_is_kept(case, pruned, evaluators, algorithm):
    with done_by(evaluators[algorithm], pruned=pruned):
        assert_promise_kept(case, algorithm)


NUFFT_DESIGN = [
    (Case(shape, d, "gaussian", *chosen), evaluator)
    for shape, d, *chosen, evaluator in pairwise(
        SHAPES, (1, 2, 3), MULTIPLES, RTOLS, ("equal", "uneven"), (1, 2), ("fused", "torch")
    )
]


def whole_box_fits(case: Case, reach: float = 8.2) -> bool:
    """Whether even the finest transform on a box around all rows takes little memory.

    The kernel, or its product with steps, reaches so many bandwidths.
    """
    extent = np.ptp(case.X, axis=0) / case.bandwidth
    n_modes = np.prod(reach * (extent + 2 * reach) / np.pi)
    return 32 * n_modes * (1 + 2**case.d) < 0.4 * MEMORY * 2**20


@needs_finufft
@pytest.mark.parametrize(("case", "evaluator"), NUFFT_DESIGN, ids=str)
def test_nufft_keeps_the_promise_or_has_no_room(case, evaluator):
    with done_by(evaluator), sklearn.config_context(working_memory=MEMORY):
        try:
            assert_promise_kept(case, "nufft")
        except ValueError as refusal:
            assert "its grid would exceed" in str(refusal)  # noqa: PT017
            assert not whole_box_fits(case)


@needs_finufft
@pytest.mark.parametrize("d", [1, 2, 3])
def test_nufft_has_room_at_usual_bandwidths(d):
    kinds = [shape for shape in SHAPES if shape not in SPREAD_OUT]
    assert all(whole_box_fits(Case(shape, d, "gaussian", 1.0, 1e-8)) for shape in kinds)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "gaussian"])
def test_nufft_refuses_other_kernels(kernel):
    with pytest.raises(ValueError, match=f"kernel '{kernel}' has no fast transform"):
        next(Case(uniform, 1, kernel, 1.0, 1e-8).predictions("nufft"))


def test_nufft_refuses_many_dimensions():
    with pytest.raises(ValueError, match="at most 3 embedded dimensions, not 5"):
        next(Case(uniform, 5, "gaussian", 1.0, 1e-8).predictions("nufft"))


@needs_finufft
def test_nufft_refuses_grids_without_room():
    case = Case(uniform, 3, "gaussian", 0.01, 1e-8)
    with pytest.raises(ValueError, match="its grid would exceed 192 MiB"):  # noqa: SIM117
        with sklearn.config_context(working_memory=256):
            next(case.predictions("nufft"))


SORTED_DESIGN = [
    Case(shape, 1, *chosen)
    for shape, *chosen in covering(
        SHAPES,
        tuple(name for name in KERNELS if name != "gaussian"),
        MULTIPLES,
        RTOLS,
        ("equal", "uneven"),
        (1, 2),
        (np.float64, np.float32),
    )
    # the judge bounds rounding of coordinates, but float32 rows far from zero fall together
    if (shape, chosen[-1]) != (offset, np.float32)
]


@needs_fused
@pytest.mark.parametrize("case", SORTED_DESIGN, ids=str)
def test_sorted_sums_are_exact(case):
    with done_by("fused", pruned=True):
        assert_promise_kept(case, "sorted")


@pytest.mark.parametrize("case", SORTED_DESIGN[::10], ids=str)
def test_torch_does_what_cannot_be_swept_yet(case):
    model = case.fitted("sorted")
    with done_by("torch"):
        found = model.predict(case.queries())
    assert model.sums_report_["evaluator"] == "torch"
    with done_by("torch"):
        np.testing.assert_array_equal(found, case.fitted("blocks").predict(case.queries()))


# --- float32 -------------------------------------------------------------------------------------


SINGLE = [
    (Case(*chosen, "uneven", dtype=np.float32), pruned, evaluators)
    for *chosen, pruned, evaluators in covering(
        SHAPES,
        (1, 2, 3, 8),
        tuple(KERNELS),
        MULTIPLES,
        (1e-3, 1e-8),
        (True, False),
        EVALUATORS_BY_ALGORITHM,
    )
][::2]


@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
@pytest.mark.parametrize(("case", "pruned", "evaluators"), SINGLE, ids=name_of)
def test_float32_adds_its_own_rounding_only(case, pruned, evaluators, algorithm):
    with done_by(evaluators[algorithm], pruned=pruned):
        assert_promise_kept(case, algorithm)


# --- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "d", "rtol", "evaluator"),
    pairwise(list(KERNELS), [1, 2, 3], [1e-3, 1e-10], ["fused", "torch"]),
)
def test_blocks_leave_out_most_pairs_at_narrow_bandwidths(d, kernel, rtol, evaluator):
    case = Case(clustered, d, kernel, 0.05, rtol)
    with done_by(evaluator):
        assert_promise_kept(case, "blocks")
        model = case.fitted("blocks")
        model.predict(case.X)
    report = model.sums_report_
    assert report["evaluator"] == evaluator
    assert report["share_of_pairs"] < (0.5 if kernel == "exponential" else 0.3)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("kernel", LIGHT_TAILED)
@pytest.mark.parametrize("rtol", RTOLS)
def test_many_blocks_that_hardly_matter_matter_together(kernel, rtol, evaluator):
    """Near queries have one block of rows, and far off stand 75 whose weights add up."""
    near, many = 8, 600
    y = np.repeat([0.0, 1.0], [near, many])
    apart = 1e-6 * np.arange(near + many)[:, None]  # or they would be equal
    queries = np.linspace(-0.25, 0.25, 64)[:, None]
    worst = 0.0
    for exponent in np.linspace(3, -np.log(rtol) + 4, 12):
        distance = exponent if kernel == "exponential" else (2 * exponent) ** 0.5
        X = np.repeat([0.0, distance], [near, many])[:, None] + apart
        model = NadarayaWatsonRegressor(1.0, kernel=kernel, algorithm="blocks", rtol=rtol)
        with done_by(evaluator):
            found = model.fit(X, y).predict(queries)
        expected = reference.predict(kernel, queries, X, y, 1.0)
        worst = max(worst, np.abs(found - expected).max())
    assert worst <= rtol


# --- ties, and rows far away from all others ------------------------------------------------------


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("bandwidth", [0.25, 0.3, 0.1])
def test_ties_in_empty_neighborhoods_are_averaged(bandwidth, evaluator):
    X = np.arange(6.0)[:, None]
    y, queries = np.square(X[:, 0]), X[:-1] + 0.5
    with done_by(evaluator):
        model = NadarayaWatsonRegressor(bandwidth, kernel="epanechnikov").fit(X, y)
        found = model.predict(queries)
    expected = reference.predict("epanechnikov", queries, X, y, bandwidth)
    np.testing.assert_allclose(expected, (y[1:] + y[:-1]) / 2, rtol=1e-15)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_rows_alike_are_equally_near_from_any_distance(d, evaluator):
    rng = np.random.default_rng(d)
    X, y = rng.normal(size=(30, d))[np.arange(295) % 30], rng.normal(size=295)
    queries = 1e6 * rng.normal(size=(40, d))
    with done_by(evaluator):
        found = NadarayaWatsonRegressor(0.01, kernel="tophat").fit(X, y).predict(queries)
    expected = [y[(X[i] == X).all(axis=1)].mean() for i in nearest_rows(queries, X)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def nearest_rows(queries: np.ndarray, X: np.ndarray) -> np.ndarray:
    steps = queries[:, None].astype(np.longdouble) - X
    return np.square(steps).sum(axis=-1).argmin(axis=1)


@needs_fused
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_boxes_without_extent_are_not_lost(d, dtype):
    """Blocks of equal rows and blocks of equal queries: the nearest box is as far as its rows."""
    found, expected = [], []
    with done_by("fused", pruned=True):
        for seed in range(20):
            rng = np.random.default_rng(seed)
            places = rng.normal(size=(6, d)).astype(dtype)
            query = rng.normal(size=(1, d)).astype(dtype)
            model = NadarayaWatsonRegressor(1e-3, kernel="linear")
            y = np.repeat(np.arange(6.0), 40) + 0.001 * np.arange(240)
            model.fit(np.repeat(places, 40, axis=0), y)
            found.append(model.predict(np.repeat(query, 16, axis=0)))
            k = nearest_rows(query, places)[0]
            expected.append(k + 0.001 * (40 * k + 19.5))
    np.testing.assert_allclose(found, np.repeat(expected, 16).reshape(20, 16), rtol=0, atol=1e-5)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
@pytest.mark.parametrize("kernel", LIGHT_TAILED)
@pytest.mark.parametrize("distance", [1e3, 1e4, 1e5, 1e6, 3e6])
def test_one_remote_row_costs_far_queries_no_digits(
    monkeypatch, distance, kernel, algorithm, evaluator
):
    """From far to the side of a line of rows, their weights still differ by what they did near."""
    side = np.arange(-20, 21) / 4
    X = np.vstack([np.column_stack([np.zeros(41), side]), [[1e6, 1e6]]])
    y = np.append(np.sin(3 * side), 0.0)
    with done_by(evaluator):
        model = NadarayaWatsonRegressor(1.0, kernel=kernel, algorithm=algorithm).fit(X, y)
        found = model.predict([[-distance, 0.3]])
    sq = np.square(side - 0.3)
    excess = (sq - sq.min()) / 2
    roots = np.hypot(distance, side - 0.3) + distance
    weights = np.exp(-excess if kernel == "gaussian" else -2 * excess / roots)
    np.testing.assert_allclose(found, weights @ y[:-1] / weights.sum(), rtol=0, atol=2e-8)


# --- moments -------------------------------------------------------------------------------------


ORDERS = {1: 6, 2: 4, 3: 3, 5: 2, 8: 1}


@dataclass(frozen=True)
class MomentsCase:
    """The tensors of a case, in bandwidths about its centre, and their judge.

    The judge sees the same float64 numbers, so rounding of coordinates is part of no error. What is
    far is not quite so far as for predictions, where powers of the steps have a range of numbers.
    """

    case: Case

    def __post_init__(self):
        case, in_use = self.case, self.case.weights > 0
        centre = np.median(case.X[in_use], axis=0)
        rows = (case.X[in_use] - centre) / case.bandwidth
        queries = (case.queries() - centre) / case.bandwidth
        exclude = np.append(np.full(len(queries), -1), np.arange(N_OF_A_KIND))
        queries = np.concatenate([queries, rows[:N_OF_A_KIND]])
        y, mass = case.y[in_use].reshape(len(rows), -1), case.weights[in_use] / case.weights.max()
        judge = Judge(
            kernel=case.kernel,
            bandwidth=np.longdouble(1),
            queries=queries.astype(np.longdouble),
            rows=rows.astype(np.longdouble),
            y=y.astype(np.longdouble),
            mass=mass.astype(np.longdouble),
            usable=exclude[:, None] != np.arange(len(rows)),
            dtype=np.float64,
        )
        columns = mass * np.column_stack([np.ones(len(rows)), y]).T
        vars(self).update(
            queries=queries, rows=rows, exclude=exclude, columns=columns, judge=judge,
            span=np.ptp(y, axis=0),
        )  # fmt: skip

    def found(self, algorithm: str, order: int):
        tensors = (torch.tensor(a)[None] for a in (self.queries, self.rows, self.columns))
        return kernel_moments(
            KERNELS[self.case.kernel], *tensors, order=order, algorithm=algorithm,
            exclude=torch.tensor(self.exclude), rtol=self.case.rtol,
        )  # fmt: skip

    def assert_promise_kept(self, algorithm: str, order: int) -> None:
        """Moments of values about their local mean, beside the mass, are within ``rtol`` ranges."""
        found = self.found(algorithm, order)
        exact, sizes, rounding = exact_moments(self, tuple(map(tuple, found.exponents)))
        moments = found.moments[0].numpy().astype(np.longdouble)
        sure = exact[:, 0, 0] > 10 * rounding[:, 0, 0]
        assert (np.abs(moments - exact) <= rounding)[~sure].all()
        moments, exact, sizes, rounding = (a[sure] for a in (moments, exact, sizes, rounding))
        if self.case.kernel in LIGHT_TAILED:
            moments = moments / moments[:, :1, :1]
            relative = rounding[:, :1, :1] / exact[:, :1, :1]
            rounding, exact, sizes = (a / exact[:, :1, :1] for a in (rounding, exact, sizes))
            rounding = rounding + 2 * relative * sizes
        mass, means = exact[:, :1, :1], exact[:, :1, 1:] / exact[:, :1, :1]
        error = np.abs(moments - exact) - rounding
        allowed = {"dense": 0, "sorted": 10 * SORTED_ROUNDING}.get(algorithm, self.case.rtol)
        allowed = allowed * (mass + sizes[..., :1])
        assert (error[..., :1] <= allowed).all()
        centred = (a[..., 1:] - means * a[..., :1] for a in (moments, exact))
        error = np.abs(np.subtract(*centred)) - rounding[..., 1:]
        error -= np.abs(means) * rounding[..., :1]
        assert (error <= allowed * self.span).all()


@cache
def exact_moments(
    moments: MomentsCase, exponents: tuple[tuple[int, ...], ...]
) -> tuple[np.ndarray, ...]:
    """Return what the judge says of a case's monomials, whatever algorithm is judged."""
    return moments.judge.moments(np.array(exponents))


@pytest.mark.parametrize("case", JUDGED, ids=str)
def test_the_judge_of_moments_agrees_with_the_reference(case):
    moments, order = MomentsCase(case), min(2, ORDERS[case.d])
    near = slice(0, 4 * N_OF_A_KIND)
    exponents = reference.exponents(case.d, order)
    exact, sizes, rounding = moments.judge.moments(exponents)
    expected = reference.moments(
        case.kernel, moments.queries[near], moments.rows, moments.columns.T, order
    )
    # exponents of size u² lose digits in float64
    u = reference.scaled_distances(moments.queries[near], moments.rows, 1.0).min(axis=1)
    lost = sizes[near] * (1e-12 + 1e-15 * u**2)[:, None, None] + 1e-300
    assert (np.abs(expected - exact[near]) <= rounding[near] + lost).all()


MOMENTS_DESIGN = [
    (Case(*chosen), pruned)
    for *chosen, pruned in pairwise(
        SHAPES,
        (1, 2, 3, 5, 8),
        tuple(KERNELS),
        MULTIPLES,
        RTOLS,
        ("equal", "uneven"),
        (1, 2),
        (True, False),
    )
]


@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
@pytest.mark.parametrize(("case", "pruned"), MOMENTS_DESIGN, ids=str)
def test_moments_keep_the_promise(case, pruned, algorithm):
    with done_by("torch", pruned=pruned):
        MomentsCase(case).assert_promise_kept(algorithm, ORDERS[case.d])


@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [2, 3])
def test_moments_to_order_six(d, kernel, algorithm):
    with done_by("torch"):
        case = Case(gaussian, d, kernel, 0.3, 1e-8, "uneven")
        MomentsCase(case).assert_promise_kept(algorithm, 6)


@needs_finufft
@pytest.mark.parametrize("case", dict.fromkeys(case for case, _ in NUFFT_DESIGN), ids=str)
def test_moments_by_nufft_keep_the_promise_or_have_no_room(case):
    order = {1: 4, 2: 2, 3: 2}[case.d]
    with sklearn.config_context(working_memory=MEMORY):
        try:
            MomentsCase(case).assert_promise_kept("nufft", order)
        except ValueError as refusal:
            assert "its grid would exceed" in str(refusal)  # noqa: PT017
            assert not whole_box_fits(case, reach=9.5)


@needs_fused
@pytest.mark.parametrize("case", [c for c in SORTED_DESIGN[::2] if c.dtype == np.float64], ids=str)
def test_moments_of_sorted_keys_are_exact(case):
    with done_by("fused"):
        MomentsCase(case).assert_promise_kept("sorted", ORDERS[1])


@pytest.mark.parametrize("order", [1, 4])
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_moments_by_blocks_leave_out_most_pairs(kernel, order):
    case = MomentsCase(Case(clustered, 2, kernel, 0.05, 1e-3))
    rows, columns = torch.tensor(case.rows)[None], torch.tensor(case.columns)[None]
    settings = {"order": order, "rtol": 1e-3}
    with done_by("torch"):
        found, exact = (
            kernel_moments(KERNELS[kernel], None, rows, columns, algorithm=name, **settings)
            for name in ("blocks", "dense")
        )
    assert found.report["share_of_pairs"] < 0.5
    assert found.report["algorithm"] == "blocks"
    torch.testing.assert_close(found.moments, exact.moments, rtol=1e-3, atol=1e-3)
