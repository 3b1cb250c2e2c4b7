"""The estimators among scikit-learn's tools, data containers, serialisers and torch's settings."""

import contextlib
import copy
import inspect
import io
import pickle
import random
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
import torch
from sklearn import config_context
from sklearn.base import clone, is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor, StackingRegressor
from sklearn.exceptions import (
    ConvergenceWarning,
    FitFailedWarning,
    NotFittedError,
    UnsetMetadataPassedError,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr, get_tags

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
from sknw._types import DeviceWarning, EmptyNeighborhoodWarning
from sknw.metrics import ScalarMetric

MODELS = {
    "fixed": NadarayaWatsonRegressor(bandwidth=0.8),
    "per-feature": NadarayaWatsonRegressor(bandwidth=[0.8, 1.0, 2.0], kernel="exponential"),
    "rule": NadarayaWatsonRegressor(bandwidth="scott", kernel="tricube"),
    "loo": NadarayaWatsonRegressor(),
    "diagonal": ParametricNWRegressor(n_starts=1),
    "scalar-sgd": ParametricNWRegressor(metric="scalar", solver="sgd", max_iter=5),
    "metric-object": ParametricNWRegressor(metric=ScalarMetric(), n_starts=1, alpha=0.01),
}
# One that selects nothing, one that searches and one that trains: for slower tests.
BRIEF = {name: MODELS[name] for name in ("fixed", "loo", "diagonal")}

pytestmark = [
    pytest.mark.filterwarnings("ignore::sknw._types.EmptyNeighborhoodWarning"),
    pytest.mark.filterwarnings(
        "ignore:Training did not converge:sklearn.exceptions.ConvergenceWarning"
    ),
]


def over(table, argument="model"):
    return pytest.mark.parametrize(argument, table.values(), ids=table.keys())


def make_data(n=60, n_outputs=None, dtype=np.float64, seed=0):
    """Two informative features and a useless one."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.1 * rng.normal(size=n)
    if n_outputs is not None:
        y = np.column_stack([y * (k + 1) + k for k in range(n_outputs)])
    return X.astype(dtype), y


@pytest.fixture
def data():
    return make_data()


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).normal(size=(17, 3))


QUERY_METHODS = {
    "predict": lambda model, X: model.predict(X),
    "predict_loo": lambda model, X: model.predict_loo(),
    "attention_weights": lambda model, X: model.attention_weights(X),
    "attention_weights-loo": lambda model, X: model.attention_weights(),
    "attention_weights-top": lambda model, X: model.attention_weights(X, top_k=2).toarray(),
    "effective_neighbors": lambda model, X: model.effective_neighbors(X),
}
METHODS_OF = {
    NadarayaWatsonRegressor: QUERY_METHODS,
    ParametricNWRegressor: {**QUERY_METHODS, "transform": lambda model, X: model.transform(X)},
}


def answers(model, X):
    """What every query method of a fitted model says."""
    return {name: method(model, X) for name, method in METHODS_OF[type(model)].items()}


def assert_same_answers(one, other, X, rtol=0.0):
    expected = answers(other, X)
    for name, found in answers(one, X).items():
        np.testing.assert_allclose(found, expected[name], rtol=rtol, err_msg=name)


# --- scikit-learn's tools ------------------------------------------------------------------------


@over(MODELS)
def test_a_clone_of_a_fitted_model_is_unfitted_and_fits_alike(model, data, queries):
    fitted = clone(model).fit(*data)
    copied = clone(fitted)
    with pytest.raises(NotFittedError):
        copied.predict(queries)
    assert repr(copied) == repr(model)
    assert_same_answers(copied.fit(*data), fitted, queries)


@over(MODELS)
def test_fit_returns_self_and_keeps_parameters(model, data):
    model = clone(model)
    before = model.get_params()
    assert model.fit(*data) is model
    assert all(model.get_params()[name] is value for name, value in before.items())


@over(MODELS)
def test_tags_say_multi_output_regressor(model):
    assert is_regressor(model)
    tags = get_tags(model)
    assert tags.target_tags.multi_output
    assert tags.target_tags.required
    assert not tags.input_tags.sparse
    assert not tags.input_tags.allow_nan


@over(MODELS)
def test_a_pipeline_equals_its_steps(model, data, queries):
    X, y = data
    pipeline = make_pipeline(StandardScaler(), clone(model)).fit(X, y)
    scaler = StandardScaler().fit(X)
    alone = clone(model).fit(scaler.transform(X), y)
    np.testing.assert_array_equal(
        pipeline.predict(queries), alone.predict(scaler.transform(queries))
    )


GRIDS = {
    "nadaraya-watson": (
        NadarayaWatsonRegressor(),
        {"bandwidth": [0.5, 2.0, "scott", "loo"], "kernel": ["gaussian", "exponential"]},
    ),
    "parametric": (
        ParametricNWRegressor(n_starts=1, max_iter=20),
        {"metric": ["scalar", "diagonal", ScalarMetric()], "alpha": [0.0, 0.1]},
    ),
}


@pytest.mark.parametrize(("model", "grid"), GRIDS.values(), ids=GRIDS.keys())
def test_a_grid_search_in_two_processes_equals_one_in_this(model, grid, data):
    X, y = data
    grid = {f"model__{name}": values for name, values in grid.items()}
    pipeline = Pipeline([("scale", StandardScaler()), ("model", model)])
    alone, parallel = (
        GridSearchCV(pipeline, grid, cv=3, n_jobs=n_jobs).fit(X, y) for n_jobs in (1, 2)
    )
    scores = alone.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(parallel.cv_results_["mean_test_score"], scores, rtol=1e-9)
    assert repr(parallel.best_params_) == repr(alone.best_params_)


def test_a_halving_search_in_two_processes_finds_the_bandwidth():
    X, y = make_data(n=120)
    search = HalvingGridSearchCV(
        NadarayaWatsonRegressor(),
        {"bandwidth": [1e-3, 0.5, 1e3]},
        cv=3,
        n_jobs=2,
        random_state=0,
        min_resources=30,
    )
    assert search.fit(X, y).best_params_ == {"bandwidth": 0.5}


@over(BRIEF)
def test_cross_val_predict_in_two_processes_equals_fitting_by_hand(model, data):
    X, y = data
    folds = KFold(3)
    predicted = cross_val_predict(model, X, y, cv=folds, n_jobs=2)
    expected = np.empty_like(y)
    for train, test in folds.split(X):
        expected[test] = clone(model).fit(X[train], y[train]).predict(X[test])
    np.testing.assert_allclose(predicted, expected, rtol=1e-9)


@over(BRIEF)
def test_cross_validation_in_threads_equals_one_thread(model, data):
    expected = cross_val_score(model, *data, cv=4)
    with joblib.parallel_config(backend="threading"):
        np.testing.assert_array_equal(cross_val_score(model, *data, cv=4, n_jobs=2), expected)


def test_a_search_reports_why_a_candidate_failed(data):
    search = GridSearchCV(NadarayaWatsonRegressor(), {"bandwidth": [1.0, -1.0]}, cv=2)
    # pytest.warns records; the searches' own summary is a second warning
    with pytest.warns((FitFailedWarning, UserWarning)) as caught:
        search.fit(*data)
    assert any("bandwidth must be positive and finite; got -1.0" in str(w.message) for w in caught)
    assert search.best_params_ == {"bandwidth": 1.0}


@over(BRIEF)
def test_sample_weight_is_routed_through_a_pipeline(model, data, queries):
    X, y = data
    weights = np.random.default_rng(2).integers(0, 3, size=len(X)).astype(float)
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=True),
            clone(model).set_fit_request(sample_weight=True).set_score_request(sample_weight=True),
        )
        pipeline.fit(X, y, sample_weight=weights)
        score = pipeline.score(X, y, sample_weight=weights)
    scaler = StandardScaler().fit(X, sample_weight=weights)
    alone = clone(model).fit(scaler.transform(X), y, sample_weight=weights)
    np.testing.assert_array_equal(
        pipeline.predict(queries), alone.predict(scaler.transform(queries))
    )
    assert score == alone.score(scaler.transform(X), y, sample_weight=weights)
    assert score == r2_score(y, pipeline.predict(X), sample_weight=weights)


@over(BRIEF)
def test_sample_weight_is_routed_through_a_grid_search(model, data):
    X, y = data
    weights = np.random.default_rng(2).integers(0, 3, size=len(X)).astype(float)
    train, test = np.arange(0, 40), np.arange(40, 60)
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            clone(model).set_fit_request(sample_weight=True).set_score_request(sample_weight=True),
            {"kernel": ["gaussian", "exponential"]},
            cv=[(train, test)],
        ).fit(X, y, sample_weight=weights)
    expected = [
        clone(model)
        .set_params(kernel=kernel)
        .fit(X[train], y[train], sample_weight=weights[train])
        .score(X[test], y[test], sample_weight=weights[test])
        for kernel in ("gaussian", "exponential")
    ]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-12)


def test_a_weight_that_nobody_requested_is_refused(data):
    X, y = data
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(NadarayaWatsonRegressor(), {"bandwidth": [1.0]}, cv=2)
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            search.fit(X, y, sample_weight=np.ones(len(X)))


@over(BRIEF)
def test_a_transformed_target_is_transformed_back(model, data, queries):
    X, y = data
    wrapped = TransformedTargetRegressor(clone(model), func=np.exp, inverse_func=np.log).fit(X, y)
    expected = np.log(clone(model).fit(X, np.exp(y)).predict(queries))
    np.testing.assert_allclose(wrapped.predict(queries), expected, rtol=1e-12)


@over(BRIEF)
def test_bagging_averages_models_of_resampled_rows_and_features(model, data, queries):
    X, y = data
    model = clone(model).set_params(bandwidth="scott")
    bagged = BaggingRegressor(model, n_estimators=3, max_features=2, random_state=0).fit(X, y)
    members = zip(bagged.estimators_, bagged.estimators_features_, strict=True)
    expected = np.mean([member.predict(queries[:, kept]) for member, kept in members], axis=0)
    np.testing.assert_allclose(bagged.predict(queries), expected, rtol=1e-12)


@over(BRIEF)
def test_stacking_takes_the_models_at_both_levels(model, data):
    X, y = data
    base, final = clone(model), clone(model).set_params(bandwidth="scott")
    stack = StackingRegressor([("smooth", base), ("ridge", Ridge())], final, cv=3).fit(X, y)
    assert stack.score(X, y) > 0.5


@over(BRIEF)
def test_permutation_importance_sees_which_features_matter(model, data):
    X, y = data
    fitted = clone(model).fit(X, y)
    importance = permutation_importance(fitted, X, y, n_repeats=3, random_state=0)
    assert importance.importances_mean[:2].min() > 2 * importance.importances_mean[2]


@over(BRIEF)
def test_partial_dependence_averages_predictions(model, data):
    X, y = data
    fitted = clone(model).fit(X, y)
    found = partial_dependence(fitted, X, [0], grid_resolution=5, kind="both")
    for column, value in enumerate(found["grid_values"][0]):
        moved = X.copy()
        moved[:, 0] = value
        expected = fitted.predict(moved)
        np.testing.assert_allclose(found["individual"][0, :, column], expected, rtol=1e-12)
        np.testing.assert_allclose(found["average"][0, column], expected.mean(), rtol=1e-12)


@over(BRIEF)
def test_score_is_the_coefficient_of_determination(model):
    X, y = make_data(n_outputs=2)
    fitted = clone(model).fit(X, y)
    assert fitted.score(X, y) == r2_score(y, fitted.predict(X))


# --- the embedding as a transformer --------------------------------------------------------------


def test_fit_transform_is_fit_then_transform(data):
    model = ParametricNWRegressor(n_starts=1)
    embedded = clone(model).fit_transform(*data)
    np.testing.assert_array_equal(embedded, clone(model).fit(*data).transform(data[0]))


def test_the_embedding_serves_as_a_step_of_a_pipeline(data, queries):
    X, y = data
    model = ParametricNWRegressor(n_starts=1)
    pipeline = make_pipeline(StandardScaler(), model, KNeighborsRegressor(3)).fit(X, y)
    scaler = StandardScaler().fit(X)
    metric = clone(model).fit(scaler.transform(X), y)
    neighbors = KNeighborsRegressor(3).fit(metric.transform(scaler.transform(X)), y)
    np.testing.assert_array_equal(
        pipeline.predict(queries), neighbors.predict(metric.transform(scaler.transform(queries)))
    )


@pytest.mark.parametrize("metric", ["scalar", "diagonal"])
def test_the_embedding_has_one_distinct_name_per_column(metric, data):
    model = ParametricNWRegressor(metric=metric, n_starts=1).fit(*data)
    names = model.get_feature_names_out()
    assert len(set(names)) == model.transform(data[0]).shape[1]


def test_a_pipeline_names_the_columns_of_the_embedding(data):
    model = ParametricNWRegressor(n_starts=1)
    pipeline = make_pipeline(StandardScaler(), model).fit(*data)
    assert list(pipeline.get_feature_names_out()) == list(pipeline[-1].get_feature_names_out())


FRAMES_OUT = {"pandas": pd.DataFrame, "polars": pl.DataFrame}


@pytest.mark.parametrize("container", FRAMES_OUT)
def test_the_embedding_comes_in_the_container_asked_for(container, data):
    X, y = data
    model = ParametricNWRegressor(n_starts=1).fit(X, y)
    plain = model.transform(X)
    assert isinstance(plain, np.ndarray)
    framed = model.set_output(transform=container).transform(X)
    assert isinstance(framed, FRAMES_OUT[container])
    assert list(framed.columns) == list(model.get_feature_names_out())
    np.testing.assert_array_equal(framed.to_numpy(), plain)


@over(BRIEF)
@pytest.mark.parametrize("container", FRAMES_OUT)
def test_predictions_stay_arrays_whatever_transformers_give(model, container, data, queries):
    with config_context(transform_output=container):
        fitted = make_pipeline(StandardScaler(), clone(model)).fit(*data)
        assert isinstance(fitted.predict(queries), np.ndarray)


# --- frames --------------------------------------------------------------------------------------

NAMES = ["height", "weight", "age"]
FRAMES = {
    "pandas": (lambda X: pd.DataFrame(X, columns=NAMES), pd.Series),
    "pandas-nullable": (
        lambda X: pd.DataFrame(X, columns=NAMES, dtype="Float64"),
        lambda y: pd.Series(y, dtype="Float64"),
    ),
    "pandas-shuffled-index": (
        lambda X: pd.DataFrame(X, columns=NAMES, index=np.arange(len(X))[::-1]),
        pd.Series,
    ),
    "polars": (lambda X: pl.DataFrame(X, schema=NAMES), pl.Series),
}


def frame_with_names(container, X):
    """A frame whose names this scikit-learn reads (1.6 no longer can from polars 2)."""
    frame = FRAMES[container][0](X)
    if not hasattr(StandardScaler().fit(frame), "feature_names_in_"):
        pytest.skip(f"this scikit-learn does not read the names of {container}")
    return frame


@over(BRIEF)
@pytest.mark.parametrize("container", FRAMES)
def test_frames_equal_arrays(model, container, data, queries):
    frame, series = FRAMES[container]
    X, y = data
    weights = np.arange(len(X)) % 3
    fitted = clone(model).fit(frame(X), series(y), sample_weight=series(weights.astype(float)))
    plain = clone(model).fit(X, y, sample_weight=weights)
    np.testing.assert_array_equal(fitted.predict(frame(queries)), plain.predict(queries))
    assert fitted.score(frame(X), series(y)) == plain.score(X, y)


@over(BRIEF)
@pytest.mark.parametrize("container", FRAMES)
def test_names_of_columns_are_kept(model, container, data):
    fitted = clone(model).fit(frame_with_names(container, data[0]), data[1])
    assert list(fitted.feature_names_in_) == NAMES


@over(BRIEF)
@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_columns_in_another_order_are_refused(model, container, data, queries):
    fitted = clone(model).fit(frame_with_names(container, data[0]), data[1])
    reordered = frame_with_names(container, queries)[NAMES[::-1]]
    for method in ("predict", "effective_neighbors", "attention_weights"):
        with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
            getattr(fitted, method)(reordered)


@over(BRIEF)
def test_names_on_one_side_only_are_warned_about(model, data, queries):
    frame = FRAMES["pandas"][0]
    named, nameless = clone(model).fit(frame(data[0]), data[1]), clone(model).fit(*data)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        named.predict(queries)
    with pytest.warns(UserWarning, match="fitted without feature names"):
        nameless.predict(frame(queries))


@over(BRIEF)
def test_a_frame_of_targets_gives_one_column_per_output(model, queries):
    X, y = make_data(n_outputs=2)
    fitted = clone(model).fit(X, pd.DataFrame(y, columns=["first", "second"]))
    np.testing.assert_array_equal(fitted.predict(queries), clone(model).fit(X, y).predict(queries))


# --- arrays --------------------------------------------------------------------------------------


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _memmap(a):
    """A read-only memory map, as joblib hands large arrays to its workers."""
    buffer = np.memmap(_memmap.folder / f"{random.getrandbits(64):x}", a.dtype, "w+", shape=a.shape)
    buffer[...] = a
    buffer.flush()
    return np.memmap(buffer.filename, a.dtype, "r", shape=a.shape)


@pytest.fixture(autouse=True, scope="module")
def _folder_of_memory_maps(tmp_path_factory):
    _memmap.folder = tmp_path_factory.mktemp("memmap")


def _every_other(a):
    """A view with gaps between rows and, in two dimensions, columns."""
    wide = np.full(tuple(2 * size for size in a.shape), 7, dtype=a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


# Each turns an array of small whole numbers into another array of the same values.
LAYOUTS = {
    "read-only": _read_only,
    "fortran": np.asfortranarray,
    "negative-strides": lambda a: a[::-1].copy()[::-1],
    "negative-strides-everywhere": lambda a: np.flip(np.flip(a).copy()),
    "gaps": _every_other,
    "big-endian": lambda a: a.astype(">f8"),
    "big-endian-read-only": lambda a: _read_only(a.astype(">f8")),
    "big-endian-integer": lambda a: a.astype(">i4"),
    "memmap": _memmap,
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(a.tolist()),
    "int8": lambda a: a.astype(np.int8),
    "int64": lambda a: a.astype(np.int64),
    "uint8": lambda a: a.astype(np.uint8),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "object": lambda a: a.astype(object),
    "object-of-integers": lambda a: a.astype(int).astype(object),
    "torch-float64": torch.tensor,
    "torch-int64": lambda a: torch.tensor(a.astype(np.int64)),
    "torch-float16": lambda a: torch.tensor(a.astype(np.float16)),
    "torch-bfloat16": lambda a: torch.tensor(a).to(torch.bfloat16),
    "torch-gradient": lambda a: torch.tensor(a, requires_grad=True),
    "torch-parameter": lambda a: torch.nn.Parameter(torch.tensor(a)),
    "torch-gaps": lambda a: torch.tensor(np.repeat(a, 2, axis=0))[::2],
    "torch-inference": lambda a: _inference_tensor(a),
}


def _inference_tensor(a):
    with torch.inference_mode():
        return torch.tensor(a)


def whole_numbers(n=40):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 6, size=(n, 3)).astype(float)
    return X, X[:, 0] + 2 * X[:, 1], rng.integers(0, 3, size=n).astype(float)


WHOLE_NUMBER_MODELS = {
    "fixed": NadarayaWatsonRegressor(bandwidth=1.0),
    "trained": ParametricNWRegressor(n_starts=1, max_iter=10),
}


@over(WHOLE_NUMBER_MODELS)
@over(LAYOUTS, "layout")
def test_the_layout_and_type_of_arrays_do_not_matter(model, layout):
    X, y, weights = whole_numbers()
    plain = clone(model).fit(X, y, sample_weight=weights)
    fitted = clone(model).fit(layout(X), layout(y), sample_weight=layout(weights))
    np.testing.assert_allclose(fitted.predict(layout(X)), plain.predict(X), rtol=1e-12)
    np.testing.assert_allclose(
        fitted.effective_neighbors(layout(X)), plain.effective_neighbors(X), rtol=1e-12
    )
    np.testing.assert_allclose(
        fitted.attention_weights(layout(X)), plain.attention_weights(X), rtol=1e-12, atol=1e-15
    )


@over(LAYOUTS, "layout")
def test_score_takes_what_fit_takes(layout):
    X, y, weights = whole_numbers()
    fitted = NadarayaWatsonRegressor(bandwidth=1.0).fit(X, y)
    expected = fitted.score(X, y, sample_weight=weights)
    found = fitted.score(layout(X), layout(y), sample_weight=layout(weights))
    assert found == pytest.approx(expected, rel=1e-12)


@over(WHOLE_NUMBER_MODELS)
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_boolean_arrays_are_zeros_and_ones(model, convert):
    X, y, weights = (a > np.median(a) for a in whole_numbers())
    fitted = clone(model).fit(convert(X), convert(y), sample_weight=convert(weights))
    plain = clone(model).fit(X.astype(float), y.astype(float), sample_weight=weights.astype(float))
    np.testing.assert_array_equal(fitted.predict(convert(X)), plain.predict(X.astype(float)))


@over(WHOLE_NUMBER_MODELS)
@over(LAYOUTS, "layout")
def test_inputs_are_left_as_they_were(model, layout):
    X, y, weights = (layout(a) for a in whole_numbers())
    clone(model).fit(X, y, sample_weight=weights).predict(X)
    for found, values in zip((X, y, weights), whole_numbers(), strict=True):
        found = found.detach().to(torch.float64) if torch.is_tensor(found) else found
        np.testing.assert_array_equal(np.asarray(found).astype(float), values)


@over(BRIEF)
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_float32_in_is_float32_out(model, convert, queries):
    X, y = make_data(dtype=np.float32)
    fitted = clone(model).fit(convert(X), convert(y.astype(np.float32)))
    predicted = fitted.predict(convert(queries.astype(np.float32)))
    assert predicted.dtype == np.float32
    assert fitted.predict(queries).dtype == np.float64
    reference = clone(model).fit(X.astype(float), y.astype(np.float32).astype(float))
    # a search ends where float32 cannot tell losses apart
    rtol = 1e-4 if model is BRIEF["fixed"] else 2e-2
    np.testing.assert_allclose(
        predicted, reference.predict(queries.astype(np.float32)), rtol=rtol, atol=rtol
    )


@over(BRIEF)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (-1, 2)], ids=["flat", "column", "two"])
def test_predictions_have_the_shape_of_y(model, shape, data, queries):
    X, y = data
    y = np.repeat(y, abs(shape[-1])).reshape(len(X), -1) if len(shape) == 2 else y
    fitted = clone(model).fit(X, y)
    assert fitted.predict(queries).shape == (len(queries), *y.shape[1:])
    assert fitted.predict_loo().shape == y.shape


def test_cross_validation_takes_tensors(data):
    X, y = data
    expected = cross_val_score(MODELS["fixed"], X, y, cv=3)
    found = cross_val_score(MODELS["fixed"], torch.tensor(X), torch.tensor(y), cv=3)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# --- copies on disk and in memory ----------------------------------------------------------------


def _joblib_copy(model, **how):
    path = _memmap.folder / f"{random.getrandbits(64):x}.joblib"
    joblib.dump(model, path)
    return joblib.load(path, **how)


def _skops_copy(model):
    stored = skops.io.dumps(model)
    return skops.io.loads(stored, trusted=skops.io.get_untrusted_types(data=stored))


COPIES = {
    **{
        f"pickle-{protocol}": lambda model, protocol=protocol: pickle.loads(
            pickle.dumps(model, protocol)
        )
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
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


@over(MODELS)
@over(COPIES, "copied")
def test_a_copy_answers_as_the_original(model, copied, data, queries):
    weights = np.arange(len(data[0])) % 3
    X = pd.DataFrame(data[0], columns=NAMES)
    fitted = clone(model).fit(X, data[1], sample_weight=weights)
    again = copied(fitted)
    assert vars(again).keys() == vars(fitted).keys()
    assert repr(again) == repr(fitted)
    assert list(again.feature_names_in_) == NAMES
    assert_same_answers(again, fitted, pd.DataFrame(queries, columns=NAMES))


@over(MODELS)
@over(COPIES, "copied")
def test_a_copy_of_an_unfitted_model_can_be_fitted(model, copied, data, queries):
    assert_same_answers(copied(clone(model)).fit(*data), clone(model).fit(*data), queries)


@over(MODELS)
def test_skops_finds_nothing_untrusted_but_our_own_types(model, data):
    stored = skops.io.dumps(clone(model).fit(*data))
    untrusted = skops.io.get_untrusted_types(data=stored)
    assert [name for name in untrusted if not name.startswith("sknw.")] == []


@over(MODELS)
def test_a_fitted_model_holds_no_tensor(model, data):
    fitted = clone(model).fit(*data)
    stored = pickle.dumps(fitted)
    assert b"torch" not in stored


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


@pytest.fixture(scope="module")
def large():
    return NadarayaWatsonRegressor(bandwidth=0.1).fit(*make_data(100_000))


@pytest.fixture
def no_matrix(monkeypatch):
    """Make it an error to ask for attention weights or for any kernel sum."""

    def refuse(*args, **kwargs):
        pytest.fail("the weights were asked for")

    for model in METHODS_OF:
        monkeypatch.setattr(model, "attention_weights", refuse)
        monkeypatch.setattr(model, "_smoother", refuse)


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
def test_looking_at_a_large_model_computes_nothing(look, large, no_matrix):
    look(large)


@over(FACES, "look")
def test_looking_at_a_large_model_in_a_pipeline_computes_nothing(look, large, no_matrix):
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


def test_a_large_model_has_no_attention_weights_and_says_what_to_use(large, no_matrix):
    assert not hasattr(large, "attention_weights_")
    with pytest.raises(AttributeError, match=r"2000 training rows; got 100000.*top_k"):
        _ = large.attention_weights_


@pytest.mark.parametrize(("n", "there"), [(2, True), (2000, True), (2001, False)])
def test_attention_weights_are_there_up_to_2000_rows(n, there):
    fitted = NadarayaWatsonRegressor(bandwidth=1.0).fit(*make_data(n))
    assert hasattr(fitted, "attention_weights_") is there


@over(MODELS)
def test_attention_weights_are_those_of_leave_one_out(model, data):
    X, y = data
    fitted = clone(model).fit(X, y)
    before = vars(fitted).copy()
    weights = fitted.attention_weights_
    np.testing.assert_array_equal(weights, fitted.attention_weights())
    np.testing.assert_allclose(weights @ y, fitted.predict_loo(), rtol=1e-9, atol=1e-12)
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


@over(SETTINGS, "setting")
@over(MODELS)
def test_torch_settings_do_not_change_answers(model, setting, data, queries):
    plain = clone(model).fit(*data)
    with setting():
        fitted = clone(model).fit(*data)
        found = answers(fitted, queries)
        found_of_plain = answers(plain, queries)
    expected = answers(plain, queries)
    for name, value in expected.items():
        np.testing.assert_allclose(found_of_plain[name], value, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-9, err_msg=name)


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
