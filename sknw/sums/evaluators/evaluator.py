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
        """Whether `sums_and_squares` is there for the kernel and so many columns."""
        return False

    def sums_and_squares(
        self,
        kernel: Kernel,
        queries: Any | None,
        keys: Any,
        columns: Tensor,
        exclude: Tensor | None,
        pairs: Pairs | None,
    ) -> Tensor:
        """Return the sums and, in the same pass, ``Σ_j K'_ij v_j (q_i − z_j)²`` of each feature.

        Of codes the costs of mismatches stand in the place of squares.
        Shape (b, 1 + d, k, m), the plain sums first; K' is the slope of the kernel.
        """
        raise NotImplementedError

    @abstractmethod
    def pull(
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

        `left` is (b, k, m) and `right` (b, k, n). With `squared`, ``(q_i − z_j)²`` feature by
        feature, and of codes the costs of mismatches. Codes pull nothing: without, they have zeros.
        """
