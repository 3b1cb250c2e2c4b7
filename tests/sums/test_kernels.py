"""Kernel records: profiles, derivatives, tails and moments agree with the formulas."""

import math
import pickle

import numpy as np
import pytest
import reference
import torch
from scipy.integrate import quad

from sknw.kernels import KERNELS, as_kernel

NAMES = sorted(KERNELS)
U = np.concatenate([[0.0], np.linspace(0.01, 1.6, 80), [0.999999, 1.0, 1.000001, 5.0, 30.0]])


def profile(kernel, u):
    return kernel.profile(torch.tensor(np.square(u))).numpy()


def test_the_reference_knows_every_kernel():
    assert set(NAMES) == {"gaussian", "exponential", *reference.COMPACT_PROFILES}


@pytest.mark.parametrize("name", NAMES)
def test_profile_is_the_formula(name):
    infinite = {"gaussian": np.exp(-(U**2) / 2), "exponential": np.exp(-U)}
    if name in infinite:
        expected = infinite[name]
    else:
        expected = np.where(U < 1, reference.COMPACT_PROFILES[name](np.minimum(U, 1)), 0)
    np.testing.assert_allclose(profile(KERNELS[name], U), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_scaled_to_one_at_zero_and_zero_outside_the_open_support(name):
    kernel = KERNELS[name]
    assert profile(kernel, np.array([0.0])) == 1.0
    if math.isfinite(kernel.support):
        edge = kernel.support
        assert (profile(kernel, np.array([edge, edge * 1.001, 1e150])) == 0).all()
        assert profile(kernel, np.array([edge * 0.999])) > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_derivative_is_that_of_the_profile(name):
    kernel = KERNELS[name]
    u = np.concatenate([np.linspace(0.05, 0.95, 40), np.linspace(1.05, 3, 10)])
    sq, step = u**2, 1e-6
    numeric = (profile(kernel, np.sqrt(sq + step)) - profile(kernel, np.sqrt(sq - step))) / (
        2 * step
    )
    derivative = kernel.profile_derivative(torch.tensor(sq)).numpy()
    np.testing.assert_allclose(derivative, numeric, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_no_derivative_at_coincident_points_is_infinite(name):
    assert torch.isfinite(
        KERNELS[name].profile_derivative(torch.zeros(1, dtype=torch.float64))
    ).all()


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_those_of_the_normalised_kernel(name):
    kernel = KERNELS[name]
    end = min(kernel.support, 60.0)

    def k(u):
        return profile(kernel, np.array([u]))[0]

    mass = 2 * quad(k, 0, end, limit=200)[0]
    roughness = 2 * quad(lambda u: k(u) ** 2, 0, end, limit=200)[0] / mass**2
    second = 2 * quad(lambda u: u * u * k(u), 0, end, limit=200)[0] / mass
    np.testing.assert_allclose([kernel.roughness, kernel.second_moment], [roughness, second], 1e-7)


def test_canonical_factors_are_the_published_ones():
    # Marron & Nolan (1988), Härdle (1990): canonical bandwidths δ₀, the Gaussian's being 0.7764
    published = {"gaussian": 0.7764, "tophat": 1.3510, "epanechnikov": 1.7188, "biweight": 2.0362}
    for name, canonical in published.items():
        assert KERNELS[name].canonical_factor == pytest.approx(canonical / 0.7764, rel=1e-4)


@pytest.mark.parametrize("name", ["gaussian", "exponential"])
@pytest.mark.parametrize("nearest", [0.0, 1.0, 1e4, 1e12, 1e300])
def test_tail_is_the_weight_relative_to_the_nearest(name, nearest):
    kernel = KERNELS[name]
    excess = np.array([0.0, 1e-3, 1.0, 50.0])
    base = np.full_like(excess, nearest)
    tail = kernel.tail(torch.tensor(excess), torch.tensor(base)).numpy()
    if name == "gaussian":
        expected = np.exp(-excess / 2)
    else:  # √(a + e) − √a, in a form that does not cancel
        expected = np.exp(-excess / (np.sqrt(nearest + excess) + math.sqrt(nearest) + 1e-300))
    np.testing.assert_allclose(tail, expected, rtol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_the_derivative_as_a_kernel_is_that_of_the_profile(name):
    kernel = KERNELS[name]
    derivative = kernel.profile_derivative(torch.tensor(U**2)).numpy()
    np.testing.assert_array_equal(profile(kernel.derivative(), U), derivative)


def bump(u):
    return torch.where(u < 2, (2 - u) ** 3 * (1 + u), 0.0)


SQUARED = [*KERNELS.values(), as_kernel(bump), as_kernel(lambda u: 1 / (1 + u**4))]


@pytest.mark.parametrize("kernel", SQUARED, ids=lambda kernel: kernel.name)
def test_the_square_is_a_kernel_of_its_own(kernel):
    square = kernel.squared()
    assert (square.support, square.has_edge) == (kernel.support, kernel.has_edge)
    np.testing.assert_allclose(profile(square, U), profile(kernel, U) ** 2, rtol=1e-14, atol=0)
    sq, step = np.concatenate([np.linspace(0.05, 0.95, 40), np.linspace(1.05, 9, 10)]), 1e-6
    low, high = profile(square, np.sqrt(sq - step)), profile(square, np.sqrt(sq + step))
    derivative = square.derivative().profile(torch.tensor(sq)).numpy()
    np.testing.assert_allclose(derivative, (high - low) / (2 * step), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_the_square_has_its_own_roughness(name):
    mass = quad(lambda u: profile(KERNELS[name].squared(), np.array([u]))[0], 0, 40, points=[1])[0]
    fourth = quad(lambda u: profile(KERNELS[name], np.array([u]))[0] ** 4, 0, 40, points=[1])[0]
    variance = quad(
        lambda u: u * u * profile(KERNELS[name], np.array([u]))[0] ** 2, 0, 40, points=[1]
    )[0]
    expected = (fourth / (2 * mass**2) / (variance / mass) ** 2) ** 0.2
    gaussian = (1 / (2 * math.sqrt(math.pi))) ** 0.2
    assert KERNELS[name].squared().canonical_factor == pytest.approx(expected / gaussian, rel=1e-6)


@pytest.mark.parametrize("nearest", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("name", ["gaussian", "exponential"])
def test_the_tail_of_the_square_and_its_derivative(name, nearest):
    kernel, square = KERNELS[name], KERNELS[name].squared()
    excess = torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64)
    base = torch.full_like(excess, nearest)
    weights = kernel.tail(excess, base)
    torch.testing.assert_close(square.tail(excess, base), weights**2)
    derivatives = 2 * weights * kernel.derivative().tail(excess, base)
    torch.testing.assert_close(square.derivative().tail(excess, base), derivatives)
    logs = square.log_profile(base + excess)
    torch.testing.assert_close(square.squared_cutoff(logs), base + excess)


@pytest.mark.parametrize("name", ["gaussian", "exponential", "tophat"])
def test_squares_that_are_the_kernel_on_scaled_points(name):
    kernel, scale = KERNELS[name].squared().on_scaled_points()
    assert kernel == KERNELS[name]
    np.testing.assert_allclose(
        profile(kernel, scale * U), profile(KERNELS[name], U) ** 2, rtol=1e-12, atol=1e-300
    )


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"gaussian", "exponential", "tophat"}))
def test_other_squares_stand_on_their_own_points(name):
    square = KERNELS[name].squared()
    assert square.on_scaled_points() == (square, 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_float32_never_gives_denormals(name):
    sq = torch.linspace(0, 400, 4001)
    weights = KERNELS[name].profile(sq)
    assert weights.dtype == torch.float32
    assert ((weights == 0) | (weights >= torch.finfo(torch.float32).tiny)).all()


@pytest.mark.parametrize("name", NAMES)
def test_records_pickle(name):
    for kernel in (KERNELS[name], KERNELS[name].squared(), KERNELS[name].derivative()):
        copy = pickle.loads(pickle.dumps(kernel))
        np.testing.assert_array_equal(profile(copy, U), profile(kernel, U))


def cauchy(u):
    return 1 / (1 + u**2)


def exponential_square(u):
    return torch.exp(-0.5 * u**2)


def test_a_callable_becomes_a_record():
    kernel = as_kernel(exponential_square)
    gaussian = KERNELS["gaussian"]
    np.testing.assert_allclose(profile(kernel, U), profile(gaussian, U), rtol=1e-12, atol=1e-300)
    sq = torch.tensor(U[1:] ** 2)
    np.testing.assert_allclose(
        kernel.profile_derivative(sq.clone()),
        gaussian.profile_derivative(sq.clone()),
        rtol=1e-12,
        atol=1e-300,
    )
    assert kernel.name == "exponential_square"
    assert kernel.canonical_factor == pytest.approx(1, rel=1e-6)


def test_a_callable_without_gradient_is_flat():
    kernel = as_kernel(lambda u: (u < 2).to(u.dtype))
    assert (kernel.profile_derivative(torch.rand(5)) == 0).all()


def test_a_callable_without_second_moment_has_no_canonical_factor():
    with pytest.raises(ValueError, match="'cauchy' has no finite second moment"):
        _ = as_kernel(cauchy).canonical_factor


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda u: u.sum(), r"of the shape of the distances it is given, here \(4, 6\)"),
        (lambda u: u.numpy(), "must return a torch tensor"),
        (lambda u: -u, "finite weights >= 0"),
        (lambda u: 1 / (u - u), "finite weights >= 0"),
    ],
)
def test_a_bad_callable_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        as_kernel(function)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"kernel must be one of .*'gaussian'.* got 'gauss'"):
        as_kernel("gauss")
