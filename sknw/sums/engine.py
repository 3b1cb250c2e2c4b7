"""Moments from any algorithm: plain ones, and exact ones for the fallback rows.

A row is a fallback row where its plain mass underflows, or where the algorithm says that it is
inaccurate (an absolute error that is too large beside the mass); see `sknw.sums.tails`.
`KernelSums.report` tells what happened:

``algorithm``, ``evaluator``
    Names of what ran.
``n_queries``, ``n_keys``
    Sizes.
``share_of_pairs``
    Share of all pairs of a query and a key that were evaluated one by one, those of fallback rows
    included: above 1 where all pairs were evaluated and some twice.
``rows_redone``
    Number of fallback rows.
``audited_error``
    For algorithms with absolute error: the error of the mass that an audit on exact sums found,
    with its safety factor, relative to the total weight of the keys; else 0.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sknw.kernels import Kernel
from sknw.sums.algorithms.algorithm import Algorithm
from sknw.sums.algorithms.choice import choose, named_algorithm
from sknw.sums.evaluators.compiled.readiness import beside_compilers
from sknw.sums.monomials import Monomials
from sknw.sums.problem import KernelSums, Problem
from sknw.sums.tails import KeySet, underflowing_rows

DEFAULT_RTOL = 1e-8


@dataclass(frozen=True)
class FallbackRows:
    """Which rows (b, m) are exact sums in the place of plain ones, and the logs of their units."""

    rows: Tensor
    log_scale: Tensor

    def members(self) -> list[tuple[int, Tensor]]:
        """Return the members of the batch that have such rows, with the rows' indices."""
        found = self.rows.any(dim=1).nonzero().squeeze(1).tolist()
        return [(b, self.rows[b].nonzero().squeeze(1)) for b in found]


@dataclass(frozen=True, eq=False)
class Run:
    """Sums of queries, and what their derivatives need.

    Parameters
    ----------
    sums : KernelSums
        The sums.
    moments : Tensor of shape (b, p, k, m)
        The moments, in the unit of the sums, which come first.
    plan : object
        What the algorithm planned for the queries.
    fallback : FallbackRows
        Which rows are exact sums.
    by_log_scales : Tensor of shape (b, d, k, m) or None
        Derivatives of the sums by the logarithms of common scales of queries and keys,
        ``2 Σ_j K'_ij (z_j − q_i)² v_j`` feature by feature, where they came as well.
    """

    sums: KernelSums
    moments: Tensor
    plan: Any
    fallback: FallbackRows
    by_log_scales: Tensor | None


@dataclass(frozen=True, eq=False)
class PreparedSums:
    """Keys and value columns ready for queries.

    Column 0 holds the keys' weights (>= 0): its sum is the mass that decides whether a row's plain
    sums can be trusted.

    Parameters
    ----------
    kernel : Kernel
        The window.
    keys : Tensor of shape (b, n, d)
        Keys in bandwidth units, centred near the origin.
    columns : Tensor of shape (b, k, n)
        Value columns.
    algorithm : Algorithm
        What does the plain sums.
    state : object
        What the algorithm prepared.
    monomials : Monomials or None, default=None
        Those of the moments that are asked for; None: sums alone.
    """

    kernel: Kernel
    keys: Tensor
    columns: Tensor
    algorithm: Algorithm
    state: Any
    monomials: Monomials | None = None

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        keys: Tensor,
        columns: Tensor,
        algorithm: Algorithm,
        monomials: Monomials | None = None,
    ) -> "PreparedSums":
        """Let the algorithm prepare."""
        with full_precision(keys):
            state = algorithm.prepare(kernel, keys, columns, monomials=monomials)
        return cls(kernel, keys, columns, algorithm, state, monomials)

    def sums(self, queries: Tensor | None, exclude: Tensor | None = None) -> KernelSums:
        """Return the sums of queries (b, m, d); None: of the keys, each leaving itself out."""
        return self.run(queries, exclude).sums

    def has_squares(self, queries: Tensor | None) -> bool:
        """Whether one pass has the sums of queries (b, m, d) and what is by log-scales."""
        n_queries = (self.keys if queries is None else queries).shape[1]
        return self.algorithm.has_squares(self.kernel, self.keys, n_queries, self.columns.shape[1])

    def run(
        self, queries: Tensor | None, exclude: Tensor | None, by_log_scales: bool = False
    ) -> "Run":
        """Return the sums and what their derivatives need, those by log-scales from one pass."""
        with full_precision(self.keys), beside_compilers():
            plan = self.algorithm.plan(self.state, queries, exclude)
            if by_log_scales and self.has_squares(queries):
                found = self.algorithm.moments(self.state, plan, squares=True)
                moments = found[:, :1]
                by_log_scales = 2 * self.kernel.derivative_factor * found[:, 1:]
            else:
                moments, by_log_scales = self.algorithm.moments(self.state, plan), None
            plain = moments[:, 0]
            fallback = FallbackRows(self._fallback_rows(plan, plain), torch.zeros_like(plain[:, 0]))
            n_redone = int(fallback.rows.sum())
            n_fallback_pairs = self._replace(moments, fallback, queries, exclude)
        report = {
            "algorithm": self.algorithm.name,
            "evaluator": None,
            "n_queries": plain.shape[2],
            "n_keys": self.keys.shape[1],
            "rows_redone": n_redone,
            "share_of_pairs": 0.0,
            "audited_error": 0.0,
            **self.algorithm.report(self.state, plan),
        }
        possible = plain.shape[0] * plain.shape[2] * self.keys.shape[1]
        report["share_of_pairs"] += n_fallback_pairs / possible
        sums = KernelSums(fallback.log_scale, plain.mT, report)
        return Run(sums, moments, plan, fallback, by_log_scales)

    def _fallback_rows(self, plan: Any, plain: Tensor) -> Tensor:
        underflowing = underflowing_rows(self.kernel, plain[:, 0], self.keys.dtype)
        inaccurate = self.algorithm.inaccurate_rows(self.state, plan, plain)
        rows = torch.zeros_like(plain[:, 0], dtype=torch.bool)
        for mask in (underflowing, inaccurate):
            rows = rows if mask is None else rows | mask
        return rows

    def _replace(
        self, plain: Tensor, fallback: FallbackRows, queries, exclude: Tensor | None
    ) -> int:
        """Overwrite rows of the plain moments by exact ones, each relative to its nearest key.

        Returns the number of pairs that this took.
        """
        n_pairs = 0
        queries, exclude = identified(queries, exclude, self.keys)
        if self.monomials is not None and self.algorithm.is_approximate:
            n_pairs += self._replace_by_blocks(plain, fallback, queries, exclude)
        for b, rows in fallback.members():
            key_set, kernel = self.key_set(b), self.kernel.member(b)
            tiles = self.monomials is not None
            groups = key_set.shifted_groups(kernel, queries[b], exclude, rows, tiles=tiles)
            for group, shifted in groups:
                if tiles:
                    found = shifted.moments(kernel, self._members[b], self.monomials)
                else:
                    found = shifted.sums(kernel, self._members[b])
                plain[b, ..., group] = found
                log_scale = shifted.log_scale(kernel)
                fallback.log_scale[b, group] = log_scale.to(plain.dtype)
                n_pairs += shifted.n_pairs
        return n_pairs

    def _replace_by_blocks(
        self, plain: Tensor, fallback: FallbackRows, queries: Tensor, exclude: Tensor | None
    ) -> int:
        """Overwrite inaccurate rows by plain exact moments where these do not underflow.

        What is left to be done relative to the nearest key are the others. Returns the number of
        pairs that this took.
        """
        if len(self.keys) > 1 or not fallback.rows.any():
            return 0
        rows = fallback.rows[0].nonzero().squeeze(1)
        left_out = None if exclude is None else exclude[rows]
        state = self._in_blocks
        algorithm = named_algorithm("blocks")(self.algorithm.rtol)
        plan = algorithm.plan(state, queries[:, rows], left_out)
        found = algorithm.moments(state, plan)
        lost = underflowing_rows(self.kernel, found[:, 0, 0], self.keys.dtype)
        is_done = torch.ones_like(rows, dtype=torch.bool) if lost is None else ~lost[0]
        plain[0][..., rows[is_done]] = found[0][..., is_done].to(plain.dtype)
        fallback.rows[0, rows[is_done]] = False
        share = algorithm.report(state, plan)["share_of_pairs"]
        return int(share * len(rows) * self.keys.shape[1])

    @cached_property
    def _in_blocks(self) -> Any:
        """The keys for exact moments, as blocks prepare them."""
        algorithm = named_algorithm("blocks")(self.algorithm.rtol)
        return algorithm.prepare(self.kernel, self.keys, self.columns, monomials=self.monomials)

    def key_set(self, b: int) -> KeySet:
        """Return the keys of one member of the batch, ready for exact rows."""
        if b not in self._key_sets:
            keys, weights = self.keys[b].detach(), self.columns[b, 0].detach()
            self._key_sets[b] = KeySet(keys, weights, self.kernel.member(b).codes)
        return self._key_sets[b]

    @cached_property
    def _members(self) -> tuple[Tensor, ...]:
        """The columns of each member of the batch, the same tensors each time."""
        return self.columns.unbind()

    @cached_property
    def _key_sets(self) -> dict[int, KeySet]:
        return {}


def full_precision(like: Tensor) -> AbstractContextManager:
    """Return a context in which automatic casting to half precision is off."""
    if not torch.is_autocast_enabled(like.device.type):
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def identified(
    queries: Tensor | None, exclude: Tensor | None, keys: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Write leave-one-out of the keys themselves as queries with an excluded key each."""
    if queries is None:
        return keys, torch.arange(keys.shape[1], device=keys.device)
    return queries, exclude


def check_algorithm(
    algorithm: str, kernel: Kernel, n_features: int, dtype: torch.dtype, device: str
) -> None:
    """Refuse a named algorithm that cannot do such problems, whatever the bandwidth.

    Raises
    ------
    ValueError
        With every reason.
    """
    problem = Problem(
        kernel=kernel,
        n_batch=1,
        n_queries=1,
        n_keys=1,
        n_features=n_features,
        n_columns=2,
        dtype=dtype,
        device=torch.device(device),
        needs_grad=False,
        leave_one_out=False,
        rtol=DEFAULT_RTOL,
    )
    choose(algorithm, problem)
