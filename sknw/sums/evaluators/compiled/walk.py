"""The frame of every loop: which keys a query meets, box by box.

The boxes of keys that a box of queries meets are listed, and a chunk of them stays in the cache
while all queries of the box pass over it. For each query the boxes within its cutoff radius become
runs of consecutive keys.
"""

from collections import namedtuple

import numpy as np

from sknw.sums.evaluators.compiled.disk_cache import compiled
from sknw.sums.evaluators.compiled.powers import ZERO

# Keys of a chunk, whose coordinates, columns and buffer stay in a core's caches: where queries meet
# all of them, and where each meets some.
_BLOCK, _CHUNK = 2048, 8192

# Room for numbers of a chunk of keys, twice; for the places and corners of the boxes that are met;
# and for runs of keys. Rows of corners are low and high of each feature, squared cutoff radii, and
# squared distances; corners have no columns where all queries meet all keys.
Room = namedtuple("Room", ("buffer", "other", "boxes", "corners", "runs"))


def walk_with(visit):
    """Return a compiled walk over the boxes of queries span[0]:span[1].

    It lets `visit` add to `out` what queries get from their keys, and returns the number of pairs
    that were evaluated. ``visit(points, i, last, n_runs, room, job, out)`` is called for the runs
    of keys that query i meets, ``room.runs``, and returns the next query, at most `last`: where all
    queries meet all keys it may do several at once.
    """

    @compiled
    def walk(points, tiles, job, span, out):
        room, starts, key_starts = _room(tiles, points.queries), tiles.starts, tiles.key_starts
        evaluated = 0
        for b in range(span[0], span[1]):
            n_met, head = _find_boxes(tiles, b, room), 0
            while head < n_met:
                end = _end_of_chunk(key_starts, room.boxes, head, n_met, len(room.buffer))
                i = starts[b]
                while i < starts[b + 1]:
                    n_runs = _find_runs(points.queries, i, tiles, room, head, end)
                    n_keys = _count(room.runs, n_runs)
                    after = visit(points, i, starts[b + 1], n_runs, room, job, out)
                    evaluated += (after - i) * n_keys
                    i = after
                head = end
        return evaluated

    return walk


@compiled
def _room(tiles, like):
    key_starts, key_low = tiles.key_starts, tiles.key_low
    n_boxes, longest = len(key_starts) - 1, _CHUNK if key_low.shape[1] else _BLOCK
    for c in range(n_boxes):
        longest = max(longest, key_starts[c + 1] - key_starts[c])
    return Room(
        np.empty(longest, like.dtype),
        np.empty(longest, like.dtype),
        np.empty(n_boxes, np.int64),
        np.empty((2 * key_low.shape[0] + 2, key_low.shape[1]), like.dtype),
        np.empty((n_boxes + 1, 2), np.int64),
    )


@compiled
def _find_boxes(tiles, b, room):
    """List the boxes that box b of the queries meets, and what bounds them; return their number."""
    low, high, key_low, key_high = tiles.low, tiles.high, tiles.key_low, tiles.key_high
    key_cutoffs, boxes, corners, d = tiles.key_cutoffs, room.boxes, room.corners, key_low.shape[0]
    if not key_low.shape[1]:
        for c in range(len(boxes)):
            boxes[c] = c
        return len(boxes)
    gaps, cutoff = corners[2 * d + 1], tiles.cutoffs[b]
    if d == 0:
        gaps[:] = ZERO
    for f in range(d):
        _add_gaps(low[f, b], high[f, b], key_low[f], key_high[f], f == 0, gaps)
    n_met = 0
    for c in range(len(boxes)):
        boxes[n_met] = c
        n_met += 1 if gaps[c] <= max(cutoff, key_cutoffs[c]) else 0
    for c in range(n_met):
        for f in range(d):
            corners[2 * f, c] = key_low[f, boxes[c]]
            corners[2 * f + 1, c] = key_high[f, boxes[c]]
        corners[2 * d, c] = key_cutoffs[boxes[c]]
    return n_met


@compiled
def _add_gaps(low, high, lows, highs, afresh, gaps):
    """Add the squared distances of low:high from each of the intervals."""
    if afresh:
        for c in range(np.uint64(len(lows))):
            gap = max(max(lows[c] - high, low - highs[c]), ZERO)
            gaps[c] = gap * gap
    else:
        for c in range(np.uint64(len(lows))):
            gap = max(max(lows[c] - high, low - highs[c]), ZERO)
            gaps[c] += gap * gap


@compiled
def _end_of_chunk(starts, boxes, first, n_met, limit):
    """Return the end of the boxes, from `first` on, that have no more keys than the limit."""
    end, n_keys = first + 1, starts[boxes[first] + 1] - starts[boxes[first]]
    while end < n_met:
        n_keys += starts[boxes[end] + 1] - starts[boxes[end]]
        if n_keys > limit:
            break
        end += 1
    return end


@compiled
def _find_runs(queries, i, tiles, room, first, last):
    """List the runs of keys, of boxes[first:last], that query i meets; return their number."""
    starts, d, boxes, corners, runs = (
        tiles.key_starts, tiles.key_low.shape[0], room.boxes, room.corners, room.runs
    )  # fmt: skip
    if not corners.shape[1]:
        runs[0, 0], runs[0, 1] = starts[boxes[first]], starts[boxes[last - 1] + 1]
        return 1
    gaps, key_cutoffs = corners[2 * d + 1, first:last], corners[2 * d, first:last]
    cutoff = tiles.query_cutoffs[i]
    if d == 0:
        gaps[:] = ZERO
    for f in range(d):
        q0 = queries[f, i]
        _add_gaps(q0, q0, corners[2 * f, first:last], corners[2 * f + 1, first:last], f == 0, gaps)
    n_met = 0
    for c in range(last - first):  # places of boxes wait in the second column
        runs[n_met, 1] = boxes[first + c]
        n_met += 1 if gaps[c] <= max(cutoff, key_cutoffs[c]) else 0
    n_runs, end = 0, -1
    for c in range(n_met):
        box = runs[c, 1]
        if box != end:
            runs[n_runs, 0] = starts[box]
            n_runs += 1
        end = box + 1
        runs[n_runs - 1, 1] = starts[end]
    return n_runs


@compiled
def _count(runs, n_runs):
    """Return the number of keys in the runs."""
    n = 0
    for t in range(n_runs):
        n += runs[t, 1] - runs[t, 0]
    return n


@compiled
def leave_out(runs, n_runs, gap):
    """Cut the key at the gap out of the runs; return their number."""
    for t in range(n_runs):
        if runs[t, 0] <= gap < runs[t, 1]:
            for u in range(n_runs, t, -1):
                runs[u, 0], runs[u, 1] = runs[u - 1, 0], runs[u - 1, 1]
            runs[t, 1], runs[t + 1, 0] = gap, gap + 1
            return n_runs + 1
    return n_runs


@compiled
def gap_of(exclude, i):
    """Return the key that query i leaves out, or -1."""
    return exclude[i] if len(exclude) else -1
