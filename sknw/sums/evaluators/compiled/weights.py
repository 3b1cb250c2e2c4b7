"""The weights of one query: squared distances from keys, and the kernel's formula.

The last features of points may be codes of categories (see `sknw.kernels.codes`). Keys are read in
short vector loops that share one small buffer, so the loops are as many as dimensions and formulas
together, not their product. Counters are unsigned, since a signed index costs a wrap-around test in
every vector.
"""

import math

import numpy as np

from sknw.kernels.codes import EXACT
from sknw.sums.evaluators.compiled.disk_cache import compiled
from sknw.sums.evaluators.compiled.formulas import FAMILIES, FORMS
from sknw.sums.evaluators.compiled.powers import (
    cosine_derivative_polynomial,
    cosine_polynomial,
    decay,
    power,
    vanishing_decay,
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
_, _DERIVATIVE, _SQUARE = range(len(FORMS))
# Exactly representable constants as float32, so that they never widen float32 arithmetic.
_0, _HALF, _1, _2, _3, _4_5 = (np.float32(value) for value in (0, 0.5, 1, 2, 3, 4.5))
_OUTSIDE = np.float32(4)  # a squared distance beyond every compact support, however rounded
_EXACT, _EXACT_32 = EXACT[8], np.float32(EXACT[4])
_EPSILON, _EPSILON_32 = 2 * np.finfo(np.float64).eps, 2 * np.finfo(np.float32).eps


@compiled(fastmath={"contract"})
def _add_mismatches(points, i, start, stop, out):
    """Add to squared distances of query i what its mismatches with the keys start:stop cost."""
    queries, keys, costs, caps = points
    first, begin, end = keys.shape[0] - len(costs), np.uint64(start), np.uint64(stop)
    for c in range(len(costs)):
        f, cost, cap = np.uint64(first + c), costs[c], caps[c]
        q0 = queries[f, i]
        for j in range(begin, end):
            out[j - begin] += cost * min(abs(q0 - keys[f, j]), cap)


# No reordering of sums here: equal keys must be equally far, wherever they stand.
@compiled(fastmath={"contract"})
def distances(points, i, start, stop, out):
    """Squared distances of query i from the keys start:stop, four features at a time."""
    queries, keys, costs, _ = points
    n_codes, begin, end = len(costs), np.uint64(start), np.uint64(stop)
    d = keys.shape[0] - n_codes
    if d == 0:
        for j in range(end - begin):
            out[j] = _0
        _add_mismatches(points, i, start, stop, out)
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
        _add_mismatches(points, i, start, stop, out)


@compiled(fastmath={"contract"})
def distances_of_two(points, i, start, stop, out, other):
    """Do what `distances` does for queries i and i + 1, which share what they read."""
    queries, keys, costs, _ = points
    d, h, begin, end = keys.shape[0] - len(costs), i + 1, np.uint64(start), np.uint64(stop)
    if d < 2:
        distances(points, i, start, stop, out)
        distances(points, h, start, stop, other)
        return
    for f in range(0, d - 1, 2):
        f0, f1 = np.uint64(f), np.uint64(f + 1)
        q0, q1, r0, r1 = queries[f, i], queries[f + 1, i], queries[f, h], queries[f + 1, h]
        if f == 0:
            for j in range(begin, end):
                e0, e1 = q0 - keys[f0, j], q1 - keys[f1, j]
                g0, g1 = r0 - keys[f0, j], r1 - keys[f1, j]
                out[j - begin] = e0 * e0 + e1 * e1
                other[j - begin] = g0 * g0 + g1 * g1
        else:
            for j in range(begin, end):
                e0, e1 = q0 - keys[f0, j], q1 - keys[f1, j]
                g0, g1 = r0 - keys[f0, j], r1 - keys[f1, j]
                out[j - begin] += e0 * e0 + e1 * e1
                other[j - begin] += g0 * g0 + g1 * g1
    if d % 2:
        f0, q0, r0 = np.uint64(d - 1), queries[d - 1, i], queries[d - 1, h]
        for j in range(begin, end):
            e0, g0 = q0 - keys[f0, j], r0 - keys[f0, j]
            out[j - begin] += e0 * e0
            other[j - begin] += g0 * g0
    if len(costs):
        _add_mismatches(points, i, start, stop, out)
        _add_mismatches(points, h, start, stop, other)


@compiled
def _settle_edges(edge, edges, start, stop, out):
    """Put squared distances that are 1 up to rounding, or more, outside of the support.

    `edge` is the query's allowance for rounding, `edges` those of the keys. Distances are raised by
    a sum: to store only some of them takes the CPU several times longer.
    """
    limit, allowances = _1 - edge, edges[start:stop]
    for j in range(np.uint64(stop - start)):
        out[j] += _0 if out[j] + allowances[j] < limit else _OUTSIDE


@compiled
def _half_inverse_root(s):
    """``1 / (2u)``; 0 at u = 0, where a pair has no step."""
    return _HALF / math.sqrt(s) if s > _0 else _0


@compiled
def _profile(buffer, n, family):
    """Turn squared distances into weights."""
    if family == _GAUSSIAN:
        for j in range(n):
            buffer[j] = decay(_HALF * buffer[j])
    elif family == _EXPONENTIAL:
        for j in range(n):
            buffer[j] = decay(np.sqrt(buffer[j]))
    elif family == _COSINE:
        for j in range(n):
            s = min(buffer[j], _1)
            buffer[j] = (_1 - s) * cosine_polynomial(s)
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
            buffer[j] = power(buffer[j])


@compiled
def _derivative(buffer, n, family):
    """Turn squared distances into derivatives of the weights with respect to them."""
    if family == _GAUSSIAN:
        for j in range(n):
            buffer[j] = -_HALF * decay(_HALF * buffer[j])
    elif family == _EXPONENTIAL:
        for j in range(n):
            s = buffer[j]
            buffer[j] = -_half_inverse_root(s) * decay(np.sqrt(s))
    elif family == _COSINE:
        for j in range(n):
            s = buffer[j]
            buffer[j] = cosine_derivative_polynomial(s) if s < _1 else _0
    elif family == _EPANECHNIKOV:
        for j in range(n):
            buffer[j] = -_1 if buffer[j] < _1 else _0
    elif family == _TOPHAT:
        for j in range(n):
            buffer[j] = _0
    elif family == _LINEAR:
        for j in range(n):
            s = buffer[j]
            buffer[j] = -_half_inverse_root(s) if s < _1 else _0
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


@compiled
def excesses(points, anchors, i, start, stop, out):
    """``|q − z_j|² − |q − a|²`` for the anchor a of query i, without the large parts.

    As ``(z_j − a)(z_j + a − 2q)`` it is exactly zero for a key that equals the anchor, and accurate
    however far the query.
    """
    queries, keys, costs, _ = points
    n, n_codes = np.uint64(stop - start), len(costs)
    if n_codes:
        _excess_mismatches(points, anchors, i, start, stop, out)
    for f in range(keys.shape[0] - n_codes):
        anchor, z0 = anchors[f, i], keys[f, start:stop]
        rest = anchor - _2 * queries[f, i]
        if f == 0 and n_codes == 0:
            for j in range(n):
                out[j] = (z0[j] - anchor) * (z0[j] + rest)
        else:
            for j in range(n):
                out[j] += (z0[j] - anchor) * (z0[j] + rest)


@compiled(fastmath={"contract"})
def _excess_mismatches(points, anchors, i, start, stop, out):
    """Fill out with what mismatches with the keys cost more than those with the anchor.

    Those that have to match exactly come first: whole multiples of one power of two, which cancel.
    """
    queries, keys, costs, caps = points
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


@compiled
def _subtract_rounding(points, anchors, i, start, stop, out):
    """Subtract what rounding of the points may have added to each excess."""
    queries, keys, costs, _ = points
    n, epsilon = np.uint64(stop - start), _EPSILON_32 if keys.itemsize == 4 else _EPSILON
    for f in range(keys.shape[0] - len(costs)):
        q0, anchor, z0 = queries[f, i], anchors[f, i], keys[f, start:stop]
        step = abs(q0 - anchor)
        for j in range(n):
            sizes = abs(z0[j]) + abs(anchor)
            out[j] -= epsilon * (abs(z0[j] - anchor) * (sizes + abs(q0)) + step * sizes)


@compiled
def _shifted(buffer, n, family, nearest):
    """Turn excesses over the nearest squared distance into weights relative to that key's."""
    if family == _GAUSSIAN:
        for j in range(n):
            buffer[j] = vanishing_decay(_HALF * max(buffer[j], _0))
    elif family == _EXPONENTIAL:
        for j in range(n):
            excess = max(buffer[j], _0)
            s = nearest + excess
            roots = np.sqrt(s) + np.sqrt(nearest)
            # √s − √nearest without cancellation
            buffer[j] = vanishing_decay(excess / roots) if excess > _0 else _1
    else:  # all weight on the nearest keys
        for j in range(n):
            buffer[j] = _1 if buffer[j] <= _0 else _0


@compiled
def weights(points, weighing, i, runs, n_runs, buffer):
    """Fill the buffer with the weights of query i on runs of keys, one after another."""
    exclude, nearest, anchors, query_edges, key_edges, family, form = weighing
    n = 0
    for t in range(n_runs):
        start, stop = runs[t, 0], runs[t, 1]
        out = buffer[n:]
        if len(nearest):
            excesses(points, anchors, i, start, stop, out)
            if family == _NEAREST:
                _subtract_rounding(points, anchors, i, start, stop, out)
        else:
            distances(points, i, start, stop, out)
            if len(query_edges):
                _settle_edges(query_edges[i], key_edges, start, stop, out)
        n += stop - start
    n = np.uint64(n)
    if len(nearest):
        if nearest[i] == np.inf:  # there is no key
            buffer[:] = np.inf
        _shifted(buffer, n, family, nearest[i])
    elif form == _DERIVATIVE:
        _derivative(buffer, n, family)
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
