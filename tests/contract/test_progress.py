"""What a fit tells while it runs: lines with `verbose=1`, and scikit-learn's callbacks."""

import io
import re
import threading
import warnings
from collections import Counter
from contextlib import redirect_stdout

import numpy as np
import pytest
from contract import EXPECTED_WARNINGS, MODELS, make_data, over
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknw import (
    BandwidthSearch,
    MetricWarning,
    NadarayaWatsonRegressor,
    NeighborBandwidth,
    ParametricNWRegressor,
)
from sknw.bandwidth import FixedWindows, Selection, Selector
from sknw.support import tuning

pytestmark = EXPECTED_WARNINGS
TOLD = {name: MODELS[name] for name in ("fixed", "loo", "search", "neighbors", "diagonal", "mlp")}


def lines_of(model, X, y):
    out = io.StringIO()
    with redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", MetricWarning)
        model.fit(X, y)
    return out.getvalue().splitlines()


# --- lines ---------------------------------------------------------------------------------------


def test_a_search_tells_its_stages():
    X, y = make_data(500)
    lines = lines_of(NadarayaWatsonRegressor(verbose=1), X, y)
    assert lines[0] == "bandwidth search by 'loo': 3 parameters, 500 observations"
    stages = ["scan of 400 observations", "start 1 of", "start 2 of", "descent 1 of", "look around"]
    # the last line of a stage: where it takes long, others say so before
    places = [max(i for i, line in enumerate(lines) if line.startswith(name)) for name in stages]
    assert places == sorted(places)
    assert any(line.startswith("bandwidth [") for line in lines)
    assert re.search(r": \d+ evaluations?, lowest 0\.\d+, \d+\.\d s$", lines[places[0]])
    assert re.match(r"start 1 of \d on a subsample: \d+ steps, \d+ ev", lines[places[1]])


def test_lowest_is_the_criterion_in_units_of_y():
    X, y = make_data(100)
    model = NadarayaWatsonRegressor(verbose=1)
    lines = lines_of(model, X, 1000 * y)
    lowest = [float(line.split("lowest ")[1].split(",")[0]) for line in lines if "lowest" in line]
    assert lowest[-1] == pytest.approx(model.criterion_, rel=1e-5)


def test_a_sampled_search_says_of_which_rows():
    X, y = make_data(300)
    model = NadarayaWatsonRegressor(BandwidthSearch(n_held_out=50), verbose=1)
    out = "\n".join(lines_of(model, X, y))
    assert "\nscan of 300 observations" in out
    assert re.search(r"\ndescent 1 of \d on a sample: ", out)


def test_neighbors_tell_their_scan():
    X, y = make_data(60)
    lines = lines_of(NadarayaWatsonRegressor(NeighborBandwidth(), verbose=1), X, y)
    assert lines[-2].startswith("scan of numbers of neighbours: ")
    assert lines[-1].startswith("n_neighbors ")


def test_training_tells_the_simpler_metrics_too():
    X, y = make_data(80)
    lines = lines_of(ParametricNWRegressor("full", max_iter=3, verbose=1), X, y)
    for name in ("Scalar", "Diagonal", "Full"):
        assert any(line.startswith(f"training of {name}Metric: ") for line in lines)
    assert sum(line.startswith("step    1  ") for line in lines) >= 1


@over(TOLD)
def test_nothing_is_printed_unless_asked_for(model):
    assert lines_of(clone(model), *make_data(60)) == []


class Slow(Selector):
    """A selector that takes as long as nothing is printed."""

    heard = threading.Event()

    def select(self, observations, task, random_state):
        assert self.heard.wait(60), "nobody heard anything"
        return Selection(FixedWindows(1.0))


class Listening(io.StringIO):
    """A stream that says when something is written to it."""

    def write(self, text):
        Slow.heard.set()
        return super().write(text)


def test_something_long_says_that_it_still_runs():
    out = Listening()
    with redirect_stdout(out), tuning.override(LONGEST_SILENCE=0.05):
        NadarayaWatsonRegressor(Slow(), verbose=1).fit(*make_data(30))
    assert out.getvalue().startswith("fit: ")
    assert not any(thread.name == "sknw-progress" for thread in threading.enumerate())


def test_the_watching_thread_ends_with_a_failed_fit():
    with pytest.raises(ValueError, match="NaN"):
        NadarayaWatsonRegressor(verbose=1).fit([[0.0], [np.nan]], [0.0, 1.0])
    assert not any(thread.name == "sknw-progress" for thread in threading.enumerate())


# --- scikit-learn's callbacks --------------------------------------------------------------------


class Recorder:
    """A callback that keeps every call; `stop_after` ends the steps of a stage."""

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def _keep(self, hook, estimator, context):
        self.calls.append((hook, estimator, context))

    def setup(self, estimator, context):
        self._keep("setup", estimator, context)

    def teardown(self, estimator, context):
        self._keep("teardown", estimator, context)

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None):
        self._keep("begin", estimator, context)

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None):
        self._keep("end", estimator, context)
        return context.task_name.endswith("step") and context.task_id + 1 == self.stop_after

    def hooks(self, *names):
        return [call for call in self.calls if call[0] in names]


class Propagated(Recorder):
    """One that meta-estimators hand on."""

    max_propagation_depth = None


def root_of(context):
    return context if context.parent is None else root_of(context.parent)


def assert_sound(recorder, estimator, types=None):
    """The four checks that scikit-learn makes of its own estimators."""
    roots = {id(root_of(context)): root_of(context) for _, _, context in recorder.calls}
    assert len(roots) == 1
    first, last = recorder.calls[0], recorder.calls[-1]
    assert (first[0], last[0]) == ("setup", "teardown")
    assert len(recorder.hooks("setup")) == len(recorder.hooks("teardown")) == 1
    for context in next(iter(roots.values())):
        own = [hook for hook, _, other in recorder.hooks("begin", "end") if other is context]
        assert own == ["begin", "end"], context
    open_tasks = []
    for hook, _, context in recorder.hooks("begin", "end"):
        if hook == "begin":
            open_tasks.append(context)
        else:
            assert open_tasks.pop() is context
    assert not open_tasks
    for _, told, context in recorder.calls:
        assert type(told).__name__ == context.estimator_name or context.source_estimator_name
        assert types is not None or told is estimator


@over(TOLD)
def test_hooks_are_called_as_scikit_learn_checks(model):
    pytest.importorskip("sklearn.callback")
    recorder = Recorder()
    model = clone(model).set_callbacks(recorder)
    lines_of(model, *make_data(60))
    assert_sound(recorder, model)
    leftovers = {"_callback_fit_ctx", "_skl_callbacks_to_teardown", "_parent_callback_ctx"}
    assert not leftovers & set(vars(model))


def test_tasks_are_stages_and_steps():
    pytest.importorskip("sklearn.callback")
    recorder = Recorder()
    NadarayaWatsonRegressor().set_callbacks(recorder).fit(*make_data(500))
    contexts = [context for _, _, context in recorder.hooks("begin")]
    assert contexts[0].task_name == "fit"
    counts = Counter(context.task_name for context in contexts)
    assert counts["scan of 400 observations"] == 1
    assert {
        context.parent.task_name for context in contexts if context.task_name.endswith("step")
    } <= {name for name in counts if name.startswith(("start", "descent"))}


@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_callback_may_end_the_steps_of_each_descent(n_steps):
    pytest.importorskip("sklearn.callback")
    X, y = make_data(100)
    recorder = Recorder(stop_after=n_steps)
    model = NadarayaWatsonRegressor().set_callbacks(recorder).fit(X, y)
    steps = Counter(
        id(context.parent)
        for _, _, context in recorder.hooks("end")
        if context.task_name.endswith("step")
    )
    assert max(steps.values()) == n_steps
    assert np.isfinite(model.criterion_)


@pytest.mark.parametrize("name", ["loo", "diagonal"])
def test_a_failed_fit_tears_down_and_leaves_the_estimator(name):
    pytest.importorskip("sklearn.callback")
    recorder = Recorder()
    model = clone(MODELS[name]).set_callbacks(recorder)
    with pytest.raises(ValueError, match="NaN"):
        model.fit([[0.0], [np.nan]], [0.0, 1.0])
    assert [hook for hook, _, _ in recorder.calls] == ["setup", "begin", "teardown"]
    assert set(vars(model)) == set(vars(clone(model)))


@pytest.mark.parametrize("name", ["loo", "diagonal"])
@pytest.mark.parametrize("wrap", ["pipeline", "grid search"])
def test_meta_estimators_hand_callbacks_on(name, wrap):
    pytest.importorskip("sklearn.callback")
    inner = clone(MODELS[name])
    outer = make_pipeline(StandardScaler(), inner)
    if wrap == "grid search":
        outer = GridSearchCV(inner, {"kernel": ["gaussian", "exponential"]}, cv=2)
    if not hasattr(outer, "set_callbacks"):
        pytest.skip(f"this scikit-learn's {type(outer).__name__} has no callbacks")
    recorder = Propagated()
    lines_of(outer.set_callbacks(recorder), *make_data(60))
    assert_sound(recorder, outer, types="several")
    own = [context for _, _, context in recorder.calls if context.task_name.endswith("step")]
    assert own
    assert {context.estimator_name for context in own} == {type(inner).__name__}


@over(TOLD)
def test_the_progress_bar_runs(model):
    callback = pytest.importorskip("sklearn.callback")
    pytest.importorskip("rich")
    model = clone(model).set_callbacks(callback.ProgressBar())
    text = "\n".join(lines_of(model, *make_data(60)))
    assert f"{type(model).__name__} - fit" in text
    assert "100%" in text


def test_callbacks_do_not_change_the_fit():
    pytest.importorskip("sklearn.callback")
    X, y = make_data(80)
    for name in ("loo", "diagonal"):
        told = clone(MODELS[name]).set_callbacks(Recorder()).fit(X, y)
        np.testing.assert_array_equal(told.predict(X), clone(MODELS[name]).fit(X, y).predict(X))
