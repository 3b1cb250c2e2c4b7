"""Local polynomials: against projections written out, on regular and on nasty designs."""

import warnings

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from designs import name_of, pairwise
from evaluation import done_by
from sklearn.model_selection import GridSearchCV

from sknw import (
    EmptyNeighborhoodWarning,
    NadarayaWatsonRegressor,
    NeighborBandwidth,
    ParametricNWRegressor,
)
from sknw.data.observations import Observations
from sknw.fitting.criteria import CRITERIA
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.scale_objective import criterion_of_scales
from sknw.kernels import KERNELS
from sknw.smoothing.method import Method
from sknw.support import tuning

NAMES = sorted(KERNELS)
BANDWIDTH = np.array([1.3, 1.9])
EVALUATED = [("dense", "torch"), ("dense", "fused"), ("blocks", "torch"), ("blocks", "fused")]


def rows(n=60, d=2, n_outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = np.sin(2 * X[:, 0]) + X[:, -1] + 5 + 0.1 * rng.normal(size=n)
    if n_outputs is not None:
        y = np.column_stack([(k + 1) * y + np.cos(k * X[:, 0]) for k in range(n_outputs)])
    return X, y


def fitted(X, y, bandwidth=BANDWIDTH, sample_weight=None, **params):
    params = {"duplicates": "keep", **params}
    return NadarayaWatsonRegressor(bandwidth, **params).fit(X, y, sample_weight)


def weights_of(kind, n, seed=1):
    if kind == "equal":
        return None
    logs = np.random.default_rng(seed).uniform(-1, 1, n) * (15 if kind == "wide" else 1)
    return np.exp(logs * np.log(10)) if kind == "wide" else np.exp(logs)


# --- every kernel, algorithm and degree ----------------------------------------------------------

DESIGN = pairwise(NAMES, EVALUATED, ["equal", "weights", "wide"], [1, 2, 3], [None, 3])
DESIGN += [("gaussian", ("nufft", "fused"), "weights", degree, None) for degree in (1, 2)]


@pytest.mark.parametrize(("kernel", "by", "weighting", "degree", "n_outputs"), DESIGN, ids=name_of)
def test_fits_are_those_of_projections(kernel, by, weighting, degree, n_outputs):
    X, y = rows(n_outputs=n_outputs)
    sample_weight = weights_of(weighting, len(X))
    width = BANDWIDTH * (1 if kernel in reference.INFINITE_SUPPORT else 2.5)
    queries = np.vstack([X[:5], X[:20] * 1.2 + 0.1, [[6.0, 0.0], [0.0, -9.0]]])
    with done_by(by[1]), warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyNeighborhoodWarning)
        model = fitted(X, y, width, sample_weight, kernel=kernel, degree=degree, algorithm=by[0])
        predicted, slopes = model.predict(queries), model.gradient(queries)
        loo, attention = model.predict_loo(), model.attention_weights(queries)
    hat = reference.polynomial_fit(kernel, queries, X, width, degree, sample_weight)[0]
    reached = hat.sum(axis=1) > 0
    scale = np.ptp(y, axis=0)
    tolerance = 1e-8 if weighting == "wide" or by[0] == "nufft" else 1e-9
    np.testing.assert_allclose(
        (predicted / scale)[reached], (hat @ y / scale)[reached], atol=tolerance
    )
    np.testing.assert_allclose(attention[reached], hat[reached], atol=tolerance)
    np.testing.assert_allclose(attention @ (y / scale), predicted / scale, atol=1e-8)
    assert slopes.shape == (*queries.shape, *y.shape[1:])
    out = reference.polynomial_fit(
        kernel, X, X, width, degree, sample_weight, exclude=np.eye(len(X), dtype=bool)
    )[0]
    reached = out.sum(axis=1) > 0
    np.testing.assert_allclose((loo / scale)[reached], (out @ y / scale)[reached], atol=tolerance)


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("kernel", ["gaussian", "biweight", "exponential"])
def test_gradient_is_the_local_slope(kernel, degree):
    X, y = rows(n=120)
    queries = X[:30] * 0.8
    width = BANDWIDTH * (1 if kernel == "gaussian" else 2.5)
    model = fitted(X, y, width, kernel=kernel, degree=degree)
    _, slopes, lowered = reference.polynomial_fit(kernel, queries, X, width, degree)
    regular = ~lowered
    assert regular.sum() > 15
    np.testing.assert_allclose(model.gradient(queries)[regular], (slopes @ y)[regular], atol=1e-7)


def test_gradient_of_a_lowered_fit_is_mixed_with_that_of_the_mean():
    X, y = np.array([[0.0], [1.0]]), np.array([0.0, 1.0])
    model = fitted(X, y, 0.3, degree=1)
    queries = np.array([[-2.0], [0.4], [3.0]])
    hat, _, lowered = reference.polynomial_fit("gaussian", queries, X, 0.3, 1)
    assert lowered.any()
    constant = fitted(X, y, 0.3, degree=0).gradient(queries)[:, 0]
    alpha = reference.weights("gaussian", queries, X, 0.3)
    # the share of degree 1, from the weights: hat = share · line + (1 − share) · alpha
    line = np.column_stack([1 - queries[:, 0], queries[:, 0]])
    share = ((hat - alpha) / (line - alpha))[:, 0]
    assert share.min() < 1
    expected = share * 1.0 + (1 - share) * constant
    np.testing.assert_allclose(model.gradient(queries)[:, 0], expected, atol=1e-9)


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("kernel", NAMES)
def test_polynomials_are_reproduced(kernel, degree):
    X, _ = rows(n=200)
    y = sum((c + 1.5) * (X[:, 0] - 0.3 * c * X[:, 1]) ** c for c in range(degree + 1))
    queries = X[:50] * 0.7
    model = fitted(X, y, 4 * BANDWIDTH, kernel=kernel, degree=degree)
    np.testing.assert_allclose(model.predict(queries), y_of(queries, degree), atol=1e-8 * np.ptp(y))


def y_of(X, degree):
    return sum((c + 1.5) * (X[:, 0] - 0.3 * c * X[:, 1]) ** c for c in range(degree + 1))


def test_least_squares_at_a_huge_bandwidth():
    X, y = rows()
    queries = np.vstack([X[:10], [[8.0, -7.0]]])
    for degree in (1, 2, 3):
        powers = [np.prod(X**a, axis=1) for a in reference.exponents(2, degree)]
        at = [np.prod(queries**a, axis=1) for a in reference.exponents(2, degree)]
        coefficients = np.linalg.lstsq(np.transpose(powers), y, rcond=None)[0]
        expected = np.transpose(at) @ coefficients
        found = fitted(X, y, 1e6 * np.ptp(X), degree=degree).predict(queries)
        np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(expected).max())


def test_degree_zero_is_the_mean_of_before():
    X, y = rows()
    before = reference.predict("gaussian", X, X, y, BANDWIDTH)
    np.testing.assert_allclose(fitted(X, y, degree=0).predict(X), before, rtol=1e-12)


# --- the hat matrix ------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["equal", "weights", "wide"])
@pytest.mark.parametrize("degree", [1, 2])
def test_leverage_and_degrees_of_freedom_are_of_the_hat_matrix(degree, weighting):
    X, y = rows()
    sample_weight = weights_of(weighting, len(X))
    model = fitted(X, y, sample_weight=sample_weight, degree=degree)
    hat = reference.polynomial_fit("gaussian", X, X, BANDWIDTH, degree, sample_weight)[0]
    w = np.ones(len(X)) if sample_weight is None else sample_weight
    np.testing.assert_allclose(model.leverage(), np.diag(hat), atol=1e-9)
    assert model.degrees_of_freedom() == pytest.approx(np.trace(hat), rel=1e-9)
    squared = (np.outer(w, 1 / w) * hat**2).sum()
    assert model.degrees_of_freedom("squared") == pytest.approx(squared, rel=1e-7)
    kept = 1 - 2 * np.diag(hat) + (hat**2).sum(axis=1)
    variance = w @ (y - hat @ y) ** 2 / (w @ kept)
    assert model.residual_variance_ == pytest.approx(variance, rel=1e-7)
    np.testing.assert_allclose(model.attention_weights(X), hat, atol=1e-9)


@pytest.mark.parametrize("degree", [1, 2])
def test_leave_one_out_is_the_fit_without_the_row(degree):
    X, y = rows(n=25)
    X[3:6] = X[2]  # one cell of several rows
    model = fitted(X, y, degree=degree)
    others = [np.arange(len(X)) != i for i in range(len(X))]
    refits = [
        fitted(X[o], y[o], degree=degree).predict(X[i : i + 1])[0] for i, o in enumerate(others)
    ]
    np.testing.assert_allclose(model.predict_loo(), refits, atol=1e-9)
    weights = model.attention_weights()
    np.testing.assert_allclose(np.diag(weights), 0, atol=0)
    np.testing.assert_allclose(weights @ y, refits, atol=1e-9)


def test_top_attention_is_by_magnitude():
    X, y = rows()
    model = fitted(X, y, degree=2)
    queries = np.array([[2.5, 2.5]])
    full, top = model.attention_weights(queries)[0], model.attention_weights(queries, top_k=5)
    largest = np.sort(np.argsort(-np.abs(full))[:5])
    assert (full < 0).any()
    np.testing.assert_array_equal(top.indices, largest)
    np.testing.assert_array_equal(top.data, full[largest])


# --- nasty designs -------------------------------------------------------------------------------


def nasty(name, rng):
    X = rng.normal(size=(40, 2))
    if name == "constant column":
        X[:, 1] = 3.0
    elif name == "duplicated column":
        X[:, 1] = X[:, 0]
    elif name == "collinear columns":
        X = np.column_stack([X, X @ [2.0, -1.0]])
    elif name == "all equal":
        X[:] = X[0]
    elif name == "fewer rows than coefficients":
        X = X[:3]
    elif name == "three levels":
        X[:, 1] = rng.integers(0, 3, 40)
    elif name == "two clusters":
        X[:20] += 100.0
    elif name == "one row":
        X = X[:1]
    elif name == "offset":
        X += 1e9
    elif name == "grid":
        X = rng.integers(0, 4, size=(40, 2)).astype(float)
    return X


NASTY = [
    "constant column", "duplicated column", "collinear columns", "all equal",
    "fewer rows than coefficients", "three levels", "two clusters", "one row", "offset", "grid",
]  # fmt: skip


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("name", NASTY)
def test_nasty_designs_are_never_wild(name, degree):
    rng = np.random.default_rng(3)
    X = nasty(name, rng)
    y = rng.normal(size=len(X))
    centre, spread = X.mean(axis=0), max(np.ptp(X), 1.0)
    for width in (0.05, 0.7, 20.0):
        queries = np.vstack(
            [
                X,
                centre + rng.normal(size=(20, X.shape[1])),
                X[:1] + 1e3 * width * spread,
                X[:1] + 1e150,
            ]
        )
        model = fitted(X, y, width, degree=degree)
        predicted = model.predict(queries)
        assert np.isfinite(predicted).all()
        # a fit of many neighbours is least squares, which may extrapolate
        neighbors = model.effective_neighbors(queries)
        few = neighbors < 2 * len(reference.exponents(X.shape[1], degree))
        slack = 2 * np.ptp(y) + 1e-9
        assert ((predicted >= y.min() - slack) & (predicted <= y.max() + slack))[few].all()
        assert np.isfinite(model.gradient(queries)).all()
        assert len(X) == 1 or np.isfinite(model.predict_loo()).all()


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("name", ["constant column", "duplicated column", "collinear columns"])
def test_undetermined_directions_are_as_if_not_there(name, degree):
    """At a bandwidth at which they do not matter for the weights either."""
    rng = np.random.default_rng(0)
    X = nasty(name, rng)
    y = np.sin(X[:, 0])
    n_free = 2 if name == "collinear columns" else 1
    width = np.full(X.shape[1], 1e8)
    width[:n_free] = 1.5
    plain = fitted(X[:, :n_free], y, width[:n_free], degree=degree)
    queries = X[:10] + 0.1
    found = fitted(X, y, width, degree=degree).predict(queries)
    np.testing.assert_allclose(found, plain.predict(queries[:, :n_free]), atol=1e-7)


def test_two_levels_have_no_square():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=50), rng.integers(0, 2, 50)]).astype(float)
    y = X[:, 0] ** 2 + 3 * X[:, 1]
    model = fitted(X, y, 5.0, degree=2)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-8)
    assert model.sums_report_["rows_lowered"] == 0


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_fits_are_continuous_and_tend_to_the_nearest_row(degree):
    X, y = rows(n=12, d=1)
    model = fitted(X, y, 0.15, degree=degree)
    path = np.linspace(X.min() - 3, X.max() + 3, 400)
    near = np.repeat(path, 2)
    near[1::2] += 1e-12
    steps = np.diff(model.predict(near[:, None]))[::2]
    assert np.abs(steps).max() < 1e-9
    far = np.array([[X.min() - 500.0], [X.max() + 500.0]])
    np.testing.assert_allclose(
        model.predict(far), [y[X[:, 0].argmin()], y[X[:, 0].argmax()]], atol=1e-6
    )
    thin = model.sums_report_["rows_lowered"]
    assert thin == 2


def test_affine_changes_of_y_commute():
    X, y = rows()
    for degree in (1, 2):
        plain, moved = fitted(X, y, 0.4, degree=degree), fitted(X, 1e3 - 7 * y, 0.4, degree=degree)
        np.testing.assert_allclose(
            moved.predict(X * 1.3), 1e3 - 7 * plain.predict(X * 1.3), rtol=1e-11
        )


# --- the criteria and their gradients ------------------------------------------------------------


def criterion_of(X, y, name, **method):
    task = LeaveOneOut.of(
        Observations.of(X, y[:, None], np.linspace(1, 2, len(X)), duplicates="keep"),
        Method(KERNELS[method["kernel"]], "dense", 1e-10, degree=method["degree"]),
        dtype=torch.float64,
        device="cpu",
    )
    return criterion_of_scales(task, CRITERIA[name])


@pytest.mark.parametrize("width", [0.08, 0.5, 2.0])
@pytest.mark.parametrize(
    ("criterion", "degree", "kernel"),
    pairwise(
        ["loo", "loo_absolute", "aicc", "gcv"], [1, 2], ["gaussian", "biweight", "exponential"]
    ),
    ids=name_of,
)
def test_gradients_of_criteria_are_those_of_differences(criterion, degree, kernel, width):
    X, y = rows(n=40)
    X[5:8] = X[4]
    width = width * (1 if kernel == "gaussian" else 2.5)
    at = criterion_of(X, y, criterion, kernel=kernel, degree=degree)
    scales = np.array([1.0, 0.7]) / width
    value, gradient = at.value_and_gradient(scales)
    assert value == pytest.approx(at.values(scales[None])[0], rel=1e-12)
    if not np.isfinite(value):
        return
    for f in range(2):
        step = 1e-6 * (np.arange(2) == f)
        high, low = at.values(np.array([scales * np.exp(step), scales * np.exp(-step)]))
        assert gradient[f] == pytest.approx((high - low) / 2e-6, rel=2e-4, abs=2e-7 * value)


def test_criterion_is_that_of_the_leave_one_out_predictions():
    X, y = rows(n=50, d=1)
    for degree in (1, 2):
        model = NadarayaWatsonRegressor("loo", degree=degree, duplicates="keep").fit(X, y)
        assert model.criterion_ == pytest.approx(np.mean((model.predict_loo() - y) ** 2), rel=1e-9)
        other = fitted(X, y, model.bandwidth_ * 1.2, degree=degree)
        assert model.criterion_ <= np.mean((other.predict_loo() - y) ** 2)


def test_a_linear_feature_is_not_an_irrelevant_one():
    rng = np.random.default_rng(1)
    X = rng.uniform(-2, 2, size=(150, 2))
    y = np.sin(3 * X[:, 0]) + 2 * X[:, 1] + rng.normal(size=150)
    model = NadarayaWatsonRegressor("loo", degree=1).fit(X, y)
    assert (model.linear_features_.tolist(), model.irrelevant_features_.tolist()) == ([1], [])
    np.testing.assert_array_equal(model.get_support(), [True, True])
    assert model.feature_importances_[1] > 0.2
    constant = NadarayaWatsonRegressor("loo", degree=0).fit(X[:60], X[:60, 0])
    assert constant.linear_features_.tolist() == []


# --- windows by neighbours, categories, precisions -----------------------------------------------


@pytest.mark.parametrize("kind", ["query", "key"])
@pytest.mark.parametrize("degree", [1, 2])
def test_neighbor_windows(kind, degree):
    X, y = rows(n=50)
    model = NadarayaWatsonRegressor(NeighborBandwidth(20, kind=kind), degree=degree).fit(X, y)
    weights = model.attention_weights(X[:10] + 0.1)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-10)
    np.testing.assert_allclose(weights @ y, model.predict(X[:10] + 0.1), atol=1e-10)
    linear = NadarayaWatsonRegressor(NeighborBandwidth(20, kind=kind), degree=degree)
    target = X @ [2.0, -1.0]
    np.testing.assert_allclose(linear.fit(X, target).predict(X), target, atol=1e-8)
    np.testing.assert_allclose(linear.gradient(X[:5]), np.tile([2.0, -1.0], (5, 1)), atol=1e-7)
    assert model.degrees_of_freedom() == pytest.approx(
        np.trace(model.attention_weights(X)), rel=1e-9
    )


def test_a_search_of_neighbors():
    X, y = rows(n=80, d=1)
    model = NadarayaWatsonRegressor(NeighborBandwidth("loo"), degree=1).fit(X, y)
    assert model.criterion_ == pytest.approx(np.mean((model.predict_loo() - y) ** 2), rel=1e-9)


def test_categories_take_part_in_the_weights_only():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"x": rng.normal(size=60), "c": pd.Categorical(rng.choice(list("abc"), 60))}
    )
    y = 2 * frame["x"] + frame["c"].cat.codes
    model = NadarayaWatsonRegressor([5.0, 0.0], degree=1, duplicates="keep").fit(frame, y)
    np.testing.assert_allclose(model.predict(frame), y, atol=1e-8)
    gradient = model.gradient(frame)
    np.testing.assert_allclose(gradient[:, 0], 2, atol=1e-7)
    assert np.isnan(gradient[:, 1]).all()
    searched = NadarayaWatsonRegressor("loo", degree=1).fit(frame, y + 0.1 * rng.normal(size=60))
    assert searched.criterion_ < 0.1


def test_single_precision_is_summed_in_double():
    X, y = rows()
    single = fitted(X.astype(np.float32), y.astype(np.float32), degree=2)
    double = fitted(X.astype(np.float32).astype(float), y.astype(np.float32), degree=2)
    predicted = single.predict(X.astype(np.float32))
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, double.predict(X.astype(np.float32)), rtol=1e-5)


def test_many_queries_are_answered_some_at_a_time():
    X, y = rows()
    whole = fitted(X, y, degree=2)
    expected, loo = whole.predict(X), whole.predict_loo()
    with tuning.override(NUMBERS_OF_MOMENTS=400):
        parts = fitted(X, y, degree=2)
        np.testing.assert_allclose(parts.predict(X), expected, rtol=1e-12)
        assert parts.sums_report_["n_queries"] == len(X)
        np.testing.assert_allclose(parts.predict_loo(), loo, rtol=1e-12)


# --- the estimators ------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [-1, 4, 1.0, True, "1", None])
def test_no_degree(degree):
    X, y = rows()
    model = NadarayaWatsonRegressor(0.5, degree=degree)
    with pytest.raises(ValueError, match="degree must be an integer from 0 "):
        model.fit(X, y)
    assert not hasattr(model, "n_features_in_")


def test_too_many_moments():
    X = np.random.default_rng(0).normal(size=(30, 120))
    message = r"degree=2 in 120 dimensions needs 9,\d{3},\d{3} moments, over 50,000; .* is 1"
    with pytest.raises(ValueError, match=message):
        NadarayaWatsonRegressor(5.0, degree=2).fit(X, X[:, 0])


def test_a_degree_is_taken_without_a_new_fit():
    X, y = rows()
    model = fitted(X, y, degree=0)
    np.testing.assert_array_equal(
        model.set_params(degree=1).predict(X), fitted(X, y, degree=1).predict(X)
    )


def test_a_grid_of_degrees():
    X, y = rows(n=60, d=1)
    search = GridSearchCV(NadarayaWatsonRegressor("scott"), {"degree": [0, 1, 2]}, cv=3).fit(X, y)
    assert search.best_params_["degree"] in (1, 2)


def test_empty_neighborhoods_follow_the_policy():
    X, y = rows()
    far = np.array([[50.0, 0.0]])
    values = {
        "nearest": y[np.square(X - far).sum(axis=1).argmin()],
        "mean": y.mean(),
        "nan": np.nan,
    }
    for policy, value in values.items():
        model = fitted(X, y, 1.0, kernel="biweight", degree=1, empty_neighborhood=policy)
        with pytest.warns(EmptyNeighborhoodWarning):
            predicted = model.predict(far)
        assert predicted[0] == pytest.approx(value, nan_ok=True)
        assert model.sums_report_["rows_lowered"] == 1
        with pytest.warns(EmptyNeighborhoodWarning):
            slope = model.gradient(far)
        np.testing.assert_array_equal(slope, np.full((1, 2), np.nan if policy == "nan" else 0.0))
    with pytest.raises(ValueError, match="no training row within"):
        fitted(X, y, 1.0, kernel="biweight", degree=1, empty_neighborhood="raise").predict(far)


@pytest.mark.parametrize("metric", ["scalar", "diagonal", "full", "mlp"])
def test_metrics_learn_on_the_loss_of_their_degree(metric):
    X, y = rows(n=80)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ParametricNWRegressor(
            metric, degree=1, max_iter=15, n_starts=1, duplicates="keep", random_state=0
        ).fit(X, y)
    loss = np.mean((model.predict_loo() - y) ** 2)
    assert model.best_loss_ == pytest.approx(loss, rel=1e-6)
    constant = ParametricNWRegressor(metric, max_iter=15, n_starts=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        constant.fit(X, y)
    assert model.best_loss_ < constant.best_loss_


@pytest.mark.parametrize("degree", [1, 2])
def test_criteria_that_count_the_row_itself(degree):
    X, y = rows(n=60, d=1)
    for criterion in ("aicc", "gcv"):
        model = NadarayaWatsonRegressor(criterion, degree=degree, duplicates="keep").fit(X, y)
        hat = reference.polynomial_fit("gaussian", X, X, model.bandwidth_, degree)[0]
        variance, share = np.mean((y - hat @ y) ** 2), np.trace(hat) / len(X)
        expected = variance / (1 - share) ** 2
        if criterion == "aicc":
            expected = np.log(variance) + (1 + share) / (1 - share - 2 / len(X))
        assert model.criterion_ == pytest.approx(expected, rel=1e-8)
