"""Torch modules as metrics: what is learned, what is kept, and draws that are nobody else's."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
import torch
from contract import METHODS_OF, MODELS, over
from sklearn.base import clone
from torch import nn

from sknw import ParametricNWRegressor
from sknw.metrics import MlpMetric, ModuleMetric
from sknw.support.random import NoDraws, OwnDraws
from sknw.training import SOLVERS

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sknw.MetricWarning"),
    pytest.mark.filterwarnings("ignore::sknw.support.warnings.EmptyNeighborhoodWarning"),
]


def rows(n=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) * [1, 5, 5] + [0, 3, -2]
    return X, np.sin(2 * X[:, 0])


def seeded(make):
    """Return what `make` makes, its draws from a generator of its own."""
    with OwnDraws(0):
        return make()


def network(*between, dtype=torch.float32):
    return seeded(lambda: nn.Sequential(nn.Linear(3, 6), *between, nn.Linear(6, 2)).to(dtype))


def fitted(module, X, y, **options):
    options = {"max_iter": 4, "n_starts": 1, "tol": 1e-2, **options}
    return ParametricNWRegressor(module, **options).fit(X, y)


def embedding_by_hand(model, module, X):
    """Return the stored module's embedding in evaluation mode, as torch itself computes it."""
    stored = {name: torch.as_tensor(value) for name, value in model.metric_.parameters_.items()}
    module = copy.deepcopy(module).double().eval()
    own = {name.removeprefix("module."): value for name, value in stored.items()}
    own.pop("log_scale")
    module.load_state_dict(own, strict=False)  # a tied parameter is stored under one name
    centred = torch.as_tensor((X - np.median(X, axis=0)) / model.bandwidth_)
    with torch.no_grad():
        return (torch.exp(stored["log_scale"]) * module(centred)).numpy()


# --- buffers ---


def test_statistics_of_a_normalisation_are_kept_and_used():
    X, y = rows()
    net = network(nn.BatchNorm1d(6), nn.Tanh())
    model = fitted(net, X, y)
    kept = model.metric_.parameters_
    assert kept["module.1.num_batches_tracked"] == model.n_iter_
    assert kept["module.1.num_batches_tracked"].dtype == np.int64
    assert np.abs(kept["module.1.running_mean"]).max() > 1e-3
    assert all(type(value) is np.ndarray for value in kept.values())
    Z = embedding_by_hand(model, net, X)
    np.testing.assert_allclose(model.transform(X), Z, rtol=1e-9)
    assert model.best_loss_ == pytest.approx(reference.loo_loss("gaussian", Z, y, 1.0), rel=1e-7)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert not net[1].running_mean.any()  # the user's own module stays as it was


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}], ids=["all", "validated"])
def test_going_on_takes_the_statistics_along(options):
    X, y = rows()
    net = network(nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2))
    options = {"batch_size": 20, **options}
    whole = fitted(net, X, y, max_iter=6, **options)
    model = ParametricNWRegressor(net, max_iter=3, warm_start=True, **options).fit(X, y)
    model = pickle.loads(pickle.dumps(model)).fit(X, y)
    for name, value in whole.metric_.parameters_.items():
        np.testing.assert_array_equal(model.metric_.parameters_[name], value, err_msg=name)
    assert model.best_loss_ == whole.best_loss_


def test_the_best_of_several_starts_has_its_own_statistics():
    X, y = rows()
    net = network(nn.BatchNorm1d(6), nn.Tanh())
    model = fitted(net, X, y, n_starts=3)
    assert model.metric_.parameters_["module.1.num_batches_tracked"] == model.n_iter_
    loss = reference.loo_loss("gaussian", embedding_by_hand(model, net, X), y, 1.0)
    assert model.best_loss_ == pytest.approx(loss, rel=1e-7)


def test_statistics_on_other_rows_begin_where_the_last_fit_left_them():
    X, y = rows()
    net = network(nn.BatchNorm1d(6))
    model = ParametricNWRegressor(net, max_iter=3, warm_start=True).fit(X, y)
    model.set_params(max_iter=2).fit(*rows(seed=1))
    assert model.metric_.parameters_["module.1.num_batches_tracked"] == 3 + 2


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_full_batch_solvers_leave_statistics(solver):
    X, y = rows()
    net = network(nn.BatchNorm1d(6), nn.Dropout(0.5))
    net[1].running_mean += 0.3
    model = fitted(net, X, y, solver=solver)
    np.testing.assert_array_equal(
        model.metric_.parameters_["module.1.running_mean"], np.full(6, 0.3, np.float32)
    )
    assert np.isfinite(model.best_loss_)
    np.testing.assert_allclose(model.transform(X), embedding_by_hand(model, net, X), rtol=1e-9)


def test_parts_in_evaluation_mode_stay_in_it():
    X, y = rows()
    net = network(nn.BatchNorm1d(6), nn.Tanh())
    net[1].eval()
    kept = fitted(net, X, y).metric_.parameters_
    assert not kept["module.1.running_mean"].any()
    assert not net[1].training
    assert net[0].training
    moved = fitted(net.eval(), X, y).metric_.parameters_  # a whole in it is only trained
    assert moved["module.1.running_mean"].any()


class Counting(nn.Module):
    """A module with an integer buffer, a large constant one and one that is not saved."""

    def __init__(self):
        super().__init__()
        self.linear = seeded(lambda: nn.Linear(3, 2))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("large", torch.tensor(2**53 + 1))
        self.register_buffer("total", torch.zeros(()), persistent=False)

    def forward(self, u):
        if self.training:
            self.steps += 1
            self.total += 1
        return self.linear(u) + self.total * u[:, :2]


def test_integer_and_unsaved_buffers_are_kept():
    X, y = rows()
    model = fitted(Counting(), X.astype(np.float32), y, batch_size=60)
    kept = model.metric_.parameters_
    assert kept["module.steps"] == kept["module.total"] == 4
    module = model.metric_.load(3, dtype=torch.float32, device="cpu")
    assert module.module.large == 2**53 + 1
    assert module.module.steps == module.module.total == 4


# --- what is learned ---


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_frozen_parameters_stay(solver, alpha):
    X, y = rows()
    net = network(nn.Tanh())
    net[0].requires_grad_(False)
    model = fitted(net, X, y, solver=solver, alpha=alpha)
    kept = model.metric_.parameters_
    for name in ("weight", "bias"):
        np.testing.assert_array_equal(kept[f"module.0.{name}"], getattr(net[0], name).numpy())
    assert np.abs(kept["module.2.weight"] - net[2].weight.detach().numpy()).max() > 1e-6
    assert model.metric_.parameter_names_ == ["log_scale", "module.2.weight", "module.2.bias"]
    np.testing.assert_allclose(model.transform(X), embedding_by_hand(model, net, X), rtol=1e-9)


def test_frozen_parameters_are_not_penalised():
    X, y = rows()
    found = []
    for size in (1.0, 1e6):  # of a frozen parameter that does nothing
        net = network(nn.Tanh())
        net.register_parameter("idle", nn.Parameter(torch.full((5,), size), requires_grad=False))
        found.append(fitted(net, X, y, solver="lbfgs", alpha=1e-3).predict(X))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_with_all_parameters_frozen_only_the_scale_is_learned(solver):
    X, y = rows()
    for module in (network(nn.Tanh()).requires_grad_(False), nn.Identity()):
        model = fitted(module, X, y, solver=solver)
        assert model.metric_.parameter_names_ == ["log_scale"]
        Z = embedding_by_hand(model, module, X)
        np.testing.assert_allclose(model.transform(X), Z, rtol=1e-9, atol=1e-12)


def test_a_metric_with_nothing_to_learn_is_refused():
    class Frozen(ModuleMetric):
        def build(self, n_columns, n_components):
            return super().build(n_columns, n_components).requires_grad_(False)

    with pytest.raises(ValueError, match="Frozen must have parameters to learn; got none"):
        fitted(Frozen(network()), *rows())


def test_freezing_between_two_fits_begins_anew():
    X, y = rows()
    net = network(nn.Tanh())
    model = ParametricNWRegressor(net, max_iter=2, warm_start=True).fit(X, y)
    net[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"goes on from w_, which has .* learned now"):
        model.fit(X, y)
    net[0].requires_grad_(True)
    with torch.no_grad():
        net[0].weight += 1  # another module: a start at the last weights, not going on
    assert model.set_params(learning_rate_init=1e-12).fit(X, y).n_iter_ == 2


def test_tied_parameters_stay_tied():
    X, y = rows()
    net = seeded(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)))
    net[2].weight = net[0].weight
    model = fitted(net, X, y, batch_size=20)
    module = model.metric_.load(3, dtype=torch.float64, device="cpu").module
    assert module[2].weight is module[0].weight
    assert not torch.equal(module[0].weight.float(), net[0].weight)
    np.testing.assert_allclose(model.transform(X), embedding_by_hand(model, net, X), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_modules_of_any_precision(dtype, precision):
    X, y = rows()
    model = fitted(network(nn.BatchNorm1d(6), dtype=dtype), X.astype(precision), y, max_iter=2)
    assert np.isfinite(model.best_loss_)
    assert model.transform(X.astype(precision)).dtype == precision


@pytest.mark.parametrize(
    "wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_parametrized_modules(wrap):
    X, y = rows()
    net = seeded(lambda: nn.Sequential(wrap(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)))
    model = fitted(net, X, y, batch_size=20)
    np.testing.assert_allclose(model.transform(X), embedding_by_hand(model, net, X), rtol=1e-7)


class Giving(nn.Module):
    """A module that gives what a function makes of its output."""

    def __init__(self, make):
        super().__init__()
        self.linear = seeded(lambda: nn.Linear(3, 2))
        self.make = make

    def forward(self, u):
        return self.make(self.linear(u))


def _with_nan():
    net = network()
    with torch.no_grad():
        net[0].weight[0, 0] = torch.nan
    return net


REFUSED = {
    "flat": (lambda: Giving(lambda z: z[:, 0]), r"must map .* it mapped \(2, 3\) to \(2,\)"),
    "nothing": (lambda: Giving(lambda z: z[:, :0]), r"it mapped \(2, 3\) to \(2, 0\)"),
    "tuple": (
        lambda: Giving(lambda z: (z, z)),
        "must return one tensor of real numbers; got tuple",
    ),
    "dict": (lambda: Giving(lambda z: {"z": z}), "real numbers; got dict"),
    "integers": (lambda: Giving(lambda z: z.long()), "real numbers; got torch.int64"),
    "complex": (lambda: Giving(lambda z: z * 1j), "real numbers; got torch.complex128"),
    "complex weights": (lambda: nn.Linear(3, 2, dtype=torch.complex64), "weight is complex"),
    "lazy": (lambda: nn.LazyLinear(2), "must know its sizes; weight has none yet. Give the module"),
    "meta": (lambda: nn.Linear(3, 2, device="meta"), "weight is on device 'meta'"),
    "NaN": (_with_nan, "must be finite; 0.weight has values that are not"),
    "raising": (lambda: Giving(lambda z: z["column"]), "columns in float64; it raised"),
    "not finite": (lambda: Giving(lambda z: z / 0), "gave values that are not finite"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_modules_that_cannot_be_metrics_are_refused(make, message):
    module = seeded(make) if make is not REFUSED["lazy"][0] else make()
    with pytest.raises(ValueError, match=message):
        fitted(module, *rows())


def test_a_module_that_cannot_be_copied_is_refused():
    class Own(nn.Module):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

        def forward(self, u):
            return u

    with pytest.raises(ValueError, match=r"that copy\.deepcopy can copy; it raised: no"):
        fitted(Own(), *rows())


def test_hooks_are_taken_along():
    X, y = rows()
    net = network()
    net.register_forward_hook(lambda module, inputs, output: 2 * output)
    plain = fitted(network(), X, y, learning_rate_init=1e-30, max_iter=1)
    hooked = fitted(net, X, y, learning_rate_init=1e-30, max_iter=1)
    scales = [m.metric_.parameters_["log_scale"] for m in (plain, hooked)]
    assert scales[0] != scales[1]
    np.testing.assert_allclose(
        hooked.transform(X), plain.transform(X) * np.exp(scales[1] - scales[0]) * 2, rtol=1e-5
    )


# --- half precision of the caller ---

CAST = {
    "full-adam": ParametricNWRegressor("full", solver="adam", n_starts=1, max_iter=3),
    "full-sgd": ParametricNWRegressor("full", solver="sgd", n_starts=1, max_iter=3),
    "mlp": ParametricNWRegressor(MlpMetric(8, 8, n_bins=4), n_starts=1, tol=1e-2, max_iter=3),
    "module": ParametricNWRegressor(network(nn.BatchNorm1d(6), nn.Dropout(0.1)), max_iter=3),
    "module-lbfgs": ParametricNWRegressor(network(nn.Tanh()), solver="lbfgs", max_iter=3),
    "validated": ParametricNWRegressor("full", early_stopping=True, n_starts=1, max_iter=3),
}


@over(CAST)
def test_automatic_casting_changes_nothing(model, data, queries):
    plain = clone(model).fit(*data)
    expected = [ask(plain, queries) for ask in METHODS_OF[ParametricNWRegressor].values()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = clone(model).fit(*data)
        found = [ask(cast, queries) for ask in METHODS_OF[ParametricNWRegressor].values()]
        assert torch.is_autocast_enabled("cpu")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert cast.best_loss_ == plain.best_loss_


# --- draws ---


class Drawing(nn.Module):
    """A module that draws wherever it can, and notes torch's global state meanwhile."""

    def __init__(self):
        super().__init__()
        self.linear = seeded(lambda: nn.Linear(3, 2))

    def forward(self, u):
        z = nn.functional.dropout(self.linear(u), 0.1, training=self.training)
        STATES.add(state())
        return nn.functional.rrelu(z, training=self.training) + 1e-3 * torch.randn(2)


STATES = set()
DRAWING = {
    **MODELS,
    "module": ParametricNWRegressor(Drawing(), max_iter=2),
    "dropout": ParametricNWRegressor(network(nn.Dropout(0.3)), max_iter=2, early_stopping=True),
}


def state():
    return torch.get_rng_state().numpy().tobytes()


def test_a_module_sees_the_global_generator_untouched(data, queries):
    STATES.clear()
    before = state()
    model = clone(DRAWING["module"]).fit(*data)
    found = [ask(model, queries) for ask in METHODS_OF[ParametricNWRegressor].values()]
    again = clone(DRAWING["module"]).fit(*data)
    assert {before} == STATES
    assert state() == before
    for one, ask in zip(found, METHODS_OF[ParametricNWRegressor].values(), strict=True):
        np.testing.assert_array_equal(ask(model, queries), one)
        np.testing.assert_array_equal(ask(again, queries), one)


@over(DRAWING)
def test_nothing_sets_the_global_generators(model, data, queries, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("the global generator was set")

    for name in ("set_rng_state", "manual_seed", "seed", "fork_rng"):
        monkeypatch.setattr(torch.random, name, forbidden)
        monkeypatch.setattr(torch, name, forbidden, raising=False)
    for name in ("seed", "set_state"):
        monkeypatch.setattr(np.random, name, forbidden)
    fitted = clone(model).fit(*data)
    for ask in METHODS_OF[type(model)].values():
        before = state()
        ask(fitted, queries)
        assert state() == before
    fitted.score(*data)


@over({name: DRAWING[name] for name in ("mlp", "dropout", "loo")})
def test_another_thread_never_sees_the_global_generator_move(model, data, queries):
    before, seen, done = state(), [], threading.Event()

    def watch():
        while not done.is_set():
            seen.append(state() == before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        fitted = clone(model).fit(*data)
        for ask in METHODS_OF[type(model)].values():
            ask(fitted, queries)
    finally:
        done.set()
        watcher.join()
    assert len(seen) > 10
    assert all(seen)


@over({name: DRAWING[name] for name in ("mlp", "dropout")})
def test_fits_in_threads_are_as_one_after_the_other(model, data, queries):
    alone = clone(model).fit(*data).predict(queries)
    with ThreadPoolExecutor(2) as pool:
        fits = [pool.submit(lambda: clone(model).fit(*data).predict(queries)) for _ in range(4)]
    for each in fits:
        np.testing.assert_array_equal(each.result(), alone)


FUNCTIONAL = {
    "dropout": lambda x: nn.functional.dropout(x, 0.5),
    "native dropout": lambda x: torch.native_dropout(x, 0.5, True)[0],
    "no native dropout": lambda x: torch.native_dropout(x, 0.5, False)[0] + torch.rand(1),
    "alpha dropout": lambda x: nn.functional.alpha_dropout(x, 0.5, training=True),
    "rrelu": lambda x: nn.functional.rrelu(x, training=True),
    "gumbel": nn.functional.gumbel_softmax,
    "attention": lambda x: nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    "LSTM": lambda x: nn.LSTM(3, 3, 2, dropout=0.5)(x)[0],
    "linear": lambda x: nn.Linear(3, 3).weight,
    "orthogonal": lambda x: nn.init.orthogonal_(torch.empty(3, 3)),
    "normal": lambda x: torch.normal(0.0, 1.0, (3,)),
    "permutation": lambda x: torch.randperm(50),
    "integers": lambda x: torch.randint(0, 9, (50,)),
    "choice": lambda x: torch.multinomial(torch.ones(50), 20),
}


@over(FUNCTIONAL, "draw")
@pytest.mark.parametrize("context", [torch.enable_grad, torch.inference_mode])
def test_own_draws_are_those_of_a_seed_and_move_nothing(draw, context):
    x = torch.linspace(-1, 1, 30).reshape(1, 10, 3)
    before = state()
    with context():
        found = []
        for seed in (5, 5, 6):
            with OwnDraws(seed):
                found.append(draw(x))
        assert state() == before
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            expected = draw(x)
    assert torch.equal(found[0], found[1])
    if context is torch.enable_grad:  # else torch may have a fused way of its own
        assert torch.equal(found[0], expected)  # the global generator's stream of that seed
    assert not torch.equal(found[0], found[2])


def test_a_generator_of_the_module_s_own_is_left_to_it():
    def draw():
        return torch.rand(3, generator=torch.Generator().manual_seed(1))

    with OwnDraws(0):
        assert torch.equal(draw(), draw())
        own = draw()
    assert torch.equal(own, draw())


def test_own_draws_go_on_and_loading_draws_nothing():
    draws = OwnDraws(0)
    with draws:
        first = torch.rand(3)
    with draws:
        second = torch.rand(3)
    assert not torch.equal(first, second)
    ones = torch.ones(3)
    with NoDraws():
        assert ones.normal_() is ones
    assert torch.equal(ones, torch.ones(3))
