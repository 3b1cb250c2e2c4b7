"""The fused loops: distance, kernel and accumulation over blocks of keys in a core's cache.

Compiled by numba, cached on disk, free of the interpreter's lock, for float32 and float64 alike.
A block of keys passes through three short vector loops that share one small buffer: squared
distances, the kernel's formula, weighted sums. Only the commonest case, a Gaussian with one output,
has loops of its own, which keep nearly all in vector registers. Sums of a block are in the points'
precision and added up in float64.

A driver walks the pairs (`walk_with`). What it does for a query, or several at once, is a function
whose name begins with visit.
"""

import numpy as np
from numba import types

from sknw.sums.evaluators.compiled.disk_cache import compiled, inlined, kept_on_disk
from sknw.sums.evaluators.compiled.formulas import FAMILIES, Points, Tiles, Weighing
from sknw.sums.evaluators.compiled.powers import ZERO, clamped, power, power_within
from sknw.sums.evaluators.compiled.sweeps import (  # noqa: F401 - drivers of this module
    BLOCK,
    add_block_moments,
    add_decaying_sums,
    add_equal_keys,
    add_window_sums,
)
from sknw.sums.evaluators.compiled.vectors import (
    address,
    lanes_of,
    load,
    spread,
    store,
    sum_of_lanes,
)
from sknw.sums.evaluators.compiled.walk import gap_of, leave_out, walk_with
from sknw.sums.evaluators.compiled.weights import distances, distances_of_two, excesses, weights

_POWER, _NEAR_POWER = FAMILIES.index("power"), FAMILIES.index("near power")
# Features up to which four queries pass at once: rows of more may compete for the same lines of
# the cache. And keys of a piece, over which several short loops pass one after the other.
_FOR_FOURS, _PIECE = 8, 1024
_REMOTE = np.float32(1e30)  # a squared distance at which no kernel has weight


# --- sums ----------------------------------------------------------------------------------------


@kept_on_disk
def add_sums(points, columns, weighing, tiles, first, last, out):
    """Add the sums (k, m) of columns (k, n) of the keys, for the query blocks first:last.

    Returns the number of pairs that were evaluated.
    """
    return _walk_sums(points, tiles, (columns, weighing), (first, last), out)


@compiled
def _visit_sums(points, i, last, n_runs, room, job, out):
    columns, weighing = job
    is_near, exclude = weighing.family == _NEAR_POWER, weighing.exclude
    if len(columns) != 2 or not (is_near or weighing.family == _POWER):
        weights(points, weighing, i, room.runs, n_runs, room.buffer)
        _add_columns(room, n_runs, columns, i, out)
        return i + 1
    everywhere, d, no_codes = room.corners.shape[1] == 0, len(points.keys), len(points.costs) == 0
    start, stop = room.runs[0, 0], room.runs[0, 1]
    if d < 4 and no_codes:
        after, n_runs = i + 1, leave_out(room.runs, n_runs, gap_of(exclude, i))
        if everywhere and n_runs == 1:
            while after < last and not start <= gap_of(exclude, after) < stop:
                after += 1
        _add_few_powers(points, i, after, room.runs, n_runs, columns, is_near, out)
        return after
    if everywhere and d <= _FOR_FOURS and no_codes and i + 4 <= last:
        all_meet = True
        for h in range(i, i + 4):
            all_meet = all_meet and not start <= gap_of(exclude, h) < stop
        if all_meet:
            _add_four_powers(points, i, start, stop, columns, room.other, out)
            return i + 4
    for t in range(n_runs):
        for head in range(room.runs[t, 0], room.runs[t, 1], _PIECE):
            piece = head, min(head + _PIECE, room.runs[t, 1])
            distances(points, i, piece[0], piece[1], room.buffer)
            _weigh(room.buffer, piece, columns, gap_of(exclude, i), i, out)
    return i + 1


_walk_sums = walk_with(_visit_sums)


@compiled
def _add_columns(room, n_runs, columns, i, out):
    """Add the weighted columns of the keys in the runs to row i of the sums."""
    k, place = len(columns), 0
    if k == 2:
        _add_two_columns(room, n_runs, columns, i, out)
        return
    for t in range(n_runs):
        begin, end = np.uint64(room.runs[t, 0]), np.uint64(room.runs[t, 1])
        buffer = room.buffer[place:]
        for c in range(0, k - 1, 2):
            c0, c1 = np.uint64(c), np.uint64(c + 1)
            sum0, sum1 = ZERO * buffer[0], ZERO * buffer[0]
            for j in range(begin, end):
                weight = buffer[j - begin]
                sum0 += weight * columns[c0, j]
                sum1 += weight * columns[c1, j]
            out[c, i] += sum0
            out[c + 1, i] += sum1
        if k % 2:
            c0, sum0 = np.uint64(k - 1), ZERO * buffer[0]
            for j in range(begin, end):
                sum0 += buffer[j - begin] * columns[c0, j]
            out[k - 1, i] += sum0
        place += room.runs[t, 1] - room.runs[t, 0]


@compiled
def _add_two_columns(room, n_runs, columns, i, out):
    """Add two weighted columns of the keys in the runs to row i."""
    zero, place = ZERO * room.buffer[0], np.uint64(0)
    weight_of, first, second = address(room.buffer, 0), address(columns, 0), address(columns, 1)
    sum0, sum1, lanes = spread(zero), spread(zero), lanes_of(zero)
    for t in range(n_runs):
        begin, end = np.uint64(room.runs[t, 0]), np.uint64(room.runs[t, 1])
        for j in range(begin, end, lanes):
            count = min(lanes, end - j)
            weight = load(weight_of, place, count)
            sum0 += weight * load(first, j, count)
            sum1 += weight * load(second, j, count)
            place += count
    out[0, i] += sum_of_lanes(sum0)
    out[1, i] += sum_of_lanes(sum1)


# The sums of a Gaussian with one output: weights are powers ``2^−s`` of points that are scaled for
# it, columns are the mass and the total of the values.


@compiled
def _weigh(buffer, piece, columns, gap, i, out):
    """Turn squared distances of a piece of the keys into ``2^−s``; add to the sums of query i.

    The key at the gap becomes as remote as a key can be.
    """
    start, stop = piece
    if start <= gap < stop:
        buffer[gap - start] = _REMOTE
    zero, n, begin = ZERO * buffer[0], np.uint64(stop - start), np.uint64(start)
    squared, masses, values = address(buffer, 0), address(columns, 0), address(columns, 1)
    mass, total, lanes = spread(zero), spread(zero), lanes_of(zero)
    whole = n // lanes * lanes
    for j in range(np.uint64(0), whole, lanes):
        weight = power(load(squared, j, lanes))
        store(weight, squared, j, lanes)
        mass += weight * load(masses, begin + j, lanes)
        total += weight * load(values, begin + j, lanes)
    if whole < n:
        weight = power(load(squared, whole, n - whole))
        store(weight, squared, whole, n - whole)
        mass += weight * load(masses, begin + whole, n - whole)
        total += weight * load(values, begin + whole, n - whole)
    out[0, i] += sum_of_lanes(mass)
    out[1, i] += sum_of_lanes(total)


@inlined
def _add_lanes_of_four(rows, sources, d, j, count, masses, totals):
    """Add to the sums of four queries what `count` keys from j on give."""
    keys, stride, key_masses, values = sources
    z, place = load(keys, j, count), j
    step0, step1 = z - spread(rows[0]), z - spread(rows[1])
    step2, step3 = z - spread(rows[2]), z - spread(rows[3])
    s0, s1, s2, s3 = step0 * step0, step1 * step1, step2 * step2, step3 * step3
    for f in range(4, 4 * d, 4):
        place += stride
        z = load(keys, place, count)
        step0, step1 = z - spread(rows[f]), z - spread(rows[f + 1])
        step2, step3 = z - spread(rows[f + 2]), z - spread(rows[f + 3])
        s0 += step0 * step0
        s1 += step1 * step1
        s2 += step2 * step2
        s3 += step3 * step3
    w0, w1, w2, w3 = power(s0), power(s1), power(s2), power(s3)
    mass, value = load(key_masses, j, count), load(values, j, count)
    masses = (
        masses[0] + w0 * mass, masses[1] + w1 * mass, masses[2] + w2 * mass, masses[3] + w3 * mass
    )  # fmt: skip
    totals = (
        totals[0] + w0 * value, totals[1] + w1 * value,
        totals[2] + w2 * value, totals[3] + w3 * value,
    )  # fmt: skip
    return masses, totals


@compiled
def _add_four_powers(points, i, start, stop, columns, rows, out):
    """Add the sums of four queries from i on, which stay in registers and share what they read.

    Rows (4 d,) is room for the queries.
    """
    queries, keys, _, _ = points
    d, zero = len(keys), ZERO * queries[0, i]
    for f in range(d):
        for t in range(4):
            rows[4 * f + t] = queries[f, i + t]
    begin, end = np.uint64(start), np.uint64(stop)
    sources = address(keys, 0), np.uint64(keys.shape[1]), address(columns, 0), address(columns, 1)
    zeros, lanes = spread(zero), lanes_of(zero)
    whole = begin + (end - begin) // lanes * lanes
    masses = totals = zeros, zeros, zeros, zeros
    for j in range(begin, whole, lanes):
        masses, totals = _add_lanes_of_four(rows, sources, d, j, lanes, masses, totals)
    if whole < end:
        masses, totals = _add_lanes_of_four(rows, sources, d, whole, end - whole, masses, totals)
    for t in range(4):
        out[0, i + t] += sum_of_lanes(masses[t])
        out[1, i + t] += sum_of_lanes(totals[t])


@inlined
def _squared_lanes(query, d, keys, j, count):
    """Return squared distances in up to three features of `count` keys from j on."""
    step = query[0] - load(keys[0], j, count)
    s = step * step
    if d > 1:
        step = query[1] - load(keys[1], j, count)
        s += step * step
    if d > 2:
        step = query[2] - load(keys[2], j, count)
        s += step * step
    return s


@compiled
def _add_few_powers(points, first, last, runs, n_runs, columns, is_near, out):
    """Add the sums of the queries first:last, of up to three features, which stay in registers.

    Several queries have one run. If all is near, no s is larger than `powers.LARGEST`.
    """
    queries, keys, _, _ = points
    d, zero = len(keys), ZERO * queries[0, first]
    z = address(keys, 0), address(keys, min(1, d - 1)), address(keys, d - 1)
    masses, values, lanes = address(columns, 0), address(columns, 1), lanes_of(zero)
    for i in range(first, last):
        q = spread(queries[0, i]), spread(queries[min(1, d - 1), i]), spread(queries[d - 1, i])
        mass, total = spread(zero), spread(zero)
        for t in range(n_runs):
            begin, end = np.uint64(runs[t, 0]), np.uint64(runs[t, 1])
            whole = begin + (end - begin) // lanes * lanes
            for j in range(begin, whole, lanes):
                s = _squared_lanes(q, d, z, j, lanes)
                weight = power_within(s if is_near else clamped(s))
                mass += weight * load(masses, j, lanes)
                total += weight * load(values, j, lanes)
            if whole < end:
                count = end - whole
                weight = power(_squared_lanes(q, d, z, whole, count))
                mass += weight * load(masses, whole, count)
                total += weight * load(values, whole, count)
        out[0, i] += sum_of_lanes(mass)
        out[1, i] += sum_of_lanes(total)


# --- sums and second moments ---------------------------------------------------------------------


@kept_on_disk
def add_squares(points, columns, weighing, tiles, first, last, out):
    """Add sums (2 + 2d, m) of ``2^−s`` and of that times the squared step of each feature.

    Rows of `out`: mass and total; then for each feature both again. Of codes the costs of
    mismatches stand in the place of squares. It is called as `add_sums` is, always for powers of
    two and two columns. Returns the number of pairs that were evaluated.
    """
    return _walk_squares(points, tiles, (columns, weighing), (first, last), out)


@compiled
def _visit_squares(points, i, last, n_runs, room, job, out):
    columns, weighing = job
    gap = gap_of(weighing.exclude, i)
    if len(points.keys) < 4 and len(points.costs) == 0:
        n_runs = leave_out(room.runs, n_runs, gap)
        _add_few_squares(points, i, room.runs, n_runs, columns, out)
        return i + 1
    two = room.corners.shape[1] == 0 and i + 1 < last  # all boxes meet, so both have one run
    for t in range(n_runs):
        for head in range(room.runs[t, 0], room.runs[t, 1], _PIECE):
            piece = head, min(head + _PIECE, room.runs[t, 1])
            if two:
                distances_of_two(points, i, piece[0], piece[1], room.buffer, room.other)
            else:
                distances(points, i, piece[0], piece[1], room.buffer)
            _weigh(room.buffer, piece, columns, gap, i, out)
            if two:
                _weigh(room.other, piece, columns, gap_of(weighing.exclude, i + 1), i + 1, out)
                _add_squares_of_two(points, i, piece, columns, room, out)
            else:
                _add_squares(points, i, piece, columns, room.buffer, out)
            _add_squared_costs(points, i, piece, columns, room.buffer, out)
            if two:
                _add_squared_costs(points, i + 1, piece, columns, room.other, out)
    return i + (2 if two else 1)


_walk_squares = walk_with(_visit_squares)


@compiled
def _add_squares(points, i, piece, columns, found, out):
    """Add the sums of query i times ``(q − z)²`` for each feature that is a number."""
    queries, keys, costs, _ = points
    d, zero, (start, stop) = len(keys) - len(costs), ZERO * queries[0, i], piece
    n, v0, m0 = np.uint64(stop - start), columns[1, start:stop], columns[0, start:stop]
    for f in range(d):
        q0, z0, mass, total = queries[f, i], keys[f, start:stop], zero, zero
        for j in range(n):
            e0 = q0 - z0[j]
            part = found[j] * (e0 * e0)
            mass += part * m0[j]
            total += part * v0[j]
        out[2 * f + 2, i] += mass
        out[2 * f + 3, i] += total


@compiled
def _add_squares_of_two(points, i, piece, columns, room, out):
    """Do what `_add_squares` does for queries i and i + 1, which share what they read."""
    queries, keys, costs, _ = points
    d, h, zero, (start, stop) = len(keys) - len(costs), i + 1, ZERO * queries[0, i], piece
    n, v0, m0 = np.uint64(stop - start), columns[1, start:stop], columns[0, start:stop]
    found, other = room.buffer, room.other
    for f in range(d):
        q0, r0, z0 = queries[f, i], queries[f, h], keys[f, start:stop]
        mass0, total0, mass1, total1 = zero, zero, zero, zero
        for j in range(n):
            e0, e1 = q0 - z0[j], r0 - z0[j]
            part0, part1 = found[j] * (e0 * e0), other[j] * (e1 * e1)
            mass0 += part0 * m0[j]
            total0 += part0 * v0[j]
            mass1 += part1 * m0[j]
            total1 += part1 * v0[j]
        out[2 * f + 2, i] += mass0
        out[2 * f + 3, i] += total0
        out[2 * f + 2, h] += mass1
        out[2 * f + 3, h] += total1


@compiled
def _add_squared_costs(points, i, piece, columns, found, out):
    """Add the sums of query i times the costs of its mismatches, for each column of codes."""
    queries, keys, costs, caps = points
    d, zero, (start, stop) = len(keys) - len(costs), ZERO * queries[0, i], piece
    n, v0, m0 = np.uint64(stop - start), columns[1, start:stop], columns[0, start:stop]
    for c in range(len(costs)):
        f, cap, mass, total = d + c, caps[c], zero, zero
        q0, z0 = queries[f, i], keys[f, start:stop]
        for j in range(n):
            part = found[j] * min(abs(q0 - z0[j]), cap)
            mass += part * m0[j]
            total += part * v0[j]
        out[2 * f + 2, i] += costs[c] * mass
        out[2 * f + 3, i] += costs[c] * total


@inlined
def _add_lanes_of_squares(query, d, sources, j, count, masses, totals):
    """Add to the sums, and to those times each feature's squared step, what `count` keys give."""
    keys, key_masses, values = sources
    step0 = query[0] - load(keys[0], j, count)
    s0 = step0 * step0
    s1, s2, s = s0, s0, s0
    if d > 1:
        step1 = query[1] - load(keys[1], j, count)
        s1 = step1 * step1
        s += s1
    if d > 2:
        step2 = query[2] - load(keys[2], j, count)
        s2 = step2 * step2
        s += s2
    weight = power(s)
    total, mass = weight * load(values, j, count), weight * load(key_masses, j, count)
    mass0, mass1, mass2, mass3 = masses
    total0, total1, total2, total3 = totals
    mass0 += mass
    total0 += total
    mass1 += mass * s0
    total1 += total * s0
    if d > 1:
        mass2 += mass * s1
        total2 += total * s1
    if d > 2:
        mass3 += mass * s2
        total3 += total * s2
    return (mass0, mass1, mass2, mass3), (total0, total1, total2, total3)


@compiled
def _add_few_squares(points, i, runs, n_runs, columns, out):
    """Add the sums and second moments of query i, of up to three features, in registers."""
    queries, keys, _, _ = points
    d, zero = len(keys), ZERO * queries[0, i]
    z = address(keys, 0), address(keys, min(1, d - 1)), address(keys, d - 1)
    q = spread(queries[0, i]), spread(queries[min(1, d - 1), i]), spread(queries[d - 1, i])
    sources, zeros, lanes = (
        (z, address(columns, 0), address(columns, 1)),
        spread(zero),
        lanes_of(zero),
    )
    masses = totals = zeros, zeros, zeros, zeros
    for t in range(n_runs):
        begin, end = np.uint64(runs[t, 0]), np.uint64(runs[t, 1])
        whole = begin + (end - begin) // lanes * lanes
        for j in range(begin, whole, lanes):
            masses, totals = _add_lanes_of_squares(q, d, sources, j, lanes, masses, totals)
        if whole < end:
            masses, totals = _add_lanes_of_squares(
                q, d, sources, whole, end - whole, masses, totals
            )
    for f in range(1 + d):
        out[2 * f, i] += sum_of_lanes(masses[f])
        out[2 * f + 1, i] += sum_of_lanes(totals[f])


# --- moments -------------------------------------------------------------------------------------


@kept_on_disk
def add_moments(points, columns, visits, weighing, tiles, first, last, out):
    """Add the moments (p k, m) of columns (k, n) of the keys, for the query blocks first:last.

    Of the monomials that `visits` (p, 2) lists depth first: each is the latest one of a degree
    less, times the step of a feature. Returns the number of pairs that were evaluated.
    """
    powers = np.empty((1 + visits[:, 0].max(), _PIECE), points.keys.dtype)
    job = columns, visits, powers, weighing
    return _walk_moments(points, tiles, job, (first, last), out)


@compiled
def _visit_moments(points, i, _last, n_runs, room, job, out):
    columns, visits, powers, weighing = job
    weights(points, weighing, i, room.runs, n_runs, room.buffer)
    place = 0
    for t in range(n_runs):
        for head in range(room.runs[t, 0], room.runs[t, 1], _PIECE):
            tail = min(head + _PIECE, room.runs[t, 1])
            powers[0, : tail - head] = room.buffer[place : place + tail - head]
            _add_moments(points, i, (head, tail), columns, visits, powers, out)
            place += tail - head
    return i + 1


_walk_moments = walk_with(_visit_moments)


@compiled
def _add_moments(points, i, piece, columns, visits, powers, out):
    """Add the moments of query i over a piece of the keys, whose weights are ``powers[0]``."""
    queries, keys, _, _ = points
    k, (start, stop), zero = len(columns), piece, ZERO * queries[0, i]
    n = np.uint64(stop - start)
    for a in range(len(visits)):
        degree, f = visits[a]
        product = powers[degree]
        if degree:
            lower, q0, z0 = powers[degree - 1], queries[f, i], keys[f, start:stop]
            for j in range(n):
                product[j] = lower[j] * (z0[j] - q0)
        for c in range(0, k - 1, 2):
            v0, v1, sum0, sum1 = columns[c, start:stop], columns[c + 1, start:stop], zero, zero
            for j in range(n):
                sum0 += product[j] * v0[j]
                sum1 += product[j] * v1[j]
            out[a * k + c, i] += sum0
            out[a * k + c + 1, i] += sum1
        if k % 2:
            v0, sum0 = columns[k - 1, start:stop], zero
            for j in range(n):
                sum0 += product[j] * v0[j]
            out[a * k + k - 1, i] += sum0


@kept_on_disk
def add_scale_pullback(points, columns, grad, visits, weighing, tiles, first, last, out):
    """Add the sums (d, m) of weighted polynomials of the steps, times squared steps.

    Of query blocks first:last. The polynomial of a pair has the coefficients ``⟨G_ia, v_j⟩`` of
    the gradient (p k, m) and the columns (k, n); `visits` is as in `add_moments`. Returns the
    number of pairs that were evaluated.
    """
    powers = np.empty((2 + visits[:, 0].max(), _PIECE), points.keys.dtype)
    job = columns, grad, visits, powers, weighing
    return _walk_scale_pullback(points, tiles, job, (first, last), out)


@compiled
def _visit_scale_pullback(points, i, _last, n_runs, room, job, out):
    columns, grad, visits, powers, weighing = job
    weights(points, weighing, i, room.runs, n_runs, room.buffer)
    place = 0
    for t in range(n_runs):
        for head in range(room.runs[t, 0], room.runs[t, 1], _PIECE):
            tail = min(head + _PIECE, room.runs[t, 1])
            part = room.buffer[place : place + tail - head]
            _multiply_by_polynomial(points, i, (head, tail), columns, grad, visits, powers, part)
            _add_steps(points, i, (head, tail), True, part, out)
            place += tail - head
    return i + 1


_walk_scale_pullback = walk_with(_visit_scale_pullback)


@compiled
def _multiply_by_polynomial(points, i, piece, columns, grad, visits, powers, buffer):
    """Multiply the weights of query i by ``Σ_a ⟨G_ia, v_j⟩ (z_j − q_i)^a``.

    The last of the powers takes the polynomial, the first is ones.
    """
    queries, keys, _, _ = points
    k, (start, stop) = len(columns), piece
    n, total = np.uint64(stop - start), powers[len(powers) - 1]
    for j in range(n):
        powers[0, j] = 1
        total[j] = 0
    for a in range(len(visits)):
        degree, f = visits[a]
        product = powers[degree]
        if degree:
            lower, q0, z0 = powers[degree - 1], queries[f, i], keys[f, start:stop]
            for j in range(n):
                product[j] = lower[j] * (z0[j] - q0)
        for c in range(k):
            strength, column = grad[a * k + c, i], columns[c, start:stop]
            if strength != 0:
                for j in range(n):
                    total[j] += strength * product[j] * column[j]
    for j in range(n):
        buffer[j] *= total[j]


# --- steps ---------------------------------------------------------------------------------------


@kept_on_disk
def add_steps(points, left, right, squared, weighing, tiles, first, last, out):
    """Add the weighted steps ``Σ_j K_ij ⟨left_i, right_j⟩ (q_i − z_j)``, (d, m).

    Of query blocks first:last. With `squared`, ``(q_i − z_j)²`` feature by feature.
    `left` (k, m) and `right` (k, n) have an even number of columns. Returns the number of pairs
    that were evaluated.
    """
    return _walk_steps(points, tiles, (left, right, squared, weighing), (first, last), out)


@compiled
def _visit_steps(points, i, last, n_runs, room, job, out):
    left, right, squared, weighing = job
    if weighing.family == _POWER and len(left) in (2, 4):
        everywhere, exclude = room.corners.shape[1] == 0, weighing.exclude
        two = everywhere and len(exclude) == 0 and i + 1 < last
        n_runs = leave_out(room.runs, n_runs, gap_of(exclude, i))
        for t in range(n_runs):
            for head in range(room.runs[t, 0], room.runs[t, 1], _PIECE):
                piece = head, min(head + _PIECE, room.runs[t, 1])
                if two:
                    _add_power_steps_of_two(points, i, piece, left, right, squared, room, out)
                else:
                    distances(points, i, piece[0], piece[1], room.buffer)
                    _strengthen(room.buffer, i, left, right, piece)
                    _add_steps(points, i, piece, squared, room.buffer, out)
        return i + (2 if two else 1)
    place = 0
    weights(points, weighing, i, room.runs, n_runs, room.buffer)
    for t in range(n_runs):
        start, stop = room.runs[t, 0], room.runs[t, 1]
        part = room.buffer[place:]
        _multiply_by_products(part, i, left, right, start, stop, room.other)
        _add_steps(points, i, (start, stop), squared, part, out)
        place += stop - start
    return i + 1


_walk_steps = walk_with(_visit_steps)


@compiled
def _strengthen(buffer, i, left, right, piece):
    """Turn squared distances of a piece of the keys into ``2^−s ⟨left_i, right_j⟩``.

    Of two or four columns.
    """
    k, n, begin = len(left), np.uint64(piece[1] - piece[0]), np.uint64(piece[0])
    l0, l1, l2, l3 = left[0, i], left[1, i], left[k - 2, i], left[k - 1, i]
    r0, r1 = address(right, 0), address(right, 1)
    r2, r3 = address(right, k - 2), address(right, k - 1)
    squared, lanes = address(buffer, 0), lanes_of(buffer[0])
    whole = n // lanes * lanes
    for j in range(np.uint64(0), whole, lanes):
        product = l0 * load(r0, begin + j, lanes) + l1 * load(r1, begin + j, lanes)
        if k == 4:
            product += l2 * load(r2, begin + j, lanes) + l3 * load(r3, begin + j, lanes)
        store(power(load(squared, j, lanes)) * product, squared, j, lanes)
    if whole < n:
        count, at = n - whole, begin + whole
        product = l0 * load(r0, at, count) + l1 * load(r1, at, count)
        if k == 4:
            product += l2 * load(r2, at, count) + l3 * load(r3, at, count)
        store(power(load(squared, whole, count)) * product, squared, whole, count)


@compiled
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


@compiled
def _step(q, z, squared):
    return (q - z) * (q - z) if squared else q - z


@compiled
def _add_steps(points, i, piece, squared, strengths, out):
    """Add the steps from a piece of the keys to query i, four features at a time.

    Of codes the costs of mismatches stand in the place of squares, and zeros of plain steps.
    """
    (queries, keys, costs, caps), (start, stop) = points, piece
    d, n = keys.shape[0] - len(costs), np.uint64(stop - start)
    zero, first = ZERO * queries[0, i], d % 4
    for c in range(len(costs) if squared else 0):
        q0, z0, cap, sum0 = queries[d + c, i], keys[d + c, start:stop], caps[c], zero
        for j in range(n):
            sum0 += strengths[j] * min(abs(q0 - z0[j]), cap)
        out[d + c, i] += costs[c] * sum0
    for f in range(first):
        q0, z0, sum0 = queries[f, i], keys[f, start:stop], zero
        for j in range(n):
            sum0 += strengths[j] * _step(q0, z0[j], squared)
        out[f, i] += sum0
    for f in range(first, d, 4):
        q0, z0, sum0 = queries[f, i], keys[f, start:stop], zero
        q1, z1, sum1 = queries[f + 1, i], keys[f + 1, start:stop], zero
        q2, z2, sum2 = queries[f + 2, i], keys[f + 2, start:stop], zero
        q3, z3, sum3 = queries[f + 3, i], keys[f + 3, start:stop], zero
        for j in range(n):
            strength = strengths[j]
            sum0 += strength * _step(q0, z0[j], squared)
            sum1 += strength * _step(q1, z1[j], squared)
            sum2 += strength * _step(q2, z2[j], squared)
            sum3 += strength * _step(q3, z3[j], squared)
        out[f, i] += sum0
        out[f + 1, i] += sum1
        out[f + 2, i] += sum2
        out[f + 3, i] += sum3


@compiled
def _add_power_steps_of_two(points, i, piece, left, right, squared, room, out):
    """Add the steps from a piece of the keys to queries i and i + 1, which share what they read."""
    (queries, keys, costs, _), (start, stop) = points, piece
    d, h, n, zero = keys.shape[0] - len(costs), i + 1, np.uint64(stop - start), ZERO * queries[0, i]
    distances_of_two(points, i, start, stop, room.buffer, room.other)
    _strengthen(room.buffer, i, left, right, piece)
    _strengthen(room.other, h, left, right, piece)
    if len(costs) or d == 1:
        _add_steps(points, i, piece, squared, room.buffer, out)
        _add_steps(points, h, piece, squared, room.other, out)
        return
    strengths, others = room.buffer, room.other
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


# --- nearest keys --------------------------------------------------------------------------------


@kept_on_disk
def find_nearest(points, weighing, tiles, first, last, out, index):
    """Lower `out` (1, m) to the squared distance of each query's nearest key, `index` (m,).

    With anchors, to the smallest excess over the squared distance of the anchor. Returns the number
    of pairs that were evaluated.
    """
    return _walk_nearest(points, tiles, (weighing, index), (first, last), out)


@compiled
def _visit_nearest(points, i, _last, n_runs, room, job, out):
    weighing, index = job
    anchors, gap, buffer = weighing.anchors, gap_of(weighing.exclude, i), room.buffer
    for t in range(n_runs):
        start, stop = room.runs[t, 0], room.runs[t, 1]
        if anchors.shape[1]:
            excesses(points, anchors, i, start, stop, buffer)
        else:
            distances(points, i, start, stop, buffer)
        if start <= gap < stop:
            buffer[gap - start] = np.inf
        smallest = out[0, i]
        for j in range(np.uint64(stop - start)):
            smallest = min(smallest, buffer[j])
        if smallest < out[0, i]:
            out[0, i] = smallest
            j = 0
            while buffer[j] != smallest:
                j += 1
            index[i] = start + j
    return i + 1


_walk_nearest = walk_with(_visit_nearest)


def signatures(precision: str) -> dict[str, tuple]:
    """Return the types of the arguments of each driver for points of a precision."""
    scalar = {"float64": types.float64, "float32": types.float32}[precision]
    rows, row, indices, whole = scalar[:, ::1], scalar[::1], types.int64[::1], types.int64

    def record(kind, *fields):
        return types.BaseTuple.from_types(fields, kind)

    points = record(Points, rows, rows, row, row)
    weighing = record(Weighing, indices, row, rows, row, row, whole, whole)
    boxes = indices, rows, rows, row
    tiles = record(Tiles, *boxes, *boxes, row)
    blocks, whole_rows, sums = (whole, whole), whole[:, ::1], types.float64[:, ::1]
    one_column = (points, rows, weighing, tiles, *blocks, sums)
    return {
        "add_sums": one_column,
        "add_squares": one_column,
        "add_moments": (points, rows, whole_rows, weighing, tiles, *blocks, sums),
        "add_steps": (points, rows, rows, types.boolean, weighing, tiles, *blocks, sums),
        "find_nearest": (points, weighing, tiles, *blocks, rows, indices),
        **_signatures_of_sweeps(),
    }


def _signatures_of_sweeps() -> dict[str, tuple]:
    """Return the same for sums over sorted keys, which are float64 in any precision."""
    row, rows, whole = types.float64[::1], types.float64[:, ::1], types.int64
    span, sums, indices = (whole, whole), types.float64[:, :, ::1], types.int64[::1]
    return {
        "add_window_sums": (
            row,
            rows,
            sums,
            row,
            row,
            row,
            indices,
            types.boolean,
            whole,
            rows,
            rows,
            *span,
            sums,
        ),
        "add_block_moments": (row, rows, whole, sums),
        "add_decaying_sums": (row, rows, row, indices, rows, *span, sums),
        "add_equal_keys": (row, rows, rows, rows, row, indices, *span, rows),
    }
