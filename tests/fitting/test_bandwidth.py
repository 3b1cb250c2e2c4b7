"""Bandwidths: rules against their formulas, the search against brute force and against itself."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from sklearn.datasets import load_diabetes
from threadpoolctl import threadpool_info, threadpool_limits

from sknw import NadarayaWatsonRegressor
from sknw.kernels import KERNELS

NAMES = sorted(KERNELS)


def curve(n, d=1, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, d))
    y = np.sin(2 * X[:, 0]) + (0.5 * X[:, 1] ** 2 if d > 1 else 0) + rng.normal(0, noise, n)
    return X, y


def weighted_sd(X, w):
    return np.sqrt(np.average((X - np.average(X, axis=0, weights=w)) ** 2, axis=0, weights=w))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_rules_are_their_formulas(name, weighted):
    X, y = curve(60, 3)
    w = np.random.default_rng(1).uniform(0.2, 3, 60) if weighted else np.ones(60)
    n = w.sum() ** 2 / (w**2).sum()  # Kish
    scott = weighted_sd(X, w) * n ** (-1 / 7) * KERNELS[name].canonical_factor
    for rule, expected in (("scott", scott), ("silverman", scott * (4 / 5) ** (1 / 7))):
        model = NadarayaWatsonRegressor(rule, kernel=name).fit(X, y, sample_weight=w)
        np.testing.assert_allclose(model.bandwidth_, expected, rtol=1e-12)
        assert not hasattr(model, "criterion_")


def test_rules_count_repeated_rows_once():
    X, y = curve(40)
    once = NadarayaWatsonRegressor("scott").fit(X, y).bandwidth_
    twice = NadarayaWatsonRegressor("scott").fit(np.tile(X, (2, 1)), np.tile(y, 2)).bandwidth_
    np.testing.assert_allclose(twice, once, rtol=1e-14)


def test_numbers_are_taken_as_they_are():
    X, y = curve(30, 2)
    assert NadarayaWatsonRegressor(2).fit(X, y).bandwidth_ == 2.0
    model = NadarayaWatsonRegressor([0.5, 1]).fit(X, y)
    np.testing.assert_array_equal(model.bandwidth_, [0.5, 1.0])


@pytest.mark.parametrize("name", NAMES)
def test_one_feature_reaches_the_lowest_point_of_a_fine_scan(name):
    X, y = curve(70, seed=3)
    model = NadarayaWatsonRegressor(kernel=name).fit(X, y)
    lowest = min(reference.loo_losses(name, X, y, np.geomspace(0.02, 20, 200)))
    assert model.criterion_ <= lowest * (1 + 1e-3)
    at_bandwidth = reference.loo_loss(name, X, y, model.bandwidth_)
    assert model.criterion_ == pytest.approx(at_bandwidth, rel=1e-9)


@pytest.mark.parametrize("name", ["gaussian", "exponential", "epanechnikov", "tophat", "tricube"])
def test_two_features_reach_the_lowest_point_of_a_fine_scan(name):
    X, y = curve(60, 2, seed=4)
    model = NadarayaWatsonRegressor(kernel=name).fit(X, y)
    scan = np.geomspace(0.08, 10, 17)
    lowest = min(reference.loo_losses(name, X, y, [[a, b] for a in scan for b in scan]))
    assert model.criterion_ <= lowest * (1 + 1e-9)


def test_criterion_is_the_loss_of_predict_loo():
    X, y = curve(80, 2)
    w = np.random.default_rng(0).uniform(0, 2, 80)
    model = NadarayaWatsonRegressor().fit(X, y, sample_weight=w)
    loss = np.average((model.predict_loo() - y) ** 2, weights=w)
    assert model.criterion_ == pytest.approx(loss, rel=1e-12)


def test_several_outputs_count_by_their_variance():
    X, y = curve(80)
    Y = np.column_stack([y, 1e4 * np.cos(3 * X[:, 0]) + 7, np.full(80, 5.0)])
    model = NadarayaWatsonRegressor().fit(X, Y)
    assert model.criterion_ == pytest.approx(
        reference.loo_loss("gaussian", X, Y, model.bandwidth_), rel=1e-10
    )
    rescaled = NadarayaWatsonRegressor().fit(X, Y * [1e3, 1e-5, 1.0])
    np.testing.assert_allclose(rescaled.bandwidth_, model.bandwidth_, rtol=1e-6)


def test_the_minimum_is_stationary():
    X, y = curve(120, 2, seed=5)
    model = NadarayaWatsonRegressor().fit(X, y)
    for feature in range(2):
        for factor in (0.995, 1.005):
            h = model.bandwidth_.copy()
            h[feature] *= factor
            assert reference.loo_loss("gaussian", X, y, h) >= model.criterion_


def test_irrelevant_features_are_smoothed_away():
    X, y = curve(300, 6, seed=6)
    model = NadarayaWatsonRegressor().fit(X, y)
    extent = np.ptp(X, axis=0)
    assert (model.bandwidth_[:2] < extent[:2] / 4).all()
    assert (model.bandwidth_[2:] > extent[2:] / 4).all()
    assert (model.bandwidth_[2:] > 100 * extent[2:]).any()


def test_constant_features_and_targets_are_no_obstacle():
    X, y = curve(40)
    both = np.column_stack([X, np.full(40, 3.0)])
    alone = NadarayaWatsonRegressor().fit(X, y)
    model = NadarayaWatsonRegressor().fit(both, y)
    assert model.criterion_ == pytest.approx(alone.criterion_, rel=1e-8)
    for kernel in NAMES:
        constant = NadarayaWatsonRegressor(kernel=kernel).fit(X, np.full(40, 2.5))
        assert (constant.predict(X) == 2.5).all()
        assert constant.criterion_ == 0


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e8])
def test_units_only_scale_the_bandwidth(scale):
    X, y = curve(60, 2)
    model = NadarayaWatsonRegressor().fit(X, y)
    scaled = NadarayaWatsonRegressor().fit(X * scale, y * 1e6)
    np.testing.assert_allclose(scaled.bandwidth_, model.bandwidth_ * scale, rtol=1e-5)
    assert scaled.criterion_ == pytest.approx(model.criterion_ * 1e12, rel=1e-9)


def test_the_search_is_deterministic_and_the_seed_only_steers_it():
    X, y = curve(700, 3)
    first, second = (NadarayaWatsonRegressor().fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.bandwidth_, second.bandwidth_)
    seeded = NadarayaWatsonRegressor(random_state=3).fit(X, y)
    assert seeded.criterion_ == pytest.approx(first.criterion_, rel=0.02)


def test_a_rehearsal_on_fewer_rows_does_not_decide():
    # 1500 rows: the descents end on all of them, so the result is stationary for all of them
    X, y = curve(1500, 2, seed=8)
    model = NadarayaWatsonRegressor().fit(X, y)
    for feature in range(2):
        for factor in (0.98, 1.02):
            h = model.bandwidth_.copy()
            h[feature] *= factor
            other = NadarayaWatsonRegressor(h).fit(X, y).predict_loo()
            assert np.mean((other - y) ** 2) > model.criterion_


def test_verbose_says_what_was_found(capsys):
    X, y = curve(40)
    NadarayaWatsonRegressor(verbose=1).fit(X, y)
    assert "criterion 'loo'" in capsys.readouterr().out
    NadarayaWatsonRegressor().fit(X, y)
    assert capsys.readouterr().out == ""


def test_a_real_table_beats_the_rules():
    X, y = load_diabetes(return_X_y=True)
    searched = NadarayaWatsonRegressor().fit(X, y)
    by_rule = NadarayaWatsonRegressor("scott").fit(X, y)
    assert searched.criterion_ < np.mean((by_rule.predict_loo() - y) ** 2)
    assert searched.criterion_ < 3300  # of a variance of 5930


@pytest.mark.parametrize("policy", ["nan", "raise"])
def test_policies_without_a_value_are_searched_as_the_mean(policy):
    X, y = curve(40)
    model = NadarayaWatsonRegressor(kernel="tophat", empty_neighborhood="mean").fit(X, y)
    other = NadarayaWatsonRegressor(kernel="tophat", empty_neighborhood=policy).fit(X, y)
    np.testing.assert_array_equal(other.bandwidth_, model.bandwidth_)


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_blas_pools_are_as_before_even_after_concurrent_searches():
    X, y = curve(60, 2)
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: NadarayaWatsonRegressor().fit(*curve(40)), range(4)))
        with pytest.raises(ZeroDivisionError):
            NadarayaWatsonRegressor(kernel=_Failing(after=30)).fit(X, y)
        assert blas_threads() == before


class _Failing:
    """A kernel that fails in the middle of a search."""

    def __init__(self, after):
        self.after = after

    def __call__(self, u):
        self.after -= 1
        if self.after < 0:
            raise ZeroDivisionError
        return (-u).exp()


@pytest.mark.parametrize("scale", [1e-140, 1e-153, 1e140])
def test_a_search_in_extreme_units_finds_the_same(scale):
    X = np.random.default_rng(0).normal(size=(60, 2))
    plain = NadarayaWatsonRegressor().fit(X, X[:, 0])
    scaled = NadarayaWatsonRegressor().fit(X * [scale, 1], X[:, 0])
    assert scaled.bandwidth_[0] / scale == pytest.approx(plain.bandwidth_[0], rel=0.1)
    assert scaled.criterion_ < 0.1 * np.var(X[:, 0])
