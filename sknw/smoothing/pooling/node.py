"""Attention pooling as one node of torch's graph, with derivatives of any order and in any mode.

`PooledBySums` is the pooling by kernel sums, on any algorithm, and `_SumsVjp` its gradient, by
kernel sums too. All further derivatives are those of
`sknw.smoothing.pooling.plain.attend`, block by block of the queries (see
`sknw.smoothing.pooling.operations`).
"""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sknw.smoothing.method import Method
from sknw.smoothing.pooling.operations import Blockwise, Node, Operation
from sknw.smoothing.pooling.plain import Attention, attend, leave_graph
from sknw.smoothing.smooth import smooth
from sknw.sums.engine import full_precision
from sknw.support import tuning

# Which of the inputs of a pooling, (queries, keys, values, weights, zero, rows, mask), have rows.
_HAVE_ROWS = (True, False, False, False, False, True, True)


def pool(
    attention: Attention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: Tensor | None,
    mask: Tensor | None,
    *,
    bandwidth: float | Tensor,
    algorithm: str,
    rtol: float,
) -> Tensor:
    """Return pooled values (b, m, k), differentiable in all that are no masks.

    Parameters
    ----------
    attention : Attention
        Who attends to whom, and how.
    queries, keys : Tensor of shape (b, m, d), (b, n, d)
        Points as given.
    values, weights, mask
        As in `sknw.smoothing.pooling.plain.attend`.
    bandwidth : float or Tensor of shape () or (d,)
        Width of the window.
    algorithm : str
        Name of the algorithm of the sums. With ``"auto"``, few pairs are plain torch operations.
    rtol : float
        Largest error, relative to the range of the values.
    """
    n_batch, n_queries, n_features = queries.shape
    rows = None
    if attention.depends_on_places:
        rows = torch.arange(n_queries, device=queries.device).expand(n_batch, -1)
    n_elements = n_batch * n_queries * keys.shape[1] * n_features
    is_small = n_elements <= tuning.POOLING_BLOCK and keys.shape[1] <= tuning.POOLING_KEYS
    at_once = n_elements == 0 or (algorithm == "auto" and is_small)
    with full_precision(queries):
        if at_once and not attention.kernel.has_edge:
            return attend(
                attention, queries, keys, values, weights, None, rows, mask, bandwidth=bandwidth
            )
        # shifting all points alike changes no distance and keeps squares small
        centre = mean_of_used(keys, weights)
        queries, keys = (queries - centre) / bandwidth, (keys - centre) / bandwidth
        zero = (-centre / bandwidth).detach()[:, 0]
        if at_once:
            return attend(attention, queries, keys, values, weights, zero, rows, mask)
        weights = torch.ones_like(keys[..., 0]) if weights is None else weights
        tensors = queries, keys, values, weights, zero, rows, mask
        if torch.compiler.is_compiling():
            leave_graph(
                "attention_pooling of so many pairs keeps no graph of them, since its memory is "
                "linear; leave out fullgraph=True"
            )
            return torch.compiler.disable(_pool_many_pairs)(attention, algorithm, rtol, tensors)
        return _pool_many_pairs(attention, algorithm, rtol, tensors)


def pool_polynomials(
    attention: Attention,
    degree: int,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: Tensor | None,
    *,
    bandwidth: float | Tensor,
    algorithm: str,
    rtol: float,
) -> Tensor:
    """Return values (b, m, k) of local polynomials of a degree above zero.

    The others as in `pool`. There are first derivatives in reverse mode.
    """
    with full_precision(queries):
        centre = mean_of_used(keys, weights)
        queries, keys = (queries - centre) / bandwidth, (keys - centre) / bandwidth
        zero = (-centre / bandwidth).detach()[:, 0]
        kernel = attention.kernel.seeing(zero, attention.eps)
        method = Method(kernel, algorithm, rtol, attention.policy, degree)
        weights = torch.ones_like(keys[..., 0]) if weights is None else weights
        exclude = None
        if attention.leave_one_out:
            exclude = torch.arange(keys.shape[1], device=keys.device)
        if torch.compiler.is_compiling():
            leave_graph("attention_pooling of a degree above 0 is no graph; leave out fullgraph")
            pooling = torch.compiler.disable(smooth)
            return pooling(method, queries, keys, values, weights, exclude=exclude)
        return smooth(method, queries, keys, values, weights, exclude=exclude)


def _pool_many_pairs(
    attention: Attention, algorithm: str, rtol: float, tensors: tuple[Tensor | None, ...]
) -> Tensor:
    """Pool in linear memory."""
    by_sums = tensors[-1] is None and not attention.is_causal
    pooling = PooledBySums(attention, algorithm, rtol, _which_need_gradients(tensors))
    return Node.apply(pooling if by_sums else pooling.in_blocks(), *tensors)[0]


def mean_of_used(keys: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean (..., 1, d) of the keys of positive weight, without a gradient."""
    keys = keys.detach()
    if weights is None:
        return keys.mean(dim=-2, keepdim=True)
    in_use = (weights > 0)[..., None]
    total = torch.where(in_use, keys, 0.0).sum(dim=-2, keepdim=True)
    return total / in_use.sum(dim=-2, keepdim=True).clamp_min(1)


def _which_need_gradients(tensors: tuple[Tensor | None, ...]) -> tuple[int, ...]:
    if not torch.is_grad_enabled():
        return ()
    return tuple(
        i for i, tensor in enumerate(tensors) if tensor is not None and tensor.requires_grad
    )


@dataclass(frozen=True, eq=False)
class _Graph:
    """Pooled values with the graph of their kernel sums, and its leaves by place."""

    pooled: Tensor
    leaves: dict[int, Tensor]


@dataclass(eq=False)
class PooledBySums(Operation):
    """Pooling by kernel sums.

    Parameters
    ----------
    attention : Attention
        Who attends to whom, and how.
    algorithm, rtol
        As in `pool`.
    needed : tuple of int
        Inputs whose gradients will be asked for, as far as that can be told beforehand.
    graph : _Graph or None
        What the latest run left for the gradient.
    """

    attention: Attention
    algorithm: str
    rtol: float
    needed: tuple[int, ...]
    graph: _Graph | None = field(default=None, init=False)

    def in_blocks(self) -> Blockwise:
        """Return the same operation as a function of torch operations."""
        return Blockwise(partial(_attend, self.attention), _HAVE_ROWS, (True,))

    def run(self, tensors: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        """Return the pooled values."""
        if not self.needed:
            return (self._smooth(*tensors),)
        self.graph = self.graph_of(tensors, self.needed)
        return (self.graph.pooled.detach(),)

    def graph_of(self, tensors: tuple[Tensor | None, ...], needed: tuple[int, ...]) -> _Graph:
        """Pool with a graph."""
        leaves = {i: tensors[i].detach().requires_grad_() for i in needed}
        with torch.enable_grad():
            pooled = self._smooth(*(leaves.get(i, tensor) for i, tensor in enumerate(tensors)))
        return _Graph(pooled, leaves)

    def _smooth(self, queries, keys, values, weights, zero, rows, _mask) -> Tensor:
        attention = self.attention
        kernel = attention.kernel.seeing(zero, attention.eps)
        method = Method(kernel, self.algorithm, self.rtol, attention.policy)
        exclude = rows[0] if attention.leave_one_out else None
        return smooth(method, queries, keys, values, weights, exclude=exclude).to(values.dtype)

    def vjp(self, needed: tuple[int, ...]) -> "_SumsVjp":
        """Return the gradient by kernel sums."""
        return _SumsVjp(self, needed)

    def jvp(self, moving: tuple[int, ...]) -> Blockwise:
        """Return the Jacobian-vector product, block by block."""
        return self.in_blocks().jvp(moving)


def _attend(attention: Attention, *tensors: Tensor | None) -> tuple[Tensor]:
    return (attend(attention, *tensors),)


@dataclass(frozen=True, eq=False)
class _SumsVjp(Operation):
    """The gradient of `pooling` with respect to the needed inputs."""

    pooling: PooledBySums
    needed: tuple[int, ...]

    def run(self, tensors: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        """Return the gradients; the last tensor is that of the pooled values."""
        *inputs, grad = tensors
        graph = self.pooling.graph
        # a batch of gradients for one pooling comes as a larger batch
        fits = graph is not None and graph.pooled.shape == grad.shape
        if not fits or not set(self.needed) <= set(graph.leaves):
            graph = self.pooling.graph_of(tuple(inputs), self.needed)
        leaves = [graph.leaves[i] for i in self.needed]
        return torch.autograd.grad(
            graph.pooled, leaves, grad, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    def vjp(self, needed: tuple[int, ...]) -> Blockwise:
        """Return the second derivative, block by block."""
        return self.pooling.in_blocks().vjp(self.needed).vjp(needed)

    def jvp(self, moving: tuple[int, ...]) -> Blockwise:
        """Return the second derivative forward over reverse, block by block."""
        return self.pooling.in_blocks().vjp(self.needed).jvp(moving)
