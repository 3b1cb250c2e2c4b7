"""What an algorithm is.

An algorithm computes plain sums and says which problems, and afterwards which rows, it cannot do.
It works in three steps, so that work is done once: `prepare` for a set of keys, `plan` for a set of
queries, and then any of `sums`, `pull`, `stretch` and `scatter`. The engine repairs rows that
underflow or that the algorithm doubts; autograd differentiates through the latter three, for which
this base class has a form that any algorithm inherits.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from sknw.kernels import Kernel
from sknw.sums.algorithms.moments import contract, swapped_exclude, with_moments
from sknw.sums.monomials import Monomials
from sknw.sums.problem import Problem


class Algorithm(ABC):
    """A way to compute kernel sums to a tolerance.

    Parameters
    ----------
    rtol : float
        Largest error of a ratio of sums, relative to the range of the values. Exact algorithms
        ignore it.
    """

    name: ClassVar[str]

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
    def sums(self, state: Any, plan: Any) -> Tensor:
        """Return the plain sums, shape (b, k, m)."""

    @abstractmethod
    def moments(self, state: Any, plan: Any) -> Tensor:
        """Return the plain moments ``Σ_j K_ij (z_j − q_i)^a v_j``, shape (b, p, k, m)."""

    @abstractmethod
    def pullback(self, state: Any, plan: Any, grad: Tensor) -> tuple:
        """Return the gradients with respect to queries, keys and columns.

        For the gradient (b, p, k, m) of the moments; shapes (b, m, d), (b, n, d) and (b, k, n).
        Where the queries are the keys, the first is None and the second the gradient by both ways.
        """

    def has_squares(self, kernel: Kernel, keys: Tensor, n_queries: int, n_columns: int) -> bool:
        """Whether `sums_and_squares` is there for such a problem."""
        return False

    def sums_and_squares(self, state: Any, plan: Any) -> tuple[Tensor, Tensor]:
        """Return the plain sums, and ``Σ_j K'_ij v_j (q_i − z_j)²`` feature by feature.

        The latter has shape (b, d, k, m) and is what `stretch` needs.
        """
        raise NotImplementedError

    def doubtful(self, state: Any, plan: Any, sums: Tensor) -> Tensor | None:
        """Return which rows (b, m) of the sums are too inaccurate; column 0 is the mass."""
        return None

    def pull(self, state: Any, plan: Any, kernel: Kernel, grad: Tensor) -> tuple:
        """Return the gradients with respect to queries (b, m, d) and keys (b, n, d).

        ``2 Σ_j K'_ij ⟨G_i, v_j⟩ (q_i − z_j)`` and its counterpart over the queries, for the
        gradient G (b, k, m) of the sums and `kernel`, whose profile is the slope K'. Where the
        queries are the keys, the first is None and the second the gradient by both ways.
        """
        keys, queries = state.keys, plan.queries
        points_from = keys if queries is None else queries
        wide = self.prepare(kernel, keys, with_moments(state.columns, keys), like=state)
        forward = self.sums(wide, self.plan(wide, queries, plan.exclude))
        queries_grad = contract(points_from, grad, forward)
        swapped = self._over_queries(state, plan, kernel, with_moments(grad, points_from))
        keys_grad = contract(keys, state.columns, swapped)
        if queries is None:
            return None, queries_grad + keys_grad
        return queries_grad, keys_grad

    def stretch(self, state: Any, plan: Any, kernel: Kernel, grad: Tensor) -> Tensor:
        """Return ``Σ_ij K'_ij ⟨G_i, v_j⟩ (q_i − z_j)²`` feature by feature, (b, d).

        Twice that is the gradient with respect to the logarithms of common scales of queries and
        keys. It equals half of what `pull` gives, contracted with the points.
        """
        queries_grad, keys_grad = self.pull(state, plan, kernel, grad)
        total = (keys_grad * state.keys).sum(dim=1)
        if queries_grad is not None:
            total = total + (queries_grad * plan.queries).sum(dim=1)
        return total / 2

    def scatter(self, state: Any, plan: Any, grad: Tensor) -> Tensor:
        """Return ``Σ_i K_ij G_i``, the gradient with respect to the columns (b, k, n)."""
        return self._over_queries(state, plan, state.kernel, grad)

    def _over_queries(self, state: Any, plan: Any, kernel: Kernel, columns: Tensor) -> Tensor:
        """Return, for every key, the sums (b, k, n) over the queries of columns (b, k, m)."""
        keys, queries = state.keys, plan.queries
        points_from = keys if queries is None else queries
        swapped = self.prepare(kernel, points_from, columns.contiguous(), like=state)
        if queries is None:
            return self.sums(swapped, self.plan(swapped, None, None))
        exclude = swapped_exclude(plan.exclude, keys.shape[1])
        return self.sums(swapped, self.plan(swapped, keys, exclude))

    def report(self, state: Any, plan: Any) -> dict:
        """Return what a user may want to know: the entries of `sknw.sums.engine` that it knows."""
        return {}
