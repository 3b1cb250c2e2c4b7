"""The exercises of the textbook's chapter on attention pooling, as claims that hold."""

import warnings

import numpy as np
import pytest
import reference
from sklearn.exceptions import ConvergenceWarning

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.datasets import attention_curve, make_attention_curve
from sknw.metrics import MlpMetric
from sknw.training import Adam


def curve_error(model, n_samples, seed):
    X, y, X_test, y_test = make_attention_curve(n_samples, random_state=seed)
    return np.mean((model.fit(X, y).predict(X_test) - y_test) ** 2)


def test_more_rows_make_the_nonparametric_fit_better():
    errors = [
        np.mean([curve_error(NadarayaWatsonRegressor(), n, seed) for seed in range(4)])
        for n in (25, 75, 225)
    ]
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.8 * errors[1]


def test_a_fixed_bandwidth_of_one_stays_biased_however_many_rows():
    few, many = (curve_error(NadarayaWatsonRegressor(1.0), n, 0) for n in (50, 300))
    chosen = curve_error(NadarayaWatsonRegressor(), 300, 0)
    assert many > 0.5 * few
    assert chosen < 0.3 * many


def test_weights_sharpen_as_w_grows():
    X, y, X_test, _ = make_attention_curve(random_state=0)
    options = {"bandwidth": 1.0, "solver": "sgd", "max_iter": 1, "learning_rate_init": 1e-300}
    largest, neighbors = [], []
    for w in (0.1, 1.0, -3.0, 10.0):  # its sign does not matter
        model = ParametricNWRegressor("scalar", w_init=w, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X, y)
        assert model.w_ == w
        largest.append(model.attention_weights(X_test).max(axis=1).mean())
        neighbors.append(model.effective_neighbors(X_test).mean())
    assert (np.diff(largest) > 0).all()
    assert (np.diff(neighbors) < 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_learned_w_is_the_leave_one_out_optimum(seed):
    X, y, *_ = make_attention_curve(random_state=seed)
    model = ParametricNWRegressor("scalar", bandwidth=1.0).fit(X, y)
    grid = np.geomspace(0.05, 200, 200)
    losses = reference.loo_losses("gaussian", X, y, 1 / grid)
    assert model.best_loss_ <= min(losses) * (1 + 1e-6)
    at_best = grid[int(np.argmin(losses))]
    assert model.w_ == pytest.approx(at_best, rel=0.05)


def test_the_textbooks_own_steps_end_too_sharp():
    ends, best = [], []
    for seed in range(6):
        X, y, *_ = make_attention_curve(random_state=seed)
        textbook = ParametricNWRegressor(
            "scalar", bandwidth=1.0, solver="sgd", max_iter=5, learning_rate_init=25.0, w_init=0.5
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            ends.append(abs(textbook.fit(X, y).w_))
        best.append(ParametricNWRegressor("scalar", bandwidth=1.0).fit(X, y).w_)
    assert np.median(ends) > 1.3 * np.median(best)


def test_a_bandwidth_is_the_same_knob_as_w():
    X, y, X_test, _ = make_attention_curve(random_state=0)
    learned = ParametricNWRegressor("scalar", bandwidth=1.0).fit(X, y)
    chosen = NadarayaWatsonRegressor(1 / learned.w_).fit(X, y)
    np.testing.assert_allclose(chosen.predict(X_test), learned.predict(X_test), rtol=1e-9)
    fixed = np.mean((NadarayaWatsonRegressor(1.0).fit(X, y).predict_loo() - y) ** 2)
    assert learned.best_loss_ < 0.7 * fixed


def test_neural_attention_is_another_parametric_attention():
    X, y, X_test, y_test = make_attention_curve(random_state=0)
    model = ParametricNWRegressor(
        MlpMetric(width=8, hidden=8, n_bins=4), solver=Adam(12), max_iter=12, n_starts=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    heat_map = model.attention_weights(X_test)
    assert heat_map.shape == (50, 50)
    np.testing.assert_allclose(heat_map.sum(axis=1), 1.0)
    np.testing.assert_allclose(heat_map @ y, model.predict(X_test))
    # attention falls near the diagonal: the query's own place among the sorted keys
    centre = heat_map @ X[:, 0]
    assert np.corrcoef(centre, X_test[:, 0])[0, 1] > 0.95
    assert np.mean((model.predict(X_test) - y_test) ** 2) < 0.5 * np.var(attention_curve(X_test))
