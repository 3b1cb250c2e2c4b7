"""The kernels that have a name: a new one is one more record here.

The formula in a profile's docstring is the one that the site's table of kernels shows; of a kernel
with an edge it holds for u < 1.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from sknw.kernels.record import Kernel, half_inverse_root


def exp_(exponent: Tensor) -> Tensor:
    """Exponentiate in place, never into denormal numbers (they are several times slower)."""
    return exponent.clamp_min_(_exponent_floor(exponent.dtype)).exp_()


def _vanishing_exp(exponent: Tensor) -> Tensor:
    """Exponentiate; what would be denormal is zero, however small the nearest key's weight."""
    vanishes = exponent < _exponent_floor(exponent.dtype)
    return exp_(exponent).masked_fill_(vanishes, 0.0)


def _exponent_floor(dtype: torch.dtype) -> float:
    return -87.0 if dtype == torch.float32 else -700.0


def _gaussian(sq: Tensor) -> Tensor:
    """Return ``exp(−u²/2)`` at ``sq = u²``."""
    return exp_(sq.mul_(-0.5))


def _gaussian_derivative(sq: Tensor) -> Tensor:
    return _gaussian(sq).mul_(-0.5)


def _gaussian_log(sq: Tensor) -> Tensor:
    return -0.5 * sq


def _gaussian_squared_cutoff(log_weight: Tensor) -> Tensor:
    return -2 * log_weight.clamp_max(0)


def _gaussian_log_derivative(sq: Tensor) -> Tensor:
    return torch.full_like(sq, -0.5)


def _gaussian_tail(excess: Tensor, nearest: Tensor) -> Tensor:
    return _vanishing_exp(-0.5 * excess)


def _exponential(sq: Tensor) -> Tensor:
    """Return ``exp(−u)`` at ``sq = u²``."""
    return exp_(sq.sqrt_().neg_())


def _exponential_derivative(sq: Tensor) -> Tensor:
    return -half_inverse_root(sq) * _exponential(sq.clone())


def _exponential_log(sq: Tensor) -> Tensor:
    return -sq.sqrt()


def _exponential_squared_cutoff(log_weight: Tensor) -> Tensor:
    return log_weight.clamp_max(0).square()


def _exponential_log_derivative(sq: Tensor) -> Tensor:
    return -half_inverse_root(sq)


def _exponential_tail(excess: Tensor, nearest: Tensor) -> Tensor:
    # √(a + e) − √a = e / (√(a + e) + √a): no cancellation far away
    root_sum = (nearest + excess).sqrt() + nearest.sqrt()
    return _vanishing_exp(torch.where(excess > 0, -excess / root_sum, 0.0))


def _share_inside(sq: Tensor) -> Tensor:
    """Return 1 inside of the support, 0 outside, and ½ at its edge.

    There a slope that jumps is the mean of the one-sided ones.
    """
    return ((sq < 1).to(sq.dtype) + (sq <= 1).to(sq.dtype)) / 2


def _cosine(sq: Tensor) -> Tensor:
    """Return ``cos(πu/2)`` at ``sq = u²``."""
    # cos(πu/2) = sin(π(1 − u)/2): exactly zero at the edge of the support
    return sq.clamp_max_(1).sqrt_().neg_().add_(1).mul_(math.pi / 2).sin_()


def _cosine_derivative(sq: Tensor) -> Tensor:
    return _share_inside(sq) * (-(math.pi**2) / 8) * torch.sinc(sq.sqrt() / 2)


def _epanechnikov(sq: Tensor) -> Tensor:
    """Return ``1 − u²`` at ``sq = u²``."""
    return sq.neg_().add_(1).clamp_min_(0)


def _epanechnikov_derivative(sq: Tensor) -> Tensor:
    return -_share_inside(sq)


def _tophat(sq: Tensor) -> Tensor:
    """Return ``1`` at ``sq = u²``."""
    return (sq < 1).to(sq.dtype)


def _linear(sq: Tensor) -> Tensor:
    """Return ``1 − u`` at ``sq = u²``."""
    return sq.sqrt_().neg_().add_(1).clamp_min_(0)


def _linear_derivative(sq: Tensor) -> Tensor:
    return -_share_inside(sq) * half_inverse_root(sq)


def _biweight(sq: Tensor) -> Tensor:
    """Return ``(1 − u²)²`` at ``sq = u²``."""
    return _epanechnikov(sq).square_()


def _biweight_derivative(sq: Tensor) -> Tensor:
    return _epanechnikov(sq).mul_(-2)


def _triweight(sq: Tensor) -> Tensor:
    """Return ``(1 − u²)³`` at ``sq = u²``."""
    base = _epanechnikov(sq)
    return base.square().mul_(base)


def _triweight_derivative(sq: Tensor) -> Tensor:
    return _epanechnikov(sq).square_().mul_(-3)


def _tricube_base(sq: Tensor) -> Tensor:
    return (1 - sq * sq.sqrt()).clamp_min_(0)


def _tricube(sq: Tensor) -> Tensor:
    """Return ``(1 − u³)³`` at ``sq = u²``."""
    base = _tricube_base(sq.clamp_max_(1))
    return base.square().mul_(base)


def _tricube_derivative(sq: Tensor) -> Tensor:
    sq = sq.clamp_max_(1)
    return _tricube_base(sq).square_().mul_(sq.sqrt()).mul_(-4.5)


_ROOT_PI = math.sqrt(math.pi)

KERNELS: dict[str, Kernel] = {
    kernel.name: replace(kernel, formula=(kernel.name, "profile"))
    for kernel in (
        Kernel(
            "gaussian",
            _gaussian,
            _gaussian_derivative,
            support=math.inf,
            roughness=1 / (2 * _ROOT_PI),
            second_moment=1.0,
            smooth=True,
            tail=_gaussian_tail,
            log_profile=_gaussian_log,
            log_profile_derivative=_gaussian_log_derivative,
            squared_cutoff=_gaussian_squared_cutoff,
            derivative_factor=-0.5,
            square_scale=math.sqrt(2),
        ),
        Kernel(
            "exponential",
            _exponential,
            _exponential_derivative,
            support=math.inf,
            roughness=1 / 4,
            second_moment=2.0,
            tail=_exponential_tail,
            log_profile=_exponential_log,
            log_profile_derivative=_exponential_log_derivative,
            squared_cutoff=_exponential_squared_cutoff,
            square_scale=2.0,
        ),
        Kernel("cosine", _cosine, _cosine_derivative, 1.0, math.pi**2 / 16, 1 - 8 / math.pi**2),
        Kernel(
            "epanechnikov", _epanechnikov, _epanechnikov_derivative, 1.0, 3 / 5, 1 / 5, smooth=True
        ),
        Kernel("tophat", _tophat, torch.zeros_like, 1.0, 1 / 2, 1 / 3, square_scale=1.0),
        Kernel("linear", _linear, _linear_derivative, 1.0, 2 / 3, 1 / 6),
        Kernel("biweight", _biweight, _biweight_derivative, 1.0, 5 / 7, 1 / 7, smooth=True),
        Kernel("triweight", _triweight, _triweight_derivative, 1.0, 350 / 429, 1 / 9, smooth=True),
        Kernel("tricube", _tricube, _tricube_derivative, 1.0, 175 / 247, 35 / 243),
    )
}
