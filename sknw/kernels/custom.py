"""Kernels that a user writes: a function of the distance becomes a record."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sknw.kernels.named import KERNELS
from sknw.kernels.record import Kernel, half_inverse_root


def as_kernel(kernel: str | Callable[[Tensor], Tensor] | Kernel) -> Kernel:
    """Return the record of a kernel's name or of a user's function of the distance.

    Raises
    ------
    ValueError
        If the name is unknown, or the function's weights are not a tensor of the shape it was
        given, finite and not negative.
    """
    if isinstance(kernel, Kernel):
        return kernel
    if callable(kernel):
        if not torch.compiler.is_compiling():
            _check_callable(kernel)
        return Kernel(
            getattr(kernel, "__name__", type(kernel).__name__),
            partial(_callable_profile, kernel),
            partial(_callable_derivative, kernel),
            support=math.inf,
        )
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {sorted(KERNELS)} or a callable; got {kernel!r}.")
    return KERNELS[kernel]


def _callable_profile(function: Callable, sq: Tensor) -> Tensor:
    with torch.no_grad():  # a module's parameters are no inputs of the sums
        return function(sq.sqrt_()).to(sq.dtype)


def _callable_derivative(function: Callable, sq: Tensor) -> Tensor:
    with torch.inference_mode(False):
        derivative = _derivative(function, sq.sqrt())
    at_zero = _derivative_at_zero(function, sq)
    return torch.where(sq > 0, derivative * half_inverse_root(sq), at_zero)


def _derivative(function: Callable, distance: Tensor) -> Tensor:
    """Return the derivative at each distance; 0 for a step, flat elsewhere."""
    # the function may overwrite its argument
    return torch.func.grad(lambda distance: function(distance.clone()).sum())(distance)


def _derivative_at_zero(function: Callable, like: Tensor) -> Tensor:
    """Return ``dK/ds`` at 0, half of the second derivative in the distance; 0 at a cusp.

    The step of equal points is zero, so only second derivatives of the sums see it.
    """
    with torch.inference_mode(False):
        zero = like.new_zeros(1)
        try:
            derivative = _derivative(function, zero)
            curvature = _derivative(partial(_derivative, function), zero)
        except RuntimeError:  # a function that torch cannot differentiate twice
            return zero
        return torch.where((derivative == 0) & curvature.isfinite(), curvature / 2, 0.0)


def _check_callable(function: Callable) -> None:
    probe = torch.cat([torch.zeros(1), torch.logspace(-3, 3, 23)]).double().reshape(4, 6)
    weights = function(probe.clone())
    if not isinstance(weights, Tensor) or weights.shape != probe.shape:
        got = (
            f"shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else repr(type(weights))
        )
        raise ValueError(
            "A callable kernel must return a torch tensor of weights of the shape of the distances "
            f"it is given, here {tuple(probe.shape)}; got {got}."
        )
    if weights.is_complex() or not torch.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            "A callable kernel must return finite weights >= 0; got "
            f"{_range_of(weights)} on distances 0 to 1000."
        )


def _range_of(weights: Tensor) -> str:
    if weights.is_complex():
        return "complex values"
    return f"values from {weights.min():g} to {weights.max():g}"
