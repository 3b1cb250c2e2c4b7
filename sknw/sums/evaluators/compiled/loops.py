"""The fused loops: distance, kernel and accumulation over blocks of keys in a core's cache.

Compiled by numba, cached on disk, free of the interpreter's lock, for float32 and float64 alike.
A block of keys passes through three short vector loops that share one small buffer: squared
distances, the kernel's formula, weighted sums. So the loops are as many as dimensions, formulas and
columns together, not their product, and are compiled once. Only the commonest case, a Gaussian with
one output, has loops of its own, which keep nearly all in registers.

Points stand feature-first, (d, n): a coordinate of a block is one contiguous slice. Counters are
unsigned, since a signed index costs a wrap-around test in every vector. Exponentials are ``2^−s``:
``s`` is split into its nearest integer, which becomes the exponent's bits, and a remainder, whose
power is a polynomial. The Gaussian's loops are written in vector registers, whose exponentials
split off sixteenths, by a table, where the CPU has one. Sums of a block are in the points'
precision and added up in float64. The table's polynomial leaves 5e-15 of a weight, the longer one
no more than rounding does.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.polynomial import Polynomial, chebyshev

from sknw.kernels.codes import EXACT
from sknw.sums.evaluators.compiled.disk_cache import TolerantCache
from sknw.sums.evaluators.compiled.formulas import FAMILIES, FORMS
from sknw.sums.evaluators.compiled.vectors import (
    HALF_STEP,
    HAS_TABLES,
    Register,
    address,
    at_most,
    first_lanes,
    lanes_of,
    load,
    lowered,
    power_of_sixteenths,
    rounded,
    spread,
    store,
    sum_of_lanes,
)

(
    _GAUSSIAN,
    _EXPONENTIAL,
    _COSINE,
    _EPANECHNIKOV,
    _TOPHAT,
    _LINEAR,
    _BIWEIGHT,
    _TRIWEIGHT,
    _TRICUBE,
    _POWER,
    _NEAR_POWER,
    _NEAREST,
) = range(len(FAMILIES))
_, _SLOPE, _SQUARE = range(len(FORMS))
_BLOCK = 2048  # keys whose coordinates, columns and buffer stay in a core's caches
_CHUNK = 8192  # the same where each query meets but some of them
_FOR_FOURS = 8  # features: the same places of more rows may share too few lines of the cache
_PIECE = 1024  # keys over which several short loops pass one after the other

# Exactly representable constants as float32, so that they never widen float32 arithmetic.
_0, _HALF, _1, _2, _3 = (np.float32(value) for value in (0, 0.5, 1, 2, 3))
_4_5 = np.float32(4.5)
_REMOTE = np.float32(1e30)  # a squared distance at which no kernel has weight
_OUTSIDE = np.float32(4)  # one at which no compact kernel has, however its root is rounded


def _compiled(function=None, *, fastmath=True):
    """Compile on first use; keep the code on disk where there is a place for it."""
    if function is None:
        return lambda function: _compiled(function, fastmath=fastmath)
    dispatcher = njit(function, nogil=True, fastmath=fastmath, error_model="numpy")
    try:
        dispatcher._cache = TolerantCache(function)
    except RuntimeError:  # no folder to write to
        return dispatcher
    return dispatcher


def _inlined(function):
    """Let numba write the function's body wherever it is called."""
    return njit(function, inline="always", fastmath=True, error_model="numpy")


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


def _cosine_slope(s):
    return -(np.pi**2) / 8 * np.sinc(np.sqrt(s) / 2)


_E64 = _coefficients(_half_to_the, 10, -0.5, 0.5)
_E32 = [np.float32(c) for c in _coefficients(_half_to_the, 5, -0.5, 0.5)]
_F64 = _coefficients(_half_to_the, 5, -HALF_STEP, HALF_STEP)
_C64 = _coefficients(_cosine_factor, 9, 0.0, 1.0)
_C32 = [np.float32(c) for c in _coefficients(_cosine_factor, 5, 0.0, 1.0)]
_S64 = _coefficients(_cosine_slope, 9, 0.0, 1.0)
_S32 = [np.float32(c) for c in _coefficients(_cosine_slope, 5, 0.0, 1.0)]
(_e0, _e1, _e2, _e3, _e4, _e5, _e6, _e7, _e8, _e9, _e10) = _E64
(_f0, _f1, _f2, _f3, _f4, _f5) = _E32
(_g0, _g1, _g2, _g3, _g4, _g5) = _F64
(_c0, _c1, _c2, _c3, _c4, _c5, _c6, _c7, _c8, _c9) = _C64
(_d0, _d1, _d2, _d3, _d4, _d5) = _C32
(_s0, _s1, _s2, _s3, _s4, _s5, _s6, _s7, _s8, _s9) = _S64
(_t0, _t1, _t2, _t3, _t4, _t5) = _S32
_LOG2E = 1 / math.log(2)
_LOG2E_32 = np.float32(_LOG2E)
_EPSILON, _EPSILON_32 = 2 * np.finfo(np.float64).eps, 2 * np.finfo(np.float32).eps
LARGEST = {8: 1021.0, 4: np.float32(125.0)}  # by bytes: ``2^−s`` is the smallest normal number
_EXACT, _EXACT_32 = EXACT[8], np.float32(EXACT[4])
_VANISHING, _VANISHING_32 = 1009.0, np.float32(124.0)


def _is_double(at):
    return at in (types.float64, Register(types.float64))


@_inlined
def _power(s):
    """``2^−s`` for s ≥ 0, never denormal."""
    return _power_within(_clamped(s))


def _clamped(s):
    """Return s where it is not larger than `LARGEST`, else that."""


@overload(_clamped, jit_options={"fastmath": True})
def _clamped_of(s):
    limit = LARGEST[8] if _is_double(s) else LARGEST[4]
    return lambda s: at_most(s, limit)


def _power_within(s):
    """``2^−s`` for s from 0 to `LARGEST`."""


@overload(_power_within, jit_options={"fastmath": True})
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


def _decay(x):
    """``e^−x`` for x ≥ 0."""


@overload(_decay, jit_options={"fastmath": True})
def _decay_of(x):
    if x == types.float64:
        return lambda x: _power(x * _LOG2E)
    return lambda x: _power(x * _LOG2E_32)


def _vanishing_decay(x):
    """``e^−x`` for x ≥ 0; zero where it would be denormal."""


@overload(_vanishing_decay, jit_options={"fastmath": True})
def _vanishing_decay_of(x):
    if x == types.float64:

        def double(x):
            s = x * _LOG2E
            return _power(s) if s < _VANISHING else 0.0

        return double

    def single(x):
        s = x * _LOG2E_32
        return _power(s) if s < _VANISHING_32 else _0

    return single


def _cosine_polynomial(s):
    """``cos(π√s/2) / (1 − s)`` on [0, 1]."""


@overload(_cosine_polynomial, jit_options={"fastmath": True})
def _cosine_polynomial_of(s):
    if s == types.float64:

        def double(s):
            p = (((_c9 * s + _c8) * s + _c7) * s + _c6) * s + _c5
            return ((((p * s + _c4) * s + _c3) * s + _c2) * s + _c1) * s + _c0

        return double
    return lambda s: ((((_d5 * s + _d4) * s + _d3) * s + _d2) * s + _d1) * s + _d0


def _cosine_slope_polynomial(s):
    """``d cos(π√s/2) / ds`` on [0, 1]."""


@overload(_cosine_slope_polynomial, jit_options={"fastmath": True})
def _cosine_slope_polynomial_of(s):
    if s == types.float64:

        def double(s):
            p = (((_s9 * s + _s8) * s + _s7) * s + _s6) * s + _s5
            return ((((p * s + _s4) * s + _s3) * s + _s2) * s + _s1) * s + _s0

        return double
    return lambda s: ((((_t5 * s + _t4) * s + _t3) * s + _t2) * s + _t1) * s + _t0


# The last features of points may be codes of categories. `codes` has the cost of a mismatch of one
# in each, and the largest mismatch (see sknw.kernels.codes).


@_compiled(fastmath={"contract"})
def _add_mismatches(queries, i, keys, codes, start, stop, out):
    """Add to squared distances of query i what its mismatches with the keys start:stop cost."""
    costs, caps = codes
    first, begin, end = keys.shape[0] - len(costs), np.uint64(start), np.uint64(stop)
    for c in range(len(costs)):
        f, cost, cap = np.uint64(first + c), costs[c], caps[c]
        q0 = queries[f, i]
        for j in range(begin, end):
            out[j - begin] += cost * min(abs(q0 - keys[f, j]), cap)


@_compiled(fastmath={"contract"})  # equal keys must be equally far, wherever they stand
def _distances(queries, i, keys, codes, start, stop, out):
    """Squared distances of query i from the keys start:stop, four features at a time."""
    n_codes, begin, end = len(codes[0]), np.uint64(start), np.uint64(stop)
    d = keys.shape[0] - n_codes
    if d == 0:
        for j in range(end - begin):
            out[j] = _0
        _add_mismatches(queries, i, keys, codes, start, stop, out)
        return
    f0, f1, f2, f3 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)
    first = d % 4 if d % 4 else 4
    q0 = queries[0, i]
    if first == 1:
        for j in range(begin, end):
            e0 = q0 - keys[f0, j]
            out[j - begin] = e0 * e0
    else:
        q1 = queries[1, i]
        if first == 2:
            for j in range(begin, end):
                e0, e1 = q0 - keys[f0, j], q1 - keys[f1, j]
                out[j - begin] = e0 * e0 + e1 * e1
        else:
            q2 = queries[2, i]
            if first == 3:
                for j in range(begin, end):
                    e0, e1, e2 = q0 - keys[f0, j], q1 - keys[f1, j], q2 - keys[f2, j]
                    out[j - begin] = e0 * e0 + e1 * e1 + e2 * e2
            else:
                q3 = queries[3, i]
                for j in range(begin, end):
                    e0, e1 = q0 - keys[f0, j], q1 - keys[f1, j]
                    e2, e3 = q2 - keys[f2, j], q3 - keys[f3, j]
                    out[j - begin] = (e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)
    for f in range(first, d, 4):
        f0, f1, f2, f3 = np.uint64(f), np.uint64(f + 1), np.uint64(f + 2), np.uint64(f + 3)
        q0, q1, q2, q3 = queries[f, i], queries[f + 1, i], queries[f + 2, i], queries[f + 3, i]
        for j in range(begin, end):
            e0, e1 = q0 - keys[f0, j], q1 - keys[f1, j]
            e2, e3 = q2 - keys[f2, j], q3 - keys[f3, j]
            out[j - begin] += (e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)
    if n_codes:
        _add_mismatches(queries, i, keys, codes, start, stop, out)


@_compiled
def _settle_edges(edge, edges, start, stop, out):
    """Put squared distances that are 1 up to rounding, or more, outside of the support.

    `edge` is the query's allowance for rounding, `edges` those of the keys. Distances are raised by
    a sum: to store only some of them takes the CPU several times longer.
    """
    limit, allowances = _1 - edge, edges[start:stop]
    for j in range(np.uint64(stop - start)):
        out[j] += _0 if out[j] + allowances[j] < limit else _OUTSIDE


@_compiled
def _settle_at_edges(edge, edges, start, stop, out):
    """Do the same for slopes, with exactly 1 at the edge, where they are the mean of both sides."""
    limit, far, allowances = _1 - edge, _1 + edge, edges[start:stop]
    for j in range(np.uint64(stop - start)):
        outside = _1 - out[j] if out[j] - allowances[j] <= far else _OUTSIDE
        out[j] += _0 if out[j] + allowances[j] < limit else outside


@_compiled
def _half_inverse_root(s):
    """``1 / (2u)``; 0 at u = 0, where a pair has no step."""
    return _HALF / math.sqrt(s) if s > _0 else _0


@_compiled
def _profile(buffer, n, family):
    """Turn squared distances into weights."""
    if family == _GAUSSIAN:
        for j in range(n):
            buffer[j] = _decay(_HALF * buffer[j])
    elif family == _EXPONENTIAL:
        for j in range(n):
            buffer[j] = _decay(np.sqrt(buffer[j]))
    elif family == _COSINE:
        for j in range(n):
            s = min(buffer[j], _1)
            buffer[j] = (_1 - s) * _cosine_polynomial(s)
    elif family == _EPANECHNIKOV:
        for j in range(n):
            buffer[j] = max(_1 - buffer[j], _0)
    elif family == _TOPHAT:
        for j in range(n):
            buffer[j] = _1 if buffer[j] < _1 else _0
    elif family == _LINEAR:
        for j in range(n):
            buffer[j] = max(_1 - np.sqrt(buffer[j]), _0)
    elif family == _BIWEIGHT:
        for j in range(n):
            base = max(_1 - buffer[j], _0)
            buffer[j] = base * base
    elif family == _TRIWEIGHT:
        for j in range(n):
            base = max(_1 - buffer[j], _0)
            buffer[j] = base * base * base
    elif family == _TRICUBE:
        for j in range(n):
            s = buffer[j]
            base = max(_1 - s * np.sqrt(s), _0)
            buffer[j] = base * base * base
    elif family in (_POWER, _NEAR_POWER):
        for j in range(n):
            buffer[j] = _power(buffer[j])


@_compiled
def _slope(buffer, n, family):
    """Turn squared distances into derivatives of the weights with respect to them."""
    if family == _GAUSSIAN:
        for j in range(n):
            buffer[j] = -_HALF * _decay(_HALF * buffer[j])
    elif family == _EXPONENTIAL:
        for j in range(n):
            s = buffer[j]
            buffer[j] = -_half_inverse_root(s) * _decay(np.sqrt(s))
    elif family == _COSINE:
        for j in range(n):
            s = buffer[j]
            weight = _1 if s < _1 else (_HALF if s == _1 else _0)
            buffer[j] = weight * _cosine_slope_polynomial(min(s, _1))
    elif family == _EPANECHNIKOV:
        for j in range(n):
            s = buffer[j]
            buffer[j] = -_1 if s < _1 else (-_HALF if s == _1 else _0)
    elif family == _TOPHAT:
        for j in range(n):
            buffer[j] = _0
    elif family == _LINEAR:
        for j in range(n):
            s = buffer[j]
            weight = _1 if s < _1 else (_HALF if s == _1 else _0)
            buffer[j] = -weight * _half_inverse_root(s)
    elif family == _BIWEIGHT:
        for j in range(n):
            buffer[j] = -_2 * max(_1 - buffer[j], _0)
    elif family == _TRIWEIGHT:
        for j in range(n):
            base = max(_1 - buffer[j], _0)
            buffer[j] = -_3 * base * base
    elif family == _TRICUBE:
        for j in range(n):
            s = buffer[j]
            u = np.sqrt(s)
            base = max(_1 - s * u, _0)
            buffer[j] = -_4_5 * u * base * base


@_compiled
def _excesses(queries, i, keys, codes, anchors, start, stop, out):
    """``|q − z_j|² − |q − a|²`` for the anchor a of query i, without the large parts.

    As ``(z_j − a)(z_j + a − 2q)`` it is exactly zero for a key that equals the anchor, and accurate
    however far the query.
    """
    n, n_codes = np.uint64(stop - start), len(codes[0])
    if n_codes:
        _excess_mismatches(queries, i, keys, codes, anchors, start, stop, out)
    for f in range(keys.shape[0] - n_codes):
        anchor, z0 = anchors[f, i], keys[f, start:stop]
        rest = anchor - _2 * queries[f, i]
        if f == 0 and n_codes == 0:
            for j in range(n):
                out[j] = (z0[j] - anchor) * (z0[j] + rest)
        else:
            for j in range(n):
                out[j] += (z0[j] - anchor) * (z0[j] + rest)


@_compiled(fastmath={"contract"})
def _excess_mismatches(queries, i, keys, codes, anchors, start, stop, out):
    """Fill out with what mismatches with the keys cost more than those with the anchor.

    Those that have to match exactly come first: whole multiples of one power of two, which cancel.
    """
    costs, caps = codes
    first, n = keys.shape[0] - len(costs), np.uint64(stop - start)
    exact = _EXACT_32 if keys.itemsize == 4 else _EXACT
    for j in range(n):
        out[j] = _0
    for is_exact in (True, False):
        for c in range(len(costs)):
            if (costs[c] == exact) == is_exact:
                q0, z0 = queries[first + c, i], keys[first + c, start:stop]
                own, cost, cap = abs(q0 - anchors[first + c, i]), costs[c], caps[c]
                own = min(own, cap)
                for j in range(n):
                    out[j] += cost * (min(abs(q0 - z0[j]), cap) - own)


@_compiled
def _subtract_rounding(queries, i, keys, n_numbers, anchors, start, stop, epsilon, out):
    """Subtract what rounding of the points may have added to each excess."""
    n = np.uint64(stop - start)
    for f in range(n_numbers):
        q0, anchor, z0 = queries[f, i], anchors[f, i], keys[f, start:stop]
        step = abs(q0 - anchor)
        for j in range(n):
            sizes = abs(z0[j]) + abs(anchor)
            out[j] -= epsilon * (abs(z0[j] - anchor) * (sizes + abs(q0)) + step * sizes)


@_compiled
def _shifted(buffer, n, family, nearest):
    """Turn excesses over the nearest squared distance into weights relative to that key's."""
    if family == _GAUSSIAN:
        for j in range(n):
            buffer[j] = _vanishing_decay(_HALF * max(buffer[j], _0))
    elif family == _EXPONENTIAL:
        for j in range(n):
            excess = max(buffer[j], _0)
            s = nearest + excess
            roots = np.sqrt(s) + np.sqrt(nearest)
            # √s − √nearest without cancellation
            buffer[j] = _vanishing_decay(excess / roots) if excess > _0 else _1
    else:  # the limit of a vanishing bandwidth
        for j in range(n):
            buffer[j] = _1 if buffer[j] <= _0 else _0


@_compiled
def _weights(
    queries, i, keys, codes, runs, n_runs, exclude, nearest, anchors, edges, family, form, buffer
):  # fmt: skip
    """Fill the buffer with the weights of query i on runs of keys, one after another."""
    n = 0
    for t in range(n_runs):
        start, stop = runs[t, 0], runs[t, 1]
        out = buffer[n:]
        if len(nearest):
            _excesses(queries, i, keys, codes, anchors, start, stop, out)
            if family == _NEAREST:
                epsilon = _EPSILON_32 if keys.itemsize == 4 else _EPSILON
                n_numbers = keys.shape[0] - len(codes[0])
                _subtract_rounding(
                    queries, i, keys, n_numbers, anchors, start, stop, epsilon, out
                )  # fmt: skip
        else:
            _distances(queries, i, keys, codes, start, stop, out)
            if len(edges[0]):
                if form == _SLOPE:
                    _settle_at_edges(edges[0][i], edges[1], start, stop, out)
                else:
                    _settle_edges(edges[0][i], edges[1], start, stop, out)
        n += stop - start
    n = np.uint64(n)
    if len(nearest):
        if nearest[i] == np.inf:  # there is no key
            buffer[:] = np.inf
        _shifted(buffer, n, family, nearest[i])
    elif form == _SLOPE:
        _slope(buffer, n, family)
    else:
        _profile(buffer, n, family)
    if form == _SQUARE:
        for j in range(n):
            buffer[j] *= buffer[j]
    place = 0
    for t in range(n_runs if len(exclude) else 0):
        start, stop = runs[t, 0], runs[t, 1]
        if start <= exclude[i] < stop:
            buffer[place + exclude[i] - start] = _0
        place += stop - start


@_compiled
def _add_columns(buffer, columns, start, stop, i, out):
    """Add the weighted columns of the keys start:stop to row i of the sums."""
    k, begin, end = columns.shape[0], np.uint64(start), np.uint64(stop)
    for c in range(0, k - 1, 2):
        c0, c1 = np.uint64(c), np.uint64(c + 1)
        sum0, sum1 = _0 * buffer[0], _0 * buffer[0]
        for j in range(begin, end):
            weight = buffer[j - begin]
            sum0 += weight * columns[c0, j]
            sum1 += weight * columns[c1, j]
        out[c, i] += sum0
        out[c + 1, i] += sum1
    if k % 2:
        c0, sum0 = np.uint64(k - 1), _0 * buffer[0]
        for j in range(begin, end):
            sum0 += buffer[j - begin] * columns[c0, j]
        out[k - 1, i] += sum0


@_inlined
def _add_lanes(weight, masses, values, uniform, j, count, mass, total):
    """Add to mass and total what the weights of `count` keys from j on give."""
    total += weight * load(values, j, count)
    mass += weight if uniform else weight * load(masses, j, count)
    return mass, total


@_compiled
def _add_two_columns(buffer, columns, runs, n_runs, i, out):
    """Add two weighted columns of runs of keys, whose weights follow each other, to row i."""
    zero, place = _0 * buffer[0], np.uint64(0)
    weights, first, second = address(buffer, 0), address(columns, 0), address(columns, 1)
    sum0, sum1, lanes = spread(zero), spread(zero), lanes_of(zero)
    for t in range(n_runs):
        begin, end = np.uint64(runs[t, 0]), np.uint64(runs[t, 1])
        for j in range(begin, end, lanes):
            count = min(lanes, end - j)
            weight = load(weights, place, count)
            sum0, sum1 = _add_lanes(weight, first, second, False, j, count, sum0, sum1)
            place += count
    out[0, i] += sum_of_lanes(sum0)
    out[1, i] += sum_of_lanes(sum1)


@_compiled
def _add_weighted(
    queries, i, keys, codes, columns, runs, n_runs, exclude, nearest, anchors, edges, family, form,
    buffer, out,
):  # fmt: skip
    """Add the sums of query i over runs of keys."""
    _weights(
        queries, i, keys, codes, runs, n_runs, exclude, nearest, anchors, edges, family, form,
        buffer,
    )  # fmt: skip
    if len(columns) == 2:
        _add_two_columns(buffer, columns, runs, n_runs, i, out)
        return
    place = 0
    for t in range(n_runs):
        start, stop = runs[t, 0], runs[t, 1]
        _add_columns(buffer[place:], columns, start, stop, i, out)
        place += stop - start


@_compiled
def _distances_of_two(queries, i, keys, codes, start, stop, buffer, other):
    """Squared distances of queries i and i + 1 from the keys start:stop."""
    first, last, h, d = np.uint64(start), np.uint64(stop), i + 1, keys.shape[0] - len(codes[0])
    if d % 4 or d == 0:  # features that make no four
        for j in range(np.uint64(stop - start)):
            buffer[j] = _0
            other[j] = _0
        for f in range(d % 4):
            q0, r0, f0 = queries[f, i], queries[f, h], np.uint64(f)
            for j in range(first, last):
                z0 = keys[f0, j]
                buffer[j - first] += (q0 - z0) * (q0 - z0)
                other[j - first] += (r0 - z0) * (r0 - z0)
    for f in range(d % 4, d, 4):
        f0, f1, f2, f3 = np.uint64(f), np.uint64(f + 1), np.uint64(f + 2), np.uint64(f + 3)
        q0, q1, q2, q3 = queries[f, i], queries[f + 1, i], queries[f + 2, i], queries[f + 3, i]
        r0, r1, r2, r3 = queries[f, h], queries[f + 1, h], queries[f + 2, h], queries[f + 3, h]
        if f == 0:
            for j in range(first, last):
                z0, z1, z2, z3 = keys[f0, j], keys[f1, j], keys[f2, j], keys[f3, j]
                e0, e1, e2, e3 = q0 - z0, q1 - z1, q2 - z2, q3 - z3
                buffer[j - first] = (e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)
                e0, e1, e2, e3 = r0 - z0, r1 - z1, r2 - z2, r3 - z3
                other[j - first] = (e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)
        else:
            for j in range(first, last):
                z0, z1, z2, z3 = keys[f0, j], keys[f1, j], keys[f2, j], keys[f3, j]
                e0, e1, e2, e3 = q0 - z0, q1 - z1, q2 - z2, q3 - z3
                buffer[j - first] += (e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)
                e0, e1, e2, e3 = r0 - z0, r1 - z1, r2 - z2, r3 - z3
                other[j - first] += (e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)
    if len(codes[0]):
        _add_mismatches(queries, i, keys, codes, start, stop, buffer)
        _add_mismatches(queries, h, keys, codes, start, stop, other)


@_inlined
def _weigh_lanes(buffer, masses, values, uniform, j, k, count, mass, total):
    """Turn `count` squared distances from j on into ``2^−s``; add to the sums of keys from k on."""
    weight = first_lanes(_power(load(buffer, j, count)), count)
    store(weight, buffer, j, count)
    return _add_lanes(weight, masses, values, uniform, k, count, mass, total)


@_compiled
def _weigh(buffer, start, stop, columns, uniform, gap, i, out):
    """Turn squared distances of the keys start:stop into ``2^−s``; add to the sums of query i.

    The key at the gap becomes as remote as a key can be.
    """
    if start <= gap < stop:
        buffer[gap - start] = _REMOTE
    zero, n, begin = _0 * buffer[0], np.uint64(stop - start), np.uint64(start)
    squared, masses, values = address(buffer, 0), address(columns, 0), address(columns, 1)
    mass, total, lanes = spread(zero), spread(zero), lanes_of(zero)
    whole = n // lanes * lanes
    for j in range(np.uint64(0), whole, lanes):
        mass, total = _weigh_lanes(
            squared, masses, values, uniform, j, begin + j, lanes, mass, total
        )
    if whole < n:
        mass, total = _weigh_lanes(
            squared, masses, values, uniform, whole, begin + whole, n - whole, mass, total
        )
    out[0, i] += sum_of_lanes(mass)
    out[1, i] += sum_of_lanes(total)


@_compiled
def _weigh_two(queries, i, keys, codes, start, stop, columns, uniform, gaps, buffer, other, out):
    """Fill the buffers with the weights of queries i and i + 1, and add their sums.

    The two share what is read of the keys. The key at the gap of each: see `_weigh`.
    """
    _distances_of_two(queries, i, keys, codes, start, stop, buffer, other)
    _weigh(buffer, start, stop, columns, uniform, gaps[0], i, out)
    _weigh(other, start, stop, columns, uniform, gaps[1], i + 1, out)


@_compiled
def _add_many_powers(
    queries, i, two, keys, codes, start, stop, columns, uniform, exclude, buffer, other, out
):  # fmt: skip
    """Add the sums of ``2^−s`` and of that times the values for query i, or i and i + 1."""
    gaps = _gap(exclude, i), (_gap(exclude, i + 1) if two else -1)
    for head in range(start, stop, _PIECE):
        tail = min(head + _PIECE, stop)
        if two:
            _weigh_two(
                queries, i, keys, codes, head, tail, columns, uniform, gaps, buffer, other, out
            )
        else:
            _distances(queries, i, keys, codes, head, tail, buffer)
            _weigh(buffer, head, tail, columns, uniform, gaps[0], i, out)


@_inlined
def _add_lanes_of_four(
    rows, points, stride, d, masses, values, uniform, j, count,
    mass0, total0, mass1, total1, mass2, total2, mass3, total3,
):  # fmt: skip
    """Add to the sums of four queries what `count` keys from j on give."""
    z, place = load(points, j, count), j
    step0, step1 = z - spread(rows[0, 0]), z - spread(rows[0, 1])
    step2, step3 = z - spread(rows[0, 2]), z - spread(rows[0, 3])
    s0, s1, s2, s3 = step0 * step0, step1 * step1, step2 * step2, step3 * step3
    for f in range(1, d):
        place += stride
        z = load(points, place, count)
        step0, step1 = z - spread(rows[f, 0]), z - spread(rows[f, 1])
        step2, step3 = z - spread(rows[f, 2]), z - spread(rows[f, 3])
        s0 += step0 * step0
        s1 += step1 * step1
        s2 += step2 * step2
        s3 += step3 * step3
    w0, w1 = first_lanes(_power(s0), count), first_lanes(_power(s1), count)
    w2, w3 = first_lanes(_power(s2), count), first_lanes(_power(s3), count)
    value = load(values, j, count)
    total0 += w0 * value
    total1 += w1 * value
    total2 += w2 * value
    total3 += w3 * value
    if uniform:
        mass0 += w0
        mass1 += w1
        mass2 += w2
        mass3 += w3
    else:
        mass = load(masses, j, count)
        mass0 += w0 * mass
        mass1 += w1 * mass
        mass2 += w2 * mass
        mass3 += w3 * mass
    return mass0, total0, mass1, total1, mass2, total2, mass3, total3


@_compiled
def _add_four_powers(queries, i, keys, start, stop, columns, uniform, rows, out):
    """Add the sums of ``2^−s`` and of that times the values for four queries from i on.

    They stay in registers, and share what is read of the keys. Rows (d, 4) is room for the queries.
    """
    d, zero = len(keys), _0 * queries[0, i]
    for f in range(d):
        for t in range(4):
            rows[f, t] = queries[f, i + t]
    begin, end, stride = np.uint64(start), np.uint64(stop), np.uint64(keys.shape[1])
    points, masses, values = address(keys, 0), address(columns, 0), address(columns, 1)
    zeros, lanes = spread(zero), lanes_of(zero)
    whole = begin + (end - begin) // lanes * lanes
    mass0, mass1, mass2, mass3 = zeros, zeros, zeros, zeros
    total0, total1, total2, total3 = zeros, zeros, zeros, zeros
    for j in range(begin, whole, lanes):
        mass0, total0, mass1, total1, mass2, total2, mass3, total3 = _add_lanes_of_four(
            rows, points, stride, d, masses, values, uniform, j, lanes,
            mass0, total0, mass1, total1, mass2, total2, mass3, total3,
        )  # fmt: skip
    if whole < end:
        mass0, total0, mass1, total1, mass2, total2, mass3, total3 = _add_lanes_of_four(
            rows, points, stride, d, masses, values, uniform, whole, end - whole,
            mass0, total0, mass1, total1, mass2, total2, mass3, total3,
        )  # fmt: skip
    out[0, i] += sum_of_lanes(mass0)
    out[1, i] += sum_of_lanes(total0)
    out[0, i + 1] += sum_of_lanes(mass1)
    out[1, i + 1] += sum_of_lanes(total1)
    out[0, i + 2] += sum_of_lanes(mass2)
    out[1, i + 2] += sum_of_lanes(total2)
    out[0, i + 3] += sum_of_lanes(mass3)
    out[1, i + 3] += sum_of_lanes(total3)


@_inlined
def _squared_lanes(q0, q1, q2, d, z0, z1, z2, j, count):
    """Return squared distances in up to three features of `count` keys from j on."""
    step = q0 - load(z0, j, count)
    s = step * step
    if d > 1:
        step = q1 - load(z1, j, count)
        s += step * step
    if d > 2:
        step = q2 - load(z2, j, count)
        s += step * step
    return s


@_compiled
def _add_few_powers(queries, first, last, keys, runs, n_runs, columns, uniform, near, out):
    """Add the sums of ``2^−s`` and of that times the values for the queries first:last.

    Of up to three features, which stay in registers. Several queries have one run. If all is near,
    no s is larger than `LARGEST`.
    """
    d, zero = len(keys), _0 * queries[0, first]
    z0, z1, z2 = address(keys, 0), address(keys, min(1, d - 1)), address(keys, d - 1)
    masses, values, lanes = address(columns, 0), address(columns, 1), lanes_of(zero)
    for i in range(first, last):
        q0, q1 = spread(queries[0, i]), spread(queries[min(1, d - 1), i])
        q2, mass, total = spread(queries[d - 1, i]), spread(zero), spread(zero)
        for t in range(n_runs):
            begin, end = np.uint64(runs[t, 0]), np.uint64(runs[t, 1])
            whole = begin + (end - begin) // lanes * lanes
            for j in range(begin, whole, lanes):
                s = _squared_lanes(q0, q1, q2, d, z0, z1, z2, j, lanes)
                weight = _power_within(s if near else _clamped(s))
                mass, total = _add_lanes(weight, masses, values, uniform, j, lanes, mass, total)
            if whole < end:
                count = end - whole
                s = _squared_lanes(q0, q1, q2, d, z0, z1, z2, whole, count)
                weight = first_lanes(_power(s), count)
                mass, total = _add_lanes(weight, masses, values, uniform, whole, count, mass, total)
        out[0, i] += sum_of_lanes(mass)
        out[1, i] += sum_of_lanes(total)


@_compiled
def _gap(exclude, i):
    """Return the key that query i leaves out, or -1."""
    return exclude[i] if len(exclude) else -1


@_compiled
def _leave_out(runs, n_runs, gap):
    """Cut the gap out of the runs; return their number."""
    for t in range(n_runs):
        if runs[t, 0] <= gap < runs[t, 1]:
            for u in range(n_runs, t, -1):
                runs[u, 0], runs[u, 1] = runs[u - 1, 0], runs[u - 1, 1]
            runs[t, 1], runs[t + 1, 0] = gap, gap + 1
            return n_runs + 1
    return n_runs


@_compiled
def _all_meet(exclude, i, last, runs):
    """Whether there are four queries from i on, before the last, which all meet all of one run."""
    if i + 4 > last:
        return False
    met = True
    for h in range(i, i + 4):
        met = met and not runs[0, 0] <= _gap(exclude, h) < runs[0, 1]
    return met


@_compiled
def _count(runs, n_runs):
    """Return the number of keys in the runs."""
    n = 0
    for t in range(n_runs):
        n += runs[t, 1] - runs[t, 0]
    return n


# The drivers walk tiles, a tuple of arrays: starts, low, high and reaches of the queries' boxes,
# the same of the keys', and the reach of each query (see `Boxes` in tiles.pairs). The boxes of keys
# that a box of queries meets are listed, and a chunk of them stays in the cache while all queries
# of the box pass over it. Drivers return the number of pairs that they evaluated.


@_compiled
def _scratch(tiles, like):
    """Room for the keys of a chunk, twice, for boxes that are met, their corners, and for runs."""
    key_starts, key_low = tiles[4], tiles[5]
    n_boxes, longest = len(key_starts) - 1, _CHUNK if key_low.shape[1] else _BLOCK
    for c in range(n_boxes):
        longest = max(longest, key_starts[c + 1] - key_starts[c])
    return (
        np.empty(longest, like.dtype),
        np.empty(longest, like.dtype),
        np.empty(n_boxes, np.int64),
        np.empty((2 * key_low.shape[0] + 2, key_low.shape[1]), like.dtype),
        np.empty((n_boxes + 1, 2), np.int64),
    )


@_compiled
def _find_boxes(tiles, b, boxes, corners):
    """Fill `boxes` with those that box b of the queries meets, `corners` with what bounds them.

    Returns their number. Rows of `corners`: low and high of each feature, reaches, and distances.
    """
    _, low, high, reaches, _, key_low, key_high, key_reaches, _ = tiles
    d = key_low.shape[0]
    if not key_low.shape[1]:
        for c in range(len(boxes)):
            boxes[c] = c
        return len(boxes)
    gaps = corners[2 * d + 1]
    if d == 0:
        gaps[:] = _0
    for f in range(d):
        low0, high0, low1, high1 = low[f, b], high[f, b], key_low[f], key_high[f]
        _add_gaps(low0, high0, low1, high1, f == 0, gaps)
    n_met = 0
    for c in range(len(boxes)):
        boxes[n_met] = c
        n_met += 1 if gaps[c] <= max(reaches[b], key_reaches[c]) else 0
    for c in range(n_met):
        for f in range(d):
            corners[2 * f, c] = key_low[f, boxes[c]]
            corners[2 * f + 1, c] = key_high[f, boxes[c]]
        corners[2 * d, c] = key_reaches[boxes[c]]
    return n_met


@_compiled
def _add_gaps(low, high, lows, highs, afresh, gaps):
    """Add the squared distances of low:high from each of the intervals."""
    if afresh:
        for c in range(np.uint64(len(lows))):
            gap = max(max(lows[c] - high, low - highs[c]), _0)
            gaps[c] = gap * gap
    else:
        for c in range(np.uint64(len(lows))):
            gap = max(max(lows[c] - high, low - highs[c]), _0)
            gaps[c] += gap * gap


@_compiled
def _end_of_chunk(starts, boxes, first, n_met, limit):
    """Return the end of the boxes, from `first` on, that have no more keys than the limit."""
    end, n_keys = first + 1, starts[boxes[first] + 1] - starts[boxes[first]]
    while end < n_met:
        n_keys += starts[boxes[end] + 1] - starts[boxes[end]]
        if n_keys > limit:
            break
        end += 1
    return end


@_compiled
def _find_runs(queries, i, tiles, boxes, corners, first, last, runs):
    """Fill `runs` with the runs of keys, of boxes[first:last], that query i meets.

    Returns their number.
    """
    starts, d = tiles[4], tiles[5].shape[0]
    if not corners.shape[1]:
        runs[0, 0], runs[0, 1] = starts[boxes[first]], starts[boxes[last - 1] + 1]
        return 1
    gaps, key_reaches = corners[2 * d + 1, first:last], corners[2 * d, first:last]
    reach = tiles[8][i]
    if d == 0:
        gaps[:] = _0
    for f in range(d):
        q0 = queries[f, i]
        low, high = corners[2 * f, first:last], corners[2 * f + 1, first:last]
        _add_gaps(q0, q0, low, high, f == 0, gaps)
    n_met = 0
    for c in range(last - first):  # the second column will be overwritten
        runs[n_met, 1] = boxes[first + c]
        n_met += 1 if gaps[c] <= max(reach, key_reaches[c]) else 0
    n_runs, end = 0, -1
    for c in range(n_met):
        box = runs[c, 1]
        if box != end:
            runs[n_runs, 0] = starts[box]
            n_runs += 1
        end = box + 1
        runs[n_runs - 1, 1] = starts[end]
    return n_runs


@_compiled
def add_sums(
    queries,
    keys,
    codes,
    columns,
    uniform,
    exclude,
    nearest,
    anchors,
    edges,
    tiles,
    first,
    last,
    family,
    form,
    out,
):
    """Add the sums (k, m) of the query blocks first:last.

    Parameters
    ----------
    queries, keys : ndarray of shape (d, m), (d, n)
    codes : tuple of two ndarray of shape (c,)
        Of the last features, which are codes: costs of a mismatch of one, and largest mismatches.
    columns : ndarray of shape (k, n)
    uniform : bool
        Whether the first column is all ones.
    exclude : ndarray of shape (m,) or (0,), int64
        Key that a query leaves out, or -1.
    nearest : ndarray of shape (m,) or (0,)
        Squared distance that the weights are relative to; none for plain weights.
    anchors : ndarray of shape (d, m) or (d, 0)
        The keys at that distance.
    edges : tuple of ndarray of shape (m,) and (n,), or (0,) both
        What rounding may do to a squared distance of 1, by queries and by keys; none where the
        kernel has no edge.
    """
    starts, key_starts = tiles[0], tiles[4]
    buffer, other, boxes, corners, runs = _scratch(tiles, queries)
    evaluated, no_codes = 0, len(codes[0]) == 0
    near = family == _NEAR_POWER
    powers = (near or family == _POWER) and len(columns) == 2
    everywhere = powers and corners.shape[1] == 0  # each query meets the keys of the whole chunk
    few, by_fours = len(queries) < 4 and no_codes, len(queries) <= _FOR_FOURS and no_codes
    rows = np.empty((len(queries), 4), queries.dtype)
    for b in range(first, last):
        n_met, head = _find_boxes(tiles, b, boxes, corners), 0
        while head < n_met:
            end = _end_of_chunk(key_starts, boxes, head, n_met, len(buffer))
            i = starts[b]
            while i < starts[b + 1]:
                n_runs = _find_runs(queries, i, tiles, boxes, corners, head, end, runs)
                evaluated_each, after = _count(runs, n_runs), i + 1
                if not powers:
                    _add_weighted(
                        queries, i, keys, codes, columns, runs, n_runs, exclude, nearest, anchors,
                        edges, family, form, buffer, out,
                    )  # fmt: skip
                elif few:
                    n_runs = _leave_out(runs, n_runs, _gap(exclude, i))
                    if everywhere and n_runs == 1:
                        start, stop = runs[0, 0], runs[0, 1]
                        while after < starts[b + 1] and not start <= _gap(exclude, after) < stop:
                            after += 1
                    _add_few_powers(
                        queries, i, after, keys, runs, n_runs, columns, uniform, near, out
                    )
                elif everywhere and by_fours and _all_meet(exclude, i, starts[b + 1], runs):
                    after = i + 4
                    _add_four_powers(
                        queries, i, keys, runs[0, 0], runs[0, 1], columns, uniform, rows, out
                    )
                else:
                    two = everywhere and after < starts[b + 1]
                    after += 1 if two else 0
                    for t in range(n_runs):
                        _add_many_powers(
                            queries, i, two, keys, codes, runs[t, 0], runs[t, 1], columns,
                            uniform, exclude, buffer, other, out,
                        )  # fmt: skip
                evaluated += (after - i) * evaluated_each
                i = after
            head = end
    return evaluated


@_compiled
def _add_squares(queries, i, keys, codes, start, stop, columns, uniform, gap, buffer, out):
    """Add the sums of query i, and of the same times ``(q − z)²`` for each feature.

    Rows of `out`: mass and total; then for each feature both again. The key `gap` is left out. Of
    codes the costs of mismatches stand in the place of squares.
    """
    d, masses, values, zero = len(keys) - len(codes[0]), columns[0], columns[1], _0 * queries[0, i]
    for head in range(start, stop, _PIECE):
        tail = min(head + _PIECE, stop)
        n, v0, m0 = np.uint64(tail - head), values[head:tail], masses[head:tail]
        _distances(queries, i, keys, codes, head, tail, buffer)
        _weigh(buffer, head, tail, columns, uniform, gap, i, out)
        for f in range(d):
            q0, z0, mass, total = queries[f, i], keys[f, head:tail], zero, zero
            for j in range(n):
                e0 = q0 - z0[j]
                part = buffer[j] * (e0 * e0)
                mass += part if uniform else part * m0[j]
                total += part * v0[j]
            out[2 * f + 2, i] += mass
            out[2 * f + 3, i] += total
        if len(codes[0]):
            _add_costs(queries, i, keys, codes, head, tail, columns, uniform, buffer, out)


@_compiled
def _add_costs(queries, i, keys, codes, start, stop, columns, uniform, weights, out):
    """Add the sums of query i times the costs of its mismatches, for each column of codes."""
    costs, caps = codes
    n, v0, m0 = np.uint64(stop - start), columns[1, start:stop], columns[0, start:stop]
    for c in range(len(costs)):
        f = len(keys) - len(costs) + c
        q0, z0, cap, mass, total = (
            queries[f, i],
            keys[f, start:stop],
            caps[c],
            _0 * costs[c],
            _0 * costs[c],
        )
        for j in range(n):
            part = weights[j] * min(abs(q0 - z0[j]), cap)
            mass += part if uniform else part * m0[j]
            total += part * v0[j]
        out[2 * f + 2, i] += costs[c] * mass
        out[2 * f + 3, i] += costs[c] * total


@_compiled
def _add_squares_of_two(
    queries, i, keys, codes, start, stop, columns, uniform, gaps, buffer, other, out
):  # fmt: skip
    """Add what `_add_squares` does for queries i and i + 1, which share reads of the keys."""
    d, h, zero = len(keys) - len(codes[0]), i + 1, _0 * queries[0, i]
    masses, values = columns[0], columns[1]
    for head in range(start, stop, _PIECE):
        tail = min(head + _PIECE, stop)
        n, v0, m0 = np.uint64(tail - head), values[head:tail], masses[head:tail]
        _weigh_two(queries, i, keys, codes, head, tail, columns, uniform, gaps, buffer, other, out)
        for f in range(d):
            q0, r0, z0 = queries[f, i], queries[f, h], keys[f, head:tail]
            mass0, total0, mass1, total1 = zero, zero, zero, zero
            for j in range(n):
                e0, e1 = q0 - z0[j], r0 - z0[j]
                part0, part1 = buffer[j] * (e0 * e0), other[j] * (e1 * e1)
                mass0 += part0 if uniform else part0 * m0[j]
                total0 += part0 * v0[j]
                mass1 += part1 if uniform else part1 * m0[j]
                total1 += part1 * v0[j]
            out[2 * f + 2, i] += mass0
            out[2 * f + 3, i] += total0
            out[2 * f + 2, h] += mass1
            out[2 * f + 3, h] += total1
        if len(codes[0]):
            _add_costs(queries, i, keys, codes, head, tail, columns, uniform, buffer, out)
            _add_costs(queries, h, keys, codes, head, tail, columns, uniform, other, out)


@_inlined
def _add_lanes_of_squares(
    q0, q1, q2, d, z0, z1, z2, masses, values, uniform, j, count,
    mass, total, mass0, total0, mass1, total1, mass2, total2,
):  # fmt: skip
    """Add to the sums, and to those times each feature's squared step, what `count` keys give."""
    step0 = q0 - load(z0, j, count)
    s0 = step0 * step0
    s1, s2, s = s0, s0, s0
    if d > 1:
        step1 = q1 - load(z1, j, count)
        s1 = step1 * step1
        s += s1
    if d > 2:
        step2 = q2 - load(z2, j, count)
        s2 = step2 * step2
        s += s2
    weight = first_lanes(_power(s), count)
    product = weight * load(values, j, count)
    weight = weight if uniform else weight * load(masses, j, count)
    mass += weight
    total += product
    mass0 += weight * s0
    total0 += product * s0
    if d > 1:
        mass1 += weight * s1
        total1 += product * s1
    if d > 2:
        mass2 += weight * s2
        total2 += product * s2
    return mass, total, mass0, total0, mass1, total1, mass2, total2


@_compiled
def _add_few_squares(queries, i, keys, runs, n_runs, columns, uniform, out):
    """Do what `_add_squares` does for up to three features, in registers."""
    d, zero = len(keys), _0 * queries[0, i]
    z0, z1, z2 = address(keys, 0), address(keys, min(1, d - 1)), address(keys, d - 1)
    masses, values, lanes = address(columns, 0), address(columns, 1), lanes_of(zero)
    q0, q1 = spread(queries[0, i]), spread(queries[min(1, d - 1), i])
    q2, zeros = spread(queries[d - 1, i]), spread(zero)
    mass, total, mass0, total0 = zeros, zeros, zeros, zeros
    mass1, total1, mass2, total2 = zeros, zeros, zeros, zeros
    for t in range(n_runs):
        begin, end = np.uint64(runs[t, 0]), np.uint64(runs[t, 1])
        whole = begin + (end - begin) // lanes * lanes
        for j in range(begin, whole, lanes):
            mass, total, mass0, total0, mass1, total1, mass2, total2 = _add_lanes_of_squares(
                q0, q1, q2, d, z0, z1, z2, masses, values, uniform, j, lanes,
                mass, total, mass0, total0, mass1, total1, mass2, total2,
            )  # fmt: skip
        if whole < end:
            mass, total, mass0, total0, mass1, total1, mass2, total2 = _add_lanes_of_squares(
                q0, q1, q2, d, z0, z1, z2, masses, values, uniform, whole, end - whole,
                mass, total, mass0, total0, mass1, total1, mass2, total2,
            )  # fmt: skip
    out[0, i] += sum_of_lanes(mass)
    out[1, i] += sum_of_lanes(total)
    out[2, i] += sum_of_lanes(mass0)
    out[3, i] += sum_of_lanes(total0)
    if d > 1:
        out[4, i] += sum_of_lanes(mass1)
        out[5, i] += sum_of_lanes(total1)
    if d > 2:
        out[6, i] += sum_of_lanes(mass2)
        out[7, i] += sum_of_lanes(total2)


@_compiled
def add_squares(
    queries,
    keys,
    codes,
    columns,
    uniform,
    exclude,
    nearest,
    anchors,
    edges,
    tiles,
    first,
    last,
    family,
    form,
    out,
):
    """Add sums (2 + 2d, m) of ``2^−s`` and of that times the squared steps: see `_add_squares`.

    It is called as the other drivers are, always for powers of two and without anchors.
    """
    starts, key_starts = tiles[0], tiles[4]
    buffer, other, boxes, corners, runs = _scratch(tiles, queries)
    evaluated, few = 0, len(queries) < 4 and len(codes[0]) == 0
    for b in range(first, last):
        n_met, head = _find_boxes(tiles, b, boxes, corners), 0
        while head < n_met:
            end = _end_of_chunk(key_starts, boxes, head, n_met, len(buffer))
            i = starts[b]
            while i < starts[b + 1]:
                two = not few and corners.shape[1] == 0 and i + 1 < starts[b + 1]
                n_runs = _find_runs(queries, i, tiles, boxes, corners, head, end, runs)
                gap = _gap(exclude, i)
                evaluated += (2 if two else 1) * _count(runs, n_runs)
                if few:
                    n_runs = _leave_out(runs, n_runs, gap)
                    _add_few_squares(queries, i, keys, runs, n_runs, columns, uniform, out)
                for t in range(0 if few else n_runs):
                    start, stop = runs[t, 0], runs[t, 1]
                    if two:
                        _add_squares_of_two(
                            queries, i, keys, codes, start, stop, columns, uniform,
                            (gap, _gap(exclude, i + 1)), buffer, other, out,
                        )  # fmt: skip
                    else:
                        _add_squares(
                            queries, i, keys, codes, start, stop, columns, uniform, gap, buffer,
                            out,
                        )  # fmt: skip
                i += 2 if two else 1
            head = end
    return evaluated


@_compiled
def _multiply_by_products(buffer, i, left, right, start, stop, products):
    """Multiply the weights of query i by ``⟨left_i, right_j⟩``."""
    k, n = left.shape[0], np.uint64(stop - start)
    left0, right0 = left[0, i], right[0, start:stop]
    left1, right1 = left[1, i], right[1, start:stop]
    if k == 2:
        for j in range(n):
            buffer[j] *= left0 * right0[j] + left1 * right1[j]
        return
    left2, right2 = left[2, i], right[2, start:stop]
    left3, right3 = left[3, i], right[3, start:stop]
    if k == 4:
        for j in range(n):
            product = left0 * right0[j] + left1 * right1[j]
            buffer[j] *= product + (left2 * right2[j] + left3 * right3[j])
        return
    for j in range(n):
        product = left0 * right0[j] + left1 * right1[j]
        products[j] = product + (left2 * right2[j] + left3 * right3[j])
    for c in range(4, k, 2):
        left0, right0 = left[c, i], right[c, start:stop]
        left1, right1 = left[c + 1, i], right[c + 1, start:stop]
        for j in range(n):
            products[j] += left0 * right0[j] + left1 * right1[j]
    for j in range(n):
        buffer[j] *= products[j]


@_compiled
def _step(q, z, squared):
    return (q - z) * (q - z) if squared else q - z


@_compiled
def _add_steps_of_codes(queries, i, keys, codes, start, stop, strengths, out):
    """Add, for each column of codes, the strengths times the costs of mismatches with query i."""
    costs, caps = codes
    for c in range(len(costs)):
        f = len(keys) - len(costs) + c
        q0, z0, cap, total = queries[f, i], keys[f, start:stop], caps[c], _0 * costs[c]
        for j in range(np.uint64(stop - start)):
            total += strengths[j] * min(abs(q0 - z0[j]), cap)
        out[f, i] += costs[c] * total


@_compiled
def _add_steps(queries, i, keys, codes, start, stop, squared, strengths, out):
    """Add the steps from the keys start:stop to query i, four features at a time."""
    d, n = keys.shape[0] - len(codes[0]), np.uint64(stop - start)
    if squared and len(codes[0]):
        _add_steps_of_codes(queries, i, keys, codes, start, stop, strengths, out)
    zero, first = _0 * queries[0, i], d % 4
    if first == 1:
        q0, z0, sum0 = queries[0, i], keys[0, start:stop], zero
        for j in range(n):
            sum0 += strengths[j] * _step(q0, z0[j], squared)
        out[0, i] += sum0
    elif first:
        q0, z0, sum0 = queries[0, i], keys[0, start:stop], zero
        q1, z1, sum1 = queries[1, i], keys[1, start:stop], zero
        if first == 2:
            for j in range(n):
                sum0 += strengths[j] * _step(q0, z0[j], squared)
                sum1 += strengths[j] * _step(q1, z1[j], squared)
        else:
            q2, z2, sum2 = queries[2, i], keys[2, start:stop], zero
            for j in range(n):
                sum0 += strengths[j] * _step(q0, z0[j], squared)
                sum1 += strengths[j] * _step(q1, z1[j], squared)
                sum2 += strengths[j] * _step(q2, z2[j], squared)
            out[2, i] += sum2
        out[0, i] += sum0
        out[1, i] += sum1
    for f in range(first, d, 4):
        q0, z0, sum0 = queries[f, i], keys[f, start:stop], zero
        q1, z1, sum1 = queries[f + 1, i], keys[f + 1, start:stop], zero
        q2, z2, sum2 = queries[f + 2, i], keys[f + 2, start:stop], zero
        q3, z3, sum3 = queries[f + 3, i], keys[f + 3, start:stop], zero
        for j in range(n):
            sum0 += strengths[j] * _step(q0, z0[j], squared)
            sum1 += strengths[j] * _step(q1, z1[j], squared)
            sum2 += strengths[j] * _step(q2, z2[j], squared)
            sum3 += strengths[j] * _step(q3, z3[j], squared)
        out[f, i] += sum0
        out[f + 1, i] += sum1
        out[f + 2, i] += sum2
        out[f + 3, i] += sum3


@_inlined
def _strengthen_lanes(buffer, l0, l1, l2, l3, four, r0, r1, r2, r3, j, k, count):
    """Turn `count` squared distances from j on into ``2^−s`` times products with keys from k on."""
    product = l0 * load(r0, k, count) + l1 * load(r1, k, count)
    if four:
        product += l2 * load(r2, k, count) + l3 * load(r3, k, count)
    store(_power(load(buffer, j, count)) * product, buffer, j, count)


@_compiled
def _strengthen(buffer, i, left, right, start, stop):
    """Turn squared distances of the keys start:stop into ``2^−s ⟨left_i, right_j⟩``.

    Of two or four columns.
    """
    k, n, begin = len(left), np.uint64(stop - start), np.uint64(start)
    l0, l1, l2, l3 = left[0, i], left[1, i], left[k - 2, i], left[k - 1, i]
    r0, r1 = address(right, 0), address(right, 1)
    r2, r3 = address(right, k - 2), address(right, k - 1)
    squared, lanes = address(buffer, 0), lanes_of(buffer[0])
    whole = n // lanes * lanes
    for j in range(np.uint64(0), whole, lanes):
        _strengthen_lanes(squared, l0, l1, l2, l3, k == 4, r0, r1, r2, r3, j, begin + j, lanes)
    if whole < n:
        _strengthen_lanes(
            squared, l0, l1, l2, l3, k == 4, r0, r1, r2, r3, whole, begin + whole, n - whole
        )


@_compiled
def _add_power_steps(queries, i, keys, codes, start, stop, left, right, squared, buffer, out):
    """Add the weighted steps to query i by ``2^−s`` times products of two or four columns."""
    for head in range(start, stop, _PIECE):
        tail = min(head + _PIECE, stop)
        _distances(queries, i, keys, codes, head, tail, buffer)
        _strengthen(buffer, i, left, right, head, tail)
        _add_steps(queries, i, keys, codes, head, tail, squared, buffer, out)


@_compiled
def _add_power_steps_of_two(
    queries, i, keys, codes, start, stop, left, right, squared, buffer, other, out
):  # fmt: skip
    """Add the weighted steps to queries i and i + 1, which share what is read of the keys."""
    for head in range(start, stop, _PIECE):
        tail = min(head + _PIECE, stop)
        _distances_of_two(queries, i, keys, codes, head, tail, buffer, other)
        _strengthen(buffer, i, left, right, head, tail)
        _strengthen(other, i + 1, left, right, head, tail)
        _add_steps_of_two(queries, i, keys, codes, head, tail, squared, buffer, other, out)


@_compiled
def _add_steps_of_two(queries, i, keys, codes, start, stop, squared, strengths, others, out):
    """Add the steps from the keys start:stop to queries i and i + 1, two features at a time."""
    d, h, n = keys.shape[0] - len(codes[0]), i + 1, np.uint64(stop - start)
    zero = _0 * queries[0, i]
    if squared and len(codes[0]):
        _add_steps_of_codes(queries, i, keys, codes, start, stop, strengths, out)
        _add_steps_of_codes(queries, h, keys, codes, start, stop, others, out)
    if d % 2:
        q0, r0, z0, sum0, rest0 = queries[0, i], queries[0, h], keys[0, start:stop], zero, zero
        for j in range(n):
            sum0 += strengths[j] * _step(q0, z0[j], squared)
            rest0 += others[j] * _step(r0, z0[j], squared)
        out[0, i] += sum0
        out[0, h] += rest0
    for f in range(d % 2, d, 2):
        q0, r0, z0 = queries[f, i], queries[f, h], keys[f, start:stop]
        q1, r1, z1 = queries[f + 1, i], queries[f + 1, h], keys[f + 1, start:stop]
        sum0, rest0, sum1, rest1 = zero, zero, zero, zero
        for j in range(n):
            strength, other, key0, key1 = strengths[j], others[j], z0[j], z1[j]
            sum0 += strength * _step(q0, key0, squared)
            sum1 += strength * _step(q1, key1, squared)
            rest0 += other * _step(r0, key0, squared)
            rest1 += other * _step(r1, key1, squared)
        out[f, i] += sum0
        out[f, h] += rest0
        out[f + 1, i] += sum1
        out[f + 1, h] += rest1


@_compiled
def add_steps(
    queries,
    keys,
    codes,
    left,
    right,
    squared,
    exclude,
    nearest,
    anchors,
    edges,
    tiles,
    first,
    last,
    family,
    form,
    out,
):
    """Add the weighted steps ``Σ_j K_ij ⟨left_i, right_j⟩ (q_i − z_j)``, (d, m).

    Of query blocks first:last. With `squared`, ``(q_i − z_j)²`` feature by feature.
    `left` (k, m) and `right` (k, n) have an even number of columns.
    """
    starts, key_starts = tiles[0], tiles[4]
    buffer, products, boxes, corners, runs = _scratch(tiles, queries)
    powers = family == _POWER and len(left) in (2, 4)
    by_twos = powers and len(exclude) == 0 and corners.shape[1] == 0
    evaluated = 0
    for b in range(first, last):
        n_met, head = _find_boxes(tiles, b, boxes, corners), 0
        while head < n_met:
            end = _end_of_chunk(key_starts, boxes, head, n_met, len(buffer))
            i = starts[b]
            while i < starts[b + 1]:
                n_runs = _find_runs(queries, i, tiles, boxes, corners, head, end, runs)
                two, place = by_twos and i + 1 < starts[b + 1], 0
                evaluated += (2 if two else 1) * _count(runs, n_runs)
                if powers:
                    n_runs = _leave_out(runs, n_runs, _gap(exclude, i))
                else:
                    _weights(
                        queries, i, keys, codes, runs, n_runs, exclude, nearest, anchors, edges,
                        family, form, buffer,
                    )  # fmt: skip
                for t in range(n_runs):
                    start, stop = runs[t, 0], runs[t, 1]
                    if two:
                        _add_power_steps_of_two(
                            queries, i, keys, codes, start, stop, left, right, squared, buffer,
                            products, out,
                        )  # fmt: skip
                    elif powers:
                        _add_power_steps(
                            queries, i, keys, codes, start, stop, left, right, squared, buffer,
                            out,
                        )  # fmt: skip
                    else:
                        part = buffer[place:]
                        _multiply_by_products(part, i, left, right, start, stop, products)
                        _add_steps(queries, i, keys, codes, start, stop, squared, part, out)
                        place += stop - start
                i += 2 if two else 1
            head = end
    return evaluated


@_compiled
def find_nearest(queries, keys, codes, exclude, anchors, tiles, first, last, out, index):
    """Lower `out` (m,) to the squared distance of each query's nearest key, `index` (m,).

    With anchors (d, m), to the smallest excess over the squared distance of the anchor.
    """
    starts, key_starts = tiles[0], tiles[4]
    buffer, _, boxes, corners, runs = _scratch(tiles, queries)
    evaluated = 0
    for b in range(first, last):
        n_met, head = _find_boxes(tiles, b, boxes, corners), 0
        while head < n_met:
            end = _end_of_chunk(key_starts, boxes, head, n_met, len(buffer))
            for i in range(starts[b], starts[b + 1]):
                for t in range(_find_runs(queries, i, tiles, boxes, corners, head, end, runs)):
                    start, stop = runs[t, 0], runs[t, 1]
                    evaluated += stop - start
                    if anchors.shape[1]:
                        _excesses(queries, i, keys, codes, anchors, start, stop, buffer)
                    else:
                        _distances(queries, i, keys, codes, start, stop, buffer)
                    if start <= _gap(exclude, i) < stop:
                        buffer[exclude[i] - start] = np.inf
                    smallest = out[i]
                    for j in range(np.uint64(stop - start)):
                        smallest = min(smallest, buffer[j])
                    if smallest < out[i]:
                        out[i] = smallest
                        j = 0
                        while buffer[j] != smallest:
                            j += 1
                        index[i] = start + j
            head = end
    return evaluated


def signatures(precision: str) -> dict[str, tuple]:
    """Return the types of the arguments of each driver for points of a precision."""
    scalar = {"float64": types.float64, "float32": types.float32}[precision]
    rows, row, indices, sums = scalar[:, ::1], scalar[::1], types.int64[::1], types.float64[:, ::1]
    boxes, pair = (indices, rows, rows, row), types.UniTuple(row, 2)
    tiles = types.Tuple((*boxes, *boxes, row))
    points = (rows, rows, pair)
    after = (indices, row, rows, pair, tiles, *(types.int64,) * 4, sums)
    one_column = (*points, rows, types.boolean, *after)
    return {
        "add_sums": one_column,
        "add_squares": one_column,
        "add_steps": (*points, rows, rows, types.boolean, *after),
        "find_nearest": (*points, indices, rows, tiles, types.int64, types.int64, row, indices),
    }
