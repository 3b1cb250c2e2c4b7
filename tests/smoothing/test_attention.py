"""Attention weights: full, leave-one-out, sparse, weighted, and within memory."""

import tracemalloc

import numpy as np
import pytest
import reference
import sklearn
import torch
from scipy import sparse

from sknw import EmptyNeighborhoodWarning, NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.datasets import make_attention_curve
from sknw.kernels import KERNELS

NAMES = sorted(KERNELS)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(40, 2))
    X[7], X[8] = X[3], X[3]
    y = rng.normal(size=40)
    y[7] = y[3]  # rows 3 and 7 are copies, row 8 shares their x alone
    w = rng.uniform(0.2, 2, 40)
    w[[5, 11]] = 0
    return X, y, w


def left_out(X, y, w):
    """Which rows (n, n) a leave-one-out prediction does not use: the row and its copies."""
    return reference.copies(X, y, w)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_of_the_reference(data, name):
    X, y, w = data
    queries = np.random.default_rng(1).uniform(-1, 1, size=(30, 2))
    model = NadarayaWatsonRegressor(0.9, kernel=name).fit(X, y, sample_weight=w)
    weights = model.attention_weights(queries)
    np.testing.assert_allclose(
        weights, reference.weights(name, queries, X, 0.9, w), rtol=1e-10, atol=1e-14
    )
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-13)
    np.testing.assert_allclose(weights @ y, model.predict(queries), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_leave_one_out_weights_leave_out_rows_and_their_copies(data, name):
    X, y, w = data
    model = NadarayaWatsonRegressor(0.9, kernel=name).fit(X, y, sample_weight=w)
    weights = model.attention_weights()
    expected = reference.weights(name, X, X, 0.9, w, exclude=left_out(X, y, w))
    np.testing.assert_allclose(weights, expected, rtol=1e-10, atol=1e-14)
    assert (np.diag(weights) == 0).all()
    assert weights[3, 7] == weights[7, 3] == 0
    assert weights[3, 8] > 0
    assert (weights[:, [5, 11]] == 0).all()
    np.testing.assert_allclose(weights @ y, model.predict_loo(), rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(model.attention_weights_, weights)


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("top_k", [1, 5, 40])
def test_top_k_keeps_the_largest(data, leave_one_out, top_k):
    X, y, w = data
    model = NadarayaWatsonRegressor(0.6, kernel="linear").fit(X, y, sample_weight=w)
    queries = None if leave_one_out else X[:11] + 0.05
    full = model.attention_weights(queries)
    top = model.attention_weights(queries, top_k=top_k)
    assert sparse.issparse(top)
    assert top.format == "csr"
    assert top.shape == full.shape
    assert np.diff(top.indptr).max() <= top_k
    assert (top.data > 0).all()
    np.testing.assert_allclose(
        np.sort(top.toarray(), axis=1)[:, -top_k:], np.sort(full, axis=1)[:, -top_k:]
    )
    if top_k == 40:
        np.testing.assert_array_equal(top.toarray(), full)


def test_top_k_needs_no_full_matrix():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(3000, 2)), rng.normal(size=3000)
    model = NadarayaWatsonRegressor(0.3).fit(X, y)
    with sklearn.config_context(working_memory=1):
        with pytest.raises(ValueError, match=r"3000 x 3000 matrix \(72.0 MB\), over .* 1 MiB; ask"):
            model.attention_weights()
        top = model.attention_weights(top_k=10)
    assert top.shape == (3000, 3000)
    assert top.nnz == 30000


@pytest.mark.parametrize("n_rows", [2000, 2001])
def test_the_property_is_there_for_small_data_only(n_rows):
    rng = np.random.default_rng(0)
    model = NadarayaWatsonRegressor(1.0).fit(rng.normal(size=(n_rows, 1)), rng.normal(size=n_rows))
    if n_rows <= 2000:
        assert model.attention_weights_.shape == (n_rows, n_rows)
    else:
        with pytest.raises(AttributeError, match=r"Use attention_weights\(X, top_k=...\)"):
            _ = model.attention_weights_
    assert "attention_weights_" not in vars(model)


def test_the_property_turns_refusals_into_missing_attributes():
    X, y = np.arange(6.0)[:, None], np.arange(6.0)
    model = NadarayaWatsonRegressor(0.5, kernel="tophat", empty_neighborhood="raise").fit(X, y)
    assert not hasattr(model, "attention_weights_")
    quiet = NadarayaWatsonRegressor(0.5, kernel="tophat").fit(X, y)
    assert quiet.attention_weights_.shape == (6, 6)  # no warning: it may be read for display


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("nearest", [[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]),
        ("mean", [[1 / 3, 1 / 3, 1 / 3]] * 2),
        ("nan", [[np.nan] * 3] * 2),
    ],
)
@pytest.mark.parametrize("kernel", sorted(set(NAMES) - {"gaussian", "exponential"}))
def test_empty_neighborhoods_follow_the_policy(kernel, policy, expected):
    X, y = np.array([[0.0], [1.0], [5.0]]), np.array([1.0, 2.0, 6.0])
    model = NadarayaWatsonRegressor(0.4, kernel=kernel, empty_neighborhood=policy).fit(X, y)
    queries = [[9.0], [0.5]]
    with pytest.warns(EmptyNeighborhoodWarning, match=f"2 of 2 queries.*'{policy}'"):
        weights = model.attention_weights(queries)
    np.testing.assert_allclose(weights, expected)
    with pytest.warns(EmptyNeighborhoodWarning, match="2 of 2 queries"):
        np.testing.assert_allclose(model.predict(queries), np.array(expected) @ y)
    assert (model.effective_neighbors(queries) == 0).all()
    with pytest.warns(EmptyNeighborhoodWarning, match="3 of 3 queries"):
        loo = model.predict_loo()
    with pytest.warns(EmptyNeighborhoodWarning, match="3 of 3 queries"):
        np.testing.assert_allclose(model.attention_weights() @ y, loo)


def test_raise_refuses_and_counts():
    model = NadarayaWatsonRegressor(0.4, kernel="tophat", empty_neighborhood="raise")
    model.fit([[0.0], [1.0]], [1.0, 2.0])
    np.testing.assert_array_equal(model.predict([[0.1]]), [1.0])
    message = "1 of 2 queries have no training row within the kernel's support; use a larger band"
    for method in (model.predict, model.attention_weights):
        with pytest.raises(ValueError, match=message):
            method([[0.1], [3.0]])
    with pytest.raises(ValueError, match="2 of 2 queries"):
        model.predict_loo()


@pytest.mark.parametrize("name", NAMES)
def test_effective_neighbors_are_kishs(data, name):
    X, y, w = data
    model = NadarayaWatsonRegressor(0.8, kernel=name).fit(X, y, sample_weight=w)
    queries = X + 0.01
    np.testing.assert_allclose(
        model.effective_neighbors(queries),
        reference.effective_neighbors(name, queries, X, 0.8, w, y=y),
        rtol=1e-9,
    )


@pytest.mark.parametrize("name", ["gaussian", "exponential"])
def test_effective_neighbors_far_away_tend_to_the_nearest(name):
    X, y = np.array([[0.0], [1.0], [3.0]]), np.arange(3.0)
    model = NadarayaWatsonRegressor(0.01, kernel=name).fit(X, y)
    np.testing.assert_allclose(model.effective_neighbors([[2.9], [1e3], [1e9]]), 1, rtol=1e-9)
    np.testing.assert_allclose(model.effective_neighbors([[0.5]]), 2, rtol=1e-6)


def test_attention_sharpens_as_training_raises_the_scale():
    # the textbook's observation: the learned w is above 1, and the heat map sharpens
    X, y, X_test, _ = make_attention_curve(random_state=0)
    learned = ParametricNWRegressor("scalar", bandwidth=1.0).fit(X, y)
    plain = NadarayaWatsonRegressor(1.0).fit(X, y)
    assert learned.w_ > 1
    assert (
        learned.attention_weights(X_test).max(axis=1) > plain.attention_weights(X_test).max(axis=1)
    ).all()


def test_effective_neighbors_of_a_kernel_whose_squares_underflow():
    X, y = np.linspace(0, 1, 9)[:, None], np.arange(9.0)
    gaussian = NadarayaWatsonRegressor(0.05).fit(X, y)
    written = NadarayaWatsonRegressor(0.05, kernel=lambda u: torch.exp(-u * u / 2)).fit(X, y)
    queries = [[0.5], [2.4], [2.7]]
    np.testing.assert_allclose(
        written.effective_neighbors(queries), gaussian.effective_neighbors(queries), rtol=1e-6
    )


@pytest.mark.parametrize("bandwidth", [1e-12, 1e-25, 1e-30])
def test_float32_rows_stay_apart_at_any_bandwidth(bandwidth):
    rng = np.random.default_rng(0)
    X, y = (1e7 * rng.random((20, 1))).astype(np.float32), rng.normal(size=20)
    model = NadarayaWatsonRegressor(bandwidth).fit(X, y)
    np.testing.assert_allclose(model.predict(X), y, rtol=1e-6)


def test_top_k_is_made_in_blocks_that_fit_repeated_rows_too():
    X, y = np.tile(np.arange(4.0), 500)[:, None], np.tile(np.arange(4.0), 500)
    model = NadarayaWatsonRegressor(1.0).fit(X, y)
    model.attention_weights(X[:5], top_k=3)
    tracemalloc.start()
    try:
        with sklearn.config_context(working_memory=1):
            model.attention_weights(X, top_k=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20  # a block and its copies, of a matrix of 32 MB


@pytest.mark.parametrize("kernel", ["gaussian", "exponential"])
@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
def test_far_queries_have_as_many_neighbors_as_their_attention_says(kernel, algorithm):
    X = np.repeat(np.arange(5.0), 20)[:, None]
    y = np.random.default_rng(0).normal(size=100)
    model = NadarayaWatsonRegressor(0.5, kernel=kernel, algorithm=algorithm).fit(X, y)
    queries = [[-1e8], [-1e5], [-1e3], [-13.0], [1.2], [40.0], [1e6]]
    weights = model.attention_weights(queries)
    expected = 1 / np.square(weights).sum(axis=1)
    np.testing.assert_allclose(model.effective_neighbors(queries), expected, rtol=1e-9)
