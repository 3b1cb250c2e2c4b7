"""Smoothing with a window that follows the density of the keys: nearest-neighbour bandwidths.

Distances are divided by the distance to the k-th nearest *other* key, of the query or of each key.
No embedding does that, so the algorithms of the kernel sums do not apply: every query meets every
key in blocks, in time proportional to their product and memory linear in their numbers.

A query that coincides with a key counts as that key: it is not its own neighbour. So predictions at
the training rows and the radii found in fit belong together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from sklearn.neighbors import KDTree
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.kernels import Kernel
from sknw.smoothing.empty import refuse_if_raising
from sknw.smoothing.gradients import (
    Gradient,
    fill_empty_gradients,
    gradients_by_rates,
    gradients_by_slopes,
)
from sknw.smoothing.local_polynomial import (
    LocalPolynomial,
    Terms,
    cells_of,
    equivalent_weights,
    fits_of_attention,
)
from sknw.smoothing.method import Method
from sknw.smoothing.own_weights import OwnWeights
from sknw.smoothing.smoother import Prediction, value_columns
from sknw.sums.engine import full_precision
from sknw.sums.evaluators.compiled.readiness import beside_compilers
from sknw.sums.geometry.distances import differences_squared, tile_elements
from sknw.sums.tails import nearest_kernel

NEIGHBOR_KINDS = ("query", "key")


class NeighborDistances:
    """Distances from points to their nearest other keys.

    Parameters
    ----------
    keys : Tensor of shape (n, d)
        The keys.
    """

    def __init__(self, keys: Tensor):
        self.n_keys = len(keys)
        self._tree = KDTree(to_numpy(keys.double()))

    def to(self, points: Tensor, ranks: list[int]) -> np.ndarray:
        """Return the distances (m, len(ranks)) to the neighbours of these ranks, from 1."""
        ranks = np.asarray(ranks)
        rows = max(1, tile_elements(points.device, torch.float64) // int(ranks.max() + 1))
        found = np.empty((len(points), len(ranks)))
        for start in range(0, len(points), rows):
            block = slice(start, start + rows)
            n_found = min(int(ranks.max()) + 1, self.n_keys)
            distances, _ = self._tree.query(to_numpy(points[block].double()), k=n_found)
            itself = (distances[:, :1] == 0).astype(int)
            places = np.minimum(ranks - 1 + itself, n_found - 1)
            found[block] = np.take_along_axis(distances, places, axis=1)
        return found


@dataclass(frozen=True, eq=False)
class NeighborSmoother:
    """Keys, values and weights ready for queries, each pair with a bandwidth of its own.

    It answers as `sknw.smoothing.smoother.Smoother` does.

    Parameters
    ----------
    method : Method
        How to smooth; the algorithm is always dense.
    keys : Tensor of shape (n, d)
        Keys in the units of X.
    columns : Tensor of shape (1 + k, n)
        Weights, and weights times values.
    radii : Tensor of shape (n,)
        Distance of each key to its `n_neighbors`-th nearest other key.
    n_neighbors : int
        Rank of the neighbour whose distance is the bandwidth.
    kind : {"query", "key"}
        Whose neighbour.
    distances : NeighborDistances
        Of the keys.
    """

    method: Method
    keys: Tensor
    columns: Tensor
    radii: Tensor
    n_neighbors: int
    kind: str
    distances: NeighborDistances

    name = "dense"  # the algorithm

    @classmethod
    def of(
        cls,
        method: Method,
        keys: Tensor,
        values: Tensor,
        weights: Tensor,
        *,
        radii: np.ndarray,
        n_neighbors: int,
        kind: str,
        distances: NeighborDistances | None = None,
    ) -> "NeighborSmoother":
        """Make the value columns."""
        return cls(
            method,
            keys,
            value_columns(values[None], weights[None])[0],
            to_tensor(radii, dtype=keys.dtype, device=keys.device),
            n_neighbors,
            kind,
            distances or NeighborDistances(keys),
        )

    def choose(self) -> "NeighborSmoother":
        """Return what does the sums: this itself."""
        return self

    def predict(self, queries: Tensor | None, exclude: Tensor | None = None) -> Prediction:
        """Return the means (m, k) of queries (m, d); None: of the keys, each leaving itself out."""
        radii = None
        if queries is None:
            queries, exclude = self.keys, torch.arange(len(self.keys), device=self.keys.device)
            radii = self.radii
        values = self._values()
        means = queries.new_empty((len(queries), len(values[0])), dtype=torch.float64)
        n_empty = n_lowered = 0
        for block, weights, empty, fit in self._fitted_blocks(queries, exclude, radii=radii):
            means[block] = weights @ values
            n_empty += empty
            n_lowered += 0 if fit is None else int(fit.lowered.sum())
        refuse_if_raising(self.method.empty_neighborhood, n_empty, len(queries))
        report = self._report(len(queries))
        if self.method.degree:
            report["rows_lowered"] = n_lowered + n_empty
        return Prediction(means, n_empty, report)

    def effective_neighbors(self, queries: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Return Kish's ``(Σα)²/Σα²`` of the attention weights (m,); 0 for an empty one."""
        neighbors = queries.new_empty(len(queries), dtype=torch.float64)
        for block, weights, _ in self._blocks(queries, exclude, fill=False):
            squared = weights.square().sum(dim=1)
            neighbors[block] = torch.where(squared > 0, squared.reciprocal(), 0.0)
        return neighbors

    def gradient(self, queries: Tensor) -> Gradient:
        """Return the gradients of the means of queries (m, d) by the queries, at fixed windows."""
        kernel, values = self.method.kernel, self._values()
        shape = len(queries), queries.shape[1], values.shape[1]
        gradients = queries.new_zeros(shape, dtype=torch.float64)
        empty = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
        for block, squares, radii in self._squares(queries, None):
            rows = queries[block].double()
            with full_precision(self.keys), beside_compilers():
                weights, empty[block] = self._weights(kernel, squares, None)
                mass = torch.where(empty[block], 1.0, weights.sum(dim=1))[:, None]
                if kernel.tail is None:
                    slopes = kernel.profile_derivative(squares.clone()) * self.columns[0].double()
                    found = gradients_by_slopes(
                        rows, self.keys.double(), weights / mass, slopes / (mass * radii**2), values
                    )
                else:
                    rates = kernel.log_profile_derivative(squares.clone()) / radii**2
                    found = gradients_by_rates(
                        rows, self.keys.double(), weights / mass, rates, values
                    )
                if self.method.degree:
                    fit = self._fit(weights / mass, rows, with_slopes=True)
                    found = fit.slopes + fit.share_of_constant[:, None, None] * found
            gradients[block] = found
        empty = fill_empty_gradients(self.method.empty_neighborhood, gradients, empty)
        return Gradient(gradients, empty, self._report(len(queries)))

    def own_weights(self) -> OwnWeights:
        """Return what keys weigh in the estimates at themselves."""
        found, log_weights = [], self.columns[0].double().log()
        for block, weights, _, _ in self._fitted_blocks(self.keys, None):
            rows = torch.arange(len(self.keys), device=self.keys.device)[block]
            found.append(OwnWeights.of(weights, rows, log_weights))
        return OwnWeights.joined(found)

    @cached_property
    def _terms(self) -> Terms:
        """The monomials of the fits."""
        return Terms.of(self.keys, self.columns[0], self.method.degree)

    @cached_property
    def _cell(self) -> Tensor | None:
        """Which keys have equal X."""
        return cells_of(self.keys)

    def _fit(
        self, attention: Tensor, queries: Tensor, *, with_slopes: bool = False
    ) -> LocalPolynomial:
        """Return the fits of queries (m, d) with attention weights (m, n), in float64."""
        points = queries.double(), self.keys.double()
        return fits_of_attention(
            self._terms, attention, *points, self._values(), self._cell, with_slopes=with_slopes
        )

    def _fitted_blocks(
        self, queries: Tensor, exclude: Tensor | None, **more
    ) -> Iterator[tuple[slice, Tensor, int, LocalPolynomial | None]]:
        """Yield what `_blocks` does, weights of the degree's equivalent kernel, and the fits."""
        if not self.method.degree:
            yield from ((*found, None) for found in self._blocks(queries, exclude, **more))
            return
        fills = more.pop("fill", True)
        plain = self._blocks(queries, exclude, fill=False, **more)
        for block, attention, n_empty in plain:
            rows = queries[block]
            fit = self._fit(attention, rows)
            weights = equivalent_weights(
                self._terms, fit, attention, rows.double(), self.keys.double()
            )
            if fills and n_empty:
                left_out = None if exclude is None else exclude[block]
                at = fit.empty.nonzero().squeeze(1)
                radii = more.get("radii")
                of_empty = self._blocks(
                    rows[at],
                    None if left_out is None else left_out[at],
                    radii=None if radii is None else radii[block][at],
                )
                weights[at] = torch.cat([filled for _, filled, _ in of_empty])
            yield block, weights, n_empty, fit

    def _values(self) -> Tensor:
        """Return the values (n, k)."""
        key_weights, weighted = self.columns[0].double(), self.columns[1:].double()
        return torch.where(key_weights > 0, weighted / key_weights, 0.0).mT

    def _report(self, n_queries: int) -> dict:
        return {
            "algorithm": self.name,
            "evaluator": "torch",
            "n_queries": n_queries,
            "n_keys": len(self.keys),
            "share_of_pairs": 1.0,
            "rows_redone": 0,
            "audited_error": 0.0,
        }

    def attention(
        self, queries: Tensor, exclude: Tensor | None = None, width: int = 1
    ) -> Iterator[tuple[slice, Tensor, int]]:
        """Yield blocks of queries, their attention weights (m_b, n), and how many are empty."""
        for block, weights, empty, _ in self._fitted_blocks(queries, exclude, width=width):
            refuse_if_raising(self.method.empty_neighborhood, empty, len(queries))
            yield block, weights.to(self.keys.dtype), empty

    def _blocks(
        self,
        queries: Tensor,
        exclude: Tensor | None,
        *,
        radii: Tensor | None = None,
        fill: bool = True,
        width: int = 1,
    ) -> Iterator[tuple[slice, Tensor, int]]:
        """Yield normalised weights in float64, empty rows filled by the policy or left zero."""
        for block, squares, _ in self._squares(queries, radii, width):
            left_out = None if exclude is None else exclude[block]
            with full_precision(self.keys), beside_compilers():
                weights, empty = self._weights(self.method.kernel, squares, left_out)
                if fill and empty.any():
                    self._fill(weights, squares, left_out, empty)
            mass = weights.sum(dim=1, keepdim=True)
            yield block, weights / torch.where(mass == 0, 1.0, mass), int(empty.sum())

    def _squares(
        self, queries: Tensor, radii: Tensor | None, width: int = 1
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield blocks of queries with squared distances over squared bandwidths (m_b, n).

        And the bandwidths, (m_b, 1) or (1, n).
        """
        if radii is None and self.kind == "query":
            found = self.distances.to(queries, [self.n_neighbors])[:, 0]
            radii = to_tensor(found, dtype=queries.dtype, device=queries.device)
        columns = max(len(self.keys), width)
        size = max(1, tile_elements(self.keys.device, torch.float64) // columns)
        for start in range(0, len(queries), size):
            block = slice(start, min(start + size, len(queries)))
            of_block = self.radii[None] if self.kind == "key" else radii[block, None]
            with full_precision(self.keys), beside_compilers():
                squares = self._scaled_squares(queries[block], of_block)
            yield block, squares, of_block.double()

    def _scaled_squares(self, queries: Tensor, radii: Tensor) -> Tensor:
        """Return squared distances over squared bandwidths (m, n)."""
        squares = differences_squared(queries.double(), self.keys.double())
        scaled = squares / radii.double().square()
        if not self.method.kernel.has_edge:
            return scaled
        # among those at the edge is the neighbour whose distance is the bandwidth
        query_sizes, key_sizes = (
            self.method.kernel.sizes(rows[None])[0] for rows in (queries, self.keys)
        )
        edges = (
            self.method.kernel.edge_allowance(sizes / radii, self.keys.dtype).double()
            for sizes in (query_sizes[:, None], key_sizes)
        )
        return scaled.masked_fill_((scaled - 1).abs() <= sum(edges), 1.0)

    def _usable(self, n_queries: int, exclude: Tensor | None) -> Tensor:
        usable = (self.columns[0] > 0).expand(n_queries, -1)
        if exclude is None:
            return usable
        rows = (exclude >= 0).nonzero().squeeze(1)
        usable = usable.clone()
        usable[rows, exclude[rows]] = False
        return usable

    def _weights(
        self, kernel: Kernel, squares: Tensor, exclude: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return weights (m, n), each row in units of its own, and which rows are empty (m,)."""
        usable = self._usable(len(squares), exclude)
        if kernel.tail is None:
            weights = kernel.profile(squares.clone())
        else:
            nearest = squares.masked_fill(~usable, torch.inf).amin(dim=1, keepdim=True)
            nearest = nearest.nan_to_num(posinf=0.0)
            weights = kernel.tail(squares - nearest, nearest)
        weights = torch.where(usable, weights * self.columns[0].double(), 0.0)
        return weights, weights.sum(dim=1) <= 0

    def _fill(self, weights: Tensor, squares: Tensor, exclude: Tensor | None, empty: Tensor):
        """Overwrite the empty rows of weights by what the policy says."""
        rows = empty.nonzero().squeeze(1)
        left_out = None if exclude is None else exclude[rows]
        if self.method.empty_neighborhood == "nan":
            weights[rows] = torch.nan
        elif self.method.empty_neighborhood == "mean":
            usable = self._usable(len(rows), left_out)
            weights[rows] = torch.where(usable, self.columns[0].double(), 0.0)
        else:
            nearest = nearest_kernel(self.method.kernel)
            weights[rows], _ = self._weights(nearest, squares[rows], left_out)
