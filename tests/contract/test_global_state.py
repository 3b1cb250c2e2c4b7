"""What a call may not touch: the estimator, torch's and numpy's settings, devices."""

import contextlib
import functools
import random
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from contract import (
    BRIEF,
    EXPECTED_WARNINGS,
    METHODS_OF,
    MODELS,
    NAMES,
    answers,
    assert_same_answers,
    make_data,
    over,
)
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import (
    ConvergenceWarning,
)

from sknw import (
    DeviceWarning,
    EmptyNeighborhoodWarning,
    NadarayaWatsonRegressor,
    ParametricNWRegressor,
)

pytestmark = EXPECTED_WARNINGS


# --- state ---------------------------------------------------------------------------------------


@over(MODELS)
def test_asking_does_not_change_the_model(model, data, queries):
    fitted = clone(model).fit(*data)
    before, digest = vars(fitted).copy(), joblib.hash(fitted)
    answers(fitted, queries)
    fitted.score(*data)
    assert vars(fitted).keys() == before.keys()
    assert all(vars(fitted)[name] is value for name, value in before.items())
    assert joblib.hash(fitted) == digest


REFITS = {
    "bandwidth": (NadarayaWatsonRegressor(), {"bandwidth": 1.0}),
    "bandwidth-back": (NadarayaWatsonRegressor(1.0), {"bandwidth": "loo"}),
    "kernel": (NadarayaWatsonRegressor(), {"kernel": "exponential"}),
    "metric": (ParametricNWRegressor(n_starts=1), {"metric": "scalar"}),
    "solver": (ParametricNWRegressor(n_starts=1), {"solver": "sgd", "max_iter": 3}),
    "start": (ParametricNWRegressor(n_starts=1), {"bandwidth": 1.0, "w_init": 1.0}),
}


@pytest.mark.parametrize(("model", "change"), REFITS.values(), ids=REFITS.keys())
def test_a_second_fit_is_as_a_first(model, change, queries):
    refitted = clone(model).fit(pd.DataFrame(make_data()[0], columns=NAMES), make_data()[1])
    X, y = make_data(n=50, n_outputs=2, seed=3)
    refitted.set_params(**change).fit(X, y)
    fresh = clone(model).set_params(**change).fit(X, y)
    assert vars(refitted).keys() == vars(fresh).keys()
    assert_same_answers(refitted, fresh, queries)


@over(BRIEF)
def test_a_second_fit_takes_another_number_of_features(model, data):
    X, y = data
    fitted = clone(model).fit(X, y).fit(X[:, :1], y)
    assert fitted.n_features_in_ == 1
    assert fitted.predict(X[:, :1]).shape == y.shape


def test_a_fixed_bandwidth_leaves_no_criterion_of_an_earlier_search(data):
    model = NadarayaWatsonRegressor().fit(*data)
    assert hasattr(model, "criterion_")
    assert not hasattr(model.set_params(bandwidth=1.0).fit(*data), "criterion_")


@over(MODELS)
def test_threads_can_share_a_model(model, data, queries):
    fitted = clone(model).fit(*data)
    parts = [queries[i : i + 3] for i in range(12)] * 4
    expected = [fitted.predict(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fitted.predict, parts))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# --- global state of numpy and torch -------------------------------------------------------------


def global_state():
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "numpy": (name, keys.tobytes(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "random": random.getstate(),
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "printing": np.get_printoptions(),
        "errors": np.geterr(),
        "filters": list(warnings.filters),
    }


GLOBAL_STATE_MODELS = {
    **MODELS,
    "defaults": NadarayaWatsonRegressor(),
    "restarts": ParametricNWRegressor(n_starts=4, max_iter=2),
    "own generator": NadarayaWatsonRegressor(random_state=np.random.RandomState(0)),
}


@over(GLOBAL_STATE_MODELS)
def test_global_state_is_left_alone(model, queries):
    X, y = make_data(n=520)  # enough rows for a subsample to be drawn
    before = global_state()
    answers(clone(model).fit(X, y), queries)
    assert global_state() == before


@over(GLOBAL_STATE_MODELS)
def test_the_global_generators_have_no_say(model, queries):
    X, y = make_data(n=520)
    found = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        found.append(clone(model).fit(X, y).predict(queries))
    np.testing.assert_array_equal(*found)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "float64": lambda: default_dtype(torch.float64),
    "float32": lambda: default_dtype(torch.float32),
    "float16": lambda: default_dtype(torch.float16),
    "cpu": lambda: default_device("cpu"),
    # stands for any default device that is not where the model computes
    "another device": lambda: default_device("meta"),
    "another device in context": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "numpy raises": lambda: np.errstate(divide="raise", over="raise", invalid="raise"),
    "small working memory": lambda: config_context(working_memory=0.05),
}


# A model for each way that a fit goes meets every setting. The others meet those that break first
# where tensors are made without a word on dtype, device and gradient.
WAYS_TO_FIT = ["fixed", "loo", "neighbors", "diagonal", "scalar-sgd", "mlp"]
FIRST_TO_BREAK = ["inference mode", "float16", "another device"]


@pytest.fixture(scope="module")
def plain():
    """Return a function from the name of a model to the model, fitted with no setting changed."""
    return functools.cache(lambda name: clone(MODELS[name]).fit(*make_data()))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        (name, setting)
        for name in MODELS
        for setting in (SETTINGS if name in WAYS_TO_FIT else FIRST_TO_BREAK)
    ],
)
def test_torch_settings_do_not_change_answers(name, setting, plain, data, queries):
    model, plain = MODELS[name], plain(name)
    with SETTINGS[setting]():
        fitted = clone(model).fit(*data)
        found = answers(fitted, queries)
        found_of_plain = answers(plain, queries)
    expected = answers(plain, queries)
    # Adam's first steps are the signs of gradients, in float32: rounding of none may turn one round
    rtol, atol = (0.05, 0.02) if name == "mlp" else (1e-5, 1e-9)
    for method, value in expected.items():
        np.testing.assert_allclose(found_of_plain[method], value, rtol=1e-9, err_msg=method)
        np.testing.assert_allclose(found[method], value, rtol=rtol, atol=atol, err_msg=method)


@over({name: SETTINGS[name] for name in ("autocast", "float64", "float16")}, "setting")
def test_torch_settings_do_not_change_answers_in_float32(setting, queries):
    X, y = make_data(dtype=np.float32)
    fitted = NadarayaWatsonRegressor(bandwidth=0.8).fit(X, y)
    expected = answers(fitted, queries.astype(np.float32))
    with setting():
        found = answers(fitted, queries.astype(np.float32))
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


# --- devices and warnings ------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device must be absent")
@over({name: MODELS[name] for name in ("fixed", "diagonal")})
def test_a_model_of_an_absent_device_answers_on_the_cpu_with_one_warning(model, data, queries):
    fitted = clone(model).fit(*data)
    expected = answers(fitted, queries)
    fitted.device_ = "cuda"
    for name, ask in METHODS_OF[type(model)].items():
        with pytest.warns(DeviceWarning, match="fitted on 'cuda', which is not present") as caught:
            found = ask(fitted, queries)
        assert [w.category for w in caught] == [DeviceWarning], name
        np.testing.assert_array_equal(found, expected[name])
    assert fitted.device_ == "cuda"


def _absent_device(method):
    fitted = NadarayaWatsonRegressor(bandwidth=1.0).fit([[0.0], [1.0]], [0.0, 1.0])
    fitted.device_ = "cuda"
    return lambda: getattr(fitted, method)([[0.5]])


def _empty_neighborhood(method, *args):
    fitted = NadarayaWatsonRegressor(0.1, kernel="tophat").fit([[0.0], [1.0]], [0.0, 1.0])
    return lambda: getattr(fitted, method)(*args)


def _no_convergence(**parameters):
    X, y = make_data()
    return lambda: ParametricNWRegressor(max_iter=1, n_starts=1, **parameters).fit(X, y)


WARNINGS = {
    "empty-predict": (EmptyNeighborhoodWarning, _empty_neighborhood("predict", [[0.5]])),
    "empty-predict_loo": (EmptyNeighborhoodWarning, _empty_neighborhood("predict_loo")),
    "empty-attention": (EmptyNeighborhoodWarning, _empty_neighborhood("attention_weights")),
    "no-convergence-lbfgs": (ConvergenceWarning, _no_convergence()),
    "no-convergence-sgd": (ConvergenceWarning, _no_convergence(solver="sgd")),
    "device-predict": (DeviceWarning, _absent_device("predict")),
    "device-attention": (DeviceWarning, _absent_device("attention_weights")),
    "device-neighbors": (DeviceWarning, _absent_device("effective_neighbors")),
}


@pytest.mark.parametrize(("category", "call"), WARNINGS.values(), ids=WARNINGS.keys())
def test_a_warning_points_at_the_line_that_called(category, call):
    if category is DeviceWarning and torch.cuda.is_available():
        pytest.skip("the device is present")
    with pytest.warns(category) as caught:
        call()
    assert [w.filename for w in caught if w.category is category] == [__file__]
