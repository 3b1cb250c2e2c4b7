"""What a bandwidth selector is, and what it returns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sknw._observations import Observations
from sknw.leave_one_out import LeaveOneOut


@dataclass(frozen=True)
class Selection:
    """A selected bandwidth.

    Parameters
    ----------
    bandwidth : float or ndarray of shape (n_features,)
        In the units of X.
    criterion : float or None, default=None
        Value that a search reached, in squared units of y for one output.
    report : dict or None, default=None
        What a search looked at.
    """

    bandwidth: float | np.ndarray
    criterion: float | None = None
    report: dict | None = None


class Selector(ABC):
    """A way to find bandwidths from the data."""

    name: ClassVar[str]

    @abstractmethod
    def select(
        self,
        observations: Observations,
        task: LeaveOneOut,
        random_state: np.random.RandomState,
    ) -> Selection:
        """Return the bandwidths for these observations."""
