"""The tutorial curve: its definition, its seeds and its errors."""

import math

import numpy as np
import pytest
from sklearn.utils import check_random_state

from sknw.datasets import attention_curve, make_attention_curve


def test_curve_is_its_formula():
    x = [0.0, 0.5, math.pi / 2, 4.9]
    expected = [2 * math.sin(value) + value**0.8 for value in x]
    np.testing.assert_allclose(attention_curve(x), expected, rtol=1e-15)
    assert attention_curve(0) == 0.0


@pytest.mark.parametrize("shape", [(), (6,), (6, 1), (2, 3)])
def test_curve_keeps_the_shape_of_its_input(shape):
    assert np.shape(attention_curve(np.ones(shape))) == shape


def test_shapes_and_dtypes():
    parts = make_attention_curve(30, random_state=0)
    assert [part.shape for part in parts] == [(30, 1), (30,), (50, 1), (50,)]
    assert all(part.dtype == np.float64 for part in parts)


def test_training_inputs_are_sorted_and_fill_the_interval():
    X, _, _, _ = make_attention_curve(5000, random_state=0)
    assert (np.diff(X[:, 0]) >= 0).all()
    assert 0 < X.min() < 0.01
    assert 4.99 < X.max() < 5
    # uniform on (0, 5): Kolmogorov-Smirnov distance below its 0.1 % quantile, 1.95 / sqrt(n)
    assert np.abs(X[:, 0] / 5 - np.linspace(0, 1, 5000)).max() < 1.95 / math.sqrt(5000)


def test_the_test_grid_and_its_truth():
    _, _, X_test, y_test = make_attention_curve(random_state=0)
    np.testing.assert_allclose(X_test[:, 0], [k / 10 for k in range(50)], rtol=1e-15)
    np.testing.assert_array_equal(y_test, attention_curve(X_test[:, 0]))


def test_without_noise_the_targets_are_the_truth():
    X, y, _, _ = make_attention_curve(random_state=0, noise=0)
    np.testing.assert_array_equal(y, attention_curve(X[:, 0]))


@pytest.mark.parametrize("noise", [0.1, 0.5, 3])
def test_noise_is_the_standard_deviation(noise):
    n = 20_000
    X, y, _, _ = make_attention_curve(n, noise=noise, random_state=0)
    errors = (y - attention_curve(X[:, 0])) / noise
    assert abs(errors.mean()) < 4 / math.sqrt(n)
    assert abs(errors.std() - 1) < 4 / math.sqrt(2 * n)


def test_only_the_noise_depends_on_its_size():
    X, y, _, _ = make_attention_curve(random_state=3, noise=1.0)
    X_half, y_half, _, _ = make_attention_curve(random_state=3, noise=0.5)
    truth = attention_curve(X[:, 0])
    np.testing.assert_array_equal(X, X_half)
    np.testing.assert_allclose(y_half - truth, (y - truth) / 2, rtol=0, atol=1e-14)


def test_the_seed_decides_the_rows():
    first, again, other = (make_attention_curve(random_state=seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_random_state_instance_goes_on():
    rng = np.random.RandomState(1)
    first, second = (make_attention_curve(random_state=rng)[1] for _ in range(2))
    np.testing.assert_array_equal(first, make_attention_curve(random_state=1)[1])
    assert not np.array_equal(first, second)


def test_a_seed_leaves_the_global_generator_alone():
    shared = check_random_state(None)
    before = shared.get_state()[1].copy()
    make_attention_curve(random_state=0)
    np.testing.assert_array_equal(shared.get_state()[1], before)


def test_numpy_scalars_are_numbers():
    X, _, _, _ = make_attention_curve(np.int64(7), noise=np.float32(0.5), random_state=0)
    assert X.shape == (7, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, r"n_samples must be at least 1; got 0\."),
        ({"n_samples": -3}, ValueError, r"n_samples must be at least 1; got -3\."),
        ({"n_samples": 50.0}, TypeError, r"n_samples must be an integer; got 50\.0\."),
        ({"n_samples": "50"}, TypeError, r"n_samples must be an integer; got '50'\."),
        ({"n_samples": True}, TypeError, r"n_samples must be an integer; got True\."),
        ({"noise": -0.5}, ValueError, r"noise must be finite and not negative; got -0\.5\."),
        ({"noise": math.nan}, ValueError, r"noise must be finite and not negative; got nan\."),
        ({"noise": math.inf}, ValueError, r"noise must be finite and not negative; got inf\."),
        ({"noise": None}, TypeError, r"noise must be a number; got None\."),
        ({"noise": False}, TypeError, r"noise must be a number; got False\."),
        ({"random_state": "seed"}, ValueError, r"'seed' cannot be used to seed"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        make_attention_curve(**arguments)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_curve_refuses_what_it_is_not_defined_for(bad):
    with pytest.raises(ValueError, match=rf"x must be finite and not negative; got {bad}\."):
        attention_curve([1.0, bad])
