"""Tables of pyarrow, values by name, and messages that name the column."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from sknw import (
    BandwidthSearch,
    NadarayaWatsonRegressor,
    NeighborBandwidth,
    ParametricNWRegressor,
)
from sknw.support.compat import HAS_CATEGORICAL_TAG

Y = [0.0, 1.0, 2.0, 3.0]
SITES = ["a", "b", "a", "b"]


def frame(values, name="site"):
    return pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], name: values})


def by_site():
    return NadarayaWatsonRegressor([1.0, 0.1])


# --- pyarrow -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["string", "large_string", "string_view", "dictionary"])
def test_text_of_pyarrow_is_text(name):
    pa = pytest.importorskip("pyarrow")
    dtype = pa.dictionary(pa.int32(), pa.string()) if name == "dictionary" else getattr(pa, name)()
    array = pa.array(SITES)
    array = array.dictionary_encode() if name == "dictionary" else array.cast(dtype)
    X = frame(pd.arrays.ArrowExtensionArray(array))
    model, plain = by_site().fit(X, Y), by_site().fit(frame(SITES), Y)
    assert model.is_categorical_.tolist() == [False, True]
    np.testing.assert_array_equal(model.predict(X), plain.predict(frame(SITES)))


@pytest.mark.parametrize("dtype", ["string", "string[python]", "category", object])
def test_text_of_pandas_is_text(dtype):
    X = frame(pd.Series(SITES).astype(dtype))
    assert by_site().fit(X, Y).is_categorical_.tolist() == [False, True]


def test_an_ordered_dictionary_is_in_its_order():
    pa = pytest.importorskip("pyarrow")
    sizes = ["S", "M", "L"]
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0]), pa.array(sizes), ordered=True)
    X = frame(pd.arrays.ArrowExtensionArray(array))
    same = frame(pd.Categorical([*sizes, "S"], categories=sizes, ordered=True))
    expected = by_site().fit(same, Y).attention_weights()
    np.testing.assert_array_equal(by_site().fit(X, Y).attention_weights(), expected)


@pytest.mark.parametrize("dtype", ["float64", "int64", "bool"])
def test_numbers_of_pyarrow_are_numbers(dtype):
    pytest.importorskip("pyarrow")
    values = np.array([0, 1, 1, 0]).astype(dtype)
    X = frame(pd.Series(values).astype(f"{dtype}[pyarrow]"))
    y = pd.Series(Y, dtype="float64[pyarrow]")
    model, plain = NadarayaWatsonRegressor(1.0), NadarayaWatsonRegressor(1.0)
    found, expected = model.fit(X, y).predict(X), plain.fit(frame(values), Y).predict(frame(values))
    assert model.is_categorical_ is None
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("part", ["table", "batch"])
def test_tables_of_pyarrow_are_read(part):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"x": [0.0, 1.0, 2.0, 3.0], "site": SITES})
    X = table if part == "table" else table.to_batches()[0]
    model = by_site().fit(X, pa.array(Y))
    assert model.feature_names_in_.tolist() == ["x", "site"]
    plain = by_site().fit(frame(SITES), Y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(frame(SITES)))
    assert model.score(X, pa.chunked_array([Y])) == plain.score(frame(SITES), Y)


def test_lazy_frames_are_refused():
    lazy = pl.LazyFrame({"x": Y})
    with pytest.raises(TypeError, match=r"X must hold values; got a polars LazyFrame.*collect\(\)"):
        NadarayaWatsonRegressor(1.0).fit(lazy, Y)
    with pytest.raises(TypeError, match="y must hold values; got a polars LazyFrame"):
        NadarayaWatsonRegressor(1.0).fit(np.c_[Y], lazy)
    model = NadarayaWatsonRegressor(1.0).fit(np.c_[Y], Y)
    with pytest.raises(TypeError, match="X must hold values"):
        model.predict(lazy)


# --- what a column holds -------------------------------------------------------------------------

MIXED = {
    "texts and numbers": ["a", 12, "b", "a"],
    "texts and fractions": ["a", 1.5, "b", 1.5],
    "texts and tuples": ["a", (1, 2), "b", (1, 2)],
    "missing ones": ["a", None, 12, "a"],
}


@pytest.mark.parametrize("values", MIXED.values(), ids=MIXED.keys())
@pytest.mark.parametrize("make", [frame, lambda v: frame(pd.Series(v).astype("category"))])
def test_mixed_types_are_categories(values, make):
    model = by_site().fit(make(values), Y)
    assert model.is_categorical_.tolist() == [False, True]
    codes = [["a", "b", "c", "d"][values.index(value)] for value in values]
    expected = by_site().fit(frame(codes), Y)
    found = model.predict(make(values))
    np.testing.assert_allclose(found, expected.predict(frame(codes)), rtol=1e-12)


@pytest.mark.parametrize(
    "value", [[1], (1, 2), {"a": 1}, np.arange(2)], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("where", ["fit", "predict"])
def test_objects_among_numbers_are_refused_by_column(value, where):
    column = np.empty(4, dtype=object)
    column[:] = [value] * 4
    model = NadarayaWatsonRegressor(1.0)
    if where == "predict":
        model.fit(frame([1.0, 2.0, 3.0, 4.0]), Y)
    ask = model.predict if where == "predict" else lambda X: model.fit(X, Y)
    with pytest.raises(
        (TypeError, ValueError), match=f"Column 'site' holds {type(value).__name__} v"
    ):
        ask(frame(column))


def test_lists_in_a_category_are_refused_by_column():
    with pytest.raises(ValueError, match="can be hashed; 'site' has some that cannot"):
        NadarayaWatsonRegressor(categorical_features=["site"]).fit(frame([[1], [2], [1], [2]]), Y)


def test_texts_in_an_array_are_refused_by_column():
    X = np.array([[0.0, "a"], [1.0, "b"]], dtype=object)
    with pytest.raises(ValueError, match="Column feature 1 holds str values, such as 'a'"):
        NadarayaWatsonRegressor(1.0).fit(X, [0.0, 1.0])
    model = NadarayaWatsonRegressor(1.0, categorical_features=[1]).fit(X, [0.0, 1.0])
    assert model.is_categorical_.tolist() == [False, True]


@pytest.mark.parametrize("make", [frame, lambda v: pl.DataFrame({"x": Y, "site": v})])
def test_missing_numbers_are_counted_by_column(make):
    values = [1.0, np.nan, np.nan, 2.0]
    with pytest.raises(
        ValueError, match=r"contains NaN[^$]*missing in 'site' \(2 rows\).*SimpleImp"
    ):
        NadarayaWatsonRegressor(1.0).fit(make(values), Y)
    model = NadarayaWatsonRegressor(1.0).fit(make([1.0, 2.0, 3.0, 4.0]), Y)
    with pytest.raises(ValueError, match=r"'site' \(2 rows\)"):
        model.predict(make(values))
    imputed = make_pipeline(SimpleImputer(), NadarayaWatsonRegressor(1.0))
    assert np.isfinite(imputed.fit(frame(values), Y).predict(frame(values))).all()


def test_missing_numbers_beside_a_category():
    X = frame(SITES).assign(x=[0.0, np.nan, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"missing in 'x' \(1 rows\)"):
        NadarayaWatsonRegressor().fit(X, Y)


@pytest.mark.parametrize("make", [frame, lambda v: pl.DataFrame({"x": Y, "site": v})])
def test_numbers_as_text_are_categories_with_a_warning(make):
    values = ["1.5", "2", "1.5", "2"]
    with pytest.warns(UserWarning, match=r"texts of column 'site' are numbers, such as '1\.5'"):
        model = by_site().fit(make(values), Y)
    assert model.is_categorical_.tolist() == [False, True]
    model.predict(make(values))  # says nothing again
    NadarayaWatsonRegressor(categorical_features=["site"]).fit(make(values), Y)
    by_site().fit(frame(pd.Categorical(values)), Y)
    by_site().fit(make(["1.5", "2", "a", "2"]), Y)


def test_tags_say_what_is_accepted():
    for estimator in (NadarayaWatsonRegressor, ParametricNWRegressor):
        tags = estimator().__sklearn_tags__().input_tags
        assert (tags.categorical, tags.string) == (HAS_CATEGORICAL_TAG, False)
        tags = estimator(categorical_features=[0]).__sklearn_tags__().input_tags
        assert (tags.categorical, tags.string) == (HAS_CATEGORICAL_TAG, True)
        tags = estimator(categorical_features=None).__sklearn_tags__().input_tags
        assert (tags.categorical, tags.string) == (False, False)


# --- by name -------------------------------------------------------------------------------------


def test_a_series_of_bandwidths_goes_by_name():
    named = pd.Series({"site": 0.1, "x": 1.0})
    found = NadarayaWatsonRegressor(named).fit(frame(SITES), Y)
    np.testing.assert_allclose(found.bandwidth_, [1.0, 0.1])
    positional = NadarayaWatsonRegressor(pd.Series([1.0, 0.1])).fit(frame(SITES), Y)
    np.testing.assert_array_equal(found.predict_loo(), positional.predict_loo())


def test_bandwidths_by_name_for_a_metric_and_its_start():
    X = frame([0.0, 3.0, 1.0, 2.0], "z")
    by_name, by_place = (
        ParametricNWRegressor(bandwidth=h, w_init=w, solver="sgd", max_iter=1)
        for h, w in (
            (pd.Series({"z": 2.0, "x": 1.0}), pd.Series({"z": 0.5, "x": 0.7})),
            ([1.0, 2.0], [0.7, 0.5]),
        )
    )
    with pytest.warns(Warning, match="did not converge"):
        by_name.fit(X, Y)
    with pytest.warns(Warning, match="did not converge"):
        by_place.fit(X, Y)
    np.testing.assert_array_equal(by_name.w_, by_place.w_)


NAMELESS = {
    "missing": ({"x": 1.0}, r"missing: \['site'\]"),
    "unknown": ({"x": 1.0, "site": 0.1, "size": 1.0}, r"unknown: \['size'\]"),
    "both": ({"x": 1.0, "Site": 0.1}, r"missing: \['site'\]; unknown: \['Site'\]"),
}


@pytest.mark.parametrize(("values", "message"), NAMELESS.values(), ids=NAMELESS.keys())
def test_names_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        NadarayaWatsonRegressor(pd.Series(values)).fit(frame(SITES), Y)


def test_names_without_names_in_x_or_twice_are_refused():
    twice = pd.Series([1.0, 0.1, 0.2], index=["x", "site", "site"])
    with pytest.raises(ValueError, match=r"given twice: \['site'\]"):
        NadarayaWatsonRegressor(twice).fit(frame(SITES), Y)
    with pytest.raises(ValueError, match=r"bandwidth is by name.*X has no column names"):
        NadarayaWatsonRegressor(pd.Series({"x": 1.0})).fit(np.c_[Y], Y)


def test_bounds_go_by_name_and_may_hold_an_exact_match():
    bounds = pd.DataFrame([[0.0, 0.0], [0.5, 2.0]], index=["site", "x"])
    model = NadarayaWatsonRegressor(BandwidthSearch(bounds=bounds)).fit(frame(SITES), Y)
    assert model.bandwidth_[1] == 0.0
    assert 0.5 <= model.bandwidth_[0] <= 2.0
    with pytest.raises(ValueError, match="bounds must be positive and finite"):
        NadarayaWatsonRegressor(BandwidthSearch(bounds=[[0.0, 1.0], [0.0, 1.0]])).fit(
            frame(SITES), Y
        )


def test_names_and_indices_may_be_mixed():
    X = frame(SITES).assign(z=[0, 1, 0, 1], w=[0, 0, 1, 1])
    for wanted in (["site", 3], {"site": "unordered", 3: "ordered"}, [np.int64(1), "w"]):
        model = NadarayaWatsonRegressor(0.5, categorical_features=wanted).fit(X, Y)
        assert model.is_categorical_.tolist() == [False, True, False, True]
    with pytest.raises(ValueError, match="must be 'from_dtype'"):
        NadarayaWatsonRegressor(0.5, categorical_features=["site", 1.5]).fit(X, Y)


# --- nearest neighbours and ties -----------------------------------------------------------------


def tied(n_ties, n=60):
    x = np.r_[np.zeros(n_ties), np.linspace(1, 10, n - n_ties)][:, None]
    return x, np.sin(3 * x[:, 0]) + 0.1 * np.random.default_rng(0).normal(size=n)


@pytest.mark.parametrize("n_ties", [1, 2, 12])
@pytest.mark.parametrize("kind", ["query", "key"])
def test_numbers_below_the_largest_tie_are_not_looked_at(n_ties, kind):
    X, y = tied(n_ties)
    model = NadarayaWatsonRegressor(NeighborBandwidth(kind=kind), duplicates="keep")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    told = [str(warning.message) for warning in caught]
    if model.n_neighbors_ == n_ties > 1:
        assert told[0].startswith(f"Fewer neighbours than the {n_ties} chosen are impossible")
    assert len(told) == (model.n_neighbors_ == n_ties > 1)
    assert model.search_report_["smallest_n_neighbors"] == n_ties
    assert model.search_path_["n_neighbors"].min() == n_ties
    assert np.isfinite(model.search_path_["criterion"]).all()
    NadarayaWatsonRegressor(NeighborBandwidth(n_ties, kind=kind)).fit(X, y)


def test_a_minimum_at_the_limit_of_ties_is_warned_about():
    X, y = tied(2)
    with pytest.warns(UserWarning, match=r"than the 2 chosen .* distance to the 1st other is zero"):
        model = NadarayaWatsonRegressor(NeighborBandwidth(), duplicates="keep").fit(X, y)
    assert model.n_neighbors_ == 2


def test_the_error_says_how_large_the_largest_tie_is():
    X, y = tied(12)
    with pytest.raises(ValueError, match=r"12 of 60 .*at most 12 rows.*n_neighbors of at least 12"):
        NadarayaWatsonRegressor(NeighborBandwidth(11)).fit(X, y)
    with pytest.raises(ValueError, match=r"at most 5 rows.*use a bandwidth that is the same"):
        NadarayaWatsonRegressor(NeighborBandwidth()).fit(np.zeros((5, 1)), np.arange(5.0))
