"""Kernel weights that torch can differentiate to any order.

The profiles of the records are written for speed: the weight is all that is asked of them, and some
have an infinite derivative by the squared distance at distance 0, which torch's chain rule would
turn into NaN. Here the derivative of a weight is the record's own, and the derivatives of that are
torch's, taken at positive distances only.
"""

import torch
from torch import Tensor

from sknw.kernels.record import Kernel


def differentiable_weights(kernel: Kernel, sq: Tensor) -> Tensor:
    """Return the weights at squared distances of any shape."""
    if torch.compiler.is_compiling():  # it cannot trace a node that has a forward mode
        sq = sq.clamp_max(torch.finfo(sq.dtype).max)
        fixed = sq.detach()
        return kernel.profile(fixed.clone()) + _derivative(kernel, fixed) * (sq - fixed)
    if _n_forward_modes(sq) > 1:
        raise RuntimeError(
            f"Attention with kernel {kernel.name!r} has no forward mode within forward mode, such "
            "as jacfwd of jacfwd; use torch.func.hessian, or jacfwd of torch.func.grad."
        )
    return _Profile.apply(sq, kernel)


def _n_forward_modes(tensor: Tensor) -> int:
    """Return how many forward modes of torch.func the tensor is in."""
    functorch = torch._C._functorch
    levels = functorch.get_interpreter_stack() or []
    forward = {level.level() for level in levels if level.key() == functorch.TransformType.Jvp}
    n = 0
    while functorch.is_functorch_wrapped_tensor(tensor):
        n += functorch.maybe_get_level(tensor) in forward
        tensor = functorch.get_unwrapped(tensor)
    return n


def differentiable_log_weights(kernel: Kernel, sq: Tensor) -> Tensor:
    """Return ``log K`` at squared distances of any shape, for kernels that have a tail."""
    if kernel.derivative_factor is not None:
        return kernel.derivative_factor * sq
    apart = sq > 0
    log_weights = kernel.log_profile(torch.where(apart, sq, 1.0))
    return torch.where(apart, log_weights, 0.0)  # K(0) = 1; a cusp there counts as flat


class _Profile(torch.autograd.Function):
    @staticmethod
    def forward(sq: Tensor, kernel: Kernel) -> Tensor:
        return kernel.profile(sq.clone())

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        sq, ctx.kernel = inputs
        ctx.save_for_backward(sq)
        ctx.save_for_forward(sq)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        return grad * _derivative(ctx.kernel, ctx.saved_tensors[0]), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _) -> Tensor:
        return tangent * _derivative(ctx.kernel, ctx.saved_tensors[0])

    @staticmethod
    def vmap(info, in_dims, sq: Tensor, kernel: Kernel) -> tuple:
        return _Profile.apply(sq, kernel), in_dims[0]


def _derivative(kernel: Kernel, sq: Tensor) -> Tensor:
    apart = sq > 0
    derivative = kernel.profile_derivative(torch.where(apart, sq, 1.0))
    return torch.where(apart, derivative, kernel.profile_derivative(sq.new_zeros(1)))
