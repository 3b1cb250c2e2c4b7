"""Fits publish at once, questions see one state and change none, pickles say their version."""

import copy
import io
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import sklearn
import torch
from contract import BRIEF, EXPECTED_WARNINGS, METHODS_OF, MODELS, answers, make_data, over
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sknw
from sknw import (
    BandwidthSearch,
    NadarayaWatsonRegressor,
    NeighborBandwidth,
    ParametricNWRegressor,
    VersionWarning,
)
from sknw import _base as base
from sknw.metrics import MlpMetric
from sknw.support import tuning

pytestmark = EXPECTED_WARNINGS
QUESTIONS = {
    NadarayaWatsonRegressor: {
        **METHODS_OF[NadarayaWatsonRegressor],
        "aitchison_aitken": lambda model, X: model.aitchison_aitken(),
    },
    ParametricNWRegressor: {
        **METHODS_OF[ParametricNWRegressor],
        "components_": lambda model, X: model.components_,
    },
}
SHARED = {
    "score": lambda model, X: model.score(X, X[:, 0]),
    "attention_weights_": lambda model, X: model.attention_weights_,
}


def questions_of(model):
    questions = {**QUESTIONS[type(model)], **SHARED}
    if isinstance(getattr(model, "metric", None), MlpMetric):
        del questions["components_"]
    return questions


def other_data():
    """Of another size and scale, so that halves of two fits give another answer or an error."""
    X, y = make_data(n=45, seed=7)
    return 3 * X + 1, 100 * y - 50


SHORT = {"w_init": 1.0, "bandwidth": 1.0, "max_iter": 2, "n_starts": 1}
SHORT_FITS = {
    "fixed": MODELS["fixed"],
    "loo": NadarayaWatsonRegressor(BandwidthSearch(per_feature=False)),
    "neighbors": MODELS["neighbors"],
    "diagonal": ParametricNWRegressor(**SHORT),
    "full": ParametricNWRegressor("full", **SHORT),
}


@pytest.fixture(autouse=True)
def short_refinements():
    """Searches without gradients look where they would, but not for long."""
    with tuning.override(REFINEMENT_PAIRS=1e5):
        yield


@over(SHORT_FITS)
def test_a_question_sees_the_state_in_which_it_was_asked(model, data, queries, monkeypatch):
    once = clone(model).fit(*data)
    for name, ask in questions_of(model).items():
        fitted = copy.deepcopy(once)
        expected = ask(fitted, queries)
        check, refits = base.check_is_fitted, []

        def refit_then_check(estimator, fitted=fitted, check=check, refits=refits):
            if not refits:  # as another thread might, just after the question came
                refits.append("begun")  # a fit itself may ask the same
                fitted.fit(*other_data())
            return check(estimator)

        for module in ("sknw._base", "sknw.parametric", "sknw.nadaraya_watson"):
            monkeypatch.setattr(f"{module}.check_is_fitted", refit_then_check)
        found = ask(fitted, queries)
        monkeypatch.undo()
        assert refits, name
        np.testing.assert_array_equal(found, expected, err_msg=name)


class WatchedKernel:
    """A Gaussian that does something at one of its calls."""

    def __init__(self):
        self.calls, self.at, self.act = 0, None, None

    def __deepcopy__(self, memo):  # the kernel of every clone
        return self

    def __call__(self, u):
        self.calls += 1
        if self.at is not None and self.calls >= self.at:
            self.at = None
            self.act()
        return torch.exp(-u * u / 2)

    def calls_of(self, fit):
        before = self.calls
        fit()
        return self.calls - before

    def do(self, act, after):
        """Do this at one call: the first, if ``after`` is one."""
        self.at, self.act = self.calls + after, act


def watched(model, data):
    """Return a fitted model, its kernel, and some of the kernel's calls in a fit on other data."""
    kernel = WatchedKernel()
    fitted = clone(model).set_params(kernel=kernel).fit(*data)
    n_calls = kernel.calls_of(lambda: clone(fitted).fit(*other_data()))
    return fitted, kernel, sorted({1, n_calls // 2, int(0.95 * n_calls)})


@over(SHORT_FITS)
def test_during_a_fit_all_is_as_before(model, data, queries):
    fitted, kernel, moments = watched(model, data)
    of_callbacks = {"_callback_fit_ctx", "_skl_callbacks_to_teardown"}  # set by scikit-learn
    for moment in moments:
        fitted.fit(*data)
        expected, before, seen = answers(fitted, queries), vars(fitted).copy(), []

        def look(seen=seen):
            seen.append(vars(fitted).copy())
            seen.append(answers(fitted, queries))

        with ThreadPoolExecutor(1) as thread:
            kernel.do(lambda look=look: thread.submit(look).result(), after=moment)
            fitted.fit(*other_data())
        assert seen[0].keys() - of_callbacks == before.keys()
        assert all(seen[0][name] is value for name, value in before.items())
        for name, value in expected.items():
            np.testing.assert_array_equal(seen[1][name], value, err_msg=name)
    fresh = answers(clone(fitted).fit(*other_data()), queries)
    for name, value in answers(fitted, queries).items():
        np.testing.assert_array_equal(value, fresh[name], err_msg=name)


@over(SHORT_FITS)
def test_a_fit_that_fails_midway_changes_nothing(model, data, queries):
    fitted, kernel, moments = watched(model, data)
    expected, before = answers(fitted, queries), vars(fitted).copy()

    def fails():
        raise MemoryError("no memory left")

    for moment in moments:
        kernel.do(fails, after=moment)
        with pytest.raises(MemoryError, match="no memory left"):
            fitted.fit(*other_data())
        assert vars(fitted).keys() == before.keys()
        assert all(vars(fitted)[name] is value for name, value in before.items())
    for name, value in answers(fitted, queries).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@over({"fixed": MODELS["fixed"], "diagonal": ParametricNWRegressor(n_starts=1, max_iter=2)})
def test_predictions_while_another_thread_fits(model, queries):
    sets = [make_data(), other_data()]
    fitted = clone(model).fit(*sets[0])
    expected = [clone(model).fit(*each).predict(queries) for each in sets]
    done, found = threading.Event(), []

    def predict():
        while not done.wait(0.001):  # or the two threads would mostly wait for the interpreter
            found.append(fitted.predict(queries))

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for k in range(6):
            fitted.fit(*sets[(k + 1) % 2])
    finally:
        done.set()
        thread.join()
    assert found
    for one in found:
        assert any(np.array_equal(one, each) for each in expected)


@over(MODELS)
def test_questions_write_nothing(model, data, queries):
    fitted = clone(model).fit(*data)
    before = vars(fitted).copy()
    for name, ask in questions_of(model).items():
        ask(fitted, queries)
        assert vars(fitted).keys() == before.keys(), name
        assert all(vars(fitted)[key] is value for key, value in before.items()), name


def test_parameters_set_during_a_fit_stay(data):
    kernel = WatchedKernel()
    model = NadarayaWatsonRegressor(1.0, kernel=kernel)
    kernel.do(lambda: model.set_params(rtol=1e-5), after=1)
    assert model.fit(*data).rtol == 1e-5


def test_the_report_of_sums_is_of_the_latest_prediction_in_this_thread(data, queries):
    model = NadarayaWatsonRegressor(1.0).fit(*data)
    model.predict(queries[:5])
    reports = []

    def predict():
        reports.append(hasattr(model, "sums_report_"))
        model.predict(queries[:3])
        reports.append(model.sums_report_["n_queries"])

    thread = threading.Thread(target=predict)
    thread.start()
    thread.join()
    assert reports == [False, 3]
    assert model.sums_report_["n_queries"] == 5
    model.fit(*data)
    with pytest.raises(AttributeError, match="by this object in this thread; call predict first"):
        _ = model.sums_report_


# --- versions in pickles ---


def joblib_dumps(model):
    with io.BytesIO() as file:
        joblib.dump(model, file)
        return file.getvalue()


def skops_dumps(model):
    return pytest.importorskip("skops.io").dumps(model)


def skops_loads(saved):
    sio = pytest.importorskip("skops.io")
    return sio.loads(saved, trusted=sio.get_untrusted_types(data=saved))


WAYS = {
    "pickle": (pickle.dumps, pickle.loads),
    "joblib": (joblib_dumps, lambda saved: joblib.load(io.BytesIO(saved))),
    "skops": (skops_dumps, skops_loads),
}


@pytest.fixture
def saved_by(monkeypatch):
    """Return a function that saves a model as another version of sknw would."""

    def save_by(version, save, model):
        with monkeypatch.context() as patch:
            patch.setattr("sknw._pickling.__version__", version)
            return save(model)

    return save_by


@over(WAYS, "way")
@over({**BRIEF, "not fitted": NadarayaWatsonRegressor(NeighborBandwidth(3))})
def test_a_model_of_another_version_warns(model, way, data, saved_by):
    save, load = way
    saved_model = clone(model)
    if not isinstance(model.bandwidth, NeighborBandwidth):
        saved_model.fit(*data)
    assert type(load(save(saved_model))) is type(model)  # a warning would be an error
    saved = saved_by("0.0.7", save, saved_model)
    message = rf"saved by sknw 0\.0\.7 and is loaded by {sknw.__version__}: it may fail"
    with pytest.warns(VersionWarning, match=message) as caught:
        loaded = load(saved)
    assert len(caught) == 1
    assert vars(loaded).keys() == vars(saved_model).keys()


def test_a_pickle_without_a_version_warns(data):
    model = NadarayaWatsonRegressor(1.0).fit(*data)
    state = model.__getstate__()
    state.pop("_sknw_version")
    with pytest.warns(VersionWarning, match="saved by sknw unknown"):
        NadarayaWatsonRegressor().__setstate__(state)


def test_copies_and_clones_do_not_warn(data, queries, saved_by):
    model = ParametricNWRegressor("scalar", n_starts=1).fit(*data)
    for copied in (copy.copy, copy.deepcopy):
        other = saved_by("9.9", copied, model)
        np.testing.assert_array_equal(other.predict(queries), model.predict(queries))
        assert vars(other).keys() == vars(model).keys()
    clone(model)


def test_both_versions_are_checked_in_a_pipeline(data, saved_by, monkeypatch):
    model = make_pipeline(StandardScaler(), NadarayaWatsonRegressor(1.0)).fit(*data)
    with monkeypatch.context() as patch:
        patch.setattr(sklearn.base, "__version__", "0.1")
        saved = saved_by("0.0.7", pickle.dumps, model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pickle.loads(saved)
    kinds = [warning.category for warning in caught]
    assert kinds.count(VersionWarning) == 1
    assert InconsistentVersionWarning in kinds


def test_the_version_is_the_distribution_s():
    tomllib = pytest.importorskip("tomllib")
    from pathlib import Path

    project = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == sknw.__version__
