"""Categorical features: weights of Li and Racine, codes, containers, unseen and missing values."""

import itertools
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sknw import (
    BandwidthSearch,
    NadarayaWatsonRegressor,
    NeighborBandwidth,
    ParametricNWRegressor,
    UnseenCategoryWarning,
)

COLORS, SIZES = ["red", "green", "blue"], ["S", "M", "L", "XL"]


def table(n=60, seed=0):
    """A number, an unordered and an ordered category, and a target of all three."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": rng.uniform(0, 3, n),
            "color": pd.Categorical(rng.choice(COLORS, n), categories=COLORS),
            "size": pd.Categorical(rng.choice(SIZES, n), categories=SIZES, ordered=True),
        }
    )
    y = np.sin(2 * frame["x"]) + frame["color"].cat.codes + 0.3 * frame["size"].cat.codes
    return frame, (y + rng.normal(0, 0.1, n)).to_numpy()


def codes(frame):
    return np.column_stack([frame["x"], frame["color"].cat.codes, frame["size"].cat.codes])


def li_racine(queries, keys, bandwidth):
    """Attention weights (m, n) of the product kernel, from numeric codes."""
    h, unordered, ordered = bandwidth
    steps = queries[:, None, :] - keys[None, :, :]
    with np.errstate(divide="ignore"):
        weights = np.exp(-0.5 * (steps[..., 0] / h) ** 2)
    weights = weights * np.where(steps[..., 1] != 0, unordered, 1.0)
    weights = weights * ordered ** np.abs(steps[..., 2])
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("bandwidth", [[0.3, 0.4, 0.7], [1.0, 0.05, 0.2], [0.5, 1.0, 1.0]])
def test_weights_are_those_of_the_product_kernel(bandwidth):
    X, y = table()
    queries, _ = table(20, seed=1)
    model = NadarayaWatsonRegressor(bandwidth).fit(X, y)
    expected = li_racine(codes(queries), codes(X), bandwidth)
    np.testing.assert_allclose(model.attention_weights(queries), expected, atol=1e-12)
    np.testing.assert_allclose(model.predict(queries), expected @ y, rtol=1e-12)
    np.testing.assert_allclose(model.bandwidth_, bandwidth, rtol=1e-12)


def test_zero_is_an_exact_match_and_one_no_feature():
    X, y = table(200)
    exact = NadarayaWatsonRegressor([0.5, 0.0, 0.0]).fit(X, y)
    weights = exact.attention_weights(X)
    same = (codes(X)[:, None, 1:] == codes(X)[None, :, 1:]).all(axis=2)
    assert (weights[~same] < 1e-300).all()
    np.testing.assert_array_equal(exact.bandwidth_, [0.5, 0.0, 0.0])
    without = NadarayaWatsonRegressor([0.5]).fit(X[["x"]], y)
    irrelevant = NadarayaWatsonRegressor([0.5, 1.0, 1.0]).fit(X, y)
    np.testing.assert_allclose(irrelevant.predict(X), without.predict(X[["x"]]), rtol=1e-9)


def test_one_number_is_the_same_width_for_all():
    X, y = table()
    model = NadarayaWatsonRegressor(0.8).fit(X, y)
    lam = np.exp(-0.5 / 0.8**2)
    np.testing.assert_allclose(model.bandwidth_, [0.8, lam, lam])
    explicit = NadarayaWatsonRegressor([0.8, lam, lam]).fit(X, y)
    np.testing.assert_allclose(model.predict(X), explicit.predict(X), rtol=1e-12)


@pytest.mark.parametrize("criterion", ["loo", "aicc"])
def test_one_search_finds_bandwidths_and_lambdas(criterion):
    X, y = table(120)
    X["noise"] = pd.Categorical(np.random.default_rng(5).choice(list("abcd"), 120))
    model = NadarayaWatsonRegressor(criterion).fit(X, y)
    h, color, size, noise = model.bandwidth_
    assert 0.03 < h < 0.6
    assert color < 0.2 < noise <= 1
    assert 0 < size < 1
    if criterion == "loo":
        keys = codes(X)
        grid = itertools.product([0.1, 0.2, 0.3], [0.001, 0.02, 0.1], [0.05, 0.2, 0.5])
        losses = []
        for trial in grid:
            with np.errstate(invalid="ignore"):
                weights = li_racine(keys, keys, trial)
            np.fill_diagonal(weights, 0)
            losses.append(np.mean((weights @ y / weights.sum(axis=1) - y) ** 2))
        assert model.criterion_ <= min(losses)
        assert model.criterion_ == pytest.approx(np.mean((model.predict_loo() - y) ** 2), rel=1e-9)


def test_an_irrelevant_category_is_listed():
    X, y = table(200, seed=3)
    y = np.sin(2 * X["x"].to_numpy())
    model = NadarayaWatsonRegressor().fit(X, y)
    assert set(model.irrelevant_features_) <= {1, 2}
    assert model.irrelevant_features_.size
    np.testing.assert_allclose(model.bandwidth_[model.irrelevant_features_], 1.0, atol=1e-6)


def as_polars(frame):
    return pl.DataFrame(
        {
            "x": frame["x"].to_numpy(),
            "color": pl.Series(frame["color"].astype(str).tolist(), dtype=pl.Categorical()),
            "size": pl.Series(frame["size"].astype(str).tolist(), dtype=pl.Enum(SIZES)),
        }
    )


ORDERS = {"color": "unordered", "size": "ordered"}
CONTAINERS = {
    "pandas": (lambda X: X, "from_dtype"),
    "pandas-text": (lambda X: X.assign(color=X["color"].astype(str)), "from_dtype"),
    "pandas-names": (lambda X: X.astype({"color": str}), ["color", "size"]),
    "polars": (as_polars, ORDERS),
    "objects": (lambda X: X.to_numpy(dtype=object), [False, True, False]),
    "codes": (codes, {1: "unordered", 2: "ordered"}),
    "codes-in-another-order": (codes, {2: "ordered", 1: "unordered"}),
    "rows": (lambda X: codes(X).tolist(), {1: "unordered", 2: "ordered"}),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_says_the_same(container):
    convert, spec = CONTAINERS[container]
    X, y = table()
    if container == "objects":  # the last column stays a number
        X = X.assign(size=X["size"].cat.codes.astype(float))
    expected = NadarayaWatsonRegressor([0.3, 0.4, 0.7]).fit(X, y).predict(X)
    model = NadarayaWatsonRegressor([0.3, 0.4, 0.7], categorical_features=spec).fit(convert(X), y)
    np.testing.assert_allclose(model.predict(convert(X)), expected, rtol=1e-12)


def test_polars_categories_are_found_by_dtype():
    X, y = table()
    model = NadarayaWatsonRegressor([0.3, 0.4, 0.7]).fit(as_polars(X), y)
    unordered = X.assign(size=X["size"].astype(str))
    expected = NadarayaWatsonRegressor([0.3, 0.4, 0.7]).fit(unordered, y).predict(unordered)
    np.testing.assert_allclose(model.predict(as_polars(X)), expected, rtol=1e-12)


def test_none_takes_numbers_only():
    X, y = table()
    with pytest.raises(ValueError, match="could not convert string to float"):
        NadarayaWatsonRegressor(1.0, categorical_features=None).fit(X, y)


def test_the_order_of_categories_in_a_dtype_does_not_matter_for_values():
    X, y = table()
    model = NadarayaWatsonRegressor([0.3, 0.4, 0.7]).fit(X, y)
    other = X.assign(color=pd.Categorical(X["color"].astype(str), categories=COLORS[::-1]))
    np.testing.assert_array_equal(model.predict(other), model.predict(X))


def test_an_unseen_category_differs_from_every_seen_one():
    X, y = table()
    model = NadarayaWatsonRegressor([0.3, 0.4, 0.7]).fit(X, y)
    strange = X.head(4).assign(color=["violet", "red", "violet", "blue"])
    with pytest.warns(UnseenCategoryWarning, match="^2 rows have a category of 'color' that fit"):
        weights = model.attention_weights(strange)
    queries = codes(X.head(4))
    queries[[0, 2], 1] = -9
    queries[1, 1], queries[3, 1] = 0, 2
    expected = li_racine(queries, codes(X), [0.3, 0.4, 0.7])
    np.testing.assert_allclose(weights, expected, atol=1e-12)


def test_a_known_position_serves_an_unseen_ordered_category():
    X, y = table()
    seen = X["size"] != "M"
    model = NadarayaWatsonRegressor([0.3, 0.4, 0.7]).fit(X[seen], y[seen])
    queries = X[~seen].head(3)
    expected = li_racine(codes(queries), codes(X[seen]), [0.3, 0.4, 0.7])
    np.testing.assert_allclose(model.attention_weights(queries), expected, atol=1e-12)


def test_an_unknown_ordered_category_cancels():
    X, y = table()
    model = NadarayaWatsonRegressor([0.3, 0.4, 0.7]).fit(X, y)
    strange = X.head(3).assign(size="XXL")
    with pytest.warns(UnseenCategoryWarning, match="^3 rows"):
        found = model.predict(strange)
    without = NadarayaWatsonRegressor([0.3, 0.4]).fit(X[["x", "color"]], y)
    np.testing.assert_allclose(found, without.predict(X.head(3)[["x", "color"]]), rtol=1e-12)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_is_a_category_of_its_own(missing):
    X, y = table()
    hidden = X["color"] == "green"
    X["color"] = X["color"].astype(object)
    named = X.assign(color=X["color"].where(~hidden, "none"))
    X.loc[hidden, "color"] = missing
    bandwidth = [0.3, 0.4, 0.7]
    model = NadarayaWatsonRegressor(bandwidth).fit(X, y)
    expected = NadarayaWatsonRegressor(bandwidth).fit(named, y)
    np.testing.assert_allclose(model.predict(X), expected.predict(named), rtol=1e-12)


def test_missing_in_an_ordered_feature_is_equally_far_from_all():
    X, y = table()
    X.loc[:9, "size"] = None
    model = NadarayaWatsonRegressor([1e6, 1.0, 0.5]).fit(X, y)
    weights = model.attention_weights(X.head(1))[0]
    assert np.ptp(weights[:10]) < 1e-12
    assert np.ptp(weights[10:]) < 1e-12
    assert weights[0] > 1.5 * weights[10]


def test_missing_only_in_queries_counts_as_unseen():
    X, y = table()
    model = NadarayaWatsonRegressor([0.3, 0.4, 0.7]).fit(X, y)
    with pytest.warns(UnseenCategoryWarning):
        found = model.predict(X.assign(color=None).head(5))
    assert np.isfinite(found).all()


def test_a_feature_without_any_value_does_no_harm():
    X, y = table()
    model = NadarayaWatsonRegressor("scott").fit(X.assign(color=pd.Categorical([None] * 60)), y)
    with pytest.warns(UnseenCategoryWarning):
        assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("kernel", ["exponential", "epanechnikov"])
def test_other_kernels_take_a_mismatch_as_a_distance(kernel):
    X, y = table()
    model = NadarayaWatsonRegressor([0.8, 0.6, 0.8], kernel=kernel).fit(X, y)
    keys = codes(X)
    steps = keys[:, None, :] - keys[None, :, :]
    squares = (steps[..., 0] / 0.8) ** 2 - 2 * np.log(0.6) * (steps[..., 1] != 0)
    u = np.sqrt(squares - 2 * np.log(0.8) * np.abs(steps[..., 2]))
    weights = np.exp(-u) if kernel == "exponential" else np.clip(1 - u**2, 0, None)
    expected = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.attention_weights(X), expected, atol=1e-10)


def test_a_raw_table_works_in_pipelines_and_searches():
    X, y = table(90)
    model = NadarayaWatsonRegressor(BandwidthSearch(n_starts=1, max_iter=20, tol=1e-4))
    scores = cross_val_score(make_pipeline(FunctionTransformer(), model), X, y, cv=3)
    assert scores.mean() > 0.7
    grid = GridSearchCV(model, {"bandwidth__criterion": ["loo", "aicc"]}, cv=2).fit(X, y)
    assert grid.best_estimator_.n_features_in_ == 3
    selected = make_pipeline(
        make_column_transformer(("passthrough", ["size", "x"])).set_output(transform="pandas"),
        clone(model),
    ).fit(X, y)
    assert selected[-1].feature_names_in_.tolist() == ["passthrough__size", "passthrough__x"]


def test_a_pickle_keeps_the_categories():
    X, y = table()
    model = NadarayaWatsonRegressor("scott").fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict(X), model.predict(X))


def test_float32_numbers_stay_float32():
    X, y = table()
    assert (
        NadarayaWatsonRegressor("scott")
        .fit(X.astype({"x": np.float32}), y)
        .attention_weights(X.astype({"x": np.float32}))
        .dtype
        == np.float32
    )


def test_categories_alone_are_enough():
    X, y = table()
    model = NadarayaWatsonRegressor().fit(X[["color", "size"]], y)
    assert model.bandwidth_.shape == (2,)
    assert model.score(X[["color", "size"]], y) > 0.3


def test_weights_equal_repetition_with_categories():
    X, y = table(50)
    w = np.arange(50) % 3
    rows = np.repeat(np.arange(50), w)
    weighted = NadarayaWatsonRegressor().fit(X, y, sample_weight=w)
    repeated = NadarayaWatsonRegressor().fit(X.iloc[rows], y[rows])
    np.testing.assert_array_equal(weighted.bandwidth_, repeated.bandwidth_)


def test_aitchison_and_aitken_have_another_number_for_the_same_weights():
    X, y = table()
    model = NadarayaWatsonRegressor([0.3, 0.4, 0.7]).fit(X, y)
    other = model.aitchison_aitken()
    assert np.isnan(other[[0, 2]]).all()
    ratio = (other[1] / 2) / (1 - other[1])  # weight of a mismatch over that of a match
    assert ratio == pytest.approx(0.4)


REFUSED = [
    (
        ["shape"],
        r"names \['shape'\], which X does not have; its columns are \['x', 'color', 'size'\]",
    ),
    ([7], r"indices must be between 0 and 2; got \[7\]"),
    ([True], r"as a mask must have one value per feature, 3; got 1"),
    ({"color": "nominal"}, r"'ordered' or 'unordered' for a feature; got 'nominal' for 'color'"),
    ([[0, 1]], "a list of names, indices or booleans"),
    ([0.5], "a list of names, indices or booleans"),
]


@pytest.mark.parametrize(("spec", "message"), REFUSED)
def test_a_specification_that_does_not_fit_is_refused(spec, message):
    X, y = table()
    with pytest.raises(ValueError, match=message):
        NadarayaWatsonRegressor(1.0, categorical_features=spec).fit(X, y)


@pytest.mark.parametrize("nothing", [[], {}, [False, False, False]])
def test_no_category_at_all_is_fine(nothing):
    X, y = table()
    model = NadarayaWatsonRegressor(1.0, categorical_features=nothing).fit(codes(X), y)
    expected = NadarayaWatsonRegressor(1.0).fit(codes(X), y)
    np.testing.assert_array_equal(model.predict(codes(X)), expected.predict(codes(X)))
    assert model.is_categorical_ is None


def test_sparse_tables_are_refused_as_ever():
    X, y = table()
    with pytest.raises(TypeError, match="Sparse data was passed"):
        NadarayaWatsonRegressor(1.0, categorical_features=[1]).fit(csr_array(codes(X)), y)


def test_names_need_a_frame():
    X, y = table()
    with pytest.raises(ValueError, match="but X has no column names"):
        NadarayaWatsonRegressor(1.0, categorical_features=["color"]).fit(codes(X), y)


@pytest.mark.parametrize("bandwidth", [[0.3, 1.5, 0.5], [0.3, -0.1, 0.5]])
def test_lambda_lies_between_zero_and_one(bandwidth):
    X, y = table()
    with pytest.raises(ValueError, match=r"is λ, between 0 .* and 1 .*; got"):
        NadarayaWatsonRegressor(bandwidth).fit(X, y)


def test_neighbours_are_no_matter_of_categories():
    X, y = table()
    with pytest.raises(ValueError, match="X has categorical features: 'color', 'size'"):
        NadarayaWatsonRegressor(NeighborBandwidth(3)).fit(X, y)


def test_numbers_must_still_be_finite():
    X, y = table()
    X.loc[3, "x"] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        NadarayaWatsonRegressor(1.0).fit(X, y)


def test_a_failed_fit_leaves_the_estimator_as_it_was():
    X, y = table()
    model = NadarayaWatsonRegressor("scott").fit(X, y)
    before = model.predict(X)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(X.assign(x=np.nan), y)
    np.testing.assert_array_equal(model.predict(X), before)


def test_numeric_input_is_not_touched():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    expected = NadarayaWatsonRegressor("scott", categorical_features=None).fit(X, y)
    model = NadarayaWatsonRegressor("scott").fit(pd.DataFrame(X, columns=["a", "b"]), y)
    np.testing.assert_array_equal(model.bandwidth_, expected.bandwidth_)


# --- learned metrics -----------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["scalar", "diagonal", "full"])
def test_a_metric_is_learned_over_categories_too(metric):
    X, y = table(80)
    model = ParametricNWRegressor(metric, max_iter=30, n_starts=1, tol=1e-3).fit(X, y)
    assert model.score(X, y) > 0.7
    width = {"scalar": (), "diagonal": (3,), "full": (7, 7)}[metric]
    assert np.shape(model.w_) == width  # one column, three and three
    assert model.transform(X).shape == (80, 7)
    np.testing.assert_allclose(model.attention_weights(X) @ y, model.predict(X), rtol=1e-10)


def test_a_diagonal_metric_finds_what_a_search_finds():
    X, y = table(80)
    searched = NadarayaWatsonRegressor().fit(X, y)
    learned = ParametricNWRegressor(tol=1e-10).fit(X, y)
    assert learned.best_loss_ <= searched.criterion_ * 1.001
    widths = np.sqrt(-0.5 / np.log(learned.bandwidth_[1:])) / np.abs(learned.w_[1:])
    assert (np.exp(-0.5 / widths**2) < 0.9).all()  # both categories count


@pytest.mark.parametrize("ordered", [False, True])
def test_names_of_rows_are_no_columns_of_a_matrix(ordered):
    names = pd.Categorical([f"row {i:04d}" for i in range(1002)], ordered=ordered)
    X = pd.DataFrame({"name": names, "x": np.arange(1002.0)})
    model = ParametricNWRegressor("full", max_iter=1)
    with pytest.raises(ValueError, match=r"at most 1000 columns.*'name' has 1002.*'diagonal'"):
        model.fit(X, X["x"])
    assert not hasattr(model, "n_features_in_")
    model = ParametricNWRegressor("scalar", max_iter=1, n_starts=1, tol=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, X["x"])
    with pytest.raises(ValueError, match=r"at most 1000 columns.*'name' has 1002"):
        model.transform(X)


# --- which values are one category ---------------------------------------------------------------

CELLS = 617700169958293503 + 2 * np.array([0, 0, 1, 1, 2, 2])  # no float64 tells them apart
CELL_Y = np.array([0.0, 0, 10, 10, 20, 20])
HELD_BY = {
    "int64": lambda cells: pd.DataFrame({"cell": cells}),
    "uint64": lambda cells: pd.DataFrame({"cell": cells.astype(np.uint64) + np.uint64(2**63)}),
    "Int64": lambda cells: pd.DataFrame({"cell": pd.array(cells, dtype="Int64")}),
    "Int64-missing": lambda cells: pd.DataFrame(
        {"cell": pd.array(np.where(cells == CELLS[0], None, cells), dtype="Int64")}
    ),
    "object": lambda cells: pd.DataFrame({"cell": cells.astype(object)}),
    "Python": lambda cells: pd.DataFrame({"cell": pd.Series(cells.tolist(), dtype=object)}),
    "Categorical": lambda cells: pd.DataFrame({"cell": pd.Categorical(cells)}),
    "ordered": lambda cells: pd.DataFrame({"cell": pd.Categorical(cells, ordered=True)}),
    "text": lambda cells: pd.DataFrame({"cell": cells.astype(str)}),
    "polars": lambda cells: pl.DataFrame({"cell": cells}),
    "polars-uint64": lambda cells: pl.DataFrame({"cell": cells.astype(np.uint64)}),
    "array": lambda cells: cells[:, None],
    "array-beside-another": lambda cells: np.column_stack([cells, cells % 2]),
    "array-of-objects": lambda cells: cells[:, None].astype(object),
    "list": lambda cells: cells[:, None].tolist(),
    "tensor": lambda cells: torch.tensor(cells)[:, None],
}


@pytest.mark.parametrize("held_by", HELD_BY)
def test_large_integers_stay_apart(held_by):
    convert = HELD_BY[held_by]
    X = convert(CELLS)
    bandwidth = [0.0, 1.0][: X.shape[1] if hasattr(X, "shape") else 1]
    spec = list(range(len(bandwidth)))
    model = NadarayaWatsonRegressor(bandwidth, categorical_features=spec).fit(X, CELL_Y)
    np.testing.assert_allclose(model.predict(X), CELL_Y)
    order = [4, 0, 2]
    np.testing.assert_allclose(model.predict(convert(CELLS[order])), CELL_Y[order])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, 1.0),
        (True, 1),
        (np.int64(2**60 + 1), 2**60 + 1),
        (np.uint64(2**63 + 1), 2**63 + 1),
        (np.float32(0.5), 0.5),
        (0.0, -0.0),
        (np.str_("a"), "a"),
    ],
    ids=repr,
)
def test_equal_values_are_one_category_whatever_their_type(first, second):
    X = pd.DataFrame({"k": pd.Series([first, second, "other"], dtype=object)})
    model = NadarayaWatsonRegressor([1e-9], categorical_features=["k"]).fit(X, [0.0, 1, 5])
    np.testing.assert_allclose(model.predict(X)[:2], 0.5, rtol=1e-3)
    assert NadarayaWatsonRegressor("scott").fit(X, [0.0, 1, 5]).bandwidth_.shape == (1,)


@pytest.mark.parametrize(
    ("first", "second"), [(1, "1"), (True, "True"), (2**60, 2**60 + 1), (1, 2)]
)
def test_different_values_are_different_categories(first, second):
    X = pd.DataFrame({"k": pd.Series([first, second] * 3, dtype=object)})
    y = [0.0, 1.0] * 3
    for column in (X["k"], X["k"].astype("category")):
        model = NadarayaWatsonRegressor([0.01], categorical_features=["k"])
        np.testing.assert_allclose(model.fit(X.assign(k=column), y).predict(X), y, atol=0.02)


def test_the_order_of_rows_of_mixed_categories_does_not_matter():
    X = pd.DataFrame({"x": np.arange(6.0), "room": ["a", 12, "b", 3.5, "a", 12]})
    y = np.array([0.0, 1, 2, 3, 4, 5])
    model = NadarayaWatsonRegressor([1.0, 0.3]).fit(X, y)
    shuffled = NadarayaWatsonRegressor([1.0, 0.3]).fit(X[::-1], y[::-1])
    np.testing.assert_array_equal(model.predict(X), shuffled.predict(X))


def test_categories_must_be_hashable():
    X = pd.DataFrame({"x": [0.0, 1.0], "k": [[1], [2]]})
    with pytest.raises(ValueError, match="can be hashed; 'k' has some that cannot"):
        NadarayaWatsonRegressor(1.0, categorical_features=["k"]).fit(X, [0.0, 1.0])
