"""Copies on disk and in memory, and the public face of a large model."""

import contextlib
import copy
import functools
import inspect
import io
import pickle
import random

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
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
from sklearn.base import clone
from sklearn.exceptions import (
    NotFittedError,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from sknw import NadarayaWatsonRegressor

pytestmark = EXPECTED_WARNINGS


# --- copies on disk and in memory ----------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def _folder_of_copies(tmp_path_factory):
    _joblib_copy.folder = tmp_path_factory.mktemp("copies")


def _joblib_copy(model, **how):
    path = _joblib_copy.folder / f"{random.getrandbits(64):x}.joblib"
    joblib.dump(model, path)
    return joblib.load(path, **how)


def _skops_copy(model):
    stored = skops.io.dumps(model)
    return skops.io.loads(stored, trusted=skops.io.get_untrusted_types(data=stored))


COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "oldest pickle": lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
    "joblib": _joblib_copy,
    "joblib-memmap": lambda model: _joblib_copy(model, mmap_mode="r"),
    "skops": _skops_copy,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "torch": lambda model: _torch_copy(model),
}


def _torch_copy(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def fitted(request):
    X, y = make_data()
    X = pd.DataFrame(X, columns=NAMES)
    return clone(request.param).fit(X, y, sample_weight=np.arange(len(X)) % 3)


@over(COPIES, "copied")
def test_a_copy_answers_as_the_original(fitted, copied, queries):
    again = copied(fitted)
    assert vars(again).keys() == vars(fitted).keys()
    assert repr(again) == repr(fitted)
    assert list(again.feature_names_in_) == NAMES
    assert_same_answers(again, fitted, pd.DataFrame(queries, columns=NAMES))


@functools.cache
def original(model):
    return clone(model).fit(*make_data())


@over(BRIEF)
@over(COPIES, "copied")
def test_a_copy_of_an_unfitted_model_can_be_fitted(model, copied, data, queries):
    assert_same_answers(copied(clone(model)).fit(*data), original(model), queries)


def test_skops_finds_nothing_untrusted_but_our_own_types(fitted):
    stored = skops.io.dumps(fitted)
    untrusted = skops.io.get_untrusted_types(data=stored)
    assert [name for name in untrusted if not name.startswith("sknw.")] == []


def test_a_fitted_model_holds_no_tensor(fitted):
    assert b"torch" not in pickle.dumps(fitted)


@over({**BRIEF, "fixed": NadarayaWatsonRegressor(bandwidth=1.0, kernel="tophat")})
def test_a_pickle_is_linear_in_the_number_of_rows(model, queries):
    sizes = []
    for n in (250, 1000):
        fitted = clone(model).fit(*make_data(n))
        answers(fitted, queries)
        with contextlib.suppress(AttributeError):
            _ = fitted.attention_weights_
        sizes.append(len(pickle.dumps(fitted)))
    assert sizes[1] < 4 * sizes[0]
    assert sizes[1] < 1000 * 3 * 8 * 5  # a few times X, in bytes


# --- the public face of a large model ------------------------------------------------------------


KERNEL_CALLS = []


def counted_gaussian(u):
    KERNEL_CALLS.append(len(u))
    return torch.exp(-u * u / 2)


@pytest.fixture(scope="module")
def large():
    return NadarayaWatsonRegressor(0.1, kernel=counted_gaussian).fit(*make_data(100_000))


@pytest.fixture
def no_sums(large):
    """Let a test fail that evaluates the kernel: for attention weights, or for any other sum."""
    KERNEL_CALLS.clear()
    yield
    assert KERNEL_CALLS == []
    large.predict(np.zeros((1, 3)))
    assert KERNEL_CALLS != []


FACES = {
    "dir": dir,
    "repr": repr,
    "getmembers": inspect.getmembers,
    "html": estimator_html_repr,
    "html-method": lambda model: model._repr_html_(),
    "hasattr": lambda model: hasattr(model, "attention_weights_"),
    "mimebundle": lambda model: model._repr_mimebundle_(),
}


@over(FACES, "look")
def test_looking_at_a_large_model_computes_nothing(look, large, no_sums):
    look(large)


@over(FACES, "look")
def test_looking_at_a_large_model_in_a_pipeline_computes_nothing(look, large, no_sums):
    look(Pipeline([("scale", StandardScaler()), ("model", large)]))


@over(FACES, "look")
@over(BRIEF)
def test_any_model_can_be_looked_at(model, look, data):
    look(clone(model))
    look(clone(model).fit(*data))


@over(BRIEF)
def test_html_names_the_model_and_its_parameters(model, data):
    html = clone(model).set_params(bandwidth="silverman").fit(*data)._repr_html_()
    assert type(model).__name__ in html
    assert "silverman" in html


def test_a_large_model_has_no_attention_weights_and_says_what_to_use(large, no_sums):
    assert not hasattr(large, "attention_weights_")
    with pytest.raises(AttributeError, match=r"2000 training rows; got 100000.*top_k"):
        _ = large.attention_weights_


@pytest.mark.parametrize(("n", "there"), [(2, True), (2000, True), (2001, False)])
def test_attention_weights_are_there_up_to_2000_rows(n, there):
    fitted = NadarayaWatsonRegressor(bandwidth=1.0).fit(*make_data(n))
    assert hasattr(fitted, "attention_weights_") is there


def test_attention_weights_are_those_of_leave_one_out(fitted, data):
    before = vars(fitted).copy()
    weights = fitted.attention_weights_
    np.testing.assert_array_equal(weights, fitted.attention_weights())
    np.testing.assert_allclose(weights @ data[1], fitted.predict_loo(), rtol=1e-9, atol=1e-12)
    assert vars(fitted) == before


@over(MODELS)
def test_an_unfitted_model_has_no_fitted_attribute(model):
    model = clone(model)
    assert not hasattr(model, "attention_weights_")
    assert [name for name in vars(model) if name.endswith("_")] == []
    for ask in METHODS_OF[type(model)].values():
        with pytest.raises(NotFittedError):
            ask(model, np.zeros((1, 3)))


def test_attention_weights_that_the_policy_refuses_are_not_there():
    model = NadarayaWatsonRegressor(0.1, kernel="tophat", empty_neighborhood="raise")
    fitted = model.fit([[0.0], [1.0]], [0.0, 1.0])
    assert not hasattr(fitted, "attention_weights_")
    fitted._repr_html_()
