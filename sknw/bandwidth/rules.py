"""Rules of thumb: a bandwidth from each feature's spread and the number of rows."""

import numpy as np

from sknw.bandwidth.selector import Selection, Selector
from sknw.data.observations import Observations
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.kernels import Kernel


def _scott_factor(size: float, n_features: int) -> float:
    return size ** (-1 / (n_features + 4))


def _silverman_factor(size: float, n_features: int) -> float:
    return _scott_factor(size, n_features) * (4 / (n_features + 2)) ** (1 / (n_features + 4))


def _by_rule(factor, observations: Observations, kernel: Kernel) -> np.ndarray:
    """Return spread · factor · the kernel's canonical factor, shape (n_features,)."""
    scale = factor(observations.effective_size, observations.n_features) * kernel.canonical_factor
    return observations.spread * scale


class Scott(Selector):
    """``σ_j n^(−1/(d+4))``, times the kernel's canonical factor (Scott 1992, eq. 6.44)."""

    name = "scott"

    def select(self, observations: Observations, task: LeaveOneOut, random_state) -> Selection:
        """Apply the rule."""
        return Selection(_by_rule(_scott_factor, observations, task.kernel))


class Silverman(Selector):
    """Scott's rule times ``(4/(d+2))^(1/(d+4))`` (Silverman 1986, eq. 4.14)."""

    name = "silverman"

    def select(self, observations: Observations, task: LeaveOneOut, random_state) -> Selection:
        """Apply the rule."""
        return Selection(_by_rule(_silverman_factor, observations, task.kernel))
