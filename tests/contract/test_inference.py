"""Leverage, degrees of freedom, residual variance and the summary of a fit."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from designs import name_of, pairwise
from evaluation import done_by
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknw import NadarayaWatsonRegressor, NeighborBandwidth, ParametricNWRegressor
from sknw.kernels import KERNELS
from sknw.support import tuning

NAMES = sorted(KERNELS)
H = np.array([0.9, 1.4])
WIDTH = 79


def rows(n=60, n_outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.2 * rng.normal(size=n)
    if n_outputs is not None:
        y = np.column_stack([(k + 1) * y + np.cos(k * X[:, 0]) for k in range(n_outputs)])
    return X, y


def tied(n=60, seed=0):
    """Equal X with different y, and some copies."""
    rng = np.random.default_rng(seed)
    X, y = rng.integers(0, 4, size=(n, 2)).astype(float), rng.normal(size=n)
    X[-4:], y[-4:] = X[:4], y[:4]
    return X, y


def copied(n=60, seed=0):
    X, y = rows(n - 20, seed=seed)
    return np.concatenate([X, X[:20]]), np.concatenate([y, y[:20]])


DATA = {"free": rows, "tied": tied, "copied": copied}
BY = [("dense", "torch"), ("dense", "fused"), ("blocks", "torch"), ("blocks", "fused")]
DESIGN = pairwise(NAMES, BY, ["equal", "weights"], list(DATA), [8, 4])
DESIGN += [("gaussian", ("nufft", "fused"), "weights", "free", 8)]


@pytest.mark.parametrize(("kernel", "by", "weighting", "place", "itemsize"), DESIGN, ids=name_of)
def test_all_numbers_are_those_of_the_hat_matrix(kernel, by, weighting, place, itemsize):
    algorithm, evaluator = by
    if algorithm == "nufft":
        pytest.importorskip("finufft")
    X, y = DATA[place]()
    weight = None
    if weighting == "weights":
        weight = np.random.default_rng(3).uniform(0.1, 2, len(X))
        weight[[1, 7]] = 0
    X = X.astype(f"f{itemsize}")
    model = NadarayaWatsonRegressor(H, kernel=kernel, algorithm=algorithm).fit(X, y, weight)
    with done_by(evaluator):
        leverage = model.leverage()
        found = model.degrees_of_freedom(), model.degrees_of_freedom("squared")
        variance = model.residual_variance_
    rtol = 1e-5 if itemsize == 4 else 1e-8
    same = kernel, X, y, H, weight
    np.testing.assert_allclose(leverage, reference.leverage(*same), rtol=rtol, atol=1e-300)
    np.testing.assert_allclose(found, reference.degrees_of_freedom(*same), rtol=rtol)
    np.testing.assert_allclose(variance, reference.residual_variance(*same), rtol=rtol)
    if weight is not None:
        assert (leverage[weight == 0] == 0).all()


@pytest.mark.parametrize("kind", ["query", "key"])
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_windows_by_neighbours(kernel, kind):
    X, y = rows()
    model = NadarayaWatsonRegressor(NeighborBandwidth(9, kind=kind), kernel=kernel).fit(X, y)
    hat = model.attention_weights(X)
    np.testing.assert_allclose(model.leverage(), np.diag(hat), rtol=1e-12)
    assert model.degrees_of_freedom() == pytest.approx(np.trace(hat), rel=1e-12)
    assert model.degrees_of_freedom("squared") == pytest.approx((hat**2).sum(), rel=1e-12)
    kept = len(X) - 2 * np.trace(hat) + (hat**2).sum()
    expected = ((y - hat @ y) ** 2).sum() / kept
    assert model.residual_variance_ == pytest.approx(expected, rel=1e-11)
    assert model.summary().degrees_of_freedom == pytest.approx(np.trace(hat), rel=1e-12)


@pytest.mark.filterwarnings("ignore:Training did not converge", "ignore::sknw.MetricWarning")
@pytest.mark.parametrize("metric", ["scalar", "diagonal", "full", "mlp"])
def test_degrees_of_freedom_are_the_trace_of_attention(metric):
    X, y = rows()
    model = ParametricNWRegressor(metric, n_starts=1, max_iter=3).fit(X, y)
    hat = model.attention_weights(X)
    assert model.degrees_of_freedom() == pytest.approx(np.trace(hat), rel=1e-8)
    assert model.degrees_of_freedom("squared") == pytest.approx((hat**2).sum(), rel=1e-8)


def test_categories():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"site": rng.choice(list("abc"), 70), "x": rng.normal(size=70)})
    y = np.sin(X["x"]) + rng.normal(size=70)
    for level in (0.3, 0.0):
        model = NadarayaWatsonRegressor([level, 0.4]).fit(X, y)
        assert model.degrees_of_freedom() == pytest.approx(np.trace(model.attention_weights(X)))


def test_copies_share_their_leverage():
    X, y = copied()
    once = NadarayaWatsonRegressor(H).fit(X[:40], y[:40], np.append(np.full(20, 2.0), np.ones(20)))
    twice = NadarayaWatsonRegressor(H).fit(X, y)
    np.testing.assert_allclose(twice.leverage()[:40], once.leverage(), rtol=1e-12)
    np.testing.assert_array_equal(twice.leverage()[40:], twice.leverage()[:20])


def test_the_limits_of_the_bandwidth():
    X, y = rows()
    constant, interpolating = (NadarayaWatsonRegressor(h).fit(X, y) for h in (1e6, 1e-6))
    for kind in ("trace", "squared"):
        assert constant.degrees_of_freedom(kind) == pytest.approx(1)
        assert interpolating.degrees_of_freedom(kind) == pytest.approx(60)
    assert constant.residual_variance_ == pytest.approx(y.var(ddof=1), rel=1e-6)
    assert np.isnan(interpolating.residual_variance_)


def test_rows_lighter_than_sums_can_hold():
    X, y = np.array([[0.0], [50.0], [50.5]]), np.array([0.0, 1.0, 3.0])
    model = NadarayaWatsonRegressor(1.0).fit(X, y, [1.0, 1e-320, 2e-320])
    near = NadarayaWatsonRegressor(1.0).fit(X[1:], y[1:], [1.0, 2.0])
    np.testing.assert_allclose(model.leverage()[1:], near.leverage(), rtol=1e-3)
    total = 1 + near.degrees_of_freedom("squared")
    assert model.degrees_of_freedom("squared") == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize(("policy", "trace"), [("nearest", 5.0), ("mean", 1.0), ("nan", np.nan)])
def test_a_kernel_that_leaves_rows_alone(policy, trace):
    def ring(u):
        return ((u > 0.5) & (u < 0.6)) * 1.0

    X, y = np.arange(5.0)[:, None], np.arange(5.0) ** 2
    model = NadarayaWatsonRegressor(1.0, kernel=ring, empty_neighborhood=policy).fit(X, y)
    for kind in ("trace", "squared"):
        assert model.degrees_of_freedom(kind) == pytest.approx(trace, nan_ok=True)
    model.set_params(empty_neighborhood="raise")
    with pytest.raises(ValueError, match="have no training row"):
        model.leverage()
    assert not hasattr(model, "residual_variance_")


def test_affine_changes_of_y():
    X, y = rows()
    plain, other = (NadarayaWatsonRegressor(H).fit(X, at) for at in (y, 1e5 - 3 * y))
    np.testing.assert_array_equal(plain.leverage(), other.leverage())
    assert other.residual_variance_ == pytest.approx(9 * plain.residual_variance_, rel=1e-7)
    one, two = plain.summary(), other.summary()
    assert two.r2 == pytest.approx(one.r2, rel=1e-8)
    np.testing.assert_allclose(two.average_gradient, -3 * one.average_gradient, rtol=1e-8)


def test_several_outputs_have_a_variance_each():
    X, y = rows(n_outputs=2)
    together = NadarayaWatsonRegressor(H).fit(X, y)
    each = [NadarayaWatsonRegressor(H).fit(X, column).residual_variance_ for column in y.T]
    np.testing.assert_allclose(together.residual_variance_, each, rtol=1e-10)


@pytest.mark.parametrize("kind", ["Trace", None, 2, ["trace"]])
def test_bad_kinds_are_refused(kind):
    model = NadarayaWatsonRegressor(1.0).fit(*rows())
    with pytest.raises(ValueError, match=r"kind must be 'trace' or 'squared'; got"):
        model.degrees_of_freedom(kind)


def test_nothing_before_a_fit():
    model = NadarayaWatsonRegressor()
    for ask in (model.leverage, model.degrees_of_freedom, model.summary):
        with pytest.raises(NotFittedError):
            ask()
    with pytest.raises(NotFittedError):
        model.gradient([[0.0]])
    assert not hasattr(model, "residual_variance_")


def test_the_property_does_not_keep_pages_waiting():
    model = NadarayaWatsonRegressor(1.0).fit(*rows())
    with tuning.override(MOST_ROWS_OF_THE_RESIDUAL_VARIANCE=59):
        with pytest.raises(AttributeError, match=r"at most 59 .* got 60.*summary\(\)"):
            model.residual_variance_  # noqa: B018
        assert np.isfinite(model.summary().residual_variance)


def answers(model, X):
    summary = model.summary().to_dict()
    return {
        "gradient": model.gradient(X),
        "leverage": model.leverage(),
        "trace": model.degrees_of_freedom(),
        "variance": model.residual_variance_,
        **{name: value for name, value in summary.items() if isinstance(value, float)},
    }


def test_questions_change_nothing_and_pickles_answer_alike():
    X, y = rows()
    model = NadarayaWatsonRegressor(H, kernel="tricube").fit(X, y)
    before = pickle.dumps(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = answers(model, X)
        assert pickle.dumps(model) == before
        found = answers(pickle.loads(before), X)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_in_a_pipeline():
    X, y = rows()
    chain = make_pipeline(StandardScaler(), NadarayaWatsonRegressor(0.5)).fit(X, y)
    found = chain[-1].gradient(chain[:-1].transform(X)) / chain[0].scale_
    expected = reference.gradient_by_differences(chain.predict, X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert "Observations" in str(chain[-1].summary())


# --- the summary ---------------------------------------------------------------------------------


def test_the_numbers_of_the_summary():
    X, y = rows()
    weight = np.random.default_rng(1).uniform(0.5, 2, len(X))
    model = NadarayaWatsonRegressor(H).fit(X, y, weight)
    found = model.summary()
    assert found.n_observations == 60
    np.testing.assert_allclose(found.bandwidth, H, rtol=1e-15)
    assert found.r2 == pytest.approx(model.score(X, y, weight), rel=1e-10)
    assert found.residual_standard_error == pytest.approx(model.residual_variance_**0.5)
    assert found.degrees_of_freedom == pytest.approx(model.degrees_of_freedom())
    errors = np.average((y - model.predict_loo()) ** 2, weights=weight)
    assert found.loo_mse == pytest.approx(errors, rel=1e-10)
    effects = np.average(model.gradient(X), axis=0, weights=weight)
    np.testing.assert_allclose(found.average_gradient, effects, rtol=1e-8)
    assert set(found.to_dict()) >= {"r2", "loo_mse", "residual_standard_error"}


def test_what_does_not_matter_is_told():
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(150, 2))
    y = np.sin(6 * X[:, 0]) + rng.normal(0, 0.1, 150)
    model = NadarayaWatsonRegressor(random_state=0).fit(X, y)
    found = model.summary()
    assert found.is_irrelevant.tolist() == [False, True]
    assert str(found).splitlines()[-1].split() == ["x1", "irrelevant", found_number(found, 1)]


def found_number(summary, feature):
    return f"{summary.average_gradient[feature]:.4g}"


@pytest.mark.parametrize("n_outputs", [None, 3])
def test_thirty_features_with_long_names_fit_the_page(n_outputs):
    rng = np.random.default_rng(0)
    names = [f"a rather long name of the {k}th column\nwith a break" for k in range(30)]
    X = pd.DataFrame(rng.normal(size=(50, 30)) * 1e-9, columns=names)
    X["site"] = rng.choice(["a", "b"], 50)
    y = 1e12 * rng.normal(size=(50, n_outputs or 1)) - 1e20
    y = y[:, 0] if n_outputs is None else y
    found = NadarayaWatsonRegressor("scott").fit(X, y).summary()
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert str(found) == repr(found)
    n_tables = 1 if n_outputs is None else 2
    assert sum("a rather long name" in line for line in lines) == 30 * n_tables
    starts = {len(line) for line in lines if "a rather long name" in line}
    assert len(starts) <= n_tables  # numbers end in one column


def test_the_page_of_a_notebook_escapes_names():
    X, y = rows()
    X = pd.DataFrame(X, columns=["a<b", "c&d"])
    html = NadarayaWatsonRegressor(1.0).fit(X, y).summary()._repr_html_()
    assert "a&lt;b" in html
    assert "c&amp;d" in html
    assert "<b" not in html.replace("<body", "")


@pytest.mark.filterwarnings("ignore:Training did not converge", "ignore::sknw.MetricWarning")
def test_a_network_has_no_bandwidths():
    X, y = rows()
    found = ParametricNWRegressor("mlp", n_starts=1, max_iter=2).fit(X, y).summary()
    assert np.isnan(found.bandwidth).all()
    assert "no bandwidths of their own" in str(found)
    full = ParametricNWRegressor("full", n_starts=1, max_iter=2).fit(X, y)
    lengths = np.linalg.norm(full.components_, axis=0)
    np.testing.assert_allclose(full.summary().bandwidth, 1 / lengths, rtol=1e-6)


def test_categories_show_their_weight_of_a_mismatch():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"site": rng.choice(list("abc"), 70), "x": rng.normal(size=70)})
    found = NadarayaWatsonRegressor([0.3, 0.4]).fit(X, np.sin(X["x"])).summary()
    np.testing.assert_allclose(found.bandwidth, [0.3, 0.4])
    assert np.isnan(found.average_gradient[0])
    assert "λ = 0.3" in str(found)
    model = NadarayaWatsonRegressor([0.0, 0.4]).fit(X, np.sin(X["x"]))
    assert model.summary().bandwidth[0] == 0


def test_a_function_as_kernel_has_its_name():
    def bump(u):
        return torch.exp(-(u**4))

    assert NadarayaWatsonRegressor(1.0, kernel=bump).fit(*rows()).summary().kernel == "bump"


def test_leave_one_out_errors_that_are_not_there():
    model = NadarayaWatsonRegressor(0.1, kernel="linear", empty_neighborhood="raise")
    found = model.fit([[0.0], [1.0], [1.05]], [0.0, 1.0, 2.0]).summary()
    assert np.isnan(found.loo_mse)
    assert "Leave-one-out MSE" in str(found)
