"""Equal rows: which are copies of one observation, and what leave-one-out makes of the others."""

import pickle

import numpy as np
import pandas as pd
import pytest
import reference

from sknw import BandwidthSearch, NadarayaWatsonRegressor, NeighborBandwidth, ParametricNWRegressor
from sknw.data.observations import Observations

CRITERIA = ["loo", "loo_absolute", "aicc", "gcv"]


def rng(seed=0):
    return np.random.default_rng(seed)


def decided(X, y, duplicates="auto", **fit):
    """What was decided for how many rows with equals."""
    return NadarayaWatsonRegressor(1.0, duplicates=duplicates).fit(X, y, **fit).duplicates_


# --- which they are ---


def survival():
    draw = rng()
    X = pd.DataFrame({"sex": draw.choice(["m", "f"], 900), "class": draw.choice(list("abc"), 900)})
    return X, (draw.uniform(size=900) < np.where(X["sex"] == "f", 0.7, 0.2)).astype(float)


def bootstrap(rounded=False, binary=False, n=300, seed=1):
    draw = rng(seed)
    X, y = draw.normal(size=(n, 2)), draw.normal(size=n)
    X = X.round(1) if rounded else X
    chosen = draw.integers(n, size=n)
    return X[chosen], ((y > 0).astype(float) if binary else y)[chosen]


def copied_rows(share=0.2, n=300):
    X, y = rng(2).normal(size=(n, 2)), rng(3).normal(size=n)
    some = slice(int(share * n))
    return np.vstack([X, X[some]]), np.append(y, y[some])


def repeated(n=200):
    X, y, times = rng(4).normal(size=(n, 3)), rng(5).normal(size=n), rng(6).integers(1, 5, n)
    return np.repeat(X, times, axis=0), np.repeat(y, times)


def lookup_table():
    shop = rng(7).integers(40, size=120)
    return pd.DataFrame({"shop": [f"number {at}" for at in shop]}), 1.5 * shop + 0.25


COINCIDENCES = {
    "survival by class and sex": survival(),
    "a binary outcome on whole years": (
        rng().integers(18, 80, size=(500, 1)),
        rng(1).integers(2, size=500),
    ),
    "counts on integers": (rng().integers(30, size=(400, 1)), rng(1).poisson(3, size=400)),
    "amounts, many of them zero": (
        rng().integers(100, size=(600, 1)),
        np.where(rng(1).uniform(size=600) < 0.5, 0, rng(2).exponential(size=600)),
    ),
    "a survey": (rng().integers(1, 6, size=(800, 4)), rng(1).integers(1, 6, size=800)),
    "hours and counts": (np.arange(960)[:, None] % 24, rng().poisson(20, size=960)),
    "a lookup table": lookup_table(),
    "one place": (np.zeros((100, 1)), np.arange(100) % 2),
}
COPIES = {
    "a bootstrap sample": bootstrap(),
    "a bootstrap sample of rounded features": bootstrap(rounded=True),
    "a bootstrap sample of a binary outcome": bootstrap(binary=True),
    "a small bootstrap sample": bootstrap(n=40),
    "a fifth of the rows copied": copied_rows(),
    "rows repeated for their weights": repeated(),
}


@pytest.mark.parametrize("name", COINCIDENCES)
def test_coincidences_that_are_to_be_expected_are_rows(name):
    X, y = COINCIDENCES[name]
    found = decided(X, y)
    assert found["merge"] == 0
    assert found["keep"] > 0


@pytest.mark.parametrize("name", COPIES)
def test_coincidences_that_cannot_be_chance_are_copies(name):
    X, y = COPIES[name]
    found = decided(X, y)
    assert found["keep"] == 0
    assert found["merge"] > 0


@pytest.mark.parametrize("name", [*COINCIDENCES, *COPIES])
def test_the_rule_is_that_of_the_reference(name):
    X, y = {**COINCIDENCES, **COPIES}[name]
    model = NadarayaWatsonRegressor(1.0).fit(X, y)
    is_table = isinstance(X, pd.DataFrame)
    codes = X.apply(lambda column: pd.factorize(column)[0]).to_numpy() if is_table else X
    copies = reference.copies(codes, y, all_categories=is_table)
    # observations, each counted by its rows' shares of it
    assert model.n_observations_ == pytest.approx(np.sum(1 / copies.sum(axis=1)))


@pytest.mark.parametrize("name", [*COINCIDENCES, *COPIES])
def test_the_user_can_decide(name):
    X, y = {**COINCIDENCES, **COPIES}[name]
    n_equal = sum(decided(X, y).values())
    assert decided(X, y, "keep") == {"keep": n_equal, "merge": 0}
    assert decided(X, y, "merge") == {"keep": 0, "merge": n_equal}
    kept = NadarayaWatsonRegressor(1.0, duplicates="keep").fit(X, y)
    assert kept.n_observations_ == len(y)


def test_without_equal_rows_there_is_nothing_to_decide():
    X, y = rng().normal(size=(50, 2)), np.zeros(50)
    model = NadarayaWatsonRegressor(1.0).fit(X, y)
    assert model.duplicates_ == {"keep": 0, "merge": 0}
    assert model.n_observations_ == 50


@pytest.mark.parametrize("name", ["a binary outcome on whole years", "a bootstrap sample"])
def test_the_decision_depends_on_the_set_of_rows_alone(name):
    X, y = {**COINCIDENCES, **COPIES}[name]
    order, weights = rng().permutation(len(y)), rng(1).uniform(0.1, 5, size=len(y))
    assert decided(X[order], y[order]) == decided(X, y)
    assert decided(X, y, sample_weight=weights) == decided(X, y)
    some = np.append(weights, 0)  # a row of weight zero is no row
    assert decided(np.vstack([X, X[:1]]), np.append(y, y[0]), sample_weight=some) == decided(X, y)


def test_negative_zero_equals_zero():
    X = np.repeat(rng().normal(size=(30, 1)), 2, axis=0)
    X[:2] = [[0.0], [-0.0]]
    model = NadarayaWatsonRegressor(0.5).fit(X, np.repeat(rng(1).normal(size=30), 2))
    assert model.n_observations_ == 30


def test_different_rows_that_share_a_code_stay_apart(monkeypatch):
    def same_code(rows):
        return np.zeros(len(rows), np.uint64)

    monkeypatch.setattr("sknw.data.duplicates._row_codes", same_code)
    X = np.repeat(rng().normal(size=(20, 2)), 2, axis=0)
    found = Observations.of(X, np.arange(40.0)[:, None], np.ones(40), duplicates="merge")
    assert len(found) == 40
    np.testing.assert_array_equal(found.X[found.cell][found.group], X)


# --- what follows ---


@pytest.mark.parametrize("name", [*COINCIDENCES, *COPIES])
def test_duplicates_never_change_a_prediction_at_a_fixed_bandwidth(name):
    X, y = {**COINCIDENCES, **COPIES}[name]
    queries = X[:40]
    predictions = [
        NadarayaWatsonRegressor(0.7, duplicates=how).fit(X, y).predict(queries)
        for how in ("auto", "keep", "merge")
    ]
    for found in predictions[1:]:
        np.testing.assert_allclose(found, predictions[0], rtol=1e-12, atol=1e-13 * np.ptp(y))


def grid_data(n=90, seed=0, n_outputs=None):
    """Integers with weights, where groups of equal rows have one, two and many rows."""
    draw = rng(seed)
    X = draw.integers(6, size=(n, 2)).astype(float)
    y = (draw.uniform(size=n) < 0.2 + 0.1 * X[:, 0]).astype(float)
    y = y + 0.5 * (draw.uniform(size=n) < 0.3)
    if n_outputs is not None:
        y = np.column_stack([y, (y > 0) + X[:, 1] % 2])
    return X, y, draw.choice([0.0, 0.5, 1.0, 3.0], size=n)


@pytest.mark.filterwarnings("ignore::sknw.EmptyNeighborhoodWarning")
@pytest.mark.parametrize("duplicates", ["auto", "keep", "merge"])
@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "epanechnikov", "tophat"])
@pytest.mark.parametrize("bandwidth", [0.02, 0.9, 2.5])
def test_leave_one_out_is_that_of_the_reference(kernel, bandwidth, duplicates):
    X, y, w = grid_data()
    model = NadarayaWatsonRegressor(bandwidth, kernel=kernel, duplicates=duplicates)
    model.set_params(empty_neighborhood="mean").fit(X, y, w)
    expected = reference.predict_loo(
        kernel, X, y, bandwidth, w, empty="mean", duplicates=duplicates
    )
    np.testing.assert_allclose(model.predict_loo(), expected, rtol=1e-11, atol=1e-12)
    attention = model.attention_weights()
    np.testing.assert_allclose(attention @ y, expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-12)
    assert not attention[reference.copies(X, y, w, duplicates)].any()


@pytest.mark.parametrize("duplicates", ["auto", "keep", "merge"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_criteria_are_those_of_the_reference(criterion, duplicates):
    X, y, w = grid_data()
    search = BandwidthSearch(criterion, per_feature=False)
    model = NadarayaWatsonRegressor(search, duplicates=duplicates).fit(X, y, w)
    expected = reference.CRITERIA[criterion](
        "gaussian", X, y, model.bandwidth_, w, duplicates=duplicates
    )
    assert model.criterion_ == pytest.approx(expected, rel=1e-8)
    for factor in (0.9, 1.1):  # a minimum
        beside = reference.CRITERIA[criterion](
            "gaussian", X, y, factor * model.bandwidth_, w, duplicates=duplicates
        )
        assert beside >= expected - 1e-9


def test_several_outputs_share_cells():
    X, y, w = grid_data(n_outputs=2)
    model = NadarayaWatsonRegressor().fit(X, y, w)
    expected = reference.loo_loss("gaussian", X, y, model.bandwidth_, w)
    assert model.criterion_ == pytest.approx(expected, rel=1e-8)
    loo = reference.predict_loo("gaussian", X, y, model.bandwidth_, w)
    np.testing.assert_allclose(model.predict_loo(), loo, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("metric", ["scalar", "diagonal", "full"])
def test_a_learned_metric_minimises_the_row_wise_loss(metric):
    X, y, w = grid_data()
    model = ParametricNWRegressor(metric, bandwidth=1.0).fit(X, y, w)
    Z = model.transform(X)
    assert model.best_loss_ == pytest.approx(reference_loss(Z, X, y, w), rel=1e-6)


def reference_loss(Z, X, y, w):
    """The leave-one-out loss of an embedding, rows told apart by X."""
    exclude = reference.copies(X, y, w)
    predictions = reference.predict("gaussian", Z, Z, y, 1.0, w, exclude)
    return np.average((y - predictions) ** 2, weights=w)


def test_a_network_trains_on_rows():
    X, y, w = grid_data(n=60)
    model = ParametricNWRegressor("mlp", max_iter=3, n_starts=1, random_state=0)
    with pytest.warns(UserWarning, match="did not converge"):
        model.fit(X, y, w)
    assert model.best_loss_ == pytest.approx(reference_loss(model.transform(X), X, y, w), rel=1e-5)


@pytest.mark.parametrize("duplicates", ["auto", "keep", "merge"])
def test_effective_neighbors_count_observations(duplicates):
    X, y, w = grid_data()
    model = NadarayaWatsonRegressor(0.9, duplicates=duplicates).fit(X, y, w)
    observed = reference.merge_copies(X, y, w, duplicates)
    expected = reference.effective_neighbors("gaussian", X, observed[0], 0.9, observed[2])
    np.testing.assert_allclose(model.effective_neighbors(X), expected, rtol=1e-9)


def test_a_hundred_rows_at_one_place_are_a_hundred_neighbors():
    model = NadarayaWatsonRegressor(1.0).fit(np.zeros((100, 1)), np.arange(100) % 2)
    assert model.effective_neighbors([[0.0]]) == pytest.approx([100.0])


def test_rules_of_thumb_count_observations():
    X, y = COINCIDENCES["a binary outcome on whole years"]
    model = NadarayaWatsonRegressor("scott").fit(X, y)
    assert model.bandwidth_ == pytest.approx(np.std(X) * len(y) ** -0.2, rel=1e-12)


def test_a_light_row_keeps_its_digits_beside_a_heavy_one():
    X, y = np.array([[0.0], [0.0], [0.0], [9.0]]), np.array([1.0, 2.0, 3.0, 7.0])
    model = NadarayaWatsonRegressor(0.5).fit(X, y, [1e20, 1.0, 3.0, 1.0])
    assert model.predict_loo()[0] == pytest.approx((2 + 9) / 4, rel=1e-15)


@pytest.mark.filterwarnings("ignore::sknw.EmptyNeighborhoodWarning")
@pytest.mark.parametrize("kernel", ["gaussian", "tricube"])
def test_two_rows_at_one_place_predict_each_other(kernel):
    X, y = np.array([[0.0], [0.0], [50.0]]), np.array([1.0, 2.0, 3.0])
    model = NadarayaWatsonRegressor(0.5, kernel=kernel, empty_neighborhood="nan").fit(X, y)
    np.testing.assert_allclose(model.predict_loo()[:2], [2.0, 1.0], rtol=1e-15)


def test_neighbor_bandwidths_count_rows():
    X = np.array([[0.0], [0.0], [1.0], [3.0]])
    y = np.array([1.0, 1.0, 2.0, 5.0])
    kept = NadarayaWatsonRegressor(NeighborBandwidth(2), duplicates="keep").fit(X, y)
    np.testing.assert_array_equal(kept.bandwidth_, [1.0, 1.0, 1.0, 3.0])
    merged = NadarayaWatsonRegressor(NeighborBandwidth(2), duplicates="merge").fit(X, y)
    np.testing.assert_array_equal(merged.bandwidth_, [3.0, 3.0, 2.0, 3.0])
    np.testing.assert_allclose(kept.attention_weights() @ y, kept.predict_loo())


def test_discrete_outcomes_are_predicted_by_their_shares():
    X, y = survival()
    y = pd.Series(y)
    shares = y.groupby([X["sex"], X["class"]]).transform("mean")
    for bandwidth in CRITERIA:
        model = NadarayaWatsonRegressor(bandwidth).fit(X, y)
        np.testing.assert_allclose(model.predict(X), shares, atol=0.06)
        others = np.square(y - model.predict_loo()).mean()
        assert others < 1.01 * np.square(y - shares).mean() * len(y) / (len(y) - 6)


def test_a_million_rows_in_twenty_cells_have_four_hundred_pairs():
    n = 1_000_000
    X, y = rng().integers(20, size=(n, 1)).astype(float), rng(1).integers(2, size=n).astype(float)
    model = NadarayaWatsonRegressor(BandwidthSearch("loo", n_held_out=n)).fit(X, y)
    assert model.predict_loo().shape == (n,)
    assert model.sums_report_["n_keys"] == 20
    cell_means = np.bincount(X[:, 0].astype(int), weights=y) / np.bincount(X[:, 0].astype(int))
    np.testing.assert_allclose(model.predict(np.arange(20.0)[:, None]), cell_means, atol=0.01)


@pytest.mark.parametrize(("n_tied", "n_keys"), [(6, 100), (40, 80)])
def test_sums_are_shared_where_many_rows_are_tied_and_equal_the_reference_in_any_case(
    n_tied, n_keys
):
    X, y, weights = rng().normal(size=(100, 2)), rng(1).normal(size=100), rng(2).uniform(1, 2, 100)
    X[1:n_tied:2] = X[0:n_tied:2]
    model = NadarayaWatsonRegressor(0.4, algorithm="dense").fit(X, y, weights)
    np.testing.assert_allclose(
        model.predict_loo(), reference.predict_loo("gaussian", X, y, 0.4, weights), rtol=1e-12
    )
    queries = rng(3).normal(size=(20, 2))
    expected = reference.predict("gaussian", queries, X, y, 0.4, weights)
    np.testing.assert_allclose(model.predict(queries), expected, rtol=1e-12)
    assert model.sums_report_["n_keys"] == n_keys


def test_a_hundred_thousand_rows_in_cells_are_searched_on_all_of_them():
    n = 100_000
    X, y = rng().integers(50, size=(n, 1)).astype(float), rng(1).integers(2, size=n).astype(float)
    model = NadarayaWatsonRegressor().fit(X, y)
    assert model.n_observations_ == n
    assert model.search_report_["n_rows"] == n


def test_a_pickle_holds_no_more_than_the_rows():
    X, y = rng().normal(size=(5000, 4)), rng(1).normal(size=5000)
    model = NadarayaWatsonRegressor().fit(X, y)
    size = len(pickle.dumps(model))
    # X, y, weights, and for each row its observation, its share and its cell
    assert size < 1.1 * (X.nbytes + 5 * y.nbytes)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_loo(), model.predict_loo())


# --- y keeps its digits and its precision ---


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_a_remote_target_out_of_reach_costs_no_digits(weight):
    x = np.linspace(0, 10, 101)[:, None]
    y, w = np.sin(x[:, 0]), np.ones(101)
    without = NadarayaWatsonRegressor(0.25, kernel="epanechnikov").fit(x[:-1], y[:-1])
    y[100], w[100] = 1e20, weight
    model = NadarayaWatsonRegressor(0.25, kernel="epanechnikov").fit(x, y, w)
    queries = x[:90]
    np.testing.assert_allclose(model.predict(queries), without.predict(queries), rtol=1e-13)
    np.testing.assert_allclose(model.predict_loo()[:90], without.predict_loo()[:90], rtol=1e-13)


@pytest.mark.parametrize("X_dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("y_dtype", "expected"),
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int32, np.float64),
        (np.float16, np.float64),
        (bool, np.float64),
    ],
)
def test_predictions_have_the_precision_of_y(X_dtype, y_dtype, expected):
    X, y = rng().normal(size=(30, 1)).astype(X_dtype), (np.arange(30) % 5).astype(y_dtype)
    model = NadarayaWatsonRegressor(0.5).fit(X, y)
    assert model.predict(X).dtype == expected
    assert model.predict(X.astype(float)).dtype == expected
    assert model.predict_loo().dtype == expected


def test_float32_features_keep_the_digits_of_y():
    X = np.linspace(0, 5, 200)[:, None]
    y = 1.7e9 + np.sin(X[:, 0])
    double = NadarayaWatsonRegressor(0.1).fit(X, y)
    single = NadarayaWatsonRegressor(0.1).fit(X.astype(np.float32), y)
    queries = X[::7]
    found = single.predict(queries.astype(np.float32))
    np.testing.assert_allclose(found, double.predict(queries), rtol=0, atol=2e-5)
    np.testing.assert_allclose(single.predict_loo(), double.predict_loo(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["query", "key"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float64_queries_are_the_rows_of_a_float32_model(kind, offset):
    X = (offset + rng(9).normal(size=(120, 2))).astype(np.float32)
    y = rng(10).normal(size=120)
    for bandwidth in (NeighborBandwidth(3, kind=kind), 0.4):
        model = NadarayaWatsonRegressor(bandwidth).fit(X, y)
        np.testing.assert_allclose(
            model.predict(X.astype(float)), model.predict(X), atol=1e-4 * np.ptp(y)
        )
