"""Sums over sorted keys where plain sums, or differences of them, would have no digits left."""

import numpy as np
import pytest
import reference
import torch
from evaluation import done_by

from sknw import BandwidthSearch, NadarayaWatsonRegressor
from sknw.kernels import KERNELS, as_kernel
from sknw.sums import ALGORITHMS, Problem, kernel_moments, kernel_sums
from sknw.support import tuning
from sknw.support.ordering import ascending_order

pytest.importorskip("numba")

NAMES = [name for name in KERNELS if name != "gaussian"]
COMPACT = [name for name in NAMES if name != "exponential"]
each_kernel = pytest.mark.parametrize("kernel", NAMES)
pytestmark = pytest.mark.filterwarnings("ignore::sknw.support.warnings.EmptyNeighborhoodWarning")


@pytest.fixture(autouse=True)
def _swept():
    with done_by("fused"):
        yield


def fitted(X, y, bandwidth, kernel, algorithm="sorted", weights=None, **parameters):
    model = NadarayaWatsonRegressor(bandwidth, kernel=kernel, algorithm=algorithm, **parameters)
    return model.fit(np.reshape(X, (-1, 1)), y, weights)


def assert_as_dense(X, y, bandwidth, kernel, queries, weights=None, atol=1e-12):
    """Predictions and leave-one-out predictions differ by so many ranges of y at most."""
    sweep, dense = (fitted(X, y, bandwidth, kernel, name, weights) for name in ("sorted", "dense"))
    queries = np.reshape(queries, (-1, 1))
    for found, expected in (
        (sweep.predict(queries), dense.predict(queries)),
        (sweep.predict_loo(), dense.predict_loo()),
    ):
        assert sweep.sums_report_["algorithm"] == "sorted"
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol * np.ptp(y))


def curve(n=2000, *, seed=0):
    rng = np.random.default_rng(seed)
    X = np.sort(rng.uniform(-1, 1, n))
    return X, np.sin(5 * X) + 0.3 * rng.normal(size=n)


# --- bandwidths from the smallest gap to more than the range --------------------------------------


@each_kernel
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_every_bandwidth_is_exact(kernel, offset):
    X, y = curve()
    X = np.random.default_rng(2).permutation(2**10 * X + offset)  # far apart beside 1e9 eps
    queries = np.concatenate([X[:50], X[:50] + np.random.default_rng(1).normal(size=50)])
    gap = np.diff(np.unique(X)).min()
    for bandwidth in (gap, 4 * gap, 1.0, 100.0, np.ptp(X), 50 * np.ptp(X)):
        assert_as_dense(X, y, bandwidth, kernel, queries)


@pytest.mark.parametrize("kernel", ["epanechnikov", "tricube", "exponential"])
def test_sums_of_many_rows_add_no_roundings_up(kernel):
    """A regular grid makes roundings alike; beside extended precision at some queries."""
    n = 200_000
    X, y = np.arange(n) / n, np.random.default_rng(0).normal(size=n)
    queries = np.array([0.123456, 0.5, 0.98765])
    for bandwidth in (0.01, 0.3, 2.0):
        found = fitted(X, y, bandwidth, kernel).predict(queries[:, None])
        u = np.abs(queries[:, None].astype(np.longdouble) - X) / np.longdouble(bandwidth)
        weights = np.exp(-u) if kernel == "exponential" else profile(kernel, u)
        expected = (weights @ y.astype(np.longdouble)) / weights.sum(axis=1)
        np.testing.assert_allclose(found, expected.astype(float), rtol=0, atol=1e-12 * np.ptp(y))


def profile(kernel, u):
    return np.where(u < 1, reference.COMPACT_PROFILES[kernel](np.minimum(u, 1)), 0)


@each_kernel
def test_light_rows_beside_heavy_ones(kernel):
    """A window of light rows is no difference of sums with heavy rows in them."""
    X, y = curve(600)
    weights = 10.0 ** np.random.default_rng(1).uniform(-30, 0, size=len(X))
    for bandwidth in (0.003, 0.05, 3.0):
        assert_as_dense(X, y, bandwidth, kernel, np.linspace(-1.1, 1.1, 200), weights)


@pytest.mark.parametrize("kernel", NAMES)
def test_a_range_of_1e12_bandwidths(kernel):
    X = np.concatenate([np.linspace(0, 1, 300), 1e6 + np.linspace(0, 1, 300), [-1e12, 1e12]])
    y = np.random.default_rng(0).normal(size=len(X))
    queries = np.concatenate([np.linspace(-0.1, 1.1, 50), [2.0, 5e5, 1e6 + 0.3, 1e11, 1e12]])
    assert_as_dense(X, y, 0.02, kernel, queries)
    assert_as_dense(X, y, 1.0, kernel, queries)


# --- edges and ties -------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", COMPACT)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("bandwidth", [0.25, 0.3, 0.1])
def test_rows_at_the_edge_are_outside(kernel, bandwidth, dtype):
    """Lattices of 0.05 have rows at the edge of every window, up to rounding."""
    X = (0.05 * np.arange(60)).astype(dtype)[:, None]
    y = np.random.default_rng(0).normal(size=60)
    for shift in (0.0, 1e3):
        found, expected = (
            NadarayaWatsonRegressor(bandwidth, kernel=kernel, algorithm=name)
            .fit((X + shift).astype(dtype), y)
            .predict((X + shift).astype(dtype))
            for name in ("sorted", "dense")
        )
        atol = 1e-12 if dtype == np.float64 else 2e-2 if shift else 1e-4
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@each_kernel
def test_equal_keys_leave_only_themselves_out(kernel):
    rng = np.random.default_rng(0)
    keys = torch.tensor(np.round(rng.normal(size=400), 1))[None, :, None]
    columns = torch.tensor(np.stack([10.0 ** rng.uniform(-20, 0, 400), rng.normal(size=400)]))[None]
    columns[:, 1] *= columns[:, 0]
    left_out = torch.tensor(rng.permutation(400)[:300])
    for queries, exclude in ((None, None), (keys[:, left_out], left_out), (keys + 0.01, None)):
        found, expected = (
            kernel_sums(as_kernel(kernel), queries, keys, columns, exclude=exclude, algorithm=name)
            for name in ("sorted", "dense")
        )
        assert_close_by_mass(found.sums[0], expected.sums[0])


@each_kernel
def test_any_key_can_be_left_out(kernel):
    rng = np.random.default_rng(0)
    keys, queries = (torch.tensor(rng.normal(size=(2, n, 1))) for n in (300, 200))
    columns = torch.tensor(rng.uniform(size=(2, 3, 300)))
    exclude = torch.tensor(np.where(np.arange(200) % 3 == 0, -1, rng.permutation(300)[:200]))
    for order in (0, 3):
        found, expected = (
            kernel_moments(
                as_kernel(kernel), queries, keys, columns,
                order=order, exclude=exclude, algorithm=name,
            ).moments.flatten(2)
            for name in ("sorted", "dense")
        )  # fmt: skip
        assert_close_by_mass(found, expected)


def assert_close_by_mass(found, expected):
    mass = expected[..., :1]
    found, expected = (torch.where(mass > 0, a / mass, 0.0) for a in (found, expected))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


# --- what follows from sums -----------------------------------------------------------------------


@each_kernel
def test_effective_neighbors_are_those_of_all_pairs(kernel):
    X, y = curve(400)
    sweep, dense = (fitted(X, y, 0.2, kernel, name) for name in ("sorted", "dense"))
    queries = np.linspace(-1, 1, 90)[:, None]
    found, expected = (model.effective_neighbors(queries) for model in (sweep, dense))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("kernel", ["epanechnikov", "exponential"])
def test_a_search_over_many_rows_needs_no_sample(kernel):
    X, y = curve(3000)
    many = {"MANY_ROWS": 1000, "ROWS_BEFORE_MANY": 500}
    with tuning.override(**many, FEWEST_HELD_OUT=300, PAIRS_HELD_OUT=1):
        models = [
            fitted(X, y, BandwidthSearch(), kernel, name, random_state=0)
            for name in ("sorted", "dense")
        ]
    reports = [model.search_report_ for model in models]
    assert [report["n_held_out"] for report in reports] == [3000, 300]
    whole = fitted(X, y, BandwidthSearch(n_held_out=3000), kernel, "dense", random_state=0)
    assert models[0].criterion_ <= whole.criterion_ * (1 + 1e-6)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_change_no_bit(n_threads):
    X, y = curve(2000)
    model = fitted(X, y, 0.1, "biweight")
    expected = model.predict(X[:, None])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        with tuning.override(POINTS_OF_A_SWEEP=100):
            found = model.predict(X[:, None])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


# --- which problems -------------------------------------------------------------------------------


def problem(kernel="epanechnikov", **changes):
    keys = torch.linspace(-50, 50, 100_000, dtype=torch.float64)[None, :, None]
    settings = {
        "n_columns": 2, "leave_one_out": True, "needs_grad": False, "rtol": 1e-8, **changes
    }  # fmt: skip
    return Problem.of(as_kernel(kernel), None, keys, **settings)


@each_kernel
def test_auto_takes_it_for_many_rows(kernel):
    times = {
        name: algorithm(1e-8).seconds(problem(kernel))
        for name, algorithm in ALGORITHMS.items()
        if not algorithm(1e-8).unsupported_reasons(problem(kernel))
    }
    assert min(times, key=times.get) == "sorted"


def test_other_problems_are_refused():
    X, y = curve(100)
    refused = "No algorithm can do this problem: sorted: .*"
    with pytest.raises(ValueError, match=refused + "'gaussian' is no polynomial, cosine or expo"):
        fitted(X, y, 0.1, "gaussian")
    with pytest.raises(ValueError, match=refused + "kernel .* is no polynomial"):
        fitted(X, y, 0.1, lambda u: torch.exp(-u))
    with pytest.raises(ValueError, match=refused + "one embedded dimension, not 2"):
        NadarayaWatsonRegressor(0.1, kernel="tophat", algorithm="sorted").fit(
            np.column_stack([X, X]), y
        )
    with pytest.raises(ValueError, match=refused + "categories have no order"):
        NadarayaWatsonRegressor(
            0.1, kernel="tophat", algorithm="sorted", categorical_features=[0]
        ).fit(np.round(X)[:, None], y)
    keys, columns = torch.zeros(1, 5, 1), torch.ones(1, 1, 5)
    with pytest.raises(ValueError, match=refused + "moments to order 8, not 9"):
        kernel_moments(KERNELS["linear"], None, keys, columns, order=9, algorithm="sorted")


# --- the order ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=5000),
        np.round(np.random.default_rng(0).normal(size=5000), 1),
        np.append(np.random.default_rng(0).normal(size=5000), [1e300, -1e300]),
        np.append(np.random.default_rng(0).normal(size=5000), 1e18),
        np.arange(10.0)[::-1],
        np.array([1e308, -1e308, 0.0]),
        np.array([5.0]),
    ],
    ids=["normal", "ties", "infinite-range", "one-far", "reversed", "overflow", "one"],
)
def test_ascending_order(values):
    order = ascending_order(values)
    order = np.arange(len(values)) if order is None else order
    np.testing.assert_array_equal(values[order], np.sort(values))
    np.testing.assert_array_equal(np.sort(order), np.arange(len(values)))
