"""The estimators among scikit-learn's tools, and as a transformer."""

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from contract import BRIEF, EXPECTED_WARNINGS, MODELS, assert_same_answers, make_data, over
from sklearn import config_context
from sklearn.base import clone, is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor, StackingRegressor
from sklearn.exceptions import (
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
from sklearn.utils import get_tags

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.metrics import ScalarMetric

pytestmark = EXPECTED_WARNINGS


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
        {"bandwidth": [0.5, "scott", "loo"], "kernel": ["gaussian", "exponential"]},
    ),
    "parametric": (
        ParametricNWRegressor(n_starts=1, max_iter=20),
        {"metric": ["scalar", ScalarMetric()], "alpha": [0.0, 0.1]},
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


def test_two_processes_predict_at_once_what_is_enough_for_compiled_loops():
    X = np.random.default_rng(0).normal(size=(900, 2))
    model = NadarayaWatsonRegressor(0.3, algorithm="dense").fit(X, X.sum(axis=1))
    expected = model.predict(X)
    for found in joblib.Parallel(n_jobs=2)(joblib.delayed(model.predict)(X) for _ in range(4)):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


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
