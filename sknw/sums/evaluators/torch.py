"""Tiles by torch: any kernel, any device, whole batches at a time.

Sums stand feature-first, (b, k, m): with few columns, ``(k, n) @ (n, m)`` is several times faster
than its transpose. Leave-one-out of a whole set over itself visits each unordered pair once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sknw.data.arrays import accumulator_dtype
from sknw.kernels import Kernel
from sknw.sums.evaluators.evaluator import Evaluator
from sknw.sums.geometry.distances import (
    Points,
    add_mismatches,
    blocks,
    edges_by_differences,
    exclude_keys,
    may_use_product,
    settle_edges,
    squared_distances,
    tile_elements,
)
from sknw.sums.geometry.interactions import Pairs
from sknw.sums.monomials import (
    steps_between,
    tile_moments,
    tile_polynomial,
    tile_pullback,
)
from sknw.support import tuning


class TorchTiles(Evaluator):
    """Weights of one tile at a time, then matrix products."""

    name = "torch"
    has_pullback = True

    def accepts(
        self, kernel: Kernel, dtype: torch.dtype, device: torch.device, order: int = 0
    ) -> bool:
        """Whatever torch can hold."""
        return True

    def pair_costs(self, dtype: torch.dtype) -> tuple[float, float, float, float]:
        """Those that were measured."""
        return tuning.PAIR_COSTS[self.name, dtype.itemsize]

    def points(self, rows: Tensor, n_codes: int = 0) -> Points:
        """Lift the points for distances by matrix product."""
        return Points.of(rows, n_codes)

    def sums(self, kernel, queries, keys, columns, exclude, pairs, shift=None) -> Tensor:
        """Return ``Σ_j K_ij v_j``, shape (b, k, m)."""
        n_queries = len(keys if queries is None else queries)
        total = _zeros(columns, (*columns.shape[:2], n_queries))
        for batch, i, j, weights in _tiles(kernel, queries, keys, exclude, pairs):
            total[batch, :, i] += columns[batch, :, j] @ weights.mT  # (k, n_t) @ (n_t, m_t)
        return total

    def moments(self, kernel, queries, keys, columns, exclude, pairs, monomials) -> Tensor:
        """Return ``Σ_j K_ij (z_j − q_i)^a v_j`` of each monomial, (b, p, k, m)."""
        if len(monomials) == 1:
            return self.sums(kernel, queries, keys, columns, exclude, pairs)[:, None]
        points = keys if queries is None else queries
        n_batch, n_columns, _ = columns.shape
        total = _zeros(columns, (n_batch, len(monomials), n_columns, len(points)))
        width = monomials.order + points.n_features
        columns = columns.to(total.dtype)
        for batch, i, j, weights in _tiles(kernel, queries, keys, exclude, pairs, width):
            rows, others = points.rows[batch, i].to(total.dtype), keys.rows[batch, j]
            found = tile_moments(
                monomials, weights.to(total.dtype), rows, others.to(total.dtype),
                columns[batch, :, j],
            )  # fmt: skip
            for place, sums in found:
                total[batch, place, :, i] += sums
        return total

    def pullback(self, kernel, queries, keys, columns, grad, exclude, pairs, monomials) -> tuple:
        """Return the gradients of the numbers of queries and keys, (b, m, d), and of columns.

        For the gradient (b, p, k, m) of the moments. Queries None have theirs in the second.
        """
        points, is_itself = (keys, True) if queries is None else (queries, False)
        # two tiles share memory where a set meets itself, so here keys are left out one by one
        if is_itself:
            exclude = torch.arange(len(keys), device=keys.rows.device)
        of_queries, of_keys = _zeros(columns, points.rows.shape), _zeros(columns, keys.rows.shape)
        columns, grad = columns.to(of_keys.dtype), grad.to(of_keys.dtype)
        of_columns = torch.zeros_like(columns)
        width = 2 * (monomials.order + points.n_features) + 4
        arguments = points, keys, exclude, pairs, width
        # the next tile, that of the derivatives, is written over this one's memory
        plain = ((*at, tile.clone()) for *at, tile in _tiles(kernel, *arguments))
        derivatives = _tiles(kernel.derivative(), *arguments)
        for (batch, i, j, weights), (*_, derivative) in zip(plain, derivatives, strict=True):
            rows, others = points.rows[batch, i], keys.rows[batch, j]
            by_queries, by_keys, by_columns = tile_pullback(
                monomials,
                *(at.to(of_keys.dtype) for at in (weights, derivative, rows, others)),
                columns[batch, :, j],
                grad[batch, ..., i],
            )
            of_queries[batch, i] += by_queries
            of_keys[batch, j] += by_keys
            of_columns[batch, :, j] += by_columns
        if is_itself:
            return None, of_queries + of_keys, of_columns
        return of_queries, of_keys, of_columns

    def scale_pullback(
        self, kernel, queries, keys, columns, grad, exclude, pairs, monomials
    ) -> Tensor:
        """Return ``Σ_ij K_ij Σ_a ⟨G_ia, v_j⟩ (z_j − q_i)^a (q_i − z_j)²``, (b, d)."""
        points, n_batch = keys if queries is None else queries, len(columns)
        total = _zeros(columns, (n_batch, points.rows.shape[-1]))
        of_codes = _zeros(columns, (n_batch, points.codes.shape[-1]))
        columns, grad = columns.to(total.dtype), grad.to(total.dtype)
        width = 2 * points.n_features + 4
        for batch, i, j, weights in _tiles(kernel, queries, keys, exclude, pairs, width):
            rows, others = points.rows[batch, i], keys.rows[batch, j]
            numbers = rows.to(total.dtype), others.to(total.dtype)
            polynomial = tile_polynomial(
                monomials, *numbers, columns[batch, :, j], grad[batch, ..., i]
            )
            strengths = weights.to(total.dtype) * polynomial
            for f, step in enumerate(steps_between(*numbers)):
                total[batch, f] += (strengths * step.square()).sum(dim=(-2, -1))
            for f, steps, cost in _mismatches(kernel, points, keys, batch, i, j):
                of_codes[batch, f] += (strengths * steps * cost).sum(dim=(-2, -1))
        return torch.cat([total, of_codes], dim=-1)

    def steps(self, kernel, queries, keys, left, right, exclude, pairs, *, squared=False) -> Tensor:
        """Return ``Σ_j K_ij ⟨left_i, right_j⟩ (q_i − z_j)``, shape (b, m, d)."""
        points = keys if queries is None else queries
        total, of_codes = _zeros(left, points.rows.shape), _zeros(left, points.codes.shape)
        for batch, i, j, weights in _tiles(kernel, queries, keys, exclude, pairs):
            strengths = weights * (left[batch, :, i].mT @ right[batch, :, j])
            rows, others = points.rows[batch, i], keys.rows[batch, j]
            strength = strengths.sum(dim=-1, keepdim=True)
            if squared:  # (q − z)² = q² − 2qz + z²
                total[batch, i] += strength * rows.square() - 2 * rows * (strengths @ others)
                total[batch, i] += strengths @ others.square()
                for f, steps, cost in _mismatches(kernel, points, keys, batch, i, j):
                    of_codes[batch, i, f] += (strengths * steps * cost).sum(dim=-1)
            else:
                total[batch, i] += strength * rows - strengths @ others
        return torch.cat([total, of_codes], dim=-1)


def _mismatches(
    kernel: Kernel, queries: Points, keys: Points, batch: slice, i: slice, j: slice
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield what `Codes.mismatches` does for one tile."""
    if kernel.codes is not None:
        codes = kernel.of_members(batch).codes
        yield from codes.mismatches(queries.codes[batch, i], keys.codes[batch, j])


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=accumulator_dtype(like.device), device=like.device)


def _tiles(
    kernel: Kernel,
    queries: Points | None,
    keys: Points,
    exclude: Tensor | None,
    pairs: Pairs | None,
    width: int = 1,
) -> Iterator[tuple[slice, slice, slice, Tensor]]:
    """Yield ``batch, i, j, weights`` with the weights (b, m_t, n_t) of every tile.

    Tiles are small enough for so many of their kind, the `width`, to be alive at a time.
    """
    whole_set_over_itself = queries is None and pairs is None
    if queries is None and not whole_set_over_itself:
        exclude = torch.arange(len(keys), device=keys.rows.device)
    queries = keys if queries is None else queries
    elements = max(1, tile_elements(keys.rows.device, keys.rows.dtype) // width)
    if whole_set_over_itself:
        shape = _square_shape(keys, elements)
    else:
        shape = _cross_shape(queries, keys, elements)
    at_once = max(1, elements // (shape[0] * shape[1]))
    for batch in blocks(len(keys.rows), at_once):
        points = queries.of_batch(batch), keys.of_batch(batch)
        part = Tile(kernel.of_members(batch), *points, shape)
        if whole_set_over_itself:
            found = part.of_square()
        elif pairs is None:
            found = part.of(_all_tiles(len(queries), len(keys), shape), exclude)
        else:
            found = part.of(_tiles_of(pairs, shape), exclude)
        for i, j, weights in found:
            yield batch, i, j, weights


def _cross_shape(queries: Points, keys: Points, elements: int) -> tuple[int, int]:
    n_keys = max(1, min(len(keys), tuning.KEYS_PER_TILE, elements))
    return max(1, min(len(queries), elements // n_keys)), n_keys


def _square_shape(keys: Points, elements: int) -> tuple[int, int]:
    side = int(elements**0.5)
    if keys.rows.device.type == "cpu":  # only tiles off the diagonal save half of their pairs
        largest = tuning.SIDE_OF_A_SQUARE_TILE
        side = min(side, largest, max(largest // 2, -(-len(keys) // 4)))
    side = max(1, min(side, len(keys)))
    return side, side


def _all_tiles(n_queries: int, n_keys: int, shape: tuple[int, int]) -> Iterator[tuple]:
    for i in blocks(n_queries, shape[0]):
        for j in blocks(n_keys, shape[1]):
            yield i, j


def _tiles_of(pairs: Pairs, shape: tuple[int, int]) -> Iterator[tuple]:
    for rows, keys in pairs.tiles:
        for i in blocks(rows.stop - rows.start, shape[0]):
            for j in blocks(keys.stop - keys.start, shape[1]):
                yield _within(rows, i), _within(keys, j)


def _within(outer: slice, inner: slice) -> slice:
    return slice(outer.start + inner.start, outer.start + inner.stop)


class Tile:
    """The weights between blocks of one batch of queries and keys."""

    def __init__(self, kernel: Kernel, queries: Points, keys: Points, shape: tuple[int, int]):
        self.kernel, self.queries, self.keys, self.shape = kernel, queries, keys, shape
        self.largest_norm = float(queries.norms.max()), float(keys.norms.max())
        self.may_use_product = may_use_product(kernel, keys, *self.largest_norm)
        if kernel.has_edge:
            self.query_edges = kernel.edge_allowance(kernel.sizes(queries.rows), queries.rows.dtype)
            self.key_edges = self.query_edges
            if queries is not keys:
                self.key_edges = kernel.edge_allowance(kernel.sizes(keys.rows), keys.rows.dtype)

    def weights(self, i: slice, j: slice) -> Tensor:
        """Return the weights (b, m_t, n_t); the next tile takes their memory."""
        product = self.may_use_product or may_use_product(
            self.kernel,
            self.keys,
            float(self.queries.norms[:, i].max()),
            float(self.keys.norms[:, j].max()),
        )
        sq = squared_distances(self.queries, self.keys, i, j, product=product)
        codes = self.queries.codes[:, i], self.keys.codes[:, j]
        if not self.kernel.has_edge:
            return self.kernel.profile(add_mismatches(self.kernel.codes, *codes, sq))
        edges, costs = (self.query_edges[:, i], self.key_edges[:, j]), None
        if self.kernel.codes is not None:
            costs = add_mismatches(self.kernel.codes, *codes, torch.zeros_like(sq))
            sq = sq.add_(costs)
        if product:
            rows = self.queries.rows[:, i], self.keys.rows[:, j]
            sq = edges_by_differences(sq, *rows, *edges, costs)
        else:
            sq = settle_edges(sq, *edges)
        return self.kernel.profile(sq)

    def of(
        self, tiles: Iterator[tuple], exclude: Tensor | None
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield tiles of queries and keys with their weights."""
        for i, j in tiles:
            weights = self.weights(i, j)
            exclude_keys(weights, None if exclude is None else exclude[i], j, 0.0)
            yield i, j, weights

    def of_square(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield the tiles of a set over itself, without the diagonal, each pair computed once."""
        tiles = list(blocks(len(self.keys), self.shape[0]))
        for a, i in enumerate(tiles):
            for j in tiles[a:]:
                weights = self.weights(i, j)
                if i == j:
                    weights.diagonal(dim1=-2, dim2=-1).zero_()
                else:
                    yield j, i, weights.mT
                yield i, j, weights
