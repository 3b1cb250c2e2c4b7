"""A criterion as a function of widths, with its gradient in closed form.

Searches for bandwidths and for scales inside the softmax do nothing but evaluate it, for every
kernel, criterion and algorithm in this one way: sums of the rows, the local fit of each row, the
criterion of the fits; and back, the criterion's derivative by the fits, theirs by the sums, and the
sums' by the logarithms of the scales,

    dL/dlog c = 2 Σ_ij K'_ij ⟨G_i, v_j⟩ (q_i − z_j)²    for G_i = dL/dS_i

which is one more pass over the pairs, or none where the algorithm has it with the sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.fitting.criteria import Criterion
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.objective import Objective, Penalty
from sknw.fitting.parametrization import Scales
from sknw.kernels import Kernel
from sknw.kernels.codes import numeric_part
from sknw.smoothing.cells import log_or_nothing, weight_at_zero
from sknw.smoothing.empty import fill_empty
from sknw.smoothing.local_fit import LocalFit
from sknw.smoothing.local_polynomial import LocalPolynomial, Terms
from sknw.sums import KernelSums, PreparedSums, Problem, choose, gradient_by_log_scales
from sknw.sums.autograd import on_scaled_points
from sknw.sums.engine import Run
from sknw.sums.monomials import Monomials
from sknw.support import tuning


def scale_objective(
    task: LeaveOneOut,
    criterion: Criterion,
    scales: Scales,
    *,
    penalty: Penalty | None = None,
    memory: dict | None = None,
) -> Objective:
    """Return a criterion on these rows as a function of coordinates of scales."""
    of_scales = criterion_of_scales(task, criterion)

    def losses(points: Sequence[np.ndarray]) -> np.ndarray:
        return of_scales.values(np.array([scales.column_scales(x) for x in points]))

    def loss_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, by_log_scales = of_scales.value_and_gradient(scales.column_scales(x))
        return value, scales.gradient(x, by_log_scales)

    return Objective(
        losses,
        loss_and_gradient,
        penalty,
        memory,
        task.progress,
        lambda loss: criterion.reported(loss, task.targets),
    )


def criterion_of_scales(task: LeaveOneOut, criterion: Criterion) -> "CriterionOfScales":
    """Return a criterion on these rows as a function of the scales of their columns."""
    kind = CriterionOfPolynomials if task.method.degree else CriterionOfScales
    return kind(task, criterion)


def refinement_evaluations(task: LeaveOneOut, scales: Scales, criterion: Criterion) -> int:
    """Return how many evaluations a search without gradients may spend; 0 if it need not."""
    if task.method.kernel.has_smooth_loss and not criterion.has_kinks:
        return 0
    affordable = tuning.REFINEMENT_PAIRS / len(task) ** 2
    return int(np.clip(affordable, 20 * len(scales), 150 * len(scales)))


@dataclass(frozen=True, eq=False)
class CriterionOfScales:
    """A criterion on these rows as a function of the scales of their columns."""

    task: LeaveOneOut
    criterion: Criterion

    def values(self, scales: np.ndarray) -> np.ndarray:
        """Return the criterion (b,) at several scales (b, n_columns)."""
        task, at = self.task, self._tensor(scales)
        with torch.no_grad():
            if len(at) > 1 and len(at) * len(task) ** 2 <= tuning.PAIRS_AT_ONCE:
                return to_numpy(self._values(at, "dense"))
            algorithms = [task.able_algorithm(task.rows, one) for one in at]
            values = [
                self._values(one[None], algorithm)
                for one, algorithm in zip(at, algorithms, strict=True)
            ]
            return to_numpy(torch.cat(values))

    def value_and_gradient(self, scales: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the criterion at scales (n_columns,), and its gradient by their logarithms."""
        task, at = self.task, self._tensor(scales)
        with torch.no_grad():
            algorithm = task.able_algorithm(task.rows, at, needs_grad=True)
            prepared, queries = self._prepared(at[None], algorithm, needs_grad=True)
            run = prepared.run(queries, self._queried, by_log_scales=True)
            sums = self._of_rows(run.sums)
            fit = LocalFit.of(sums.sums)
            errors, leverage = self._errors(prepared, queries, fit), self._leverage(prepared, fit)
            targets = task.targets
            value = self.criterion.value(errors, leverage, targets)
            by_means, by_leverage = self.criterion.derivative(errors[0], _first(leverage), targets)
            by_mass = None if leverage is None else -by_leverage * leverage / fit.mass
            by_sums = self._of_queries(fit.pullback(by_means[None], by_mass), run.sums, sums)
            by_log_scales = gradient_by_log_scales(
                prepared, run, queries, self._queried, by_sums.mT[:, None]
            )
        return value.item(), to_numpy(by_log_scales).astype(np.float64)

    def _tensor(self, scales: np.ndarray) -> Tensor:
        return to_tensor(scales, dtype=torch.float64, device=self.task.rows.device)

    def _values(self, scales: Tensor, algorithm: str) -> Tensor:
        """Return the criterion (b,) at scales (b, n_columns)."""
        prepared, queries = self._prepared(scales, algorithm, needs_grad=False)
        fit = LocalFit.of(self._of_rows(prepared.sums(queries, self._queried)).sums)
        errors = self._errors(prepared, queries, fit)
        return self.criterion.value(errors, self._leverage(prepared, fit), self.task.targets)

    def _errors(self, prepared: PreparedSums, queries: Tensor | None, fit: LocalFit) -> Tensor:
        """Return the errors (b, m, k) of the rows held out; empty ones have the policy's value."""
        means, task = fit.means, self.task
        if not self.criterion.counts_itself and fit.empty.any():
            means = fill_empty(
                replace(task.method, kernel=prepared.kernel), means, fit.empty, queries,
                prepared.keys, prepared.columns, self._queried, task.queried[1],
            )  # fmt: skip
        return task.errors(means)

    def _leverage(self, prepared: PreparedSums, fit: LocalFit) -> Tensor | None:
        """Return how much of each estimate is the row's own value, (b, m)."""
        if not self.criterion.counts_itself:
            return None
        at_zero = weight_at_zero(prepared.kernel, fit.mass)
        return fit.leverage(at_zero * self.task.held_out_weights.to(fit.mass.dtype))

    def _of_rows(self, sums: KernelSums) -> KernelSums:
        """Return the sums of the rows held out, from those of the queries."""
        own = self.task.queried[1]
        if not self.criterion.counts_itself:
            return sums if own is None else own.added(sums, self.task.method.kernel)
        at_zero = weight_at_zero(self.task.method.kernel, sums.sums)
        itself = (at_zero * self._columns[:, self._places]).mT
        plain = sums.sums * sums.log_scale.exp()[..., None] + itself
        counted = replace(sums, log_scale=torch.zeros_like(sums.log_scale), sums=plain)
        if own is None:
            return counted
        return replace(
            counted,
            log_scale=counted.log_scale[:, own.of_row],
            sums=counted.sums[:, own.of_row],
        )

    def _of_queries(self, by_sums: Tensor, of_queries: KernelSums, of_rows: KernelSums) -> Tensor:
        """Return the gradient (1, n_queries, 1 + k) by the queries' sums from that by the rows'."""
        if of_rows is of_queries:
            return by_sums
        own = self.task.queried[1]
        log_scale = of_queries.log_scale if own is None else of_queries.log_scale[:, own.of_row]
        by_sums = by_sums * (log_scale - of_rows.log_scale).exp()[..., None]
        if own is None:
            return by_sums
        return own.summed(by_sums[0].mT, of_queries.mass.shape[1]).mT[None]

    @property
    def _queried(self) -> Tensor | None:
        """Which keys leave themselves out; None: all."""
        return self.task.queried[0]

    @property
    def _places(self) -> Tensor | slice:
        """Which keys the queries are."""
        return slice(None) if self._queried is None else self._queried

    @cached_property
    def _keys(self) -> Tensor:
        """The keys of the sums (n_keys, n_columns), before scaling."""
        task = self.task
        return task.rows if task.cells is None else task.rows[task.cells.first]

    @cached_property
    def _columns(self) -> Tensor:
        """Weights of the keys, and weights times values, (1 + k, n_keys)."""
        return self.task.columns if self.task.cells is None else self.task.cells.totals

    def _prepared(
        self, scales: Tensor, algorithm: str, *, needs_grad: bool
    ) -> tuple[PreparedSums, Tensor | None]:
        """Return the keys at scales (b, n_columns), ready for the queries, also returned."""
        kernel, factors = self.task.method.kernel.scaled_by(scales)
        keys = self._keys * factors[:, None].to(self._keys.dtype)
        queries = None if self._queried is None else keys[:, self._queried]
        chosen = choose(
            algorithm,
            Problem.of(
                kernel,
                queries,
                keys,
                n_columns=len(self._columns),
                leave_one_out=True,
                needs_grad=needs_grad,
                rtol=self.task.method.rtol,
                order=2 * self.task.method.degree,
            ),
        )
        columns = self._columns.expand(len(keys), -1, -1)
        return PreparedSums.of(kernel, keys, columns, chosen, self._monomials), queries

    @property
    def _monomials(self) -> Monomials | None:
        """Those of the moments that fits are made of; None for sums alone."""
        return None


@dataclass(frozen=True, eq=False)
class CriterionOfPolynomials(CriterionOfScales):
    """A criterion of local polynomials.

    Its derivative by the moments is torch's; from there it is that of the moments by the scales.

    Parameters
    ----------
    task, criterion
        As in `CriterionOfScales`.
    without : tuple of int, default=()
        Columns that have no coefficient.
    """

    without: tuple[int, ...] = ()

    def value_and_gradient(self, scales: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the criterion at scales (n_columns,), and its gradient by their logarithms."""
        task, at = self.task, self._tensor(scales)
        algorithm = task.able_algorithm(task.rows, at, needs_grad=True)
        with torch.no_grad():
            prepared, queries = self._prepared(at[None], algorithm, needs_grad=True)
            run = prepared.run(queries, self._queried)
        with torch.inference_mode(False), torch.enable_grad():
            moments = run.moments.detach().clone().requires_grad_()
            squares = _Squares(self, prepared, queries, needs_grad=True)
            value = self._criterion(prepared, queries, run, moments, squares)[0]
            leaves = [moments, *squares.leaves]
            grads = torch.autograd.grad(value, leaves, allow_unused=True)
        by_log_scales = gradient_by_log_scales(prepared, run, queries, self._queried, grads[0])
        for grad in grads[1:]:
            if grad is not None:
                by_log_scales = by_log_scales + squares.gradient(grad)
        return value.item(), to_numpy(by_log_scales).astype(np.float64)

    def _values(self, scales: Tensor, algorithm: str) -> Tensor:
        """Return the criterion (b,) at scales (b, n_columns)."""
        prepared, queries = self._prepared(scales, algorithm, needs_grad=False)
        run = prepared.run(queries, self._queried)
        squares = _Squares(self, prepared, queries, needs_grad=False)
        return self._criterion(prepared, queries, run, run.moments, squares)

    def _criterion(
        self,
        prepared: PreparedSums,
        queries: Tensor | None,
        run: Run,
        moments: Tensor,
        squares: "_Squares",
    ) -> Tensor:
        """Return the criterion (b,) of moments (b, p, 1 + k, m)."""
        task, fits = self.task, []
        for b in range(len(moments)):
            found, log_scale = moments[b].permute(2, 0, 1), run.sums.log_scale[b]
            found, log_scale = self._moments_of_rows(found, log_scale)
            neighbors = partial(squares.neighbors, b, log_or_nothing(found[:, 0, 0]) + log_scale)
            fits.append(LocalPolynomial.of(self._terms, found, neighbors))
        means = torch.stack([fit.means for fit in fits])
        empty = torch.stack([fit.empty for fit in fits])
        mass = torch.stack([fit.mass for fit in fits])
        errors = self._errors(prepared, queries, LocalFit(means, mass, empty))
        leverage = None
        if self.criterion.counts_itself:
            at_zero = weight_at_zero(prepared.kernel, mass)
            weights = task.held_out_weights.to(mass.dtype)
            leverage = at_zero * weights * torch.stack([fit.own for fit in fits])
        return self.criterion.value(errors, leverage, task.targets)

    def _moments_of_rows(self, moments: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return moments (m, p, 1 + k) of the rows held out and their units, from the queries'."""
        own, kernel = self.task.queried[1], self.task.method.kernel
        if not self.criterion.counts_itself:
            return (
                (moments, log_scale)
                if own is None
                else own.added_to_moments(moments, log_scale, kernel)
            )
        at_zero = weight_at_zero(kernel, moments)
        itself = (at_zero * self._columns[:, self._places]).mT
        plain = moments * log_scale.exp()[:, None, None]
        plain = torch.cat([plain[:, :1] + itself[:, None], plain[:, 1:]], dim=1)
        plain = plain if own is None else plain[own.of_row]
        return plain, torch.zeros_like(plain[:, 0, 0])

    @cached_property
    def _terms(self) -> Terms:
        """The monomials of the fits; which are determined does not depend on the scales."""
        numbers = numeric_part(self.task.method.kernel.codes, self._keys)
        return Terms.of(numbers, self._columns[0], self.task.method.degree, self.without)

    @cached_property
    def _monomials(self) -> Monomials:
        n_numbers = self._keys.shape[1] - self.task.method.kernel.n_codes
        return Monomials.up_to(n_numbers, 2 * self.task.method.degree)


@dataclass(eq=False)
class _Squares:
    """Sums of squared weights of keys with distinct X, computed if a thin design asks for them."""

    criterion: CriterionOfPolynomials
    of_moments: PreparedSums
    queries: Tensor | None
    needs_grad: bool

    @cached_property
    def _points(self) -> tuple[Kernel, Tensor | None, Tensor]:
        """The squared kernel, and queries and keys as it wants them."""
        kernel, queries, keys = on_scaled_points(
            self.of_moments.kernel.squared(), self.queries, self.of_moments.keys
        )
        if self.needs_grad and kernel.derivative().formula is None:
            kernel = replace(kernel, formula=None)  # an evaluator has to know the derivative too
        return kernel, queries, keys

    @cached_property
    def prepared(self) -> PreparedSums:
        """The keys with their squared weights under the squared kernel."""
        kernel, queries, keys = self._points
        columns = self.of_moments.columns[:, :1].square().contiguous()
        task = self.criterion.task
        problem = Problem.of(
            kernel,
            queries,
            keys,
            n_columns=1,
            leave_one_out=True,
            needs_grad=self.needs_grad,
            rtol=task.method.rtol,
        )
        name = self.of_moments.algorithm.name
        chosen = choose("auto" if name == "nufft" else name, problem)
        return PreparedSums.of(kernel, keys, columns, chosen)

    @cached_property
    def run(self) -> Run:
        """The sums of the queries."""
        with torch.no_grad():
            return self.prepared.run(self._points[1], self.criterion._queried)

    def gradient(self, grad: Tensor) -> Tensor:
        """Return the gradient (d,) by log-scales, for that of the sums."""
        return gradient_by_log_scales(
            self.prepared, self.run, self._points[1], self.criterion._queried, grad
        )

    @cached_property
    def _sums(self) -> Tensor:
        """The sums (b, 1, 1, m), a leaf of torch's graph where gradients are asked for."""
        found = self.run.moments
        return found.detach().clone().requires_grad_() if self.needs_grad else found

    @property
    def leaves(self) -> list[Tensor]:
        """What gradients are asked for."""
        return [self._sums] if "_sums" in vars(self) else []

    def neighbors(self, b: int, log_mass: Tensor, rows: Tensor) -> Tensor:
        """Return Kish's number of neighbours of some rows (index), for the log-masses of all."""
        of, own = self.criterion, self.criterion.task.queried[1]
        logs = log_or_nothing(self._sums[b, 0, 0]) + self.run.sums.log_scale[b]
        kernel = self.criterion.task.method.kernel
        if of.criterion.counts_itself:
            at_zero = weight_at_zero(kernel, logs)
            logs = torch.logaddexp(logs, 2 * (at_zero * of._columns[0, of._places]).log())
            logs = logs if own is None else logs[own.of_row]
        elif own is not None:
            logs = own.log_squares(logs, kernel)
        return (2 * log_mass[rows] - logs[rows]).exp()


def _first(of_members: Tensor | None) -> Tensor | None:
    return None if of_members is None else of_members[0]
