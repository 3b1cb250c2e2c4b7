"""Who evaluates a tile: torch anywhere, or the compiled loops on a CPU.

An evaluator is no algorithm: it does the same sums over the same pairs, and which one runs is a
property of the machine. A new one is a subclass in a file of its own and a line in `registry`.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from sknw.kernels import Kernel
from sknw.kernels.codes import Codes
from sknw.sums.geometry.interactions import Pairs
from sknw.sums.monomials import Monomials


class Forms:
    """Points (b, n, d) in the forms that evaluators want them, each made when first asked for.

    The last `n_codes` columns are codes of categories.
    """

    def __init__(self, points: Tensor, n_codes: int = 0):
        self._points, self._n_codes, self._made = points, n_codes, {}

    def of(self, evaluator: "Evaluator") -> Any:
        """Return the points as the evaluator wants them."""
        if evaluator.name not in self._made:
            self._made[evaluator.name] = evaluator.points(self._points, self._n_codes)
        return self._made[evaluator.name]


class Evaluator(ABC):
    """Sums over given pairs of prepared points."""

    name: ClassVar[str]
    # Whether it starts threads of its own, so that torch's should leave the cores to them.
    has_own_threads: ClassVar[bool] = False
    # Whether it has the pullback of moments.
    has_pullback: ClassVar[bool] = False

    @abstractmethod
    def accepts(
        self, kernel: Kernel, dtype: torch.dtype, device: torch.device, order: int = 0
    ) -> bool:
        """Whether it knows the kernel, can run there, and has moments up to that order."""

    def pays(
        self, dtype: torch.dtype, n_pairs: float, n_problems: int, *, may_load: bool = True
    ) -> bool:
        """Whether it pays for problems of so many pairs each; what it needs for that is loaded.

        Unless it may not: then the answer is what it probably would be.
        """
        return True

    def was_passed_over(  # noqa: B027
        self, dtype: torch.dtype, n_pairs: float, n_problems: int
    ) -> None:
        """Take note that another one does such problems, since this one does not pay yet."""

    @abstractmethod
    def pair_costs(self, dtype: torch.dtype) -> tuple[float, float, float, float]:
        """Return nanoseconds of one core for a pair.

        At all, for each feature, for each column, and for each monomial of moments.
        """

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
        shift: Any | None = None,
    ) -> Tensor:
        """Return ``Σ_j K_ij v_j`` of columns (b, k, n), shape (b, k, m).

        Queries None are the keys themselves, each leaving itself out; pairs None are all pairs.
        With a shift, which `nearest` found, weights are relative to the nearest key's.
        """

    def has_shifts(self, kernel: Kernel) -> bool:
        """Whether `nearest` and sums relative to the nearest key are known for the kernel."""
        return False

    def nearest(
        self,
        queries: Any,
        keys: Any,
        exclude: Tensor | None,
        pairs: Pairs | None,
        *,
        codes: Codes | None,
        exactly: bool,
    ) -> tuple[Any, Tensor]:
        """Return the shift of sums, of one set, and squared distances (m,) of the nearest keys.

        Infinite where there is no key. Where it is not asked for `exactly` the nearest key, one may
        be returned that is farther by no more than rounding.
        """
        raise NotImplementedError

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

        For the gradient (b, p, k, m) of moments up to an order that the evaluator accepts, where it
        has their pullback.
        """
        raise NotImplementedError

    @abstractmethod
    def scale_pullback(
        self,
        kernel: Kernel,
        queries: Any | None,
        keys: Any,
        columns: Tensor,
        grad: Tensor,
        exclude: Tensor | None,
        pairs: Pairs | None,
        monomials: Monomials,
    ) -> Tensor:
        """Return ``Σ_ij K_ij Σ_a ⟨G_ia, v_j⟩ (z_j − q_i)^a (q_i − z_j)²``, (b, d).

        The pullback of moments to the scales of the features, for their gradient G (b, p, k, m). Of
        codes the costs of mismatches stand in the place of squares.
        """

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
