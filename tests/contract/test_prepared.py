"""What predictions keep for each other, the report of the sums, and the choice of an algorithm."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from problems import problem
from sklearn.base import clone

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor, _prepared
from sknw.kernels import KERNELS
from sknw.sums import ALGORITHMS, PreparedSums
from sknw.sums.algorithms import choice
from sknw.support import tuning


def data(n=300, d=2, seed=0):
    X = np.random.default_rng(seed).uniform(size=(n, d))
    return X, np.sin(5 * X).sum(axis=1)


def count_preparations(monkeypatch):
    made = []
    original = PreparedSums.of.__func__

    def counted(cls, *arguments, **keywords):
        made.append(arguments)
        return original(cls, *arguments, **keywords)

    monkeypatch.setattr(PreparedSums, "of", classmethod(counted))
    return made


def test_the_keys_are_prepared_once_for_many_predictions(monkeypatch):
    X, y = data()
    model = NadarayaWatsonRegressor(0.1).fit(X, y)
    made = count_preparations(monkeypatch)
    for _ in range(3):
        model.predict(X)
    model.predict_loo()
    assert len(made) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel", "tricube"),
        ("algorithm", "blocks"),
        ("rtol", 1e-4),
        ("empty_neighborhood", "mean"),
    ],
)
def test_they_are_prepared_again_when_a_parameter_changes(monkeypatch, name, value):
    X, y = data()
    model = NadarayaWatsonRegressor(0.1).fit(X, y)
    model.predict(X)
    made = count_preparations(monkeypatch)
    setattr(model, name, value)
    changed = model.predict(X)
    assert len(made) == 1
    np.testing.assert_array_equal(changed, clone(model).fit(X, y).predict(X))


def test_they_are_prepared_again_after_a_fit_and_for_another_dtype_or_bandwidth(monkeypatch):
    X, y = data()
    model = NadarayaWatsonRegressor(0.1).fit(X, y)
    first = model.predict(X)
    np.testing.assert_allclose(model.fit(X, -y).predict(X), -first, rtol=0, atol=1e-13)
    model.bandwidth_ = 0.3
    np.testing.assert_array_equal(
        model.predict(X), NadarayaWatsonRegressor(0.3).fit(X, -y).predict(X)
    )
    single = NadarayaWatsonRegressor(0.1).fit(X.astype(np.float32), y)
    assert single.attention_weights(X.astype(np.float32)).dtype == np.float32
    assert single.attention_weights(X).dtype == np.float64


def test_a_learned_scale_that_changes_is_used():
    X, y = data()
    model = ParametricNWRegressor().fit(X, y)
    before = model.predict(X)
    model.metric_.parameters_["w"] = 3 * model.metric_.parameters_["w"]
    assert np.abs(model.predict(X) - before).max() > 1e-3


def test_nothing_of_it_is_in_the_estimator():
    X, y = data(2000)
    model = NadarayaWatsonRegressor(0.1).fit(X, y)
    attributes, size = set(vars(model)), len(pickle.dumps(model))
    model.predict(X)
    assert set(vars(model)) == attributes
    assert len(pickle.dumps(model)) == size
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert not hasattr(other, "sums_report_")
        np.testing.assert_array_equal(other.predict(X), model.predict(X))


def test_it_goes_with_the_estimator():
    X, y = data()
    model = NadarayaWatsonRegressor(0.1).fit(X, y)
    model.predict(X)
    smoother = weakref.ref(_prepared._smoothers[model._observations][1])
    del model
    gc.collect()
    assert smoother() is None


def test_the_report_tells_what_ran():
    X, y = data(1000)
    model = NadarayaWatsonRegressor(0.05, algorithm="dense").fit(X, y)
    with pytest.raises(AttributeError, match="call predict first"):
        _ = model.sums_report_
    model.predict(X[:10] + 50)
    report = model.sums_report_
    assert report == {
        "algorithm": "dense",
        "evaluator": "torch",
        "n_queries": 10,
        "n_keys": 1000,
        "share_of_pairs": 2.0,  # all were evaluated, and all again
        "rows_redone": 10,
        "audited_error": 0.0,
    }
    report["algorithm"] = "mine"
    assert model.sums_report_["algorithm"] == "dense"  # a copy was given
    model.set_params(algorithm="blocks").predict(X)
    assert model.sums_report_["algorithm"] == "blocks"
    assert 0 < model.sums_report_["share_of_pairs"] < 1
    model.predict_loo()
    assert model.sums_report_["n_queries"] == 1000


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({"n_queries": 100, "n_keys": 1000}, "dense"),
        ({"n_queries": 100, "n_keys": 1000, "keys": problem().keys * torch.nan}, "dense"),
        ({"kernel": KERNELS["tricube"]}, "blocks"),
        ({"dtype": torch.float32, "keys": problem().keys.float()}, "blocks"),
        ({"keys": problem().keys / 1e4, "dtype": torch.float32}, "dense"),
        ({}, "nufft"),
    ],
)
def test_auto_takes_what_should_be_fastest(changes, chosen):
    if chosen == "nufft":
        pytest.importorskip("finufft")
    assert choice.choose("auto", problem(**changes)).name == chosen


def test_what_is_prepared_already_counts_for_less():
    for name, algorithm in ALGORITHMS.items():
        if name == "nufft":
            pytest.importorskip("finufft")
        changes = {
            "n_queries": 1000,
            "kernel": KERNELS["tricube" if name == "sorted" else "gaussian"],
        }
        fresh = algorithm(1e-8).seconds(problem(**changes))
        again = algorithm(1e-8).seconds(problem(**changes, prepared=(name,)))
        assert again <= fresh


def test_few_pairs_are_chosen_for_without_a_look_at_them():
    assert choice.choose("auto", problem(n_queries=10, keys=None)).name == "dense"
    with pytest.raises(TypeError, match="NoneType"):  # of more pairs, keys are looked at
        choice.choose("auto", problem(keys=None))


def test_the_choice_is_made_once_for_like_predictions():
    X, y = data(3000)
    model = NadarayaWatsonRegressor(0.1).fit(X, y)
    model.predict(X)
    with tuning.override(FEWEST_PAIRS_FOR_A_CHOICE=None):  # another choice would fail
        model.predict(X)
