"""One tile: the kernel weights between a block of queries and a block of keys.

Squared distances come in two forms. ``|q|² + |z|² − 2qz`` is one matrix product, but its error is
absolute, about ``eps (|q|² + |z|²)``; differences are slower and have relative error. A block takes
the product only where the kernel is smooth in the squared distance and the block's norms make the
error negligible, so one remote row costs only its own block.
"""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sknw.data.arrays import working_memory_bytes
from sknw.kernels import Kernel
from sknw.kernels.codes import Codes, numeric_part
from sknw.support import tuning

_thread = threading.local()


@dataclass(frozen=True)
class Points:
    """Points prepared for tiles.

    Parameters
    ----------
    rows : Tensor of shape (b, n, d)
        The points' numbers, one point per row.
    lifted : Tensor of shape (b, n, d + 2)
        ``[z, 1, |z|²]``, whose product with ``[−2q, |q|², 1]`` is the squared distance.
    codes : Tensor of shape (b, n, c)
        The points' codes of categories.
    """

    rows: Tensor
    lifted: Tensor
    codes: Tensor

    @classmethod
    def of(cls, rows: Tensor, n_codes: int = 0) -> "Points":
        """Return the points with their lifted form; their last columns are codes."""
        rows, codes = rows.split([rows.shape[-1] - n_codes, n_codes], dim=-1)
        norms = _squared_norms(rows)
        return cls(rows, torch.cat([rows, torch.ones_like(norms), norms], dim=-1), codes)

    def __len__(self) -> int:
        return self.rows.shape[1]

    @property
    def n_features(self) -> int:
        """Number of the points' columns that are numbers."""
        return self.rows.shape[2]

    @property
    def norms(self) -> Tensor:
        """Squared norms (b, n)."""
        return self.lifted[..., -1]

    def of_batch(self, batch: slice) -> "Points":
        """Return the points of some members of the batch."""
        return Points(self.rows[batch], self.lifted[batch], self.codes[batch])


def edge_allowance(kernel: Kernel, points: Tensor) -> Tensor:
    """Return each point's share (b, n) in the rounding at the edge of the kernel's support."""
    numbers = numeric_part(kernel.codes, points)
    return kernel.edge_allowance(kernel.sizes(numbers), points.dtype)


def settle_edges(sq: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Set, in place, squared distances (..., m, n) to 1 that are 1 up to rounding.

    Rounding must not decide whether a pair is inside of an open support. `queries` (..., m) and
    `keys` (..., n) are the allowances of both.
    """
    away = torch.sub(sq, 1).abs_().sub_(queries[..., :, None]).sub_(keys[..., None, :])
    return sq.masked_fill_(away <= 0, 1.0)


def _squared_norms(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=-1, keepdim=True)


def may_use_product(kernel: Kernel, points: Points, query_norm: float, key_norm: float) -> bool:
    """Whether this block's squared distances may come from the matrix product."""
    if not kernel.smooth or points.n_features <= 1:
        return False
    error = torch.finfo(points.rows.dtype).eps * (query_norm + key_norm)
    return error <= tuning.PRODUCT_ERROR[points.rows.dtype.itemsize]


def squared_distances(
    queries: Points, keys: Points, query_block: slice, key_block: slice, *, product: bool
) -> Tensor:
    """Return the numbers' squared distances of one tile, shape (b, m_t, n_t)."""
    if product:
        lifted = queries.lifted[:, query_block]
        left = torch.cat([-2 * lifted[..., :-2], lifted[..., -1:], lifted[..., -2:-1]], dim=-1)
        right = keys.lifted[:, key_block]
        out = _scratch(0, left, right)
        return torch.bmm(left, right.mT, out=out)  # (b, m_t, d + 2) @ (b, d + 2, n_t)
    return differences_squared(queries.rows[:, query_block], keys.rows[:, key_block])


def edges_by_differences(
    sq: Tensor,
    queries: Tensor,
    keys: Tensor,
    query_edges: Tensor,
    key_edges: Tensor,
    costs: Tensor | None,
) -> Tensor:
    """Settle the edges, in place, of squared distances by the product: see `settle_edges`.

    Those near to 1 are computed again from the rows (b, m, d) and (b, n, d), since the product's
    error is larger than the allowances. `costs` (b, m, n) are those of mismatches of codes.
    """
    allowed = query_edges[..., :, None] + key_edges[..., None, :]
    margin = tuning.PRODUCT_MARGIN * tuning.PRODUCT_ERROR[sq.dtype.itemsize]
    inaccurate = torch.sub(sq, 1).abs_() <= allowed + margin
    again = inaccurate.nonzero(as_tuple=True)
    if len(again[0]) > tuning.SHARE_WORTH_DIFFERENCES * sq.numel():
        sq = differences_squared(queries, keys)
        return settle_edges(sq if costs is None else sq.add_(costs), query_edges, key_edges)
    b, i, j = again
    exact = (queries[b, i] - keys[b, j]).square_().sum(dim=-1)
    exact = exact if costs is None else exact.add_(costs[again])
    sq[again] = exact.masked_fill_((exact - 1).abs_() <= allowed[again], 1.0)
    return sq


def pair_distances(codes: Codes | None, queries: Tensor, keys: Tensor) -> Tensor:
    """Return squared distances (..., m, n) of points (..., m, d) and (..., n, d), from differences.

    Mismatches of codes, the last columns of the points, count with their costs.
    """
    total = differences_squared(numeric_part(codes, queries), numeric_part(codes, keys))
    return add_mismatches(codes, queries, keys, total)


def add_mismatches(codes: Codes | None, queries: Tensor, keys: Tensor, total: Tensor) -> Tensor:
    """Add to squared distances, in place, what mismatches of codes cost."""
    for _, steps, cost in () if codes is None else codes.mismatches(queries, keys):
        total.addcmul_(steps, cost)
    return total


def differences_squared(queries: Tensor, keys: Tensor) -> Tensor:
    """Return ``Σ_k (q_k − z_k)²``, shape (..., m, n), from differences."""
    if queries.shape[-1] == 0:
        return queries.new_zeros((*queries.shape[:-1], keys.shape[-2]))
    if queries.shape[-1] > tuning.FEATURES_BY_DIFFERENCES:
        distance = torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.square_()
    total = _scratch(0, queries, keys)
    for feature in range(queries.shape[-1]):
        step = _scratch(1, queries, keys) if feature else total
        torch.sub(queries[..., :, None, feature], keys[..., None, :, feature], out=step)
        total = total.addcmul_(step, step) if feature else total.square_()
    return total


def _scratch(slot: int, queries: Tensor, keys: Tensor) -> Tensor:
    """Return an uninitialised tensor (..., m, n) for one tile.

    On a CPU each thread keeps its memory for the next tile, since fresh pages cost more than the
    arithmetic on them; what a slot holds is gone with the next tile that takes the slot.
    """
    shape = (*queries.shape[:-1], keys.shape[-2])
    n_elements = math.prod(shape)
    if queries.device.type != "cpu" or n_elements > tuning.TILE_ELEMENTS["cpu"]:
        return queries.new_empty(shape)
    kept = _thread.__dict__.setdefault("kept", {})
    key = slot, queries.dtype
    if key not in kept or len(kept[key]) < n_elements:
        with torch.inference_mode(False):  # the memory is kept beyond a mode that is on now
            kept[key] = torch.empty(n_elements, dtype=queries.dtype, device=queries.device)
    return kept[key][:n_elements].view(shape)


def exclude_keys(weights: Tensor, exclude: Tensor | None, key_block: slice, value: float) -> None:
    """Set, in place, each query's excluded key to `value` where it falls in this block."""
    if exclude is None:
        return
    rows = ((exclude >= key_block.start) & (exclude < key_block.stop)).nonzero().squeeze(-1)
    weights[..., rows, exclude[rows] - key_block.start] = value


def tile_elements(device: torch.device, dtype: torch.dtype) -> int:
    """Return the number of elements of a tile that suits the device and the working memory."""
    preferred = tuning.TILE_ELEMENTS["cpu" if device.type == "cpu" else "accelerator"]
    allowed = working_memory_bytes() // (tuning.BUFFERS_PER_TILE * dtype.itemsize)
    return max(1, min(preferred, allowed))


def blocks(n: int, size: int) -> Iterator[slice]:
    """Cut ``range(n)`` into slices of at most `size`."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
