"""Queries without a key in reach, and what the policy gives them.

``"nearest"`` is the limit that a Gaussian has as its bandwidth vanishes: the nearest key's value,
ties averaged. ``"mean"`` is the mean of all keys, ``"nan"`` no value, ``"raise"`` an error.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sknw.smoothing.cells import OwnCells
from sknw.smoothing.method import Method
from sknw.sums.engine import full_precision
from sknw.sums.tails import KeySet, nearest_kernel

EMPTY_NEIGHBORHOODS = ("nearest", "mean", "nan", "raise")


def fill_empty(
    method: Method,
    means: Tensor,
    empty: Tensor,
    queries: Tensor | None,
    keys: Tensor,
    columns: Tensor,
    exclude: Tensor | None = None,
    own: OwnCells | None = None,
) -> Tensor:
    """Return means (b, m, k) whose empty rows (b, m) have what the policy says.

    The others as in `sknw.smoothing.smoother.smooth`; only the columns (b, 1 + k, n) get gradients.
    """
    if own is not None:  # an empty row is alone in its cell, so it leaves out what its cell does
        if queries is None:
            queries, exclude = keys, torch.arange(keys.shape[1], device=keys.device)
        queries, exclude = queries[:, own.of_row], exclude[own.of_row]
    filled = []
    for b in range(len(keys)):
        of_member = replace(method, kernel=method.kernel.member(b))
        key_set = KeySet(keys[b].detach(), columns[b, 0].detach(), of_member.kernel.codes)
        fallback = Fallback(of_member, key_set, columns[b])
        filled.append(
            fallback.fill(
                means[b], empty[b], None if queries is None else queries[b].detach(), exclude
            )
        )
    return torch.stack(filled)


@dataclass(frozen=True)
class Fallback:
    """What queries without a key in reach get, for keys (n, d) and columns (1 + k, n)."""

    method: Method
    key_set: KeySet
    columns: Tensor

    def fill(
        self, means: Tensor, empty: Tensor, queries: Tensor | None, exclude: Tensor | None
    ) -> Tensor:
        """Return means (m, k) with the empty rows replaced."""
        if not empty.any():
            return means
        rows = empty.nonzero().squeeze(1)
        refuse_if_raising(self.method.empty_neighborhood, len(rows), len(means))
        keys = self.key_set.keys
        if queries is None:
            queries, exclude = keys, torch.arange(len(keys), device=keys.device)
        filled = means.clone()
        with full_precision(keys):
            filled[rows] = self._means(queries, exclude, rows).to(means.dtype)
        return filled

    def _means(self, queries: Tensor, exclude: Tensor | None, rows: Tensor) -> Tensor:
        if self.method.empty_neighborhood == "nan":
            return self.columns.new_full((len(rows), len(self.columns) - 1), torch.nan)
        if self.method.empty_neighborhood == "mean":
            return self._overall(exclude, rows)
        result = self.columns.new_empty((len(queries), len(self.columns) - 1))
        nearest = nearest_kernel(self.method.kernel)
        differentiable = self.columns.requires_grad and torch.is_grad_enabled()
        for group, shifted in self.key_set.shifted_groups(
            nearest, queries, exclude, rows, tiles=differentiable
        ):
            sums = shifted.sums(nearest, self.columns).mT
            result[group] = _quotients(sums).to(result.dtype)
        return result[rows]

    def _overall(self, exclude: Tensor | None, rows: Tensor) -> Tensor:
        """Return the weighted mean of all keys but the excluded one, shape (len(rows), k)."""
        columns = self.columns.double() if self.columns.device.type != "mps" else self.columns
        total = columns.sum(dim=1).expand(len(rows), -1)
        if exclude is not None:
            left_out = exclude[rows]
            own = columns[:, left_out.clamp_min(0)].mT
            total = total - torch.where(left_out[:, None] >= 0, own, 0.0)
        return _quotients(total)


def _quotients(sums: Tensor) -> Tensor:
    """Return the means (m, k) of sums (m, 1 + k); NaN, which has no gradient, without any key."""
    mass = sums[:, :1]
    return torch.where(mass > 0, sums[:, 1:] / torch.where(mass > 0, mass, 1.0), torch.nan)


def refuse_if_raising(policy: str, n_empty: int, n_queries: int) -> None:
    """Raise where queries are empty and the policy is to raise.

    Raises
    ------
    ValueError
    """
    if n_empty and policy == "raise":
        raise ValueError(
            f"{n_empty} of {n_queries} queries have no training row within the kernel's support; "
            "use a larger bandwidth, kernel='gaussian', or another empty_neighborhood."
        )
