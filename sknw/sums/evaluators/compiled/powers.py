"""Powers, exponentials and cosines that vectorise: polynomials in place of calls of a library.

Exponentials are ``2^−s``: ``s`` is split into its nearest integer, which becomes the exponent's
bits, and a remainder, whose power is a polynomial. In vector registers sixteenths are split off, by
a table, where the CPU has one. The table's polynomial leaves 5e-15 of a weight, the longer one no
more than rounding does.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload
from numpy.polynomial import Polynomial, chebyshev

from sknw.sums.evaluators.compiled.disk_cache import inlined
from sknw.sums.evaluators.compiled.vectors import (
    HALF_STEP,
    HAS_TABLES,
    Register,
    at_most,
    lowered,
    power_of_sixteenths,
    rounded,
)


def _coefficients(function, degree: int, low: float, high: float) -> list[float]:
    """Power coefficients, lowest first, of the polynomial through the Chebyshev points."""
    middle, half = np.longdouble(low + high) / 2, np.longdouble(high - low) / 2
    angles = np.pi * (np.arange(degree + 1, dtype=np.longdouble) + 0.5) / (degree + 1)
    values = function(middle + half * np.cos(angles))
    series = 2 / (degree + 1) * np.cos(np.outer(np.arange(degree + 1), angles)) @ values
    series[0] /= 2
    scaled = Polynomial(chebyshev.cheb2poly(series))
    return scaled(Polynomial([-middle / half, 1 / half])).coef.astype(np.float64).tolist()


def _half_to_the(s):
    return np.exp2(-s)


def _cosine_factor(s):
    """``cos(π√s/2) / (1 − s)``, positive up to the edge of the support."""
    u = np.sqrt(s)
    return np.pi / 2 * np.sinc((1 - u) / 2) / (1 + u)


def _cosine_derivative(s):
    return -(np.pi**2) / 8 * np.sinc(np.sqrt(s) / 2)


# Power coefficients by function and precision; those of float32 are float32, so that they never
# widen its arithmetic.
_POLYNOMIALS = {
    "power": _coefficients(_half_to_the, 10, -0.5, 0.5),
    "single power": np.float32(_coefficients(_half_to_the, 5, -0.5, 0.5)),
    "power beside a table": _coefficients(_half_to_the, 5, -HALF_STEP, HALF_STEP),
    "cosine": _coefficients(_cosine_factor, 9, 0.0, 1.0),
    "single cosine": np.float32(_coefficients(_cosine_factor, 5, 0.0, 1.0)),
    "cosine derivative": _coefficients(_cosine_derivative, 9, 0.0, 1.0),
    "single cosine derivative": np.float32(_coefficients(_cosine_derivative, 5, 0.0, 1.0)),
}
(_e0, _e1, _e2, _e3, _e4, _e5, _e6, _e7, _e8, _e9, _e10) = _POLYNOMIALS["power"]
(_f0, _f1, _f2, _f3, _f4, _f5) = _POLYNOMIALS["single power"]
(_g0, _g1, _g2, _g3, _g4, _g5) = _POLYNOMIALS["power beside a table"]
(_c0, _c1, _c2, _c3, _c4, _c5, _c6, _c7, _c8, _c9) = _POLYNOMIALS["cosine"]
(_d0, _d1, _d2, _d3, _d4, _d5) = _POLYNOMIALS["single cosine"]
(_s0, _s1, _s2, _s3, _s4, _s5, _s6, _s7, _s8, _s9) = _POLYNOMIALS["cosine derivative"]
(_t0, _t1, _t2, _t3, _t4, _t5) = _POLYNOMIALS["single cosine derivative"]
_LOG2E = 1 / math.log(2)
_LOG2E_32 = np.float32(_LOG2E)
# By bytes of a number: the exponent s at which ``2^−s`` is the smallest normal number, and one from
# which it may count as zero.
LARGEST = {8: 1021.0, 4: np.float32(125.0)}
_VANISHING, _VANISHING_32 = 1009.0, np.float32(124.0)
ZERO = np.float32(0)  # exact in either precision


def _is_double(at):
    return at in (types.float64, Register(types.float64))


@inlined
def power(s):
    """``2^−s`` for s ≥ 0, never denormal."""
    return power_within(clamped(s))


def clamped(s):
    """Return s where it is not larger than `LARGEST`, else that."""


@overload(clamped, jit_options={"fastmath": True})
def _clamped_of(s):
    limit = LARGEST[8] if _is_double(s) else LARGEST[4]
    return lambda s: at_most(s, limit)


def power_within(s):
    """``2^−s`` for s from 0 to `LARGEST`."""


@overload(power_within, jit_options={"fastmath": True})
def _power_within_of(s):
    if s == Register(types.float64) and HAS_TABLES:

        def by_table(s):
            f, power = power_of_sixteenths(s)
            return (((((_g5 * f + _g4) * f + _g3) * f + _g2) * f + _g1) * f + _g0) * power

        return by_table
    if _is_double(s):

        def by_polynomial(s):
            n = rounded(s)
            f = s - n
            p = ((((_e10 * f + _e9) * f + _e8) * f + _e7) * f + _e6) * f + _e5
            p = ((((p * f + _e4) * f + _e3) * f + _e2) * f + _e1) * f + _e0
            return lowered(p, n)

        return by_polynomial

    def single(s):
        n = rounded(s)
        f = s - n
        p = ((((_f5 * f + _f4) * f + _f3) * f + _f2) * f + _f1) * f + _f0
        return lowered(p, n)

    return single


def decay(x):
    """``e^−x`` for x ≥ 0."""


@overload(decay, jit_options={"fastmath": True})
def _decay_of(x):
    if x == types.float64:
        return lambda x: power(x * _LOG2E)
    return lambda x: power(x * _LOG2E_32)


def vanishing_decay(x):
    """``e^−x`` for x ≥ 0; zero where it would be denormal."""


@overload(vanishing_decay, jit_options={"fastmath": True})
def _vanishing_decay_of(x):
    if x == types.float64:

        def double(x):
            s = x * _LOG2E
            return power(s) if s < _VANISHING else 0.0

        return double

    def single(x):
        s = x * _LOG2E_32
        return power(s) if s < _VANISHING_32 else ZERO

    return single


def cosine_polynomial(s):
    """``cos(π√s/2) / (1 − s)`` on [0, 1]."""


@overload(cosine_polynomial, jit_options={"fastmath": True})
def _cosine_polynomial_of(s):
    if s == types.float64:

        def double(s):
            p = (((_c9 * s + _c8) * s + _c7) * s + _c6) * s + _c5
            return ((((p * s + _c4) * s + _c3) * s + _c2) * s + _c1) * s + _c0

        return double
    return lambda s: ((((_d5 * s + _d4) * s + _d3) * s + _d2) * s + _d1) * s + _d0


def cosine_derivative_polynomial(s):
    """``d cos(π√s/2) / ds`` on [0, 1]."""


@overload(cosine_derivative_polynomial, jit_options={"fastmath": True})
def _cosine_derivative_polynomial_of(s):
    if s == types.float64:

        def double(s):
            p = (((_s9 * s + _s8) * s + _s7) * s + _s6) * s + _s5
            return ((((p * s + _s4) * s + _s3) * s + _s2) * s + _s1) * s + _s0

        return double
    return lambda s: ((((_t5 * s + _t4) * s + _t3) * s + _t2) * s + _t1) * s + _t0
