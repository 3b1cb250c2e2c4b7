"""Learned embeddings beyond one scale per feature: what they reach, and what they give."""

import warnings

import numpy as np
import pytest
import reference
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from sknw import MetricWarning, NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.metrics import METRICS, FullMetric, MlpMetric
from sknw.training.lbfgs import Lbfgs

LINEAR = ["scalar", "diagonal", "full"]


def oblique(n=150, d=4, noise=0.05, seed=0):
    """Rows whose target varies along one oblique direction."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    direction = np.array([1.0, -1.0, 0.5, 0.0])[:d]
    return X, np.sin(1.5 * X @ direction) + noise * rng.normal(size=n), direction


def quiet_fit(model, *data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*data, **options)


@pytest.mark.parametrize(("seed", "n_starts"), [(0, 1), (1, "auto"), (2, 1)])
def test_no_metric_ends_above_a_simpler_one(seed, n_starts):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(70, 3)) * [1, 10, 0.1]
    y = np.sin(2 * X[:, 0]) + 3 * X[:, 2] + rng.normal(0, 0.3, 70)
    losses = [
        quiet_fit(ParametricNWRegressor(metric, n_starts=n_starts, max_iter=40), X, y).best_loss_
        for metric in LINEAR
    ]
    assert losses[1] <= losses[0]
    assert losses[2] <= losses[1]


def test_no_metric_ends_above_a_simpler_one_where_training_brings_nothing():
    X, y, _ = oblique(60)
    options = {"n_starts": 1, "max_iter": 3, "random_state": 0}
    losses = [
        quiet_fit(ParametricNWRegressor(metric, solver="sgd", **step, **options), X, y).best_loss_
        for metric, step in (("scalar", {}), ("full", {"learning_rate_init": 50.0}))
    ]
    assert losses[1] <= losses[0]


@pytest.mark.parametrize(("n", "starts_there"), [(400, True), (300, False)])
def test_a_matrix_starts_from_the_common_scale_too_if_there_are_rows_enough(n, starts_there):
    found = []

    class Watched(Lbfgs):
        def train(self, problem, starts, *rest):
            found.append(starts)
            return super().train(problem, starts, *rest)

    X, y, _ = oblique(n)
    quiet_fit(ParametricNWRegressor("full", solver=Watched(), n_starts=2, max_iter=3), X, y)
    ((first, second),) = found
    matrix = second.reshape(4, 4)
    is_common = np.count_nonzero(matrix) == 4 and np.ptp(np.diag(matrix)) == 0
    assert is_common == starts_there
    assert np.ptp(np.diag(first.reshape(4, 4))) > 0


def test_of_two_starts_the_lower_end_is_kept():
    X, y, _ = oblique(320, noise=0.5)
    scale = ParametricNWRegressor("scalar").fit(X, y).w_
    one, from_scale, two = (
        quiet_fit(ParametricNWRegressor("full", tol=1e-4, **options), X, y).best_loss_
        for options in ({"n_starts": 1}, {"w_init": scale}, {"n_starts": 2})
    )
    assert two <= min(one, from_scale) * (1 + 1e-3)


def test_a_matrix_finds_an_oblique_direction():
    X, y, direction = oblique()
    diagonal = ParametricNWRegressor("diagonal").fit(X, y)
    full = ParametricNWRegressor("full", tol=1e-4).fit(X, y)
    assert full.best_loss_ < 0.3 * diagonal.best_loss_
    leading = np.linalg.svd(full.components_)[2][0]
    cosine = abs(leading @ direction) / np.linalg.norm(direction)
    assert cosine > 0.99


@pytest.mark.parametrize("n_components", [1, 2])
def test_low_rank(n_components):
    X, y, direction = oblique()
    model = quiet_fit(ParametricNWRegressor("full", n_components=n_components, tol=1e-4), X, y)
    assert model.w_.shape == model.components_.shape == (n_components, 4)
    assert model.transform(X).shape == (150, n_components)
    assert len(model.get_feature_names_out()) == n_components
    assert model.best_loss_ < 0.01
    leading = np.linalg.svd(model.components_)[2][0]
    assert abs(leading @ direction) / np.linalg.norm(direction) > 0.99
    loss = reference.loo_loss("gaussian", model.transform(X), y, 1.0)
    assert model.best_loss_ == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize(
    ("metric", "max_iter"), [("full", 200), (MlpMetric(width=8, hidden=8, n_bins=4), 4)]
)
def test_fewer_components_than_the_target_needs_are_trained_all_the_same(metric, max_iter):
    # the simpler metric, with one component per feature, ends lower, but is not to be had
    X = np.random.default_rng(0).uniform(size=(70, 3))
    y = np.sin(6 * X[:, 0]) + 3 * X[:, 1] + np.cos(5 * X[:, 2])
    diagonal = ParametricNWRegressor().fit(X, y)
    model = ParametricNWRegressor(metric, n_components=1, n_starts=1, max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", MetricWarning)
        model.fit(X, y)
    loss = reference.loo_loss("gaussian", model.transform(X), y, 1.0)
    assert model.best_loss_ == pytest.approx(loss, rel=1e-7)
    assert diagonal.best_loss_ < loss < 0.95 * model.loss_curve_[0]


def test_low_rank_with_weights_several_outputs_and_twins():
    X, y, _ = oblique(60)
    Y = np.column_stack([y, 1e4 * np.cos(X[:, 0])])
    w = np.random.default_rng(1).integers(0, 3, 60).astype(float)
    options = {"n_components": 2, "max_iter": 8}
    weighted = quiet_fit(ParametricNWRegressor("full", **options), X, Y, sample_weight=w)
    repeated = np.repeat(np.arange(60), w.astype(int))
    copied = quiet_fit(ParametricNWRegressor("full", **options), X[repeated], Y[repeated])
    assert weighted.best_loss_ == pytest.approx(copied.best_loss_, rel=1e-6)
    np.testing.assert_allclose(weighted.predict(X), copied.predict(X), rtol=1e-4)


def test_the_penalty_adds_the_squared_norm_of_the_matrix():
    X, y, _ = oblique(60)
    options = {"tol": 1e-12, "max_iter": 500, "w_init": 0.5}
    free = quiet_fit(ParametricNWRegressor("full", **options), X, y)
    held = quiet_fit(ParametricNWRegressor("full", alpha=0.02, **options), X, y)

    def objective(W):
        return reference.loo_loss("gaussian", X / held.bandwidth_ @ W.T, y, 1.0) + 0.02 * np.sum(
            W**2
        )

    assert np.linalg.norm(held.w_) < np.linalg.norm(free.w_)
    for factor in (0.99, 1.01):
        assert objective(held.w_ * factor) > objective(held.w_)


@pytest.mark.parametrize("w_init", [0.7, [0.7, 0.7, 0.7, 0.7], 0.7 * np.eye(4)])
def test_a_matrix_starts_at_w_init(w_init):
    X, y, _ = oblique(50)
    model = quiet_fit(ParametricNWRegressor("full", w_init=w_init, max_iter=2), X, y)
    start = reference.loo_loss("gaussian", 0.7 * X / model.bandwidth_, y, 1.0)
    assert model.loss_curve_[0] == pytest.approx(start, rel=1e-10)


@pytest.mark.parametrize(
    ("w_init", "message"),
    [
        ([1.0, 2.0], r"a number or an array of shape \(4,\) or \(2, 4\), .* got shape \(2,\)"),
        (0.0, "finite and not zero; got 0"),
        (np.nan, "finite and not zero; got nan"),
        ("one", "w_init"),
    ],
)
def test_a_matrix_refuses_a_w_init(w_init, message):
    X, y, _ = oblique(30)
    with pytest.raises(ValueError, match=message):
        ParametricNWRegressor("full", n_components=2, w_init=w_init).fit(X, y)


@pytest.mark.parametrize(
    ("metric", "n_components", "message"),
    [
        ("full", 5, "n_components must be at most the number of features, 4.*got 5"),
        ("full", 0, "n_components"),
    ],
)
def test_refused_numbers_of_components(metric, n_components, message):
    X, y, _ = oblique(30)
    with pytest.raises(ValueError, match=message):
        ParametricNWRegressor(metric, n_components=n_components).fit(X, y)


def test_transform_is_a_supervised_embedding_before_any_estimator():
    X, y, _ = oblique(200)
    plain = LinearRegression().fit(X**2, y).score(X**2, y)
    step = ParametricNWRegressor("full", n_components=1, n_starts=1, tol=1e-3)
    chained = make_pipeline(step, NadarayaWatsonRegressor(1.0)).fit(X, y)
    assert chained[:-1].transform(X).shape == (200, 1)
    assert chained.score(X, y) > max(plain, 0.9)


def test_metric_objects_are_settings():
    X, y, _ = oblique(40)
    by_name = quiet_fit(ParametricNWRegressor("full", max_iter=3), X, y)
    metric = FullMetric()
    by_object = quiet_fit(ParametricNWRegressor(metric, max_iter=3), X, y)
    np.testing.assert_array_equal(by_name.w_, by_object.w_)
    assert isinstance(by_name.metric_, FullMetric)
    assert not hasattr(metric, "parameters_")


@pytest.mark.parametrize("metric", LINEAR)
def test_queries_near_the_largest_number_are_embedded(metric):
    X, y, _ = oblique(40)
    options = {"n_components": 2} if metric == "full" else {}
    model = quiet_fit(ParametricNWRegressor(metric, max_iter=3, **options), X, y)
    assert np.isfinite(model.predict(np.full((2, 4), 1e300))).all()


def test_every_metric_has_a_test_here():
    assert set(METRICS) == {*LINEAR, "mlp"}
