"""Which keys each block of queries meets, and the compact blocks that make the lists short.

A `Layout` sorts points into compact blocks and bounds each by a box. Between two boxes lie a
nearest and a farthest distance; they bound the weights of all pairs inside, and a pair of blocks
whose keys cannot matter is dropped. For a kernel with compact support that is exact. Otherwise
blocks are dropped as long as all their weights together stay below `rtol` times the mass that the
queries have at least, so a query in the tail keeps the keys that matter *there*.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sknw._arrays import to_numpy, to_tensor
from sknw.kernels import Kernel

_BOX_TESTS = 2**21  # pairs of boxes compared at a time
_LEVELS, _LEVEL_STEP = 6, 1.3
_LEAST_WEIGHT = 1e-3  # of the mean
_COMPACT, _FEWEST_BLOCKS = 4.0, 16
_REMOTE = 1e12  # squared distance
_CARE = 1e-5  # for distances rounded to float32
_QUERIES_PER_BLOCK, _KEYS_PER_BOX = 64, 2048


@dataclass(frozen=True, eq=False)
class Pairs:
    """Blocks of queries, each with the boxes of keys that it meets.

    Parameters
    ----------
    blocks : ndarray of shape (n_blocks + 1,)
        Block b holds the queries ``blocks[b]:blocks[b + 1]``.
    offsets : ndarray of shape (n_blocks + 1,)
        It meets the ranges ``offsets[b]:offsets[b + 1]``.
    starts, stops : ndarray of shape (n_ranges,)
        First box of each range, and the one after its last.
    places : ndarray of shape (n_boxes + 1,)
        Box c holds the keys ``places[c]:places[c + 1]``.
    low, high : ndarray of shape (d, n_boxes) or (d, 0)
        Corners of the boxes; none where every query meets every box.
    reaches : ndarray of shape (n_blocks,)
        Squared distance beyond which no query of the block needs a key.
    limits : ndarray of shape (n_boxes,)
        Squared distance beyond which no key of the box needs a query. A pair that either needs
        counts.
    tally : list of int
        An evaluator that looks closer than at blocks appends the number of pairs it evaluated.
    """

    blocks: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    places: np.ndarray
    low: np.ndarray
    high: np.ndarray
    reaches: np.ndarray
    limits: np.ndarray
    tally: list[int] = field(default_factory=list)

    @classmethod
    def all(cls, n_queries: int, n_keys: int, n_features: int) -> "Pairs":
        """Return pairs of every query with every key."""
        blocks, places = _cuts(n_queries, _QUERIES_PER_BLOCK), _cuts(n_keys, _KEYS_PER_BOX)
        n_blocks, n_boxes = len(blocks) - 1, len(places) - 1
        return cls(
            blocks=blocks,
            offsets=np.arange(n_blocks + 1, dtype=np.int64),
            starts=np.zeros(n_blocks, dtype=np.int64),
            stops=np.full(n_blocks, n_boxes, dtype=np.int64),
            places=places,
            low=np.empty((n_features, 0)),
            high=np.empty((n_features, 0)),
            reaches=np.full(n_blocks, np.inf),
            limits=np.full(n_boxes, np.inf),
        )

    def __len__(self) -> int:
        return len(self.blocks) - 1

    @cached_property
    def count(self) -> int:
        """Number of pairs of a query and a key in blocks that meet."""
        keys = np.append(self.places[self.stops] - self.places[self.starts], 0)
        keys = np.add.reduceat(keys, self.offsets[:-1])
        keys[np.diff(self.offsets) == 0] = 0
        return int(keys @ np.diff(self.blocks))

    @property
    def evaluated(self) -> int:
        """Number of pairs that the first sums over these pairs evaluated."""
        return self.tally[0] if self.tally else self.count


def _cuts(n: int, size: int) -> np.ndarray:
    return np.minimum(np.arange(0, n + size, size, dtype=np.int64), n)


@dataclass(frozen=True, eq=False)
class Meeting:
    """Which blocks of two layouts meet.

    Parameters
    ----------
    queries, keys : Layout
        Sorted queries and keys.
    matrix : ndarray of shape (n_query_blocks, n_key_blocks)
        Whether they meet.
    reaches : ndarray of shape (n_query_blocks,)
        Squared distance beyond which no query of the block needs a key.
    """

    queries: "Layout"
    keys: "Layout"
    matrix: np.ndarray
    reaches: np.ndarray

    @cached_property
    def pairs(self) -> Pairs:
        """What each query needs."""
        return _pairs(self.matrix, self.queries, self.keys, reaches=self.reaches)

    @cached_property
    def turned(self) -> Pairs:
        """The same pairs with the keys as queries."""
        return _pairs(self.matrix.T, self.keys, self.queries, limits=self.reaches)

    @cached_property
    def both_ways(self) -> Pairs:
        """Of a layout over itself: pairs that either needs."""
        matrix, reaches = self.matrix | self.matrix.T, self.reaches
        return _pairs(matrix, self.queries, self.keys, reaches=reaches, limits=reaches)


def _pairs(
    matrix: np.ndarray,
    queries: "Layout",
    keys: "Layout",
    reaches: np.ndarray | None = None,
    limits: np.ndarray | None = None,
) -> Pairs:
    edges = np.diff(np.pad(matrix, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, first = np.nonzero(edges == 1)  # neighbouring boxes are one range
    last = np.nonzero(edges == -1)[1]
    counts = np.bincount(rows, minlength=len(matrix))
    return Pairs(
        blocks=queries.block_starts,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        starts=first,
        stops=last,
        places=keys.block_starts,
        low=to_numpy(keys.low.mT.contiguous()),
        high=to_numpy(keys.high.mT.contiguous()),
        reaches=np.full(len(matrix), -1.0) if reaches is None else reaches,
        limits=np.full(matrix.shape[1], -1.0) if limits is None else limits,
    )


@dataclass(frozen=True, eq=False)
class Layout:
    """Points sorted into compact blocks.

    Parameters
    ----------
    order : Tensor of shape (n,)
        Which point stands at each place.
    points : Tensor of shape (n, d)
        The points in that order.
    blocks : Tensor of shape (n_blocks + 1,)
        Block b holds the places ``blocks[b]:blocks[b + 1]``.
    low, high : Tensor of shape (n_blocks, d)
        Corners of each block's box, float64.
    """

    order: Tensor
    points: Tensor
    blocks: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, points: Tensor, size: int) -> "Layout":
        """Sort points (n, d) into blocks of at most about `size`.

        Slabs of equal counts along one feature after another (sort-tile-recursive packing,
        Leutenegger, Lopez & Edgington 1997), more of them where the points extend further.
        """
        n = len(points)
        slabs, sides = _slabs(points, max(1, n / size))
        if _is_compact(points, size, sides):
            order = torch.arange(n, device=points.device)
            blocks = to_tensor(_cuts(n, size), dtype=torch.int64, device=points.device)
            return cls(order, points, blocks, *_corners(points.double(), blocks))
        n_blocks = math.prod(slabs)
        width = -(-n // n_blocks)
        order = torch.arange(n_blocks * width, device=points.device).reshape(1, -1)
        order[order >= n] = -1
        for feature, n_slabs in enumerate(slabs):
            if n_slabs > 1:
                column = torch.cat([points[:, feature], points.new_tensor([torch.inf])])
                sorted_order = order.gather(1, column[order].argsort(dim=1))
                order = sorted_order.reshape(len(order) * n_slabs, -1)
        counts = (order >= 0).sum(dim=1)
        order = order[order >= 0]
        blocks = torch.cat([counts.new_zeros(1), counts[counts > 0].cumsum(0)])
        points = points[order]
        low, high = _corners(points.double(), blocks)
        return cls(order, points, blocks, low, high)

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def places(self) -> Tensor:
        """Where each point stands, (n,)."""
        places = torch.empty_like(self.order)
        places[self.order] = torch.arange(len(self), device=self.order.device)
        return places

    @cached_property
    def block_starts(self) -> np.ndarray:
        """The blocks on the host."""
        return to_numpy(self.blocks)

    def block_sums(self, values: Tensor) -> Tensor:
        """Sum values (n,), in the blocks' order, over each block."""
        total = torch.cat([values.new_zeros(1), values.cumsum(0)])
        return total[self.blocks[1:]] - total[self.blocks[:-1]]

    def unsorted(self, columns: Tensor) -> Tensor:
        """Return columns (k, n) of sorted points in the order that the points came in."""
        return columns[:, self.places]


def _slabs(points: Tensor, n_blocks: float) -> tuple[list[int], np.ndarray]:
    """Return how many slabs to cut along each feature, and the sides (d,) of a typical box.

    Boxes come out about cubic.
    """
    sample = points[:: max(1, len(points) // 4096)].double()
    low, high = (sample.quantile(share, dim=0) for share in (0.05, 0.95))
    extents = to_numpy(high - low).clip(1e-12)
    cuts = np.ones(len(extents))
    free = np.ones(len(extents), dtype=bool)
    while free.any():  # a feature that would get less than one slab gets one
        log_side = (np.log(extents[free]).sum() - math.log(n_blocks)) / free.sum()
        cuts[free] = np.exp(np.log(extents[free]) - log_side)
        if (cuts[free] >= 1).all():
            break
        free &= cuts >= 1
        cuts[~free] = 1
    slabs = np.maximum(1, np.ceil(cuts - 0.3)).astype(int)
    return slabs.tolist(), extents / slabs


def _is_compact(points: Tensor, size: int, sides: np.ndarray) -> bool:
    """Whether points stand in compact blocks already, beside boxes with these sides (d,)."""
    whole = len(points) // size
    if whole < _FEWEST_BLOCKS:
        return False
    runs = points[: whole * size].reshape(whole, size, -1)
    extents = (runs.amax(dim=1) - runs.amin(dim=1)).double().square().sum(dim=1)
    return float(extents.median()) <= _COMPACT * float(np.square(sides).sum())


def _corners(points: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    lengths = blocks.diff()
    return (
        torch.segment_reduce(points, "min", lengths=lengths),
        torch.segment_reduce(points, "max", lengths=lengths),
    )


def meeting_of(
    kernel: Kernel, queries: Layout, keys: Layout, weights: Tensor, rtol: float
) -> Meeting:
    """Return which blocks of queries and keys must meet.

    Parameters
    ----------
    kernel : Kernel
        A kernel that does not grow with the distance.
    queries, keys : Layout
        Sorted queries and keys.
    weights : Tensor of shape (n,)
        Weights of the keys in their blocks' order.
    rtol : float
        Largest share of a query's mass that may be dropped.
    """
    weights = weights.double()
    lengths = keys.blocks.diff()
    totals, heaviest = (
        keys.block_sums(weights),
        torch.segment_reduce(weights, "max", lengths=lengths),
    )
    # a query may leave out one key: the mass that is sure is that of the others
    log_sure = (totals - heaviest).clamp_min(0).log()
    # a key without weight still has a gradient
    log_possible = torch.maximum(totals, _LEAST_WEIGHT * weights.mean() * lengths).log()
    found = []
    size = max(1, _BOX_TESTS // len(keys.low))
    for low, high in zip(queries.low.split(size), queries.high.split(size), strict=True):
        found.append(_matters(kernel, low, high, keys, log_sure, log_possible, rtol))
    matrix, reaches = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Meeting(queries, keys, to_numpy(matrix), to_numpy(reaches))


def _nearest(low: Tensor, high: Tensor, keys: Layout) -> Tensor:
    """Return the squared smallest distances between boxes, (a, n_key_blocks)."""
    total = low.new_zeros((len(low), len(keys.low)))
    for f in range(low.shape[1]):
        above = keys.low[:, f] - high[:, f, None]
        gap = torch.maximum(above, low[:, f, None] - keys.high[:, f]).clamp_min_(0)
        total.addcmul_(gap, gap)
    return total


def _farthest(low: Tensor, high: Tensor, keys: Layout) -> Tensor:
    """Return the squared largest distances between boxes, (a, n_key_blocks)."""
    total = low.new_zeros((len(low), len(keys.low)))
    for f in range(low.shape[1]):
        above = keys.high[:, f] - low[:, f, None]
        width = torch.maximum(above, high[:, f, None] - keys.low[:, f])
        total.addcmul_(width, width)
    return total


def _matters(
    kernel: Kernel,
    low: Tensor,
    high: Tensor,
    keys: Layout,
    log_sure: Tensor,
    log_possible: Tensor,
    rtol: float,
) -> tuple[Tensor, Tensor]:
    """Return which blocks must meet (a, n_key_blocks), and how far queries reach (a,), squared.

    From the corners (a, d) of the queries' boxes, and bounds on the weights in the keys' boxes.
    """
    near = _nearest(low, high, keys)
    if not math.isinf(kernel.support):
        reach = near.new_full((len(near),), kernel.support**2 * (1 + _CARE))
        return near <= reach[:, None], reach
    far = _farthest(low, high, keys)
    if kernel.formula is not None and kernel.formula[0] == "nearest":
        reach = far.masked_fill(log_sure == -torch.inf, torch.inf).amin(1) * (1 + _CARE)
        remote = near.amin(dim=1) > _REMOTE
        reach = torch.where(remote, torch.inf, reach)
        return near <= reach[:, None], reach
    sure = (log_sure + kernel.log_profile(far)).logsumexp(dim=1, keepdim=True)
    log_share = (log_possible + kernel.log_profile(near) - sure).masked_fill(
        sure == -torch.inf, torch.inf
    )
    # half of the tolerance for blocks that are dropped, half for single queries that pass over
    # boxes of blocks that are not
    remote = near.amin(dim=1, keepdim=True) > _REMOTE  # rounding of distances hides differences
    matters = (log_share >= _droppable(log_share, rtol / 2)) | remote
    log_passed = math.log(rtol / 2) if rtol else -math.inf
    log_each = log_passed - matters.sum(dim=1).clamp_min(1).log()
    log_weight = log_each + (sure - log_possible.max()).squeeze(1)
    reach = torch.where(log_weight > -torch.inf, kernel.reach(log_weight), torch.inf)
    return matters, torch.where(remote.squeeze(1), torch.inf, reach * (1 + _CARE))


def _droppable(log_share: Tensor, rtol: float) -> Tensor:
    """Return a level (a, 1) below which shares of the mass sum up to less than `rtol`."""
    if rtol == 0:
        return log_share.new_full((len(log_share), 1), -torch.inf)
    share = log_share.exp()
    safe = math.log(rtol / log_share.shape[1])
    level = log_share.new_full((len(log_share), 1), safe)
    for bolder in safe + np.arange(1, _LEVELS) * _LEVEL_STEP:
        dropped = torch.where(log_share < bolder, share, 0.0).sum(dim=1, keepdim=True)
        level = torch.where(dropped <= rtol, bolder, level)
    return level
