"""What must hold on any data: finite predictions within the range of y, and the invariances.

Hypothesis draws the samples, half of them on a lattice, where ties and copies abound. The judge is
`reference`, or the estimator itself on a problem that has the same answer.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import reference
import sklearn
import torch
from designs import pairwise
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.kernels import KERNELS
from sknw.support import tuning

# Compact kernels are asked far outside their support all over this file.
pytestmark = pytest.mark.filterwarnings("ignore::sknw.support.warnings.EmptyNeighborhoodWarning")

INFINITE = tuple(name for name, kernel in KERNELS.items() if kernel.support == math.inf)
COMPACT = tuple(name for name in KERNELS if name not in INFINITE)
TIGHT, ROUNDED = 1e-11, 1e-9

every_kernel = pytest.mark.parametrize("kernel", KERNELS)
every_policy = pytest.mark.parametrize("policy", ["nearest", "mean"])


def some(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


class Sample(NamedTuple):
    """A regression problem, with queries and a bandwidth."""

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    queries: np.ndarray
    bandwidth: np.ndarray

    @property
    def range(self):
        """Range of the targets that have weight; 1 for constant ones."""
        return np.ptp(self.y[self.weights > 0], axis=0).max() or 1.0


def fit(kernel, sample, **parameters):
    model = NadarayaWatsonRegressor(sample.bandwidth, kernel=kernel, **parameters)
    return model.fit(sample.X, sample.y, sample.weights)


def lattice_points(rng, shape):
    return rng.randint(4, size=shape).astype(float)


def scattered_points(rng, shape):
    return rng.uniform(-0.5, 3.5, size=shape)


@st.composite
def samples(draw, min_rows=1, max_rows=14, n_outputs=None):
    """Scattered or lattice rows, with weights some of which are zero."""
    rng = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    n, m = draw(st.integers(min_rows, max_rows)), draw(st.integers(1, 8))
    d = draw(st.sampled_from([1, 2, 3, 6]))
    shape = (n,) if n_outputs is None else (n, n_outputs)
    if draw(st.booleans(), label="on a lattice"):
        X, y = lattice_points(rng, (n, d)), rng.randint(3, size=shape).astype(float)
        queries = lattice_points(rng, (m, d)) + rng.choice([0.0, 0.5], size=(m, 1))
        bandwidth = rng.choice([0.5, 1.0, 2.0], size=d)
    else:
        X, y = scattered_points(rng, (n, d)), rng.normal(size=shape)
        queries = 2 * scattered_points(rng, (m, d))
        bandwidth = 10 ** rng.uniform(-1.5, 1, size=d)
    weights = rng.choice([0.0, 0.5, 1.0, 2.0, 3.0], size=n)
    weights[rng.randint(n)] = 1.0
    return Sample(X, y, weights, queries, bandwidth)


def assert_within(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def assert_finite_within_range(predictions, y):
    assert np.isfinite(predictions).all()
    assert (predictions >= np.min(y, axis=0)).all()
    assert (predictions <= np.max(y, axis=0)).all()


def nearest_mean(queries, X, y, weights, bandwidth, exclude=None):
    """Weighted mean of the rows at the smallest distance; squares of lattice steps are exact."""
    steps = (queries[:, None, :] - X[None, :, :]) / bandwidth
    distances = np.sum(steps**2, axis=-1)
    usable = np.broadcast_to(weights > 0, distances.shape)
    if exclude is not None:
        usable = usable & ~exclude
    smallest = np.min(distances, axis=1, initial=np.inf, where=usable, keepdims=True)
    return reference.normalized(np.where(usable & (distances == smallest), weights, 0.0)) @ y


def expected_predictions(kernel, sample, policy, queries=None, exclude=None):
    """The reference's predictions; of queries without any row at all, NaN."""
    X, y, weights, _, h = sample
    queries = sample.queries if queries is None else queries
    expected = reference.predict(kernel, queries, X, y, h, weights, exclude, empty=policy)
    if policy == "nearest":
        inside = reference.predict(kernel, queries, X, y, h, weights, exclude, empty="nan")
        nearest = nearest_mean(queries, X, y, weights, h, exclude)
        expected = np.where(np.isnan(inside), nearest, inside)
    if exclude is not None:
        expected[~exclude @ (weights > 0) == 0] = np.nan
    return expected


# --- the definition ---


@every_kernel
@every_policy
@given(sample=samples())
@some(8)
def test_predictions_are_the_reference(kernel, policy, sample):
    X, y, weights, queries, h = sample
    model = fit(kernel, sample, empty_neighborhood=policy)
    expected = expected_predictions(kernel, sample, policy)
    assert_within(model.predict(queries), expected, ROUNDED * sample.range)
    neighbors = reference.effective_neighbors(kernel, queries, X, h, weights, y=y)
    np.testing.assert_allclose(model.effective_neighbors(queries), neighbors, rtol=1e-8)


@every_kernel
@every_policy
@given(sample=samples())
@some(8)
def test_leave_one_out_predictions_are_the_reference(kernel, policy, sample):
    its_copies = reference.copies(sample.X, sample.y, sample.weights)
    expected = expected_predictions(kernel, sample, policy, sample.X, its_copies)
    predictions = fit(kernel, sample, empty_neighborhood=policy).predict_loo()
    assert_within(predictions, expected, ROUNDED * sample.range)


@every_kernel
@given(sample=samples())
@some(5)
def test_nan_policy_marks_the_empty_neighborhoods_and_only_them(kernel, sample):
    model = fit(kernel, sample, empty_neighborhood="nan")
    expected = expected_predictions(kernel, sample, "nan")
    assert_within(model.predict(sample.queries), expected, ROUNDED * sample.range)
    neighbors = model.effective_neighbors(sample.queries)
    np.testing.assert_array_equal(neighbors == 0, np.isnan(expected))


@every_kernel
@given(sample=samples(min_rows=2, max_rows=8))
@some(5)
def test_leave_one_out_is_a_fit_without_the_row(kernel, sample):
    X, y, weights, _, h = sample
    predictions = fit(kernel, sample).predict_loo()
    for row, its_copies in enumerate(reference.copies(X, y, weights)):
        others = ~its_copies & (weights > 0)
        if others.any():
            without = NadarayaWatsonRegressor(h, kernel=kernel)
            without.fit(X[others], y[others], weights[others])
            expected = without.predict(X[[row]])[0]
            assert abs(predictions[row] - expected) <= ROUNDED * sample.range


# --- attention ---


@every_kernel
@every_policy
@given(sample=samples())
@some(5)
def test_attention_times_y_is_the_prediction(kernel, policy, sample):
    model = fit(kernel, sample, empty_neighborhood=policy)
    attention = model.attention_weights(sample.queries)
    assert attention.shape == (len(sample.queries), len(sample.y))
    assert (attention >= 0).all()
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-12)
    predictions = model.predict(sample.queries)
    assert_within(attention @ sample.y, predictions, ROUNDED * sample.range)


@every_kernel
@every_policy
@given(sample=samples(min_rows=2))
@some(5)
def test_leave_one_out_attention_times_y_is_the_prediction(kernel, policy, sample):
    model = fit(kernel, sample, empty_neighborhood=policy)
    attention, predictions = model.attention_weights(), model.predict_loo()
    alone = np.isnan(predictions)
    its_copies = reference.copies(sample.X, sample.y, sample.weights)
    assert not attention[~alone][its_copies[~alone]].any()
    np.testing.assert_allclose(attention[~alone].sum(axis=1), 1, rtol=1e-12)
    expected = predictions[~alone]
    assert_within(attention[~alone] @ sample.y, expected, ROUNDED * sample.range)


@every_kernel
@given(sample=samples(), data=st.data())
@some(5)
def test_top_attention_keeps_the_largest_weights(kernel, sample, data):
    top_k = data.draw(st.integers(1, len(sample.y)))
    model = fit(kernel, sample)
    full = model.attention_weights(sample.queries)
    top = model.attention_weights(sample.queries, top_k=top_k)
    assert sparse.issparse(top)
    assert top.format == "csr"
    kept = -np.sort(-top.toarray(), axis=1)[:, :top_k]
    assert_within(kept, -np.sort(-full, axis=1)[:, :top_k], TIGHT)
    assert (np.diff(top.indptr) <= top_k).all()
    where = top.toarray() > 0
    assert_within(top.toarray()[where], full[where], TIGHT)


# --- invariances at a fixed bandwidth ---


@every_kernel
@given(sample=samples())
@some(5)
def test_integer_weights_are_repetition(kernel, sample):
    counts = np.ceil(sample.weights).astype(int)
    merged = {"duplicates": "merge"}  # where equal rows are rows, two are two observations
    weighted = fit(kernel, sample._replace(weights=counts.astype(float)), **merged)
    repeated = NadarayaWatsonRegressor(sample.bandwidth, kernel=kernel, **merged)
    repeated.fit(np.repeat(sample.X, counts, axis=0), np.repeat(sample.y, counts))
    assert_same_predictions(weighted, repeated, sample)
    kept = np.repeat(weighted.predict_loo(), counts)
    assert_within(repeated.predict_loo(), kept, TIGHT * sample.range)


@every_kernel
@given(sample=samples())
@some(5)
def test_zero_weight_is_removal(kernel, sample):
    kept = sample.weights > 0
    weighted = fit(kernel, sample)
    removed = NadarayaWatsonRegressor(sample.bandwidth, kernel=kernel)
    removed.fit(sample.X[kept], sample.y[kept], sample.weights[kept])
    assert_same_predictions(weighted, removed, sample)
    expected = removed.predict_loo()
    assert_within(weighted.predict_loo()[kept], expected, TIGHT * sample.range)


def assert_same_predictions(model, other, sample):
    expected = other.predict(sample.queries)
    assert_within(model.predict(sample.queries), expected, TIGHT * sample.range)
    np.testing.assert_allclose(
        model.effective_neighbors(sample.queries),
        other.effective_neighbors(sample.queries),
        rtol=ROUNDED,
    )


@every_kernel
@given(sample=samples(), exponent=st.integers(-12, 12))
@some(5)
def test_the_scale_of_weights_means_nothing(kernel, sample, exponent):
    scaled = sample._replace(weights=sample.weights * 10.0**exponent)
    model, other = fit(kernel, sample), fit(kernel, scaled)
    assert_same_predictions(model, other, sample)
    assert_within(model.predict_loo(), other.predict_loo(), TIGHT * sample.range)


@every_kernel
@given(sample=samples(), data=st.data())
@some(5)
def test_the_order_of_rows_means_nothing(kernel, sample, data):
    order = np.array(data.draw(st.permutations(range(len(sample.y)))))
    X, y, weights, _, _ = sample
    model = fit(kernel, sample)
    other = fit(kernel, sample._replace(X=X[order], y=y[order], weights=weights[order]))
    assert_same_predictions(model, other, sample)
    assert_within(model.predict_loo()[order], other.predict_loo(), TIGHT * sample.range)


@every_kernel
@given(sample=samples())
@some(5)
def test_a_query_is_predicted_alike_in_any_batch(kernel, sample):
    model = fit(kernel, sample)
    far = np.full((1, sample.X.shape[1]), 1e150)
    batch = model.predict(np.vstack([sample.queries, far, sample.queries[::-1]]))
    alone = [model.predict(query[None])[0] for query in sample.queries]
    assert_within(batch[: len(alone)], alone, TIGHT * sample.range)
    assert_within(batch[: len(alone) : -1], alone, TIGHT * sample.range)


@every_kernel
@given(sample=samples(n_outputs=3))
@some(5)
def test_outputs_are_predicted_column_by_column(kernel, sample):
    # copies are rows equal in every output, so only distinct rows have the same leave-one-out
    distinct = np.unique(sample.X, axis=0, return_index=True)[1]
    X, y, weights = sample.X[distinct], sample.y[distinct], 1 + sample.weights[distinct]
    sample = sample._replace(X=X, y=y, weights=weights)
    together = fit(kernel, sample)
    for column in range(3):
        single = fit(kernel, sample._replace(y=y[:, column]))
        expected = single.predict(sample.queries)
        assert_within(together.predict(sample.queries)[:, column], expected, TIGHT * sample.range)
        expected = single.predict_loo()
        assert_within(together.predict_loo()[:, column], expected, TIGHT * sample.range)


@every_kernel
@given(sample=samples(), megabytes=st.sampled_from([0, 1e-5, 1e-3]))
@some(5)
def test_working_memory_means_nothing_to_the_result(kernel, sample, megabytes):
    model = fit(kernel, sample)
    with sklearn.config_context(working_memory=megabytes):
        predictions, loo = model.predict(sample.queries), model.predict_loo()
        neighbors = model.effective_neighbors(sample.queries)
    assert_within(predictions, model.predict(sample.queries), TIGHT * sample.range)
    assert_within(loo, model.predict_loo(), TIGHT * sample.range)
    expected = model.effective_neighbors(sample.queries)
    np.testing.assert_allclose(neighbors, expected, rtol=ROUNDED)


# Dyadic values, so that moving them by 1e6 and scaling by powers of two are exact.
def dyadic(sample):
    steps = 2.0**16
    return sample._replace(
        X=np.round(sample.X * steps) / steps, queries=np.round(sample.queries * steps) / steps
    )


@every_kernel
@given(sample=samples(), shift=st.sampled_from([1e6, -1e6]))
@some(5)
def test_translation_moves_nothing(kernel, sample, shift):
    sample = dyadic(sample)
    moved = sample._replace(X=sample.X + shift, queries=sample.queries + shift)
    model, other = fit(kernel, sample), fit(kernel, moved)
    expected = model.predict(sample.queries)
    assert_within(other.predict(moved.queries), expected, TIGHT * sample.range)
    assert_within(other.predict_loo(), model.predict_loo(), TIGHT * sample.range)


@every_kernel
@given(sample=samples(), power=st.integers(-27, 27))
@some(5)
def test_units_of_the_features_mean_nothing(kernel, sample, power):
    unit = 2.0**power  # 1e-8 to 1e8
    X, _, _, queries, h = sample
    scaled = sample._replace(X=X * unit, queries=queries * unit, bandwidth=h * unit)
    model, other = fit(kernel, sample), fit(kernel, scaled)
    expected = model.predict(queries)
    assert_within(other.predict(scaled.queries), expected, TIGHT * sample.range)
    assert_within(other.predict_loo(), model.predict_loo(), TIGHT * sample.range)


@every_kernel
@given(sample=samples(), exponent=st.integers(-8, 8), shift=st.sampled_from([0.0, 1e3, -1e6]))
@some(5)
def test_units_of_the_targets_only_scale_the_predictions(kernel, sample, exponent, shift):
    unit = 10.0**exponent
    scaled = sample._replace(y=(sample.y + shift) * unit)
    expected = (fit(kernel, sample).predict(sample.queries) + shift) * unit
    lost = 4 * np.finfo(float).eps * abs(shift) * unit
    predictions = fit(kernel, scaled).predict(sample.queries)
    assert_within(predictions, expected, TIGHT * sample.range * unit + lost)


@every_kernel
@given(sample=samples(), value=st.sampled_from([0.0, 1.0, -1e6, 1e150]))
@some(5)
def test_a_constant_column_means_nothing(kernel, sample, value):
    def widened(rows):
        return np.column_stack([rows, np.full(len(rows), value)])

    wide = Sample(
        widened(sample.X),
        sample.y,
        sample.weights,
        widened(sample.queries),
        np.append(sample.bandwidth, 1.0),
    )
    model, other = fit(kernel, sample), fit(kernel, wide)
    expected = model.predict(sample.queries)
    assert_within(other.predict(wide.queries), expected, TIGHT * sample.range)
    assert_within(other.predict_loo(), model.predict_loo(), TIGHT * sample.range)


# --- limits of the bandwidth ---


@every_kernel
@given(sample=samples(), power=st.sampled_from([-40, -30, -20]))
@some(5)
def test_vanishing_bandwidth_gives_the_nearest_row(kernel, sample, power):
    # a power of two, so that ties on the lattice stay ties
    predictions = fit(kernel, sample._replace(bandwidth=2.0**power)).predict(sample.queries)
    expected = nearest_mean(sample.queries, sample.X, sample.y, sample.weights, 1.0)
    assert_within(predictions, expected, ROUNDED * sample.range)


@every_kernel
@given(sample=samples(), bandwidth=st.sampled_from([1e-12, 1e-9, 3e-7]))
@some(5)
def test_vanishing_bandwidth_gives_a_mean_of_the_nearest_rows(kernel, sample, bandwidth):
    # rounding may break a tie, but nothing beyond rounding may take part
    X, y, weights, queries, _ = sample
    predictions = fit(kernel, sample._replace(bandwidth=bandwidth)).predict(queries)
    keys, values = X[weights > 0], y[weights > 0]
    gaps = np.linalg.norm(queries[:, None] - keys, axis=-1)
    for prediction, gap in zip(predictions, gaps, strict=True):
        tied = values[gap <= gap.min() * (1 + 1e-9)]
        slack = ROUNDED * sample.range
        assert tied.min() - slack <= prediction <= tied.max() + slack


@every_kernel
@given(sample=samples())
@some(5)
def test_unbounded_bandwidth_gives_the_mean(kernel, sample):
    X, y, weights, queries, _ = sample
    model = fit(kernel, sample._replace(bandwidth=1e12))
    mean = np.average(y, weights=weights)
    assert_within(model.predict(queries), np.full(len(queries), mean), 1e-10 * sample.range)
    neighbors = reference.kish(reference.merge_copies(X, y, weights)[2])
    np.testing.assert_allclose(model.effective_neighbors(queries), neighbors, rtol=1e-9)


@every_kernel
def test_ties_on_a_lattice_share_the_prediction(kernel):
    side = np.arange(5.0)
    X = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    y = X[:, 0] ** 2 + 10 * X[:, 1]
    queries = np.vstack([X + 0.5, X + np.array([0.5, 0.0]), X])  # four, two and one nearest rows
    expected = nearest_mean(queries, X, y, np.ones(len(y)), 1.0)
    for bandwidth in (1e-12, 1e-6, 2.0**-40, [1e-12, 1e-12]):
        model = NadarayaWatsonRegressor(bandwidth, kernel=kernel).fit(X, y)
        assert_within(model.predict(queries), expected, ROUNDED * np.ptp(y))


# --- extremes: finite, and within the range of y ---


class Extremes(NamedTuple):
    """Powers of ten for the units of everything."""

    feature: int
    shift: float
    target: int
    weight: int
    bandwidth: int


extremes = st.builds(
    Extremes,
    feature=st.integers(-8, 8),
    shift=st.sampled_from([0.0, 1e6, -1e6]),
    target=st.integers(-8, 8),
    weight=st.integers(-12, 12),
    bandwidth=st.integers(-12, 12),
)


@every_kernel
@every_policy
@given(sample=samples(min_rows=2), extreme=extremes)
@some(8)
def test_extreme_units_give_finite_predictions_within_range(kernel, policy, sample, extreme):
    unit = 10.0**extreme.feature
    sample = Sample(
        X=unit * (sample.X + extreme.shift),
        y=10.0**extreme.target * sample.y,
        weights=10.0**extreme.weight * sample.weights,
        queries=unit * (sample.queries + extreme.shift),
        bandwidth=10.0**extreme.bandwidth,
    )
    model = fit(kernel, sample, empty_neighborhood=policy)
    weighted_y = sample.y[sample.weights > 0]
    queries = np.vstack([sample.queries, sample.X, 1e150 + sample.X, sample.X - 1e150])
    assert_finite_within_range(model.predict(queries), weighted_y)
    neighbors = model.effective_neighbors(queries)
    assert ((neighbors == 0) | (neighbors >= 1 - ROUNDED)).all()
    assert (neighbors <= len(weighted_y) * (1 + ROUNDED)).all()
    has_others = ~reference.copies(sample.X, sample.y, sample.weights) @ (sample.weights > 0)
    assert_finite_within_range(model.predict_loo()[has_others], weighted_y)


def curve(n=12, n_features=1, seed=0):
    """Rows on (0, 1) and a wave in the first feature."""
    rng = np.random.RandomState(seed)
    X = rng.uniform(size=(n, n_features))
    return X, np.sin(6 * X[:, 0]) + 0.1 * rng.normal(size=n)


def with_remote_row(X, y, distance=1e9):
    return np.vstack([X, np.full((1, X.shape[1]), distance)]), np.append(y, 0.0)


CURVE_X, CURVE_Y = curve()

HARD_DATA = {
    "one row": (CURVE_X[:1], CURVE_Y[:1]),
    "two rows": (CURVE_X[:2], CURVE_Y[:2]),
    "two rows at one place": (np.ones((2, 1)), CURVE_Y[:2]),
    "all rows equal": (np.ones((6, 2)), np.ones(6)),
    "all rows at one place": (np.ones((12, 1)), CURVE_Y),
    "constant column": (np.column_stack([CURVE_X, np.full(12, 3.0)]), CURVE_Y),
    "constant y": (CURVE_X, np.full(12, 0.1)),
    "two values of y": (CURVE_X, np.round(CURVE_X[:, 0])),
    "lattice": (np.round(4 * CURVE_X), CURVE_Y),
    "translated": (CURVE_X + 1e6, CURVE_Y + 1e6),
    "small units": (1e-8 * CURVE_X, 1e-8 * CURVE_Y),
    "large units": (1e8 * CURVE_X, 1e8 * CURVE_Y),
    "tiny units": (1e-150 * CURVE_X, 1e-150 * CURVE_Y),
    "huge units": (1e150 * CURVE_X, 1e150 * CURVE_Y),
    "Cauchy rows": (np.random.RandomState(1).standard_cauchy(size=(12, 1)), CURVE_Y),
    "Cauchy targets": (CURVE_X, np.random.RandomState(1).standard_cauchy(size=12)),
    "one remote row": with_remote_row(CURVE_X, CURVE_Y),
    "float32": (CURVE_X.astype(np.float32), CURVE_Y),
    "float32, small": ((1e-30 * CURVE_X).astype(np.float32), CURVE_Y),
    "float32, large": ((1e30 * CURVE_X).astype(np.float32), CURVE_Y),
}

every_hard_data = pytest.mark.parametrize("data", HARD_DATA.values(), ids=HARD_DATA)


def assert_survives(model, data):
    """Fit, and ask at the rows, beside them, and far away."""
    X, y = data
    model.fit(X, y)
    assert np.isfinite(model.bandwidth_).all()
    assert (np.asarray(model.bandwidth_) > 0).all()
    far = np.full((1, X.shape[1]), 1e150 if X.dtype == np.float64 else 1e30, dtype=X.dtype)
    predictions = model.predict(np.vstack([X, 2 * X, X - X.max(), far, -far]))
    bounds = y.astype(predictions.dtype)
    assert_finite_within_range(predictions, bounds)
    has_others = (~reference.copies(X, y)).any(axis=1)
    loo = model.predict_loo()
    assert_finite_within_range(loo[has_others], bounds) if has_others.any() else None
    assert np.isnan(loo[~has_others]).all()


# Of infinite support, compact and smooth, and with a jump: a kernel is a constant factor of a rule.
KINDS = ["gaussian", "exponential", "biweight", "tophat"]


@pytest.mark.parametrize(
    ("data", "kernel", "rule"),
    [
        pytest.param(HARD_DATA[name], kernel, rule, id=f"{name}-{kernel}-{rule}")
        for name, kernel, rule in pairwise(list(HARD_DATA), KINDS, ["scott", "silverman"])
    ],
)
def test_bandwidth_rules_survive_hard_data(rule, kernel, data):
    assert_survives(NadarayaWatsonRegressor(rule, kernel=kernel), data)


# Where a search has nothing to hold on to, it is tried with every kind of kernel.
DEGENERATE = [
    name for name in HARD_DATA if name.startswith(("one row", "two", "all", "constant y"))
]
FEW_KERNELS = ["gaussian", "biweight"]

every_search = pytest.mark.parametrize(
    ("kernel", "data"),
    [
        pytest.param(kernel, data, id=f"{kernel}-{name}")
        for name, data in HARD_DATA.items()
        for kernel in (KINDS if name in DEGENERATE else FEW_KERNELS)
    ],
)


@every_search
def test_bandwidth_search_survives_hard_data(kernel, data):
    model = NadarayaWatsonRegressor(kernel=kernel)
    assert_survives(model, data)
    if len(np.unique(data[1])) > 1 and len(np.unique(data[0], axis=0)) > 1:
        assert np.isfinite(model.criterion_)


@every_hard_data
@pytest.mark.parametrize(
    ("metric", "kernel"),
    [("scalar", "gaussian"), ("diagonal", "tophat")],
)
def test_training_survives_hard_data(metric, kernel, data):
    model = ParametricNWRegressor(metric, kernel=kernel, max_iter=10, n_starts=1)
    # a jump leaves no gradient to go by, but the search without one need not be long
    with warnings.catch_warnings(), tuning.override(REFINEMENT_PAIRS=1e4):
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert_survives(model, data)
    assert np.isfinite(model.w_).all()
    assert len(model.loss_curve_) >= 1


@every_hard_data
def test_gradient_descent_survives_hard_data(data):
    model = ParametricNWRegressor(solver="sgd", max_iter=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert_survives(model, data)
    assert np.isfinite(model.w_).all()


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_an_exact_fit_has_converged(solver):
    # the loss is zero from the start; ConvergenceWarning would be an error here
    model = ParametricNWRegressor(solver=solver).fit(CURVE_X, np.ones(12))
    assert model.best_loss_ == 0
    np.testing.assert_array_equal(model.predict(CURVE_X), np.ones(12))


# --- far queries ---


def far_limit(kernel, X, y, direction, bandwidth):
    """Prediction at an infinite distance in a direction.

    There ``u_i = |q|/h - direction . x_i / h``: a Gaussian leaves the nearest row, as does the
    policy "nearest"; an exponential keeps weights ``exp(direction . x_i / h)``.
    """
    along = X @ direction / np.linalg.norm(direction) / bandwidth
    weights = np.exp(along - along.max()) if kernel == "exponential" else along == along.max()
    return weights @ y / weights.sum()


# Between neighbours of `circle`, none halfway.
DIRECTIONS = np.array([(1, 0), (-1, 0), (0, -1), (1, 1), (0.6, 0.8), (-0.9, 0.1), (1, 1e-3)])


def circle(n=37):
    """Rows on a circle around (2, 1), so that each direction has a nearest row of its own."""
    angle = 0.1 + 2 * np.pi * np.arange(n) / n
    return np.column_stack([2 + np.cos(angle), 1 + np.sin(angle)]), np.cos(5 * np.arange(n))


@every_kernel
@pytest.mark.parametrize("distance", [1e10, 1e100, 1e150, 1e300])
def test_far_queries_tend_to_their_limit(kernel, distance):
    X, y = circle()
    model = NadarayaWatsonRegressor(0.5, kernel=kernel).fit(X, y)
    expected = [far_limit(kernel, X, y, direction, 0.5) for direction in DIRECTIONS]
    assert_within(model.predict(distance * DIRECTIONS), expected, 1e-6)


@pytest.mark.parametrize("kernel", ["gaussian", *COMPACT])
def test_far_queries_in_float32_get_the_nearest_row(kernel):
    X, y = circle()
    model = NadarayaWatsonRegressor(0.5, kernel=kernel).fit(X.astype(np.float32), y)
    expected = [far_limit(kernel, X, y, direction, 0.5) for direction in DIRECTIONS]
    assert_within(model.predict((1e30 * DIRECTIONS).astype(np.float32)), expected, 1e-6)


@pytest.mark.parametrize("kernel", COMPACT)
def test_queries_out_of_reach_get_the_nearest_row(kernel):
    X, y = curve(n=30, n_features=3)
    away = np.random.RandomState(1).normal(size=(20, 3))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    queries = np.vstack([0.5 + distance * away for distance in (2.0, 30.0, 1e4, 1e7)])
    model = NadarayaWatsonRegressor(0.05, kernel=kernel).fit(X, y)
    gaps = np.linalg.norm(queries[:, None] - X, axis=-1)
    np.testing.assert_allclose(model.predict(queries), y[gaps.argmin(axis=1)], rtol=1e-12)


@pytest.mark.parametrize("kernel", INFINITE)
@pytest.mark.parametrize("distance", [3.0, 30.0, 300.0, 3e4])
def test_tails_keep_their_accuracy(kernel, distance):
    X, y = curve(n=30, n_features=2)
    queries = distance * np.random.RandomState(1).normal(size=(20, 2))
    model = NadarayaWatsonRegressor(0.3, kernel=kernel).fit(X, y)
    expected = reference.predict(kernel, queries, X, y, 0.3)
    assert_within(model.predict(queries), expected, 1e-8 * np.ptp(y))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_learned_scale_keeps_far_queries_finite(kernel):
    X, y = curve(n_features=2)
    model = ParametricNWRegressor("scalar", kernel=kernel, n_starts=1).fit(X, y)
    far = np.array([[1e150, 0], [-1e300, 1e300], [1e300, 1e-300]])
    assert_finite_within_range(model.predict(far), y)
    assert np.isfinite(model.transform(far)).all()
    np.testing.assert_allclose(model.attention_weights(far).sum(axis=1), 1)


# --- one remote row ---


@every_kernel
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_remote_row_leaves_the_others_alone(kernel, dtype):
    X, y = curve(n=30, n_features=2)
    X, queries = X.astype(dtype), X[:10].astype(dtype) + dtype(0.01)
    alone = NadarayaWatsonRegressor(0.2, kernel=kernel).fit(X, y)
    beside = NadarayaWatsonRegressor(0.2, kernel=kernel)
    beside.fit(*(part.astype(X.dtype) for part in with_remote_row(X, y)))
    tolerance = 1e-9 if dtype == np.float64 else 1e-5
    assert_within(beside.predict(queries), alone.predict(queries), tolerance * np.ptp(y))
    assert_within(beside.predict_loo()[:-1], alone.predict_loo(), tolerance * np.ptp(y))
    remote = np.array([[1e9, 1e9], [9e8, 9e8]], dtype=X.dtype)
    assert_within(beside.predict(remote), [0, 0], tolerance)


@pytest.mark.parametrize(
    ("kernel", "distance"), [("gaussian", 1e3), ("gaussian", 1e9), ("biweight", 1e9)]
)
def test_a_remote_row_does_not_hide_the_best_bandwidth(kernel, distance):
    X, y = curve(n=40)
    alone = NadarayaWatsonRegressor(kernel=kernel).fit(X, y)
    beside = NadarayaWatsonRegressor(kernel=kernel).fit(*with_remote_row(X, y, distance))
    # the remote row's error hardly depends on the bandwidth: its nearest neighbour predicts it
    np.testing.assert_allclose(beside.bandwidth_, alone.bandwidth_, rtol=0.1)


# --- selection and training: the invariances again ---


class Selecting(NamedTuple):
    """An estimator that finds its scale, and the number of features to try it on."""

    make: Callable
    n_features: int = 2
    n_rows: int = 14

    def fit(self, X, y, weights=None):
        return self.make().fit(X, y, weights)

    def weighted_curve(self):
        X, y = curve(self.n_rows, self.n_features)
        return X, y, np.random.RandomState(5).randint(4, size=self.n_rows)


def few_steps():
    return ParametricNWRegressor(
        solver="sgd", max_iter=5, tol=1e9, n_iter_no_change=2, bandwidth=0.2, w_init=0.5
    )


SELECTING = {
    "loo": Selecting(NadarayaWatsonRegressor, n_rows=30),
    "loo biweight": Selecting(lambda: NadarayaWatsonRegressor(kernel="biweight"), n_features=1),
    "scott": Selecting(lambda: NadarayaWatsonRegressor("scott", kernel="linear")),
    "silverman": Selecting(lambda: NadarayaWatsonRegressor("silverman", kernel="tricube")),
    "diagonal": Selecting(ParametricNWRegressor),
    "scalar": Selecting(lambda: ParametricNWRegressor("scalar", kernel="triweight")),
    "few steps": Selecting(few_steps),
}

every_selection = pytest.mark.parametrize("selecting", SELECTING.values(), ids=SELECTING)
UNIT_FREE = {name: case for name, case in SELECTING.items() if case.make is not few_steps}
SEARCHING = {name: case for name, case in SELECTING.items() if name not in ("scott", "silverman")}


def scale_of(model):
    """The bandwidth that acts, per feature."""
    return np.atleast_1d(model.bandwidth_ / np.abs(getattr(model, "w_", 1.0)))


def criterion_of(model):
    return getattr(model, "criterion_", getattr(model, "best_loss_", None))


def assert_same_selection(model, other, *, unit=1.0, tolerance=1e-5):
    """Compare bandwidths, and the criterion `other` has in `unit` times the units of `model`."""
    np.testing.assert_allclose(scale_of(other), scale_of(model), rtol=tolerance)
    if criterion_of(model) is not None:
        expected = criterion_of(model) * unit**2
        np.testing.assert_allclose(criterion_of(other), expected, rtol=tolerance)


@functools.cache
def fitted_on_weighted_curve(selecting):
    return selecting.fit(*selecting.weighted_curve())


@every_selection
def test_selection_takes_integer_weights_as_repetition(selecting):
    X, y, counts = selecting.weighted_curve()
    repeated = selecting.fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    assert_same_selection(fitted_on_weighted_curve(selecting), repeated)


@every_selection
def test_selection_takes_zero_weight_as_removal(selecting):
    X, y, counts = selecting.weighted_curve()
    kept = counts > 0
    removed = selecting.fit(X[kept], y[kept], counts[kept])
    assert_same_selection(fitted_on_weighted_curve(selecting), removed)


@every_selection
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_selection_ignores_the_scale_of_weights(selecting, factor):
    X, y, counts = selecting.weighted_curve()
    scaled = selecting.fit(X, y, factor * counts)
    assert_same_selection(fitted_on_weighted_curve(selecting), scaled)


@every_selection
def test_selection_ignores_the_order_of_rows(selecting):
    X, y, counts = selecting.weighted_curve()
    order = np.random.RandomState(0).permutation(len(y))
    ordered = selecting.fit(X[order], y[order], counts[order])
    assert_same_selection(fitted_on_weighted_curve(selecting), ordered)


@every_selection
def test_selection_ignores_translation(selecting):
    X, y, counts = selecting.weighted_curve()
    moved = selecting.fit(X + 1e6, y, counts)
    # X + 1e6 has lost six digits
    assert_same_selection(fitted_on_weighted_curve(selecting), moved, tolerance=1e-4)


@pytest.mark.parametrize("selecting", UNIT_FREE.values(), ids=UNIT_FREE)
@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_selection_follows_the_units_of_the_features(selecting, unit):
    X, y, counts = selecting.weighted_curve()
    model, scaled = fitted_on_weighted_curve(selecting), selecting.fit(X * unit, y, counts)
    np.testing.assert_allclose(scale_of(scaled) / unit, scale_of(model), rtol=1e-5)
    assert_within(scaled.predict(X * unit), model.predict(X), 1e-5)


@every_selection
@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_selection_ignores_the_units_of_the_targets(selecting, unit):
    X, y, counts = selecting.weighted_curve()
    scaled = selecting.fit(X, unit * (y + 3), counts)
    assert_same_selection(fitted_on_weighted_curve(selecting), scaled, unit=unit)


@every_selection
def test_selection_ignores_a_copy_of_all_rows(selecting):
    X, y, counts = selecting.weighted_curve()
    copied = selecting.fit(np.vstack([X, X]), np.append(y, y), np.append(counts, counts))
    assert_same_selection(fitted_on_weighted_curve(selecting), copied, tolerance=1e-6)


@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "biweight"])
def test_a_tenth_of_copied_rows_hardly_moves_the_bandwidth(kernel):
    X, y = curve(n=60)
    some_rows = np.arange(0, 60, 10)
    X_copied, y_copied = np.vstack([X, X[some_rows]]), np.append(y, y[some_rows])
    weights = 1.0 + np.isin(np.arange(60), some_rows)
    plain, copied, weighted = (
        NadarayaWatsonRegressor(kernel=kernel).fit(*data)
        for data in ((X, y), (X_copied, y_copied), (X, y, weights))
    )
    np.testing.assert_allclose(copied.bandwidth_, weighted.bandwidth_, rtol=1e-6)
    # counted as neighbours of themselves, copies would drive it towards zero
    np.testing.assert_allclose(copied.bandwidth_, plain.bandwidth_, rtol=0.2)


@every_selection
def test_fitting_is_deterministic_and_leaves_global_generators_alone(selecting):
    X, y, counts = selecting.weighted_curve()
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first, second = fitted_on_weighted_curve(selecting), selecting.fit(X, y, counts)
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("selecting", SEARCHING.values(), ids=SEARCHING)
def test_criterion_is_the_loss_of_leave_one_out_predictions(selecting):
    X, y, counts = selecting.weighted_curve()
    model = fitted_on_weighted_curve(selecting)
    loss = np.average((y - model.predict_loo()) ** 2, weights=counts)
    np.testing.assert_allclose(criterion_of(model), loss, rtol=1e-9)
    expected = reference.loo_loss(model.kernel, X, y, scale_of(model), counts)
    np.testing.assert_allclose(criterion_of(model), expected, rtol=1e-9)


@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "triweight"])
def test_search_on_cauchy_rows_finds_no_less_than_a_grid(kernel):
    X = np.random.RandomState(0).standard_cauchy(size=(50, 1))
    y = np.sin(X[:, 0]) + 0.1 * np.random.RandomState(1).normal(size=50)
    model = NadarayaWatsonRegressor(kernel=kernel).fit(X, y)
    expected = reference.loo_loss(kernel, X, y, model.bandwidth_)
    np.testing.assert_allclose(model.criterion_, expected, rtol=1e-9)
    grid = [reference.loo_loss(kernel, X, y, h) for h in np.geomspace(1e-3, 1e3, 80)]
    assert model.criterion_ <= min(grid) * (1 + 1e-9)


# --- float32 ---


def single_precision(unit=1.0, n_features=2):
    X, y = curve(n=30, n_features=n_features)
    return (unit * X).astype(np.float32), y, (unit * (X[:15] + 0.03)).astype(np.float32)


@pytest.mark.parametrize(
    ("kernel", "unit", "n_features"), pairwise(list(KERNELS), [1e-30, 1.0, 1e30], [1, 2, 6])
)
def test_float32_stays_float32_and_close_to_float64(kernel, unit, n_features):
    X, y, queries = single_precision(unit, n_features)
    single = NadarayaWatsonRegressor(0.4 * unit, kernel=kernel).fit(X, y)
    double = NadarayaWatsonRegressor(0.4 * unit, kernel=kernel).fit(X.astype(np.float64), y)
    queries_64 = queries.astype(np.float64)
    pairs = [
        (single.predict(queries), double.predict(queries_64)),
        (single.predict_loo(), double.predict_loo()),
        (single.attention_weights(queries), double.attention_weights(queries_64)),
        (single.attention_weights(), double.attention_weights()),
    ]
    for actual, expected in pairs:
        # weights are in the precision of the rows, predictions in that of y
        assert actual.dtype == (np.float32 if actual.ndim == 2 else np.float64)
        assert expected.dtype == np.float64
        assert_within(actual, expected, 2e-5 * np.ptp(y))


@pytest.mark.parametrize("kernel", ["gaussian", "biweight"])
def test_float32_search_and_training_are_close_to_float64(kernel):
    X, y, _ = single_precision(n_features=1)
    for make in (NadarayaWatsonRegressor, lambda **kernel: ParametricNWRegressor(**kernel)):
        single, double = make(kernel=kernel).fit(X, y), make(kernel=kernel).fit(X.astype(float), y)
        assert single.predict(X).dtype == y.dtype
        np.testing.assert_allclose(criterion_of(single), criterion_of(double), rtol=1e-3)


def test_float64_queries_of_a_float32_model_are_answered_in_float64():
    X, y, queries = single_precision()
    model = NadarayaWatsonRegressor(0.4).fit(X, y)
    double = NadarayaWatsonRegressor(0.4).fit(X.astype(float), y)
    predictions = model.predict(queries.astype(float))
    assert predictions.dtype == np.float64
    assert_within(predictions, double.predict(queries.astype(float)), 1e-6)


@every_kernel
def test_float32_extremes_are_finite_and_within_range(kernel):
    X, y, _ = single_precision(1e30)
    queries = np.array([[3e38, 3e38], [-3e38, 0], [1e30, 1e-38], [0, 0]], dtype=np.float32)
    for bandwidth in (1e-12, 1e12, 1e30):
        model = NadarayaWatsonRegressor(bandwidth, kernel=kernel).fit(X, y)
        assert_finite_within_range(model.predict(queries), y.astype(np.float32))
        assert_finite_within_range(model.predict_loo(), y.astype(np.float32))


# --- what a call may not touch ---


@every_kernel
def test_arrays_of_the_caller_are_never_written_to(kernel):
    X, y = curve(n_features=2)
    weights, queries = np.arange(12.0), X + 0.01
    arrays = [X, y, weights, queries]
    kept = [array.copy() for array in arrays]
    model = NadarayaWatsonRegressor(np.array([0.1, 0.2]), kernel=kernel).fit(X, y, weights)
    for output in (model.predict(queries), model.predict_loo(), model.attention_weights(queries)):
        output += 1.0
    model.effective_neighbors(queries)
    for array, copy in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    again = NadarayaWatsonRegressor(np.array([0.1, 0.2]), kernel=kernel).fit(X, y, weights)
    np.testing.assert_array_equal(model.predict(queries), again.predict(queries))


@every_kernel
def test_changing_the_training_arrays_later_changes_no_prediction(kernel):
    X, y = curve(n_features=2)
    weights, queries = np.arange(12.0), X + 0.01
    model = NadarayaWatsonRegressor(np.array([0.1, 0.2]), kernel=kernel).fit(X, y, weights)
    before = model.predict(queries)
    for array in (X, y, weights):
        array[:] = 7.0
    np.testing.assert_array_equal(model.predict(queries), before)
