"""From kernel sums to predictions: ratios, leave-one-out, attention weights, empty neighbourhoods.

Everything here is in embedded space, where the bandwidth is 1, and in scaled targets. `smooth` is
the differentiable ratio that training and bandwidth selection minimise over; `Smoother` keeps the
keys ready for many queries.

A query without a key in reach follows the empty-neighbourhood policy. ``"nearest"`` is the limit
that a Gaussian has as its bandwidth vanishes: the nearest key's value, ties averaged.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from sknw.data.arrays import accumulator_dtype, least_weight
from sknw.kernels import Kernel
from sknw.smoothing.cells import OwnCells
from sknw.smoothing.local_fit import LocalFit
from sknw.smoothing.log_attention import log_attention, profile_of_pairs
from sknw.sums import (
    DEFAULT_RTOL,
    Algorithm,
    KernelSums,
    PreparedSums,
    Problem,
    choose,
    kernel_sums,
)
from sknw.sums.engine import full_precision
from sknw.sums.geometry.distances import tile_elements
from sknw.sums.tails import KeySet, nearest_kernel, underflowing_rows

# Sums of weights over which their squares do not underflow, for each key.
_LEAST_SQUARED = {torch.float64: 1e-140, torch.float32: 1e-14}

EMPTY_NEIGHBORHOODS = ("nearest", "mean", "nan", "raise")


def smooth(
    kernel: Kernel,
    queries: Tensor | None,
    keys: Tensor,
    values: Tensor,
    weights: Tensor,
    *,
    exclude: Tensor | None = None,
    own: OwnCells | None = None,
    algorithm: str = "auto",
    rtol: float = DEFAULT_RTOL,
    empty_neighborhood: str = "nearest",
) -> Tensor:
    """Return locally weighted means, differentiable in every tensor.

    Parameters
    ----------
    kernel : Kernel
        The window.
    queries : Tensor of shape (b, m, d) or None
        None means the keys themselves, each leaving itself out.
    keys : Tensor of shape (b, n, d)
        Keys in bandwidth units.
    values : Tensor of shape (b, n, k)
        Values to average.
    weights : Tensor of shape (b, n)
        Weights of the keys, >= 0.
    exclude : Tensor of shape (m,) or None, default=None
        Index of the key that a query leaves out, or -1.
    own : OwnCells or None, default=None
        Where the keys are cells of equal rows: which rows to predict, with the rest of their cells.
    algorithm : str, default="auto"
        Name of the algorithm of the sums.
    rtol : float, default=1e-8
        Largest error, relative to the range of the values.
    empty_neighborhood : str, default="nearest"
        Policy for queries without a key in reach.

    Returns
    -------
    Tensor of shape (b, m, k)
    """
    columns = value_columns(values, weights)
    sums = kernel_sums(
        kernel, queries, keys, columns,
        exclude=exclude, algorithm=algorithm, rtol=rtol,
    )  # fmt: skip
    fit = LocalFit.of(_with_own(sums, own, kernel).sums)
    means, empty = fit.means, fit.empty
    if not empty.any():
        return means
    return fill_empty(
        kernel, means, empty, queries, keys, columns, exclude, own, empty_neighborhood
    )


def fill_empty(
    kernel: Kernel,
    means: Tensor,
    empty: Tensor,
    queries: Tensor | None,
    keys: Tensor,
    columns: Tensor,
    exclude: Tensor | None,
    own: OwnCells | None,
    empty_neighborhood: str,
) -> Tensor:
    """Return means (b, m, k) whose empty rows (b, m) have what the policy says.

    The others as in `kernel_sums` and `smooth`, points scaled; only the columns get gradients.
    """
    if own is not None:  # an empty row is alone in its cell, so it leaves out what its cell does
        if queries is None:
            queries, exclude = keys, torch.arange(keys.shape[1], device=keys.device)
        queries, exclude = queries[:, own.of_row], exclude[own.of_row]
    filled = []
    for b in range(len(keys)):
        of_member = kernel.member(b)
        key_set = KeySet(keys[b].detach(), columns[b, 0].detach(), of_member.codes)
        fallback = _Fallback(of_member, key_set, columns[b], empty_neighborhood)
        filled.append(
            fallback.fill(
                means[b], empty[b], None if queries is None else queries[b].detach(), exclude
            )
        )
    return torch.stack(filled)


def _with_own(sums: KernelSums, own: OwnCells | None, kernel: Kernel) -> KernelSums:
    """Return the sums of rows, from those of their cells."""
    return sums if own is None else own.added(sums, kernel)


def value_columns(values: Tensor, weights: Tensor) -> Tensor:
    """Return the columns ``w [1, v]`` of shape (b, 1 + k, n)."""
    weights = weights[:, None]
    return torch.cat([weights, weights * values.mT], dim=1)


@dataclass(frozen=True)
class _Fallback:
    """What queries without a key in reach get, for keys (n, d) and columns (1 + k, n)."""

    kernel: Kernel
    key_set: KeySet
    columns: Tensor
    policy: str

    def fill(
        self, means: Tensor, empty: Tensor, queries: Tensor | None, exclude: Tensor | None
    ) -> Tensor:
        """Return means (m, k) with the empty rows replaced."""
        if not empty.any():
            return means
        rows = empty.nonzero().squeeze(1)
        refuse_if_raising(self.policy, len(rows), len(means))
        keys = self.key_set.keys
        if queries is None:
            queries, exclude = keys, torch.arange(len(keys), device=keys.device)
        filled = means.clone()
        with full_precision(keys):
            filled[rows] = self._means(queries, exclude, rows).to(means.dtype)
        return filled

    def _means(self, queries: Tensor, exclude: Tensor | None, rows: Tensor) -> Tensor:
        if self.policy == "nan":
            return self.columns.new_full((len(rows), len(self.columns) - 1), torch.nan)
        if self.policy == "mean":
            return self._overall(exclude, rows)
        result = self.columns.new_empty((len(queries), len(self.columns) - 1))
        nearest = nearest_kernel(self.kernel)
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
    """Raise where queries are empty and the policy is to raise."""
    if n_empty and policy == "raise":
        raise ValueError(
            f"{n_empty} of {n_queries} queries have no training row within the kernel's support; "
            "use a larger bandwidth, kernel='gaussian', or another empty_neighborhood."
        )


@dataclass(frozen=True)
class Prediction:
    """What comes of queries.

    Parameters
    ----------
    means : Tensor of shape (m, k)
        Locally weighted means.
    n_empty : int
        Number of queries without a key in reach.
    report : dict
        How the sums were done: see `sknw.sums.engine`.
    """

    means: Tensor
    n_empty: int
    report: dict


@dataclass(frozen=True, eq=False)
class Smoother:
    """Keys, values and weights ready for queries; one set, no batch.

    What an algorithm prepares for the keys is kept for the next queries.

    Parameters
    ----------
    kernel : Kernel
        The window.
    keys : Tensor of shape (n, d)
        Keys in bandwidth units.
    columns : Tensor of shape (1 + k, n)
        Weights, and weights times values.
    algorithm : str
        Name of the algorithm of the sums, or ``"auto"``.
    rtol : float
        Largest error, relative to the range of the values.
    empty_neighborhood : str
        Policy for queries without a key in reach.
    log_weights : Tensor of shape (n,)
        Logarithms of the weights, which may be less than the columns can hold.
    concentration : Tensor of shape (n,)
        Sum of the squared shares of the observations of which a key is made; 1 for one.
    own : OwnCells or None, default=None
        Where the keys are cells of equal rows: what leave-one-out predicts.
    """

    kernel: Kernel
    keys: Tensor
    columns: Tensor
    algorithm: str
    rtol: float
    empty_neighborhood: str
    log_weights: Tensor
    concentration: Tensor
    own: OwnCells | None = None
    _prepared: dict[str, PreparedSums] = field(default_factory=dict)
    _chosen: dict[tuple, Algorithm] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        keys: Tensor,
        values: Tensor,
        weights: Tensor,
        *,
        algorithm: str,
        rtol: float,
        empty_neighborhood: str,
        log_weights: Tensor | None = None,
        concentration: Tensor | None = None,
        own: OwnCells | None = None,
    ) -> "Smoother":
        """Make the value columns; without `concentration`, each key is one observation."""
        columns = value_columns(values[None], weights[None])[0]
        wide = weights.to(accumulator_dtype(weights.device))
        if log_weights is None:
            log_weights = wide.log()
        if concentration is None:
            concentration = torch.ones_like(wide)
        return cls(
            kernel, keys, columns, algorithm, rtol, empty_neighborhood, log_weights, concentration,
            own,
        )  # fmt: skip

    def choose(self, queries: Tensor | None = None, exclude: Tensor | None = None) -> Algorithm:
        """Return the algorithm for these queries (m, d); None: for the keys themselves."""
        n_queries = len(self.keys if queries is None else queries)
        like = (n_queries.bit_length(), queries is None, exclude is None)
        if like not in self._chosen:  # looking at the keys takes time
            self._chosen[like] = self._choose(queries, exclude)
        return self._chosen[like]

    def _choose(self, queries: Tensor | None, exclude: Tensor | None) -> Algorithm:
        return choose(
            self.algorithm,
            Problem.of(
                self.kernel,
                None if queries is None else queries[None],
                self.keys[None],
                n_columns=len(self.columns),
                leave_one_out=queries is None or exclude is not None,
                needs_grad=False,
                rtol=self.rtol,
                prepared=tuple(self._prepared),
            ),
        )

    def predict(self, queries: Tensor | None, exclude: Tensor | None = None) -> Prediction:
        """Return the means (m, k) of queries (m, d); None: of the rows, each leaving itself out."""
        algorithm = self.choose(queries, exclude)
        prepared = self._prepared.get(algorithm.name)
        if prepared is None:
            prepared = PreparedSums.of(self.kernel, self.keys[None], self.columns[None], algorithm)
            self._prepared[algorithm.name] = prepared
        sums = prepared.sums(None if queries is None else queries[None], exclude)
        if queries is None:
            queries = self.keys
            exclude = torch.arange(len(queries), device=queries.device)
            if self.own is not None:
                sums = _with_own(sums, self.own, self.kernel)
                queries, exclude = self.keys[self.own.of_row], self.own.of_row
        fit = LocalFit.of(sums.sums)
        means, empty = fit.means, fit.empty
        self._redo_faint(means[0], empty[0], self._is_faint(sums)[0], queries, exclude)
        fallback = _Fallback(
            self.kernel, prepared.key_set(0), self.columns, self.empty_neighborhood
        )
        means = fallback.fill(means[0], empty[0], queries, exclude)
        return Prediction(means, int(empty.sum()), sums.report)

    def _redo_faint(self, means, empty, faint, queries, exclude) -> None:
        """Overwrite the means of rows whose weights are faint, and whether they have any."""
        if self.own is not None and exclude is self.own.of_row:  # the rest of the cell is not faint
            faint = faint & (self.own.others[0] <= 0)
        for rows, attention in self._attention_by_logs(faint, queries, exclude):
            values = (self.columns[1:] / self.columns[0]).mT.to(means.dtype)
            means[rows] = attention.to(means.dtype) @ values
            empty[rows] = attention.sum(dim=1) == 0

    def effective_neighbors(self, queries: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Return Kish's ``(Σα)²/Σα²`` of the attention weights (m,); 0 for an empty one."""
        weights, squared = self.columns[:1], self.kernel.squared()
        squares = (weights.square() * self.concentration).to(weights.dtype)
        first = self._sums(self.kernel, weights, queries, exclude)
        second = self._sums(squared, squares, queries, exclude)
        mass, square, faint = first.mass[0], second.mass[0], self._is_faint(first)[0]
        neighbors = torch.where(square > 0, mass.square() / square, 0.0)
        # squares underflow sooner: both sums of such rows relative to the same nearest key
        apart = (first.log_scale != 0) | (second.log_scale != 0)
        rows = (apart[0] & (mass > 0)).nonzero().squeeze(1)
        if self.kernel.tail is not None:
            key_set = KeySet(self.keys, weights[0], self.kernel.codes)
            for group, shifted in key_set.shifted_groups(self.kernel, queries, exclude, rows):
                mass[group] = shifted.sums(self.kernel, weights)[0]
                square[group] = shifted.sums(squared, squares)[0]
                neighbors[group] = mass[group].square() / square[group]
        # where squares of the weights themselves do, weights are normalised first
        least = _LEAST_SQUARED[weights.dtype]
        lost = mass < least * weights.shape[1]
        if not self.log_weights.min() < math.log(least):
            lost &= mass > 0
        self._fill_by_logs(neighbors, lost | faint, queries, exclude)
        most = float((1 / self.concentration).sum())
        return torch.where(neighbors > 0, neighbors.clamp(1.0, most), 0.0)

    def _fill_by_logs(self, neighbors, rows_mask: Tensor, queries, exclude) -> None:
        """Overwrite rows by the count from weights that are normalised first."""
        for rows, attention in self._attention_by_logs(rows_mask, queries, exclude):
            squares = attention.square() @ self.concentration.to(attention.dtype)
            neighbors[rows] = torch.where(squares > 0, 1 / squares, 0.0)

    def _attention_by_logs(
        self, rows_mask: Tensor, queries: Tensor, exclude: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield groups of rows, and their attention weights by logarithms."""
        rows = rows_mask.nonzero().squeeze(1)
        size = self._rows_per_block(len(self.keys))
        for group in rows.split(size) if len(rows) else ():
            left_out = None if exclude is None else exclude[group]
            with full_precision(self.keys):
                yield (
                    group,
                    log_attention(
                        self.kernel, self.keys, self.log_weights, queries[group], left_out
                    ),
                )

    def _is_faint(self, sums: KernelSums) -> Tensor:
        """Return which rows (..., m) have so little mass that keys too light for it may matter."""
        if not self._has_light:
            return torch.zeros_like(sums.mass, dtype=torch.bool)
        dtype = self.keys.dtype
        share = len(self.keys) * least_weight(dtype) / torch.finfo(dtype).eps
        return sums.log_scale + sums.mass.log() < math.log(share)

    @cached_property
    def _has_light(self) -> bool:
        """Whether keys are lighter than their columns say."""
        return bool(self.log_weights.min() < math.log(least_weight(self.keys.dtype)) - 1e-6)

    def _sums(self, kernel, columns, queries, exclude) -> KernelSums:
        """Return sums of other columns; Fourier transforms may have no room for the square."""
        algorithm = "auto" if self.algorithm == "nufft" else self.algorithm
        return kernel_sums(
            kernel, queries[None], self.keys[None], columns[None],
            exclude=exclude, algorithm=algorithm, rtol=self.rtol,
        )  # fmt: skip

    def _rows_per_block(self, width: int) -> int:
        return max(1, tile_elements(self.keys.device, self.keys.dtype) // width)

    def attention(
        self, queries: Tensor, exclude: Tensor | None = None, width: int = 1
    ) -> Iterator[tuple[slice, Tensor, int]]:
        """Yield blocks of queries, their attention weights (m_b, n), and how many are empty.

        Blocks are small enough for matrices of `width` columns, where the caller makes such.
        """
        if self.empty_neighborhood == "raise":
            self.predict(queries, exclude)  # refuses with the count over all queries
        size = self._rows_per_block(max(len(self.keys), width))
        for start in range(0, len(queries), size):
            block = slice(start, min(start + size, len(queries)))
            left_out = None if exclude is None else exclude[block]
            yield block, *self._attention_block(queries[block], left_out)

    def _attention_block(self, queries: Tensor, exclude: Tensor | None) -> tuple[Tensor, int]:
        with full_precision(self.keys):
            return self._full_attention_block(queries, exclude)

    def _full_attention_block(self, queries: Tensor, exclude: Tensor | None) -> tuple[Tensor, int]:
        weights = profile_of_pairs(self.kernel, queries, self.keys) * self.columns[0]
        _drop(weights, exclude)
        mass = weights.sum(dim=1)
        weak = self._is_faint(KernelSums.plain(mass[:, None]))
        underflown = underflowing_rows(self.kernel, mass, weights.dtype)
        weak = weak if underflown is None else weak | underflown
        for rows, attention in self._attention_by_logs(weak, queries, exclude):
            weights[rows] = attention.to(weights.dtype)
        mass = weights.sum(dim=1)
        empty = mass <= 0
        n_empty = int(empty.sum())
        if n_empty:
            refuse_if_raising(self.empty_neighborhood, n_empty, len(queries))
            self._fill_attention(weights, queries, exclude, empty)
        return weights / weights.sum(dim=1, keepdim=True), n_empty

    def _fill_attention(self, weights, queries, exclude, empty) -> None:
        if self.empty_neighborhood == "nan":
            weights[empty] = torch.nan
        elif self.empty_neighborhood == "mean":
            weights[empty] = self.columns[0]
            _drop(weights, torch.where(empty, exclude, -1) if exclude is not None else None)
        else:
            nearest = nearest_kernel(self.kernel)
            key_set = KeySet(self.keys, self.columns[0], self.kernel.codes)
            rows = empty.nonzero().squeeze(1)
            for group, shifted in key_set.shifted_groups(
                nearest, queries, exclude, rows, tiles=True
            ):
                for block, tile in shifted.tiles(nearest):
                    weights[group, block] = tile * self.columns[0, block]


def _drop(weights: Tensor, exclude: Tensor | None) -> None:
    if exclude is not None:
        rows = (exclude >= 0).nonzero().squeeze(1)
        weights[rows, exclude[rows]] = 0.0
