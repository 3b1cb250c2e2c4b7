"""Who evaluates a tile: torch anywhere, or the compiled loops on a CPU.

An evaluator is no algorithm: it does the same sums over the same pairs, and which one runs is a
property of the machine.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from sknw.kernels import Kernel
from sknw.sums.geometry.interactions import Pairs
from sknw.sums.monomials import Monomials


class Evaluator(ABC):
    """Sums over given pairs of prepared points."""

    name: ClassVar[str]

    @abstractmethod
    def accepts(
        self, kernel: Kernel, dtype: torch.dtype, device: torch.device, order: int = 0
    ) -> bool:
        """Whether it knows the kernel, can run there, and has moments up to that order."""

    @abstractmethod
    def points(self, rows: Tensor, n_codes: int = 0) -> Any:
        """Prepare points (b, n, d), whose last columns are codes of categories."""

    @abstractmethod
    def sums(
        self,
        kernel: Kernel,
        queries: Any | None,
        keys: Any,
        columns: Tensor,
        exclude: Tensor | None,
        pairs: Pairs | None,
    ) -> Tensor:
        """Return ``Σ_j K_ij v_j`` of columns (b, k, n), shape (b, k, m).

        Queries None are the keys themselves, each leaving itself out; pairs None are all pairs.
        """

    def has_squares(self, kernel: Kernel, n_columns: int) -> bool:
        """Whether `moments` of squared steps come in one pass under the kernel."""
        return False

    @abstractmethod
    def moments(
        self,
        kernel: Kernel,
        queries: Any | None,
        keys: Any,
        columns: Tensor,
        exclude: Tensor | None,
        pairs: Pairs | None,
        monomials: Monomials,
    ) -> Tensor:
        """Return ``Σ_j K_ij (z_j − q_i)^a v_j`` of each monomial, shape (b, p, k, m).

        An evaluator that has squares is asked for `Monomials.squares` of all columns of the points:
        of codes the costs of mismatches stand in the place of squares.
        """

    def pullback(
        self,
        kernel: Kernel,
        queries: Any | None,
        keys: Any,
        columns: Tensor,
        grad: Tensor,
        exclude: Tensor | None,
        pairs: Pairs | None,
        monomials: Monomials,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return the gradients of the numbers of queries and keys, and of columns.

        For the gradient (b, p, k, m) of moments up to an order that the evaluator accepts.
        """
        raise NotImplementedError

    @abstractmethod
    def steps(
        self,
        kernel: Kernel,
        queries: Any | None,
        keys: Any,
        left: Tensor,
        right: Tensor,
        exclude: Tensor | None,
        pairs: Pairs | None,
        *,
        squared: bool = False,
    ) -> Tensor:
        """Return ``Σ_j K_ij ⟨left_i, right_j⟩ (q_i − z_j)``, shape (b, m, d).

        The pullback of sums to one side: `left` is (b, k, m) and `right` (b, k, n), the gradient
        and the columns or the reverse. With `squared`, ``(q_i − z_j)²`` feature by feature, and of
        codes the costs of mismatches. Without, codes have zeros.
        """
