"""The records that pass between the engine and its algorithms."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sknw.kernels import Kernel


@dataclass(frozen=True)
class Problem:
    """What an algorithm must know to say whether it can do the sums, and in about what time.

    Parameters
    ----------
    kernel : Kernel
        The window.
    n_batch, n_queries, n_keys, n_features, n_columns : int
        Sizes.
    dtype : torch.dtype
        Precision of the points.
    device : torch.device
        Where the points are.
    needs_grad, leave_one_out : bool
        Whether gradients will be asked for, and whether queries leave out a key.
    rtol : float
        Tolerance relative to the range of the values.
    order : int, default=0
        Largest total degree of the moments; 0 for sums.
    keys : Tensor of shape (b, n, d) or None, default=None
        The keys in bandwidth units, for algorithms that look at them before they answer.
    prepared : tuple of str, default=()
        Names of the algorithms that have prepared these keys already.
    memo : dict
        What was found out about the keys on the way.
    """

    kernel: Kernel
    n_batch: int
    n_queries: int
    n_keys: int
    n_features: int
    n_columns: int
    dtype: torch.dtype
    device: torch.device
    needs_grad: bool
    leave_one_out: bool
    rtol: float
    order: int = 0
    keys: Tensor | None = None
    prepared: tuple[str, ...] = ()
    memo: dict = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        queries: Tensor | None,
        keys: Tensor,
        *,
        n_columns: int,
        leave_one_out: bool,
        needs_grad: bool,
        rtol: float,
        **more: Any,
    ) -> "Problem":
        """Return the problem of queries (b, m, d), or of the keys (b, n, d) themselves.

        `more` are fields that have a default.
        """
        return cls(
            kernel=kernel,
            n_batch=len(keys),
            n_queries=(keys if queries is None else queries).shape[1],
            n_keys=keys.shape[1],
            n_features=keys.shape[2],
            n_columns=n_columns,
            dtype=keys.dtype,
            device=keys.device,
            needs_grad=needs_grad,
            leave_one_out=leave_one_out,
            rtol=rtol,
            keys=keys,
            **more,
        )

    @property
    def n_monomials(self) -> int:
        """Number of monomials of the moments; 1 for sums."""
        return math.comb(self.n_features - self.kernel.n_codes + self.order, self.order)

    @property
    def n_pairs(self) -> int:
        """Number of pairs of a query and a key."""
        return self.n_batch * self.n_queries * self.n_keys


@dataclass(frozen=True)
class KernelMoments:
    """Moments ``M_a = exp(log_scale) · moments[..., a, :]``, one row per query.

    Parameters
    ----------
    log_scale : Tensor of shape (..., m)
        Logarithm of the factor taken out of each row; 0 where the plain sums do not underflow.
    moments : Tensor of shape (..., m, p, k)
        Sums over the keys of kernel weight times ``(z_j − q_i)^a`` times value column.
    exponents : ndarray of shape (p, d)
        The exponents a of each monomial, by total degree; the first are zero.
    report : dict
        How they were done: see `sknw.sums.engine`.
    """

    log_scale: Tensor
    moments: Tensor
    exponents: np.ndarray
    report: dict = field(default_factory=dict, compare=False)

    def merge(self, other: "KernelMoments") -> "KernelMoments":
        """Return the moments over the keys of both, where these are parts of the keys."""
        found = _merged(self.log_scale, self.moments, other.log_scale, other.moments)
        return KernelMoments(*found, self.exponents)


@dataclass(frozen=True)
class KernelSums:
    """Kernel sums ``S = exp(log_scale) · sums``, one row per query.

    Parameters
    ----------
    log_scale : Tensor of shape (..., m)
        Logarithm of the factor taken out of each row; 0 where the plain sums do not underflow.
    sums : Tensor of shape (..., m, k)
        Sums over the keys of kernel weight times value column.
    report : dict
        How they were done: see `sknw.sums.engine`.
    """

    log_scale: Tensor
    sums: Tensor
    report: dict = field(default_factory=dict, compare=False)

    @classmethod
    def plain(cls, sums: Tensor) -> "KernelSums":
        """Return unscaled sums as a state."""
        return cls(torch.zeros_like(sums[..., 0]), sums)

    @property
    def mass(self) -> Tensor:
        """The first column, the total weight that a query gives (scaled)."""
        return self.sums[..., 0]

    def merge(self, other: "KernelSums") -> "KernelSums":
        """Return the sums over the keys of both, where these are parts of the keys."""
        return KernelSums(*_merged(self.log_scale, self.sums, other.log_scale, other.sums))


def _merged(
    log_scale: Tensor, sums: Tensor, other_log_scale: Tensor, other_sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Return scale and sums (..., m, ...) of both, on the larger scale of each row.

    The first entry of a row's sums is its mass: a part without any must not set the scale. Scales
    are compared as logarithms, so the parts' shares are known to ``eps · |log_scale|``.
    """
    n_inner = sums.ndim - log_scale.ndim
    inner = (slice(None),) * log_scale.ndim + (None,) * n_inner

    def scale_of(log_scale: Tensor, sums: Tensor) -> Tensor:
        mass = sums[(..., *(0,) * n_inner)]
        return torch.where(mass == 0, -torch.inf, log_scale)

    first, second = scale_of(log_scale, sums), scale_of(other_log_scale, other_sums)
    top = torch.maximum(first, second)
    top = torch.where(top == -torch.inf, 0.0, top)
    total = (first - top).exp()[inner] * sums + (second - top).exp()[inner] * other_sums
    return top, total
