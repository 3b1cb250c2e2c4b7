"""Kernel sums from any algorithm: plain first, then the rows that underflow done again exactly."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sknw.kernels import Kernel
from sknw.sums.choice import choose
from sknw.sums.exact import shifted_groups, weak_rows
from sknw.sums.problem import Algorithm, KernelSums, Problem


@dataclass(frozen=True)
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
    """

    kernel: Kernel
    keys: Tensor
    columns: Tensor
    algorithm: Algorithm
    state: Any

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        keys: Tensor,
        columns: Tensor,
        algorithm: Algorithm,
        like: Any | None = None,
    ) -> "PreparedSums":
        """Let the algorithm prepare, with the work of a state of the same keys if there is one."""
        state = algorithm.prepare(kernel, keys, columns, like)
        return cls(kernel, keys, columns, algorithm, state)

    def plain(self, queries: Tensor | None, exclude: Tensor | None) -> Tensor:
        """Return the plain sums (b, k, m), underflow and all."""
        with full_precision(self.keys):
            return self.algorithm.sums(self.state, queries, exclude)

    def sums(self, queries: Tensor | None, exclude: Tensor | None = None) -> KernelSums:
        """Return the sums of queries (b, m, d); None: of the keys, each leaving itself out."""
        plain = self.plain(queries, exclude)
        log_scale = torch.zeros_like(plain[:, 0])
        weak = weak_rows(self.kernel, plain[:, 0], self.keys.dtype)
        if weak is not None:
            self.redo(plain, log_scale, weak, queries, exclude)
        return KernelSums(log_scale, plain.mT)

    def redo(
        self,
        plain: Tensor,
        log_scale: Tensor,
        weak: Tensor,
        queries: Tensor | None,
        exclude: Tensor | None,
    ) -> None:
        """Overwrite the weak rows (b, m) of plain sums by shifted ones, in place."""
        queries, exclude = identified(queries, exclude, self.keys)
        with full_precision(self.keys):
            self._redo(plain, log_scale, weak, queries, exclude)

    def _redo(self, plain, log_scale, weak, queries: Tensor, exclude: Tensor | None) -> None:
        for b in weak.any(dim=1).nonzero().squeeze(1).tolist():
            columns = self.columns[b]
            rows = weak[b].nonzero().squeeze(1)
            groups = shifted_groups(queries[b], self.keys[b], columns[0] > 0, exclude, rows)
            for group, shifted in groups:
                plain[b, :, group] = shifted.sums(self.kernel, columns)
                log_scale[b, group] = shifted.log_scale(self.kernel).to(log_scale.dtype)


def full_precision(like: Tensor) -> torch.autocast:
    """Return a context in which automatic casting to half precision is off."""
    return torch.autocast(like.device.type, enabled=False)


def identified(
    queries: Tensor | None, exclude: Tensor | None, keys: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Write leave-one-out of the keys themselves as queries with an excluded key each."""
    if queries is None:
        return keys, torch.arange(keys.shape[1], device=keys.device)
    return queries, exclude


def choose_for(
    algorithm: str,
    kernel: Kernel,
    queries: Tensor | None,
    keys: Tensor,
    *,
    leave_one_out: bool,
    needs_grad: bool,
) -> Algorithm:
    """Return the algorithm for these tensors."""
    problem = Problem(
        kernel=kernel,
        n_queries=(keys if queries is None else queries).shape[1],
        n_keys=keys.shape[1],
        n_features=keys.shape[2],
        dtype=keys.dtype,
        device=keys.device,
        needs_grad=needs_grad,
        leave_one_out=leave_one_out,
    )
    return choose(algorithm, problem)
