"""Which keys each query needs, and the compact blocks that make the lists short.

A `Layout` sorts points into compact blocks and bounds each by a box. Every query has a cutoff
radius: keys beyond it cannot matter, and a box of keys beyond it is passed over. For a kernel with
compact support the radius is that support. Otherwise it is the distance from which on all keys
together would weigh less than `rtol` times the mass that the query has at least, so a query in the
tail keeps the keys that matter there.

That mass is what the caller knows of it. Else it comes from the blocks of keys nearest to the
query. These kernels are convex functions of the squared distance: by Jensen's inequality a block
weighs at least as much as if all of it stood at the mean squared distance of its keys,
``|q − c|² + v`` for a query q, the block's centroid c and its variance v. And some key of it stands
no farther than that.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.kernels import Kernel
from sknw.support import tuning


@dataclass(frozen=True, eq=False)
class Boxes:
    """Consecutive points in boxes, and their squared cutoff radii.

    Parameters
    ----------
    starts : ndarray of shape (n_boxes + 1,)
        Box c holds the points ``starts[c]:starts[c + 1]``.
    low, high : ndarray of shape (d, n_boxes) or (d, 0)
        Corners of the boxes; none where every point meets all others.
    cutoffs : ndarray of shape (n,) or (0,)
        Squared distance beyond which a point needs no other.
    """

    starts: np.ndarray
    low: np.ndarray
    high: np.ndarray
    cutoffs: np.ndarray

    @classmethod
    def everywhere(cls, n: int, size: int, n_features: int) -> "Boxes":
        """Return boxes of points that meet all others."""
        nowhere = np.empty((n_features, 0))
        return cls(_cuts(n, size), nowhere, nowhere, np.empty(0))

    @classmethod
    def of(cls, layout: "Layout", cutoffs: np.ndarray | None) -> "Boxes":
        """Return the blocks of a layout; without cutoffs they need nothing."""
        low, high = (to_numpy(at.mT.contiguous()) for at in (layout.low, layout.high))
        cutoffs = np.full(len(layout), -1.0) if cutoffs is None else cutoffs
        return cls(layout.block_starts, low, high, cutoffs)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def n_points(self) -> int:
        """Number of points in all boxes."""
        return int(self.starts[-1])

    @cached_property
    def box_cutoffs(self) -> np.ndarray:
        """The largest squared cutoff radius in each box."""
        if not len(self.cutoffs):
            return self.cutoffs
        return np.maximum.reduceat(self.cutoffs, self.starts[:-1])

    def merged(self, step: int) -> "Boxes":
        """Return boxes that hold so many neighbouring ones each."""
        heads = np.arange(0, len(self), step)
        return Boxes(
            starts=np.append(self.starts[heads], self.n_points),
            low=np.minimum.reduceat(self.low, heads, axis=1),
            high=np.maximum.reduceat(self.high, heads, axis=1),
            cutoffs=self.cutoffs,
        )

    def met_by(self, other: "Boxes", b: int) -> np.ndarray:
        """Return the boxes that box b of the others needs, or that need it."""
        low, high = other.low[:, b, None], other.high[:, b, None]
        gaps = np.maximum(self.low - high, low - self.high).clip(0)
        return np.square(gaps).sum(axis=0) <= np.maximum(other.box_cutoffs[b], self.box_cutoffs)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a query and a key that count.

    Those of a query and a box of keys whose squared distance is within the squared cutoff radius of
    the query or of some key in the box; an evaluator may do more.

    Parameters
    ----------
    queries, keys : Boxes
        Queries and keys in boxes.
    pair_counts : list of int
        An evaluator that looks closer than at `tiles` appends the number of pairs it evaluated.
    """

    queries: Boxes
    keys: Boxes
    pair_counts: list[int] = field(default_factory=list)

    @classmethod
    def all(cls, n_queries: int, n_keys: int, n_features: int) -> "Pairs":
        """Return pairs of every query with every key."""
        return cls(
            Boxes.everywhere(n_queries, tuning.QUERIES_PER_BOX, n_features),
            Boxes.everywhere(n_keys, tuning.KEYS_PER_BOX, n_features),
        )

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def possible(self) -> int:
        """Number of all pairs of a query and a key."""
        return self.queries.n_points * self.keys.n_points

    @cached_property
    def tiles(self) -> list[tuple[slice, slice]]:
        """Which slices of queries and keys meet, seen from several boxes of queries at once."""
        several = tuning.QUERIES_PER_TILE // max(1, int(self.queries.starts[1]))
        queries = self.queries.merged(max(1, min(several, len(self) // tuning.FEWEST_TILES)))
        found = []
        for b in range(len(queries)):
            met = self.keys.met_by(queries, b).astype(np.int8)
            edges = np.nonzero(np.diff(met, prepend=0, append=0))[0]
            at = slice(int(queries.starts[b]), int(queries.starts[b + 1]))
            ranges = self.keys.starts[edges].reshape(-1, 2).tolist()
            found += [(at, slice(start, stop)) for start, stop in ranges]
        return found

    @property
    def evaluated(self) -> int:
        """Number of pairs that the first sums over these pairs evaluated."""
        if self.pair_counts:
            return self.pair_counts[0]
        return sum((i.stop - i.start) * (j.stop - j.start) for i, j in self.tiles)


def _cuts(n: int, size: int) -> np.ndarray:
    return np.minimum(np.arange(0, n + size, size, dtype=np.int64), n)


@dataclass(frozen=True, eq=False)
class InteractionList:
    """Two layouts, and how far the points of one need those of the other.

    Parameters
    ----------
    queries, keys : Layout
        Sorted queries and keys.
    cutoffs : ndarray of shape (m,)
        Squared distance beyond which a sorted query needs no key.
    """

    queries: "Layout"
    keys: "Layout"
    cutoffs: np.ndarray

    @cached_property
    def pairs(self) -> Pairs:
        """What each query needs."""
        return Pairs(Boxes.of(self.queries, self.cutoffs), Boxes.of(self.keys, None))

    @cached_property
    def transposed(self) -> Pairs:
        """The same pairs with the keys as queries."""
        return Pairs(self.pairs.keys, self.pairs.queries)

    @cached_property
    def both_ways(self) -> Pairs:
        """Of a layout over itself: pairs that either needs."""
        return Pairs(self.pairs.queries, self.pairs.queries)


@dataclass(frozen=True, eq=False)
class Layout:
    """Points sorted into compact blocks of one size; only the last may have fewer.

    Parameters
    ----------
    order : Tensor of shape (n,)
        Which point stands at each place.
    points : Tensor of shape (n, d)
        The points in that order.
    size : int
        Number of points of a block.
    low, high : Tensor of shape (n_blocks, d − n_codes)
        Corners of each block's box in the points' numbers, float64.
    """

    order: Tensor
    points: Tensor
    size: int
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, points: Tensor, size: int, n_codes: int = 0) -> "Layout":
        """Sort points (n, d) into blocks of `size` by their numbers; the last columns are codes.

        Slabs of equal counts along one feature after another (sort-tile-recursive packing,
        Leutenegger, Lopez & Edgington 1997), more of them where the points extend further.
        """
        n_numbers = points.shape[1] - n_codes
        numbers = points[:, :n_numbers]
        slabs, sides = _slabs(numbers, max(1, len(points) / (tuning.BLOCKS_OF_A_CUBE * size)))
        if n_numbers == 0 or _is_compact(numbers, size, sides):
            order = torch.arange(len(points), device=points.device)
        else:
            order = _packed(numbers, size, slabs)
            points = points[order]
        numbers = points[:, :n_numbers].double()
        blocks = _in_blocks(numbers, size, numbers[-1])
        return cls(order, points, size, blocks.amin(dim=1), blocks.amax(dim=1))

    def __len__(self) -> int:
        return len(self.order)

    @property
    def numbers(self) -> Tensor:
        """The numbers (n, d − n_codes) of the points in their order, in float64."""
        return self.points[:, : self.low.shape[1]].double()

    @cached_property
    def places(self) -> Tensor:
        """Where each point stands, (n,)."""
        places = torch.empty_like(self.order)
        places[self.order] = torch.arange(len(self), device=self.order.device)
        return places

    @cached_property
    def block_starts(self) -> np.ndarray:
        """Where the blocks start, and the end, (n_blocks + 1,)."""
        return _cuts(len(self), self.size)

    def in_blocks(self, rows: Tensor) -> Tensor:
        """Return rows (n, ...) in the blocks' order block by block, (n_blocks, size, ...).

        Zeros fill the last block.
        """
        return _in_blocks(rows, self.size, rows.new_zeros(()))

    def unsorted(self, columns: Tensor) -> Tensor:
        """Return columns (k, n) of sorted points in the order that the points came in."""
        return columns[:, self.places]


def _in_blocks(rows: Tensor, size: int, filler: Tensor) -> Tensor:
    missing = -len(rows) % size
    rows = torch.cat([rows, filler.expand(missing, *rows.shape[1:])])
    return rows.reshape(-1, size, *rows.shape[1:])


def _packed(points: Tensor, size: int, slabs: list[int]) -> Tensor:
    """Return the order (n,) of points in slabs of whole blocks along each feature."""
    order = torch.arange(len(points), device=points.device)[None]
    columns = torch.cat([points, points.new_full((1, points.shape[1]), torch.inf)]).mT
    cut = [feature for feature, n_slabs in enumerate(slabs) if n_slabs > 1]
    for feature in cut:
        n_blocks = -(-order.shape[1] // size)
        width = -(-n_blocks // slabs[feature]) * size
        ranked = _argsort(columns[feature][order], 1 if feature == cut[-1] else width)
        order = order.gather(1, ranked)
        missing = -order.shape[1] % width
        order = torch.nn.functional.pad(order, (0, missing), value=-1).reshape(-1, width)
    return order[order >= 0]


def _argsort(rows: Tensor, width: int) -> Tensor:
    """Argsort each row, in any order inside of slabs of some width.

    On a CPU by numpy's vector instructions.
    """
    if rows.device.type != "cpu":
        return rows.argsort(dim=1)
    rows = to_numpy(rows)
    if width == 1:
        ranked = np.argsort(rows, axis=1)
    else:
        ranked = np.argpartition(rows, np.arange(width, rows.shape[1], width), axis=1)
    return to_tensor(ranked, dtype=torch.int64, device="cpu")


def _slabs(points: Tensor, n_blocks: float) -> tuple[list[int], np.ndarray]:
    """Return how many slabs to cut along each feature, and the sides (d,) of a typical box.

    Boxes come out about cubic.
    """
    sample = points[:: max(1, len(points) // 4096)].double()
    low, high = (sample.quantile(share, dim=0) for share in (0.05, 0.95))
    extents = to_numpy(high - low).clip(1e-12)
    cuts = np.ones(len(extents))
    free = np.ones(len(extents), dtype=bool)
    while free.any():  # until no feature would get less than one slab
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
    if whole < tuning.FEWEST_COMPACT_BLOCKS:
        return False
    runs = points[: whole * size].reshape(whole, size, -1)
    extents = (runs.amax(dim=1) - runs.amin(dim=1)).double().square().sum(dim=1)
    return float(extents.median()) <= tuning.COMPACT_EXTENT * float(np.square(sides).sum())


def interactions_of(
    kernel: Kernel,
    queries: Layout,
    keys: Layout,
    weights: Tensor,
    rtol: float,
    masses: Tensor | None = None,
) -> InteractionList:
    """Return how far the queries need the keys.

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
    masses : Tensor of shape (m,) or None
        What the sorted queries weigh at least, without the keys that they leave out; where that is
        nothing, or None, bounds on the blocks of keys tell.
    """
    if not math.isinf(kernel.support):
        return interactions_within(queries, keys, kernel.support**2)
    weights = weights.double()
    cutoffs = queries.points.new_full((len(queries),), torch.nan, dtype=torch.float64)
    if masses is not None:
        cutoffs = _cutoff_of_mass(kernel, masses.log(), weights.sum().log(), rtol)
        # so little may be what rounding left of nothing
        cutoffs[masses <= tuning.LEAST_MASS * weights.sum()] = torch.nan
    unknown = queries.in_blocks(cutoffs).isnan().any(dim=1).nonzero().squeeze(1)
    if len(unknown):
        bounds = _Masses.of(kernel, keys, weights)
        points = _in_blocks(queries.numbers, queries.size, queries.numbers[-1])
        found = queries.in_blocks(cutoffs)
        for some in unknown.split(max(1, tuning.BOXES_AT_ONCE // len(bounds.log_sure))):
            found[some] = found[some].fmin(bounds.cutoffs(kernel, points[some], rtol))
        cutoffs = found.flatten()[: len(queries)]
    return InteractionList(queries, keys, to_numpy(cutoffs * (1 + tuning.CUTOFF_MARGIN)))


def interactions_within(queries: Layout, keys: Layout, cutoff: float) -> InteractionList:
    """Return the interaction list of queries that need keys up to one squared distance."""
    return InteractionList(
        queries, keys, np.full(len(queries), cutoff * (1 + tuning.CUTOFF_MARGIN))
    )


def _cutoff_of_mass(kernel: Kernel, log_mass: Tensor, log_total: Tensor, rtol: float) -> Tensor:
    """Return the squared distance beyond which all keys weigh less than a share of the mass."""
    log_share = math.log(rtol) if rtol else -math.inf
    return kernel.squared_cutoff((log_share + log_mass - log_total).nan_to_num(-torch.inf))


@dataclass(frozen=True, eq=False)
class _Masses:
    """What blocks of keys weigh at least, whichever one key a query leaves out.

    Parameters
    ----------
    centers : Tensor of shape (n_blocks, d)
        Centroids of the numbers.
    variances : Tensor of shape (n_blocks,)
        Mean squared distances from the centroids, and the most that mismatches of codes may add.
    log_sure : Tensor of shape (n_blocks,)
        Logarithms of the weights without the heaviest key's.
    factors : Tensor of shape (n_blocks,)
        By how much leaving out a key may raise the mean of a positive quantity.
    log_total : Tensor of shape ()
        Logarithm of the weight of all keys.
    """

    centers: Tensor
    variances: Tensor
    log_sure: Tensor
    factors: Tensor
    log_total: Tensor

    @classmethod
    def of(cls, kernel: Kernel, keys: Layout, weights: Tensor) -> "_Masses":
        """Take the moments of each block."""
        points, weights = keys.in_blocks(keys.numbers), keys.in_blocks(weights)[:, None]
        totals = weights.sum(dim=2)
        sure = (totals - weights.amax(dim=2)).clamp_min(0)
        centers = torch.where(sure > 0, (weights @ points).squeeze(1) / totals, torch.inf)
        variances = (weights @ (points - centers[:, None]).square()).sum(dim=2) / totals
        centers, variances, factors = (
            at.nan_to_num(torch.inf) for at in (centers, variances, totals / sure)
        )
        if kernel.codes is not None:
            variances += float(kernel.codes.largest[0])
        return cls(
            centers, variances.squeeze(1), sure.log().squeeze(1), factors.squeeze(1),
            totals.sum().log(),
        )  # fmt: skip

    def cutoffs(self, kernel: Kernel, queries: Tensor, rtol: float) -> Tensor:
        """Return the squared distances (a, size) within which queries (a, size, d) need keys."""
        near = self._nearest(queries)
        squares = self.variances[near][:, None].expand(-1, queries.shape[1], -1).clone()
        for f in range(queries.shape[2]):
            away = queries[:, :, f, None] - self.centers[near, f][:, None]
            squares.addcmul_(away, away)
        squares *= self.factors[near][:, None]
        nearest = squares.amin(dim=2)
        if kernel.formula is not None and kernel.formula[0] == "nearest":
            cutoff = nearest
        else:
            log_weights = self.log_sure[near][:, None] + kernel.log_profile(squares)
            cutoff = _cutoff_of_mass(kernel, log_weights.logsumexp(dim=2), self.log_total, rtol)
        # at such distances rounding hides which key is the nearest
        return torch.where(nearest > tuning.REMOTE_SQUARE, torch.inf, cutoff)

    def _nearest(self, queries: Tensor) -> Tensor:
        """Return the blocks (a, k) that are nearest to the middles of blocks of queries."""
        middles = (queries.amin(dim=1) + queries.amax(dim=1)) / 2
        squares = torch.cdist(middles, self.centers).square_().add_(self.variances)
        squares.mul_(self.factors).nan_to_num_(torch.inf)
        k = min(tuning.NEAR_BLOCKS, len(self.centers))
        return squares.topk(k, dim=1, largest=False, sorted=False).indices
