"""Gaussian sums by Fourier transforms: refusals, the audit, remote rows, memory."""

import numpy as np
import pytest
import reference
import sklearn
import torch

from sknw import NadarayaWatsonRegressor
from sknw.sums.algorithms import fourier
from sknw.sums.algorithms.nufft import Nufft
from sknw.support import tuning

pytest.importorskip("finufft")


def data(n, d, *, seed=0, kind="uniform"):
    generator = np.random.default_rng(seed)
    X = generator.uniform(size=(n, d)) if kind == "uniform" else generator.standard_cauchy((n, d))
    return X, np.sin(4 * X).sum(axis=1) + 0.1 * generator.normal(size=n)


def fit(X, y, h, **parameters):
    return NadarayaWatsonRegressor(h, algorithm="nufft", **parameters).fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "d", "dtype", "message"),
    [
        ({"kernel": "tricube"}, 1, float, "kernel 'tricube' has no fast transform"),
        ({}, 4, float, "at most 3 embedded dimensions, not 4"),
        ({}, 2, np.float32, "needs float64"),
        ({}, 2, float, r"bandwidth is so small .* would exceed 768 MiB"),
    ],
)
def test_refusals_say_why(parameters, d, dtype, message):
    X, y = data(50, d)
    h = 1e-6 if "small" in message else 0.3
    with pytest.raises(ValueError, match=f"No algorithm can do this problem: nufft: .*{message}"):
        fit(X.astype(dtype), y, h, **parameters)


def test_without_finufft_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(fourier, "available", lambda: False)
    with pytest.raises(ValueError, match=r"finufft is not installed \(pip install finufft"):
        fit(*data(50, 1), 0.3)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("rtol", [1e-3, 1e-8, 1e-10])
def test_the_promise_holds_and_the_audit_covers_the_error(d, rtol):
    X, y = data(800, d)
    queries = np.vstack([data(150, d, seed=1)[0], np.linspace(-3, 3, 40)[:, None] * np.ones(d)])
    model = fit(X, y, 0.06 * d, rtol=rtol)
    expected = reference.predict("gaussian", queries, X, y, 0.06 * d)
    assert np.abs(model.predict(queries) - expected).max() <= rtol * np.ptp(y)
    report = model.sums_report_
    assert report["algorithm"] == "nufft"
    assert report["evaluator"] == "finufft"
    assert 0 < report["audited_error"] < 1e-3
    assert 0 < report["rows_redone"] < 60  # the tails, and not the bulk
    loo = reference.predict_loo("gaussian", X, y, 0.06 * d)
    assert np.abs(model.predict_loo() - loo).max() <= rtol * np.ptp(y)


def test_one_remote_row_costs_only_itself():
    X, y = data(600, 2)
    X = np.vstack([X, [[1e6, -1e6]]])
    y = np.append(y, 3.0)
    model = fit(X, y, 0.1)
    expected = reference.predict("gaussian", X, X, y, 0.1)
    assert np.abs(model.predict(X) - expected).max() <= 1e-8 * np.ptp(y)
    assert model.sums_report_["rows_redone"] < 60


def heavy_remote_rows(seed, d, h, light):
    """One or two remote rows weigh all; a few rows near them weigh as little as all others."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(600, d))
    n_heavy, n_near = generator.integers(1, 3), generator.integers(1, 4)
    n_far = n_heavy + n_near
    X[:n_far] = generator.uniform(6, 12) * h * generator.choice([-1, 1], size=d)
    X[:n_far] += h * generator.normal(size=(n_far, d)) * generator.uniform(0.2, 1.5)
    weights = np.where(np.arange(600) < n_heavy, 1.0, light)
    y = np.sin(X[:, 0])
    y[n_heavy:n_far] = generator.choice([-1, 1], size=n_near)
    return X, y, weights


@pytest.mark.parametrize(
    ("d", "h", "light", "n_problems"),
    [(1, 2, 1e-8, 30), (2, 2, 1e-8, 40), (2, 1, 1e-8, 40), (2, 2, 1e-14, 10), (3, 1, 1e-7, 3)],
)
def test_heavy_remote_rows_keep_the_promise(d, h, light, n_problems):
    """Without its own weight, the sum of a heavy row is what rounding left of a large number."""
    for seed in range(n_problems):
        X, y, weights = heavy_remote_rows(seed, d, h, light)
        rows = np.vstack([X[:40], X[:5] + h, X[:5] + 3 * h])
        model = NadarayaWatsonRegressor(h, algorithm="nufft").fit(X, y, weights)
        exclude = np.eye(600, dtype=bool)[:40]
        loo = reference.predict("gaussian", X[:40], X, y, h, weights, exclude)
        assert np.abs(model.predict_loo()[:40] - loo).max() <= 1e-8 * np.ptp(y)
        expected = reference.predict("gaussian", rows, X, y, h, weights)
        assert np.abs(model.predict(rows) - expected).max() <= 1e-8 * np.ptp(y)


def test_a_row_of_a_million_is_a_heavy_one_too():
    """Integer weights, as copies of a row make them."""
    X, y, _ = heavy_remote_rows(0, 2, 2, 1.0)
    many = np.where(np.arange(600) == 0, 1e6, 1.0)
    model = NadarayaWatsonRegressor(2, algorithm="nufft").fit(X, y, many)
    loo = reference.predict_loo("gaussian", X, y, 2, many)
    assert np.abs(model.predict_loo() - loo).max() <= 1e-8 * np.ptp(y)


def test_heavy_keys_do_not_cost_ordinary_rows():
    """Only rows whose mass is beneath the error of the heaviest weight are done again."""
    X, y = data(2000, 2)
    weights = np.where(np.arange(2000) == 0, 1e4, 1.0)
    model = NadarayaWatsonRegressor(0.1, algorithm="nufft").fit(X, y, weights)
    model.predict_loo()
    assert model.sums_report_["rows_redone"] <= 1


def test_heavy_tails_keep_the_promise():
    X, y = data(700, 1, kind="cauchy")
    model = fit(X, y, 0.2)
    expected = reference.predict("gaussian", X, X, y, 0.2)
    assert np.abs(model.predict(X) - expected).max() <= 1e-8 * np.ptp(y)


def test_the_error_aimed_at_follows_the_tolerance():
    X, y = data(500, 1)
    errors = [
        fit(X, y, 0.1, rtol=rtol).predict(X) - reference.predict("gaussian", X, X, y, 0.1)
        for rtol in (1e-3, 1e-10)
    ]
    assert np.abs(errors[0]).max() > 100 * np.abs(errors[1]).max()


def test_a_constant_target_and_an_offset_one():
    X, y = data(500, 1)
    assert np.ptp(fit(X, np.full(500, 7.0), 0.1).predict(X)) == 0
    found = fit(X, y + 1e6, 0.1).predict(X) - 1e6
    expected = reference.predict("gaussian", X, X, y, 0.1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.ptp(y) + 1e-9)


def test_the_grid_stays_within_the_working_memory():
    X, y = data(200, 3)
    with sklearn.config_context(working_memory=64):
        with pytest.raises(ValueError, match="its grid would exceed 48 MiB"):
            fit(X, y, 0.01)
        assert NadarayaWatsonRegressor(0.01).fit(X, y).algorithm_ != "nufft"


def upsampling_of(monkeypatch, predict):
    """Call predict; return its result and the grids' points per mode, in the order of the calls."""
    seen, original = [], fourier.FourierSums.of.__func__

    def recorded(cls, keys, columns, grid, n_threads):
        seen.append(grid.upsampling)
        return original(cls, keys, columns, grid, n_threads)

    monkeypatch.setattr(fourier.FourierSums, "of", classmethod(recorded))
    return predict(), seen


@pytest.mark.parametrize("clustered", [False, True])
def test_a_frugal_grid_is_kept_where_it_is_good_enough(monkeypatch, clustered):
    """Where many keys have little mass beside the densest ones, its error would be too large."""
    X = np.random.default_rng(0).normal(size=(2000, 3))
    X[np.arange(2000) % 4 > 0] *= 1e-3 if clustered else 1.0
    y = np.sin(2 * X).sum(axis=1)
    queries = np.vstack([X[:300] + 0.05, 3 * X[0:200:4]])
    with sklearn.config_context(working_memory=32):
        model = fit(X, y, 0.45 if clustered else 0.5)
        means, grids = upsampling_of(monkeypatch, lambda: model.predict(queries))
    assert grids[0] == tuning.LOW_UPSAMPLING
    assert (len(grids) == 1) != clustered
    assert tuning.LOW_UPSAMPLING not in grids[1:]
    expected = reference.predict("gaussian", queries, X, y, model.bandwidth_)
    assert np.abs(means - expected).max() <= 1e-8 * np.ptp(y)


def test_gradients_and_searches_work_through_transforms():
    from sknw.functional import attention_pooling

    X, y = data(300, 2)
    rows = torch.as_tensor(X)
    gradients = []
    for name in ("dense", "nufft"):
        h = torch.tensor([0.2, 0.3], dtype=torch.float64, requires_grad=True)
        values = torch.as_tensor(y)[:, None]
        pooled = attention_pooling(
            rows, rows, values, bandwidth=h, leave_one_out=True, algorithm=name
        )
        (gradient,) = torch.autograd.grad((pooled - values).square().mean(), h)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=0)
    found, exact = (
        NadarayaWatsonRegressor(algorithm=name).fit(X, y) for name in ("nufft", "dense")
    )
    np.testing.assert_allclose(found.bandwidth_, exact.bandwidth_, rtol=1e-3)
    assert found.criterion_ == pytest.approx(exact.criterion_, rel=1e-7)


def test_time_is_estimated_without_the_keys_being_changed():
    X, y = data(200, 1)
    model = fit(X, y, 0.1)
    assert isinstance(Nufft(1e-8).rtol, float)
    before = model.predict(X)
    np.testing.assert_array_equal(model.predict(X), before)
