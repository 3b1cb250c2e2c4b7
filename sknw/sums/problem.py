"""The records that pass between the engine and its algorithms."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sknw.kernels import Kernel


@dataclass(frozen=True)
class Problem:
    """What an algorithm must know to say whether it can do the sums."""

    kernel: Kernel
    n_queries: int
    n_keys: int
    n_features: int
    dtype: torch.dtype
    device: torch.device
    needs_grad: bool
    leave_one_out: bool


@dataclass(frozen=True)
class KernelSums:
    """Kernel sums ``S = exp(log_scale) · sums``, one row per query.

    Parameters
    ----------
    log_scale : Tensor of shape (..., m)
        Logarithm of the factor taken out of each row; 0 where the plain sums do not underflow.
    sums : Tensor of shape (..., m, k)
        Sums over the keys of kernel weight times value column.
    """

    log_scale: Tensor
    sums: Tensor

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


class Algorithm(ABC):
    """A way to compute kernel sums.

    Settings live in the object, what a set of keys needs lives in the state that `prepare`
    returns, so that one state serves many calls of `sums`.
    """

    name: ClassVar[str]

    @abstractmethod
    def unsupported_reasons(self, problem: Problem) -> list[str]:
        """Return why the problem cannot be done; an empty list if it can."""

    @abstractmethod
    def prepare(
        self, kernel: Kernel, keys: Tensor, columns: Tensor, like: Any | None = None
    ) -> Any:
        """Return the state for these keys (b, n, d) and value columns (b, k, n).

        `like` is an earlier state, whose work may be used again if its keys are the same tensor.
        """

    @abstractmethod
    def sums(self, state: Any, queries: Tensor | None, exclude: Tensor | None) -> Tensor:
        """Return the plain sums, shape (b, k, m).

        Parameters
        ----------
        state : object
            What `prepare` returned.
        queries : Tensor of shape (b, m, d) or None
            None means the keys themselves, each leaving itself out.
        exclude : Tensor of shape (m,) or None
            Index of the key that a query leaves out, or -1.
        """
