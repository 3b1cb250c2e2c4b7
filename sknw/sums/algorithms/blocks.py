"""Pruned blocks: keys and queries sorted into compact blocks, and only blocks that matter meet."""

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
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
from sknw.sums.algorithms.costs import seconds_of_layouts, seconds_of_runs
from sknw.sums.algorithms.shares import share_of_near_pairs
from sknw.sums.evaluators.evaluator import Evaluator, Forms
from sknw.sums.evaluators.registry import evaluator_for, has_squares, pullback_evaluator
from sknw.sums.geometry.interactions import (
    InteractionList,
    Layout,
    interactions_of,
    interactions_within,
)
from sknw.sums.monomials import Monomials, order_of
from sknw.sums.problem import Problem
from sknw.support import tuning


def block_size(n: int) -> int:
    """Return the number of points of a block."""
    smallest = tuning.POINTS_PER_BLOCK
    return smallest * max(1, -(-n // (smallest * tuning.MOST_BLOCKS)))


@dataclass(frozen=True, eq=False)
class BlockState:
    """Sorted keys (one layout for each member of the batch) with their value columns."""

    kernel: Kernel
    keys: Tensor
    columns: Tensor
    layouts: list[Layout]
    forms: list[Forms]
    monomials: Monomials | None = None

    @cached_property
    def sorted_columns(self) -> list[Tensor]:
        """Columns (1, k, n) in the order of the sorted keys."""
        return [
            columns[None, :, at.order]
            for columns, at in zip(self.columns, self.layouts, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """Queries, their interaction lists, who evaluates tiles, and pairs that planning evaluated."""

    queries: Tensor | None
    exclude: Tensor | None
    evaluator: Evaluator
    interactions: list[InteractionList]
    excludes: list[Tensor | None]
    forms: list[Forms]
    n_planning: int = 0


class Blocks(Algorithm):
    """Pairs of compact blocks, those left out that cannot matter."""

    name = "blocks"

    def unsupported_reasons(self, problem: Problem) -> list[str]:
        """Weights must be known to fall with the distance."""
        kernel = problem.kernel
        if kernel.log_profile is None and kernel.support == float("inf"):
            return [f"kernel {kernel.name!r} is not known to fall with the distance"]
        return []

    def seconds(self, problem: Problem) -> float:
        """Sorting, comparing boxes, and the share of pairs that is left."""
        size = block_size(problem.n_keys)
        box_pairs = (problem.n_keys / size) * (problem.n_queries / block_size(problem.n_queries))
        share = share_of_near_pairs(problem, self._share_dropped, size)
        return seconds_of_layouts(problem, box_pairs) + seconds_of_runs(
            problem, share * problem.n_pairs
        )

    @property
    def _share_dropped(self) -> float:
        return self.rtol / 2  # a share s moves a ratio by at most s / (1 − s) of the range

    def prepare(
        self,
        kernel: Kernel,
        keys: Tensor,
        columns: Tensor,
        like: BlockState | None = None,
        *,
        monomials: Monomials | None = None,
    ) -> BlockState:
        """Sort the keys."""
        if monomials is not None:  # gradients are moments of one order more
            kernel = kernel.cut_off_for(1 + monomials.order)
        if like is not None and like.keys is keys:
            return BlockState(kernel, keys, columns, like.layouts, like.forms, monomials)
        size = block_size(keys.shape[1])
        layouts = [Layout.of(rows, size, kernel.n_codes) for rows in keys]
        forms = [Forms(at.points[None], kernel.n_codes) for at in layouts]
        return BlockState(kernel, keys, columns, layouts, forms, monomials)

    def plan(self, state: BlockState, queries: Tensor | None, exclude: Tensor | None) -> BlockPlan:
        """Sort the queries and find the blocks that matter to them."""
        keys = state.keys
        layouts, n_codes = state.layouts, state.kernel.n_codes
        if queries is not None:
            layouts = [Layout.of(rows, block_size(len(rows)), n_codes) for rows in queries]
        n_pairs = keys.shape[1] * len(layouts[0])
        evaluator = evaluator_for(
            state.kernel, keys.dtype, keys.device, n_pairs, len(keys), order_of(state.monomials)
        )
        forms = state.forms
        if queries is not None:
            forms = [Forms(at.points[None], n_codes) for at in layouts]
        # beyond a compact support queries need nothing; else the near keys tell how far to look
        compact = not math.isinf(state.kernel.support)
        near = keys.new_full((), tuning.NEAR_LOG_WEIGHT, dtype=torch.float64)
        cutoff = state.kernel.support**2 if compact else float(state.kernel.squared_cutoff(near))
        interactions = [
            interactions_within(rows, at, cutoff)
            for rows, at in zip(layouts, state.layouts, strict=True)
        ]
        excludes = [_sorted_exclude(exclude, interactions) for interactions in interactions]
        plan = BlockPlan(queries, exclude, evaluator, interactions, excludes, forms)
        if compact:
            return plan
        members, n_planning = list(_members(state, plan)), 0
        masses = [None] * len(members)
        if len(state.layouts[0].low) >= tuning.FEWEST_BLOCKS_FOR_A_LOOK:
            masses = [member.masses() for member in members]
            n_planning = sum(interactions.pairs.evaluated for interactions in interactions)
        found = [self._interactions(*at) for at in zip(members, masses, strict=True)]
        return replace(plan, interactions=found, n_planning=n_planning)

    def _interactions(self, member: "_Member", masses: Tensor | None) -> InteractionList:
        """Let the mass of the near keys tell queries how far they have to look."""
        return interactions_of(
            member.kernel,
            member.interactions.queries,
            member.interactions.keys,
            member.columns[0, 0].detach(),
            self._share_dropped,
            masses,
        )

    def moments(self, state: BlockState, plan: BlockPlan, *, squares: bool = False) -> Tensor:
        """Return the plain moments, shape (b, p, k, m)."""
        monomials = asked_for(state, squares=squares)
        return torch.stack([member.moments(monomials) for member in _members(state, plan)])

    def has_squares(self, kernel: Kernel, keys: Tensor, n_queries: int, n_columns: int) -> bool:
        """Whether the evaluator has them."""
        return has_squares(kernel, keys, n_queries, n_columns)

    def pullback(
        self, state: BlockState, plan: BlockPlan, grad: Tensor, wanted: Wanted
    ) -> Gradients:
        """Return the gradients that are wanted."""
        if state.monomials is None:
            members = zip(_members(state, plan), grad, strict=True)
            found = [member.pullback(g[0], wanted) for member, g in members]
        else:
            found = [(None,) * 4] * len(grad)
            if wanted.points or wanted.columns:
                place = state.keys.dtype, state.keys.device
                evaluator = pullback_evaluator(state.kernel, *place, state.monomials.order)
                members = zip(
                    _members(state, replace(plan, evaluator=evaluator)), grad, strict=True
                )
                found = [
                    (*member.pullback_of_moments(state.monomials, g), None) for member, g in members
                ]
            if wanted.log_scales:
                members = zip(_members(state, plan), grad, found, strict=True)
                found = [
                    (*others[:3], member.moments_by_log_scales(state.monomials, g))
                    for member, g, others in members
                ]
        return Gradients(
            *(None if at[0] is None else torch.stack(at) for at in zip(*found, strict=True))
        )

    def ratio_gradients(
        self, state: BlockState, plan: BlockPlan, means: Tensor, mass: Tensor
    ) -> Tensor:
        """Return them by weighted steps, one output after the other."""
        found = []
        for left, right in ratio_columns(state.columns, means):
            of_output = replace(state, columns=right)
            members = zip(_members(of_output, plan), left, strict=True)
            found.append(torch.stack([member.steps_of_queries(grad) for member, grad in members]))
        return of_ratios(found, mass, state.kernel.n_codes)

    def report(self, state: BlockState, plan: BlockPlan) -> dict:
        """Return the share of pairs that were evaluated."""
        evaluated = plan.n_planning + sum(
            interactions.pairs.evaluated for interactions in plan.interactions
        )
        possible = sum(interactions.pairs.possible for interactions in plan.interactions)
        return {"evaluator": plan.evaluator.name, "share_of_pairs": evaluated / possible}


def _sorted_exclude(exclude: Tensor | None, interactions: InteractionList) -> Tensor | None:
    """Return the sorted key that each sorted query leaves out, or -1."""
    if exclude is None:
        return None
    exclude = exclude[interactions.queries.order]
    return torch.where(exclude >= 0, interactions.keys.places[exclude.clamp_min(0)], -1)


def _each(kernel: Kernel, members: Sized) -> list[Kernel]:
    """Return the kernel for each member of the batch."""
    return [kernel.of_members(slice(b, b + 1)) for b in range(len(members))]


def _members(state: BlockState, plan: BlockPlan) -> Iterator["_Member"]:
    evaluator, kernels = plan.evaluator, _each(state.kernel, plan.interactions)
    for b, interactions in enumerate(plan.interactions):
        queries = None if plan.queries is None else plan.forms[b].of(evaluator)
        yield _Member(
            evaluator, kernels[b], state.forms[b].of(evaluator), state.sorted_columns[b],
            interactions, plan.excludes[b], queries,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Member:
    """The sums of one member of the batch: keys and queries sorted inside, unsorted outside."""

    evaluator: Evaluator
    kernel: Kernel
    keys: Any
    columns: Tensor
    interactions: InteractionList
    exclude: Tensor | None
    queries: Any | None

    def masses(self) -> Tensor:
        """Return the mass of each sorted query."""
        weights = self.columns[:, :1].detach()
        return self.evaluator.sums(
            self.kernel, self.queries, self.keys, weights, self.exclude, self.interactions.pairs
        )[0, 0]

    def moments(self, monomials: Monomials) -> Tensor:
        """Return the plain moments, (p, k, m)."""
        found = self.evaluator.moments(
            self.kernel, self.queries, self.keys, self.columns, self.exclude,
            self.interactions.pairs, monomials,
        )  # fmt: skip
        return found[0][..., self.interactions.queries.places]

    def pullback_of_moments(self, monomials: Monomials, grad: Tensor) -> tuple:
        """Return the gradients (m, d), (n, d) and (k, n) of queries, keys and columns."""
        by_queries, by_keys, by_columns = self.evaluator.pullback(
            self.kernel, self.queries, self.keys, self.columns,
            grad[None, ..., self.interactions.queries.order], self.exclude, self.interactions.pairs,
            monomials,
        )  # fmt: skip
        if by_queries is not None:
            by_queries = by_queries[0, self.interactions.queries.places]
        places = self.interactions.keys.places
        return by_queries, by_keys[0, places], by_columns[0][:, places]

    def moments_by_log_scales(self, monomials: Monomials, grad: Tensor) -> Tensor:
        """Return the gradient (d,) by log-scales, for that (p, k, m) of moments."""
        found = self.evaluator.scale_pullback(
            self.kernel.derivative(), self.queries, self.keys, self.columns,
            grad[None, ..., self.interactions.queries.order], self.exclude, self.interactions.pairs,
            monomials,
        )  # fmt: skip
        return 2 * found[0]

    def pullback(self, grad: Tensor, wanted: Wanted) -> tuple:
        """Return the gradients of queries, keys and columns, and by log-scales, or None."""
        by_queries, by_keys, by_columns, by_log_scales = None, None, None, None
        if wanted.points:
            by_queries, by_keys = self._by_points(grad)
        if wanted.columns:
            by_columns = self._transposed_sums(grad)
        if wanted.log_scales:
            by_log_scales = self._by_log_scales(grad)
        return by_queries, by_keys, by_columns, by_log_scales

    def _by_points(self, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the gradients of queries and keys; of keys alone where they are one."""
        derivative, grad, steps = self.kernel.derivative(), self._sorted(grad), self.evaluator.steps
        lists, places = self.interactions, self.interactions.keys.places
        if self.queries is None:
            left, right = both_ways(grad, self.columns)
            both = steps(derivative, None, self.keys, left, right, None, lists.both_ways)
            return None, 2 * both[0][places]
        by_queries = steps(
            derivative, self.queries, self.keys, grad, self.columns, self.exclude, lists.pairs
        )
        by_keys = steps(
            derivative, self.keys, self.queries, self.columns, grad, self._transposed_exclude(),
            lists.transposed,
        )  # fmt: skip
        return 2 * by_queries[0][lists.queries.places], 2 * by_keys[0][places]

    def steps_of_queries(self, grad: Tensor) -> Tensor:
        """Return ``Σ_j K'_ij ⟨G_i, v_j⟩ (q_i − z_j)``, (m, d), for the gradient (k, m)."""
        found = self.evaluator.steps(
            self.kernel.derivative(), self.queries, self.keys, self._sorted(grad), self.columns,
            self.exclude, self.interactions.pairs,
        )  # fmt: skip
        return found[0][self.interactions.queries.places]

    def _by_log_scales(self, grad: Tensor) -> Tensor:
        found = self.evaluator.steps(
            self.kernel.derivative(), self.queries, self.keys, self._sorted(grad), self.columns,
            self.exclude, self.interactions.pairs, squared=True,
        )  # fmt: skip
        return 2 * found[0].sum(dim=0)

    def _transposed_sums(self, grad: Tensor) -> Tensor:
        """Return, for every key, the sums (k, n) over the queries."""
        queries = (None, self.keys) if self.queries is None else (self.keys, self.queries)
        found = self.evaluator.sums(
            self.kernel, *queries, self._sorted(grad), self._transposed_exclude(),
            self.interactions.transposed,
        )  # fmt: skip
        return self.interactions.keys.unsorted(found[0])

    def _sorted(self, grad: Tensor) -> Tensor:
        return grad[None, :, self.interactions.queries.order]

    def _transposed_exclude(self) -> Tensor | None:
        return transposed_exclude(self.exclude, len(self.interactions.keys))
