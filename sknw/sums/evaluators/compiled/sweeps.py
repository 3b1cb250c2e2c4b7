"""Sums over sorted keys in one sweep: time by the number of points, not of pairs.

Queries and keys ascend. What a query gets from the keys before it is the value, at its place, of a
function that moves with it: a polynomial times a cosine, or times an exponential. Its coefficients
are moments of the keys about one of them, and to move that place is to multiply a few moments with
each other. The keys behind a query are those before it in a mirror.

**Compact kernels.** With ``t = 1 − (q − z)``, the distance of a key from the edge of the window, a
kernel is a polynomial of t, or one of a cosine. Moments about the edge are sums of positive numbers
as far as the columns are, so nothing cancels, however small a window's mass is beside that of the
others. They are never differences of sums over more keys: of blocks of keys the window is a queue
made of two stacks. Blocks enter at the back, ``[pivot, entered)``, by addition to moments about the
pivot. The front, ``[first, pivot)``, has moments of its keys from each block on, about the block's
first key; when the last of them has left, all blocks of the window become the front. Keys at the
ends that are no whole block are pairs with the query, done one by one, in vector registers.

**The exponential** has all keys before a query, with their moments about a key no more than one
bandwidth before the last: no weight is counted larger than e times, and from one such place to the
next one factor suffices, so that roundings do not add up.

States are arrays (s, k) of moments ``Σ_j v_j x_j^p / p! b_g(x_j)`` of the columns v, one function b
after the other: 1; cos and sin of ``πx/2``; or the products of two of these.
"""

import math

import numpy as np

from sknw.sums.evaluators.compiled.disk_cache import compiled, inlined, kept_on_disk
from sknw.sums.evaluators.compiled.powers import _coefficients
from sknw.sums.evaluators.compiled.vectors import (
    address,
    at_most,
    from_edge,
    lanes_of,
    load,
    spread,
    sum_of_lanes,
)

# Keys of a block; and queries that wait for each other, so that vector loops move their moments.
BLOCK, _WAITING = 16, 64
_HALF_PI = math.pi / 2
# 1 / (p + 1) for powers p, of which the longest kernel has 26.
_INVERSES = 1 / np.arange(1.0, 65.0)
# A distance at which the exponential kernel counts as zero; such rows are done by other means.
_VANISHED = 700.0


# Coefficients of ``cos(πt/2)`` and ``sin(πt/2) / t`` as polynomials in ``t²``.
_WAVES = np.array(
    [
        _coefficients(lambda s: np.cos(_HALF_PI * np.sqrt(s)), 10, 0.0, 1.0),
        _coefficients(lambda s: _HALF_PI * np.sinc(np.sqrt(s) / 2), 10, 0.0, 1.0),
    ]
)
# No reordering of sums here: 1 − (q − z) must not become (1 − q) + z.
_exactly = compiled(fastmath={"contract"})


@compiled(fastmath=False)
def _is_inside(q, z, edge, allowance, is_single):
    """Whether a key is within the support, as other loops have it in the precision of the data."""
    if is_single:
        step = np.float64(np.float32(q - z))
        squared = np.float64(np.float32(step * step))
        return np.float32(squared + allowance) < np.float32(1.0 - edge)
    step = q - z
    squared = step * step
    return squared + allowance < 1.0 - edge


# Arrays with a place in them are passed instead of parts of arrays, and loops are written out
# instead of NumPy's assignments: a view costs as much as ten products, and an assignment takes
# seconds to compile.
@inlined
def _scale(source, at, factor, target, to):
    """Set a state to another one times a factor; to zero for a factor of zero."""
    for row in range(target.shape[1]):
        for c in range(target.shape[2]):
            target[to, row, c] = factor * source[at, row, c] if factor != 0.0 else 0.0


@inlined
def _put(source, at, waiting, i):
    """Set state i of those that wait, (s, k, n)."""
    for row in range(waiting.shape[0]):
        for c in range(waiting.shape[1]):
            waiting[row, c, i] = source[at, row, c]


@_exactly
def _first_from(keys, value):
    """Return the place of the first key that is not below the value."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _add_key(states, at, n_functions, x, columns, j, weight):
    """Add key j at x, times a weight, to a state."""
    if n_functions == 1:
        for row in range(states.shape[1]):
            for c in range(states.shape[2]):
                states[at, row, c] += weight * columns[c, j]
            weight *= x * _INVERSES[row]
    else:
        _add_waves(states, at, n_functions, x, columns, j)


@_exactly
def _add_waves(states, at, n_functions, x, columns, j):
    """Add key j at x to a state with cosines and sines."""
    n_powers, k = states.shape[1] // n_functions, states.shape[2]
    cosine, sine = 1.0, 0.0
    if x != 0.0:
        cosine, sine = math.cos(_HALF_PI * x), math.sin(_HALF_PI * x)
    for g in range(n_functions):
        factor = 1.0
        for _ in range(n_functions - 1 - g):
            factor *= cosine
        for _ in range(g):
            factor *= sine
        for p in range(n_powers):
            for c in range(k):
                states[at, g * n_powers + p, c] += factor * columns[c, j]
            factor *= x * _INVERSES[p]


@_exactly
def _move(states, at, n_functions, x, powers):
    """Let all keys of a state be farther by x; `powers` is room."""
    n_powers, k = states.shape[1] // n_functions, states.shape[2]
    if n_functions > 1:
        cosine, sine = math.cos(_HALF_PI * x), math.sin(_HALF_PI * x)
        for p in range(n_powers):
            for c in range(k):
                first, second = states[at, p, c], states[at, n_powers + p, c]
                third = states[at, 2 * n_powers + p, c] if n_functions == 3 else 0.0
                turned = _turned(n_functions, cosine, sine, first, second, third)
                states[at, p, c], states[at, n_powers + p, c] = turned[0], turned[1]
                if n_functions == 3:
                    states[at, 2 * n_powers + p, c] = turned[2]
    power = 1.0
    for p in range(n_powers - 1):
        power *= x * _INVERSES[p]
        powers[p, 0] = power
    for g in range(n_functions):
        for p in range(n_powers - 1, 0, -1):
            for c in range(k):
                total = states[at, g * n_powers + p, c]
                for r in range(p):
                    total += powers[p - r - 1, 0] * states[at, g * n_powers + r, c]
                states[at, g * n_powers + p, c] = total


@_exactly
def _turned(n_functions, cosine, sine, first, second, third):
    """Return moments of products of cosines and sines of angles that are larger by one."""
    if n_functions == 2:
        return cosine * first - sine * second, cosine * second + sine * first, 0.0
    squares, both = (cosine * cosine, sine * sine), cosine * sine
    return (
        squares[0] * first - 2 * both * second + squares[1] * third,
        both * (first - third) + (squares[0] - squares[1]) * second,
        squares[1] * first + 2 * both * second + squares[0] * third,
    )


@_exactly
def _move_all(states, n_functions, x, n, powers):
    """Do what `_move` does for n states (s, k, n), each by its own distance."""
    n_powers, k = states.shape[0] // n_functions, states.shape[1]
    if n_functions > 1:
        for i in range(n):
            cosine, sine = math.cos(_HALF_PI * x[i]), math.sin(_HALF_PI * x[i])
            for p in range(n_powers):
                for c in range(k):
                    first, second = states[p, c, i], states[n_powers + p, c, i]
                    third = states[2 * n_powers + p, c, i] if n_functions == 3 else 0.0
                    turned = _turned(n_functions, cosine, sine, first, second, third)
                    states[p, c, i], states[n_powers + p, c, i] = turned[0], turned[1]
                    if n_functions == 3:
                        states[2 * n_powers + p, c, i] = turned[2]
    for p in range(n_powers - 1):
        power, before, factor = powers[p], powers[p - 1 if p else 0], _INVERSES[p]
        for i in range(np.uint64(n)):
            power[i] = factor * x[i] * (before[i] if p else 1.0)
    for g in range(n_functions):
        for p in range(n_powers - 1, 0, -1):
            for r in range(p):
                power = powers[p - r - 1]
                for c in range(k):
                    source, target = states[g * n_powers + r, c], states[g * n_powers + p, c]
                    for i in range(np.uint64(n)):
                        target[i] += power[i] * source[i]


@_exactly
def _finish(
    fronts, backs, from_front, from_back, n_functions, coefficients, n, places, powers, out
):  # fmt: skip
    """Add what n waiting queries get from whole blocks."""
    _move_all(fronts, n_functions, from_front, n, powers)
    _move_all(backs, n_functions, from_back, n, powers)
    n_rows, k = fronts.shape[0], fronts.shape[1]
    total = powers[0]
    for a in range(out.shape[0]):
        for c in range(k):
            for i in range(np.uint64(n)):
                total[i] = 0.0
            for row in range(n_rows):
                factor = coefficients[a, row]
                if factor == 0.0:
                    continue
                front, back = fronts[row, c], backs[row, c]
                for i in range(np.uint64(n)):
                    total[i] += factor * (front[i] + back[i])
            for i in range(n):
                out[a, c, places[i]] += total[i]


@inlined
def _polynomial(coefficients, first, n_powers, t):
    """Return the polynomial of a register; the coefficients are a row in memory."""
    last = first + n_powers - 1
    total = spread(coefficients[last])
    for row in range(1, n_powers):
        total = total * t + spread(coefficients[last - row])
    return total


@_exactly
def _waves(coefficients, n_functions, n_powers, t):
    """Return a kernel with cosines and sines at a register of distances from the edge."""
    squared = t * t
    cosine = _polynomial(address(_WAVES, 0), 0, _WAVES.shape[1], squared)
    sine = t * _polynomial(address(_WAVES, 1), 0, _WAVES.shape[1], squared)
    first = _polynomial(coefficients, 0, n_powers, t)
    second = _polynomial(coefficients, n_powers, n_powers, t)
    if n_functions == 2:
        return cosine * first + sine * second
    third = _polynomial(coefficients, 2 * n_powers, n_powers, t)
    return cosine * (cosine * first + sine * second) + sine * (sine * third)


@_exactly
def _add_pairs(keys, columns, left, stop, start, before, n_functions, polynomials, i, q, out):
    """Add what query i gets from the keys left:stop and start:before, one by one."""
    z, lanes, k = address(keys, 0), lanes_of(0.0), columns.shape[0]
    n_powers = polynomials.shape[1] // n_functions
    for a in range(out.shape[0]):
        coefficients = address(polynomials, a)
        for c in range(0, k, 2):
            other = min(c + 1, k - 1)
            first, second = address(columns, c), address(columns, other)
            sum0, sum1 = spread(0.0), spread(0.0)
            for begin, end in (
                (np.uint64(left), np.uint64(stop)),
                (np.uint64(start), np.uint64(before)),
            ):
                for j in range(begin, end, lanes):
                    count = min(lanes, end - j)
                    t = at_most(from_edge(q, load(z, j, count)), 1.0)
                    t = spread(0.0) - at_most(spread(0.0) - t, 0.0)  # other lanes hold anything
                    if n_functions == 1:
                        weight = _polynomial(coefficients, 0, n_powers, t)
                    else:
                        weight = _waves(coefficients, n_functions, n_powers, t)
                    sum0 += weight * load(first, j, count)
                    sum1 += weight * load(second, j, count)
            out[a, c, i] += sum_of_lanes(sum0)
            if other > c:
                out[a, other, i] += sum_of_lanes(sum1)


@kept_on_disk(fastmath={"contract"})
def add_block_moments(keys, columns, n_functions, out):
    """Add to `out` (n // BLOCK, s, k) the moments of each whole block, about its first key."""
    for b in range(out.shape[0]):
        first = keys[b * BLOCK]
        for j in range(b * BLOCK, (b + 1) * BLOCK):
            _add_key(out, b, n_functions, keys[j] - first, columns, j, 1.0)


@_exactly
def _add_moved(source, at, x, n_functions, powers, room, target, to):
    """Add a state, whose keys are farther by x, to another one."""
    _scale(source, at, 1.0, room, 0)
    _move(room, 0, n_functions, x, powers)
    for row in range(target.shape[1]):
        for c in range(target.shape[2]):
            target[to, row, c] += room[0, row, c]


@kept_on_disk(fastmath={"contract"})
def add_window_sums(
    keys, columns, blocks, allowances, queries, edges, exclude, is_single, n_functions,
    coefficients, polynomials, first, last, out,
):  # fmt: skip
    """Add to `out` (p, k, m) what the queries first:last get from the keys before them.

    Parameters
    ----------
    keys, columns : ndarray of shape (n,), (k, n)
        Ascending keys, and their value columns.
    blocks : ndarray of shape (n // BLOCK, s, k)
        What `add_block_moments` found.
    allowances, edges : ndarray of shape (n,), (m,)
        What rounding may do to a squared distance of 1, of the keys and of the queries.
    queries : ndarray of shape (m,)
        Ascending queries.
    exclude : ndarray of shape (m,) or (0,), int64
        Key that a query leaves out, or -1.
    is_single : bool
        Whether the points were given as float32.
    n_functions : int
        1, or 2 for a cosine, or 3 for the square of one.
    coefficients, polynomials : ndarray of shape (p, s)
        The kernel, times powers of the step, as a sum of the functions that states are moments of;
        and as polynomials in powers without the factorials.
    """
    n, k, n_rows = len(keys), columns.shape[0], coefficients.shape[1]
    front, back = np.empty((len(blocks) + 1, n_rows, k)), np.zeros((1, n_rows, k))
    powers, room = np.empty((n_rows, _WAITING)), np.empty((1, n_rows, k))
    fronts, backs = np.empty((n_rows, k, _WAITING)), np.empty((n_rows, k, _WAITING))
    from_front, from_back = np.empty(_WAITING), np.empty(_WAITING)
    places = np.empty(_WAITING, np.int64)
    left = _first_from(keys, queries[first] - 2.0)  # the first key of the window
    before = left  # the first key that is not before the query
    pivot = entered = 0
    waiting = 0
    for i in range(first, last):
        q = queries[i]
        while before < n and keys[before] < q:
            before += 1
        while left < before and not _is_inside(
            q, keys[left], edges[i], allowances[left], is_single
        ):
            left += 1
        gap = exclude[i] if len(exclude) else -1
        first_block, last_block = (left + BLOCK - 1) // BLOCK, before // BLOCK
        is_pairs = first_block >= last_block
        stop, start = (before, before) if is_pairs else (first_block * BLOCK, last_block * BLOCK)
        if left <= gap < before:  # not the query itself: seldom asked for
            is_pairs, stop, start = True, gap, gap + 1
        _add_pairs(keys, columns, left, stop, start, before, n_functions, polynomials, i, q, out)
        if not is_pairs:
            if first_block >= pivot:
                pivot = entered = last_block
                _scale(back, 0, 0.0, back, 0)
                for b in range(pivot - 1, first_block - 1, -1):
                    _scale(blocks, b, 1.0, front, b)
                    if b + 1 < pivot:
                        x = keys[(b + 1) * BLOCK] - keys[b * BLOCK]
                        _add_moved(front, b + 1, x, n_functions, powers, room, front, b)
            for b in range(entered, last_block):
                x = keys[b * BLOCK] - keys[pivot * BLOCK]
                _add_moved(blocks, b, x, n_functions, powers, room, back, 0)
            entered = last_block
            from_front[waiting] = 1.0 - (q - keys[first_block * BLOCK])
            from_back[waiting] = 1.0 - (q - keys[pivot * BLOCK]) if entered > pivot else 0.0
            _put(front, first_block, fronts, waiting)
            _put(back, 0, backs, waiting)
            places[waiting] = i
            waiting += 1
        if waiting == _WAITING or (i + 1 == last and waiting):
            _finish(
                fronts, backs, from_front, from_back, n_functions, coefficients, waiting, places,
                powers, out,
            )  # fmt: skip
            waiting = 0


@kept_on_disk(fastmath={"contract"})
def add_decaying_sums(keys, columns, queries, exclude, coefficients, first, last, out):
    """Add to `out` (p, k, m) what the queries first:last get from the keys before them.

    The kernel is exponential; arguments are as in `add_window_sums`, but steps go from query to
    key.
    """
    n, k, n_powers = len(keys), columns.shape[0], coefficients.shape[1]
    state, moved = np.zeros((1, n_powers, k)), np.empty((1, n_powers, k))
    powers = np.empty((n_powers, 1))
    place = before = _first_from(keys, queries[first] - _VANISHED)
    for i in range(first, last):
        q = queries[i]
        while before < n and keys[before] < q:
            x = keys[before] - keys[place]
            if x > 1.0:
                if x < _VANISHED:
                    _move(state, 0, 1, -x, powers)
                _scale(state, 0, math.exp(-x) if x < _VANISHED else 0.0, state, 0)
                place, x = before, 0.0
            _add_key(state, 0, 1, x, columns, before, math.exp(x))
            before += 1
        gap = exclude[i] if len(exclude) else -1
        if 0 <= gap < before:  # not the query itself: seldom asked for
            _scale(moved, 0, 0.0, moved, 0)
            for j in range(before):
                x = q - keys[j]
                if j != gap and x < _VANISHED:
                    _add_key(moved, 0, 1, -x, columns, j, math.exp(-x))
        elif place == before or q - keys[place] >= _VANISHED:
            continue
        else:
            x = q - keys[place]
            _scale(state, 0, math.exp(-x), moved, 0)
            _move(moved, 0, 1, -x, powers)
        for a in range(out.shape[0]):
            for row in range(n_powers):
                factor = coefficients[a, row]
                if factor != 0.0:
                    for c in range(k):
                        out[a, c, i] += factor * moved[0, row, c]


@kept_on_disk(fastmath={"contract"})
def add_equal_keys(keys, columns, before, after, queries, exclude, first, last, out):
    """Add to `out` (k, m) the columns of the keys that are where the queries first:last are.

    `before` and `after` (k, n) are the sums of columns of equal keys on either side of each; none
    where no keys are equal.
    """
    n, k = len(keys), columns.shape[0]
    j = _first_from(keys, queries[first])
    for i in range(first, last):
        q = queries[i]
        while j < n and keys[j] < q:
            j += 1
        if j == n or keys[j] != q:
            continue
        gap = exclude[i] if len(exclude) else -1
        is_among = gap >= 0 and keys[gap] == q
        at = gap if is_among else j
        for c in range(k):
            total = 0.0 if is_among else columns[c, j]
            if before.shape[1]:
                total += before[c, at] + after[c, at]
            out[c, i] += total
