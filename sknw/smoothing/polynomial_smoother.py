"""Smoothing by local polynomials: what `Smoother` does, of a degree above zero."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sknw.data.arrays import to_tensor
from sknw.kernels.codes import numeric_part
from sknw.smoothing.cells import OwnCells, weight_at_zero
from sknw.smoothing.empty import Fallback
from sknw.smoothing.gradients import Gradient, fill_empty_gradients
from sknw.smoothing.local_polynomial import (
    LocalPolynomial,
    Terms,
    cells_of,
    equivalent_weights,
    fits_of_attention,
)
from sknw.smoothing.own_weights import OwnWeights
from sknw.smoothing.smoother import Prediction, Smoother
from sknw.sums import ALGORITHMS, Algorithm, KernelSums, PreparedSums, Problem, choose
from sknw.sums.monomials import Monomials, tile_moments
from sknw.support import tuning


@dataclass(frozen=True, eq=False)
class Fits:
    """Fits of queries, and how their moments were summed.

    Parameters
    ----------
    fit : LocalPolynomial
        The fits.
    log_scale : Tensor of shape (m,)
        Logarithm of the unit of each query's moments.
    report : dict
        See `sknw.sums.engine`.
    """

    fit: LocalPolynomial
    log_scale: Tensor
    report: dict


class PolynomialSmoother(Smoother):
    """Keys, values and weights ready for queries, whose fits are polynomials of the steps."""

    @cached_property
    def terms(self) -> Terms:
        """The monomials of the fits."""
        return Terms.of(self._numbers(self.keys), self.columns[0], self.method.degree)

    @cached_property
    def constant(self) -> Smoother:
        """The same keys, smoothed by local constants."""
        return Smoother(
            replace(self.method, degree=0),
            self.keys,
            self.columns,
            self.log_weights,
            self.concentration,
            self.own,
        )

    def predict(self, queries: Tensor | None, exclude: Tensor | None = None) -> Prediction:
        """Return the means (m, k) of queries (m, d); None: of the rows, each leaving itself out."""
        own = self.own if queries is None else None
        found = self._fits(queries, exclude, own)
        queries, exclude = self._identified(queries, exclude, own)
        fit = found.fit
        fallback = Fallback(self.method, self._key_set, self.columns)
        means = fallback.fill(fit.means, fit.empty, queries, exclude)
        return Prediction(means, int(fit.empty.sum()), found.report)

    def gradient(self, queries: Tensor) -> Gradient:
        """Return the slopes of the fits of queries (m, d); of degree 0 the gradient of the mean."""
        found = self._fits(queries, None, with_slopes=True)
        fit = found.fit
        gradients, empty = fit.slopes.clone(), fit.empty.clone()
        rows = (fit.share_of_constant > 0).nonzero().squeeze(1)
        if len(rows):
            prepared = self.constant._prepared_by(self.constant.choose(queries[rows]))
            of_constant, empty[rows], _ = self.constant._gradients(prepared, queries[rows])
            gradients[rows] += fit.share_of_constant[rows, None, None] * of_constant
        n_empty = fill_empty_gradients(self.method.empty_neighborhood, gradients, empty)
        return Gradient(gradients, n_empty, found.report)

    def own_weights(self) -> OwnWeights:
        """Return what keys weigh in the estimates at themselves."""
        found = self._fits(self.keys, None)
        fit, weights = found.fit, self.columns[0].double()
        squares = torch.stack([weights, weights.square() * self.concentration])
        moments, log_scale = self._squared_moments(squares)
        products = to_tensor(self.terms.products, dtype=torch.int64, device=self.keys.device)
        c = fit.coefficients
        sums = torch.stack(
            [torch.einsum("mp,mpq,mq->m", c, at[:, products], c) for at in moments.unbind(dim=2)]
        )
        sums = sums * (log_scale - 2 * found.log_scale).exp()
        at_zero = weight_at_zero(self.method.kernel, weights)
        own = at_zero * weights * c[:, 0] * (-found.log_scale).exp()
        square, concentration = weights * sums[0], sums[1]
        rows = (fit.empty | ~torch.isfinite(own) | self._weak(found)).nonzero().squeeze(1)
        for block, attention, _ in self.attention(self.keys[rows]) if len(rows) else ():
            attention, at = attention.double(), rows[block]
            pairs = OwnWeights.of(attention, at, self.log_weights)
            own[at], square[at] = pairs.own, pairs.square
            concentration[at] = attention.square() @ self.concentration.double()
        return OwnWeights(own, square, concentration)

    def _weak(self, found: Fits) -> Tensor:
        """Return which rows have moments whose weights are too light for sums of squares."""
        return self._is_faint(KernelSums(found.log_scale, found.fit.mass[:, None]))

    def _squared_moments(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return moments (m, p2, k) of columns (k, n) under the squared kernel, and their units."""
        squared = self.method.kernel.squared()
        algorithm = self._exact_algorithm if self.method.algorithm == "nufft" else None
        algorithm = algorithm or self._choose_for(squared, None, len(columns))
        prepared = PreparedSums.of(
            squared, self.keys[None], columns[None].to(self.keys.dtype), algorithm, self._monomials
        )
        ran = prepared.run(self.keys[None], None)
        return ran.moments[0].permute(2, 0, 1), ran.sums.log_scale[0]

    def _choose(self, queries: Tensor | None, exclude: Tensor | None) -> Algorithm:
        return self._choose_for(
            self.method.kernel,
            queries,
            len(self.columns),
            leave_one_out=queries is None or exclude is not None,
            prepared=tuple(self._prepared),
        )

    def _choose_for(self, kernel, queries: Tensor | None, n_columns: int, **more) -> Algorithm:
        return choose(
            self.method.algorithm,
            Problem.of(
                kernel,
                None if queries is None else queries[None],
                self.keys[None],
                n_columns=n_columns,
                needs_grad=False,
                rtol=self.method.rtol,
                order=self.terms.order,
                **{"leave_one_out": False, **more},
            ),
        )

    @property
    def _exact_algorithm(self) -> Algorithm:
        return ALGORITHMS["blocks"](self.method.rtol)

    @property
    def _monomials(self) -> Monomials:
        return Monomials.up_to(self.terms.n_features, self.terms.order)

    def _prepared_sums(self, algorithm: Algorithm) -> PreparedSums:
        return PreparedSums.of(
            self.method.kernel, self.keys[None], self.columns[None], algorithm, self._monomials
        )

    @cached_property
    def _key_set(self):
        return self.constant._prepared_by(self._exact_algorithm, " of fallbacks").key_set(0)

    def _identified(
        self, queries: Tensor | None, exclude: Tensor | None, own: OwnCells | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the rows as queries that each leave out a key."""
        if queries is not None:
            return queries, exclude
        exclude = torch.arange(len(self.keys), device=self.keys.device)
        if own is None:
            return self.keys, exclude
        return self.keys[own.of_row], own.of_row

    def _fits(
        self,
        queries: Tensor | None,
        exclude: Tensor | None,
        own: OwnCells | None = None,
        *,
        with_slopes: bool = False,
    ) -> Fits:
        """Return the fits of queries (m, d), some at a time; None: of the rows without themselves.

        With `own` the keys are cells, and each row leaves itself out of its own.
        """
        prepared = self._prepared_by(self.choose(queries, exclude))
        size = max(1, tuning.NUMBERS_OF_MOMENTS // (len(self._monomials) * len(self.columns)))
        n_queries = len(self.keys if queries is None else queries)
        if own is not None or n_queries <= size:
            return self._fits_at_once(prepared, queries, exclude, own, with_slopes)
        queries, exclude = self._identified(queries, exclude, None)
        parts = [
            self._fits_at_once(
                prepared,
                queries[block],
                None if exclude is None else exclude[block],
                None,
                with_slopes,
            )
            for block in _blocks(n_queries, size)
        ]
        return _joined(parts)

    def _fits_at_once(
        self,
        prepared: PreparedSums,
        queries: Tensor | None,
        exclude: Tensor | None,
        own: OwnCells | None,
        with_slopes: bool,
    ) -> Fits:
        moments, log_scale, report = self._moments(prepared, queries, exclude, own)
        queries, exclude = self._identified(queries, exclude, own)
        faint = self._is_faint(KernelSums(log_scale, moments[:, 0]))
        if own is not None:  # the rest of the cell is not faint
            faint = faint & (own.others[0] <= 0)
        for rows, attention in self._attention_by_logs(faint, queries, exclude):
            moments[rows] = self._moments_of_attention(queries[rows], attention)
            log_scale[rows] = 0.0

        def neighbors(rows: Tensor) -> Tensor:
            mass = moments[rows, 0, 0].log() + log_scale[rows]
            left_out = None if exclude is None else exclude[rows]
            return self._neighbors(queries[rows], left_out, _of_rows(own, rows), mass, faint[rows])

        found = LocalPolynomial.of(self.terms, moments, neighbors, with_slopes=with_slopes)
        if prepared.algorithm.is_approximate:
            rows = self._amplified(found).nonzero().squeeze(1)
            if len(rows):
                exact = self._prepared_by(self._exact_algorithm, " of fits done again")
                left_out = None if exclude is None else exclude[rows]
                moments[rows], log_scale[rows], _ = self._moments(
                    exact, queries[rows], left_out, _of_rows(own, rows)
                )
                report["rows_redone"] += len(rows)
                again = LocalPolynomial.of(
                    self.terms,
                    moments[rows],
                    lambda at: neighbors(rows[at]),
                    with_slopes=with_slopes,
                )
                found = found.with_rows(rows, again)
        report["rows_lowered"] = int((found.lowered | found.empty).sum())
        return Fits(found, log_scale, report)

    def _moments(
        self,
        prepared: PreparedSums,
        queries: Tensor | None,
        exclude: Tensor | None,
        own: OwnCells | None,
    ) -> tuple[Tensor, Tensor, dict]:
        """Return moments (m, p2, 1 + k), the logarithms of their units (m,), and the report."""
        ran = prepared.run(None if queries is None else queries[None], exclude)
        moments, log_scale = ran.moments[0].permute(2, 0, 1), ran.sums.log_scale[0]
        if own is not None:
            moments, log_scale = own.added_to_moments(moments, log_scale, self.method.kernel)
        return moments.double(), log_scale.double(), dict(ran.sums.report)

    def _amplified(self, fit: LocalPolynomial) -> Tensor:
        """Return which rows make much of the errors of their moments, (m,).

        An error δ of the moments, relative to the mass, moves an estimate by
        ``δ S_0 Σ|c| (1 + Σ|β|)``, for values and coefficients β in units of the range of values.
        """
        by_moments = fit.mass * fit.coefficients.abs().sum(dim=1)
        return (by_moments.square() > tuning.LARGEST_AMPLIFICATION) & ~fit.empty

    def _neighbors(
        self,
        queries: Tensor,
        exclude: Tensor | None,
        own: OwnCells | None,
        log_mass: Tensor,
        faint: Tensor,
    ) -> Tensor:
        """Return Kish's number of the neighbours with distinct X, (m,), for masses known."""
        squared = self.method.kernel.squared()
        second = self._sums(squared, self.columns[:1].square(), queries, exclude)
        log_squares = second.mass[0].double().log() + second.log_scale[0]
        if own is not None:
            log_squares = own.log_squares(log_squares, self.method.kernel)
        neighbors = (2 * log_mass - log_squares).exp()
        for rows, attention in self._attention_by_logs(faint, queries, exclude):
            neighbors[rows] = attention.square().sum(dim=1).reciprocal().double()
        return neighbors

    def _moments_of_attention(self, queries: Tensor, attention: Tensor) -> Tensor:
        """Return moments (m, p2, 1 + k) in units of the mass, of attention weights (m, n)."""
        numbers = self._numbers(queries).double(), self._numbers(self.keys).double()
        columns = torch.cat([torch.ones_like(self.columns[:1]), self._values.mT]).double()
        parts = tile_moments(self._monomials, attention.double(), *numbers, columns)
        found = sorted(parts, key=lambda part: part[0])
        return torch.stack([sums for _, sums in found]).permute(2, 0, 1)

    @property
    def _values(self) -> Tensor:
        """The values of the keys, (n, k)."""
        return (self.columns[1:] / self.columns[0]).mT

    def _numbers(self, points: Tensor) -> Tensor:
        return numeric_part(self.method.kernel.codes, points)

    @cached_property
    def _cell(self) -> Tensor | None:
        """Which keys have equal X."""
        return cells_of(self.keys)

    def _attention_and_empty(
        self, queries: Tensor, exclude: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return equivalent-kernel weights (m, n), and which rows (m,) have no key in reach."""
        attention, empty = super()._attention_and_empty(queries, exclude)
        rows = (~empty).nonzero().squeeze(1)
        if len(rows):
            points = self._numbers(queries[rows]).double(), self._numbers(self.keys).double()
            wide = attention[rows].double()
            fit = fits_of_attention(self.terms, wide, *points, self._values.double(), self._cell)
            weights = equivalent_weights(self.terms, fit, wide, *points)
            attention[rows] = weights.to(attention.dtype)
        return attention, empty


def _of_rows(own: OwnCells | None, rows: Tensor) -> OwnCells | None:
    """Return what some rows (index) have in their cells, each being a query."""
    if own is None:
        return None
    return OwnCells(torch.arange(len(rows), device=rows.device), own.others[:, rows])


def _blocks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _joined(parts: list[Fits]) -> Fits:
    """Return the fits of parts of the queries as one."""
    first = parts[0].fit
    fields = {
        name: torch.cat([getattr(part.fit, name) for part in parts])
        for name, value in vars(first).items()
        if value is not None
    }
    report = dict(parts[0].report)
    for name in ("n_queries", "rows_redone", "rows_lowered"):
        report[name] = sum(part.report[name] for part in parts)
    log_scale = torch.cat([part.log_scale for part in parts])
    return Fits(replace(first, **fields), log_scale, report)
