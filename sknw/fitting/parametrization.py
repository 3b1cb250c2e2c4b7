"""Search coordinates for widths: logarithmic where narrow, bounded where wide.

Relative changes of a narrow width matter alike, so a search should see its logarithm. A very wide
one (a feature that does not help) has no influence left, and on a logarithmic scale the search
would crawl along a plateau towards it. The coordinate

    t = −½ log(1/h² + 1/b²)

is log h for ``h ≪ b`` and tends to log b as h grows, with a slope that does not vanish: the loss is
smooth in ``1/h²``, so an irrelevant feature runs straight into its bound.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_tensor

_BROAD = 3.0  # b, in spreads
_LARGEST = 1e150  # times narrower than that: its square must not overflow


@dataclass(frozen=True, eq=False)
class Widths:
    """The range of each width, and the way to search coordinates and back.

    Parameters
    ----------
    lower, upper : ndarray of shape (p,)
        Smallest and largest width worth trying.
    spread : ndarray of shape (p,)
        Scale of the data that a width is compared with.
    """

    lower: np.ndarray
    upper: np.ndarray
    spread: np.ndarray

    def shared(self, parameter: np.ndarray) -> "Widths":
        """Return the ranges of parameters that are the widths of several each.

        A shared width may be as narrow as the narrowest of its members and as wide as the widest,
        and is compared with their typical scale.
        """
        members = [parameter == index for index in range(parameter.max() + 1)]
        return Widths(
            lower=np.array([self.lower[own].min() for own in members]),
            upper=np.array([self.upper[own].max() for own in members]),
            spread=np.array([np.exp(np.log(self.spread[own]).mean()) for own in members]),
        )

    @property
    def _broad(self) -> np.ndarray:
        return _BROAD * self.spread

    def _relative(self, widths: np.ndarray) -> np.ndarray:
        return np.minimum(self._broad / widths, _LARGEST)

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """Bounds of the coordinates."""
        low, high = self.coordinates(self.lower), self.coordinates(self.upper)
        return list(zip(low.tolist(), high.tolist(), strict=True))

    def coordinates(self, widths: np.ndarray) -> np.ndarray:
        """Return the coordinates (p,) of widths (p,), clipped to the range."""
        widths = np.clip(widths, self.lower, self.upper)
        # relative to the broad width, whose square may be out of range
        return np.log(self._broad) - 0.5 * np.log1p(np.square(self._relative(widths)))

    def at(self, coordinates: Tensor) -> Tensor:
        """Return the widths (..., p) at coordinates (..., p), differentiable."""
        broad, log_broad, least = (
            to_tensor(values, dtype=coordinates.dtype, device=coordinates.device)
            for values in self._constants
        )
        precision = torch.expm1(-2 * (coordinates - log_broad))
        # at the bound rounding may leave less than the least precision: keep value and slope
        return broad * (precision + (least - precision).clamp_min(0).detach()).rsqrt()

    @cached_property
    def _constants(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The broad widths, their logarithms, and the least precision in units of theirs."""
        return self._broad, np.log(self._broad), np.square(self._relative(self.upper))

    def slopes(self, coordinates: np.ndarray) -> np.ndarray:
        """Return the derivatives (p,) of the logarithms of `at` by the coordinates."""
        _, log_broad, least = self._constants
        precision = np.expm1(-2 * (coordinates - log_broad))
        return (precision + 1) / np.maximum(precision, least)

    def values(self, coordinates: np.ndarray) -> np.ndarray:
        """Return the widths as an array; at the bound exactly the largest."""
        precision = np.expm1(-2 * (coordinates - np.log(self._broad)))
        widths = self._broad * np.maximum(precision, np.square(self._relative(self.upper))) ** -0.5
        at_bound = coordinates >= self.coordinates(self.upper) - 1e-12
        return np.where(at_bound, self.upper, np.clip(widths, self.lower, self.upper))

    def narrowed(self, coordinates: np.ndarray, factor: float) -> np.ndarray:
        """Return the coordinates of widths times `factor`; the largest stay where they are."""
        widths = self.values(coordinates)
        return self.coordinates(np.where(widths < self.upper, widths * factor, widths))
