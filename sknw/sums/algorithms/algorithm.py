"""What an algorithm is.

An algorithm computes plain sums and says which problems, and afterwards which rows, it cannot do.
It works in three steps, so that work is done once: `prepare` for a set of keys, `plan` for a set of
queries, and then `moments` and their `pullback`, of which this base class has a form that follows
from moments. For rows that underflow, or that the algorithm says are inaccurate, the engine takes
exact sums instead.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sknw.kernels import Kernel
from sknw.sums.monomials import Monomials
from sknw.sums.problem import Problem


@dataclass(frozen=True)
class Wanted:
    """Which gradients are wanted: of queries and keys, of columns, by logarithms of scales."""

    points: bool = False
    columns: bool = False
    log_scales: bool = False


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a loss; None where not wanted.

    Parameters
    ----------
    queries : Tensor of shape (b, m, d) or None
        None also where the queries are the keys: then `keys` is the gradient by both ways.
    keys : Tensor of shape (b, n, d) or None
        Zero, or without the columns, for codes of categories.
    columns : Tensor of shape (b, k, n) or None
        Of the value columns.
    log_scales : Tensor of shape (b, d) or None
        By the logarithms of common scales of queries and keys.
    """

    queries: Tensor | None = None
    keys: Tensor | None = None
    columns: Tensor | None = None
    log_scales: Tensor | None = None


def transposed_exclude(exclude: Tensor | None, n_keys: int) -> Tensor | None:
    """Return for every key the query that leaves it out, or -1; no key is left out twice."""
    if exclude is None:
        return None
    transposed = exclude.new_full((n_keys,), -1)
    has_one = exclude >= 0
    transposed[exclude[has_one]] = has_one.nonzero().squeeze(1)
    return transposed


def asked_for(state: Any, *, squares: bool) -> Monomials:
    """Return the monomials whose moments are asked for: those of the state, or squares."""
    n_features = state.keys.shape[2]
    if squares:
        return Monomials.squares(n_features)
    return state.monomials or Monomials.up_to(n_features, 0)


def both_ways(grad: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``[G, v]`` and ``[v, G]``: over one set, both ways of a pair in one symmetric sum."""
    return torch.cat([grad, values], dim=1), torch.cat([values, grad], dim=1)


def ratio_columns(columns: Tensor, means: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each output ``[−mean, 1]`` (b, 2, m) and its columns ``[v_0, v_1]`` (b, 2, n)."""
    for k in range(means.shape[-1]):
        mean = means[..., k]
        left = torch.stack([-mean, torch.ones_like(mean)], dim=1).to(columns.dtype)
        yield left, columns[:, [0, 1 + k]]


def of_ratios(steps: list[Tensor], mass: Tensor, n_codes: int) -> Tensor:
    """Return gradients (b, m, d, k) of ratios, from weighted steps (b, m, d) of each output."""
    found = torch.stack(steps, dim=-1)
    return 2 * found[:, :, : found.shape[2] - n_codes] / mass[..., None, None]


class Algorithm(ABC):
    """A way to compute kernel sums to a tolerance.

    Parameters
    ----------
    rtol : float
        Largest error of a ratio of sums, relative to the range of the values. Exact algorithms
        ignore it.
    """

    name: ClassVar[str]
    is_approximate: ClassVar[bool] = False  # whether its error is absolute, so that rows are redone
    # Whether the time grows with the points and not with the pairs, so that no sample is needed.
    is_linear: ClassVar[bool] = False

    def __init__(self, rtol: float):
        self.rtol = rtol

    @abstractmethod
    def unsupported_reasons(self, problem: Problem) -> list[str]:
        """Return why the problem cannot be done; an empty list if it can."""

    @abstractmethod
    def seconds(self, problem: Problem) -> float:
        """Return about how long the problem takes; infinity if it should not be tried."""

    @abstractmethod
    def prepare(
        self,
        kernel: Kernel,
        keys: Tensor,
        columns: Tensor,
        like: Any | None = None,
        *,
        monomials: Monomials | None = None,
    ) -> Any:
        """Return the state for these keys (b, n, d) and value columns (b, k, n).

        It has the attributes `kernel`, `keys`, `columns` and `monomials`: those of the moments that
        will be asked for, None for the sums alone. `like` is an earlier state, whose work may be
        used again if its keys are the same tensor.
        """

    @abstractmethod
    def plan(self, state: Any, queries: Tensor | None, exclude: Tensor | None) -> Any:
        """Return what is to be known about these queries.

        It has the attributes `queries` and `exclude`.

        Parameters
        ----------
        state : object
            What `prepare` returned.
        queries : Tensor of shape (b, m, d) or None
            None means the keys themselves, each leaving itself out.
        exclude : Tensor of shape (m,) or None
            Index of the key that a query leaves out, or -1.
        """

    @abstractmethod
    def moments(self, state: Any, plan: Any, *, squares: bool = False) -> Tensor:
        """Return the plain moments ``Σ_j K_ij (z_j − q_i)^a v_j``, shape (b, p, k, m).

        The first are the sums, and there are no others where the state was prepared for none. With
        `squares` the sums are followed by the moments of each feature's squared step, where
        `has_squares` says so.
        """

    def has_squares(self, kernel: Kernel, keys: Tensor, n_queries: int, n_columns: int) -> bool:
        """Whether one pass has sums with `squares`, faster than two have them."""
        return False

    def inaccurate_rows(self, state: Any, plan: Any, sums: Tensor) -> Tensor | None:
        """Return which rows (b, m) of the sums are too inaccurate; column 0 is the mass."""
        return None

    def pullback(self, state: Any, plan: Any, grad: Tensor, wanted: Wanted) -> Gradients:
        """Return the gradients that are wanted, for that (b, p, k, m) of the moments.

        This form is for sums alone (p = 1): moments of one order more, over the keys and with the
        roles of queries and keys swapped, and of squared steps for scales. With
        ``S_i = Σ_j K(s_ij) v_j``, ``s_ij = |q_i − z_j|²`` and the gradient G,

            dL/dq_i = −2 Σ_j K'(s_ij) ⟨G_i, v_j⟩ (z_j − q_i)
            dL/dz_j = −2 Σ_i K'(s_ij) ⟨G_i, v_j⟩ (q_i − z_j)
            dL/dv_j = Σ_i K(s_ij) G_i
            dL/dlog c = 2 Σ_ij K'(s_ij) ⟨G_i, v_j⟩ (z_j − q_i)²    for scales c of the features
        """
        keys, grad, columns = state.keys, grad[:, 0], state.columns
        by_queries = by_keys = by_columns = by_log_scales = None
        derivative, n_features = state.kernel.derivative(), keys.shape[2]
        first, squares = Monomials.up_to(n_features, 1), Monomials.squares(n_features)
        if wanted.points:
            steps = self._moments_of(state, plan, derivative, columns, first)[:, 1:]
            by_queries = -2 * torch.einsum("bkm,bdkm->bmd", grad.to(steps.dtype), steps)
            steps = self._transposed_moments(state, plan, derivative, grad, first)[:, 1:]
            by_keys = -2 * torch.einsum("bkn,bdkn->bnd", columns.to(steps.dtype), steps)
        if wanted.columns:
            by_columns = self._transposed_moments(state, plan, state.kernel, grad, None)[:, 0]
        if wanted.log_scales:
            squared = self._moments_of(state, plan, derivative, columns, squares)[:, 1:]
            by_log_scales = 2 * torch.einsum("bkm,bdkm->bd", grad.to(squared.dtype), squared)
        if wanted.points and plan.queries is None:
            by_queries, by_keys = None, by_queries + by_keys
        return Gradients(by_queries, by_keys, by_columns, by_log_scales)

    def ratio_gradients(self, state: Any, plan: Any, means: Tensor, mass: Tensor) -> Tensor:
        """Return the gradients (b, m, d, k) of the ratios of sums by their queries.

        With ``S_i = Σ_j K(s_ij) v_j`` the ratios are ``S_i1 / S_i0``, the `means` (b, m, k) for the
        `mass` (b, m), and their gradients

            2 / S_i0 Σ_j K'(s_ij) (v_j1 − mean_i v_j0) (q_i − z_j)

        There is one for each number of the points, none for codes. This form is the moments of
        order one under the kernel's derivative.
        """
        first = Monomials.up_to(state.keys.shape[2] - state.kernel.n_codes, 1)
        derivative = state.kernel.derivative()
        steps = self._moments_of(state, plan, derivative, state.columns, first)[:, 1:]
        steps = steps.permute(0, 3, 1, 2)  # (b, m, d, 1 + k)
        along = steps[..., 1:] - means[:, :, None] * steps[..., :1]
        return -2 * along / mass[..., None, None]

    def _moments_of(self, state, plan, kernel, columns, monomials) -> Tensor:
        """Return moments (b, p, k, m) of columns (b, k, n) of the keys, under another kernel."""
        other = self.prepare(kernel, state.keys, columns, like=state, monomials=monomials)
        return self.moments(other, self.plan(other, plan.queries, plan.exclude))

    def _transposed_moments(self, state, plan, kernel, columns, monomials) -> Tensor:
        """Return, for every key, moments (b, p, k, n) of columns (b, k, m) of the queries."""
        keys, queries = state.keys, plan.queries
        from_points = keys if queries is None else queries
        columns = columns.contiguous()
        other = self.prepare(kernel, from_points, columns, like=state, monomials=monomials)
        if queries is None:
            return self.moments(other, self.plan(other, None, None))
        exclude = transposed_exclude(plan.exclude, keys.shape[1])
        return self.moments(other, self.plan(other, keys, exclude))

    def report(self, state: Any, plan: Any) -> dict:
        """Return what a user may want to know: the entries of `sknw.sums.engine` that it knows."""
        return {}
