"""The squared leave-one-out error of common scales, with its gradient in closed form.

Searches over bandwidths and diagonal metrics do nothing but evaluate it. With one output and a
kernel whose gradient comes with the sums (`Run.squares`: a Gaussian in the compiled loops), the
chain of derivatives is short: with ``m_i = S_i1 / S_i0`` and ``g_i = dL/dm_i``,

    dL/dlog c = −Σ_i g_i / S_i0 (Q_i1 − m_i Q_i0),    Q_i = Σ_j K_ij v_j (q_i − z_j)²

So the loss is one node for torch instead of some forty, which on a few hundred rows is most of the
time. Whatever is out of the ordinary (rows without mass, rows done again, other kernels) is left to
`sknw.smoother`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sknw.kernels import Kernel
from sknw.sums import PreparedSums, choose_for


def scale_loss(
    kernel: Kernel,
    embedded: Tensor,
    columns: Tensor,
    values: Tensor,
    weights: Tensor,
    scales: Tensor,
    held_out: Tensor | None,
    *,
    algorithm: str,
    rtol: float,
) -> Tensor | None:
    """Return the weighted mean squared error, differentiable in the scales; None if not this way.

    Parameters
    ----------
    kernel : Kernel
        The window.
    embedded : Tensor of shape (n, q)
        Keys before scaling.
    columns : Tensor of shape (2, n)
        Weights of the keys, and weights times values.
    values, weights : Tensor of shape (m,)
        Targets and weights of the rows that are predicted.
    scales : Tensor of shape (q,)
        Common scales of the features.
    held_out : Tensor of shape (m,) or None
        Which keys are predicted; None: all.
    algorithm : str
        Name of the algorithm of the sums.
    rtol : float
        Largest error of a prediction, relative to the range of the values.
    """
    needs_grad = torch.is_grad_enabled() and scales.requires_grad
    found = loss_and_slope(
        kernel, embedded, columns, values, weights, scales.detach(), held_out,
        algorithm=algorithm, rtol=rtol, needs_slope=needs_grad,
    )  # fmt: skip
    if found is None or not needs_grad:
        return None if found is None else found[0]
    loss, by_log = found
    return _Known.apply(scales, loss, by_log / scales.detach())


def loss_and_slope(
    kernel: Kernel,
    embedded: Tensor,
    columns: Tensor,
    values: Tensor,
    weights: Tensor,
    scales: Tensor,
    held_out: Tensor | None,
    *,
    algorithm: str,
    rtol: float,
    needs_slope: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """Return the loss and its derivatives (q,) by the logarithms of the scales, as plain tensors.

    Parameters are those of `scale_loss`; without `needs_slope` the second is None.
    """
    keys = embedded.detach() * scales.to(embedded.dtype)
    queries = None if held_out is None else keys[held_out][None]
    chosen = choose_for(
        algorithm,
        kernel,
        queries,
        keys[None],
        n_columns=len(columns),
        leave_one_out=True,
        needs_grad=needs_slope,
        rtol=rtol,
    )
    prepared = PreparedSums.of(kernel, keys[None], columns[None], chosen)
    if needs_slope and not prepared.has_squares(queries):
        return None
    run = prepared.run(queries, held_out, squares=needs_slope)
    sums = run.sums.sums[0].T  # (2, m)
    if bool((sums[0] <= 0).any()):
        return None
    if needs_slope and bool(run.redone.rows.any()):
        return None
    means, share = sums[1] / sums[0], (weights / weights.sum()).to(sums.dtype)
    errors = means - values
    loss = share @ errors.square()
    if not needs_slope:
        return loss, None
    slope = 2 * share * errors / sums[0]  # of the loss by the sums of values
    total, mass = run.squares[0, :, 1], run.squares[0, :, 0]
    return loss, -(total @ slope - mass @ (slope * means))


def scale_losses(
    kernel: Kernel,
    embedded: Tensor,
    columns: Tensor,
    values: Tensor,
    weights: Tensor,
    scales: Tensor,
    held_out: Tensor | None,
    *,
    rtol: float,
) -> Tensor:
    """Return the losses (b,) of several scales (b, q) at once, for scans over few rows.

    Every pair is evaluated, so there is nothing to prepare for each of them. Where a row has no
    mass the loss is NaN.
    """
    keys = embedded * scales[:, None].to(embedded.dtype)
    queries = None if held_out is None else keys[:, held_out]
    chosen = choose_for(
        "dense",
        kernel,
        queries,
        keys,
        n_columns=len(columns),
        leave_one_out=True,
        needs_grad=False,
        rtol=rtol,
    )
    prepared = PreparedSums.of(kernel, keys, columns.expand(len(keys), -1, -1), chosen)
    sums = prepared.sums(queries, held_out).sums  # (b, m, 2)
    errors = sums[..., 1] / sums[..., 0] - values
    return errors.square() @ (weights / weights.sum()).to(sums.dtype)


class _Known(torch.autograd.Function):
    """A loss whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, scales: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient.to(scales.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None
