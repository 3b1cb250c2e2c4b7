"""Moments of the steps under a kernel, differentiable: what local polynomials are fitted from.

For queries ``q_i``, keys ``z_j``, value columns ``v_j`` and every monomial a of the numbers of the
points up to a total degree, with steps from the query to the key,

    M_a(i) = Σ_j K(‖q_i − z_j‖) (z_j − q_i)^a v_j

Monomial 0 is the kernel sum. The gradients are moments of one order more, under the kernel and
under its derivative; `sknw.sums.monomials` adds them up tile by tile. The tolerance is that of
sums: with f any number within the range r of the values, ``M_a of v − f · M_a of the weights`` is
off by at most ``rtol · r`` times the mass, where the step is counted in bandwidths.
"""

import torch
from torch import Tensor

from sknw.data.arrays import to_tensor
from sknw.kernels import Kernel
from sknw.sums.algorithms.algorithm import Algorithm, Wanted
from sknw.sums.algorithms.choice import choose
from sknw.sums.autograd import (
    first_order_only,
    gradients_of,
    kernel_sums,
    on_scaled_points,
    refuse_batches,
    refuse_other_derivatives,
)
from sknw.sums.engine import DEFAULT_RTOL, PreparedSums, full_precision
from sknw.sums.evaluators.compiled.readiness import beside_compilers
from sknw.sums.monomials import Monomials
from sknw.sums.problem import KernelMoments, Problem


def kernel_moments(
    kernel: Kernel,
    queries: Tensor | None,
    keys: Tensor,
    columns: Tensor,
    *,
    order: int,
    exclude: Tensor | None = None,
    algorithm: str = "auto",
    rtol: float = DEFAULT_RTOL,
) -> KernelMoments:
    """Return the moments up to a total degree, differentiable in queries, keys and columns.

    Parameters
    ----------
    kernel : Kernel
        The window.
    queries : Tensor of shape (b, m, d) or None
        None means the keys themselves, each leaving itself out.
    keys : Tensor of shape (b, n, d)
        Keys in bandwidth units. Columns that are codes (`Kernel.codes`) take part in the weights
        only, and get no gradient.
    columns : Tensor of shape (b, k, n)
        Value columns; column 0 holds the keys' weights (>= 0).
    order : int
        Largest total degree of a monomial.
    exclude : Tensor of shape (m,) or None, default=None
        Index of the key that a query leaves out, or -1. No key is left out twice.
    algorithm : str, default="auto"
        Name in `ALGORITHMS`, or ``"auto"``.
    rtol : float, default=1e-8
        The tolerance.

    Returns
    -------
    KernelMoments
        With `moments` of shape (b, m, p, k).

    Raises
    ------
    ValueError
        If the order is no integer >= 0, or there are more than 50,000 monomials.
    RuntimeError
        If more is asked for than first derivatives in reverse mode.
    """
    monomials = Monomials.up_to(keys.shape[-1] - kernel.n_codes, order)
    if order == 0:
        sums = kernel_sums(
            kernel, queries, keys, columns, exclude=exclude, algorithm=algorithm, rtol=rtol
        )
        moments = sums.sums[..., None, :]
        return KernelMoments(sums.log_scale, moments, monomials.exponents, sums.report)
    inputs = [tensor for tensor in (queries, keys, columns) if tensor is not None]
    refuse_other_derivatives(*inputs)
    scale = kernel.on_scaled_points()[1]
    kernel, queries, keys = on_scaled_points(kernel, queries, keys)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
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
            order=order,
        ),
    )
    report: dict = {}
    log_scale, moments = _KernelMoments.apply(
        queries, keys, columns, kernel, chosen, exclude, monomials, report
    )
    if scale != 1.0:
        degrees = to_tensor(monomials.degrees, dtype=moments.dtype, device=moments.device)
        moments = moments * (scale**-degrees)[:, None]
    return KernelMoments(log_scale, moments, monomials.exponents, report)


class _KernelMoments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, queries, keys, columns, kernel, algorithm: Algorithm, exclude, monomials, report
    ):
        ctx.prepared = PreparedSums.of(kernel, keys, columns, algorithm, monomials)
        ctx.ran = ctx.prepared.run(queries, exclude)
        report.update(ctx.ran.sums.report)
        ctx.save_for_backward(queries, keys, columns, exclude)
        ctx.mark_non_differentiable(ctx.ran.sums.log_scale)
        return ctx.ran.sums.log_scale, ctx.ran.moments.permute(0, 3, 1, 2).contiguous()

    @staticmethod
    def backward(ctx, _log_scale_grad, moments_grad):
        refuse_batches(moments_grad)
        *inputs, exclude = ctx.saved_tensors
        queries, keys, columns = inputs
        grad, wanted = moments_grad.permute(0, 2, 3, 1), Wanted(points=True, columns=True)
        with torch.no_grad(), full_precision(keys), beside_compilers():
            found = gradients_of(ctx.ran, ctx.prepared, queries, exclude, grad, wanted)
        grads = (
            found.queries if found.queries is None else found.queries.to(keys.dtype),
            found.keys.to(keys.dtype),
            found.columns.to(columns.dtype),
        )
        return *first_order_only(grads, *inputs, moments_grad), None, None, None, None, None
