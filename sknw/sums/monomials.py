"""Monomials of the steps from a query to its keys, and what one tile adds to their sums.

With steps ``t_ij = z_j − q_i`` and an exponent ``a`` for each feature, ``t^a = Π_f t_f^(a_f)``. The
moments of a kernel are ``M_a(i) = Σ_j K_ij t_ij^a v_j``: sums under ``u^a K(u)``, which is a kernel
of its own. Steps are taken pair by pair. Sums of monomials about a common centre, shifted to each
query afterwards, would lose the steps to rounding where the centre is far.

Each monomial is a product of one of a lower degree with one step, so a tile is multiplied once per
monomial. They are visited depth first: as many tiles are alive as the order says.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from sknw.support import tuning


@dataclass(frozen=True, eq=False)
class Monomials:
    """All monomials of so many features up to a total degree, by degree.

    Parameters
    ----------
    exponents : ndarray of shape (p, d)
        Exponent of each feature; the first monomial is 1.
    """

    exponents: np.ndarray

    @classmethod
    def up_to(cls, n_features: int, order: int) -> "Monomials":
        """Return the monomials of total degree at most `order`.

        Raises
        ------
        ValueError
            If the order is no integer >= 0, or there are more than 50,000 of them.
        """
        if not isinstance(order, int) or isinstance(order, bool) or order < 0:
            raise ValueError(f"order must be an integer >= 0; got {order!r}.")
        n_monomials = math.comb(n_features + order, order)
        if n_monomials > tuning.MOST_MONOMIALS:
            fits = max(
                p for p in range(order) if math.comb(n_features + p, p) <= tuning.MOST_MONOMIALS
            )
            raise ValueError(
                f"Moments of order {order} in {n_features} dimensions are {n_monomials:,} "
                f"monomials, over {tuning.MOST_MONOMIALS:,}; the largest order that fits is {fits}."
            )
        return cls._graded(n_features, order)

    @classmethod
    @lru_cache(maxsize=64)
    def _graded(cls, n_features: int, order: int) -> "Monomials":
        n_monomials = math.comb(n_features + order, order)
        exponents = np.zeros((n_monomials, n_features), dtype=np.int64)
        factors = (
            chosen
            for degree in range(order + 1)
            for chosen in combinations_with_replacement(range(n_features), degree)
        )
        for row, chosen in zip(exponents, factors, strict=True):
            np.add.at(row, list(chosen), 1)
        return cls(exponents)

    @classmethod
    @lru_cache(maxsize=64)
    def squares(cls, n_features: int) -> "Monomials":
        """Return 1 and the square of each step."""
        ones = np.zeros((1, n_features), dtype=np.int64)
        return cls(np.concatenate([ones, 2 * np.eye(n_features, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.exponents)

    @property
    def degrees(self) -> np.ndarray:
        """Total degree of each, (p,)."""
        return self.exponents.sum(axis=1)

    @property
    def order(self) -> int:
        """The largest total degree."""
        return int(self.degrees.max(initial=0))

    @property
    def are_squares(self) -> bool:
        """Whether these are 1 and the squares, without what is between."""
        return self.order == 2 and bool((self.degrees != 1).all())

    @cached_property
    def successors(self) -> np.ndarray:
        """Which monomial each is times each step, (p, d); -1 above the order."""
        places = {tuple(row): place for place, row in enumerate(self.exponents.tolist())}
        found = np.full(self.exponents.shape, -1)
        for place in np.flatnonzero(self.degrees < self.order):
            higher = self.exponents[place] + np.eye(found.shape[1], dtype=np.int64)
            found[place] = [places.get(tuple(row), -1) for row in higher.tolist()]
        return found

    @cached_property
    def visits(self) -> np.ndarray:
        """Place, degree and last factor's feature of each, depth first, (p, 3); not of squares.

        So each is the latest one of a degree less, times the step of that feature.
        """
        found = []

        def visit(place: int, degree: int, feature: int) -> None:
            found.append((place, degree, feature))
            for other in range(feature, self.exponents.shape[1]):
                if self.successors[place, other] >= 0:
                    visit(int(self.successors[place, other]), degree + 1, other)

        visit(0, 0, 0)
        return np.array(found)

    def times(self, start: Tensor, steps: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Yield each monomial's place and ``start · t^a``, for steps t (..., m, n) by feature."""
        if self.are_squares:
            yield 0, start
            for feature, step in enumerate(steps):
                yield 1 + feature, start * step.square()
            return
        products = [start] * (1 + self.order)
        for place, degree, feature in self.visits.tolist():
            if degree:
                products[degree] = products[degree - 1] * steps[feature]
            yield place, products[degree]


def steps_between(queries: Tensor, keys: Tensor) -> list[Tensor]:
    """Return ``z_j − q_i`` (..., m, n) of each feature, of points (..., m, d) and (..., n, d)."""
    return [keys[..., None, :, f] - queries[..., :, None, f] for f in range(keys.shape[-1])]


def tile_moments(
    monomials: Monomials, weights: Tensor, queries: Tensor, keys: Tensor, columns: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Yield each monomial's place and its sums (..., k, m) over the keys of one tile.

    Of weights (..., m, n), the numbers of points (..., m, d) and (..., n, d), and columns
    (..., k, n).
    """
    for place, product in monomials.times(weights, steps_between(queries, keys)):
        yield place, columns @ product.mT  # (k, n) @ (n, m)


def tile_pullback(
    monomials: Monomials,
    weights: Tensor,
    derivatives: Tensor,
    queries: Tensor,
    keys: Tensor,
    columns: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what one tile adds to the gradients of queries, keys and columns.

    With the gradient G (..., p, k, m) of the moments, a pair adds ``K T`` to the loss, where
    ``T = Σ_a ⟨G_a, v⟩ t^a`` is a polynomial of its step. So its step has the gradient
    ``K dT/dt + 2 K' T t``, where K' are the `derivatives` of the weights by the squared distance.
    """
    steps = steps_between(queries, keys)
    total, by_steps = torch.zeros_like(weights), [torch.zeros_like(weights) for _ in steps]
    by_columns = torch.zeros_like(columns)
    for place, power in monomials.times(torch.ones_like(weights), steps):
        own = grad[..., place, :, :]
        total += power * (own.mT @ columns)  # (m, k) @ (k, n)
        by_columns += own @ (weights * power)  # (k, m) @ (m, n)
        for f, successor in enumerate(monomials.successors[place].tolist()):
            if successor >= 0:
                factor = float(monomials.exponents[place, f] + 1)
                by_steps[f] += factor * power * (grad[..., successor, :, :].mT @ columns)
    of_queries, of_keys = torch.zeros_like(queries), torch.zeros_like(keys)
    for f, step in enumerate(steps):
        by_step = weights * by_steps[f] + 2 * derivatives * total * step
        of_queries[..., f] = -by_step.sum(dim=-1)
        of_keys[..., f] = by_step.sum(dim=-2)
    return of_queries, of_keys, by_columns


def tile_polynomial(
    monomials: Monomials, queries: Tensor, keys: Tensor, columns: Tensor, grad: Tensor
) -> Tensor:
    """Return ``Σ_a ⟨G_a, v⟩ t^a`` of the pairs of one tile, (..., m, n).

    For the gradient G (..., p, k, m), the numbers of points (..., m, d) and (..., n, d), and
    columns (..., k, n).
    """
    steps = steps_between(queries, keys)
    ones = columns.new_ones((*columns.shape[:-2], queries.shape[-2], keys.shape[-2]))
    total = torch.zeros_like(ones)
    for place, power in monomials.times(ones, steps):
        total += power * (grad[..., place, :, :].mT @ columns)  # (m, k) @ (k, n)
    return total


def order_of(monomials: Monomials | None) -> int:
    """Return the order of the moments; that of sums is 0."""
    return 0 if monomials is None else monomials.order
