"""Numbers that other software published, through the public estimators."""

import warnings

import numpy as np
import published
import pytest
import reference
import torch
from scipy.optimize import minimize_scalar
from sklearn.exceptions import ConvergenceWarning

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor

# Stata's kernel: ours, and our bandwidth for Stata's bwidth(1).
LPOLY_KERNELS = {
    "gaussian": ("gaussian", 1.0),
    "epanechnikov": ("epanechnikov", 5**0.5),
    "epan2": ("epanechnikov", 1.0),
    "biweight": ("biweight", 1.0),
    "rectangle": ("tophat", 1.0),
    "triangle": ("linear", 1.0),
}

ROUNDED_TO_8_DIGITS = 1e-6
FULL_PRECISION = 1e-11


def column(values):
    """Values (n,) as one feature, (n, 1)."""
    return np.asarray(values, float)[:, np.newaxis]


def vector(values):
    return np.asarray(values, float)


def only_value(bandwidth):
    return float(np.squeeze(bandwidth))


# --- R np ---


@pytest.fixture(scope="module")
def np_fit():
    """The default fit, whose rule is np's: least-squares cross-validation per feature."""
    return NadarayaWatsonRegressor().fit(np.array(published.NP_X), vector(published.NP_Y))


@pytest.fixture(scope="module")
def np_fit_at_published_bandwidth():
    model = NadarayaWatsonRegressor(bandwidth=published.NP_BANDWIDTH)
    return model.fit(np.array(published.NP_X), vector(published.NP_Y))


def squared_correlation_about_mean(y, fitted):
    """R2 as np defines it (Hayfield & Racine 2008, section 3.1); y and fitted are (n,)."""
    y_step, fitted_step = y - y.mean(), fitted - y.mean()
    return np.sum(y_step * fitted_step) ** 2 / (np.sum(y_step**2) * np.sum(fitted_step**2))


def test_default_bandwidths_are_those_of_r_np(np_fit):
    np.testing.assert_allclose(np_fit.bandwidth_, published.NP_BANDWIDTH, rtol=1e-5)


def test_default_bandwidths_are_the_exact_minimum(np_fit):
    np.testing.assert_allclose(np_fit.bandwidth_, published.NP_LOO_ARGMIN, rtol=1e-5)


def test_criterion_is_not_above_that_of_r_np(np_fit):
    assert np_fit.criterion_ <= published.NP_LOO_MSE_AT_BANDWIDTH * (1 + 1e-12)
    assert np_fit.criterion_ == pytest.approx(published.NP_LOO_MSE_AT_BANDWIDTH, rel=1e-10)


def test_leave_one_out_error_at_the_bandwidths_of_r_np(np_fit_at_published_bandwidth):
    errors = vector(published.NP_Y) - np_fit_at_published_bandwidth.predict_loo()
    assert np.mean(errors**2) == pytest.approx(
        published.NP_LOO_MSE_AT_BANDWIDTH, rel=FULL_PRECISION
    )


@pytest.mark.parametrize("fixture", ["np_fit", "np_fit_at_published_bandwidth"])
def test_means_are_those_of_r_np(fixture, request):
    fitted = request.getfixturevalue(fixture).predict(np.array(published.NP_X[:5]))
    half_of_last_digit = 5e-6
    np.testing.assert_allclose(
        fitted, published.NP_FIRST_FIVE_MEANS, rtol=0, atol=half_of_last_digit
    )


@pytest.mark.parametrize("fixture", ["np_fit", "np_fit_at_published_bandwidth"])
def test_r2_is_that_of_r_np(fixture, request):
    fitted = request.getfixturevalue(fixture).predict(np.array(published.NP_X))
    r2 = squared_correlation_about_mean(vector(published.NP_Y), fitted)
    assert r2 == pytest.approx(published.NP_R2, abs=5e-6)


# --- Stata lpoly ---


@pytest.mark.parametrize("stata_kernel", published.LPOLY)
def test_predictions_are_those_of_stata_lpoly(stata_kernel):
    kernel, bandwidth = LPOLY_KERNELS[stata_kernel]
    X = np.log(column(published.SHIPS_MONTHS))
    grid = column(np.linspace(X.min(), X.max(), len(published.LPOLY[stata_kernel])))
    model = NadarayaWatsonRegressor(bandwidth=bandwidth, kernel=kernel)
    model.fit(X, vector(published.SHIPS_INCIDENTS))
    assert model.effective_neighbors(grid).min() > 0
    np.testing.assert_allclose(
        model.predict(grid),
        published.LPOLY[stata_kernel],
        rtol=ROUNDED_TO_8_DIGITS,
        atol=ROUNDED_TO_8_DIGITS,
    )


# --- R locfit and ksmooth ---


def fit_cars(**params):
    model = NadarayaWatsonRegressor(**params)
    return model.fit(column(published.CARS_SPEED), vector(published.CARS_DIST))


LOCFIT = [
    pytest.param({"bandwidth": 2.0}, published.LOCFIT_GAUSS, id="gauss"),
    pytest.param({"bandwidth": 4.0, "kernel": "epanechnikov"}, published.LOCFIT_EPAN, id="epan"),
]


@pytest.mark.parametrize(("params", "locfit"), LOCFIT)
def test_predictions_are_those_of_locfit(params, locfit):
    fitted = fit_cars(**params).predict(column(published.CARS_AT))
    np.testing.assert_allclose(fitted, locfit["fit"], rtol=FULL_PRECISION)


def test_norms_of_attention_rows_are_those_of_locfit():
    alpha = fit_cars(bandwidth=2.0).attention_weights(column(published.CARS_AT))
    np.testing.assert_allclose(
        np.linalg.norm(alpha, axis=1), published.LOCFIT_GAUSS["norm_l"], rtol=FULL_PRECISION
    )


@pytest.mark.parametrize(("params", "locfit"), LOCFIT)
def test_degrees_of_freedom_are_those_of_locfit(params, locfit):
    model = fit_cars(**params)
    assert model.degrees_of_freedom() == pytest.approx(locfit["df1"], rel=FULL_PRECISION)
    squared = model.degrees_of_freedom("squared")
    assert squared == pytest.approx(locfit["df2"], rel=FULL_PRECISION)


@pytest.mark.parametrize(("params", "locfit"), LOCFIT)
def test_residual_variance_is_that_of_locfit(params, locfit):
    variance = fit_cars(**params).residual_variance_
    assert variance == pytest.approx(locfit["rv"], rel=FULL_PRECISION)


def test_two_features_as_in_locfit():
    model = NadarayaWatsonRegressor(0.8).fit(np.array(published.NP_X), vector(published.NP_Y))
    found = {
        "df1": model.degrees_of_freedom(),
        "df2": model.degrees_of_freedom("squared"),
        "rv": model.residual_variance_,
    }
    assert found == pytest.approx(published.NP_LOCFIT, rel=FULL_PRECISION)


@pytest.mark.parametrize("bandwidth", published.NP_GRADIENTS, ids=str)
def test_gradients_are_those_of_np(bandwidth):
    X = np.array(published.NP_X)
    found = NadarayaWatsonRegressor(bandwidth).fit(X, vector(published.NP_Y)).gradient(X[:3])
    expected = published.NP_GRADIENTS[bandwidth]
    np.testing.assert_allclose(found, expected, rtol=FULL_PRECISION, atol=1e-12)


def truncated_gaussian(u):
    """The kernel of R's ksmooth: u is a tensor of any shape."""
    return torch.exp(-(u**2) / 2) * (u <= published.KSMOOTH_CUTOFF)


def test_ksmooth_is_a_truncated_gaussian_given_as_a_callable():
    bandwidth = published.KSMOOTH_BANDWIDTH * published.KSMOOTH_SD_PER_BANDWIDTH
    model = fit_cars(bandwidth=bandwidth, kernel=truncated_gaussian)
    fitted = model.predict(column(published.CARS_AT))
    np.testing.assert_allclose(fitted, published.KSMOOTH, rtol=FULL_PRECISION)


# --- scikit-fda ---


def test_attention_weights_are_the_hat_matrix_of_scikit_fda():
    model = NadarayaWatsonRegressor(bandwidth=published.SKFDA_BANDWIDTH)
    model.fit(column(published.SKFDA_INPUT), np.zeros(len(published.SKFDA_INPUT)))
    hat = model.attention_weights(column(published.SKFDA_OUTPUT))
    np.testing.assert_allclose(hat, published.SKFDA_HAT, rtol=0, atol=5e-4)


# --- The parametric model with one w ---


def curve():
    """Training rows X (10, 1) and y (10,) of the parametric case."""
    x = vector(published.CURVE_X)
    return column(x), 2 * np.sin(x) + x**0.8


@pytest.mark.parametrize(("w", "mse"), published.CURVE_LOO_MSE.items())
def test_first_loss_is_the_leave_one_out_error_at_w_init(w, mse):
    model = ParametricNWRegressor(
        metric="scalar", bandwidth=1.0, solver="sgd", w_init=w, max_iter=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(*curve())
    assert model.loss_curve_[0] == pytest.approx(mse, rel=1e-12)


@pytest.mark.parametrize(("w", "mse"), published.CURVE_LOO_MSE.items())
def test_bandwidth_1_over_w_has_the_leave_one_out_error_of_w(w, mse):
    X, y = curve()
    model = NadarayaWatsonRegressor(bandwidth=1 / w).fit(X, y)
    assert np.mean((y - model.predict_loo()) ** 2) == pytest.approx(mse, rel=1e-12)


# --- One-dimensional leave-one-out optima ---


@pytest.mark.parametrize("name", published.LOO_OPTIMA)
def test_default_fit_finds_the_published_optimum(name):
    x, y, bandwidth, mse = published.LOO_OPTIMA[name]
    model = NadarayaWatsonRegressor(duplicates="keep").fit(column(x), vector(y))
    assert only_value(model.bandwidth_) == pytest.approx(bandwidth, rel=1e-3)
    assert model.criterion_ == pytest.approx(mse, rel=1e-6)


@pytest.mark.parametrize("duplicates", ["auto", "keep", "merge"])
@pytest.mark.parametrize("name", published.LOO_OPTIMA)
def test_a_fit_finds_the_optimum_of_the_reference(name, duplicates):
    x, y, published_bandwidth, _ = published.LOO_OPTIMA[name]
    X, y = column(x), vector(y)
    best = minimize_scalar(
        lambda log_bandwidth: reference.loo_loss(
            "gaussian", X, y, np.exp(log_bandwidth), duplicates=duplicates
        ),
        bounds=np.log([published_bandwidth / 1.1, published_bandwidth * 1.1]),
        options={"xatol": 1e-8},
        method="bounded",
    )
    model = NadarayaWatsonRegressor(duplicates=duplicates).fit(X, y)
    assert only_value(model.bandwidth_) == pytest.approx(np.exp(best.x), rel=1e-4)
    assert model.criterion_ == pytest.approx(best.fun, rel=1e-9)


@pytest.mark.parametrize("name", ["mcycle", "cars", "engel"])
def test_a_copied_row_is_no_evidence_for_itself(name):
    x, y, _, published_mse = published.LOO_OPTIMA[name]
    model = NadarayaWatsonRegressor(duplicates="merge").fit(column(x), vector(y))
    assert model.criterion_ > published_mse * (1 + 1e-6)


@pytest.mark.parametrize(
    ("name", "decided"),
    [
        ("mcycle", {"keep": 2, "merge": 0}),
        ("cars", {"keep": 2, "merge": 0}),
        ("engel", {"keep": 0, "merge": 5}),
    ],
)
def test_whole_numbers_are_rows_and_amounts_are_copies(name, decided):
    x, y, *_ = published.LOO_OPTIMA[name]
    assert NadarayaWatsonRegressor(1.0).fit(column(x), vector(y)).duplicates_ == decided


# --- local polynomials: R locfit and np ---


@pytest.mark.parametrize("degree", published.LOCFIT_POLYNOMIALS)
def test_local_polynomials_are_those_of_locfit(degree):
    locfit, at = published.LOCFIT_POLYNOMIALS[degree], column(published.CARS_AT_POLYNOMIALS)
    model = fit_cars(bandwidth=2.0, degree=degree, duplicates="keep")
    rtol = FULL_PRECISION if degree == 1 else 3e-7
    np.testing.assert_allclose(model.predict(at), locfit["fit"], rtol=rtol)
    np.testing.assert_allclose(model.gradient(at)[:, 0], locfit["slope"], rtol=3 * rtol, atol=rtol)
    norms = np.linalg.norm(model.attention_weights(at), axis=1)
    np.testing.assert_allclose(norms, locfit["norm"], rtol=rtol)
    found = model.degrees_of_freedom(), model.degrees_of_freedom("squared")
    assert found == pytest.approx((locfit["df1"], locfit["df2"]), rel=rtol)
    assert model.residual_variance_ == pytest.approx(locfit["rv"], rel=rtol)


@pytest.mark.parametrize(("criterion", "name"), [("loo", "cv.ls"), ("aicc", "cv.aic")])
def test_local_linear_searches_find_the_optima_of_np(criterion, name):
    optimum = published.NP_LOCAL_LINEAR[name]
    model = NadarayaWatsonRegressor(criterion, degree=1, duplicates="keep")
    model.fit(np.array(published.NP_X), vector(published.NP_Y))
    assert model.criterion_ == pytest.approx(optimum["criterion"], rel=1e-10)
    assert model.bandwidth_[0] == pytest.approx(optimum["bandwidth"][0], rel=1e-4)
    is_linear = optimum["bandwidth"][1] > 1e5
    assert model.linear_features_.tolist() == ([1] if is_linear else [])
    found = model.predict(optimum["at"]), model.gradient(optimum["at"])
    np.testing.assert_allclose(found[0], optimum["fit"], rtol=1e-5)
    np.testing.assert_allclose(found[1], optimum["slope"], rtol=1e-4, atol=1e-5)
