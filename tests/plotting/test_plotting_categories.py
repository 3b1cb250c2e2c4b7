"""Displays of categories: held at the most frequent, drawn at places with names, never between."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from matplotlib import pyplot as plt
from sklearn.compose import make_column_transformer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from sknw import BandwidthSearch, NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.plotting import (
    AttentionDisplay,
    BandwidthPathDisplay,
    EmbeddingDisplay,
    FeatureScaleDisplay,
    NeighborhoodDisplay,
    RegressionCurveDisplay,
)

# the median code is the middle one, which is rare; the first and the last are common
CODES = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [50, 14, 56]))
SIZE = np.random.default_rng(2).uniform(1, 5, len(CODES))
Y = 30 - 4 * SIZE + np.array([5.0, -3.0, 0.0])[CODES]


def table(kind):
    """Return a table of a number and categories, its categories in order, and what is fitted."""
    levels = {
        "categorical of integers": [4, 6, 8],
        "categorical of booleans": [False, True],
        "booleans": [False, True],
        "array": [4.0, 6.0, 8.0],
        "ordered": ["low", "mid", "high"],
        "enum": ["low", "mid", "high"],
    }.get(kind, ["blue", "green", "red"])
    column = np.array(levels, dtype=object)[CODES % len(levels)]
    if kind == "array":
        return np.column_stack([SIZE, column.astype(float)]), levels
    if kind in ("text of polars", "enum"):
        dtype = pl.Enum(levels) if kind == "enum" else pl.String
        return pl.DataFrame({"size": SIZE, "c": pl.Series(column.tolist(), dtype=dtype)}), levels
    if kind in ("categorical of integers", "categorical of booleans", "categorical of text"):
        column = pd.Categorical(column)
    elif kind == "ordered":
        column = pd.Categorical(column, categories=levels, ordered=True)
    elif kind == "booleans":
        column = column.astype(bool)
    return pd.DataFrame({"size": SIZE, "c": column}), levels


KINDS = [
    "categorical of integers",
    "categorical of booleans",
    "categorical of text",
    "ordered",
    "booleans",
    "text",
    "text of polars",
    "enum",
    "array",
]
by_kind = pytest.mark.parametrize("kind", KINDS)


def fitted(kind, estimator=NadarayaWatsonRegressor, *settings):
    X, levels = table(kind)
    settings = settings or ([0.3, 0.1],)
    categorical = [1] if kind in ("array", "booleans") else "from_dtype"
    model = estimator(*settings, categorical_features=categorical)
    return model.fit(X, Y), X, levels


def rows_at(X, sizes, category):
    """Rows of X's kind with these sizes and one category, made from a row that has it."""
    if isinstance(X, np.ndarray):
        return np.column_stack([sizes, np.full(len(sizes), category)])
    found = next(i for i, value in enumerate(X["c"]) if value == category)
    repeated = X.iloc[[found] * len(sizes)] if hasattr(X, "iloc") else X[[found] * len(sizes)]
    if hasattr(X, "iloc"):
        return repeated.assign(size=sizes)
    return repeated.with_columns(size=np.asarray(sizes))


def commonest(X, levels):
    column = X[:, 1] if isinstance(X, np.ndarray) else X["c"]
    return max(levels, key=list(column).count)


def names_of(levels):
    return [f"{level:g}" if isinstance(level, float) else str(level) for level in levels]


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


# --- curves --------------------------------------------------------------------------------------


@by_kind
def test_a_category_is_held_at_the_most_frequent(kind):
    model, X, levels = fitted(kind)
    display = RegressionCurveDisplay.from_estimator(model, X, feature=0, n_points=9)
    expected = model.predict(rows_at(X, display.grid[0], commonest(X, levels)))
    np.testing.assert_array_equal(display.predictions[0], expected)
    assert display.categories == [None]


@by_kind
def test_along_a_category_predictions_are_at_its_categories(kind):
    model, X, levels = fitted(kind)
    display = RegressionCurveDisplay.from_estimator(model, X, Y, feature=1)
    expected = [model.predict(rows_at(X, [np.median(SIZE)], level))[0] for level in levels]
    np.testing.assert_allclose(display.predictions[0], expected, rtol=1e-12)
    assert np.ptp(expected) > 1
    assert display.categories == [names_of(levels)]
    np.testing.assert_array_equal(display.grid[0], np.arange(len(levels)))
    np.testing.assert_array_equal(display.X, [CODES % len(levels)])


@by_kind
def test_a_table_is_left_as_it_was(kind):
    model, X, _ = fitted(kind)
    before = X.copy() if hasattr(X, "copy") else X.clone()
    for feature in (0, 1, (0, 1)):
        RegressionCurveDisplay.from_estimator(model, X, feature=feature, n_points=3)
    assert (before == X).all() if isinstance(X, np.ndarray) else X.equals(before)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@by_kind
def test_categories_are_drawn_as_points_with_names(kind):
    model, X, levels = fitted(kind)
    other = ParametricNWRegressor(w_init=1.0, max_iter=1, n_starts=1, tol=1e9)
    other.set_params(categorical_features=model.categorical_features).fit(X, Y)
    display = RegressionCurveDisplay.from_estimator(
        [model, other], X, Y, feature=1, truth=lambda rows: np.arange(len(rows))
    ).plot()
    assert {line.get_linestyle() for line in [*display.lines_, display.truth_]} == {"None"}
    assert labels(display.ax_.xaxis) == names_of(levels)
    left, right = (line.get_xdata() for line in display.lines_)
    np.testing.assert_array_equal(np.round(left), np.arange(len(levels)))
    np.testing.assert_array_equal(np.round(right), np.arange(len(levels)))
    assert (left < right).all()
    x = display.scatter_.get_offsets()[:, 0]
    np.testing.assert_array_equal(np.round(x), CODES % len(levels))
    assert len(np.unique(x)) == len(x)  # rows of one category do not hide each other


@by_kind
def test_averages_are_over_the_categories_of_the_rows(kind):
    model, X, levels = fitted(kind)
    settings = {"feature": 0, "others": "average", "n_points": 2, "max_rows": len(SIZE)}
    display = RegressionCurveDisplay.from_estimator(model, X, **settings)
    of_levels = [model.predict(rows_at(X, display.grid[0], level)) for level in levels]
    shares = np.bincount(CODES % len(levels)) / len(CODES)
    np.testing.assert_allclose(display.predictions[0], shares @ of_levels, rtol=1e-10)


@by_kind
def test_a_surface_over_a_category_has_one_cell_for_each(kind):
    model, X, levels = fitted(kind)
    display = RegressionCurveDisplay.from_estimator(model, X, Y, feature=(1, 0), n_points=5).plot()
    for place, level in enumerate(levels):
        expected = model.predict(rows_at(X, display.grid[1], level))
        np.testing.assert_allclose(display.predictions[0][place], expected, rtol=1e-12)
    assert labels(display.ax_.xaxis) == names_of(levels)
    corners = display.surfaces_[0].get_coordinates()[0, :, 0]
    np.testing.assert_allclose(corners, np.arange(len(levels) + 1) - 0.5)
    assert display.categories == [names_of(levels), None]


@by_kind
def test_the_caller_says_where_features_are_held(kind):
    model, X, levels = fitted(kind)
    for level in levels:
        held = {1 if kind == "array" else "c": level}
        display = RegressionCurveDisplay.from_estimator(model, X, others=held, n_points=3)
        expected = model.predict(rows_at(X, display.grid[0], level))
        np.testing.assert_array_equal(display.predictions[0], expected)
    display = RegressionCurveDisplay.from_estimator(model, X, feature=1, others={0: 2})
    expected = [model.predict(rows_at(X, [2.0], level))[0] for level in levels]
    np.testing.assert_allclose(display.predictions[0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    "kind", ["categorical of integers", "categorical of text", "ordered", "text", "text of polars"]
)
def test_categories_of_other_estimators_are_told_by_dtype(kind):
    X, levels = table(kind)
    encode = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["c"]), remainder="passthrough"
    )
    model = make_pipeline(encode, Ridge(1e-8)).fit(X, Y)
    held = RegressionCurveDisplay.from_estimator(model, X, n_points=3)
    expected = model.predict(rows_at(X, held.grid[0], commonest(X, levels)))
    np.testing.assert_allclose(held.predictions[0], expected)
    along = RegressionCurveDisplay.from_estimator(model, X, feature="c")
    np.testing.assert_allclose(np.diff(along.predictions[0]), [-8, 3], atol=1e-6)


def test_a_number_that_a_later_step_takes_as_a_category_is_one():
    X = pd.DataFrame({"size": SIZE, "c": 4 + 2 * CODES})
    plain = NadarayaWatsonRegressor([0.3, 0.1], categorical_features=["c"])
    same = FunctionTransformer(feature_names_out="one-to-one")
    for model in (plain, make_pipeline(same, plain)):
        display = RegressionCurveDisplay.from_estimator(model.fit(X, Y), X, feature="c")
        assert display.categories == [["4", "6", "8"]]
    assert RegressionCurveDisplay.from_estimator(
        NadarayaWatsonRegressor([0.3, 0.1]).fit(X, Y), X, feature="c"
    ).categories == [None]


def test_missing_values_are_a_category_at_the_end_and_no_number():
    X = pd.DataFrame({"size": SIZE, "c": np.array(["a", "b", None], dtype=object)[CODES]})
    model = NadarayaWatsonRegressor([0.3, 0.1]).fit(X, Y)
    display = RegressionCurveDisplay.from_estimator(model, X, feature="c")
    assert display.categories == [["a", "b", "missing"]]
    at_median = X[X["c"].isna()].iloc[:1].assign(size=np.median(SIZE))
    assert display.predictions[0][2] == pytest.approx(model.predict(at_median)[0])


def test_medians_are_of_the_numbers_that_are_there():
    class Watched(Ridge):
        def predict(self, X):
            return np.full(len(X), X["size"].to_numpy()[0])

    X = pd.DataFrame({"x": SIZE, "size": pd.array([1, None, 3] * 40, dtype="Int64")})
    model = Watched().fit(X[["x"]], Y)
    display = RegressionCurveDisplay.from_estimator(model, X, feature="x", n_points=2)
    np.testing.assert_array_equal(display.predictions[0], [2.0, 2.0])


def test_bands_are_bars_at_categories():
    X, _ = table("categorical of text")
    encode = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["c"]), remainder="passthrough"
    )
    model = make_pipeline(encode, GaussianProcessRegressor(alpha=0.1, optimizer=None)).fit(X, Y)
    display = RegressionCurveDisplay.from_estimator(model, X, feature="c").plot()
    bars = np.array([segment[:, 1] for segment in display.bands_[0].get_segments()])
    np.testing.assert_allclose(bars, np.transpose(display.bands[0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"others": {"c": "grey"}}, r"'c' at one of its categories, \['blue', 'green', 'red'\]"),
        ({"others": {"size": 2.0}}, r"must not hold features that are drawn; got \['size'\]"),
        ({"feature": "c", "others": {"size": "big"}}, "hold 'size' at a number; got 'big'"),
        ({"others": {"d": 1}}, "X has no feature 'd'"),
        ({"feature": "name"}, "Feature 'name' has 120 categories, more than the 60"),
    ],
)
def test_curves_refuse(settings, message):
    X, _ = table("text")
    X = X.assign(name=[f"row {i}" for i in range(len(X))])
    model = NadarayaWatsonRegressor([0.3, 0.1, 1.0]).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        RegressionCurveDisplay.from_estimator(model, X, **settings)


@pytest.mark.parametrize("x", [["a", "b"], pd.Categorical([4, 6]), [True, False]])
def test_predictions_along_categories_are_refused(x):
    with pytest.raises(ValueError, match="x must hold numbers to be drawn along; got categories"):
        RegressionCurveDisplay.from_predictions(x, [1.0, 2.0])


# --- the other displays --------------------------------------------------------------------------


@by_kind
def test_neighbourhoods_are_drawn_along_numbers_first(kind):
    model, X, _ = fitted(kind)
    query = X.iloc[[7]] if hasattr(X, "iloc") else X[[7]]
    display = NeighborhoodDisplay.from_estimator(model, X, Y, query, top_k=5).plot()
    np.testing.assert_array_equal(display.X, [SIZE])
    assert display.query.tolist() == [SIZE[7]]
    inside = display.window_grid[0][display.distances <= 1]
    np.testing.assert_allclose(inside[[0, -1]], SIZE[7] + np.array([-0.3, 0.3]), atol=0.01)


@by_kind
@pytest.mark.parametrize("features", [1, (1, 0)])
def test_neighbourhoods_along_categories_have_places_and_no_window(kind, features):
    model, X, levels = fitted(kind)
    query = X.iloc[[7]] if hasattr(X, "iloc") else X[[7]]
    display = NeighborhoodDisplay.from_estimator(model, X, Y, query, features=features, top_k=5)
    np.testing.assert_array_equal(display.X[0], CODES % len(levels))
    assert display.query[0] == CODES[7] % len(levels)
    display.plot()
    assert display.window_ is None
    assert labels(display.ax_.xaxis) == names_of(levels)
    voters = display.voters_scatter_.get_offsets()[:, 0]
    np.testing.assert_array_equal(np.round(voters), (CODES % len(levels))[display.voters_])


def test_a_neighbourhood_of_categories_alone_is_drawn_along_the_first():
    X = table("text")[0][["c"]]
    model = NadarayaWatsonRegressor([0.1]).fit(X, Y)
    display = NeighborhoodDisplay.from_estimator(model, X, Y, X.iloc[[0]])
    assert display.categories == [["blue", "green", "red"]]


@pytest.mark.filterwarnings("ignore::sknw.UnseenCategoryWarning")
def test_a_query_of_an_unseen_category_has_no_place():
    model, X, _ = fitted("text")
    query = X.iloc[[0]].assign(c="grey")
    with pytest.raises(ValueError, match="'c' must be one of the categories of the rows"):
        NeighborhoodDisplay.from_estimator(model, X, Y, query, features="c")
    assert NeighborhoodDisplay.from_estimator(model, X, Y, query).feature_names == ["size"]


@by_kind
def test_attention_is_sorted_by_categories_and_tells_their_names(kind):
    model, X, levels = fitted(kind)
    display = AttentionDisplay.from_estimator(model, X, X_train=X, sort_by=1)
    order = np.argsort(CODES % len(levels), kind="stable")
    np.testing.assert_allclose(display.weights, model.attention_weights(X)[np.ix_(order, order)])
    expected = [names_of(levels)[code] for code in np.sort(CODES % len(levels))]
    assert display.key_values.tolist() == display.query_values.tolist() == expected
    display.plot().figure_.draw_without_rendering()
    assert set(labels(display.ax_.xaxis)) - {""} <= set(names_of(levels))


def test_maps_of_given_weights_may_be_sorted_by_texts():
    display = AttentionDisplay.from_weights(np.eye(3), key_values=["b", "c", "a"]).plot()
    display.figure_.draw_without_rendering()
    np.testing.assert_array_equal(display.weights[0, 0], np.eye(3)[:, [2, 0, 1]])
    assert {"a", "b", "c"} <= set(labels(display.ax_.xaxis))


@by_kind
def test_the_scale_of_a_category_is_the_distance_of_a_mismatch(kind):
    model, X, _ = fitted(kind)
    display = FeatureScaleDisplay.from_estimator(model, X).plot()
    expected = [SIZE.std() / 0.3, np.sqrt(-2 * np.log(0.1))]
    np.testing.assert_allclose(display.scales, expected)


@pytest.mark.parametrize("kind", ["dtype", "names", "positions"])
def test_all_steps_of_an_order_count_for_what_is_irrelevant(kind):
    codes = np.arange(120) % 12
    column = pd.Categorical(codes, ordered=True) if kind == "dtype" else codes
    X = pd.DataFrame({"size": SIZE, "c": column})
    given = {"dtype": "from_dtype", "names": {"c": "ordered"}, "positions": {1: "ordered"}}[kind]
    model = NadarayaWatsonRegressor([0.3, 0.996], categorical_features=given).fit(X, Y)
    assert FeatureScaleDisplay.from_estimator(model, X).irrelevant.tolist() == []
    model = NadarayaWatsonRegressor([0.3, 0.996], categorical_features=["c"])
    X = X.assign(c=codes)
    assert FeatureScaleDisplay.from_estimator(model.fit(X, Y), X).irrelevant.tolist() == [1]


@by_kind
def test_the_path_of_a_search_is_drawn_over_weights_of_categories(kind):
    model, _, _ = fitted(kind, NadarayaWatsonRegressor, BandwidthSearch(n_starts=1))
    display = BandwidthPathDisplay.from_estimator(model).plot()
    assert [axes.get_xscale() for axes in display.axes_] == ["log", "linear"]
    assert display.axes_[1].get_xlabel().startswith("weight λ of ")
    assert (display.trials_[1].get_xdata() <= 1).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@by_kind
def test_embeddings_have_a_column_for_each_category(kind):
    settings = {"w_init": 1.0, "max_iter": 1, "n_starts": 1, "tol": 1e9}
    X, levels = table(kind)
    categorical = [1] if kind in ("array", "booleans") else "from_dtype"
    model = ParametricNWRegressor(categorical_features=categorical, **settings).fit(X, Y)
    display = EmbeddingDisplay.from_estimator(model, X, Y, components=(0, 1)).plot()
    np.testing.assert_allclose(display.Z, model.transform(X)[:, :2])
    at_places = [np.unique(display.Z[CODES % len(levels) == c, 1].round(9)).size for c in (0, 1)]
    assert at_places == [1, 1]
