"""Sums over sorted keys in one sweep: time by the number of points, not of pairs.

Queries and keys ascend. What a query gets from the keys before it is the value, at its place, of a
function that moves with it: a polynomial times a cosine, or times an exponential. Its coefficients
are moments of the keys about one of them, and to move that place is to multiply a few moments with
each other. The keys behind a query are those before it in a mirror.

**Compact kernels.** With ``t = 1 − (q − z)``, the distance of a key from the edge of the window, a
kernel is a polynomial of t, or one of a cosine. Moments about the edge are sums of positive numbers
as far as the columns are, so nothing cancels, however small a window's mass is beside that of the
others. They are never differences of sums over more keys: the window is a queue made of two stacks.
Keys enter at the back, ``[pivot, entered)``, by addition to moments about the pivot. The front,
``[first, pivot)``, has moments of its keys from each key on, about that key; when the last of
them has left, all keys of the window become the front. Of the front only every `_BLOCK`-th key's
moments are kept, and those between them are made when the window's edge is there.

**The exponential** has all keys before a query, with their moments about a key no more than one
bandwidth before the last: no weight is counted larger than e times, and from one such place to the
next one factor suffices, so that roundings do not add up.

States are arrays (s, k) of moments ``Σ_j v_j x_j^p / p! b_g(x_j)`` of the columns v, one function b
after the other: 1; cos and sin of ``πx/2``; or the products of two of these.
"""

import math

import numpy as np

from sknw.sums.evaluators.compiled.disk_cache import compiled, inlined, kept_on_disk

# Keys whose moments are made again when the window's edge is among them; and queries that wait for
# each other, so that vector loops move their moments.
_BLOCK, _WAITING = 64, 64
_HALF_PI = math.pi / 2
# 1 / (p + 1) for powers p, of which the longest kernel has 26.
_INVERSES = 1 / np.arange(1.0, 65.0)
# A distance at which the exponential kernel counts as zero; such rows are done by other means.
_VANISHED = 700.0

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
def _put(source, at, factor, waiting, i):
    """Do the same for state i of those that wait, (s, k, n)."""
    for row in range(waiting.shape[0]):
        for c in range(waiting.shape[1]):
            waiting[row, c, i] = factor * source[at, row, c] if factor != 0.0 else 0.0


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
                states[at, row, c] += weight * columns[j, c]
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
                states[at, g * n_powers + p, c] += factor * columns[j, c]
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
def _finish(fronts, backs, from_front, from_back, n_functions, coefficients, n, start, powers, out):
    """Add the sums of n waiting queries, of which the first is `start`."""
    _move_all(fronts, n_functions, from_front, n, powers)
    _move_all(backs, n_functions, from_back, n, powers)
    n_rows, k = fronts.shape[0], fronts.shape[1]
    for a in range(out.shape[0]):
        for c in range(k):
            total = out[a, c, start : start + n]
            for row in range(n_rows):
                factor = coefficients[a, row]
                if factor == 0.0:
                    continue
                front, back = fronts[row, c], backs[row, c]
                for i in range(np.uint64(n)):
                    total[i] += factor * (front[i] + back[i])


@_exactly
def _build_front(keys, columns, first, pivot, n_functions, powers, coarse):
    """Fill the moments of the keys from every `_BLOCK`-th before the pivot on, up to it."""
    n_blocks = (pivot - 1 - first) // _BLOCK  # the one with the first key is made when needed
    for b in range(n_blocks):
        end = pivot - b * _BLOCK
        start = end - _BLOCK
        _scale(coarse, max(b - 1, 0), 1.0 if b > 0 else 0.0, coarse, b)
        if b > 0:
            _move(coarse, b, n_functions, keys[end] - keys[start], powers)
        for j in range(start, end):
            _add_key(coarse, b, n_functions, keys[j] - keys[start], columns, j, 1.0)


@_exactly
def _build_block(keys, columns, first, pivot, b, n_functions, powers, coarse, fine):
    """Fill the moments from each key on, of those keys of block b that are not before the first."""
    end = pivot - b * _BLOCK
    start = end - _BLOCK
    for j in range(end - 1, max(start, first) - 1, -1):
        to = j - start
        if j + 1 < end:
            _scale(fine, to + 1, 1.0, fine, to)
        else:
            _scale(coarse, max(b - 1, 0), 1.0 if b > 0 else 0.0, fine, to)
        if j + 1 < end or b > 0:
            _move(fine, to, n_functions, keys[j + 1] - keys[j], powers)
        _add_key(fine, to, n_functions, 0.0, columns, j, 1.0)


@kept_on_disk(fastmath={"contract"})
def add_window_sums(
    keys, columns, allowances, queries, edges, exclude, is_single, n_functions, coefficients,
    first, last, out,
):  # fmt: skip
    """Add to `out` (p, k, m) what the queries first:last get from the keys before them.

    Parameters
    ----------
    keys, columns : ndarray of shape (n,), (n, k)
        Ascending keys, and their value columns.
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
    coefficients : ndarray of shape (p, s)
        The kernel, times powers of the step, as a sum of the functions that states are moments of.
    """
    n, k, n_rows = len(keys), columns.shape[1], coefficients.shape[1]
    coarse = np.empty((n // _BLOCK + 1, n_rows, k))
    fine = np.empty((_BLOCK, n_rows, k))
    back = np.zeros((1, n_rows, k))
    powers = np.empty((n_rows, _WAITING))
    fronts, backs = np.empty((n_rows, k, _WAITING)), np.empty((n_rows, k, _WAITING))
    from_front, from_back = np.empty(_WAITING), np.empty(_WAITING)
    left = _first_from(keys, queries[first] - 2.0)  # the first key of the window
    before = left  # the first key that is not before the query
    pivot = entered = left
    block = -1
    waiting = 0
    for i in range(first, last):
        q = queries[i]
        while before < n and keys[before] < q:
            before += 1
        while left < before and not _is_inside(
            q, keys[left], edges[i], allowances[left], is_single
        ):
            left += 1
        from_front[waiting] = from_back[waiting] = 0.0
        gap = exclude[i] if len(exclude) else -1
        if left == before:
            _put(back, 0, 0.0, fronts, waiting)
            _put(back, 0, 0.0, backs, waiting)
        elif left <= gap < before:  # not the query itself: seldom asked for
            block = -1
            _scale(fine, 0, 0.0, fine, 0)
            for j in range(left, before):
                if j != gap:
                    _add_key(fine, 0, n_functions, 1.0 - (q - keys[j]), columns, j, 1.0)
            _put(fine, 0, 1.0, fronts, waiting)
            _put(fine, 0, 0.0, backs, waiting)
        else:
            if left >= pivot:
                pivot = entered = before
                _scale(back, 0, 0.0, back, 0)
                block = -1
                _build_front(keys, columns, left, pivot, n_functions, powers, coarse)
            for j in range(entered, before):
                _add_key(back, 0, n_functions, keys[j] - keys[pivot], columns, j, 1.0)
            entered = before
            b = (pivot - 1 - left) // _BLOCK
            if b != block:
                block = b
                _build_block(keys, columns, left, pivot, b, n_functions, powers, coarse, fine)
            _put(fine, left - (pivot - (b + 1) * _BLOCK), 1.0, fronts, waiting)
            _put(back, 0, 1.0, backs, waiting)
            from_front[waiting] = 1.0 - (q - keys[left])
            if entered > pivot:
                from_back[waiting] = 1.0 - (q - keys[pivot])
        waiting += 1
        if waiting == _WAITING or i + 1 == last:
            _finish(
                fronts, backs, from_front, from_back, n_functions, coefficients, waiting,
                i + 1 - waiting, powers, out,
            )  # fmt: skip
            waiting = 0


@kept_on_disk(fastmath={"contract"})
def add_decaying_sums(keys, columns, queries, exclude, coefficients, first, last, out):
    """Add to `out` (p, k, m) what the queries first:last get from the keys before them.

    The kernel is exponential; arguments are as in `add_window_sums`, but steps go from query to
    key.
    """
    n, k, n_powers = len(keys), columns.shape[1], coefficients.shape[1]
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

    `before` and `after` (n, k) are the sums of columns of equal keys on either side of each; none
    where no keys are equal.
    """
    n, k = len(keys), columns.shape[1]
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
            total = 0.0 if is_among else columns[j, c]
            if len(before):
                total += before[at, c] + after[at, c]
            out[c, i] += total
