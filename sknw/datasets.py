"""The tutorial curve: one small problem on which kernel regression can be seen at work."""

import math
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["attention_curve", "make_attention_curve"]


def attention_curve(x):
    """Evaluate the noiseless tutorial curve, ``2 sin(x) + x ** 0.8``.

    Parameters
    ----------
    x : array-like of any shape
        Where to evaluate; not negative.

    Returns
    -------
    y : float or ndarray of the shape of `x`
        The truth at `x`.

    Raises
    ------
    ValueError
        If a value of `x` is negative or not finite.

    Examples
    --------
    >>> from sknw.datasets import attention_curve
    >>> attention_curve([0.0, 1.0, 4.0]).round(3).tolist()
    [0.0, 2.683, 1.518]
    """
    x = np.asarray(x, dtype=np.float64)
    bad = x[~(np.isfinite(x) & (x >= 0))]
    if bad.size:
        raise ValueError(f"x must be finite and not negative; got {float(bad[0])}.")
    return 2 * np.sin(x) + x**0.8


def make_attention_curve(n_samples=50, *, noise=0.5, random_state=None):
    """Draw noisy training rows of the tutorial curve, and its truth on a test grid.

    The training inputs are uniform on (0, 5) and sorted, the targets are
    ``2 sin(x) + x ** 0.8 + e`` with ``e ~ N(0, noise ** 2)``. The test inputs are the grid
    0, 0.1, ..., 4.9, with the noiseless truth as their targets: the error there is the error
    of the fitted curve itself.

    Parameters
    ----------
    n_samples : int, default=50
        Number of training rows, at least 1.
    noise : float, default=0.5
        Standard deviation of the noise in the training targets, in the units of `y`.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same rows at each call.

    Returns
    -------
    X : ndarray of shape (n_samples, 1)
        Training inputs, ascending.
    y : ndarray of shape (n_samples,)
        Noisy training targets.
    X_test : ndarray of shape (50, 1)
        Test inputs 0, 0.1, ..., 4.9.
    y_test : ndarray of shape (50,)
        The noiseless truth at `X_test`.

    Raises
    ------
    TypeError
        If `n_samples` is not an integer or `noise` is not a number.
    ValueError
        If `n_samples` is below 1, or `noise` is negative or not finite.

    References
    ----------
    A. Zhang, Z. C. Lipton, M. Li and A. J. Smola, "Dive into Deep Learning", Cambridge
    University Press, 2023: the chapter on attention pooling.

    Examples
    --------
    >>> from sknw.datasets import make_attention_curve
    >>> X, y, X_test, y_test = make_attention_curve(random_state=0)
    >>> X.shape, y.shape, X_test.shape, y_test.shape
    ((50, 1), (50,), (50, 1), (50,))
    >>> y_test[:3].round(3).tolist()
    [0.0, 0.358, 0.673]
    """
    _check_n_samples(n_samples)
    _check_noise(noise)
    rng = check_random_state(random_state)
    upper, n_test = 5.0, 50
    x = np.sort(rng.uniform(0, upper, size=n_samples))
    y = attention_curve(x) + rng.normal(0, noise, size=n_samples)
    x_test = np.arange(n_test) * upper / n_test
    return x[:, np.newaxis], y, x_test[:, np.newaxis], attention_curve(x_test)


def _check_n_samples(n_samples):
    if isinstance(n_samples, bool) or not isinstance(n_samples, Integral):
        raise TypeError(f"n_samples must be an integer; got {n_samples!r}.")
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1; got {n_samples}.")


def _check_noise(noise):
    if isinstance(noise, bool) or not isinstance(noise, Real):
        raise TypeError(f"noise must be a number; got {noise!r}.")
    if not math.isfinite(noise) or noise < 0:
        raise ValueError(f"noise must be finite and not negative; got {noise}.")
