"""How far the features of a training set extend: what bandwidths are compared with."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sknw.data.features import Features


@dataclass(frozen=True, eq=False)
class FeatureExtent:
    """Spread, range and gaps of each feature over distinct rows.

    A block of columns that is one feature has one of each. Of codes of categories they are what the
    categories' distances have.

    Parameters
    ----------
    keys : ndarray of shape (n_keys, n_columns)
        Distinct rows less their median.
    weights : ndarray of shape (n_keys,)
        Their weights.
    features : Features
        Which feature each column belongs to.
    """

    keys: np.ndarray
    weights: np.ndarray
    features: Features

    @cached_property
    def deviation(self) -> np.ndarray:
        """Weighted standard deviation of each feature; 1 for a constant one."""
        keys = self._wide_keys
        deviations = keys - weighted_mean(keys, self.weights)
        squares = weighted_mean(np.square(deviations), self.weights)
        of_codes = self.features.spread(keys, self.weights)
        deviation = self._or_of_codes(np.sqrt(self.features.by_feature(np.add, squares)), of_codes)
        return np.where((self.range > 0) & (deviation > 0), deviation, 1.0)

    @cached_property
    def typical_deviation(self) -> np.ndarray:
        """Median distance from the median of each feature, which no remote row moves."""
        return self.features.by_feature(np.maximum, np.median(np.abs(self._wide_keys), axis=0))

    @cached_property
    def range(self) -> np.ndarray:
        """Largest less smallest value of each feature."""
        found = self.features.by_feature(np.maximum, np.ptp(self._wide_keys, axis=0))
        return self._or_of_codes(found, self.features.steps(self.keys))

    @cached_property
    def smallest_gap(self) -> np.ndarray:
        """Smallest distance between distinct values of each feature; 0 for a constant one."""
        gaps = np.diff(np.sort(self._wide_keys, axis=0), axis=0)
        smallest = np.where(gaps > 0, gaps, np.inf).min(axis=0, initial=np.inf)
        smallest = self.features.by_feature(np.minimum, smallest)
        smallest = np.where(np.isfinite(smallest), smallest, 0.0)
        return self._or_of_codes(smallest, self.features.steps(self.keys))

    @property
    def _wide_keys(self) -> np.ndarray:
        return self.keys.astype(np.float64)

    def _or_of_codes(self, of_features: np.ndarray, of_codes: np.ndarray) -> np.ndarray:
        """Return what features have (n_features,), those that are codes their own."""
        of_features = of_features.copy()
        of_features[self.features.coded] = of_codes
        return of_features


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over the rows, from deviations so that an offset costs no digits."""
    return values[0] + np.average(values - values[0], axis=0, weights=weights)
