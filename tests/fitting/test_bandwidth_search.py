"""`BandwidthSearch` and `NeighborBandwidth`: parameters, what they find and what they refuse."""

import numpy as np
import pytest
import reference
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor

from sknw import BandwidthSearch, NadarayaWatsonRegressor, NeighborBandwidth, ParametricNWRegressor


def curve(n=60, d=1, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, d))
    return X, np.sin(2 * X[:, 0]) + rng.normal(0, noise, n)


def search(X, y, **settings):
    return NadarayaWatsonRegressor(BandwidthSearch(**settings)).fit(X, y)


def test_a_name_is_the_search_with_its_defaults():
    X, y = curve(50, 2)
    for criterion in ("loo", "aicc"):
        by_name = NadarayaWatsonRegressor(criterion).fit(X, y)
        np.testing.assert_array_equal(
            by_name.bandwidth_, search(X, y, criterion=criterion).bandwidth_
        )


def test_parameters_nest_in_a_grid_search():
    X, y = curve(60, 2)
    grid = GridSearchCV(
        NadarayaWatsonRegressor(BandwidthSearch()),
        {"bandwidth__criterion": ["loo", "gcv"], "bandwidth__per_feature": [True, False]},
        cv=2,
    ).fit(X, y)
    assert len(grid.cv_results_["params"]) == 4
    assert isinstance(clone(grid.best_estimator_).bandwidth, BandwidthSearch)


def test_one_common_bandwidth_is_a_float_and_the_best_of_its_kind():
    X, y = curve(60, 3, seed=1)
    model = search(X, y, per_feature=False)
    assert isinstance(model.bandwidth_, float)
    losses = [reference.loo_loss("gaussian", X, y, h) for h in np.geomspace(0.05, 50, 60)]
    assert model.criterion_ <= min(losses) * (1 + 1e-9)
    at_bandwidth = reference.loo_loss("gaussian", X, y, model.bandwidth_)
    assert model.criterion_ == pytest.approx(at_bandwidth, rel=1e-9)
    assert search(X, y).criterion_ < model.criterion_


def two_scales():
    """A target with a slow and a fast wave: the criterion has a minimum for each."""
    rng = np.random.default_rng(3)
    X = np.sort(rng.uniform(0, 10, 120))[:, None]
    y = np.sin(0.6 * X[:, 0]) + 0.45 * np.sin(25 * X[:, 0]) + rng.normal(0, 0.25, 120)
    return X, y


@pytest.mark.parametrize("per_feature", [True, False])
def test_local_minima_are_told_apart(per_feature):
    X, y = two_scales()
    scan = np.geomspace(0.01, 5, 200)
    losses = np.array(reference.loo_losses("gaussian", X, y, scan))
    inner = losses[1:-1]
    minima = np.flatnonzero((inner < losses[:-2]) & (inner < losses[2:]))
    assert len(minima) >= 2  # else this test says nothing
    model = search(X, y, per_feature=per_feature)
    assert model.criterion_ <= losses.min() * (1 + 1e-9)


def test_bounds_are_kept():
    X, y = curve(60, 2, seed=2)
    free = search(X, y)
    pair = search(X, y, bounds=(0.5, 1.0))
    assert ((pair.bandwidth_ >= 0.5) & (pair.bandwidth_ <= 1.0)).all()
    assert pair.criterion_ >= free.criterion_
    each = search(X, y, bounds=[(0.3, 0.3), (0.1, 5.0)])
    assert each.bandwidth_[0] == pytest.approx(0.3)
    assert each.irrelevant_features_.tolist() in ([0], [0, 1])


def test_irrelevant_features_are_listed():
    X, y = curve(300, 4, seed=6, noise=0.1)
    model = search(X, y)
    assert 0 not in model.irrelevant_features_
    at_bound = np.flatnonzero(model.bandwidth_ > 1000 * np.ptp(X, axis=0))
    np.testing.assert_array_equal(model.irrelevant_features_, at_bound)
    assert model.irrelevant_features_.size


def test_the_path_has_every_evaluation():
    X, y = curve(60, 2)
    model = search(X, y)
    path = model.search_path_
    n = model.search_report_["n_evaluations"]
    assert path["bandwidth"].shape == (n, 2)
    assert path["criterion"].shape == (n,)
    assert np.nanmin(path["criterion"]) == pytest.approx(model.criterion_, rel=1e-12)
    some = len(path["criterion"]) // 2
    expected = reference.loo_loss("gaussian", X, y, path["bandwidth"][some])
    assert path["criterion"][some] == pytest.approx(expected, rel=1e-8)


def test_more_starts_look_at_more_and_are_never_worse():
    X, y = curve(50, 4, seed=8)
    one, many = search(X, y, n_starts=1), search(X, y, n_starts=12)
    assert many.criterion_ <= one.criterion_ * (1 + 1e-9)
    assert many.search_report_["n_evaluations"] > one.search_report_["n_evaluations"]


@pytest.mark.parametrize("kernel", ["epanechnikov", "tophat", "tricube"])
def test_many_features_with_a_kernel_that_has_an_edge(kernel):
    # the criterion with all features is the one with the first two where the others are out
    X, y = curve(150, 18, seed=9, noise=0.2)
    y = y + X[:, 1]
    model = NadarayaWatsonRegressor(kernel=kernel).fit(X, y)
    of_two = NadarayaWatsonRegressor(kernel=kernel).fit(X[:, :2], y)
    assert model.criterion_ <= of_two.criterion_ * 1.01
    at_bandwidth = reference.loo_loss(kernel, X, y, model.bandwidth_)
    assert model.criterion_ == pytest.approx(at_bandwidth, rel=1e-9)
    assert model.search_report_["n_evaluations"] < 20 * X.shape[1]
    lowest = np.nanmin(model.search_path_["criterion"])
    assert model.criterion_ == pytest.approx(lowest, rel=1e-9)


def test_bounds_are_kept_with_many_features_and_a_kernel_that_has_an_edge():
    X, y = curve(100, 18, seed=9)
    bounds = [(1.5, 2.5)] * 2 + [(3.0, 30.0)] * 16
    model = NadarayaWatsonRegressor(BandwidthSearch(bounds=bounds), kernel="epanechnikov").fit(X, y)
    low, high = np.transpose(bounds)
    assert ((model.bandwidth_ >= low) & (model.bandwidth_ <= high)).all()
    scan = [np.clip(h, low, high) for h in np.geomspace(1.5, 30, 30)]
    assert model.criterion_ <= min(reference.loo_losses("epanechnikov", X, y, scan)) * (1 + 1e-9)


def test_many_categories_with_a_kernel_that_has_an_edge():
    rng = np.random.default_rng(2)
    numbers, _ = curve(120, 15, seed=3)
    X = np.column_stack([rng.integers(0, 3, (120, 2)), numbers])
    y = 2.0 * X[:, 0] + np.sin(2 * X[:, 2]) + 0.1 * rng.normal(size=120)
    model = NadarayaWatsonRegressor(kernel="epanechnikov", categorical_features=[0, 1])
    model.fit(X, y)
    assert model.criterion_ == pytest.approx(np.mean((model.predict_loo() - y) ** 2), rel=1e-9)
    assert model.criterion_ < 0.2 * y.var()


def test_few_steps_end_with_a_warning():
    X, y = curve(60, 3)
    with pytest.warns(UserWarning, match="stopped after 1 steps"):
        search(X, y, max_iter=1)


def test_a_loose_tolerance_takes_fewer_evaluations():
    X, y = curve(300, 3)
    loose = search(X, y, tol=1e-2, n_starts=1).search_report_["n_evaluations"]
    assert loose < search(X, y, tol=1e-12, n_starts=1).search_report_["n_evaluations"]


def test_rows_held_out_are_counted_and_neighbours_are_all():
    X, y = curve(400, 1, seed=4)
    full, sampled = search(X, y), search(X, y, n_held_out=150)
    assert full.search_report_["n_held_out"] == 400
    assert sampled.search_report_["n_held_out"] == 150
    assert sampled.search_report_["n_rows"] == 400
    # with all rows as neighbours the bandwidth is not that of 150 rows
    assert sampled.bandwidth_[0] == pytest.approx(full.bandwidth_[0], rel=0.5)
    assert search(X, y, n_held_out=400).search_report_["n_held_out"] == 400


def test_a_second_fit_finds_the_same():
    X, y = curve(60, 3)
    np.testing.assert_array_equal(search(X, y).bandwidth_, search(X, y).bandwidth_)


def test_the_settings_object_is_left_alone():
    X, y = curve(40)
    settings = BandwidthSearch("gcv", n_starts=2)
    before = settings.get_params()
    NadarayaWatsonRegressor(settings).fit(X, y)
    assert vars(settings) == before


def test_a_fixed_bandwidth_forgets_an_earlier_search():
    X, y = curve(40)
    model = NadarayaWatsonRegressor().fit(X, y)
    model.set_params(bandwidth=0.5).fit(X, y)
    for name in ("criterion_", "search_report_", "search_path_", "irrelevant_features_"):
        assert not hasattr(model, name)


REFUSED = [
    ({"criterion": "bic"}, "'criterion' parameter of BandwidthSearch must be"),
    ({"n_starts": 0}, "'n_starts' parameter of BandwidthSearch"),
    ({"bounds": (2.0, 1.0)}, "the lowest not above the highest"),
    ({"bounds": (0.0, 1.0)}, "bounds must be positive and finite"),
    (
        {"bounds": [(0.1, 1.0)] * 3},
        r"a pair \(lowest, highest\), or one pair per feature, \(2, 2\)",
    ),
    ({"bounds": "wide"}, "bounds must be 'auto'"),
    ({"tol": -1.0}, "'tol' parameter of BandwidthSearch"),
    ({"n_held_out": 1}, "'n_held_out' parameter of BandwidthSearch"),
    ({"per_feature": "yes"}, "'per_feature' parameter of BandwidthSearch"),
    ({"max_iter": 0}, "'max_iter' parameter of BandwidthSearch"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_bad_settings_are_refused(settings, message):
    X, y = curve(30, 2)
    with pytest.raises(ValueError, match=message):
        search(X, y, **settings)


# --- nearest-neighbour bandwidths ----------------------------------------------------------------


def radii(X, queries, k, is_row):
    """Distance from each query to its k-th nearest other row."""
    distances = np.sort(np.linalg.norm(queries[:, None] - X[None], axis=2), axis=1)
    return distances[:, k] if is_row else distances[:, k - 1]


def local_weights(kernel, X, queries, h_query, h_key, exclude=False):
    distances = np.linalg.norm(queries[:, None] - X[None], axis=2)
    u = distances / (h_key[None] if h_query is None else h_query[:, None])
    weights = np.exp(-u * u / 2) if kernel == "gaussian" else np.clip(1 - u * u, 0, None)
    if exclude:
        np.fill_diagonal(weights, 0)
    return weights / weights.sum(axis=1, keepdims=True)


over_kinds = pytest.mark.parametrize("kind", ["query", "key"])
over_kernels = pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])


@over_kinds
@over_kernels
@pytest.mark.parametrize("d", [1, 3])
def test_neighbour_windows_are_the_formula(kind, kernel, d):
    X, y = curve(60, d)
    queries, _ = curve(25, d, seed=1)
    model = NadarayaWatsonRegressor(NeighborBandwidth(7, kind=kind), kernel=kernel).fit(X, y)
    at_rows = radii(X, X, 7, is_row=True)
    np.testing.assert_allclose(model.bandwidth_, at_rows, rtol=1e-12)
    h_query = radii(X, queries, 7, is_row=False) if kind == "query" else None
    expected = local_weights(kernel, X, queries, h_query, at_rows)
    np.testing.assert_allclose(model.attention_weights(queries), expected, atol=1e-12)
    np.testing.assert_allclose(model.predict(queries), expected @ y, rtol=1e-10)
    neighbors = 1 / (expected**2).sum(axis=1)
    np.testing.assert_allclose(model.effective_neighbors(queries), neighbors, rtol=1e-10)
    of_rows = local_weights(kernel, X, X, at_rows if kind == "query" else None, at_rows, True)
    np.testing.assert_allclose(model.predict_loo(), of_rows @ y, rtol=1e-10)
    np.testing.assert_allclose(model.attention_weights(), of_rows, atol=1e-12)
    assert model.algorithm_ == "dense"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_neighbour_at_the_edge_of_a_compact_window_has_no_weight(scale):
    X, y = curve(100, 2)
    queries, _ = curve(200, 2, seed=1)
    model = NadarayaWatsonRegressor(NeighborBandwidth(6), kernel="tophat").fit(scale * X, y)
    nearest = KNeighborsRegressor(5).fit(X, y)
    np.testing.assert_allclose(model.predict(scale * queries), nearest.predict(queries), rtol=1e-12)


@over_kinds
@over_kernels
def test_the_number_of_neighbours_is_the_best_of_all(kind, kernel):
    X, y = curve(60, seed=2)
    losses = []
    for k in range(1, 60):
        h = radii(X, X, k, is_row=True)
        with np.errstate(invalid="ignore"):
            weights = local_weights(kernel, X, X, h if kind == "query" else None, h, True)
        losses.append(np.mean((weights @ y - y) ** 2))
    model = NadarayaWatsonRegressor(NeighborBandwidth("loo", kind=kind), kernel=kernel).fit(X, y)
    assert model.criterion_ == pytest.approx(np.nanmin(losses), rel=0.02)
    assert model.criterion_ == pytest.approx(losses[model.n_neighbors_ - 1], rel=1e-9)
    assert model.criterion_ == pytest.approx(np.mean((model.predict_loo() - y) ** 2), rel=1e-9)
    path = model.search_path_
    assert path["criterion"].min() == model.criterion_
    assert model.n_neighbors_ in path["n_neighbors"]


@over_kinds
def test_neighbours_weigh_and_repeat_alike(kind):
    X, y = curve(40, 2)
    w = np.arange(40) % 3
    settings = NeighborBandwidth("loo", kind=kind)
    weighted = NadarayaWatsonRegressor(settings).fit(X, y, sample_weight=w)
    repeated = NadarayaWatsonRegressor(settings).fit(np.repeat(X, w, axis=0), np.repeat(y, w))
    np.testing.assert_allclose(weighted.predict(X + 0.1), repeated.predict(X + 0.1), rtol=1e-12)
    assert weighted.n_neighbors_ == repeated.n_neighbors_
    assert np.isnan(weighted.bandwidth_[w == 0]).all()


@over_kinds
def test_far_queries_have_the_nearest_rows_value_or_an_average(kind):
    X, y = curve(40)
    model = NadarayaWatsonRegressor(NeighborBandwidth(5, kind=kind)).fit(X, y)
    found = model.predict([[1e6], [-1e150]])
    assert np.isfinite(found).all()
    assert ((found >= y.min()) & (found <= y.max())).all()


@pytest.mark.parametrize("policy", ["nearest", "mean", "nan", "raise"])
def test_empty_neighbourhoods_follow_the_policy(policy):
    X, y = curve(40)
    model = NadarayaWatsonRegressor(
        NeighborBandwidth(3, kind="key"), kernel="tophat", empty_neighborhood=policy
    ).fit(X, y)
    if policy == "raise":
        with pytest.raises(ValueError, match="1 of 1 queries have no training row"):
            model.predict([[50.0]])
        return
    with pytest.warns(UserWarning, match="1 of 1 queries"):
        found = model.predict([[50.0]])[0]
    expected = {"mean": y.mean(), "nan": np.nan}.get(policy)
    if expected is None:
        h = radii(X, X, 3, is_row=True)
        expected = y[np.argmin((50 - X[:, 0]) / h)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.filterwarnings("ignore:Fewer neighbours")
def test_places_shared_by_too_many_rows_are_an_error():
    X, y = np.repeat([[0.0], [1.0], [2.0]], 4, axis=0), np.arange(12.0)
    with pytest.raises(
        ValueError, match=r"12 of 12 training rows have 3 or more others at the same"
    ):
        NadarayaWatsonRegressor(NeighborBandwidth(3)).fit(X, y)
    model = NadarayaWatsonRegressor(NeighborBandwidth(4)).fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    assert NadarayaWatsonRegressor(NeighborBandwidth()).fit(X, y).n_neighbors_ >= 4


def test_too_many_neighbours_are_an_error():
    X, y = curve(10)
    with pytest.raises(ValueError, match="at most the number of other observations, 9; got"):
        NadarayaWatsonRegressor(NeighborBandwidth(10)).fit(X, y)
    with pytest.raises(ValueError, match="at least 2 observations; got n_samples = 1"):
        NadarayaWatsonRegressor(NeighborBandwidth()).fit([[1.0]], [1.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n_neighbors": 0}, "'n_neighbors' parameter"), ({"kind": "row"}, "'kind' parameter")],
)
def test_bad_neighbour_settings_are_refused(settings, message):
    X, y = curve(10)
    with pytest.raises(ValueError, match=message):
        NadarayaWatsonRegressor(NeighborBandwidth(**settings)).fit(X, y)


def test_algorithms_of_equal_windows_are_refused():
    X, y = curve(10)
    with pytest.raises(ValueError, match="'auto' or 'dense' for a NeighborBandwidth"):
        NadarayaWatsonRegressor(NeighborBandwidth(2), algorithm="blocks").fit(X, y)
    with pytest.raises(ValueError, match="NeighborBandwidth"):
        ParametricNWRegressor(bandwidth=NeighborBandwidth(2)).fit(X, y)


def test_float32_and_several_outputs():
    X, y = curve(50, 2)
    Y = np.column_stack([y, 3 * y + 1])
    model = NadarayaWatsonRegressor(NeighborBandwidth(5)).fit(X.astype(np.float32), Y)
    found = model.predict(X.astype(np.float32) + np.float32(0.1))
    assert found.dtype == np.float64  # that of y
    double = NadarayaWatsonRegressor(NeighborBandwidth(5)).fit(X, Y).predict(X + 0.1)
    np.testing.assert_allclose(found, double, rtol=2e-4, atol=2e-4)
