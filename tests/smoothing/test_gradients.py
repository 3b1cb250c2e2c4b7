"""Gradients of predictions, in every form of a fit, against the reference and differences."""

import warnings

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from designs import name_of, pairwise
from evaluation import done_by

from sknw import (
    EmptyNeighborhoodWarning,
    NadarayaWatsonRegressor,
    NeighborBandwidth,
    ParametricNWRegressor,
)
from sknw.kernels import KERNELS
from sknw.metrics import MlpMetric
from sknw.support import tuning

NAMES = sorted(KERNELS)
BANDWIDTH = np.array([0.9, 1.4])


def rows(n=60, d=2, n_outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = np.sin(2 * X[:, 0]) + X[:, -1] + 5
    if n_outputs is not None:
        y = np.column_stack([(k + 1) * y + np.cos(k * X[:, 0]) for k in range(n_outputs)])
    return X, y


def whole_numbers(n=60, seed=0):
    """Many pairs at the edge of windows of width one and two, and many equal rows."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 6, size=(n, 2)).astype(float)
    return X, X[:, 0] ** 2 + rng.normal(size=n)


def differences(model, X, step=1e-5):
    return reference.gradient_by_differences(model.predict, X, step)


# --- every kernel, algorithm and kind of data ----------------------------------------------------

EVALUATED = [("dense", "torch"), ("dense", "fused"), ("blocks", "torch"), ("blocks", "fused")]
DESIGN = pairwise(NAMES, EVALUATED, ["equal", "weights"], ["free", "grid"], [None, 1, 3], [8, 4])
DESIGN += [
    ("gaussian", ("nufft", "fused"), weights, "free", n_outputs, 8)
    for weights, n_outputs in (("equal", None), ("weights", 3))
]


@pytest.mark.parametrize(
    ("kernel", "by", "weighting", "place", "n_outputs", "itemsize"), DESIGN, ids=name_of
)
def test_gradient_is_that_of_the_reference(kernel, by, weighting, place, n_outputs, itemsize):
    algorithm, evaluator = by
    if algorithm == "nufft":
        pytest.importorskip("finufft")
    X, y = whole_numbers() if place == "grid" else rows()
    if n_outputs is not None:
        y = np.column_stack([y * (k + 1) - np.cos(k * X[:, 0]) for k in range(n_outputs)])
    bandwidth = np.array([1.0, 2.0]) if place == "grid" else BANDWIDTH
    weight = np.random.default_rng(3).uniform(0, 2, len(X)) if weighting == "weights" else None
    if weight is not None:
        weight[:5] = 0
    X = X.astype(f"f{itemsize}")
    queries = X[:20] if place == "grid" else (X[:20] + 0.3).astype(X.dtype)
    model = NadarayaWatsonRegressor(bandwidth, kernel=kernel, algorithm=algorithm)
    model.fit(X, y, weight)
    with done_by(evaluator), warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyNeighborhoodWarning)
        found = model.gradient(queries)
    expected = reference.gradient(kernel, queries, X, y, bandwidth, weight)
    expected = expected[:, :, 0] if n_outputs is None else expected
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    slack = 1e-4 if itemsize == 4 else 1e-7
    np.testing.assert_allclose(found, expected, rtol=slack, atol=slack * np.ptp(y))


@pytest.mark.parametrize("kernel", sorted(set(NAMES) - {"tophat"}))
def test_gradient_is_that_of_differences(kernel):
    X, y = rows()
    model = NadarayaWatsonRegressor(1.3, kernel=kernel).fit(X, y)
    found = model.gradient(X[:10] + 0.1)
    np.testing.assert_allclose(found, differences(model, X[:10] + 0.1), rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_tophat_is_zero():
    X, y = whole_numbers()
    assert (NadarayaWatsonRegressor(2.0, kernel="tophat").fit(X, y).gradient(X) == 0).all()


@pytest.mark.parametrize("evaluator", ["torch", "fused"])
@pytest.mark.parametrize("kernel", ["linear", "epanechnikov", "cosine", "exponential"])
def test_kinks_have_the_mean_of_both_sides(kernel, evaluator):
    X, step = np.arange(12.0)[:, None], 1e-6
    y = np.random.default_rng(0).normal(size=12)
    model = NadarayaWatsonRegressor(2.0, kernel=kernel).fit(X, y)
    at = X[3:9]
    here = model.predict(at)
    sides = (model.predict(at + step) - here) / step, (here - model.predict(at - step)) / step
    with done_by(evaluator):
        found = model.gradient(at)[:, 0]
    assert np.abs(sides[0] - sides[1]).max() > 1e-2
    np.testing.assert_allclose(found, np.mean(sides, axis=0), rtol=1e-4, atol=1e-4)


def test_a_function_as_kernel():
    X, y = rows()
    model = NadarayaWatsonRegressor(0.8, kernel=lambda u: torch.exp(-(u**3))).fit(X, y)
    np.testing.assert_allclose(model.gradient(X), differences(model, X), rtol=1e-5, atol=1e-6)


# --- far away, and where weights underflow -------------------------------------------------------


@pytest.mark.parametrize("kernel", ["gaussian", "exponential"])
@pytest.mark.parametrize("d", [1, 3])
def test_far_away_the_gradient_is_that_of_the_ratio(kernel, d):
    rng = np.random.default_rng(5)
    X, y = 0.2 * rng.normal(size=(40, d)), rng.normal(size=40)
    queries = 1e3 * rng.choice([-1, 1], size=(6, d)) + rng.normal(size=(6, d))
    found = NadarayaWatsonRegressor(1.0, kernel=kernel).fit(X, y).gradient(queries)
    expected = reference.gradient(kernel, queries, X, y, 1.0)[:, :, 0]
    if kernel == "gaussian" or d > 1:
        assert (expected != 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-300 if d > 1 else 1e-15)


@pytest.mark.parametrize("distance", [1e5, 1e20, 1e150])
def test_the_gradient_is_finite_at_any_distance(distance):
    X, y = rows()
    found = NadarayaWatsonRegressor(1.0).fit(X, y).gradient([[distance, 0.0], [0.0, -distance]])
    np.testing.assert_array_equal(found, 0)


def test_rows_lighter_than_sums_can_hold():
    X, y = np.array([[0.0], [50.0], [50.5]]), np.array([0.0, 1.0, 3.0])
    weight = np.array([1.0, 1e-320, 2e-320])
    model = NadarayaWatsonRegressor(1.0).fit(X, y, weight)
    near = NadarayaWatsonRegressor(1.0).fit(X[1:], y[1:], [0.5, 1.0])
    at = [[50.2], [51.0]]
    np.testing.assert_allclose(model.gradient(at), near.gradient(at), rtol=1e-3)


def test_queries_beyond_the_grid_of_a_transform():
    pytest.importorskip("finufft")
    rng = np.random.default_rng(1)
    X = np.append(rng.normal(size=3000), 30.0)[:, None]
    y = np.sin(3 * X[:, 0])
    queries = np.array([[0.1], [4.0], [6.0], [12.0], [29.0], [200.0]])
    model = NadarayaWatsonRegressor(0.3, algorithm="nufft").fit(X, y)
    expected = reference.gradient("gaussian", queries, X, y, 0.3)[:, :, 0]
    np.testing.assert_allclose(model.gradient(queries), expected, atol=1e-7)


# --- windows by neighbours -----------------------------------------------------------------------


def fixed_window_prediction(kernel, widths, X, y, queries):
    """Means (m,) for widths (m, n) of pairs."""
    u = np.linalg.norm(queries[:, None] - X, axis=2) / widths
    profiles = {"gaussian": lambda u: np.exp(-(u**2) / 2), "exponential": lambda u: np.exp(-u)}
    profile = profiles.get(kernel) or reference.COMPACT_PROFILES[kernel]
    weights = profile(u) if kernel in profiles else np.where(u < 1, profile(np.minimum(u, 1)), 0)
    return (weights * y).sum(axis=1) / weights.sum(axis=1)


@pytest.mark.parametrize("kind", ["query", "key"])
@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "epanechnikov", "tricube"])
def test_windows_by_neighbours_are_fixed(kernel, kind):
    X, y = rows()
    queries = X[:8] + 0.05
    model = NadarayaWatsonRegressor(NeighborBandwidth(9, kind=kind), kernel=kernel).fit(X, y)
    widths = np.sort(np.linalg.norm(queries[:, None] - X, axis=2), axis=1)[:, [8]]
    if kind == "key":
        widths = np.sort(np.linalg.norm(X[:, None] - X, axis=2), axis=1)[:, 9]

    def predict(at):
        return fixed_window_prediction(kernel, widths, X, y, at)

    np.testing.assert_allclose(model.predict(queries), predict(queries), atol=1e-12)
    expected = reference.gradient_by_differences(predict, queries, 1e-6)
    np.testing.assert_allclose(model.gradient(queries), expected, rtol=1e-5, atol=1e-5)


def test_windows_by_neighbours_far_away():
    X, y = rows(20)
    found = NadarayaWatsonRegressor(NeighborBandwidth(5)).fit(X, y).gradient([[1e6, 1e6]])
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 1e-5


# --- metrics, categories, policies ---------------------------------------------------------------


class Spiral(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, X):
        return torch.stack([self.factor * X[:, 0] + torch.sin(X[:, 1]), X[:, 1] ** 2], dim=1)


METRICS = {
    "scalar": "scalar",
    "diagonal": "diagonal",
    "full": "full",
    "mlp": MlpMetric(8, 8, n_bins=4),
    "module": Spiral(),
}


@pytest.mark.filterwarnings("ignore:Training did not converge", "ignore::sknw.MetricWarning")
@pytest.mark.parametrize("n_outputs", [None, 2])
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_go_by_the_chain_rule(metric, n_outputs):
    X, y = rows(n_outputs=n_outputs)
    model = ParametricNWRegressor(METRICS[metric], n_starts=1, max_iter=3).fit(X, y)
    at = X[:12] + 0.02
    found = model.gradient(at)
    expected = differences(model, at)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:Training did not converge", "ignore::sknw.MetricWarning")
@pytest.mark.parametrize("metric", [None, "diagonal", "full"])
def test_categories_have_none_and_numbers_have_theirs(metric):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"site": rng.choice(list("abc"), 80), "x": rng.normal(size=80)})
    X["size"] = pd.Categorical(rng.choice(["S", "M"], 80), categories=["S", "M"], ordered=True)
    X["z"] = rng.normal(size=80)
    y = np.sin(X["x"]) + X["z"] * (X["site"] == "a")
    if metric is None:
        model = NadarayaWatsonRegressor([0.3, 0.6, 0.5, 0.8]).fit(X, y)
    else:
        model = ParametricNWRegressor(metric, n_starts=1, max_iter=3).fit(X, y)
    found = model.gradient(X)
    assert np.isnan(found[:, [0, 2]]).all()
    for place, name in ((1, "x"), (3, "z")):
        higher, lower = X.copy(), X.copy()
        higher[name] += 1e-5
        lower[name] -= 1e-5
        by_differences = (model.predict(higher) - model.predict(lower)) / 2e-5
        np.testing.assert_allclose(found[:, place], by_differences, rtol=1e-4, atol=1e-6)


def test_an_exact_match_of_categories():
    X = pd.DataFrame({"site": list("aabb") * 5, "x": np.arange(20.0)})
    y = np.sin(X["x"])
    model = NadarayaWatsonRegressor([0.0, 1.0]).fit(X, y)
    a = X["site"] == "a"
    alone = NadarayaWatsonRegressor(1.0).fit(X.loc[a, ["x"]], y[a])
    found = model.gradient(X.assign(x=X["x"] + 0.3))[a, 1]
    np.testing.assert_allclose(found, alone.gradient(X.loc[a, ["x"]] + 0.3)[:, 0], rtol=1e-9)


@pytest.mark.parametrize("bandwidth", [0.5, NeighborBandwidth(2)])
@pytest.mark.parametrize(("policy", "expected"), [("nearest", 0.0), ("mean", 0.0), ("nan", np.nan)])
def test_empty_neighbourhoods(policy, expected, bandwidth):
    X, y = np.array([[0.0], [0.3], [0.5]]), np.array([0.0, 1.0, 3.0])
    model = NadarayaWatsonRegressor(bandwidth, kernel="linear", empty_neighborhood=policy)
    model.fit(X, y)
    if isinstance(bandwidth, NeighborBandwidth):
        model.set_params(kernel=lambda u: (u > 2) * 1.0)  # nothing is that far
    with pytest.warns(EmptyNeighborhoodWarning, match="1 of 1 queries"):
        found = model.gradient([[9.0]])
    np.testing.assert_array_equal(found, [[expected]])


def test_an_empty_neighbourhood_may_be_an_error():
    model = NadarayaWatsonRegressor(0.5, kernel="linear", empty_neighborhood="raise")
    model.fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(ValueError, match="1 of 2 queries have no training row"):
        model.gradient([[0.1], [9.0]])


# --- units, precision, memory --------------------------------------------------------------------


def test_affine_changes_of_y_and_of_units():
    X, y = rows()
    plain = NadarayaWatsonRegressor(BANDWIDTH).fit(X, y).gradient(X)
    scaled = NadarayaWatsonRegressor(BANDWIDTH).fit(X, 1e6 - 3 * y).gradient(X)
    np.testing.assert_allclose(scaled, -3 * plain, atol=1e-7)
    units = np.array([100.0, 1e-3])
    other = NadarayaWatsonRegressor(BANDWIDTH * units).fit(X * units, y).gradient(X * units)
    np.testing.assert_allclose(other * units, plain, atol=1e-9)


def test_rows_in_float32_keep_the_digits_of_y():
    X, y = rows()
    X = X.astype(np.float32)
    single = NadarayaWatsonRegressor(BANDWIDTH).fit(X, y + 1e7)
    double = NadarayaWatsonRegressor(BANDWIDTH).fit(X.astype(float), y + 1e7)
    assert single.gradient(X).dtype == np.float64
    np.testing.assert_allclose(single.gradient(X), double.gradient(X), atol=1e-5)
    assert NadarayaWatsonRegressor(1.0).fit(X, y.astype(np.float32)).gradient(X).dtype == np.float32


def test_outputs_of_one_column_keep_their_dimension():
    X, y = rows(n_outputs=1)
    assert NadarayaWatsonRegressor(1.0).fit(X, y).gradient(X[:4]).shape == (4, 2, 1)


def test_queries_one_by_one():
    X, y = rows()
    model = NadarayaWatsonRegressor(BANDWIDTH).fit(X, y)
    one_by_one = np.concatenate([model.gradient(x[None]) for x in X[:10]])
    np.testing.assert_allclose(model.gradient(X)[:10], one_by_one, rtol=1e-10, atol=1e-12)


def test_a_gradient_leaves_predictions_as_they_are():
    X, y = rows(300)
    asked, fresh = (NadarayaWatsonRegressor(0.3).fit(X, y) for _ in range(2))
    asked.gradient(X)
    with tuning.override(FEWEST_PAIRS_FOR_A_CHOICE=0):
        np.testing.assert_array_equal(asked.predict(X), fresh.predict(X))


def test_gradients_of_the_true_curve_and_not_those_of_statsmodels():
    """KernelReg's effects are off by what its derivative of the density leaves out.

    In statsmodels 0.15 `fit()[1]` of a local constant differs from the derivative of its own
    `fit()[0]`; here both agree, and tell the slope of a line in the middle of even rows.
    """
    X = np.linspace(0, 1, 201)[:, None]
    model = NadarayaWatsonRegressor(0.03).fit(X, 2 - 7 * X[:, 0])
    np.testing.assert_allclose(model.gradient(X[60:140]), -7, rtol=1e-9)
    curve = NadarayaWatsonRegressor(0.03).fit(X, np.sin(6 * X[:, 0]))
    at = X[60:140]
    smoothed = 6 * np.cos(6 * at) * np.exp(-((6 * 0.03) ** 2) / 2)  # the curve under a Gaussian
    np.testing.assert_allclose(curve.gradient(at), smoothed, atol=1e-6)
