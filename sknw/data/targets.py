"""Targets centred and scaled for the sums, and back in the units of y."""

from dataclasses import dataclass

import numpy as np

from sknw.data.extent import weighted_mean


@dataclass(frozen=True, eq=False)
class TargetScale:
    """Centre, scale, range and variation of each output.

    Parameters
    ----------
    centre, scale : ndarray of shape (n_outputs,)
        Median, and largest deviation from it (1 for a constant output). A median, so that one
        remote value cannot cost the others digits.
    lowest, highest : ndarray of shape (n_outputs,)
        Range in the units of y.
    variance, deviation : ndarray of shape (n_outputs,)
        Weighted variance and mean absolute deviation of the scaled outputs; 1 for a constant one.
    """

    centre: np.ndarray
    scale: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    variance: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, weights: np.ndarray) -> "TargetScale":
        """Return the scale of targets (n, n_outputs) with weights (n,)."""
        centre = np.median(y, axis=0)
        largest = np.abs(y - centre).max(axis=0)
        scale = np.where(largest > 0, largest, 1.0)
        scaled = (y - centre) / scale
        errors = scaled - weighted_mean(scaled, weights)
        variance = weighted_mean(np.square(errors), weights)
        deviation = weighted_mean(np.abs(errors), weights)
        return cls(
            centre,
            scale,
            lowest=y.min(axis=0),
            highest=y.max(axis=0),
            variance=np.where(variance > 0, variance, 1.0),
            deviation=np.where(deviation > 0, deviation, 1.0),
        )

    @property
    def varies(self) -> bool:
        """Whether any output has two values."""
        return bool((self.highest > self.lowest).any())

    @property
    def variance_unit(self) -> float:
        """Squared units of y in one unit of variance; 1 for several outputs."""
        return float(self.variance[0] * self.scale[0] ** 2) if len(self.scale) == 1 else 1.0

    @property
    def deviation_unit(self) -> float:
        """Units of y in one unit of mean absolute deviation; 1 for several outputs."""
        return float(self.deviation[0] * self.scale[0]) if len(self.scale) == 1 else 1.0

    def scaled(self, y: np.ndarray) -> np.ndarray:
        """Return targets (n, n_outputs) less their centre, over their scale."""
        return (y - self.centre) / self.scale

    def in_units(self, scaled: np.ndarray, *, within_range: bool = True) -> np.ndarray:
        """Return scaled estimates (m, n_outputs) in the units of y; means are within its range."""
        y = scaled.astype(np.float64, copy=False) * self.scale
        y += self.centre
        return np.clip(y, self.lowest, self.highest, out=y) if within_range else y
