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

GAUSSIAN_CANONICAL = (1 / (2 * math.sqrt(math.pi))) ** 0.2  # 0.7764


# Roundings of one point that a squared distance of 1 may hold, in units of eps times the size of
# its coordinates. A coordinate as given carries about one eps (0.1 k: half for 0.1, half for the
# product), the centred and scaled one another (half for the difference, half for the division);
# the square of a distance of 1 doubles both. The rest is for data that were rounded once more.
_ROUNDINGS = 4.0
# Steps to the fixed point of a cutoff radius for moments, and what is left to go after them.
_STEPS_OF_REACH, _REACH_MARGIN = 6, 1.05
_LARGEST_ALLOWANCE = 0.25  # however large the coordinates, a key close by stays inside


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
    reach : callable or None, default=None
        The squared distance at which ``log K`` (<= 0) takes a value, where there is a tail.
    slope_factor : float or None, default=None
        ``c`` where ``dK/ds = c K`` (the Gaussian's −½).
    formula : (str, str) or None, default=None
        Family and form (profile, slope or square) under which compiled loops know the kernel.
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
    slope: Callable[[Tensor], Tensor]
    support: float
    roughness: float | None = None
    second_moment: float | None = None
    smooth: bool = False
    tail: Callable[[Tensor, Tensor], Tensor] | None = None
    log_profile: Callable[[Tensor], Tensor] | None = None
    log_slope: Callable[[Tensor], Tensor] | None = None
    reach: Callable[[Tensor], Tensor] | None = None
    slope_factor: float | None = None
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
        return (_ROUNDINGS * eps * (sizes + 1)).clamp_max(_LARGEST_ALLOWANCE).to(dtype)

    def cut_off_for(self, order: int) -> "Kernel":
        """Return the kernel that is negligible only where ``max(1, u)^order K(u)`` is, too."""
        if order == 0 or self.reach is None:
            return self
        return replace(self, reach=partial(_reach_of_moments, self.reach, order))

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
            roughness=None,
            second_moment=None,
            smooth=self.slope_factor is not None,
            tail=tail,
            formula=self._formula("slope"),
            square_scale=None,
            same_as=None,
        )

    def squared(self) -> "Kernel":
        """Return the kernel whose weights are the squares of this one's."""
        return replace(
            self,
            name=f"square of {self.name}",
            profile=partial(_squared_profile, self.profile),
            slope=partial(_squared_slope, self.profile, self.slope),
            roughness=None,
            second_moment=None,
            tail=self.tail and partial(_squared_tail, self.tail),
            log_profile=self.log_profile and partial(_doubled, self.log_profile),
            log_slope=self.log_slope and partial(_doubled, self.log_slope),
            reach=self.reach and partial(_at_half, self.reach),
            slope_factor=self.slope_factor and 2 * self.slope_factor,
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


def _squared_slope(profile: Callable, slope: Callable, sq: Tensor) -> Tensor:
    return 2 * slope(sq.clone()) * profile(sq)


def _squared_tail(tail: Callable, excess: Tensor, nearest: Tensor) -> Tensor:
    return tail(excess, nearest).square()


def _doubled(function: Callable, sq: Tensor) -> Tensor:
    return 2 * function(sq)


def _at_half(function: Callable, value: Tensor) -> Tensor:
    return function(value / 2)


def _reach_of_moments(reach: Callable, order: int, log_weight: Tensor) -> Tensor:
    """Return the squared distance at which ``max(1, u)^order K(u)`` takes a value, or a larger one.

    From the kernel's own one up, the logarithm of u grows ever more slowly.
    """
    squared = reach(log_weight)
    for _ in range(_STEPS_OF_REACH):
        squared = reach(log_weight - order / 2 * squared.clamp_min(1).log())
    return _REACH_MARGIN * squared


def _derivative_tail(
    tail: Callable, log_slope: Callable, excess: Tensor, nearest: Tensor
) -> Tensor:
    return log_slope(nearest + excess) * tail(excess, nearest)


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
