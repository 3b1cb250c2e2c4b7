"""Criteria of a bandwidth search: against the matrices written out, and what they must not see."""

import numpy as np
import pytest
import reference
import torch
from designs import name_of, pairwise
from scipy.optimize import approx_fprime

from sknw import BandwidthSearch, NadarayaWatsonRegressor
from sknw.bandwidth import CRITERIA
from sknw.data.observations import Observations
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.scale_objective import CriterionOfScales
from sknw.kernels import KERNELS, as_kernel
from sknw.smoothing.method import Method

CRITERION_NAMES = sorted(CRITERIA)
over_criteria = pytest.mark.parametrize("criterion", CRITERION_NAMES)


def curve(n=60, d=1, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, d))
    return X, np.sin(2 * X[:, 0]) + rng.normal(0, noise, n)


def leave_one_out(X, y, kernel, weights=None):
    weights = np.ones(len(X)) if weights is None else weights
    return LeaveOneOut.of(
        Observations.of(X, y.reshape(len(X), -1), weights),
        Method(as_kernel(kernel), rtol=1e-10),
        dtype=torch.float64,
        device="cpu",
    )


def search(criterion):
    """A search from one start: what a criterion does not see, it sees from no start."""
    return NadarayaWatsonRegressor(BandwidthSearch(criterion, n_starts=1))


def value(criterion, X, y, bandwidth, kernel="gaussian", weights=None):
    """The package's criterion at a bandwidth."""
    task = leave_one_out(X, y, kernel, weights)
    of_scales = CriterionOfScales(task, CRITERIA[criterion])
    (found,) = of_scales.values(1 / np.broadcast_to(bandwidth, (1, X.shape[1])))
    return CRITERIA[criterion].reported(float(found), task.targets)


def test_every_criterion_has_a_reference():
    assert set(reference.CRITERIA) == set(CRITERIA)


@pytest.mark.parametrize(
    ("kernel", "criterion", "bandwidth"),
    pairwise(sorted(KERNELS), CRITERION_NAMES, [[0.3, 0.6], [2.0, 1.0], [0.05, 50.0]]),
    ids=name_of,
)
def test_values_are_those_of_the_matrices(criterion, kernel, bandwidth):
    X, y = curve(50, 2)
    w = np.random.default_rng(1).uniform(0.5, 1.5, 50)
    expected = reference.CRITERIA[criterion](kernel, X, y, bandwidth, w)
    assert value(criterion, X, y, bandwidth, kernel, w) == pytest.approx(expected, rel=1e-9)


def test_no_degree_of_freedom_left_is_the_worst():
    X, y = curve(30)
    assert value("aicc", X, y, 1e-4) == np.inf
    assert value("aicc", X, y, 0.2) < np.inf


@over_criteria
def test_the_kernel_of_a_user_at_zero_counts(criterion):
    X, y = curve(40)

    def twice_a_gaussian(u):
        return 2 * torch.exp(-u * u / 2)

    expected = reference.CRITERIA[criterion]("gaussian", X, y, 0.4)
    assert value(criterion, X, y, 0.4, twice_a_gaussian) == pytest.approx(expected, rel=1e-9)


@over_criteria
@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "biweight"])
def test_gradients_are_those_of_differences(criterion, kernel):
    X, y = curve(50, 3, seed=2)
    w = np.random.default_rng(3).uniform(0.2, 2, 50)
    task = leave_one_out(X, np.column_stack([y, X[:, 1]]), kernel, w)
    scales = np.array([1.5, 0.7, 0.4])

    of_scales = CriterionOfScales(task, CRITERIA[criterion])
    _, by_log_scales = of_scales.value_and_gradient(scales)
    expected = approx_fprime(scales, lambda s: float(of_scales.values(s[None])[0]), 1e-7)
    np.testing.assert_allclose(by_log_scales / scales, expected, rtol=1e-4, atol=1e-6)


@over_criteria
def test_a_search_reaches_the_lowest_point_of_a_fine_scan(criterion):
    X, y = curve(70, seed=3)
    model = NadarayaWatsonRegressor(criterion).fit(X, y)
    values = [
        reference.CRITERIA[criterion]("gaussian", X, y, h) for h in np.geomspace(0.03, 20, 150)
    ]
    lowest = np.nanmin(values)
    assert model.criterion_ <= lowest + 1e-6 * abs(lowest)
    at_bandwidth = reference.CRITERIA[criterion]("gaussian", X, y, model.bandwidth_)
    assert model.criterion_ == pytest.approx(at_bandwidth, rel=1e-8)
    assert model.search_report_["criterion"] == criterion


@pytest.mark.parametrize(
    ("criterion", "kernel"), list(zip(CRITERION_NAMES, ["epanechnikov", "tophat"] * 2, strict=True))
)
def test_compact_kernels_need_no_gradient(criterion, kernel):
    X, y = curve(40, 2, seed=4)
    model = NadarayaWatsonRegressor(criterion, kernel=kernel).fit(X, y)
    scan = np.geomspace(0.15, 10, 12)
    values = [reference.CRITERIA[criterion](kernel, X, y, [a, b]) for a in scan for b in scan]
    lowest, slack = np.min(values), {"tophat": 0.01, "epanechnikov": 1e-9}[kernel]  # steps
    assert model.criterion_ <= lowest + slack * abs(lowest)


@over_criteria
def test_only_ratios_of_weights_count(criterion):
    X, y = curve(60, 2, seed=5)
    w = np.random.default_rng(0).integers(1, 4, 60).astype(float)
    one = search(criterion).fit(X, y, sample_weight=w)
    ten = search(criterion).fit(X, y, sample_weight=10 * w)
    np.testing.assert_allclose(ten.bandwidth_, one.bandwidth_, rtol=1e-12)


@over_criteria
def test_weights_equal_repetition_and_zero_removal(criterion):
    X, y = curve(50, 2, seed=6)
    w = np.arange(50) % 3
    weighted = search(criterion).fit(X, y, sample_weight=w)
    repeated = search(criterion).fit(np.repeat(X, w, axis=0), np.repeat(y, w))
    np.testing.assert_array_equal(weighted.bandwidth_, repeated.bandwidth_)
    assert weighted.criterion_ == repeated.criterion_


@over_criteria
def test_units_of_y_do_not_matter(criterion):
    X, y = curve(60, 2, seed=7)
    one = search(criterion).fit(X, y)
    other = search(criterion).fit(X, 1e6 * y + 3e6)
    np.testing.assert_allclose(other.bandwidth_, one.bandwidth_, rtol=1e-5)
    factor = {"loo": 1e12, "gcv": 1e12, "loo_absolute": 1e6}.get(criterion)
    if factor is None:
        assert other.criterion_ == pytest.approx(one.criterion_ + np.log(1e12), rel=1e-8)
    else:
        assert other.criterion_ == pytest.approx(factor * one.criterion_, rel=1e-8)


@over_criteria
def test_outputs_count_alike_whatever_their_units(criterion):
    X, y = curve(60, 2, seed=8)
    Y = np.column_stack([y, np.cos(X[:, 1])])
    one = search(criterion).fit(X, Y)
    other = search(criterion).fit(X, Y * [1e4, 1e-3])
    np.testing.assert_allclose(other.bandwidth_, one.bandwidth_, rtol=1e-5)


def test_absolute_error_is_moved_less_by_outliers():
    X, y = curve(150, seed=9, noise=0.1)
    clean = NadarayaWatsonRegressor().fit(X, y).bandwidth_[0]
    y[::10] += np.random.default_rng(0).choice([-20, 20], 15)
    moved = {
        criterion: abs(np.log(NadarayaWatsonRegressor(criterion).fit(X, y).bandwidth_[0] / clean))
        for criterion in ("loo", "loo_absolute")
    }
    assert moved["loo_absolute"] < 0.7 * moved["loo"]


def test_a_criterion_that_is_finite_nowhere_falls_back_to_scott():
    X, y = curve(3)
    with pytest.warns(UserWarning, match="'aicc' is finite at no bandwidth for these 3"):
        model = NadarayaWatsonRegressor(BandwidthSearch("aicc")).fit(X, y)
    scott = NadarayaWatsonRegressor("scott").fit(X, y)
    np.testing.assert_allclose(model.bandwidth_, scott.bandwidth_, rtol=1e-9)
    assert model.criterion_ == np.inf
