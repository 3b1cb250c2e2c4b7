"""Local polynomials: from the moments of a query to its weights, its estimate and its slopes.

With the monomials φ of the steps u from the query to the keys, the fit minimises
``Σ_j K_j w_j (y_j − β·φ(u_j))²``. Its normal matrix ``M_ab = Σ_j K_j w_j u_j^(a + b)`` and its
right side ``b_a = Σ_j K_j w_j u_j^a y_j`` are moments. The estimate is

    β_0 = Σ_j l_j y_j    with  l_j = K_j w_j c·φ(u_j)  and  M c = e_0

so c stands for the whole row of the hat matrix. A fit with too few neighbours could leave the range
of the data by any amount. What bounds it is ``A = S_0 (M⁻¹)_00``, S_0 being the mass: the negative
weights sum to at most ``(√A − 1)/2``. A fit with a large A and few neighbours is therefore mixed
with the fit of the lower degree, whose rule is the same; of degree 0 the weights are positive.
Mixed fits are again weights ``K_j w_j c·φ(u_j)``, so everything that follows from c holds for them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.sums.monomials import Monomials, steps_between, tile_moments
from sknw.support import tuning

MOST_DEGREE = 3


@lru_cache(maxsize=64)
def _products(n_features: int, degree: int) -> np.ndarray:
    """Return which moment up to twice the degree each product of two monomials is, (p, p)."""
    places = {
        tuple(row): place
        for place, row in enumerate(Monomials.up_to(n_features, 2 * degree).exponents.tolist())
    }
    exponents = Monomials.up_to(n_features, degree).exponents
    sums = exponents[:, None] + exponents[None]
    return np.array([[places[tuple(entry)] for entry in row] for row in sums.tolist()])


def check_degree(degree: int) -> None:
    """Refuse what is no degree of a local polynomial.

    Raises
    ------
    ValueError
    """
    is_integer = isinstance(degree, Integral) and not isinstance(degree, bool)
    if not is_integer or not 0 <= degree <= MOST_DEGREE:
        raise ValueError(
            f"degree must be an integer from 0 (local means) to {MOST_DEGREE}; got {degree!r}."
        )


def check_moments(degree: int, n_numbers: int) -> None:
    """Refuse a degree with more moments than are worth it.

    Raises
    ------
    ValueError
        With their number, and the largest degree that fits.
    """

    def n_moments(degree: int) -> int:
        return math.comb(n_numbers + 2 * degree, 2 * degree)

    if n_moments(degree) > tuning.MOST_MONOMIALS:
        fits = max(p for p in range(degree) if n_moments(p) <= tuning.MOST_MONOMIALS)
        raise ValueError(
            f"degree={degree} in {n_numbers} dimensions needs {n_moments(degree):,} moments, over "
            f"{tuning.MOST_MONOMIALS:,}; the largest degree that fits is {fits}."
        )


def determined_terms(keys: Tensor, weights: Tensor, degree: int) -> Tensor:
    """Return which monomials (p,) all keys (n, d) with weight can tell apart.

    A constant or repeated column, and a square of a column with two levels, are combinations of
    the monomials before them: they have no coefficient. Where a key is does not matter, nor the
    units of the columns.
    """
    usable = keys[weights > 0].double()
    centred = usable - usable.mean(dim=0) if len(usable) else usable
    sizes = centred.abs().amax(dim=0) if len(usable) else centred.sum(dim=0)
    # rounding of the coordinates themselves is no variation
    noise = 4 * torch.finfo(torch.float64).eps * usable.abs().amax(dim=0) if len(usable) else sizes
    varies = sizes > noise
    centred = centred / torch.where(varies, sizes, 1.0) * varies
    exponents = Monomials.up_to(keys.shape[1], degree).exponents
    gram = np.zeros((len(exponents), len(exponents)))
    for rows in centred.split(tuning.KEYS_PER_TILE * 16) if len(usable) else ():
        columns = _monomials_of(list(rows.unbind(dim=1)), rows.new_ones(len(rows)), exponents)
        gram += to_numpy(columns.mT @ columns)
    found = np.zeros(len(gram), dtype=bool)
    total = np.diag(gram).copy()
    for j in range(len(gram)):
        if total[j] > 0 and gram[j, j] > tuning.LEAST_PIVOT_OF_TERMS * total[j]:
            found[j] = True
            gram = gram - np.outer(gram[:, j], gram[j]) / gram[j, j]
    if len(found):
        found[0] = True
    return to_tensor(found, dtype=torch.bool, device=keys.device)


def _monomials_of(steps: list[Tensor], ones: Tensor, exponents: np.ndarray) -> Tensor:
    """Return the monomials (..., p) of steps (...) by feature."""
    found: dict[tuple, Tensor] = {}
    for row in map(tuple, exponents.tolist()):
        features = [f for f, exponent in enumerate(row) if exponent]
        if not features:
            found[row] = ones
            continue
        f = features[-1]
        before = (*row[:f], row[f] - 1, *row[f + 1 :])
        found[row] = found[before] * steps[f]
    return torch.stack(list(found.values()), dim=-1)


@dataclass(frozen=True, eq=False)
class Terms:
    """The monomials of a fit.

    Parameters
    ----------
    n_features, degree : int
        How many features, and up to which total degree.
    determined : Tensor of shape (..., p)
        Which of them have a coefficient; leading dimensions like those of the rows.
    """

    n_features: int
    degree: int
    determined: Tensor

    @classmethod
    def of(cls, keys: Tensor, weights: Tensor, degree: int, without: Sequence[int] = ()) -> "Terms":
        """Return the terms of keys (n, d) with weights (n,), numbers alone.

        Those of the features `without` have no coefficient.

        Raises
        ------
        ValueError
            If they are too many.
        """
        check_moments(degree, keys.shape[1])
        if len(without):
            keys = keys.clone()
            keys[:, list(without)] = 0.0
        return cls(keys.shape[1], degree, determined_terms(keys, weights, degree))

    @property
    def order(self) -> int:
        """Order of the moments that the fit is made of."""
        return 2 * self.degree

    @property
    def products(self) -> np.ndarray:
        """Which moment each product of two monomials is, (p, p)."""
        return _products(self.n_features, self.degree)

    def lower(self, rows: Tensor) -> "Terms":
        """Return the terms of one degree less, of these rows (index)."""
        n_lower = math.comb(self.n_features + self.degree - 1, self.degree - 1)
        determined = self.determined
        if determined.ndim > 1:
            determined = determined[rows]
        return Terms(self.n_features, self.degree - 1, determined[..., :n_lower])


@dataclass(frozen=True, eq=False)
class LocalPolynomial:
    """Local polynomial fits of rows, thin designs lowered.

    Parameters
    ----------
    coefficients : Tensor of shape (m, p)
        The c of each row: its weights are ``K_j w_j c·φ(u_j)``, in the unit of its moments.
    means : Tensor of shape (m, k)
        The estimates, differentiable in the moments; without meaning where empty.
    own : Tensor of shape (m,)
        ``c_0``, differentiable: what an observation at the query weighs, for a kernel weight of 1.
    slopes : Tensor of shape (m, d, k) or None
        Coefficients of the steps, if they were asked for; those of lower degrees are mixed in,
        without that of degree 0.
    share_of_constant : Tensor of shape (m,)
        How much of the fit is that of degree 0.
    bound : Tensor of shape (m,)
        What the negative weights sum to at most.
    lowered : Tensor of shape (m,)
        Which rows are mixed with a lower degree.
    mass : Tensor of shape (m,)
        Total weight; 1 where empty.
    empty : Tensor of shape (m,)
        Which rows have no key in reach.
    """

    coefficients: Tensor
    means: Tensor
    own: Tensor
    slopes: Tensor | None
    share_of_constant: Tensor
    bound: Tensor
    lowered: Tensor
    mass: Tensor
    empty: Tensor

    @classmethod
    def of(
        cls,
        terms: Terms,
        moments: Tensor,
        neighbors: Callable[[Tensor], Tensor],
        *,
        with_slopes: bool = False,
    ) -> "LocalPolynomial":
        """Fit rows to their moments.

        Parameters
        ----------
        terms : Terms
            The monomials.
        moments : Tensor of shape (m, p2, 1 + k)
            Moments of the weights and of the weighted values, up to `terms.order`.
        neighbors : callable
            Indices of rows to Kish's number of their neighbours with distinct X, (rows,).
        with_slopes : bool, default=False
            Whether slopes are asked for.
        """
        mass = moments[:, 0, 0]
        empty = mass <= 0
        if empty.any():
            mass = torch.where(empty, 1.0, mass)
            moments = torch.where(empty[:, None, None], 0.0, moments)
        if terms.degree == 0:
            return cls._constant(moments, mass, empty)
        full = _least_squares(terms, moments, mass, empty, with_slopes)
        thin = (full.bound > tuning.BOUND_OF_NEGATIVE_WEIGHTS) & ~empty
        rows = thin.nonzero().squeeze(1)
        if not len(rows):
            return full
        return full._lowered(terms, moments, rows, neighbors)

    @classmethod
    def _constant(cls, moments: Tensor, mass: Tensor, empty: Tensor) -> "LocalPolynomial":
        means = moments[:, 0, 1:] / mass[:, None]
        zero = torch.zeros_like(mass)
        own = torch.where(empty, 0.0, 1 / mass)
        return cls(
            coefficients=own[:, None].detach(),
            means=means,
            own=own,
            slopes=None,
            share_of_constant=torch.ones_like(mass).detach(),
            bound=zero,
            lowered=torch.zeros_like(empty),
            mass=mass,
            empty=empty,
        )

    def _lowered(
        self,
        terms: Terms,
        moments: Tensor,
        rows: Tensor,
        neighbors: Callable[[Tensor], Tensor],
    ) -> "LocalPolynomial":
        """Return the fits with these rows (index) mixed with those of the degree below."""
        part = terms.lower(rows)
        n_moments = math.comb(terms.n_features + part.order, part.order)
        low = LocalPolynomial.of(
            part,
            moments[rows, :n_moments],
            lambda at: neighbors(rows[at]),
            with_slopes=self.slopes is not None,
        )
        of_each = neighbors(rows) / terms.determined.sum(dim=-1).expand(len(moments))[rows]
        share = _share(self.bound[rows], low.bound, of_each)
        fixed = share.detach()

        def mixed(own: Tensor, lower: Tensor, weight: Tensor) -> Tensor:
            weight = weight.reshape(-1, *(1,) * (own.ndim - 1))
            # a share of zero stands for fits that have no finite value
            return torch.where(weight > 0, weight * own[rows], 0.0) + (1 - weight) * lower

        pad = self.coefficients.shape[1] - low.coefficients.shape[1]
        coefficients = torch.nn.functional.pad(low.coefficients, (0, pad))
        bound = torch.where(torch.isfinite(self.bound), self.bound, 0.0)
        at = {
            "coefficients": mixed(self.coefficients, coefficients, fixed),
            "means": mixed(self.means, low.means, share),
            "own": mixed(self.own, low.own, share),
            "share_of_constant": (1 - fixed) * low.share_of_constant,
            "bound": mixed(bound, low.bound, share),
            "lowered": fixed < 1,
        }
        if self.slopes is not None:
            slopes = low.slopes
            if slopes is None:  # of degree 0
                slopes = self.slopes.new_zeros((len(rows), *self.slopes.shape[1:]))
            at["slopes"] = mixed(self.slopes, slopes, fixed)
        return self._with(rows, at)

    def _with(self, rows: Tensor, fields: dict[str, Tensor]) -> "LocalPolynomial":
        whole = {
            name: getattr(self, name).index_put((rows,), part) for name, part in fields.items()
        }
        return replace(self, **whole)

    def with_rows(self, rows: Tensor, fits: "LocalPolynomial") -> "LocalPolynomial":
        """Return these fits with some rows (index) replaced by others."""
        given = {name: part for name, part in vars(fits).items() if part is not None}
        return self._with(rows, given)


def _least_squares(
    terms: Terms, moments: Tensor, mass: Tensor, empty: Tensor, with_slopes: bool
) -> LocalPolynomial:
    """Return the fits of rows as least squares has them, whatever their design."""
    p, d = len(terms.products), terms.n_features
    places = to_tensor(terms.products, dtype=torch.int64, device=moments.device)
    by_term = moments.permute(1, 2, 0)  # rows last, along which everything is done at once
    normal, right = by_term[places, 0], by_term[:p, 1:]  # (p, p, m), (p, k, m)
    with torch.no_grad():
        # values about the local mean: constants are exact, and what is left is small
        mean = right[0] / mass
        about_mean = right - mean * normal[:, :1]
        solved = _Elimination.of(normal, terms.determined)
        bound = solved.bound
        finite = torch.isfinite(bound) & ~empty
        weights = torch.where(finite, solved.weights, 0.0)  # (p, m)
        estimates = mean + (weights[:, None] * about_mean).sum(dim=0)
        beta = slopes = None
        if with_slopes or moments.requires_grad:
            beta = torch.where(finite, solved.solve(about_mean), 0.0)  # (p, k, m)
            slopes = beta[1 : 1 + d].permute(2, 0, 1)
    own = weights[0]
    if moments.requires_grad:
        beta = torch.cat([beta[:1] + mean, beta[1:]])
        # d(M⁻¹b)_0 = c·(db − dM β), and d(M⁻¹)_00 = −c·dM c, at fixed c and β
        along = (weights[:, None] * right).sum(dim=0)
        along = along - torch.einsum("pm,pqm,qkm->km", weights, normal, beta)
        estimates = estimates + (along - along.detach())
        change = torch.einsum("pm,pqm,qm->m", weights, normal, weights)
        own = own - (change - change.detach())
        bound = torch.where(finite, _bound_of(mass * own), bound)
    return LocalPolynomial(
        coefficients=weights.mT,
        means=estimates.mT,
        own=own,
        slopes=slopes if with_slopes else None,
        share_of_constant=torch.zeros_like(mass).detach(),
        bound=bound,
        lowered=torch.zeros_like(empty),
        mass=mass,
        empty=empty,
    )


def _bound_of(variance: Tensor) -> Tensor:
    """Return what negative weights sum to at most, of ``A = S_0 (M⁻¹)_00``."""
    return (variance.clamp_min(1.0).sqrt() - 1) / 2


def _share(bound: Tensor, lower: Tensor, neighbors: Tensor) -> Tensor:
    """Return how much of a fit is kept beside that of the degree below, (m,)."""
    limit = tuning.BOUND_OF_NEGATIVE_WEIGHTS
    is_enough = neighbors >= 3
    left = torch.where(is_enough, 1.0, 3 - neighbors).clamp(max=1.0)
    over = torch.where(torch.isfinite(bound) & (bound > lower), bound - lower, 1.0)
    share = ((limit / left - lower).clamp_min(0.0) / over).square().clamp(max=1.0)
    share = torch.where(is_enough, 1.0, share)
    # where rounding decides the fit it goes, and smoothly
    start, end = tuning.BOUNDS_OF_ROUNDING
    is_finite = torch.isfinite(bound)
    logs = torch.where(is_finite, bound, end).log()
    faded = ((math.log(end) - logs) / math.log(end / start)).clamp(0.0, 1.0)
    return torch.where(is_finite, share * faded.square() * (3 - 2 * faded), 0.0)


@dataclass(frozen=True, eq=False)
class _Elimination:
    """``L D Lᵀ`` of normal matrices, scaled to a diagonal of one, the intercept last.

    So the last pivot is one over ``A = S_0 (M⁻¹)_00``, and to it nothing is lost by cancellation
    that A does not show. Terms that are undetermined, or of which what is before leaves only
    rounding, have no pivot and a coefficient of zero.

    Parameters
    ----------
    factors : Tensor of shape (p, p, m)
        L, below its diagonal.
    inverses : Tensor of shape (p, m)
        One over the pivots; 0 where there is none.
    scales : Tensor of shape (p, m)
        What rows and columns were multiplied by.
    """

    factors: Tensor
    inverses: Tensor
    scales: Tensor

    @classmethod
    def of(cls, normal: Tensor, determined: Tensor) -> "_Elimination":
        """Eliminate the terms of matrices (p, p, m) one after the other."""
        p, n_rows = len(normal), normal.shape[2]
        order = [*range(1, p), 0]
        left = normal[order][:, order]
        diagonal = left.diagonal(dim1=0, dim2=1).mT  # (p, m)
        scales = torch.where(diagonal > 0, diagonal, 1.0).rsqrt() * (diagonal > 0)
        left *= scales[:, None]
        left *= scales
        may = determined[..., order].expand(n_rows, p).mT
        factors, inverses = torch.zeros_like(left), torch.zeros_like(scales)
        for j in range(p):
            pivot = left[j, j]
            usable = may[j] & (pivot > tuning.LEAST_PIVOT)
            inverses[j] = torch.where(usable, 1 / torch.where(usable, pivot, 1.0), 0.0)
            if j + 1 < p:
                factor = left[j + 1 :, j] * inverses[j]
                factors[j + 1 :, j] = factor
                left[j + 1 :, j + 1 :] -= factor[:, None] * left[j, j + 1 :]
        return cls(factors, inverses, scales)

    @property
    def bound(self) -> Tensor:
        """What negative weights sum to at most, (m,); infinite where the fit is singular."""
        variance = torch.where(self.inverses[-1] > 0, self.inverses[-1], torch.inf)
        return _bound_of(variance)

    @property
    def weights(self) -> Tensor:
        """The first row of the inverse, (p, m)."""
        right = torch.zeros_like(self.inverses)
        right[-1] = self.inverses[-1]
        self._substitute_back(right)
        return _intercept_first(right * self.scales * self.scales[-1])

    def solve(self, right: Tensor) -> Tensor:
        """Return the solutions (p, k, m) of right sides (p, k, m)."""
        x = torch.cat([right[1:], right[:1]]) * self.scales[:, None]
        for j in range(len(x) - 1):
            x[j + 1 :] -= self.factors[j + 1 :, j, None] * x[j]
        x *= self.inverses[:, None]
        self._substitute_back(x)
        return _intercept_first(x * self.scales[:, None])

    def _substitute_back(self, right: Tensor) -> None:
        """Solve with the transposed factors, in place, for right sides (p, ..., m)."""
        for j in range(len(right) - 2, -1, -1):
            factors = self.factors[j + 1 :, j]
            factors = factors if right.ndim == 2 else factors[:, None]
            right[j] -= (factors * right[j + 1 :]).sum(dim=0)


def _intercept_first(values: Tensor) -> Tensor:
    return torch.cat([values[-1:], values[:-1]])


def fits_of_attention(
    terms: Terms,
    attention: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    cell: Tensor | None,
    *,
    with_slopes: bool = False,
) -> LocalPolynomial:
    """Return the fits of queries (m, d) to keys (n, d) with values (n, k), pair by pair.

    `attention` (m, n) are their weights, which sum to one or are all zero; `cell` (n,) says which
    keys have equal X, None that all are distinct.
    """

    def neighbors(rows: Tensor) -> Tensor:
        shares = attention[rows]
        if cell is not None:
            n_cells = int(cell.max()) + 1
            shares = shares.new_zeros((len(rows), n_cells)).index_add(1, cell, shares)
        return shares.square().sum(dim=1).reciprocal()

    monomials = Monomials.up_to(terms.n_features, terms.order)
    columns = torch.cat([values.new_ones((1, len(values))), values.mT])
    moments = attention.new_empty((len(monomials), len(columns), len(attention)))
    for place, sums in tile_moments(monomials, attention, queries, keys, columns):
        moments[place] = sums
    return LocalPolynomial.of(terms, moments.permute(2, 0, 1), neighbors, with_slopes=with_slopes)


def equivalent_weights(
    terms: Terms, fit: LocalPolynomial, attention: Tensor, queries: Tensor, keys: Tensor
) -> Tensor:
    """Return the weights (m, n) whose sums of values are the estimates."""
    factors = torch.zeros_like(attention)
    monomials = Monomials.up_to(terms.n_features, terms.degree)
    ones = torch.ones_like(attention)
    for place, product in monomials.times(ones, steps_between(queries, keys)):
        factors += fit.coefficients[:, place, None] * product
    return attention * factors


def cells_of(points: Tensor) -> Tensor | None:
    """Return which points (n, d) are equal, as the number of their cell (n,); None: none are."""
    distinct, cell = torch.unique(points, dim=0, return_inverse=True)
    return None if len(distinct) == len(points) else cell
