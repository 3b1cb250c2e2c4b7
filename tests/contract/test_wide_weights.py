"""Weights as far apart as numbers can be: no row vanishes, and no square underflows."""

import warnings

import numpy as np
import pytest
import reference
from designs import pairwise

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor

KERNELS = ["gaussian", "exponential", "epanechnikov", "triweight"]
METHODS = ["dense", "blocks"]


def sample(seed, dtype, decades):
    generator = np.random.default_rng(seed)
    n, d = int(generator.integers(3, 40)), int(generator.integers(1, 3))
    X = (generator.normal(size=(n, d)) * 10 ** generator.uniform(-1, 2)).astype(dtype)
    weights = 10.0 ** generator.uniform(-decades, decades, size=n)
    queries = np.vstack([X, X + 0.3 * generator.normal(size=X.shape)]).astype(dtype)
    return X, generator.normal(size=n), weights, queries, float(10 ** generator.uniform(-1, 1))


def tolerance(X, h):
    """Float32 sums, and what rounding of the coordinates does to the exponents."""
    eps = np.finfo(X.dtype).eps
    own = 2e-4 if X.dtype == np.float32 else 1e-8
    return own + 40 * eps * (np.abs(X).max() / h) ** 2


@pytest.mark.parametrize(
    ("kernel", "decades", "algorithm", "dtype"),
    pairwise(KERNELS, [12, 100, 300], METHODS, [np.float64, np.float32]),
)
def test_every_answer_is_that_of_logarithms(kernel, algorithm, dtype, decades):
    for seed in range(6):
        X, y, weights, queries, h = sample(seed, dtype, decades)
        model = NadarayaWatsonRegressor(
            h, kernel=kernel, algorithm=algorithm, empty_neighborhood="nan"
        ).fit(X, y, weights)
        own = np.eye(len(X), dtype=bool)
        expected = reference.weights(kernel, queries, X, h, weights)
        others = reference.weights(kernel, X, X, h, weights, own)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = model.attention_weights(queries), model.attention_weights()
            means = model.predict(queries), model.predict_loo()
        neighbors = model.effective_neighbors(queries)
        atol = tolerance(X, h)
        for alpha, attention, prediction in zip((expected, others), found, means, strict=True):
            empty = alpha.sum(axis=1) == 0
            np.testing.assert_array_equal(np.isnan(prediction), empty)
            np.testing.assert_allclose(attention[~empty], alpha[~empty], rtol=0, atol=atol)
            deviation = np.abs(prediction[~empty] - (alpha @ y)[~empty])
            assert deviation.max(initial=0) <= atol * np.ptp(y)
        kish = [reference.kish(row) for row in expected]
        np.testing.assert_allclose(neighbors, kish, rtol=len(X) * atol, atol=0)
        assert neighbors[neighbors > 0].min(initial=1) >= 1
        assert neighbors.max() <= len(X)


@pytest.mark.parametrize("heavy", [1.0, 1e308])
@pytest.mark.parametrize("light", [5e-324, 1e-320, 1e-300])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_remote_row_of_hardly_any_weight_is_predicted_by_itself(heavy, light, dtype):
    X = np.array([[0.0], [1.0], [6e3]], dtype=dtype)
    model = NadarayaWatsonRegressor(0.5).fit(X, [0.0, 1.0, 5.0], [heavy, heavy, light])
    assert model.predict(X[2:]) == 5.0
    np.testing.assert_array_equal(model.effective_neighbors(X[2:]), [1.0])
    np.testing.assert_array_equal(model.attention_weights(X[2:]), [[0.0, 0.0, 1.0]])
    assert model.predict_loo()[2] == 1.0


def test_where_two_such_rows_meet_their_ratio_decides():
    """Also where both are lighter than a number is beside the heaviest."""
    X, y = np.array([[0.0], [1e4], [1e4 + 1]]), np.array([0.0, 1.0, 3.0])
    weights = [1e300, 1e-300, 3e-300]
    model = NadarayaWatsonRegressor(1.0).fit(X, y, weights)
    assert model.predict([[1e4 + 0.5]])[0] == pytest.approx(2.5, rel=1e-12)
    assert model.effective_neighbors([[1e4 + 0.5]])[0] == pytest.approx(1.6, rel=1e-12)


def test_copies_of_light_rows_add_up():
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(6, 1)), generator.normal(size=6)
    X[3:] += 200
    weights = np.array([1e300, 2e300, 1e299, 1e-300, 2e-300, 3e-300])
    copied = np.r_[np.arange(6), [3, 3, 4]]
    merged = weights * [1, 1, 1, 3, 2, 1]
    queries = np.array([[0.0], [200.0], [201.0]])
    many = NadarayaWatsonRegressor(0.7, duplicates="merge").fit(
        X[copied], y[copied], weights[copied]
    )
    once = NadarayaWatsonRegressor(0.7).fit(X, y, merged)
    np.testing.assert_allclose(many.predict(queries), once.predict(queries), rtol=1e-12)
    np.testing.assert_allclose(many.predict_loo()[:6], once.predict_loo(), rtol=1e-12)
    np.testing.assert_allclose(
        many.effective_neighbors(queries), once.effective_neighbors(queries), rtol=1e-12
    )
    attention = many.attention_weights(queries)
    np.testing.assert_allclose(attention @ y[copied], many.predict(queries), rtol=1e-12)
    np.testing.assert_allclose(attention[:, 6] + attention[:, 7], 2 * attention[:, 3], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_fits_survive_weights_of_any_size(dtype):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(40, 1)).astype(dtype)
    y, weights = np.sin(3 * X[:, 0]), 10.0 ** generator.uniform(-300, 300, size=40)
    for model in (
        NadarayaWatsonRegressor(),
        NadarayaWatsonRegressor("scott"),
        ParametricNWRegressor(max_iter=5, n_starts=1),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one row is nearly all there is
            model.fit(X, y, weights)
        assert np.isfinite(model.predict(X)).all()
        assert np.isfinite(model.predict_loo()).all()
