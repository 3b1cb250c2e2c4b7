"""What a bandwidth selector is, and what it returns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator

from sknw.data.features import Features
from sknw.data.observations import Observations
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.smoothing.windows import Windows


@dataclass(frozen=True)
class Selection:
    """Selected windows.

    Parameters
    ----------
    windows : Windows
        `FixedWindows` of a width for each feature, in the units of the columns, or of one for all;
        or `NeighborWindows`, which reach to a neighbour.
    criterion : float or None, default=None
        Value that a search reached.
    report : dict or None, default=None
        What a search looked at.
    path : dict of str to ndarray, or None, default=None
        Everything at which a search computed the criterion (``"widths"`` of shape (n_evaluations,
        n_features), or ``"n_neighbors"``), and the ``"criterion"`` there.
    irrelevant, linear : ndarray of int or None, default=None
        Features that a search smoothed away, and those of which the linear part is left.
    """

    windows: Windows
    criterion: float | None = None
    report: dict | None = None
    path: dict[str, np.ndarray] | None = None
    irrelevant: np.ndarray | None = None
    linear: np.ndarray | None = None


class Selector(ABC):
    """A way to find bandwidths from the data."""

    def check(self, features: Features) -> None:
        """Refuse settings that are not as described, or do not fit the features.

        Raises
        ------
        ValueError
        """
        if isinstance(self, BaseEstimator):
            self._validate_params()

    @abstractmethod
    def select(
        self,
        observations: Observations,
        task: LeaveOneOut,
        random_state: np.random.RandomState,
    ) -> Selection:
        """Return the windows for these observations."""
