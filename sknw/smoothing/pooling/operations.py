"""Operations on batches of tensors, as nodes of torch's graph with derivatives of any order.

An `Operation` knows its two derivatives, which are operations again: `vjp` (reverse mode) and
`jvp` (forward mode). `Node` makes nodes of the graph of them, so whatever torch asks for, a
gradient of a gradient or a batch of them, is one more operation.

`Blockwise` is any function of torch operations that treats rows alike, done block by block of the
rows, and so are its derivatives. A block's intermediate results are gone after it, so memory stays
linear in the numbers of queries and keys.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sknw.sums.autograd import is_hidden
from sknw.sums.engine import full_precision
from sknw.sums.geometry.distances import blocks
from sknw.support import tuning


class Operation(ABC):
    """What tensors of one batch (b, ...) become, with its derivatives."""

    @abstractmethod
    def run(self, tensors: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        """Return the results, without a graph."""

    @abstractmethod
    def vjp(self, needed: tuple[int, ...]) -> "Operation":
        """Return what maps inputs and gradients of results to gradients of the needed inputs."""

    @abstractmethod
    def jvp(self, moving: tuple[int, ...]) -> "Operation":
        """Return what maps inputs and tangents of moving inputs to tangents of results."""


class Node(torch.autograd.Function):
    """An operation in torch's graph."""

    @staticmethod
    def forward(operation: Operation, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """Return the operation's results."""
        _refuse_hidden(tensors)
        with full_precision(tensors[0]):
            return operation.run(tensors)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Keep the operation and its tensors for the derivatives."""
        ctx.operation, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to the tensors, as a node of their own."""
        tensors = ctx.saved_tensors
        needed = tuple(i for i in range(len(tensors)) if ctx.needs_input_grad[1 + i])
        results: list[Tensor | None] = [None] * (1 + len(tensors))
        if needed:
            found = Node.apply(ctx.operation.vjp(needed), *tensors, *grads)
            for i, grad in zip(needed, found, strict=True):
                results[1 + i] = grad
        return tuple(results)

    @staticmethod
    def jvp(ctx, _operation, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        """Return the tangents of the results, as a node of their own."""
        moving = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
        moved = [tangents[i] for i in moving]
        return Node.apply(ctx.operation.jvp(moving), *ctx.saved_tensors, *moved)

    @staticmethod
    def vmap(info, in_dims, operation: Operation, *tensors: Tensor | None) -> tuple:
        """Members of the batch do not know each other, so a mapped dimension is more of them."""
        size = info.batch_size
        folded = [_folded(*pair, size) for pair in zip(tensors, in_dims[1:], strict=True)]
        results = Node.apply(operation, *folded)
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
class Blockwise(Operation):
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
        n_at_once = max(1, tuning.POOLING_BLOCK // (n_keys * n_features))
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

    def vjp(self, needed: tuple[int, ...]) -> "Blockwise":
        """Return the vector-Jacobian product, block by block."""
        return Blockwise(
            partial(_vjp, self.function, len(self.have_rows), needed),
            self.have_rows + self.results_have_rows,
            tuple(self.have_rows[i] for i in needed),
        )

    def jvp(self, moving: tuple[int, ...]) -> "Blockwise":
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
