"""Learned scales: what is minimised, where training starts and ends, and what it reports."""

import warnings

import numpy as np
import pytest
import reference
from designs import pairwise
from sklearn.exceptions import ConvergenceWarning

from sknw import MetricWarning, NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.datasets import make_attention_curve
from sknw.kernels import KERNELS
from sknw.metrics import DiagonalMetric, ScalarMetric

FULL_BATCH = ["lbfgs", "sgd"]


def table(n=120, d=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * [1, 10, 0.1, 1][:d]
    y = np.sin(2 * X[:, 0]) + 0.5 * (X[:, 1] / 10) ** 2 + rng.normal(0, 0.3, n)
    return X, y


@pytest.fixture(scope="module")
def textbook():
    return make_attention_curve(random_state=0)


def quiet_fit(model, *data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*data, **options)


@pytest.mark.parametrize("solver", FULL_BATCH)
@pytest.mark.parametrize("metric", ["scalar", "diagonal", "full"])
def test_losses_are_leave_one_out_losses_of_the_effective_bandwidth(solver, metric):
    X, y = table()
    w = np.random.default_rng(1).uniform(0.1, 2, len(y))
    model = ParametricNWRegressor(metric, solver=solver, max_iter=15, w_init=0.7)
    quiet_fit(model, X, y, sample_weight=w)

    def loss(Z):
        return reference.loo_loss("gaussian", Z, y, 1.0, w)

    assert model.loss_curve_[0] == pytest.approx(loss(0.7 * X / model.bandwidth_), rel=1e-10)
    assert model.best_loss_ == pytest.approx(loss(model.transform(X)), rel=1e-10)
    assert model.best_loss_ == pytest.approx(
        np.average((model.predict_loo() - y) ** 2, weights=w), rel=1e-10
    )
    assert len(model.loss_curve_) == model.n_iter_
    assert model.best_loss_ < model.loss_curve_[0]


def test_predictions_are_those_of_the_effective_bandwidth():
    X, y = table()
    model = ParametricNWRegressor().fit(X, y)
    plain = NadarayaWatsonRegressor(model.bandwidth_ / np.abs(model.w_)).fit(X, y)
    np.testing.assert_allclose(model.predict(X + 0.1), plain.predict(X + 0.1), rtol=1e-9)
    np.testing.assert_allclose(
        model.attention_weights(X[:5]), plain.attention_weights(X[:5]), rtol=1e-9, atol=1e-15
    )


def test_the_diagonal_is_never_worse_than_the_bandwidth_search_by_much_nor_than_the_scalar():
    X, y = table()
    searched = NadarayaWatsonRegressor().fit(X, y).criterion_
    diagonal = ParametricNWRegressor("diagonal", n_starts=6).fit(X, y).best_loss_
    scalar = ParametricNWRegressor("scalar").fit(X, y).best_loss_
    assert diagonal <= searched * 1.001
    assert diagonal < scalar


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_every_kernel_learns(kernel):
    X, y = table(60, 2)
    model = ParametricNWRegressor(kernel=kernel, n_starts=1).fit(X, y)
    flat = np.var(y)
    assert model.best_loss_ < flat / 2
    loss = reference.loo_loss(kernel, X, y, model.bandwidth_ / model.w_)
    assert model.best_loss_ == pytest.approx(loss, rel=1e-8)


def test_solvers_agree_on_the_minimum(textbook):
    X, y, *_ = textbook
    lbfgs = ParametricNWRegressor("scalar", bandwidth=1.0, tol=1e-12).fit(X, y)
    sgd = ParametricNWRegressor("scalar", bandwidth=1.0, solver="sgd", max_iter=5000, tol=1e-12)
    sgd.fit(X, y)
    assert sgd.best_loss_ == pytest.approx(lbfgs.best_loss_, rel=1e-8)
    assert sgd.w_ == pytest.approx(lbfgs.w_, rel=1e-3)


def test_shapes_of_w(textbook):
    X, y, *_ = textbook
    scalar = ParametricNWRegressor("scalar").fit(X, y)
    assert isinstance(scalar.w_, float)
    assert isinstance(scalar.metric_, ScalarMetric)
    diagonal = ParametricNWRegressor(DiagonalMetric()).fit(X, y)
    assert diagonal.w_.shape == (1,)
    np.testing.assert_array_equal(diagonal.metric_.parameters_["w"], diagonal.w_)
    assert diagonal.w_[0] == pytest.approx(scalar.w_, rel=1e-3)


def test_the_penalty_adds_alpha_times_the_squared_norm():
    X, y = table(80, 2)
    free = ParametricNWRegressor(tol=1e-12).fit(X, y)
    held = ParametricNWRegressor(alpha=0.05, tol=1e-12).fit(X, y)

    def objective(w):
        loss = reference.loo_loss("gaussian", X, y, held.bandwidth_ / w)
        return loss + 0.05 * np.sum(w**2)

    assert np.linalg.norm(held.w_) < np.linalg.norm(free.w_)
    assert objective(held.w_) < objective(free.w_)
    for factor in (0.99, 1.01):
        assert objective(held.w_ * factor) > objective(held.w_)
    assert held.best_loss_ > free.best_loss_  # reported without the penalty


def test_the_penalty_steers_sgd_too(textbook):
    X, y, *_ = textbook
    model = ParametricNWRegressor(
        "scalar", solver="sgd", max_iter=1, learning_rate_init=1e-3, w_init=2.0
    )
    free = quiet_fit(model, X, y).w_
    held = quiet_fit(model.set_params(alpha=3.0), X, y).w_
    assert held == pytest.approx(free - 1e-3 * 2 * 3.0 * 2.0, rel=1e-9)


def test_w_init_is_where_training_starts_and_its_sign_stays():
    X, y = table(60, 2)
    for solver in FULL_BATCH:
        model = ParametricNWRegressor(solver=solver, w_init=[-0.5, 0.25], max_iter=3)
        quiet_fit(model, X, y)
        start = reference.loo_loss("gaussian", X, y, model.bandwidth_ / np.array([0.5, 0.25]))
        assert model.loss_curve_[0] == pytest.approx(start, rel=1e-10)
        assert (np.sign(model.w_) == [-1, 1]).all()
        assert model.predict(X).std() > 0


def test_more_starts_never_end_higher():
    X, y = table(70, 4, seed=3)
    losses = [
        ParametricNWRegressor(n_starts=n_starts, random_state=0).fit(X, y).best_loss_
        for n_starts in (1, 3, 10)
    ]
    assert losses[1] <= losses[0] * (1 + 1e-6)
    assert losses[2] <= losses[1] * (1 + 1e-6)


def test_a_saturated_start_is_rescued_by_more_starts(textbook):
    X, y, *_ = textbook
    with pytest.warns(MetricWarning, match="attention has saturated: 100% of the training rows"):
        stuck = quiet_fit(ParametricNWRegressor("scalar", bandwidth=1.0, w_init=1e4), X, y)
    rescued = ParametricNWRegressor("scalar", bandwidth=1.0, w_init=1e4, n_starts=3).fit(X, y)
    free = ParametricNWRegressor("scalar", bandwidth=1.0).fit(X, y)
    assert stuck.best_loss_ >= free.best_loss_
    assert rescued.best_loss_ == pytest.approx(free.best_loss_, rel=1e-6)


def test_max_iter_warns_and_tol_does_not(textbook):
    X, y, *_ = textbook
    for solver in FULL_BATCH:
        short = ParametricNWRegressor("scalar", solver=solver, max_iter=1, w_init=0.3)
        with pytest.warns(ConvergenceWarning, match="max_iter=1"):
            short.fit(X, y)
        assert short.n_iter_ == 1
        long = ParametricNWRegressor("scalar", solver=solver, max_iter=3000).fit(X, y)
        assert long.n_iter_ < 3000


def test_tol_and_patience_decide_how_long_it_runs(textbook):
    X, y, *_ = textbook
    for solver in FULL_BATCH:
        options = {"solver": solver, "w_init": 0.2, "max_iter": 5000}
        rough = ParametricNWRegressor("scalar", tol=1e-2, **options).fit(X, y)
        fine = ParametricNWRegressor("scalar", tol=1e-10, **options).fit(X, y)
        assert rough.n_iter_ < fine.n_iter_
        assert rough.best_loss_ > fine.best_loss_
    options = {"solver": "sgd", "max_iter": 300, "learning_rate_init": 1e-5, "w_init": 0.2}
    patient = quiet_fit(ParametricNWRegressor("scalar", n_iter_no_change=100, **options), X, y)
    hasty = ParametricNWRegressor("scalar", n_iter_no_change=1, tol=1e-4, **options).fit(X, y)
    assert hasty.n_iter_ < patient.n_iter_


def test_divergence_keeps_the_best_seen_and_warns():
    X, y = table(60, 2)
    model = ParametricNWRegressor(solver="sgd", learning_rate_init=1e300, w_init=0.5)
    with pytest.warns(ConvergenceWarning, match="Lower learning_rate_init"):
        model.fit(X, y)
    assert np.isfinite(model.w_).all()
    assert np.isfinite(model.best_loss_)
    assert model.best_loss_ <= model.loss_curve_[0]
    assert np.isfinite(model.predict(X)).all()


def test_warm_start_goes_on_where_the_last_fit_ended(textbook):
    X, y, *_ = textbook
    options = {"solver": "sgd", "learning_rate_init": 0.5, "w_init": 0.3}
    whole = quiet_fit(ParametricNWRegressor("scalar", max_iter=8, **options), X, y)
    parts = ParametricNWRegressor("scalar", max_iter=4, warm_start=True, **options)
    curve = quiet_fit(parts, X, y).loss_curve_
    curve = curve + quiet_fit(parts, X, y).loss_curve_
    np.testing.assert_allclose(curve, whole.loss_curve_, rtol=1e-12)
    assert parts.w_ == pytest.approx(whole.w_, rel=1e-12)
    cold = ParametricNWRegressor("scalar", max_iter=4, **options)
    first, second = (quiet_fit(cold, X, y).loss_curve_ for _ in range(2))
    assert first == second


def test_verbose_prints_one_line_per_iteration(textbook, capsys):
    X, y, *_ = textbook
    for solver in FULL_BATCH:
        model = ParametricNWRegressor("scalar", solver=solver, w_init=0.5, max_iter=4, verbose=1)
        quiet_fit(model, X, y)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
        assert len(lines) == model.n_iter_


def test_several_outputs_share_the_scales():
    X, y = table(80, 2)
    Y = np.column_stack([y, 1e5 * np.cos(X[:, 0])])
    model = ParametricNWRegressor().fit(X, Y)
    loss = reference.loo_loss("gaussian", X, Y, model.bandwidth_ / model.w_)
    assert model.best_loss_ == pytest.approx(loss, rel=1e-9)
    rescaled = ParametricNWRegressor().fit(X, Y * [1e4, 1e-3])
    np.testing.assert_allclose(rescaled.w_[0], model.w_[0], rtol=1e-4)
    assert model.predict(X).shape == (80, 2)


def test_transform_is_the_embedding_with_the_origin_at_the_origin():
    X, y = table()
    for metric in ("scalar", "diagonal", "full"):
        model = quiet_fit(ParametricNWRegressor(metric, n_starts=1, max_iter=5), X, y)
        Z = model.transform(X)
        np.testing.assert_allclose(Z, X @ model.components_.T, rtol=1e-9, atol=1e-12)
        W = model.w_ if np.ndim(model.w_) == 2 else np.diag(np.broadcast_to(model.w_, 4))
        np.testing.assert_allclose(model.components_, W / model.bandwidth_, rtol=1e-12)
        direct = NadarayaWatsonRegressor(1.0).fit(Z, y).predict(model.transform(X[:7] + 0.1))
        np.testing.assert_allclose(model.predict(X[:7] + 0.1), direct, rtol=1e-8)


def test_the_starting_scale_does_not_matter_to_the_minimum():
    X, y = table(80)
    losses = [
        ParametricNWRegressor(bandwidth=bandwidth, tol=1e-9, n_starts=5).fit(X, y).best_loss_
        for bandwidth in ("scott", "silverman", "loo", 3.0, [1.0, 10.0, 0.1, 1.0])
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-3)


def test_many_rows_compare_their_starts_on_a_subsample():
    X, y = table(900, 3)
    model = ParametricNWRegressor().fit(X, y)
    again = ParametricNWRegressor().fit(X, y)
    np.testing.assert_array_equal(model.w_, again.w_)
    assert model.best_loss_ == pytest.approx(np.mean((model.predict_loo() - y) ** 2), rel=1e-9)
    assert model.best_loss_ <= NadarayaWatsonRegressor().fit(X, y).criterion_ * 1.001


def test_float32_trains_in_float32():
    X, y = table(100, 2)
    exact = ParametricNWRegressor().fit(X, y)
    single = ParametricNWRegressor().fit(X.astype(np.float32), y)
    assert single.transform(X[:3].astype(np.float32)).dtype == np.float32
    assert single.best_loss_ == pytest.approx(exact.best_loss_, rel=1e-4)


def test_one_row_trains_nothing():
    model = ParametricNWRegressor().fit([[1.0]], [2.0])
    assert model.predict([[5.0]]) == 2.0


def test_the_loss_curve_begins_at_the_start_of_the_best_descent(textbook):
    X, y, *_ = textbook
    model = ParametricNWRegressor("scalar", bandwidth=1.0, tol=1e-12).fit(X, y)
    assert len(model.loss_curve_) == model.n_iter_ > 2
    assert model.loss_curve_[0] > model.best_loss_ * (1 + 1e-4)
    assert np.all(np.diff([*model.loss_curve_, model.best_loss_]) <= 1e-12)


@pytest.mark.parametrize(
    ("kernel", "solver", "n_starts"),
    pairwise(["gaussian", "tricube", "tophat"], FULL_BATCH, [1, 3]),
)
def test_no_solver_takes_more_steps_than_it_may(kernel, solver, n_starts):
    X, y = table(30, 2)
    model = ParametricNWRegressor(kernel=kernel, solver=solver, max_iter=2, n_starts=n_starts)
    quiet_fit(model, X, y)
    assert len(model.loss_curve_) == model.n_iter_ <= 2


def test_verbose_prints_the_loss_curve(textbook, capsys):
    X, y, *_ = textbook
    for solver in FULL_BATCH:
        model = ParametricNWRegressor("scalar", solver=solver, w_init=0.5, max_iter=4, verbose=1)
        quiet_fit(model, X, 10 * y)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
        printed = [float(line.split()[-1]) for line in lines]
        np.testing.assert_allclose(printed, model.loss_curve_, rtol=1e-6)


def test_a_step_that_is_too_long_is_not_called_converged(textbook):
    X, y, *_ = textbook
    model = ParametricNWRegressor("scalar", bandwidth=1.0, solver="sgd", learning_rate_init=1e4)
    with pytest.warns(ConvergenceWarning, match="diverged.*Lower learning_rate_init"):
        model.fit(X, y)
    assert model.best_loss_ <= model.loss_curve_[0]


@pytest.mark.filterwarnings("ignore:The metric has collapsed")  # as so much penalty asks for
@pytest.mark.parametrize("alpha", [0.3, 100.0])
def test_the_default_step_bears_the_penalty(textbook, alpha):
    X, y, *_ = textbook
    options = {"bandwidth": 1.0, "alpha": alpha, "max_iter": 1000, "tol": 1e-8}
    sgd = quiet_fit(ParametricNWRegressor("scalar", solver="sgd", **options), X, y)
    lbfgs = ParametricNWRegressor("scalar", **options).fit(X, y)

    def objective(model):
        return model.best_loss_ + alpha * model.w_**2

    assert objective(sgd) == pytest.approx(objective(lbfgs), rel=5e-3)


def test_warm_start_with_another_number_of_scales_is_refused():
    X, y = table(60, 3)
    model = ParametricNWRegressor(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="warm_start=True goes on from w_, which has 3 values"):
        model.set_params(metric="scalar").fit(X, y)
