"""The record of a kernel, and the records that follow from one."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from scipy.integrate import IntegrationWarning, quad
from torch import Tensor

from sknw.kernels.codes import Codes
from sknw.support import tuning

GAUSSIAN_CANONICAL = (1 / (2 * math.sqrt(math.pi))) ** 0.2  # 0.7764


@dataclass(frozen=True)
class Given:
    """How the coordinates were given, where the sums see them centred and in bandwidths.

    Parameters
    ----------
    zero : Tensor of shape (1, d) or (b, d)
        Where the zero of the coordinates as given lies among the points of the sums.
    eps : float
        Relative precision of the coordinates as given.
    """

    zero: Tensor
    eps: float


@dataclass(frozen=True)
class Kernel:
    """One window function.

    Parameters
    ----------
    name : str
        The public name.
    profile : callable
        Weights from squared distances, any shape. It owns its argument and may overwrite it.
    profile_derivative : callable
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
    log_profile, log_profile_derivative : callable or None, default=None
        ``log K`` and ``d log K / ds`` at a squared distance, where there is a tail.
    squared_cutoff : callable or None, default=None
        The squared distance at which ``log K`` (<= 0) takes a value, where there is a tail.
    derivative_factor : float or None, default=None
        ``c`` where ``dK/ds = c K`` (the Gaussian's −½).
    formula : (str, str) or None, default=None
        Family and form (profile, derivative or square) under which compiled loops know the kernel.
    square_scale : float or None, default=None
        ``c`` where ``K(u)² = K(c u)``.
    same_as : (Kernel, float) or None, default=None
        A kernel and a scale ``c`` such that this one's weights are those of that kernel on points
        times ``c``, where sums are better done so: see `on_scaled_points`.
    given : Given or None, default=None
        How the coordinates were given, which decides what is at the edge of the support; None: as
        the sums see them.
    codes : Codes or None, default=None
        Which of the points' columns are codes of categories, and what their mismatches add to the
        squared distance; None: all columns are numbers.
    """

    name: str
    profile: Callable[[Tensor], Tensor]
    profile_derivative: Callable[[Tensor], Tensor]
    support: float
    roughness: float | None = None
    second_moment: float | None = None
    smooth: bool = False
    tail: Callable[[Tensor, Tensor], Tensor] | None = None
    log_profile: Callable[[Tensor], Tensor] | None = None
    log_profile_derivative: Callable[[Tensor], Tensor] | None = None
    squared_cutoff: Callable[[Tensor], Tensor] | None = None
    derivative_factor: float | None = None
    formula: tuple[str, str] | None = None
    square_scale: float | None = None
    same_as: tuple["Kernel", float] | None = None
    given: Given | None = field(default=None, compare=False, repr=False)
    codes: Codes | None = field(default=None, compare=False, repr=False)

    @property
    def n_codes(self) -> int:
        """Number of the points' last columns that are codes."""
        return 0 if self.codes is None else len(self.codes)

    @property
    def has_edge(self) -> bool:
        """Whether the weight may jump at distance 1: compact kernels and users' functions."""
        return self.tail is None

    def seeing(self, zero: Tensor, eps: float) -> "Kernel":
        """Return the kernel that knows how its points were given: see `Given`."""
        return replace(self, given=Given(zero.detach(), eps)) if self.has_edge else self

    def scaled_by(self, scales: Tensor) -> tuple["Kernel", Tensor]:
        """Return the kernel at scales (d,), or (b, d) for a batch, and the factors of the points.

        Numbers are multiplied by their scales; of codes the scales say what a mismatch costs.
        """
        kernel, factors = self, scales
        if self.codes is not None:
            n_numbers = scales.shape[-1] - len(self.codes)
            factors = torch.ones_like(scales)
            factors[..., :n_numbers] = scales[..., :n_numbers]
            kernel = replace(kernel, codes=self.codes.at(scales[..., n_numbers:]))
        if self.given is not None:
            kernel = replace(kernel, given=replace(self.given, zero=self.given.zero * factors))
        return kernel, factors

    def of_members(self, batch: slice) -> "Kernel":
        """Return the kernel for some members of the batch."""
        kernel = self
        if self.given is not None and len(self.given.zero) > 1:
            kernel = replace(kernel, given=replace(self.given, zero=self.given.zero[batch]))
        if self.codes is not None and len(self.codes.costs) > 1:
            kernel = replace(kernel, codes=self.codes.of_batch(batch))
        return kernel

    def member(self, b: int) -> "Kernel":
        """Return the kernel for member b of the batch."""
        return self.of_members(slice(b, b + 1))

    def sizes(self, points: Tensor) -> Tensor:
        """Return how large the numbers of points (b, n, d) are, as given plus as seen, (b, n)."""
        seen = _lengths(points)
        if self.given is None:
            return 2 * seen
        zero = self.given.zero[:, None, : points.shape[-1]]
        return seen + _lengths(points - zero)

    def edge_allowance(self, sizes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rounding in a squared distance of 1 by a point of such a size, in bandwidths.

        A pair whose squared distance is as near to 1 as both points' allowances together is at the
        edge of the support, and so outside.
        """
        eps = torch.finfo(dtype).eps
        if self.given is not None:
            eps = max(eps, self.given.eps)
        allowance = tuning.EDGE_ROUNDINGS * eps * (sizes + 1)
        return allowance.clamp_max(tuning.LARGEST_EDGE_ALLOWANCE).to(dtype)

    def cut_off_for(self, order: int) -> "Kernel":
        """Return the kernel that is negligible only where ``max(1, u)^order K(u)`` is, too."""
        if order == 0 or self.squared_cutoff is None:
            return self
        return replace(self, squared_cutoff=partial(_cutoff_of_moments, self.squared_cutoff, order))

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
        """Return the kernel whose profile is the derivative of this one's."""
        tail = self.tail and partial(_derivative_tail, self.tail, self.log_profile_derivative)
        return replace(
            self,
            name=f"derivative of {self.name}",
            profile=self.profile_derivative,
            roughness=None,
            second_moment=None,
            smooth=self.derivative_factor is not None,
            tail=tail,
            formula=self._formula("derivative"),
            square_scale=None,
            same_as=None,
        )

    def squared(self) -> "Kernel":
        """Return the kernel whose weights are the squares of this one's."""
        return replace(
            self,
            name=f"square of {self.name}",
            profile=partial(_squared_profile, self.profile),
            profile_derivative=partial(_squared_derivative, self.profile, self.profile_derivative),
            roughness=None,
            second_moment=None,
            tail=self.tail and partial(_squared_tail, self.tail),
            log_profile=self.log_profile and partial(_doubled, self.log_profile),
            log_profile_derivative=self.log_profile_derivative
            and partial(_doubled, self.log_profile_derivative),
            squared_cutoff=self.squared_cutoff and partial(_at_half, self.squared_cutoff),
            derivative_factor=self.derivative_factor and 2 * self.derivative_factor,
            formula=self._formula("square"),
            same_as=self.square_scale and (self, self.square_scale),
        )

    def on_scaled_points(self) -> tuple["Kernel", float]:
        """Return a kernel and a scale of the points under which sums of this one are best done.

        The square of a Gaussian is a Gaussian of points times √2, which every algorithm knows.
        """
        if self.same_as is None:
            return self, 1.0
        kernel, scale = self.same_as
        codes = self.codes and replace(self.codes, costs=self.codes.costs * scale**2)
        given = self.given and replace(self.given, zero=self.given.zero * scale)
        return replace(kernel, codes=codes, given=given), scale

    def _formula(self, form: str) -> tuple[str, str] | None:
        """Return what compiled loops call that form, which they know of a profile only."""
        if self.formula is None or self.formula[1] != "profile":
            return None
        return self.formula[0], form


def _squared_profile(profile: Callable, sq: Tensor) -> Tensor:
    return profile(sq).square()


def _squared_derivative(profile: Callable, derivative: Callable, sq: Tensor) -> Tensor:
    return 2 * derivative(sq.clone()) * profile(sq)


def _squared_tail(tail: Callable, excess: Tensor, nearest: Tensor) -> Tensor:
    return tail(excess, nearest).square()


def _doubled(function: Callable, sq: Tensor) -> Tensor:
    return 2 * function(sq)


def _at_half(function: Callable, value: Tensor) -> Tensor:
    return function(value / 2)


def _cutoff_of_moments(cutoff: Callable, order: int, log_weight: Tensor) -> Tensor:
    """Return the squared distance at which ``max(1, u)^order K(u)`` takes a value, or a larger one.

    From the kernel's own one up, the logarithm of u grows ever more slowly.
    """
    squared = cutoff(log_weight)
    for _ in range(tuning.FIXED_POINT_STEPS):
        squared = cutoff(log_weight - order / 2 * squared.clamp_min(1).log())
    return tuning.FIXED_POINT_MARGIN * squared


def _derivative_tail(
    tail: Callable, log_profile_derivative: Callable, excess: Tensor, nearest: Tensor
) -> Tensor:
    return log_profile_derivative(nearest + excess) * tail(excess, nearest)


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


def half_inverse_root(sq: Tensor) -> Tensor:
    """``1 / (2u)``, the derivative of u in s; 0 at u = 0, where a pair has no step."""
    return torch.where(sq > 0, 0.5 * sq.rsqrt(), 0.0)


def _lengths(points: Tensor) -> Tensor:
    """Return norms (b, n) of points (b, n, d); torch's own norm is slow where d is not the last."""
    return points.square().sum(dim=-1).sqrt()
