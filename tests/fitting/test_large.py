"""Bandwidths of many rows: rows to predict are drawn, neighbours never."""

import numpy as np
import pytest
import reference
import torch

from sknw import NadarayaWatsonRegressor
from sknw.data.observations import Observations
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.subsets import hold_out, in_compact_order
from sknw.kernels import KERNELS
from sknw.smoothing.method import Method
from sknw.support import tuning


def data(n, d, seed=0):
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(n, d))
    return X, np.sin(2 * X[:, 0]) + 0.3 * generator.normal(size=n)


@pytest.fixture
def small_is_large():
    """Treat 450 rows as too many for a full criterion."""
    few = {"MANY_ROWS": 400, "ROWS_BEFORE_MANY": 200, "FEWEST_HELD_OUT": 150, "PAIRS_HELD_OUT": 1}
    with tuning.override(**few):
        yield


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize(("d", "kernel"), [(2, "gaussian"), (1, "gaussian"), (2, "epanechnikov")])
def test_a_sample_of_held_out_rows_finds_about_the_same(d, kernel):
    X, y = data(450, d)
    found = NadarayaWatsonRegressor(kernel=kernel, algorithm="dense").fit(X, y)
    report = found.search_report_
    assert report["n_rows"] == 450
    assert report["n_held_out"] == 150
    assert report["algorithm"] == "dense"
    assert report["n_evaluations"] > 3
    reached = reference.loo_loss(kernel, X, y, found.bandwidth_)
    scale = found.bandwidth_ * np.ones(d)
    for factor in (0.4, 2.5):  # on all rows, too, it lies in the valley
        moved = scale.copy()
        moved[0] *= factor
        assert reference.loo_loss(kernel, X, y, moved) > reached
    again = NadarayaWatsonRegressor(kernel=kernel, algorithm="dense").fit(X, y)
    np.testing.assert_array_equal(again.bandwidth_, found.bandwidth_)


@pytest.mark.usefixtures("small_is_large")
def test_one_feature_with_a_fast_transform_needs_no_sample():
    pytest.importorskip("finufft")
    X = np.linspace(-2, 2, 450)[:, None]  # where gaps are small, scans begin with huge grids
    y = np.sin(2 * X[:, 0]) + 0.3 * np.random.default_rng(0).normal(size=450)
    found = NadarayaWatsonRegressor(algorithm="nufft").fit(X, y)
    assert found.search_report_["n_held_out"] == 450
    assert found.search_report_["algorithm"] == "nufft"
    exact = NadarayaWatsonRegressor(found.bandwidth_, algorithm="dense").fit(X, y)
    assert found.criterion_ == pytest.approx(np.mean((exact.predict_loo() - y) ** 2), rel=1e-9)


def test_below_the_limit_every_row_is_held_out():
    X, y = data(300, 2)
    report = NadarayaWatsonRegressor().fit(X, y).search_report_
    assert report["n_rows"] == report["n_held_out"] == 300


def test_there_is_no_report_without_a_search():
    X, y = data(50, 2)
    model = NadarayaWatsonRegressor().fit(X, y)
    assert hasattr(model, "search_report_")
    assert not hasattr(model.set_params(bandwidth=1.0).fit(X, y), "search_report_")


def task_of(X, y, **settings):
    observations = Observations.of(X, y[:, None], np.ones(len(X)))
    method = Method(KERNELS["gaussian"], **{"algorithm": "dense", **settings})
    return LeaveOneOut.of(observations, method, dtype=torch.float64, device="cpu")


def test_the_sampled_criterion_is_unbiased():
    X, y = data(400, 2)
    task = task_of(X, y)
    full = task.loss(task.rows / 0.3).item()
    generator = np.random.RandomState(0)
    samples = [hold_out(task, 40, generator).loss(task.rows / 0.3).item() for _ in range(400)]
    error = np.std(samples) / np.sqrt(len(samples))
    assert abs(np.mean(samples) - full) < 4 * error
    assert error < 0.02 * full


def test_many_rows_are_put_in_a_compact_order_and_nothing_changes():
    X, y = data(500, 2)
    plain = task_of(X, y)
    assert in_compact_order(plain) is plain
    with tuning.override(FEWEST_KEYS_TO_SORT=100):
        ordered = in_compact_order(task_of(X, y))
    assert not np.array_equal(ordered.rows, plain.rows)
    steps = [np.linalg.norm(np.diff(task.rows, axis=0), axis=1).mean() for task in (ordered, plain)]
    assert steps[0] < 0.5 * steps[1]
    loss = [task.loss(task.rows / 0.3).item() for task in (ordered, plain)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-12)


def test_many_bandwidths_of_a_kernel_with_an_edge_are_found_on_a_part_of_the_rows(small_is_large):
    X, y = data(450, 16)
    model = NadarayaWatsonRegressor(kernel="epanechnikov").fit(X, y)
    assert model.search_report_["n_rows"] == 450
    assert model.search_report_["n_held_out"] == 150
    assert model.bandwidth_.argmin() == 0
    assert model.criterion_ < 0.7 * y.var()
