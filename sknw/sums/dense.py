"""Dense tiles: every query against every key, exact to rounding, in bounded memory.

Sums stand feature-first, (b, k, m): with few columns, ``(k, n) @ (n, m)`` is several times faster
than its transpose. Leave-one-out sums of a set over itself visit each unordered pair once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sknw._arrays import accumulator_dtype
from sknw.kernels import Kernel
from sknw.sums.problem import Algorithm, Problem
from sknw.sums.tiles import (
    Points,
    blocks,
    exclude_keys,
    may_use_product,
    squared_distances,
    tile_elements,
)

_KEYS_PER_TILE = 2048
_SQUARE_TILE = 512


@dataclass(frozen=True)
class DenseState:
    """Keys ready for tiles, with their value columns (b, k, n)."""

    kernel: Kernel
    keys: Points
    columns: Tensor


class Dense(Algorithm):
    """All pairs, tile by tile."""

    name = "dense"

    def unsupported_reasons(self, problem: Problem) -> list[str]:
        """Nothing is out of reach of the exact sums."""
        return []

    def prepare(
        self, kernel: Kernel, keys: Tensor, columns: Tensor, like: DenseState | None = None
    ) -> DenseState:
        """Lift the keys once."""
        shares = like is not None and like.keys.rows is keys
        return DenseState(kernel, like.keys if shares else Points.of(keys), columns)

    def sums(self, state: DenseState, queries: Tensor | None, exclude: Tensor | None) -> Tensor:
        """Return the plain sums, shape (b, k, m)."""
        if queries is None:
            return _in_batches(_self_sums, state, None, None, _square_shape(state))
        return _in_batches(_cross_sums, state, queries, exclude, _cross_shape(state, queries))


def _cross_shape(state: DenseState, queries: Tensor) -> tuple[int, int]:
    elements = tile_elements(queries.device, queries.dtype)
    n_keys = max(1, min(len(state.keys), _KEYS_PER_TILE, elements))
    return max(1, min(queries.shape[1], elements // n_keys)), n_keys


def _square_shape(state: DenseState) -> tuple[int, int]:
    rows = state.keys.rows
    side = int(tile_elements(rows.device, rows.dtype) ** 0.5)
    if rows.device.type == "cpu":  # several tiles a side: pairs are shared between tiles only
        side = min(side, _SQUARE_TILE, max(_SQUARE_TILE // 2, -(-len(state.keys) // 4)))
    side = max(1, min(side, len(state.keys)))
    return side, side


def _in_batches(sums_of, state, queries, exclude, shape: tuple[int, int]) -> Tensor:
    """Run `sums_of` on as many members of the batch at a time as one tile holds."""
    rows = state.keys.rows
    at_once = max(1, tile_elements(rows.device, rows.dtype) // (shape[0] * shape[1]))
    if at_once >= rows.shape[0]:
        return sums_of(state, queries, exclude, shape)
    parts = []
    for batch in blocks(rows.shape[0], at_once):
        part = DenseState(
            state.kernel,
            Points(rows[batch], state.keys.lifted[batch]),
            state.columns[batch],
        )
        parts.append(sums_of(part, None if queries is None else queries[batch], exclude, shape))
    return torch.cat(parts)


def _empty_sums(state: DenseState, n_queries: int) -> Tensor:
    b, k, _ = state.columns.shape
    dtype = accumulator_dtype(state.columns.device)
    return torch.zeros((b, k, n_queries), dtype=dtype, device=state.columns.device)


def _cross_sums(
    state: DenseState, queries: Tensor, exclude: Tensor | None, shape: tuple[int, int]
) -> Tensor:
    """Sum over the keys for queries (b, m, d)."""
    points, keys = Points.of(queries), state.keys
    total = _empty_sums(state, len(points))
    key_reach = keys.block_reach(shape[1])
    for query_reach, i in zip(
        points.block_reach(shape[0]), blocks(len(points), shape[0]), strict=True
    ):
        left_out = None if exclude is None else exclude[i]
        for reach, j in zip(key_reach, blocks(len(keys), shape[1]), strict=True):
            product = may_use_product(state.kernel, keys, query_reach, reach)
            weights = state.kernel.profile(squared_distances(points, keys, i, j, product=product))
            exclude_keys(weights, left_out, j, 0.0)
            total[:, :, i] += state.columns[:, :, j] @ weights.mT  # (k, n_t) @ (n_t, m_t)
    return total


def _self_sums(state: DenseState, _queries: None, _exclude: None, shape: tuple[int, int]) -> Tensor:
    """Sum the keys over one another, each without itself; every pair is seen once."""
    keys, columns = state.keys, state.columns
    total = _empty_sums(state, len(keys))
    reach = keys.block_reach(shape[0])
    tiles = list(blocks(len(keys), shape[0]))
    for a, i in enumerate(tiles):
        for b in range(a, len(tiles)):
            j = tiles[b]
            product = may_use_product(state.kernel, keys, reach[a], reach[b])
            weights = state.kernel.profile(squared_distances(keys, keys, i, j, product=product))
            if a == b:
                weights.diagonal(dim1=-2, dim2=-1).zero_()
            else:
                total[:, :, j] += columns[:, :, i] @ weights
            total[:, :, i] += columns[:, :, j] @ weights.mT
    return total
