"""Kernel sums with gradients, in memory linear in the number of points.

The backward pass is kernel sums again. With ``S_i = Σ_j K(s_ij) v_j``, ``s_ij = |q_i − z_j|²`` and
``G = dL/dS``,

    dL/dq_i = 2 Σ_j K'(s_ij) ⟨G_i, v_j⟩ (q_i − z_j)
    dL/dz_j = 2 Σ_i K'(s_ij) ⟨G_i, v_j⟩ (z_j − q_i)
    dL/dv_j = Σ_i K(s_ij) G_i
    dL/dlog c = 2 Σ_ij K'(s_ij) ⟨G_i, v_j⟩ (q_i − z_j)²    for scales c of the features

Algorithms know these as `pull`, `scatter` and `stretch`. Rows that were done again
(`sknw.sums.tails`) do theirs in their own unit: a row's log-scale is a constant that cancels from
every ratio, so it is not differentiated.

There are first derivatives in reverse mode only. Whoever asks for others gets an error by every
route; `sknw.smoothing.pooling.node` has them all.
"""

from dataclasses import replace
from typing import NoReturn

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from sknw.kernels import Kernel
from sknw.sums.algorithms.algorithm import Algorithm
from sknw.sums.engine import (
    DEFAULT_RTOL,
    PreparedSums,
    Run,
    choose_for,
    full_precision,
    identified,
)
from sknw.sums.evaluators.compiled.readiness import beside_compilers
from sknw.sums.problem import KernelSums


def kernel_sums(
    kernel: Kernel,
    queries: Tensor | None,
    keys: Tensor,
    columns: Tensor,
    *,
    scales: Tensor | None = None,
    exclude: Tensor | None = None,
    algorithm: str = "auto",
    rtol: float = DEFAULT_RTOL,
) -> KernelSums:
    """Return kernel sums, differentiable in queries, keys, value columns and scales.

    Parameters
    ----------
    kernel : Kernel
        The window.
    queries : Tensor of shape (b, m, d) or None
        None means the keys themselves, each leaving itself out.
    keys : Tensor of shape (b, n, d)
        Keys in bandwidth units. Columns that are codes (`Kernel.codes`) get no gradient.
    columns : Tensor of shape (b, k, n)
        Value columns; column 0 holds the keys' weights (>= 0).
    scales : Tensor of shape (d,) or None, default=None
        Common scales of the features of queries and keys, which then get no gradient themselves:
        one pass over the pairs gives the scales' gradient where the points' takes two.
    exclude : Tensor of shape (m,) or None, default=None
        Index of the key that a query leaves out, or -1. No key is left out twice.
    algorithm : str, default="auto"
        Name in `ALGORITHMS`, or ``"auto"``.
    rtol : float, default=1e-8
        Largest error of a ratio of sums, relative to the range of the values.

    Raises
    ------
    RuntimeError
        If more is asked for than first derivatives in reverse mode.
    """
    inputs = [tensor for tensor in (queries, keys, columns, scales) if tensor is not None]
    refuse_other_derivatives(*inputs)
    if scales is not None:
        kernel, factors = kernel.scaled_by(scales.detach())
        keys, factors = keys.detach(), factors.to(keys.dtype)
        queries = None if queries is None else queries.detach() * factors
        keys = keys * factors
    kernel, queries, keys = on_scaled_points(kernel, queries, keys)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    if needs_grad and kernel.derivative().formula is None:
        kernel = replace(kernel, formula=None)  # who evaluates the sums must know the slope, too
    chosen = choose_for(
        algorithm,
        kernel,
        queries,
        keys,
        n_columns=columns.shape[1],
        leave_one_out=queries is None or exclude is not None,
        needs_grad=needs_grad,
        rtol=rtol,
    )
    if not needs_grad:
        return PreparedSums.of(kernel, keys, columns, chosen).sums(queries, exclude)
    report: dict = {}
    log_scale, sums = _KernelSums.apply(
        queries, keys, columns, scales, kernel, chosen, exclude, report
    )
    return KernelSums(log_scale, sums, report)


def on_scaled_points(
    kernel: Kernel, queries: Tensor | None, keys: Tensor
) -> tuple[Kernel, Tensor | None, Tensor]:
    """Return the kernel and the points under which sums are best done, numbers scaled."""
    kernel, scale = kernel.on_scaled_points()
    if scale == 1.0:
        return kernel, queries, keys
    factors = keys.new_ones(keys.shape[-1])
    factors[: len(factors) - kernel.n_codes] = scale
    return kernel, None if queries is None else queries * factors, keys * factors


def refuse_other_derivatives(*tensors: Tensor) -> None:
    """Raise if a tensor is within a transform of torch.func, or has a forward-mode tangent.

    Raises
    ------
    RuntimeError
        With the way out.
    """
    if is_hidden(*tensors):
        _refuse("a transform of torch.func")
    if any(unpack_dual(tensor).tangent is not None for tensor in tensors):
        _refuse("forward mode")


def refuse_batches(grad: Tensor) -> None:
    """Raise if a gradient is a batch of gradients that torch hides.

    Raises
    ------
    RuntimeError
        With the way out.
    """
    if is_hidden(grad):
        _refuse("a batch of gradients")


def is_hidden(*tensors: Tensor) -> bool:
    """Whether torch.func, or torch's older batches of gradients, hide the numbers of any tensor."""
    try:
        for tensor in tensors:
            tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return True
    return False


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(
        f"Kernel sums have first derivatives in reverse mode only; asked for was {what}. Use "
        "sknw.functional.attention_pooling, which has all."
    )


_MOST_KEPT = 2**25  # numbers kept from the forward pass for the gradient by the scales


class _KernelSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, queries, keys, columns, scales, kernel: Kernel, algorithm: Algorithm, exclude, report
    ):
        prepared = PreparedSums.of(kernel, keys, columns, algorithm)
        n_kept = columns.shape[1] * (keys if queries is None else queries).numel()
        squares = ctx.needs_input_grad[3] and n_kept <= _MOST_KEPT
        ctx.ran = prepared.run(queries, exclude, squares=squares)
        result = ctx.ran.sums
        report.update(result.report)
        ctx.save_for_backward(queries, keys, columns, scales, exclude)
        ctx.prepared = prepared
        ctx.mark_non_differentiable(result.log_scale)
        return result.log_scale, result.sums.contiguous()

    @staticmethod
    def backward(ctx, _log_scale_grad, sums_grad):
        refuse_batches(sums_grad)
        with torch.no_grad():
            grads = _KernelSums._gradients(ctx, sums_grad)
        *inputs, _exclude = ctx.saved_tensors
        return *first_order_only(grads, *inputs, sums_grad), None, None, None, None

    @staticmethod
    def _gradients(ctx, sums_grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, _keys, _columns, scales, exclude = ctx.saved_tensors
        passes = _Backward(ctx.prepared, ctx.ran, queries, exclude, sums_grad.mT)
        queries_grad, keys_grad, columns_grad, scales_grad = None, None, None, None
        with full_precision(passes.keys), beside_compilers():
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
                queries_grad, keys_grad = passes.points()
            if ctx.needs_input_grad[2]:
                columns_grad = passes.columns()
            if ctx.needs_input_grad[3]:
                scales_grad = (passes.log_scales() / scales).to(scales.dtype)
        return queries_grad, keys_grad, columns_grad, scales_grad


def gradient_by_log_scales(
    prepared: PreparedSums,
    ran: Run,
    queries: Tensor | None,
    exclude: Tensor | None,
    grad: Tensor,
) -> Tensor:
    """Return the gradient (d,) by the logarithms of common scales of queries and keys.

    Parameters
    ----------
    prepared, ran : PreparedSums, Run
        The sums, run for these queries with ``squares=True``.
    queries, exclude
        As in `PreparedSums.run`.
    grad : Tensor of shape (b, k, m)
        The gradient with respect to the sums, as they are scaled.
    """
    with torch.no_grad(), full_precision(prepared.keys), beside_compilers():
        return _Backward(prepared, ran, queries, exclude, grad).log_scales()


def first_order_only(
    grads: tuple[Tensor | None, ...], *inputs: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Return gradients as they are, whose own gradients by the inputs are refused."""
    return _FirstOrder.apply(len(grads), *grads, *inputs)


class _FirstOrder(torch.autograd.Function):
    """So many gradients as they are; their own, by the tensors after them, are refused.

    torch's `once_differentiable` looks at the gradient of the sums alone, so a loss linear in the
    sums would silently have a second derivative of zero.
    """

    @staticmethod
    def forward(ctx, n_gradients: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tensors[:n_gradients]

    @staticmethod
    def backward(ctx, *_grads) -> NoReturn:
        _refuse("a second derivative")


class _Backward:
    """One backward pass, for the gradient G (b, k, m) of the sums."""

    def __init__(
        self,
        prepared: PreparedSums,
        ran: Run,
        queries: Tensor | None,
        exclude: Tensor | None,
        grad: Tensor,
    ):
        self.prepared, self.squares = prepared, ran.squares
        self.keys, self.values, self.kernel = prepared.keys, prepared.columns, prepared.kernel
        self.plan, self.redone = ran.plan, ran.redone
        self.algorithm, self.state = prepared.algorithm, prepared.state
        self.grad = grad.to(self.keys.dtype)
        self.trusted = self.grad.masked_fill(self.redone.rows[:, None], 0.0)
        self.points_from, self.exclude = identified(queries, exclude, self.keys)

    def points(self) -> tuple[Tensor | None, Tensor]:
        """Gradients with respect to queries and keys; both in the second where they are one."""
        slope = self.kernel.derivative()
        queries_grad, keys_grad = self.algorithm.pull(self.state, self.plan, slope, self.trusted)
        of_rows = keys_grad if queries_grad is None else queries_grad
        for b, rows, shifted in self._redone_groups():
            grad = self.grad[b][:, rows]
            of_queries, of_keys = shifted.pull(slope, grad, self.values[b])
            of_rows[b, rows] += 2 * of_queries
            keys_grad[b] += 2 * of_keys
        keys_grad = keys_grad.to(self.keys.dtype)
        return None if queries_grad is None else queries_grad.to(self.keys.dtype), keys_grad

    def log_scales(self) -> Tensor:
        """Gradient with respect to the logarithms of common scales (d,)."""
        slope = self.kernel.derivative()
        if self.squares is None:
            total = self.algorithm.stretch(self.state, self.plan, slope, self.trusted).sum(dim=0)
        else:
            total = torch.einsum("bdkm,bkm->d", self.squares, self.trusted.double())
        for b, rows, shifted in self._redone_groups():
            total = total + shifted.stretch(slope.member(b), self.grad[b][:, rows], self.values[b])
        return 2 * total

    def columns(self) -> Tensor:
        """Gradient with respect to the value columns (b, k, n)."""
        total = self.algorithm.scatter(self.state, self.plan, self.trusted)
        for b, rows, shifted in self._redone_groups():
            total[b] += shifted.scatter(self.kernel, self.grad[b][:, rows])
        return total.to(self.values.dtype)

    def _redone_groups(self):
        for b, rows in self.redone.members():
            groups = self.prepared.key_set(b).shifted_groups(
                self.kernel.member(b), self.points_from[b], self.exclude, rows
            )
            for group, shifted in groups:
                yield b, group, shifted
