"""Where a solver walks: coordinates in which equal steps matter alike.

Scales are walked as logarithms of the widths 1/|w|, within bounds (see
`sknw.fitting.parametrization`). Weights that may change their sign are walked as they are, each in
units of its own magnitude.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from sknw.fitting.parametrization import Scales


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
    def values(self, x: np.ndarray) -> np.ndarray:
        """Return the parameters at coordinates."""

    @abstractmethod
    def by_coordinates(self, x: np.ndarray, by_parameters: np.ndarray) -> np.ndarray:
        """Return the gradient (p,) by coordinates of what has this one by the parameters."""


@dataclass(frozen=True, eq=False)
class ScaleCoordinates(Scales, Coordinates):
    """Of scales w (p,): the widths 1/|w| on their bounded logarithmic axis; signs stay.

    Parameters
    ----------
    signs : ndarray of shape (p,)
        Sign of each scale.
    """

    signs: np.ndarray

    def of(self, parameters: np.ndarray) -> np.ndarray:
        """Return the coordinates of the widths 1/|w|."""
        return self.widths.coordinates(1 / np.abs(parameters))

    def values(self, x: np.ndarray) -> np.ndarray:
        """Return scales with the signs kept."""
        return self.signs / self.widths.values(x)

    def by_coordinates(self, x: np.ndarray, by_parameters: np.ndarray) -> np.ndarray:
        """Return the gradient by coordinates of what has this one by the scales."""
        return -by_parameters * self.values(x) * self.widths.slopes(x)


@dataclass(frozen=True, eq=False)
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

    def values(self, x: np.ndarray) -> np.ndarray:
        """Return coordinates times magnitudes."""
        return x * self.magnitudes

    def by_coordinates(self, x: np.ndarray, by_parameters: np.ndarray) -> np.ndarray:
        """Return the gradient times magnitudes."""
        return by_parameters * self.magnitudes
