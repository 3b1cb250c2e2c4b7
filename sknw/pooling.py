"""Attention pooling as one node of torch's graph, with derivatives of any order and in any mode.

An `_Operation` maps a batch of tensors to tensors and knows its two derivatives, which are
operations again: `pullback` (reverse mode) and `pushforward` (forward mode). `_Node` makes torch
nodes of operations, so whatever torch asks for, a gradient of a gradient or a batch of them, is one
more operation.

- `PooledBySums` is the pooling by kernel sums, on any algorithm.
- `_SumsPullback` is its gradient, by kernel sums too.
- `Blockwise` is any function of queries and keys that treats rows alike, done block by block of the
  rows. All further derivatives are such functions, of `sknw.attend.attend`: memory stays linear in
  the numbers of queries and keys, since a block's intermediate results are gone after it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sknw.attend import Attention, attend, leave_graph
from sknw.smoother import smooth
from sknw.sums.autograd import is_hidden
from sknw.sums.engine import full_precision
from sknw.sums.tiles.distances import blocks

_BLOCK_ELEMENTS = 2**21  # numbers b · m · n · d of a block's largest tensors
_MOST_KEYS_AT_ONCE = 2048  # more are accumulated more accurately by the sums

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
        As in `sknw.attend.attend`.
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
    is_small = n_elements <= _BLOCK_ELEMENTS and keys.shape[1] <= _MOST_KEYS_AT_ONCE
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


def _pool_many_pairs(
    attention: Attention, algorithm: str, rtol: float, tensors: tuple[Tensor | None, ...]
) -> Tensor:
    """Pool in linear memory."""
    by_sums = tensors[-1] is None and not attention.is_causal
    pooling = PooledBySums(attention, algorithm, rtol, _which_need_gradients(tensors))
    return _Node.apply(pooling if by_sums else pooling.in_blocks(), *tensors)[0]


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


class _Operation(ABC):
    """What tensors of one batch (b, ...) become, with its derivatives."""

    @abstractmethod
    def run(self, tensors: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        """Return the results, without a graph."""

    @abstractmethod
    def pullback(self, needed: tuple[int, ...]) -> "_Operation":
        """Return what maps inputs and gradients of results to gradients of the needed inputs."""

    @abstractmethod
    def pushforward(self, moving: tuple[int, ...]) -> "_Operation":
        """Return what maps inputs and tangents of moving inputs to tangents of results."""


class _Node(torch.autograd.Function):
    """An operation in torch's graph."""

    @staticmethod
    def forward(operation: _Operation, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        _refuse_hidden(tensors)
        with full_precision(tensors[0]):
            return operation.run(tensors)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.operation, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        needed = tuple(i for i in range(len(tensors)) if ctx.needs_input_grad[1 + i])
        results: list[Tensor | None] = [None] * (1 + len(tensors))
        if needed:
            found = _Node.apply(ctx.operation.pullback(needed), *tensors, *grads)
            for i, grad in zip(needed, found, strict=True):
                results[1 + i] = grad
        return tuple(results)

    @staticmethod
    def jvp(ctx, _operation, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        moving = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
        moved = [tangents[i] for i in moving]
        return _Node.apply(ctx.operation.pushforward(moving), *ctx.saved_tensors, *moved)

    @staticmethod
    def vmap(info, in_dims, operation: _Operation, *tensors: Tensor | None) -> tuple:
        """Members of the batch do not know each other, so a mapped dimension is more of them."""
        size = info.batch_size
        folded = [_folded(*pair, size) for pair in zip(tensors, in_dims[1:], strict=True)]
        results = _Node.apply(operation, *folded)
        return tuple(result.unflatten(0, (size, -1)) for result in results), (0,) * len(results)


def _refuse_hidden(tensors: tuple[Tensor | None, ...]) -> None:
    """Refuse torch's older batches, which know no rule for nodes."""
    if is_hidden(*(tensor for tensor in tensors if tensor is not None)):
        raise RuntimeError(
            "attention_pooling of so many pairs has no batch of gradients by is_grads_batched=True "
            "or vectorize=True; use torch.func.vmap, torch.func.jacrev or torch.func.hessian."
        )


def _folded(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    if tensor is None:
        return None
    mapped = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return mapped.flatten(0, 1)


@dataclass(frozen=True)
class Blockwise(_Operation):
    """A function of blocks of rows.

    Parameters
    ----------
    function : callable
        From tensors to a tuple of tensors; the first tensor is the queries (b, m, d), the second
        the keys (b, n, d). It must be made of torch operations.
    have_rows : tuple of bool
        Which tensors have the rows as their second dimension.
    results_have_rows : tuple of bool
        Which results do; the others are sums over the rows.
    """

    function: Callable[..., tuple[Tensor, ...]]
    have_rows: tuple[bool, ...]
    results_have_rows: tuple[bool, ...]

    def run(self, tensors: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        """Return the results, block by block."""
        (n_batch, n_rows, n_features), n_keys = tensors[0].shape, tensors[1].shape[1]
        n_at_once = max(1, _BLOCK_ELEMENTS // (n_keys * n_features))
        members = []
        for batch in blocks(n_batch, max(1, n_at_once // n_rows)):
            part = [None if tensor is None else tensor[batch] for tensor in tensors]
            members.append(self._run_members(part, n_rows, min(n_rows, n_at_once)))
        return tuple(torch.cat(results) for results in zip(*members, strict=True))

    def _run_members(self, tensors: list[Tensor | None], n_rows: int, size: int) -> list[Tensor]:
        found: list[list[Tensor]] = []
        for rows in blocks(n_rows, size):
            results = self.function(
                *(
                    tensor[:, rows] if has_rows and tensor is not None else tensor
                    for tensor, has_rows in zip(tensors, self.have_rows, strict=True)
                )
            )
            if not found:
                found = [[result] for result in results]
                continue
            for parts, result, has_rows in zip(found, results, self.results_have_rows, strict=True):
                if has_rows:
                    parts.append(result)
                else:
                    parts[0] = parts[0] + result
        return [torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] for parts in found]

    def pullback(self, needed: tuple[int, ...]) -> "Blockwise":
        """Return the vector-Jacobian product, block by block."""
        return Blockwise(
            partial(_vjp, self.function, len(self.have_rows), needed),
            self.have_rows + self.results_have_rows,
            tuple(self.have_rows[i] for i in needed),
        )

    def pushforward(self, moving: tuple[int, ...]) -> "Blockwise":
        """Return the Jacobian-vector product, block by block."""
        return Blockwise(
            partial(_jvp, self.function, len(self.have_rows), moving),
            self.have_rows + tuple(self.have_rows[i] for i in moving),
            self.results_have_rows,
        )


def _vjp(function, n_inputs: int, needed: tuple[int, ...], *tensors) -> tuple[Tensor, ...]:
    inputs, grads = tensors[:n_inputs], tensors[n_inputs:]
    chosen = [inputs[i] for i in needed]
    _, pull = torch.func.vjp(partial(_of_chosen, function, inputs, needed), *chosen)
    return pull(grads)


def _jvp(function, n_inputs: int, moving: tuple[int, ...], *tensors) -> tuple[Tensor, ...]:
    inputs, tangents = tensors[:n_inputs], tensors[n_inputs:]
    chosen = [inputs[i] for i in moving]
    results, pull = torch.func.vjp(partial(_of_chosen, function, inputs, moving), *chosen)
    # the transpose of the transpose: torch's forward mode does not nest
    start = [torch.zeros_like(result) for result in results]
    _, push = torch.func.vjp(lambda *grads: pull(grads), *start)
    return push(tuple(tangents))


def _of_chosen(function, inputs, places: tuple[int, ...], *chosen: Tensor) -> tuple[Tensor, ...]:
    inputs = list(inputs)
    for i, tensor in zip(places, chosen, strict=True):
        inputs[i] = tensor
    return function(*inputs)


@dataclass(frozen=True, eq=False)
class _Graph:
    """Pooled values with the graph of their kernel sums, and its leaves by place."""

    pooled: Tensor
    leaves: dict[int, Tensor]


@dataclass(eq=False)
class PooledBySums(_Operation):
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
        return smooth(
            attention.kernel.seeing(zero, attention.eps), queries, keys, values, weights,
            exclude=rows[0] if attention.leave_one_out else None,
            algorithm=self.algorithm, rtol=self.rtol, empty_neighborhood=attention.policy,
        ).to(values.dtype)  # fmt: skip

    def pullback(self, needed: tuple[int, ...]) -> "_SumsPullback":
        """Return the gradient by kernel sums."""
        return _SumsPullback(self, needed)

    def pushforward(self, moving: tuple[int, ...]) -> Blockwise:
        """Return the Jacobian-vector product, block by block."""
        return self.in_blocks().pushforward(moving)


def _attend(attention: Attention, *tensors: Tensor | None) -> tuple[Tensor]:
    return (attend(attention, *tensors),)


@dataclass(frozen=True, eq=False)
class _SumsPullback(_Operation):
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

    def pullback(self, needed: tuple[int, ...]) -> Blockwise:
        """Return the second derivative, block by block."""
        return self.pooling.in_blocks().pullback(self.needed).pullback(needed)

    def pushforward(self, moving: tuple[int, ...]) -> Blockwise:
        """Return the second derivative forward over reverse, block by block."""
        return self.pooling.in_blocks().pullback(self.needed).pushforward(moving)
