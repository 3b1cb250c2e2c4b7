"""The training set as the estimators see it: distinct observations, weights, centre and scale.

Rows identical in x *and* y (twins) are one observation whose weight is their sum. So a weight of
two equals a repeated row exactly, and a copied row cannot make its own leave-one-out error vanish.
Rows of weight zero are no keys, but keep their place: they too get leave-one-out predictions.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sknw._features import Features


@dataclass(frozen=True, eq=False)
class Observations:
    """Distinct training rows, those with positive weight (the keys) first.

    Parameters
    ----------
    X : ndarray of shape (n_observations, n_columns)
        Rows less `centre`. A numeric feature is one column, a categorical one a block of columns.
    y : ndarray of shape (n_observations, n_outputs)
        Targets less `y_mean`, over `y_scale`.
    weights : ndarray of shape (n_keys,)
        Total weight of each key, the largest being 1.
    group : ndarray of shape (n_rows,)
        The observation that each training row belongs to.
    share : ndarray of shape (n_rows,)
        The row's share of its observation's weight.
    centre : ndarray of shape (n_columns,)
        Median of each column: robust, so that one remote row cannot cost the others digits.
    y_mean, y_scale, y_min, y_max : ndarray of shape (n_outputs,)
        Weighted mean, largest deviation from it, and range of the keys' targets.
    features : Features
        Which feature each column belongs to.
    """

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    group: np.ndarray
    share: np.ndarray
    centre: np.ndarray
    y_mean: np.ndarray
    y_scale: np.ndarray
    y_min: np.ndarray
    y_max: np.ndarray
    features: Features

    @classmethod
    def of(
        cls,
        X: np.ndarray,
        y: np.ndarray,
        sample_weight: np.ndarray,
        features: Features | None = None,
    ) -> "Observations":
        """Merge twins, put keys first, centre.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_columns)
        y : ndarray of shape (n_rows, n_outputs)
        sample_weight : ndarray of shape (n_rows,)
            Weights >= 0, not all zero.
        features : Features or None, default=None
            Which feature each column belongs to; None: each column is a number.
        """
        first, group = _merge_twins(np.column_stack([X, y]))
        sample_weight = sample_weight / sample_weight.max()
        totals = np.bincount(group, weights=sample_weight, minlength=len(first))
        n_keys = np.count_nonzero(totals)
        if n_keys < len(totals):
            order = np.argsort(totals == 0, kind="stable")  # keys first
            first, group, totals = first[order], _places(order)[group], totals[order]
        share = np.divide(
            sample_weight, totals[group], out=np.zeros(len(X)), where=totals[group] > 0
        )
        weights = totals[:n_keys] / totals.max()
        centre = np.median(X[first[:n_keys]], axis=0).astype(X.dtype)
        targets = y[first].astype(np.float64)
        y_mean = _weighted_mean(targets[:n_keys], weights)
        deviations = np.abs(targets[:n_keys] - y_mean).max(axis=0)
        y_scale = np.where(deviations > 0, deviations, 1.0)
        return cls(
            X=X[first] - centre,
            y=(targets - y_mean) / y_scale,
            weights=weights,
            group=group,
            share=share,
            centre=centre,
            y_mean=y_mean,
            y_scale=y_scale,
            y_min=targets[:n_keys].min(axis=0),
            y_max=targets[:n_keys].max(axis=0),
            features=features or Features(X.shape[1]),
        )

    @property
    def n_keys(self) -> int:
        """Number of observations with positive weight."""
        return len(self.weights)

    @property
    def keys(self) -> np.ndarray:
        """Centred rows of the keys, (n_keys, n_features)."""
        return self.X[: self.n_keys]

    @cached_property
    def effective_size(self) -> float:
        """Kish's effective number of keys, ``(Σw)²/Σw²``."""
        return float(self.weights.sum() ** 2 / np.square(self.weights).sum())

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.features.n_features

    @cached_property
    def spread(self) -> np.ndarray:
        """Weighted standard deviation of each feature; 1 for a constant one."""
        keys = self.keys.astype(np.float64)
        deviations = keys - _weighted_mean(keys, self.weights)
        variance = self._by_feature(np.add, _weighted_mean(np.square(deviations), self.weights))
        return np.where((self.extent > 0) & (variance > 0), np.sqrt(variance), 1.0)

    @cached_property
    def typical_deviation(self) -> np.ndarray:
        """Median distance from the median of each feature, which no remote row moves."""
        deviations = np.median(np.abs(self.keys.astype(np.float64)), axis=0)
        return self._by_feature(np.maximum, deviations)

    @cached_property
    def extent(self) -> np.ndarray:
        """Range of each feature."""
        return self._by_feature(np.maximum, np.ptp(self.keys.astype(np.float64), axis=0))

    @cached_property
    def farthest(self) -> np.ndarray:
        """Largest absolute coordinate of each feature."""
        return np.maximum(self.keys.max(axis=0), -self.keys.min(axis=0))

    @cached_property
    def smallest_gap(self) -> np.ndarray:
        """Smallest distance between distinct values of each feature; 0 for a constant one."""
        gaps = np.diff(np.sort(self.keys.astype(np.float64), axis=0), axis=0)
        smallest = np.where(gaps > 0, gaps, np.inf).min(axis=0, initial=np.inf)
        smallest = self._by_feature(np.minimum, smallest)
        return np.where(np.isfinite(smallest), smallest, 0.0)

    def _by_feature(self, reduce: np.ufunc, of_columns: np.ndarray) -> np.ndarray:
        """Return what each feature's columns reduce to."""
        return reduce.reduceat(of_columns, self.features.first_columns)

    @cached_property
    def y_deviation(self) -> np.ndarray:
        """Weighted mean absolute deviation of each scaled output; 1 for a constant one."""
        deviation = _weighted_mean(np.abs(self.y[: self.n_keys]), self.weights)
        return np.where(deviation > 0, deviation, 1.0)

    @cached_property
    def y_variance(self) -> np.ndarray:
        """Weighted variance of each scaled output; 1 for a constant one."""
        variance = _weighted_mean(np.square(self.y[: self.n_keys]), self.weights)
        return np.where(variance > 0, variance, 1.0)


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the rows, from deviations so that an offset costs no digits."""
    return values[0] + np.average(values - values[0], axis=0, weights=weights)


def _merge_twins(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a row of each distinct kind, and each row's kind; -0.0 in the rows becomes 0.0.

    The order depends on the values alone, so that no result depends on the order of the rows.
    """
    rows += 0.0  # -0.0 equals 0.0
    codes = _row_codes(rows)
    order = np.argsort(codes)
    sorted_codes = codes[order]
    if (sorted_codes[1:] != sorted_codes[:-1]).all():  # faster than what finds twins
        return order, _places(order)
    _, first, kind = np.unique(codes, return_index=True, return_inverse=True)
    if len(first) < len(rows) and not np.array_equal(rows[first[kind]], rows):
        # different rows share a code: sort the rows themselves
        _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, kind.reshape(-1)


def _places(order: np.ndarray) -> np.ndarray:
    """Return where each element stands in an order."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def _row_codes(rows: np.ndarray) -> np.ndarray:
    """Return a 64-bit code per row; equal rows have equal codes."""
    bits = np.ascontiguousarray(rows, dtype=np.float64).view(np.uint64)
    codes = np.zeros(len(rows), dtype=np.uint64)
    for column in bits.T:
        codes = (codes ^ column) * np.uint64(0x9E3779B97F4A7C15)
        codes ^= codes >> np.uint64(29)
    return codes
