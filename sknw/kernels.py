"""Kernels as records: what a kernel sum must know about the shape of a window.

A kernel is a function of the scaled distance ``u = ‖(x − x_i)/h‖``, scaled to ``K(0) = 1``. The
engine works with squared distances ``s = u²``, so a record holds the *profile* ``s -> K(√s)``, its
*slope* ``dK/ds`` (from which every gradient follows), the support, and the two moments behind
canonical bandwidths. Kernels that never reach zero also carry their *tail*: the weight relative
to the nearest key's, which stays accurate where the profile underflows.

A new kernel is one more record in `KERNELS`; parameter constraints, tests and messages read that
registry.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from scipy.integrate import IntegrationWarning, quad
from torch import Tensor

GAUSSIAN_CANONICAL = (1 / (2 * math.sqrt(math.pi))) ** 0.2  # 0.7764


@dataclass(frozen=True)
class Kernel:
    """One window function.

    Parameters
    ----------
    name : str
        The public name.
    profile : callable
        Weights from squared distances, any shape. It owns its argument and may overwrite it.
    slope : callable
        Derivative of `profile` with respect to the squared distance; it owns its argument too.
    support : float
        The weight is zero from this distance on: 1.0, or infinity.
    roughness, second_moment : float or None, default=None
        ``∫K²`` and ``∫u²K`` of the kernel normalised in one dimension; None: by quadrature.
    smooth : bool, default=False
        Whether the profile is Lipschitz in the squared distance, so that distances may come from
        the faster ``|q|² + |z|² − 2qz``, whose error is absolute.
    tail : callable or None, default=None
        For kernels that underflow: ``(excess, nearest) -> K(√(nearest + excess)) / K(√nearest)``.
    log_profile, log_slope : callable or None, default=None
        ``log K`` and ``d log K / ds`` at a squared distance, where there is a tail.
    slope_factor : float or None, default=None
        ``c`` where ``dK/ds = c K`` (the Gaussian's −½): gradients then reuse the forward sums.
    """

    name: str
    profile: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    support: float
    roughness: float | None = None
    second_moment: float | None = None
    smooth: bool = False
    tail: Callable[[Tensor, Tensor], Tensor] | None = None
    log_profile: Callable[[Tensor], Tensor] | None = None
    log_slope: Callable[[Tensor], Tensor] | None = None
    slope_factor: float | None = None

    @property
    def canonical_factor(self) -> float:
        """Bandwidth that smooths as much as a Gaussian of bandwidth 1 (Marron & Nolan 1988)."""
        roughness, second_moment = self.roughness, self.second_moment
        if roughness is None or second_moment is None:
            roughness, second_moment = _integrated_moments(self)
        return (roughness / second_moment**2) ** 0.2 / GAUSSIAN_CANONICAL

    @property
    def search_scale(self) -> float:
        """The canonical factor where it is known in closed form, else 1."""
        return self.canonical_factor if self.roughness is not None else 1.0

    @property
    def has_smooth_loss(self) -> bool:
        """Whether losses are smooth in the bandwidth, so that gradients suffice to minimise."""
        return self.tail is not None

    def derivative(self) -> "Kernel":
        """Return the kernel whose profile is the slope of this one."""
        tail = self.tail and partial(_derivative_tail, self.tail, self.log_slope)
        return replace(
            self,
            name=f"slope of {self.name}",
            profile=self.slope,
            smooth=self.smooth and self.name != "epanechnikov",
            tail=tail,
        )

    def squared(self) -> "Kernel":
        """Return the kernel whose weights are the squares of this one's."""
        return replace(
            self,
            name=f"square of {self.name}",
            profile=partial(_squared_profile, self.profile),
            tail=self.tail and partial(_squared_tail, self.tail),
            log_profile=self.log_profile and partial(_doubled, self.log_profile),
        )


def _squared_profile(profile: Callable, sq: Tensor) -> Tensor:
    return profile(sq).square()


def _squared_tail(tail: Callable, excess: Tensor, nearest: Tensor) -> Tensor:
    return tail(excess, nearest).square()


def _doubled(function: Callable, sq: Tensor) -> Tensor:
    return 2 * function(sq)


def _derivative_tail(
    tail: Callable, log_slope: Callable, excess: Tensor, nearest: Tensor
) -> Tensor:
    return log_slope(nearest + excess) * tail(excess, nearest)


def _half_inverse_root(sq: Tensor) -> Tensor:
    """``1 / (2u)``, the derivative of u in s; 0 at u = 0, where no pair can pull."""
    return torch.where(sq > 0, 0.5 * sq.rsqrt(), 0.0)


def exp_(exponent: Tensor) -> Tensor:
    """Exponentiate in place, never into denormal numbers (they are several times slower)."""
    floor = -87.0 if exponent.dtype == torch.float32 else -700.0
    return exponent.clamp_min_(floor).exp_()


def _gaussian(sq: Tensor) -> Tensor:
    return exp_(sq.mul_(-0.5))


def _gaussian_slope(sq: Tensor) -> Tensor:
    return _gaussian(sq).mul_(-0.5)


def _gaussian_log(sq: Tensor) -> Tensor:
    return -0.5 * sq


def _gaussian_log_slope(sq: Tensor) -> Tensor:
    return torch.full_like(sq, -0.5)


def _gaussian_tail(excess: Tensor, nearest: Tensor) -> Tensor:
    return exp_(-0.5 * excess)


def _exponential(sq: Tensor) -> Tensor:
    return exp_(sq.sqrt_().neg_())


def _exponential_slope(sq: Tensor) -> Tensor:
    return -_half_inverse_root(sq) * _exponential(sq.clone())


def _exponential_log(sq: Tensor) -> Tensor:
    return -sq.sqrt()


def _exponential_log_slope(sq: Tensor) -> Tensor:
    return -_half_inverse_root(sq)


def _exponential_tail(excess: Tensor, nearest: Tensor) -> Tensor:
    # √(a + e) − √a = e / (√(a + e) + √a): no cancellation far away
    root_sum = (nearest + excess).sqrt() + nearest.sqrt()
    return exp_(torch.where(excess > 0, -excess / root_sum, 0.0))


def _cosine(sq: Tensor) -> Tensor:
    # cos(πu/2) = sin(π(1 − u)/2): exactly zero at the edge of the support
    return sq.clamp_max_(1).sqrt_().neg_().add_(1).mul_(math.pi / 2).sin_()


def _cosine_slope(sq: Tensor) -> Tensor:
    return torch.where(sq < 1, -(math.pi**2) / 8 * torch.sinc(sq.sqrt() / 2), 0.0)


def _epanechnikov(sq: Tensor) -> Tensor:
    return sq.neg_().add_(1).clamp_min_(0)


def _epanechnikov_slope(sq: Tensor) -> Tensor:
    return -(sq < 1).to(sq.dtype)


def _tophat(sq: Tensor) -> Tensor:
    return (sq < 1).to(sq.dtype)


def _linear(sq: Tensor) -> Tensor:
    return sq.sqrt_().neg_().add_(1).clamp_min_(0)


def _linear_slope(sq: Tensor) -> Tensor:
    return torch.where(sq < 1, -_half_inverse_root(sq), 0.0)


def _biweight(sq: Tensor) -> Tensor:
    return _epanechnikov(sq).square_()


def _biweight_slope(sq: Tensor) -> Tensor:
    return _epanechnikov(sq).mul_(-2)


def _triweight(sq: Tensor) -> Tensor:
    base = _epanechnikov(sq)
    return base.square().mul_(base)


def _triweight_slope(sq: Tensor) -> Tensor:
    return _epanechnikov(sq).square_().mul_(-3)


def _tricube_base(sq: Tensor) -> Tensor:
    return (1 - sq * sq.sqrt()).clamp_min_(0)


def _tricube(sq: Tensor) -> Tensor:
    base = _tricube_base(sq.clamp_max_(1))
    return base.square().mul_(base)


def _tricube_slope(sq: Tensor) -> Tensor:
    sq = sq.clamp_max_(1)
    return _tricube_base(sq).square_().mul_(sq.sqrt()).mul_(-4.5)


_ROOT_PI = math.sqrt(math.pi)

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Kernel(
            "gaussian",
            _gaussian,
            _gaussian_slope,
            support=math.inf,
            roughness=1 / (2 * _ROOT_PI),
            second_moment=1.0,
            smooth=True,
            tail=_gaussian_tail,
            log_profile=_gaussian_log,
            log_slope=_gaussian_log_slope,
            slope_factor=-0.5,
        ),
        Kernel(
            "exponential",
            _exponential,
            _exponential_slope,
            support=math.inf,
            roughness=1 / 4,
            second_moment=2.0,
            tail=_exponential_tail,
            log_profile=_exponential_log,
            log_slope=_exponential_log_slope,
        ),
        Kernel("cosine", _cosine, _cosine_slope, 1.0, math.pi**2 / 16, 1 - 8 / math.pi**2),
        Kernel("epanechnikov", _epanechnikov, _epanechnikov_slope, 1.0, 3 / 5, 1 / 5, smooth=True),
        Kernel("tophat", _tophat, torch.zeros_like, 1.0, 1 / 2, 1 / 3),
        Kernel("linear", _linear, _linear_slope, 1.0, 2 / 3, 1 / 6),
        Kernel("biweight", _biweight, _biweight_slope, 1.0, 5 / 7, 1 / 7, smooth=True),
        Kernel("triweight", _triweight, _triweight_slope, 1.0, 350 / 429, 1 / 9, smooth=True),
        Kernel("tricube", _tricube, _tricube_slope, 1.0, 175 / 247, 35 / 243),
    )
}


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
        _check_callable(kernel)
        return Kernel(
            getattr(kernel, "__name__", type(kernel).__name__),
            partial(_callable_profile, kernel),
            partial(_callable_slope, kernel),
            support=math.inf,
        )
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {sorted(KERNELS)} or a callable; got {kernel!r}.")
    return KERNELS[kernel]


def _callable_profile(function: Callable, sq: Tensor) -> Tensor:
    return function(sq.sqrt_()).to(sq.dtype)


def _callable_slope(function: Callable, sq: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        distance = sq.sqrt().requires_grad_()
        weights = function(distance.clone())  # which it may overwrite
        if not weights.requires_grad:  # a step: flat wherever it has a slope
            return torch.zeros_like(sq)
        (slope,) = torch.autograd.grad(weights.sum(), distance)
    return slope * _half_inverse_root(sq)


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


def _integrated_moments(kernel: Kernel) -> tuple[float, float]:
    """Roughness and second moment by quadrature, for kernels that come without them."""

    def weight(u: float) -> float:
        return float(kernel.profile(torch.full((1,), u * u, dtype=torch.float64)))

    def moment(integrand: Callable[[float], float]) -> float:
        near, far = quad(integrand, 0, 1, limit=200), quad(integrand, 1, math.inf, limit=200)
        return 2 * (near[0] + far[0])

    with warnings.catch_warnings():
        warnings.simplefilter("error", IntegrationWarning)
        try:
            mass = moment(weight)
            roughness = moment(lambda u: weight(u) ** 2) / mass**2
            return roughness, moment(lambda u: u * u * weight(u)) / mass
        except (IntegrationWarning, ZeroDivisionError):
            raise ValueError(
                f"The kernel {kernel.name!r} has no finite second moment, so the bandwidth rules "
                "do not apply to it; give the bandwidth as a number or as 'loo'."
            ) from None
