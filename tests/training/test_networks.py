"""Neural embeddings, mini-batches, validation rows, and training that stops and goes on."""

import copy
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import reference
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sknw import MetricWarning, ParametricNWRegressor
from sknw.metrics import MlpMetric
from sknw.training import SOLVERS, Adam
from sknw.training.neighborhoods import random_leaves
from sknw.training.problem import Settings
from sknw.training.steps import Steps
from sknw.training.validation import Validation

SMALL = MlpMetric(width=8, hidden=8, n_bins=4)
BRISK = Adam(decay_epochs=4)


def ring(n=80, noise=0.05, seed=0):
    """Rows whose target varies with their distance from the origin: no matrix sees that."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n, 2))
    return X, np.cos(5 * np.hypot(*X.T)) + noise * rng.normal(size=n)


def small_module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(8, 3)
        )


def quiet_fit(model, *data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", MetricWarning)
        return model.fit(*data, **options)


def small(metric=SMALL, **options):
    options = {"max_iter": 4, "n_starts": 1, **options}
    return ParametricNWRegressor(clone(metric, safe=False), **options)


# --- the embedding ---


@pytest.mark.parametrize("metric", [SMALL, small_module()], ids=["mlp", "module"])
def test_losses_are_leave_one_out_losses_in_the_embedding(metric):
    X, y = ring()
    w = np.random.default_rng(1).uniform(0.2, 2, len(y))
    model = quiet_fit(small(metric), X, y, sample_weight=w)
    Z = model.transform(X)
    assert Z.shape == (80, model.metric_.n_components_)
    loss = reference.loo_loss("gaussian", Z, y, 1.0, w)
    assert model.best_loss_ == pytest.approx(loss, rel=1e-7)
    np.testing.assert_allclose(
        model.predict(X[:5] + 0.1),
        reference.predict("gaussian", model.transform(X[:5] + 0.1), Z, y, 1.0, w),
        rtol=1e-7,
    )
    assert model.w_ is None
    with pytest.raises(AttributeError, match="components_ is there for linear metrics"):
        model.components_  # noqa: B018


def orthants(n, seed):
    """Rows whose target is the parity of the orthant."""
    X = np.random.default_rng(seed).uniform(-1, 1, size=(n, 3))
    return X, (X > 0).sum(axis=1) % 2.0


def test_a_network_sees_what_no_matrix_sees():
    X, y = orthants(150, seed=0)
    full = quiet_fit(ParametricNWRegressor("full", n_starts=1, max_iter=30), X, y)
    model = small(MlpMetric(width=16, hidden=16, n_bins=8, dropout=0.0), max_iter=25)
    model.set_params(solver=Adam(decay_epochs=25), learning_rate_init=0.015, batch_size=50)
    quiet_fit(model, X, y)
    X_new, y_new = orthants(300, seed=1)
    errors = [np.mean((m.predict(X_new) - y_new) ** 2) for m in (full, model)]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("options", [{}, {"solver": "lbfgs"}, {"solver": "sgd"}, {"alpha": 0.01}])
def test_a_network_never_ends_above_the_simpler_metric(options):
    X, y = ring(60)
    full = quiet_fit(small("full"), X, y)
    model = quiet_fit(small(max_iter=3, **options), X, y)
    reached = quiet_fit(small("full", max_iter=3), X, y).best_loss_
    assert full.best_loss_ <= reached
    if not options.get("alpha"):
        assert model.best_loss_ <= reached * (1 + 1e-9)


def test_a_network_that_gets_worse_gives_way_to_the_simpler_metric():
    X, y = ring(60)
    model = quiet_fit(small(learning_rate_init=30.0, max_iter=2), X, y)
    full = quiet_fit(small("full", max_iter=200), X, y)
    assert model.best_loss_ == pytest.approx(full.best_loss_, rel=1e-5)
    np.testing.assert_allclose(model.predict(X), full.predict(X), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n_components", [1, 2, 5])
def test_the_number_of_components(n_components):
    X, y = ring(50)
    model = quiet_fit(small(n_components=n_components, max_iter=2), X, y)
    assert model.transform(X).shape == (50, n_components)
    assert len(model.get_feature_names_out()) == n_components


def test_sizes_are_settings():
    X, y = ring(50)
    shapes = quiet_fit(small(max_iter=1), X, y).metric_.parameters_
    assert shapes["enter.weight"].shape == (8, 2 * (1 + 4))
    assert shapes["blocks.0.first.weight"].shape == (8, 8)
    bare = quiet_fit(small(MlpMetric(4, 6, n_blocks=2, n_bins=0), max_iter=1), X, y).metric_
    assert bare.parameters_["enter.weight"].shape == (4, 2)
    assert bare.parameters_["blocks.1.first.weight"].shape == (6, 4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"width": 0}, "width must be an integer of at least 1; got 0"),
        ({"hidden": 1.5}, "hidden must be an integer of at least 1; got 1.5"),
        ({"n_blocks": -1}, "n_blocks must be an integer of at least 0; got -1"),
        ({"n_bins": None}, "n_bins must be an integer of at least 0; got None"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1; got 1.0"),
    ],
)
def test_impossible_sizes_are_refused(setting, message):
    X, y = ring(30)
    with pytest.raises(ValueError, match=message):
        small(MlpMetric(**setting)).fit(X, y)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (torch.nn.Linear(3, 2), "module must take rows of 2 columns in float64; it raised"),
        (
            torch.nn.Flatten(0),
            r"must map \(n, n_columns\) to \(n, n_components\); it mapped \(2, 2\)",
        ),
    ],
)
def test_a_module_that_does_not_fit_is_refused(module, message):
    X, y = ring(30)
    with pytest.raises(ValueError, match=message):
        ParametricNWRegressor(module).fit(X, y)


def test_a_network_takes_no_w_init():
    X, y = ring(30)
    for metric in (SMALL, small_module()):
        with pytest.raises(ValueError, match="w_init must be None for"):
            small(metric, w_init=1.0).fit(X, y)


def test_a_module_is_copied_and_learns():
    X, y = ring()
    module = small_module()
    before = copy.deepcopy(module.state_dict())
    short = quiet_fit(small(module, max_iter=1, learning_rate_init=1e-9), X, y)
    long = quiet_fit(small(module, max_iter=40, learning_rate_init=0.02), X, y)
    assert long.best_loss_ < 0.9 * short.best_loss_
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    again = pickle.loads(pickle.dumps(long))
    np.testing.assert_array_equal(again.predict(X), long.predict(X))


def test_training_leaves_the_global_generators_alone():
    X, y = ring(40)
    torch_state, expected = torch.get_rng_state(), copy.deepcopy(np.random.mtrand._rand)
    model = quiet_fit(small(), X, y)
    model.predict(X)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.mtrand._rand.randint(2**31) == expected.randint(2**31)


@pytest.mark.parametrize("metric", [SMALL, small_module()], ids=["mlp", "module"])
def test_fits_repeat_and_follow_random_state(metric):
    X, y = ring(50)
    one, same = (quiet_fit(small(metric), X, y).loss_curve_ for _ in range(2))
    other = quiet_fit(small(metric, random_state=5), X, y).loss_curve_
    assert one == same
    assert one != other


def test_float32_several_outputs_weights_and_twins():
    X, y = ring(50)
    Y = np.column_stack([y, 1e5 * X[:, 0]])
    w = np.random.default_rng(0).integers(0, 3, 50).astype(float)
    weighted = quiet_fit(small(), X, Y, sample_weight=w)
    repeated = np.repeat(np.arange(50), w.astype(int))
    copied = quiet_fit(small(), X[repeated], Y[repeated])
    assert weighted.best_loss_ == pytest.approx(copied.best_loss_, rel=1e-4)
    single = quiet_fit(small(), X.astype(np.float32), y)
    assert single.transform(X[:3].astype(np.float32)).dtype == np.float32
    exact = quiet_fit(small(), X, y)
    assert single.best_loss_ == pytest.approx(exact.best_loss_, rel=0.1)


# --- Adam ---


@pytest.mark.parametrize("metric", ["scalar", "diagonal", "full"])
def test_adam_reaches_the_minimum_of_lbfgs(metric):
    X, y = ring(60)
    lbfgs = quiet_fit(ParametricNWRegressor(metric, w_init=0.5), X, y)
    adam = ParametricNWRegressor(metric, w_init=0.5, solver=Adam(decay_epochs=150))
    quiet_fit(adam, X, y)
    assert adam.best_loss_ <= lbfgs.best_loss_ * (1.25 if metric == "full" else 1.05)
    assert adam.best_loss_ == pytest.approx(
        reference.loo_loss("gaussian", adam.transform(X), y, 1.0), rel=1e-7
    )


def test_a_full_batch_of_adam_sees_the_leave_one_out_loss():
    X, y = ring(60)
    model = small("diagonal", solver="adam", w_init=[0.7, 1.3], batch_size=60)
    quiet_fit(model, X, y)
    start = reference.loo_loss("gaussian", X * [0.7, 1.3] / model.bandwidth_, y, 1.0)
    assert model.loss_curve_[0] == pytest.approx(start, rel=1e-4)


def test_smaller_batches_take_more_steps_and_shares_other_ones():
    X, y = ring(60)
    whole, batches = (small("diagonal", solver=BRISK, w_init=0.3) for _ in range(2))
    quiet_fit(whole.set_params(batch_size=60), X, y)
    quiet_fit(batches.set_params(batch_size=6), X, y)
    assert batches.best_loss_ < whole.best_loss_
    part = small("diagonal", solver=Adam(4, keys=0.2), w_init=0.3, batch_size=6)
    assert quiet_fit(part, X, y).loss_curve_[0] > 1.01 * batches.loss_curve_[0]


def test_the_penalty_steers_adam():
    X, y = ring(60)
    free, held = (
        quiet_fit(small("diagonal", w_init=1.0, solver=BRISK, alpha=alpha), X, y)
        for alpha in (0.0, 1.0)
    )
    assert np.linalg.norm(held.w_) < np.linalg.norm(free.w_)


def test_adam_stays_within_the_bounds_of_w():
    X, y = ring(40)
    model = small("diagonal", solver="adam", w_init=1.0, learning_rate_init=1e4)
    quiet_fit(model, X, y)
    assert (np.abs(model.w_) > 0).all()
    assert np.isfinite(model.w_).all()


def test_patience_ends_adam():
    X, y = ring(40)
    model = small("diagonal", solver=BRISK, max_iter=500, n_iter_no_change=3, tol=1e-2)
    model.fit(X, y)  # ConvergenceWarning would be an error
    assert 4 < model.n_iter_ < 100
    with pytest.warns(ConvergenceWarning, match="max_iter=2 epochs"):
        small("diagonal", solver=BRISK, max_iter=2).fit(X, y)


def test_divergence_of_a_network_is_told_and_the_best_kept():
    X, y = ring(60)
    module = torch.nn.Linear(2, 2)
    model = small(module, learning_rate_init=1e38, max_iter=5, batch_size=20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    assert any("Lower learning_rate_init" in str(warning.message) for warning in caught)
    assert np.isfinite(model.predict(X)).all()


def test_near_rows_make_batches():
    points = torch.as_tensor(np.random.default_rng(0).normal(size=(1000, 2)))
    leaves = random_leaves(points, 64, np.random.RandomState(0))
    assert max(map(len, leaves)) <= 64
    np.testing.assert_array_equal(np.sort(np.concatenate(leaves)), np.arange(1000))
    within = np.mean([points[leaf].var(dim=0).mean() for leaf in leaves])
    assert within < 0.3 * points.var(dim=0).mean()


def test_batches_of_near_rows_learn_what_all_rows_teach():
    X, y = ring(300)
    options = {"w_init": 0.3, "max_iter": 15, "batch_size": 100}
    losses = [
        quiet_fit(small("full", solver=Adam(15, keys=keys), **options), X, y).best_loss_
        for keys in ("near", "all")
    ]
    assert losses[0] <= losses[1] * 1.1


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (Adam(decay_epochs=0), "decay_epochs must be positive; got 0"),
        (Adam(keys=2.0), r"keys must be 'auto', 'all', 'near' or a share.*got 2.0"),
        (Adam(keys="some"), "got 'some'"),
    ],
)
def test_settings_of_adam_are_checked(solver, message):
    X, y = ring(30)
    with pytest.raises(ValueError, match=message):
        small("diagonal", solver=solver).fit(X, y)


# --- validation rows ---


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("metric", ["diagonal", "full", SMALL], ids=["diagonal", "full", "mlp"])
def test_early_stopping_keeps_what_the_validation_rows_like_best(metric, solver):
    X, y = ring(60)
    model = small(metric, solver=solver, early_stopping=True, max_iter=6)
    quiet_fit(model, X, y)
    assert 1 <= len(model.validation_curve_) <= 6
    assert np.isfinite(model.validation_curve_).all()
    loss = reference.loo_loss("gaussian", model.transform(X), y, 1.0)
    assert model.best_loss_ == pytest.approx(loss, rel=1e-7)  # over all rows
    assert quiet_fit(small(metric, solver=solver), X, y).validation_curve_ == []


def test_early_stopping_stops_early():
    X, y = ring(60, noise=2.0)
    options = {"n_iter_no_change": 2, "early_stopping": True, "max_iter": 300, "w_init": 0.3}
    for solver, tol in (("lbfgs", 1e-12), (BRISK, 1e-3)):  # Adam may gain a little for ever
        model = small("full", solver=solver, tol=tol, **options)
        quiet_fit(model, X, y)
        assert model.n_iter_ < 100
        best = int(np.argmin(model.validation_curve_))
        assert len(model.validation_curve_) - best <= 8


def test_the_share_of_validation_rows_counts():
    X, y = ring(60)
    curves = [
        quiet_fit(
            small("full", early_stopping=True, validation_fraction=share), X, y
        ).validation_curve_
        for share in (0.1, 0.5)
    ]
    assert curves[0] != curves[1]


def test_the_simpler_metric_is_preferred_where_validation_cannot_tell():
    options = {"max_iter": 30, "validation_fraction": 0.3}
    kept = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(60, 3))
        y = X[:, 0] + 0.5 * rng.normal(size=60)  # one scale per feature says it all
        full = quiet_fit(small("full", early_stopping=True, **options), X, y)
        kept.append(not full.w_[~np.eye(3, dtype=bool)].any())
        assert quiet_fit(small("full", **options), X, y).w_[~np.eye(3, dtype=bool)].any()
    assert any(kept)
    X, y, _ = oblique()  # and not where it can
    full = quiet_fit(small("full", early_stopping=True, **options), X, y)
    assert full.w_[~np.eye(3, dtype=bool)].any()


def oblique():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 3))
    return X, np.sin(2 * X @ [1.0, -1.0, 0.5]), None


@pytest.mark.parametrize(("gain", "is_better"), [(0.5, True), (0.05, False), (-0.5, False)])
def test_better_is_by_more_than_one_standard_error_of_the_paired_differences(gain, is_better):
    rows = SimpleNamespace(weights=torch.as_tensor(np.repeat([1.0, 2.0], 20)))
    rng = np.random.default_rng(0)
    simpler, weights = rng.uniform(1, 2, 40), np.repeat([1.0, 2.0], 20) / 60
    differences = rng.normal(size=40)
    differences += gain - weights @ differences
    standard_error = np.sqrt(weights**2 @ (differences - gain) ** 2)
    assert (gain > standard_error) == is_better
    errors = [torch.as_tensor(e) for e in (simpler - differences, simpler)]
    assert Validation(rows).is_better(*errors) == is_better


# --- stop and go on ---

RESUMED = {
    "lbfgs": ("diagonal", {"solver": "lbfgs", "w_init": [0.2, 0.9]}),
    "lbfgs-full": ("full", {"solver": "lbfgs", "w_init": 0.3}),
    "lbfgs-validated": ("full", {"solver": "lbfgs", "w_init": 0.3, "early_stopping": True}),
    "sgd": ("full", {"solver": "sgd", "w_init": 0.3}),
    "sgd-validated": ("diagonal", {"solver": "sgd", "w_init": 0.3, "early_stopping": True}),
    "adam": ("diagonal", {"solver": "adam", "w_init": 0.3, "batch_size": 16}),
    "mlp": (SMALL, {"batch_size": 16}),
    "mlp-validated": (SMALL, {"batch_size": 16, "early_stopping": True}),
    "module": (small_module(), {"batch_size": 16}),
}


@pytest.mark.parametrize(("metric", "options"), RESUMED.values(), ids=RESUMED.keys())
def test_going_on_is_as_not_having_stopped(metric, options):
    X, y = ring(60)
    whole = quiet_fit(small(metric, max_iter=6, **options), X, y)
    model = small(metric, max_iter=3, warm_start=True, **options)
    first = quiet_fit(model, X, y).loss_curve_
    model = pickle.loads(pickle.dumps(model))
    second = quiet_fit(model, X, y).loss_curve_
    np.testing.assert_allclose([*first, *second], whole.loss_curve_, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), whole.predict(X))
    assert model.best_loss_ == whole.best_loss_
    cold = quiet_fit(small(metric, max_iter=3, **options), X, y)
    assert quiet_fit(cold, X, y).loss_curve_ == first


@pytest.mark.parametrize("metric", ["diagonal", "full"])
def test_going_on_from_several_starts_is_as_not_having_stopped(metric):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(450, 3))
    y = np.sin(2 * X[:, 0] + X[:, 1]) + 0.1 * rng.normal(size=450)
    options = {"solver": "lbfgs", "n_starts": 3, "tol": 0.0}
    whole = quiet_fit(small(metric, max_iter=9, **options), X, y)
    model = small(metric, max_iter=4, warm_start=True, **options)
    first = quiet_fit(model, X, y).loss_curve_
    second = quiet_fit(model.set_params(max_iter=5), X, y).loss_curve_
    np.testing.assert_allclose([*first, *second], whole.loss_curve_, rtol=1e-12)
    assert model.best_loss_ == whole.best_loss_


def test_on_other_rows_a_warm_start_begins_at_the_last_weights():
    X, y = ring(60)
    model = quiet_fit(small(max_iter=5, warm_start=True), X, y)
    learned = model.metric_.parameters_["enter.weight"]
    model.set_params(max_iter=1, learning_rate_init=1e-12)
    quiet_fit(model, *ring(60, seed=3))
    np.testing.assert_allclose(model.metric_.parameters_["enter.weight"], learned, atol=1e-6)
    with pytest.raises(ValueError, match=r"goes on from w_, which has .* values"):
        model.set_params(metric="diagonal").fit(X, y)


# --- failure is loud ---


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_features_that_tell_nothing_are_told():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 2)), rng.normal(size=80)
    model = ParametricNWRegressor("scalar", w_init=1e-3, solver="sgd", max_iter=1)
    with pytest.warns(MetricWarning, match=r"collapsed.*Either no feature"):
        model.fit(X, y)


def test_worse_than_the_mean_is_told():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 2)), rng.normal(size=80)
    model = ParametricNWRegressor("scalar", w_init=3.0, solver="sgd", learning_rate_init=1e-9)
    with pytest.warns(MetricWarning, match=r"worse than the mean of y does.*features tell little"):
        model.fit(X, y)


def test_a_good_fit_is_not_doubted():
    X, y = ring(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ParametricNWRegressor().fit(X, y)
        ParametricNWRegressor().fit(X, np.ones(100))


# --- callbacks ---


class Listener:
    """A callback that stops training after some steps."""

    def __init__(self, stop_after=None):
        self.scores, self.stop_after, self.ended = [], stop_after, 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        self.ended += 1

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        if context.task_name == "step":
            self.scores.append(fitted_estimator.score(X, y))
        return len(self.scores) == self.stop_after


@pytest.mark.parametrize("metric", ["diagonal", "full", SMALL], ids=["diagonal", "full", "mlp"])
def test_callbacks_see_every_step_and_may_stop(metric):
    pytest.importorskip("sklearn.callback")
    X, y = ring(60)
    options = {"w_init": 0.3} if isinstance(metric, str) else {}
    plain = quiet_fit(small(metric, max_iter=5, **options), X, y)
    listener = Listener()
    heard = small(metric, max_iter=5, **options).set_callbacks(listener)
    quiet_fit(heard, X, y)
    assert len(listener.scores) == heard.n_iter_ == plain.n_iter_
    assert listener.ended == 1
    np.testing.assert_array_equal(heard.predict(X), plain.predict(X))
    stopping = small(metric, max_iter=5, **options).set_callbacks(Listener(stop_after=2))
    quiet_fit(stopping, X, y)
    assert stopping.n_iter_ == 2


def test_scoring_monitor_and_progress_bar():
    callbacks = pytest.importorskip("sklearn.callback")
    pd = pytest.importorskip("pandas")
    X, y = ring(50)
    monitor = callbacks.ScoringMonitor(scoring="r2")
    model = small("diagonal", max_iter=4, w_init=0.3).set_callbacks(monitor)
    quiet_fit(model, pd.DataFrame(X, columns=["a", "b"]), y)
    scores = [row["r2"] for row in monitor.get_logs().data if row["task_name"] == "step"]
    assert len(scores) == model.n_iter_
    assert scores[-1] == pytest.approx(model.score(pd.DataFrame(X, columns=["a", "b"]), y))


def test_each_start_has_patience_of_its_own():
    X, y = ring(300)
    options = {"solver": "lbfgs", "early_stopping": True, "n_iter_no_change": 3}
    lengths = [
        len(quiet_fit(small("full", n_starts=n, **options), X, y).validation_curve_) for n in (1, 2)
    ]
    assert lengths[1] > lengths[0] + 3


def test_whoever_says_stop_ends_every_start():
    asked = []

    def stops_at_two(step, loss, module):
        asked.append(step)
        return step == 2

    problem = SimpleNamespace(task=SimpleNamespace(unit=1.0), validation=None)
    steps = Steps.of(problem, Settings(50, 1e-8, None, 10, on_step=stops_at_two))
    assert [steps(step, 0.5, np.ones(1)) for step in (1, 2, 1)] == [False, True, True]
    assert asked == [1, 2]
