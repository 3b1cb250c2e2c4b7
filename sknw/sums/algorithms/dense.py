"""All pairs of queries and keys, exact to rounding, in bounded memory."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sknw.kernels import Kernel
from sknw.sums.algorithms.algorithm import (
    Algorithm,
    Gradients,
    Wanted,
    asked_for,
    both_ways,
    of_ratios,
    ratio_columns,
    transposed_exclude,
)
from sknw.sums.algorithms.costs import seconds_of_pairs
from sknw.sums.evaluators.evaluator import Evaluator, Forms
from sknw.sums.evaluators.registry import evaluator_for, has_squares, pullback_evaluator
from sknw.sums.monomials import Monomials, order_of
from sknw.sums.problem import Problem


@dataclass(frozen=True, eq=False)
class DenseState:
    """Keys with their value columns, and the keys as evaluators want them."""

    kernel: Kernel
    keys: Tensor
    columns: Tensor
    forms: Forms
    monomials: Monomials | None = None


@dataclass(frozen=True, eq=False)
class DensePlan:
    """Queries, the key that each leaves out, and who evaluates the tiles."""

    queries: Tensor | None
    exclude: Tensor | None
    evaluator: Evaluator
    forms: Forms | None

    @property
    def points(self) -> Any | None:
        """The queries as the evaluator wants them."""
        return None if self.forms is None else self.forms.of(self.evaluator)


class Dense(Algorithm):
    """All pairs, tile by tile."""

    name = "dense"

    def unsupported_reasons(self, problem: Problem) -> list[str]:
        """Return no reason: exact sums can do every problem."""
        return []

    def seconds(self, problem: Problem) -> float:
        """All pairs, one after the other."""
        return seconds_of_pairs(problem, problem.n_pairs)

    def prepare(
        self,
        kernel: Kernel,
        keys: Tensor,
        columns: Tensor,
        like: DenseState | None = None,
        *,
        monomials: Monomials | None = None,
    ) -> DenseState:
        """Keep the keys; evaluators prepare them when asked."""
        shares = like is not None and like.keys is keys
        forms = like.forms if shares else Forms(keys, kernel.n_codes)
        return DenseState(kernel, keys, columns, forms, monomials)

    def plan(self, state: DenseState, queries: Tensor | None, exclude: Tensor | None) -> DensePlan:
        """Choose the evaluator."""
        keys = state.keys
        n_queries = keys.shape[1] if queries is None else queries.shape[1]
        n_pairs = n_queries * keys.shape[1]
        evaluator = evaluator_for(
            state.kernel, keys.dtype, keys.device, n_pairs, len(keys), order_of(state.monomials)
        )
        forms = None if queries is None else Forms(queries, state.kernel.n_codes)
        return DensePlan(queries, exclude, evaluator, forms)

    def moments(self, state: DenseState, plan: DensePlan, *, squares: bool = False) -> Tensor:
        """Return the plain moments, shape (b, p, k, m)."""
        arguments = (
            state.kernel, plan.points, state.forms.of(plan.evaluator), state.columns, plan.exclude,
            None,
        )  # fmt: skip
        return plan.evaluator.moments(*arguments, asked_for(state, squares=squares))

    def has_squares(self, kernel: Kernel, keys: Tensor, n_queries: int, n_columns: int) -> bool:
        """Whether the evaluator has them."""
        return has_squares(kernel, keys, n_queries, n_columns)

    def pullback(
        self, state: DenseState, plan: DensePlan, grad: Tensor, wanted: Wanted
    ) -> Gradients:
        """Return the gradients that are wanted."""
        if state.monomials is not None:
            return self._pullback_of_moments(state, plan, grad, wanted)
        grad, by_queries, by_keys, by_columns, by_log_scales = grad[:, 0], None, None, None, None
        if wanted.points:
            by_queries, by_keys = self._by_points(state, plan, grad)
        if wanted.columns:
            by_columns = self._transposed_sums(state, plan, grad)
        if wanted.log_scales:
            by_log_scales = 2 * plan.evaluator.steps(
                state.kernel.derivative(), plan.points, state.forms.of(plan.evaluator), grad,
                state.columns, plan.exclude, None, squared=True,
            ).sum(dim=1)  # fmt: skip
        return Gradients(by_queries, by_keys, by_columns, by_log_scales)

    def _pullback_of_moments(
        self, state: DenseState, plan: DensePlan, grad: Tensor, wanted: Wanted
    ) -> Gradients:
        keys, monomials, found = state.keys, state.monomials, Gradients()
        if wanted.points or wanted.columns:
            evaluator = pullback_evaluator(state.kernel, keys.dtype, keys.device, monomials.order)
            by_torch = replace(plan, evaluator=evaluator)
            found = Gradients(
                *evaluator.pullback(
                    state.kernel, by_torch.points, state.forms.of(evaluator), state.columns, grad,
                    plan.exclude, None, monomials,
                )
            )  # fmt: skip
        if wanted.log_scales:
            by_log_scales = 2 * plan.evaluator.scale_pullback(
                state.kernel.derivative(), plan.points, state.forms.of(plan.evaluator),
                state.columns, grad, plan.exclude, None, monomials,
            )  # fmt: skip
            found = replace(found, log_scales=by_log_scales)
        return found

    def _by_points(self, state: DenseState, plan: DensePlan, grad: Tensor) -> tuple:
        """Return the gradients of queries and keys; of keys alone where they are one."""
        keys, steps = state.forms.of(plan.evaluator), plan.evaluator.steps
        values, derivative = state.columns, state.kernel.derivative()
        if plan.queries is None:
            left, right = both_ways(grad, values)
            return None, 2 * steps(derivative, None, keys, left, right, None, None)
        exclude = transposed_exclude(plan.exclude, state.keys.shape[1])
        by_queries = steps(derivative, plan.points, keys, grad, values, plan.exclude, None)
        return 2 * by_queries, 2 * steps(derivative, keys, plan.points, values, grad, exclude, None)

    def ratio_gradients(
        self, state: DenseState, plan: DensePlan, means: Tensor, mass: Tensor
    ) -> Tensor:
        """Return them by weighted steps, one output after the other."""
        derivative, keys, found = state.kernel.derivative(), state.forms.of(plan.evaluator), []
        for left, right in ratio_columns(state.columns, means):
            found.append(
                plan.evaluator.steps(derivative, plan.points, keys, left, right, plan.exclude, None)
            )
        return of_ratios(found, mass, state.kernel.n_codes)

    def _transposed_sums(self, state: DenseState, plan: DensePlan, grad: Tensor) -> Tensor:
        """Return, for every key, the sums (b, k, n) over the queries."""
        keys = state.forms.of(plan.evaluator)
        if plan.queries is None:
            return plan.evaluator.sums(state.kernel, None, keys, grad, None, None)
        exclude = transposed_exclude(plan.exclude, state.keys.shape[1])
        return plan.evaluator.sums(state.kernel, keys, plan.points, grad, exclude, None)

    def report(self, state: DenseState, plan: DensePlan) -> dict:
        """Every pair is evaluated."""
        return {"evaluator": plan.evaluator.name, "share_of_pairs": 1.0}
