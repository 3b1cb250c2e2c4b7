"""Kernel sums with gradients, in memory linear in the number of points.

The backward pass is kernel sums again. With ``S_i = Σ_j K(s_ij) v_j``, ``s_ij = |q_i − z_j|²`` and
``G = dL/dS``,

    dL/dq_i = 2 Σ_j K'(s_ij) ⟨G_i, v_j⟩ (q_i − z_j)
    dL/dz_j = 2 Σ_i K'(s_ij) ⟨G_i, v_j⟩ (z_j − q_i)
    dL/dv_j = Σ_i K(s_ij) G_i
    dL/dlog c = 2 Σ_ij K'(s_ij) ⟨G_i, v_j⟩ (q_i − z_j)²    for scales c of the features

They are the algorithm's `pullback`. Fallback rows (`sknw.sums.tails`) do theirs in their own unit:
a row's log-scale is a constant that cancels from every ratio, so it is not differentiated.

There are first derivatives in reverse mode only. Whoever asks for others gets an error by every
route; `sknw.smoothing.pooling.node` has them all.
"""

from dataclasses import replace
from typing import NoReturn

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from sknw.kernels import Kernel
from sknw.sums.algorithms.algorithm import Algorithm, Gradients, Wanted
from sknw.sums.algorithms.choice import choose
from sknw.sums.engine import (
    DEFAULT_RTOL,
    PreparedSums,
    Run,
    full_precision,
    identified,
)
from sknw.sums.evaluators.compiled.readiness import beside_compilers
from sknw.sums.monomials import Monomials
from sknw.sums.problem import KernelSums, Problem


def kernel_sums(
    kernel: Kernel,
    queries: Tensor | None,
    keys: Tensor,
    columns: Tensor,
    *,
    exclude: Tensor | None = None,
    algorithm: str = "auto",
    rtol: float = DEFAULT_RTOL,
) -> KernelSums:
    """Return kernel sums, differentiable in queries, keys and value columns.

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
    inputs = [tensor for tensor in (queries, keys, columns) if tensor is not None]
    refuse_other_derivatives(*inputs)
    kernel, queries, keys = on_scaled_points(kernel, queries, keys)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    if needs_grad and kernel.derivative().formula is None:
        # an evaluator that knows the kernel but not its derivative could not do the gradient
        kernel = replace(kernel, formula=None)
    chosen = choose(
        algorithm,
        Problem.of(
            kernel,
            queries,
            keys,
            n_columns=columns.shape[1],
            leave_one_out=queries is None or exclude is not None,
            needs_grad=needs_grad,
            rtol=rtol,
        ),
    )
    if not needs_grad:
        return PreparedSums.of(kernel, keys, columns, chosen).sums(queries, exclude)
    report: dict = {}
    log_scale, sums = _KernelSums.apply(queries, keys, columns, kernel, chosen, exclude, report)
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


class _KernelSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries, keys, columns, kernel: Kernel, algorithm: Algorithm, exclude, report):
        prepared = PreparedSums.of(kernel, keys, columns, algorithm)
        ctx.ran = prepared.run(queries, exclude)
        result = ctx.ran.sums
        report.update(result.report)
        ctx.save_for_backward(queries, keys, columns, exclude)
        ctx.prepared = prepared
        ctx.mark_non_differentiable(result.log_scale)
        return result.log_scale, result.sums.contiguous()

    @staticmethod
    def backward(ctx, _log_scale_grad, sums_grad):
        refuse_batches(sums_grad)
        *inputs, exclude = ctx.saved_tensors
        queries, keys, columns = inputs
        needed = ctx.needs_input_grad
        wanted = Wanted(points=needed[0] or needed[1], columns=needed[2])
        with torch.no_grad(), full_precision(keys), beside_compilers():
            grad = sums_grad.mT.to(keys.dtype)[:, None]
            found = gradients_of(ctx.ran, ctx.prepared, queries, exclude, grad, wanted)
        grads = (
            found.queries if found.queries is None else found.queries.to(keys.dtype),
            found.keys if found.keys is None else found.keys.to(keys.dtype),
            found.columns if found.columns is None else found.columns.to(columns.dtype),
        )
        return *first_order_only(grads, *inputs, sums_grad), None, None, None, None


def gradients_of(
    ran: Run,
    prepared: PreparedSums,
    queries: Tensor | None,
    exclude: Tensor | None,
    grad: Tensor,
    wanted: Wanted,
) -> Gradients:
    """Return the gradients that are wanted, for that (b, p, k, m) of the moments.

    Fallback rows have theirs from tiles of weights relative to the nearest key's.
    """
    kernel, keys, columns = prepared.kernel, prepared.keys, prepared.columns
    trusted, known = grad.masked_fill(ran.fallback.rows[:, None, None], 0.0), ran.by_log_scales
    unknown = replace(wanted, log_scales=wanted.log_scales and known is None)
    found = prepared.algorithm.pullback(prepared.state, ran.plan, trusted, unknown)
    found = _of_all_features(found, queries, keys)
    if wanted.log_scales and known is not None:
        by_log_scales = torch.einsum("bdkm,bkm->bd", known, trusted[:, 0].to(known.dtype))
        found = replace(found, log_scales=by_log_scales)
    of_rows = found.keys if found.queries is None else found.queries
    monomials = prepared.monomials or Monomials.up_to(keys.shape[-1] - kernel.n_codes, 0)
    points, exclude = identified(queries, exclude, keys)
    for b, rows in ran.fallback.members():
        member, key_set = kernel.member(b), prepared.key_set(b)
        groups = key_set.shifted_groups(member, points[b], exclude, rows, tiles=True)
        for group, shifted in groups:
            own = grad[b][..., group]
            if wanted.log_scales:
                found.log_scales[b] += shifted.by_log_scales(member, columns[b], own, monomials)
            if wanted.points or wanted.columns:
                by_rows, by_keys, by_columns = shifted.pullback(member, columns[b], own, monomials)
                if wanted.columns:
                    found.columns[b] += by_columns
                if wanted.points:
                    n_numbers = by_keys.shape[-1]
                    of_rows[b, group, :n_numbers] += by_rows
                    found.keys[b, :, :n_numbers] += by_keys
    return found


def _of_all_features(found: Gradients, queries: Tensor | None, keys: Tensor) -> Gradients:
    """Return the gradients, those of points with zeros for codes."""

    def beside_codes(grad: Tensor | None, like: Tensor | None) -> Tensor | None:
        if grad is None or grad.shape == like.shape:
            return grad
        return F.pad(grad, (0, like.shape[-1] - grad.shape[-1]))

    return replace(
        found, queries=beside_codes(found.queries, queries), keys=beside_codes(found.keys, keys)
    )


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
        The sums, run for these queries with ``by_log_scales=True``.
    queries, exclude
        As in `PreparedSums.run`.
    grad : Tensor of shape (b, p, k, m)
        The gradient with respect to the moments, as they are scaled.
    """
    known = ran.by_log_scales
    if known is not None and not ran.fallback.rows.any():
        return torch.einsum("bdkm,bkm->d", known, grad[:, 0].to(known.dtype))
    wanted, grad = Wanted(log_scales=True), grad.to(prepared.keys.dtype)
    with torch.no_grad(), full_precision(prepared.keys), beside_compilers():
        found = gradients_of(ran, prepared, queries, exclude, grad, wanted)
    return found.log_scales.sum(dim=0)


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
