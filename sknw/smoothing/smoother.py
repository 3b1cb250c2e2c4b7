"""From kernel sums to predictions: local fits, leave-one-out, attention weights.

Everything here is in embedded space, where the bandwidth is 1, and in scaled targets. `Smoother`
keeps the keys ready for many queries. A query without a key in reach follows the policy of
`sknw.smoothing.empty`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from sknw.data.arrays import accumulator_dtype, least_weight
from sknw.smoothing.cells import OwnCells, weight_at_zero
from sknw.smoothing.empty import Fallback, refuse_if_raising
from sknw.smoothing.gradients import Gradient, fill_empty_gradients, gradients_of_attention
from sknw.smoothing.local_fit import LocalFit
from sknw.smoothing.log_attention import log_attention, profile_of_pairs
from sknw.smoothing.method import Method
from sknw.smoothing.own_weights import OwnWeights
from sknw.sums import ALGORITHMS, Algorithm, KernelSums, PreparedSums, Problem, choose, kernel_sums
from sknw.sums.engine import full_precision
from sknw.sums.evaluators.compiled.readiness import beside_compilers
from sknw.sums.geometry.distances import tile_elements
from sknw.sums.tails import KeySet, nearest_kernel, underflowing_rows

# Sums of weights over which their squares do not underflow, for each key.
_LEAST_SQUARED = {torch.float64: 1e-140, torch.float32: 1e-14}


def value_columns(values: Tensor, weights: Tensor) -> Tensor:
    """Return the columns ``w [1, v]`` of shape (b, 1 + k, n)."""
    weights = weights[:, None]
    return torch.cat([weights, weights * values.mT], dim=1)


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
    method : Method
        How to smooth.
    keys : Tensor of shape (n, d)
        Keys in bandwidth units.
    columns : Tensor of shape (1 + k, n)
        Weights, and weights times values.
    log_weights : Tensor of shape (n,)
        Logarithms of the weights, which may be less than the columns can hold.
    concentration : Tensor of shape (n,)
        Sum of the squared shares of the observations of which a key is made; 1 for one.
    own : OwnCells or None, default=None
        Where the keys are cells of equal rows: what leave-one-out predicts.
    """

    method: Method
    keys: Tensor
    columns: Tensor
    log_weights: Tensor
    concentration: Tensor
    own: OwnCells | None = None
    _prepared: dict[str, PreparedSums] = field(default_factory=dict)
    _chosen: dict[tuple, Algorithm] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        method: Method,
        keys: Tensor,
        values: Tensor,
        weights: Tensor,
        *,
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
        return cls(method, keys, columns, log_weights, concentration, own)

    def choose(self, queries: Tensor | None = None, exclude: Tensor | None = None) -> Algorithm:
        """Return the algorithm for these queries (m, d); None: for the keys themselves."""
        n_queries = len(self.keys if queries is None else queries)
        like = (n_queries.bit_length(), queries is None, exclude is None)
        if like not in self._chosen:  # looking at the keys takes time
            self._chosen[like] = self._choose(queries, exclude)
        return self._chosen[like]

    def _choose(self, queries: Tensor | None, exclude: Tensor | None) -> Algorithm:
        return choose(
            self.method.algorithm,
            Problem.of(
                self.method.kernel,
                None if queries is None else queries[None],
                self.keys[None],
                n_columns=len(self.columns),
                leave_one_out=queries is None or exclude is not None,
                needs_grad=False,
                rtol=self.method.rtol,
                prepared=tuple(self._prepared),
            ),
        )

    def predict(self, queries: Tensor | None, exclude: Tensor | None = None) -> Prediction:
        """Return the means (m, k) of queries (m, d); None: of the rows, each leaving itself out."""
        prepared = self._prepared_by(self.choose(queries, exclude))
        sums = prepared.sums(None if queries is None else queries[None], exclude)
        if queries is None:
            queries = self.keys
            exclude = torch.arange(len(queries), device=queries.device)
            if self.own is not None:
                sums = self.own.added(sums, self.method.kernel)
                queries, exclude = self.keys[self.own.of_row], self.own.of_row
        fit = LocalFit.of(sums.sums)
        means, empty = fit.means, fit.empty
        self._redo_faint(means[0], empty[0], self._is_faint(sums)[0], queries, exclude)
        fallback = Fallback(self.method, prepared.key_set(0), self.columns)
        means = fallback.fill(means[0], empty[0], queries, exclude)
        return Prediction(means, int(empty.sum()), sums.report)

    def _prepared_by(self, algorithm: Algorithm, purpose: str = "") -> PreparedSums:
        """Return the keys as an algorithm prepared them, once.

        With a purpose of their own they do not count where the algorithm of others is chosen.
        """
        name = f"{algorithm.name}{purpose}"
        prepared = self._prepared.get(name)
        if prepared is None:
            self._prepared[name] = prepared = self._prepared_sums(algorithm)
        return prepared

    def _prepared_sums(self, algorithm: Algorithm) -> PreparedSums:
        return PreparedSums.of(self.method.kernel, self.keys[None], self.columns[None], algorithm)

    def gradient(self, queries: Tensor) -> Gradient:
        """Return the gradients of the means of queries (m, d) by the queries."""
        algorithm = self.choose(queries)
        prepared = self._prepared_by(algorithm)
        gradients, empty, report = self._gradients(prepared, queries)
        empty = fill_empty_gradients(self.method.empty_neighborhood, gradients, empty)
        return Gradient(gradients, empty, report)

    def _gradients(self, prepared: PreparedSums, queries: Tensor) -> tuple[Tensor, Tensor, dict]:
        """Return gradients (m, d, k), which rows are empty (m,), and the report of the sums."""
        algorithm = prepared.algorithm
        ran = prepared.run(queries[None], None)
        fit = LocalFit.of(ran.sums.sums)
        with full_precision(self.keys), beside_compilers():
            gradients = algorithm.ratio_gradients(prepared.state, ran.plan, fit.means, fit.mass)[0]
        gradients, empty, fallback = (
            gradients.to(fit.means.dtype),
            fit.empty[0],
            ran.fallback.rows[0],
        )
        if algorithm.is_approximate and fallback.any():
            rows = fallback.nonzero().squeeze(1)
            exact = self._prepared_by(ALGORITHMS["blocks"](self.method.rtol), " of rows done again")
            gradients[rows], empty[rows], _ = self._gradients(exact, queries[rows])
            fallback = torch.zeros_like(fallback)
        weak = fallback | self._is_faint(ran.sums)[0]
        values = (self.columns[1:] / self.columns[0]).mT
        for rows, attention in self._attention_by_logs(weak, queries, None):
            gradients[rows] = gradients_of_attention(
                self.method.kernel, queries[rows], self.keys, attention, values
            ).to(gradients.dtype)
            empty[rows] = attention.sum(dim=1) == 0
        return gradients, empty, ran.sums.report

    def own_weights(self) -> OwnWeights:
        """Return what keys weigh in the estimates at themselves."""
        weights, squared = self.columns[:1], self.method.kernel.squared()
        first = self._sums(self.method.kernel, weights, self.keys, None)
        second = self._sums(squared, weights, self.keys, None)
        mass = first.mass[0]
        share = weights[0].to(mass.dtype) / torch.where(mass > 0, mass, 1.0)
        own = weight_at_zero(self.method.kernel, share) * share
        square = share * (second.mass[0] / torch.where(mass > 0, mass, 1.0))
        neighbors = self.effective_neighbors(self.keys)
        concentration = torch.where(neighbors > 0, 1 / neighbors, 0.0)
        # where weights are too light for the sums, or there are none: pair by pair
        rows = (self._is_faint(first)[0] | (mass <= 0)).nonzero().squeeze(1)
        for block, attention, _ in self.attention(self.keys[rows]) if len(rows) else ():
            found = OwnWeights.of(attention.double(), rows[block], self.log_weights)
            own[rows[block]], square[rows[block]] = found.own, found.square
            concentration[rows[block]] = attention.double().square() @ self.concentration.double()
        return OwnWeights(own, square, concentration)

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
        weights, squared = self.columns[:1], self.method.kernel.squared()
        squares = (weights.square() * self.concentration).to(weights.dtype)
        first = self._sums(self.method.kernel, weights, queries, exclude)
        second = self._sums(squared, squares, queries, exclude)
        mass, square, faint = first.mass[0], second.mass[0], self._is_faint(first)[0]
        neighbors = torch.where(square > 0, mass.square() / square, 0.0)
        # squares underflow sooner: both sums of such rows relative to the same nearest key
        apart = (first.log_scale != 0) | (second.log_scale != 0)
        rows = (apart[0] & (mass > 0)).nonzero().squeeze(1)
        if self.method.kernel.tail is not None:
            key_set = KeySet(self.keys, weights[0], self.method.kernel.codes)
            for group, shifted in key_set.shifted_groups(
                self.method.kernel, queries, exclude, rows
            ):
                mass[group] = shifted.sums(self.method.kernel, weights)[0]
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
                        self.method.kernel, self.keys, self.log_weights, queries[group], left_out
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
        algorithm = "auto" if self.method.algorithm == "nufft" else self.method.algorithm
        return kernel_sums(
            kernel, queries[None], self.keys[None], columns[None],
            exclude=exclude, algorithm=algorithm, rtol=self.method.rtol,
        )  # fmt: skip

    def _rows_per_block(self, width: int) -> int:
        return max(1, tile_elements(self.keys.device, self.keys.dtype) // width)

    def attention(
        self, queries: Tensor, exclude: Tensor | None = None, width: int = 1
    ) -> Iterator[tuple[slice, Tensor, int]]:
        """Yield blocks of queries, their attention weights (m_b, n), and how many are empty.

        Blocks are small enough for matrices of `width` columns, where the caller makes such.
        """
        if self.method.empty_neighborhood == "raise":
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
        attention, empty = self._attention_and_empty(queries, exclude)
        return attention, int(empty.sum())

    def _attention_and_empty(
        self, queries: Tensor, exclude: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return attention weights (m, n), and which rows (m,) have no key in reach."""
        weights = profile_of_pairs(self.method.kernel, queries, self.keys) * self.columns[0]
        _drop(weights, exclude)
        mass = weights.sum(dim=1)
        weak = self._is_faint(KernelSums.plain(mass[:, None]))
        underflown = underflowing_rows(self.method.kernel, mass, weights.dtype)
        weak = weak if underflown is None else weak | underflown
        for rows, attention in self._attention_by_logs(weak, queries, exclude):
            weights[rows] = attention.to(weights.dtype)
        mass = weights.sum(dim=1)
        empty = mass <= 0
        n_empty = int(empty.sum())
        if n_empty:
            refuse_if_raising(self.method.empty_neighborhood, n_empty, len(queries))
            self._fill_attention(weights, queries, exclude, empty)
        return weights / weights.sum(dim=1, keepdim=True), empty

    def _fill_attention(self, weights, queries, exclude, empty) -> None:
        if self.method.empty_neighborhood == "nan":
            weights[empty] = torch.nan
        elif self.method.empty_neighborhood == "mean":
            weights[empty] = self.columns[0]
            _drop(weights, torch.where(empty, exclude, -1) if exclude is not None else None)
        else:
            nearest = nearest_kernel(self.method.kernel)
            key_set = KeySet(self.keys, self.columns[0], self.method.kernel.codes)
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
