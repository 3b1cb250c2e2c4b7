"""Where a solver walks: coordinates in which equal steps matter alike.

Scales are walked as logarithms of the widths 1/|w|, within bounds (see
`sknw.fitting.parametrization`). Weights that may change their sign are walked as they are, each in
units of its own magnitude.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sknw.data.arrays import to_tensor
from sknw.fitting.parametrization import Widths


class Coordinates(ABC):
    """A one-to-one map between parameters (p,) and the coordinates (p,) of a search."""

    @property
    @abstractmethod
    def bounds(self) -> list[tuple[float, float]]:
        """Smallest and largest value of each coordinate."""

    @abstractmethod
    def of(self, parameters: np.ndarray) -> np.ndarray:
        """Return the coordinates of parameters."""

    @abstractmethod
    def at(self, x: Tensor) -> Tensor:
        """Return the parameters at coordinates, differentiable."""

    @abstractmethod
    def values(self, x: np.ndarray) -> np.ndarray:
        """Return the parameters at coordinates as an array."""


@dataclass(frozen=True)
class WidthCoordinates(Coordinates):
    """Of scales: the widths 1/|w| on their bounded logarithmic axis; signs stay.

    Parameters
    ----------
    widths : Widths
        The range of widths.
    signs : ndarray of shape (p,)
        Sign of each scale.
    """

    widths: Widths
    signs: np.ndarray

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """Bounds of the widths' coordinates."""
        return self.widths.bounds

    def of(self, parameters: np.ndarray) -> np.ndarray:
        """Return the coordinates of the widths 1/|w|."""
        return self.widths.coordinates(1 / np.abs(parameters))

    def at(self, x: Tensor) -> Tensor:
        """Return scales with the signs kept."""
        return to_tensor(self.signs, dtype=x.dtype, device=x.device) / self.widths.at(x)

    def values(self, x: np.ndarray) -> np.ndarray:
        """Return scales with the signs kept."""
        return self.signs / self.widths.values(x)

    def log_slopes(self, x: np.ndarray) -> np.ndarray:
        """Return the derivatives (p,) of the scales' logarithms by the coordinates."""
        return -self.widths.slopes(x)

    def narrowed(self, x: np.ndarray, factor: float) -> np.ndarray:
        """Return narrower widths; the largest stay where they are."""
        return self.widths.narrowed(x, factor)


@dataclass(frozen=True)
class PlainCoordinates(Coordinates):
    """Of weights of either sign: each over its magnitude, without bounds.

    Parameters
    ----------
    magnitudes : ndarray of shape (p,)
        How large a change of each parameter is ordinary.
    """

    magnitudes: np.ndarray

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """No bounds."""
        return [(-np.inf, np.inf)] * len(self.magnitudes)

    def of(self, parameters: np.ndarray) -> np.ndarray:
        """Return parameters over their magnitudes."""
        return parameters / self.magnitudes

    def at(self, x: Tensor) -> Tensor:
        """Return coordinates times magnitudes."""
        return x * to_tensor(self.magnitudes, dtype=x.dtype, device=x.device)

    def values(self, x: np.ndarray) -> np.ndarray:
        """Return coordinates times magnitudes."""
        return x * self.magnitudes
