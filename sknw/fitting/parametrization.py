"""Search coordinates for widths: logarithmic where narrow, bounded where wide.

Relative changes of a narrow width matter alike, so a search should see its logarithm. A very wide
one (a feature that does not help) has no influence left, and on a logarithmic scale the search
would crawl along a plateau towards it. The coordinate

    t = −½ log(1/h² + 1/b²)

is log h for ``h ≪ b`` and tends to log b as h grows, with a slope that does not vanish: the loss is
smooth in ``1/h²``, so an irrelevant feature runs straight into its bound.

`Scales` are widths of features, one each or shared, as what a search walks in: bandwidths are found
in them, and so are the scales inside the softmax.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sknw.data.observations import Observations
from sknw.kernels import Kernel
from sknw.support import tuning


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

    @classmethod
    def of(
        cls,
        observations: Observations,
        kernel: Kernel,
        bounds: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> "Widths":
        """Return the widths (n_features,) worth trying; `bounds` are the user's."""
        extent = observations.extent
        spread, range_ = extent.deviation, extent.range
        typical = np.minimum(spread, extent.typical_deviation)
        of_gap = tuning.LEAST_WIDTH_IN_GAPS * extent.smallest_gap
        lower = np.maximum(of_gap, tuning.LEAST_WIDTH_IN_SPREADS * typical)
        upper = tuning.LARGEST_WIDTH_IN_RANGES * np.where(range_ > 0, range_, spread)
        lower, upper = bounds or (np.where(range_ > 0, lower, upper), upper)
        return cls(lower, upper, spread * kernel.search_scale)

    @property
    def _broad(self) -> np.ndarray:
        return tuning.BROAD_WIDTH * self.spread

    def _relative(self, widths: np.ndarray) -> np.ndarray:
        largest = 1e150  # its square does not overflow
        return np.minimum(self._broad / widths, largest)

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

    @cached_property
    def _constants(self) -> tuple[np.ndarray, np.ndarray]:
        """The logarithms of the broad widths, and the least precision in units of theirs."""
        return np.log(self._broad), np.square(self._relative(self.upper))

    @cached_property
    def _widest(self) -> np.ndarray:
        """The coordinates of the largest widths."""
        return self.coordinates(self.upper)

    def slopes(self, coordinates: np.ndarray) -> np.ndarray:
        """Return the derivatives (p,) of the logarithms of the widths by the coordinates."""
        log_broad, least = self._constants
        precision = np.expm1(-2 * (coordinates - log_broad))
        return (precision + 1) / np.maximum(precision, least)

    def values(self, coordinates: np.ndarray) -> np.ndarray:
        """Return the widths as an array; at the bound exactly the largest."""
        log_broad, least = self._constants
        precision = np.expm1(-2 * (coordinates - log_broad))
        widths = self._broad * np.maximum(precision, least) ** -0.5
        at_bound = coordinates >= self._widest - 1e-12
        return np.where(at_bound, self.upper, np.clip(widths, self.lower, self.upper))

    def narrowed(self, coordinates: np.ndarray, factor: float) -> np.ndarray:
        """Return the coordinates of widths times `factor`; the largest stay where they are."""
        widths = self.values(coordinates)
        return self.coordinates(np.where(widths < self.upper, widths * factor, widths))


@dataclass(frozen=True, eq=False)
class Scales:
    """Widths as coordinates x (p,) of a search, and the scales of columns that they stand for.

    Parameters
    ----------
    widths : Widths
        The range of each parameter.
    of_feature : ndarray of shape (n_features,)
        The parameter that is each feature's width.
    of_column : ndarray of shape (n_columns,)
        The feature of each column.
    units : ndarray of shape (n_columns,)
        What a width of one is in each column.
    """

    widths: Widths
    of_feature: np.ndarray
    of_column: np.ndarray
    units: np.ndarray

    @classmethod
    def of(
        cls, ranges: Widths, of_column: np.ndarray, shared: np.ndarray | None = None
    ) -> "Scales":
        """Return widths of features, in the units of X.

        Parameters
        ----------
        ranges : Widths
            The range of each feature's width.
        of_column : ndarray of shape (n_columns,)
            The feature of each column.
        shared : ndarray of shape (n_features,) or None, default=None
            The parameter of each feature; None: each has its own.
        """
        widths = ranges if shared is None else ranges.shared(shared)
        of_feature = np.arange(len(ranges.lower)) if shared is None else shared
        return cls(widths, of_feature, of_column, np.ones(len(of_column)))

    def __len__(self) -> int:
        """Return the number of parameters."""
        return len(self.widths.lower)

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """Bounds of the coordinates."""
        return self.widths.bounds

    @property
    def members(self) -> list[np.ndarray]:
        """The features whose width each parameter is."""
        return [np.flatnonzero(self.of_feature == index) for index in range(len(self))]

    def narrowed(self, x: np.ndarray, factor: float) -> np.ndarray:
        """Return the coordinates of widths times a factor; the largest stay where they are."""
        return self.widths.narrowed(x, factor)

    def column_scales(self, x: np.ndarray) -> np.ndarray:
        """Return one over the width of each column in its units, (n_columns,)."""
        return 1 / (self.widths.values(x)[self._parameter_of_column] * self.units)

    def gradient(self, x: np.ndarray, by_log_scales: np.ndarray) -> np.ndarray:
        """Return the gradient (p,) of what has this one (n_columns,) by log-scales of columns."""
        by_log = np.bincount(self._parameter_of_column, by_log_scales, minlength=len(self))
        return -by_log * self.widths.slopes(x)

    @cached_property
    def _parameter_of_column(self) -> np.ndarray:
        return self.of_feature[self.of_column]
