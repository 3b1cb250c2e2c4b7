"""Rules of thumb: a bandwidth from each feature's spread and the number of rows."""

import numpy as np

from sknw.bandwidth.selector import Selection, Selector
from sknw.data.observations import Observations
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.kernels import Kernel
from sknw.smoothing.windows import FixedWindows


def _scott_factor(size: float, n_features: int) -> float:
    return size ** (-1 / (n_features + 4))


def _silverman_factor(size: float, n_features: int) -> float:
    return _scott_factor(size, n_features) * (4 / (n_features + 2)) ** (1 / (n_features + 4))


def _by_rule(factor, observations: Observations, kernel: Kernel) -> Selection:
    """Return deviation · factor · the kernel's canonical factor of each feature."""
    scale = factor(observations.effective_size, observations.features.n_features)
    return Selection(FixedWindows(observations.extent.deviation * scale * kernel.canonical_factor))


def aitchison_aitken(lambdas, n_categories):
    """Return what Aitchison and Aitken's kernel calls the λ of an unordered category.

    Their kernel [1]_ is ``1 − λ`` for a match and ``λ/(c − 1)`` for a mismatch of c categories. It
    gives the same weights as ``λ^{1(a≠b)}`` with the λ of `bandwidth_`.

    Parameters
    ----------
    lambdas : float or array-like
        λ as in `bandwidth_`, between 0 and 1.
    n_categories : int or array-like
        Number of categories c, at least 2.

    Returns
    -------
    converted : float or ndarray
        Between 0 and ``(c − 1)/c``.

    References
    ----------
    .. [1] J. Aitchison and C. G. G. Aitken, "Multivariate binary discrimination by the kernel
           method", Biometrika 63(3), 1976.

    Examples
    --------
    >>> from sknw.bandwidth import aitchison_aitken
    >>> round(float(aitchison_aitken(0.5, 3)), 3)
    0.5
    """
    mismatches = (np.asarray(n_categories) - 1) * np.asarray(lambdas, dtype=np.float64)
    return mismatches / (1 + mismatches)


class Scott(Selector):
    """``σ_j n^(−1/(d+4))``, times the kernel's canonical factor (Scott 1992, eq. 6.44)."""

    name = "scott"

    def select(self, observations: Observations, task: LeaveOneOut, random_state) -> Selection:
        """Apply the rule."""
        return _by_rule(_scott_factor, observations, task.method.kernel)


class Silverman(Selector):
    """Scott's rule times ``(4/(d+2))^(1/(d+4))`` (Silverman 1986, eq. 4.14)."""

    name = "silverman"

    def select(self, observations: Observations, task: LeaveOneOut, random_state) -> Selection:
        """Apply the rule."""
        return _by_rule(_silverman_factor, observations, task.method.kernel)


RULES: dict[str, Selector] = {rule.name: rule for rule in (Scott(), Silverman())}
