"""Fallback rows: exact sums relative to the nearest key, where plain sums are not good enough.

A kernel that never reaches zero gives every query some neighbour, however far. Each weight is taken
relative to the nearest key's, so the mass is at least that key's own weight and the ratio keeps its
accuracy in the tails.

The excess of a key's squared distance over the nearest key's is ``(z_j − a)(z_j + a − 2q)`` with a
the nearest key. The difference of two squared distances would lose the keys' differences to
rounding when the query is far; this form is exactly zero for keys alike, and as accurate at any
distance as the points are.

Mismatches of categories that have to match exactly come first: the nearest key is one with the
fewest, and only such keys have weight, each by its other distance. So the squared distance of a
nearest key counts without them, and they cancel from excesses before anything else is added.

Their sums are left to the evaluator, where it knows sums relative to the nearest key. Where there
are many rows and keys, only blocks that matter meet: what is left out is less than rounding of the
sums, so the fallback rows of every algorithm are exact, whatever its tolerance. Moments and
gradients go through tiles of torch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sknw.data.arrays import accumulator_dtype
from sknw.kernels import Kernel
from sknw.kernels.codes import Codes, numeric_part
from sknw.sums.evaluators.evaluator import Evaluator, Forms
from sknw.sums.evaluators.registry import evaluator_for
from sknw.sums.geometry.distances import blocks, exclude_keys, pair_distances, tile_elements
from sknw.sums.geometry.interactions import (
    InteractionList,
    Layout,
    Pairs,
    interactions_of,
)
from sknw.sums.monomials import (
    Monomials,
    steps_between,
    tile_moments,
    tile_polynomial,
    tile_pullback,
)
from sknw.support import tuning


def underflowing_rows(kernel: Kernel, mass: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return which rows of a plain mass underflow; None where no row can."""
    return mass < tuning.LEAST_TRUSTED_MASS[dtype.itemsize] if kernel.tail is not None else None


def _nearest_tail(excess: Tensor, nearest: Tensor) -> Tensor:
    return (excess <= 0).to(excess.dtype)


def nearest_kernel(kernel: Kernel) -> Kernel:
    """Return the limit of a vanishing bandwidth: all weight on the nearest key, ties shared."""
    return replace(
        kernel,
        name="nearest",
        support=torch.inf,
        tail=_nearest_tail,
        log_profile=torch.zeros_like,
        formula=("nearest", "profile"),
    )


@dataclass(frozen=True, eq=False)
class ShiftedRows(ABC):
    """Queries against keys, with each row's nearest key as its unit of weight.

    Parameters
    ----------
    queries : Tensor of shape (m, d)
        Rows in bandwidth units.
    key_set : KeySet
        The keys, (n, d).
    exclude : Tensor of shape (m,) or None
        Key that a row leaves out, or -1.
    """

    queries: Tensor
    key_set: "KeySet"
    exclude: Tensor | None

    @property
    def n_pairs(self) -> int:
        """Number of pairs that the sums evaluate."""
        return len(self.queries) * len(self.key_set.keys)

    @abstractmethod
    def log_scale(self, kernel: Kernel) -> Tensor:
        """Logarithm of the weight of each row's nearest key; 0 without any key, shape (m,)."""

    @abstractmethod
    def sums(self, kernel: Kernel, columns: Tensor) -> Tensor:
        """Return the rows' shifted sums (k, m) of columns (k, n)."""


@dataclass(frozen=True, eq=False)
class KeySet:
    """Keys that fallback rows are summed over.

    Parameters
    ----------
    keys : Tensor of shape (n, d)
        Keys in bandwidth units, centred near the origin.
    weights : Tensor of shape (n,)
        A key of weight zero must not set the scale.
    codes : Codes or None, default=None
        Which of the keys' columns are codes of categories, at the costs of this set.
    """

    keys: Tensor
    weights: Tensor
    codes: Codes | None = None

    @property
    def n_codes(self) -> int:
        """Number of the keys' last columns that are codes."""
        return 0 if self.codes is None else len(self.codes)

    @cached_property
    def usable(self) -> Tensor:
        """Which keys count, (n,)."""
        return self.weights > 0

    @cached_property
    def as_they_stand(self) -> "UsableKeys":
        """The keys that count, for few rows."""
        order = self.usable.nonzero().squeeze(1)
        everything = len(order) == len(self.keys)
        points = self.keys if everything else self.keys[order]
        return UsableKeys(order, Forms(points[None], self.n_codes), everything, None)

    @cached_property
    def in_blocks(self) -> "UsableKeys":
        """The keys that count in compact blocks, for many rows."""
        usable = self.usable.nonzero().squeeze(1)
        size = max(tuning.TAIL_KEYS_PER_BLOCK, len(usable) // 2048)
        layout = Layout.of(self.keys[usable], size, self.n_codes)
        points = Forms(layout.points[None], self.n_codes)
        return UsableKeys(usable[layout.order], points, False, layout)

    @cached_property
    def weights_in_blocks(self) -> Tensor:
        """Weights of the keys that count, in the order of their blocks."""
        return self.weights[self.in_blocks.order]

    def shifted_groups(
        self,
        kernel: Kernel,
        queries: Tensor,
        exclude: Tensor | None,
        rows: Tensor,
        *,
        tiles: bool = False,
    ) -> Iterator[tuple[Tensor, ShiftedRows]]:
        """Cut the rows (indices into the queries) into groups of one form and bounded memory.

        With `tiles`, all groups are `TorchRows`, whose tiles may be looked at and differentiated.
        """
        n_pairs = len(rows) * len(self.keys)
        evaluator = evaluator_for(kernel, self.keys.dtype, self.keys.device, n_pairs)
        if not tiles and evaluator.has_shifts(kernel) and len(rows) and self.usable.any():
            of_rows = queries[rows], _of(exclude, rows)
            yield rows, EvaluatedRows.of(evaluator, kernel, self, *of_rows)
            return
        size = max(1, tile_elements(queries.device, queries.dtype) // tuning.KEYS_PER_TILE)
        for group in rows.split(size) if len(rows) else ():
            yield group, TorchRows.of(self, queries[group], _of(exclude, group))


@dataclass(frozen=True, eq=False)
class UsableKeys:
    """Keys that count.

    Parameters
    ----------
    order : Tensor of shape (n_usable,)
        Their places among all keys.
    points : Forms
        The keys in that order.
    is_identity : bool
        Whether these are all keys as they stand.
    layout : Layout or None
        Their compact blocks.
    """

    order: Tensor
    points: Forms
    is_identity: bool
    layout: Layout | None

    def __len__(self) -> int:
        return len(self.order)

    def gathered(self, columns: Tensor) -> Tensor:
        """Return columns (k, n) of all keys in this order, (1, k, n_usable)."""
        return columns[None] if self.is_identity else columns[None, :, self.order]


def _of(exclude: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if exclude is None else exclude[rows]


@dataclass(frozen=True, eq=False)
class TorchRows(ShiftedRows):
    """Any kernel with a tail, tile by tile; every key meets every row.

    Parameters
    ----------
    queries, key_set, exclude
        As in `ShiftedRows`.
    nearest : Tensor of shape (m, 1)
        The smallest squared distance of each row, without mismatches of categories that have to
        match exactly; infinity without any key.
    anchors : Tensor of shape (m, d)
        The key at that distance.
    """

    nearest: Tensor
    anchors: Tensor

    @classmethod
    def of(cls, key_set: KeySet, queries: Tensor, exclude: Tensor | None) -> "TorchRows":
        """Find each row's nearest key, by rounded distances and then by the excess over that."""
        rows = cls(queries, key_set, exclude, queries.new_empty(0), torch.zeros_like(queries))
        rough, anchors = rows._smallest(rows._distances)
        rows = replace(rows, anchors=anchors)
        excess, nearer = rows._smallest(rows._excesses)
        anchors = torch.where(excess < 0, nearer, anchors)
        rows = replace(rows, anchors=anchors)
        codes = None if key_set.codes is None else key_set.codes.without_exact
        nearest = rows._distances_of_anchors(codes)
        nearest = torch.where(rough == torch.inf, torch.inf, nearest)
        return replace(rows, nearest=nearest)

    def _distances_of_anchors(self, codes: Codes | None) -> Tensor:
        """Squared distances (m, 1) of the anchors, at these costs."""
        queries, anchors = self.queries, self.anchors
        steps = numeric_part(codes, queries) - numeric_part(codes, anchors)
        total = steps.square().sum(dim=1, keepdim=True)
        if codes is not None:
            for _, steps, cost in codes.mismatches(queries[:, None], anchors[:, None]):
                total += (steps * cost)[:, 0]
        return total

    def _smallest(self, measure: Callable[[slice], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the smallest measure of each row (m, 1), and its key (m, d)."""
        smallest = self.queries.new_full((len(self.queries), 1), torch.inf)
        keys = torch.zeros_like(self.queries)
        for block in self._key_blocks():
            found, index = self._usable(measure(block), block).min(dim=1, keepdim=True)
            lower = found < smallest
            smallest = torch.where(lower, found, smallest)
            keys = torch.where(lower, self.key_set.keys[block][index.squeeze(1)], keys)
        return smallest, keys

    def _key_blocks(self) -> Iterator[slice]:
        return blocks(len(self.key_set.keys), tuning.KEYS_PER_TILE)

    def _distances(self, block: slice) -> Tensor:
        """Squared distances (m, n_t)."""
        return pair_distances(self.key_set.codes, self.queries, self.key_set.keys[block])

    def _excesses(self, block: slice) -> Tensor:
        """Squared distances less those of the anchors, (m, n_t)."""
        keys, anchors, codes = self.key_set.keys[block], self.anchors, self.key_set.codes
        rest = anchors - 2 * self.queries
        total = self.queries.new_zeros((len(self.queries), len(keys)))
        if codes is not None:
            of_anchors = codes.mismatches(self.queries[:, None], anchors[:, None])
            of_keys = codes.mismatches(self.queries, keys)
            for (_, steps, cost), (_, own, _) in zip(of_keys, of_anchors, strict=True):
                total += (steps - own[:, 0]) * cost
        for f in range(keys.shape[1] - self.key_set.n_codes):
            column = keys[:, f]
            total.addcmul_(column - anchors[:, f, None], column + rest[:, f, None])
        return total

    def _usable(self, measure: Tensor, block: slice) -> Tensor:
        """Set a measure to infinity, in place, where a key is out."""
        measure.masked_fill_(~self.key_set.usable[block], torch.inf)
        exclude_keys(measure, self.exclude, block, torch.inf)
        return measure

    def tiles(self, kernel: Kernel) -> Iterator[tuple[slice, Tensor]]:
        """Yield key blocks and the rows' weights on them, relative to the nearest key's."""
        is_limit = kernel.tail is _nearest_tail
        for block, excess, out in self._excess_blocks():
            excess = excess - self._rounding(block) if is_limit else excess.clamp_min_(0)
            yield block, kernel.tail(excess, self.nearest).masked_fill_(out, 0.0)

    def log_tiles(self, kernel: Kernel) -> Iterator[tuple[slice, Tensor]]:
        """Yield key blocks and the logarithms of the rows' weights relative to the nearest key's.

        They go on where the weights themselves underflow.
        """
        nearest = torch.where(self.nearest == torch.inf, 0.0, self.nearest)
        at_nearest = kernel.log_profile(nearest.clone())
        for block, excess, out in self._excess_blocks():
            excess.clamp_min_(0)
            deep = self._log_ratio(kernel, excess, nearest, at_nearest)
            near = kernel.tail(excess, nearest)
            is_trusted = near > tuning.LEAST_TRUSTED_MASS[near.dtype.itemsize]
            logs = torch.where(is_trusted, near.log(), deep)
            yield block, logs.masked_fill_(out, -torch.inf)

    def _log_ratio(
        self, kernel: Kernel, excess: Tensor, nearest: Tensor, at_nearest: Tensor
    ) -> Tensor:
        """Return ``log K(√(nearest + excess)) − log K(√nearest)``, (m, n_t).

        An excess that hardly counts beside the nearest squared distance goes by the slope: the
        difference would lose it to rounding.
        """
        if kernel.derivative_factor is not None:
            return kernel.derivative_factor * excess
        difference = kernel.log_profile(nearest + excess) - at_nearest
        by_slope = kernel.log_profile_derivative(nearest.clone()) * excess
        is_little = excess < tuning.LITTLE_EXCESS[excess.dtype.itemsize] * nearest
        return torch.where(is_little, by_slope, difference)

    def _excess_blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield key blocks, the excesses (m, n_t) there, and which pairs are out (excess 0)."""
        for block in self._key_blocks():
            excess = self._usable(self._excesses(block), block)
            out = (excess == torch.inf) | (self.nearest == torch.inf)
            yield block, torch.where(out, 0.0, excess), out

    def _rounding(self, block: slice) -> Tensor:
        """Return what rounding of the points may add to each excess, (m, n_t)."""
        keys, total = self.key_set.keys[block], 0.0
        for f in range(keys.shape[1] - self.key_set.n_codes):
            column = keys[:, f]
            query, anchor = self.queries[:, f, None], self.anchors[:, f, None]
            sizes = column.abs() + anchor.abs()
            total = total + (column - anchor).abs() * (sizes + query.abs())
            total = total + (query - anchor).abs() * sizes
        return 2 * torch.finfo(keys.dtype).eps * total

    def log_scale(self, kernel: Kernel) -> Tensor:
        """Logarithm of the weight of each row's nearest key; 0 without any key, shape (m,)."""
        squared = self._distances_of_anchors(self.key_set.codes)
        squared = torch.where(self.nearest == torch.inf, torch.inf, squared)
        return _log_weight(kernel, squared.squeeze(1))

    def sums(self, kernel: Kernel, columns: Tensor) -> Tensor:
        """Return the rows' shifted sums (k, m) of columns (k, n)."""
        dtype = accumulator_dtype(columns.device)
        total = torch.zeros((len(columns), len(self.queries)), dtype=dtype, device=columns.device)
        for block, weights in self.tiles(kernel):
            total += columns[:, block].to(dtype) @ weights.to(dtype).mT
        return total

    def moments(self, kernel: Kernel, columns: Tensor, monomials: Monomials) -> Tensor:
        """Return the rows' shifted moments (p, k, m) of columns (k, n)."""
        dtype = accumulator_dtype(columns.device)
        queries, keys = (self._numbers(at).to(dtype) for at in (self.queries, self.key_set.keys))
        shape = len(monomials), len(columns), len(self.queries)
        total = torch.zeros(shape, dtype=dtype, device=columns.device)
        columns = columns.to(dtype)
        for block, weights in self.tiles(kernel):
            found = tile_moments(
                monomials, weights.to(dtype), queries, keys[block], columns[:, block]
            )
            for place, sums in found:
                total[place] += sums
        return total

    def pullback(
        self, kernel: Kernel, columns: Tensor, grad: Tensor, monomials: Monomials
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of the numbers of rows (m, d) and keys (n, d), and of columns.

        For the gradient (p, k, m) of the shifted moments, whose scale is held fixed.
        """
        dtype = accumulator_dtype(columns.device)
        queries, keys = (self._numbers(at).to(dtype) for at in (self.queries, self.key_set.keys))
        columns, grad = columns.to(dtype), grad.to(dtype)
        of_rows, of_keys = torch.zeros_like(queries), torch.zeros_like(keys)
        of_columns = torch.zeros_like(columns)
        both = zip(self.tiles(kernel), self.tiles(kernel.derivative()), strict=True)
        for (block, weights), (_, derivatives) in both:
            by_rows, of_keys[block], of_columns[:, block] = tile_pullback(
                monomials, weights.to(dtype), derivatives.to(dtype), queries, keys[block],
                columns[:, block], grad,
            )  # fmt: skip
            of_rows += by_rows
        self._add_unusable(kernel, queries, keys, grad, monomials, of_columns)
        return of_rows, of_keys, of_columns

    def _add_unusable(self, kernel, queries, keys, grad, monomials, of_columns) -> None:
        """Add the gradients of the columns (k, n) of keys that set no unit."""
        log_scale = self.log_scale(kernel)[:, None]
        unusable = (~self.key_set.usable).nonzero().squeeze(1)
        for some in unusable.split(tuning.KEYS_PER_TILE) if len(unusable) else ():
            weights = self._plain_weights(kernel, some, log_scale).to(grad.dtype)
            steps = steps_between(queries, keys[some])
            for place, product in monomials.times(weights, steps):
                of_columns[:, some] += grad[place] @ product

    def _numbers(self, points: Tensor) -> Tensor:
        return numeric_part(self.key_set.codes, points)

    def _plain_weights(self, kernel: Kernel, keys: Tensor, unit: Tensor) -> Tensor:
        """Return weights (m, n_t) of keys that set no unit: they may be nearer than those."""
        sq = pair_distances(kernel.codes, self.queries, self.key_set.keys[keys])
        largest = tuning.LARGEST_LOG_WEIGHT[sq.dtype.itemsize]
        weights = (kernel.log_profile(sq.clone()) - unit).clamp_max(largest).exp()
        if self.exclude is not None:
            weights.masked_fill_(self.exclude[:, None] == keys, 0.0)
        return weights

    def by_log_scales(
        self, kernel: Kernel, columns: Tensor, grad: Tensor, monomials: Monomials
    ) -> Tensor:
        """Return the gradient (d,) by the logarithms of common scales of rows and keys.

        For that (p, k, m) of the shifted moments:
        ``2 Σ_ij K'_ij Σ_a ⟨G_ia, v_j⟩ (z_j − q_i)^a (q_i − z_j)²`` of numbers, and of codes the
        costs of mismatches in the place of squares.
        """
        codes, total = self.key_set.codes, self.queries.new_zeros(self.queries.shape[1])
        n_numbers = len(total) - self.key_set.n_codes
        queries = self._numbers(self.queries)
        for block, derivatives in self.tiles(kernel.derivative()):
            keys = self.key_set.keys[block]
            numbers = queries, self._numbers(keys)
            strengths = derivatives * tile_polynomial(
                monomials, *numbers, columns[:, block], grad.to(columns.dtype)
            )
            for f, step in enumerate(steps_between(*numbers)):
                total[f] += (strengths * step.square()).sum()
            for f, steps, cost in () if codes is None else codes.mismatches(self.queries, keys):
                total[n_numbers + f] += (strengths * steps * cost).sum()
        return 2 * total


@dataclass(frozen=True, eq=False)
class EvaluatedRows(ShiftedRows):
    """Rows for an evaluator that knows the kernel's shifted sums; of many keys, blocks that matter.

    Parameters
    ----------
    queries, key_set, exclude
        As in `ShiftedRows`.
    evaluator : Evaluator
        Who sums.
    layout : Layout
        The rows, sorted.
    keys : UsableKeys
        The keys that count.
    interactions : InteractionList or None
        Which of them meet which keys; None: all.
    exactly : bool
        Whether the nearest key has to be just that, ties included.
    """

    evaluator: Evaluator
    layout: Layout
    keys: UsableKeys
    interactions: InteractionList | None
    exactly: bool

    @classmethod
    def of(
        cls,
        evaluator: Evaluator,
        kernel: Kernel,
        key_set: KeySet,
        queries: Tensor,
        exclude: Tensor | None,
    ) -> "EvaluatedRows":
        """Sort the rows and find the keys that matter to them."""
        size = max(tuning.TAIL_ROWS_PER_BLOCK, len(queries) // 2048)
        layout = Layout.of(queries, size, key_set.n_codes)
        exactly = kernel.tail is _nearest_tail
        worth = tuning.TAIL_PAIRS_FOR_BLOCKS
        if len(queries) >= tuning.MANY_TAIL_ROWS:
            worth = tuning.TAIL_PAIRS_FOR_BLOCKS_OF_MANY
        if len(queries) * len(key_set.keys) < worth:
            keys = key_set.as_they_stand
            return cls(queries, key_set, exclude, evaluator, layout, keys, None, exactly)
        keys = key_set.in_blocks
        weights = key_set.weights_in_blocks
        met = interactions_of(kernel, layout, keys.layout, weights, tuning.NO_SHARE)
        return cls(queries, key_set, exclude, evaluator, layout, keys, met, exactly)

    @cached_property
    def _rows(self) -> Any:
        return self.evaluator.points(self.layout.points[None], self.key_set.n_codes)

    @property
    def n_pairs(self) -> int:
        """Number of pairs that the sums evaluate."""
        return super().n_pairs if self._pairs is None else self._pairs.evaluated

    @property
    def _pairs(self) -> Pairs | None:
        return None if self.interactions is None else self.interactions.pairs

    @cached_property
    def _exclude(self) -> Tensor | None:
        """The sorted key that each sorted row leaves out, or -1."""
        if self.exclude is None:
            return None
        keys = self.keys
        places = self.exclude.new_full((len(self.key_set.keys),), -1)
        places[keys.order] = torch.arange(len(keys))
        exclude = self.exclude[self.layout.order]
        return torch.where(exclude >= 0, places[exclude.clamp_min(0)], -1)

    @cached_property
    def _nearest(self) -> tuple[Any, Tensor]:
        """Each sorted row's nearest key, and its squared distance."""
        return self.evaluator.nearest(
            self._rows, self.keys.points.of(self.evaluator), self._exclude, self._pairs,
            codes=self.key_set.codes, exactly=self.exactly,
        )  # fmt: skip

    def log_scale(self, kernel: Kernel) -> Tensor:
        """Logarithm of the weight of each row's nearest key; 0 without any key, shape (m,)."""
        _, squared = self._nearest
        return _log_weight(kernel, squared)[self.layout.places]

    def sums(self, kernel: Kernel, columns: Tensor) -> Tensor:
        """Return the rows' shifted sums (k, m) of columns (k, n)."""
        shift, _ = self._nearest
        sums = self.evaluator.sums(
            kernel, self._rows, self.keys.points.of(self.evaluator), self.keys.gathered(columns),
            self._exclude, self._pairs, shift,
        )  # fmt: skip
        return self.layout.unsorted(sums[0])


def _log_weight(kernel: Kernel, squared_distance: Tensor) -> Tensor:
    log_weight = kernel.log_profile(squared_distance.clone())
    return torch.where(squared_distance == torch.inf, 0.0, log_weight)
