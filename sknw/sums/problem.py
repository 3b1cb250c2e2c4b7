"""The records that pass between the engine and its algorithms."""

import math
from dataclasses import dataclass, field

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
        """Return the sums over the keys of both (log-scaled addition, associative).

        Row scales are compared as logarithms, so the parts' shares are known to
        ``eps · |log_scale|``.
        """
        # an empty part must not set the scale of a row that the other part fills
        first = torch.where(self.mass == 0, -torch.inf, self.log_scale)
        second = torch.where(other.mass == 0, -torch.inf, other.log_scale)
        top = torch.maximum(first, second)
        log_scale = torch.where(top == -torch.inf, 0.0, top)
        total = (
            torch.exp(first - log_scale)[..., None] * self.sums
            + torch.exp(second - log_scale)[..., None] * other.sums
        )
        return KernelSums(log_scale, total)
