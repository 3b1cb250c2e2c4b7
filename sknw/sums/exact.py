"""Rows done again, shifted: exact sums where plain ones underflow.

A kernel that never reaches zero gives every query some neighbour, however far. For rows whose plain
mass is below the floor, each weight is taken relative to the nearest key's, so the mass is at least
that key's own weight and the ratio keeps its accuracy in the tails.

Two forms of distance are needed. Within reach of the keys, differences have the relative error that
the data's own rounding leaves. A query much farther away than the keys are from one another would
lose the keys' differences in ``(q − z)²``; there the common ``|q|²`` is dropped and
``|z|² − 2qz`` compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sknw._arrays import accumulator_dtype
from sknw.kernels import Kernel
from sknw.sums.tiles import blocks, differences_squared, exclude_keys, tile_elements

_REMOTE = 4.0  # times the largest norm of a key
_KEYS_PER_TILE = 2048
# Plain masses under these floors are not trusted: rounding of clamped exponents begins to show.
_MASS_FLOOR = {torch.float64: 1e-250, torch.float32: 1e-20}


def weak_rows(kernel: Kernel, mass: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return which rows of a plain mass need to be done again; None where no row can."""
    return mass < _MASS_FLOOR[dtype] if kernel.tail is not None else None


def _nearest_tail(excess: Tensor, nearest: Tensor) -> Tensor:
    return (excess <= 0).to(excess.dtype)


def nearest_kernel(kernel: Kernel) -> Kernel:
    """Return the limit of a vanishing bandwidth: all weight on the nearest key, ties shared."""
    return replace(kernel, name="nearest", tail=_nearest_tail, log_profile=torch.zeros_like)


@dataclass(frozen=True)
class ShiftedRows:
    """Queries (m, d) against keys (n, d), with each row's nearest key as its unit of weight.

    Parameters
    ----------
    queries, keys : Tensor of shape (m, d), (n, d)
        Rows and keys in bandwidth units, centred near the keys.
    usable : Tensor of shape (n,)
        Which keys count; a key of weight zero must not set the scale.
    exclude : Tensor of shape (m,) or None
        Key that a row leaves out, or -1.
    remote : bool
        Whether the rows are far beyond the keys, so that ``|q|²`` is dropped.
    nearest : Tensor of shape (m, 1)
        The smallest squared distance of each row, less ``|q|²`` for remote rows.
    """

    queries: Tensor
    keys: Tensor
    usable: Tensor
    exclude: Tensor | None
    remote: bool
    nearest: Tensor

    @classmethod
    def of(
        cls, queries: Tensor, keys: Tensor, usable: Tensor, exclude: Tensor | None, remote: bool
    ) -> "ShiftedRows":
        """Find each row's nearest key (first of two passes over the keys)."""
        rows = cls(queries, keys, usable, exclude, remote, queries.new_empty(0))
        nearest = queries.new_full((len(queries), 1), torch.inf)
        for block in rows._key_blocks():
            nearest = torch.minimum(nearest, rows._distances(block).amin(dim=1, keepdim=True))
        return replace(rows, nearest=nearest)

    def _key_blocks(self) -> Iterator[slice]:
        return blocks(len(self.keys), _KEYS_PER_TILE)

    def _distances(self, block: slice) -> Tensor:
        """Squared distances (m, n_t), less ``|q|²`` for remote rows; inf where a key is out."""
        keys = self.keys[block]
        if self.remote:
            sq = keys.square().sum(dim=1) - 2 * self.queries @ keys.mT
        else:
            sq = differences_squared(self.queries, keys)
        sq = sq.masked_fill_(~self.usable[block], torch.inf)
        exclude_keys(sq, self.exclude, block, torch.inf)
        return sq

    @property
    def nearest_squared_distance(self) -> Tensor:
        """Squared distance of each row's nearest key, shape (m, 1)."""
        if self.remote:
            return (self.nearest + self.queries.square().sum(dim=1, keepdim=True)).clamp_min(0)
        return self.nearest

    def tiles(self, kernel: Kernel) -> Iterator[tuple[slice, Tensor]]:
        """Yield key blocks and the rows' weights on them, relative to the nearest key's."""
        base = self.nearest_squared_distance
        for block in self._key_blocks():
            sq = self._distances(block)
            out = sq == torch.inf
            excess = torch.where(out, 0.0, sq - self.nearest)
            yield block, kernel.tail(excess, base).masked_fill_(out, 0.0)

    def log_scale(self, kernel: Kernel) -> Tensor:
        """Logarithm of the weight of each row's nearest key; 0 without any key, shape (m,)."""
        base = self.nearest_squared_distance.squeeze(1)
        return torch.where(base == torch.inf, 0.0, kernel.log_profile(base.clone()))

    def sums(self, kernel: Kernel, columns: Tensor) -> Tensor:
        """Return the rows' shifted sums (k, m) of columns (k, n)."""
        dtype = accumulator_dtype(columns.device)
        total = torch.zeros((len(columns), len(self.queries)), dtype=dtype, device=columns.device)
        for block, weights in self.tiles(kernel):
            total += columns[:, block].to(dtype) @ weights.to(dtype).mT
        return total

    def transposed(self, kernel: Kernel, columns: Tensor) -> Tensor:
        """Return, for every key, the sum (k, n) over the rows of weight times columns (k, m)."""
        total = columns.new_zeros((len(columns), len(self.keys)))
        for block, weights in self.tiles(kernel):
            total[:, block] = columns @ weights.to(columns.dtype)
        return total


def shifted_groups(
    queries: Tensor, keys: Tensor, usable: Tensor, exclude: Tensor | None, rows: Tensor
) -> Iterator[tuple[Tensor, ShiftedRows]]:
    """Cut the rows (indices into the queries) into groups of one form and bounded memory."""
    radius = keys.square().sum(dim=1).max().sqrt()
    remote = queries[rows].square().sum(dim=1).sqrt() > _REMOTE * radius
    size = max(1, tile_elements(queries.device, queries.dtype) // _KEYS_PER_TILE)
    for is_remote, members in ((False, rows[~remote]), (True, rows[remote])):
        for group in members.split(size) if len(members) else ():
            left_out = None if exclude is None else exclude[group]
            yield group, ShiftedRows.of(queries[group], keys, usable, left_out, is_remote)
