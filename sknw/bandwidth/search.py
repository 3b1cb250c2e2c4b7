"""Bandwidths that minimise the leave-one-out squared error, one per feature.

Leave-one-out loss has local minima at small bandwidths and plateaus at large ones. The search
therefore scans the whole range with one common multiple of every feature's spread, starts a
bounded quasi-Newton descent in log-bandwidths from the scan's minima and from a broader start, and
last asks of every feature whether the loss is lower without it. On larger data a random subsample
rehearses; its bandwidths, rescaled by ``(n_s/n)^(1/(d+4))``, start the descents on all rows, and
only the latter count.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sknw._observations import Observations
from sknw.bandwidth.rules import Scott
from sknw.bandwidth.selector import Selection, Selector
from sknw.leave_one_out import LeaveOneOut
from sknw.optimize import Descent, Minimum, Objective, best_of, descents, scan_minima

_REHEARSAL_SIZE = 500
_MAX_ITER = 200
_TOL = 1e-12


class LeaveOneOutSearch(Selector):
    """Per-feature bandwidths by weighted leave-one-out squared error (Härdle & Marron 1985)."""

    name = "loo"

    def select(
        self,
        observations: Observations,
        task: LeaveOneOut,
        random_state: np.random.RandomState,
    ) -> Selection:
        """Search; take Scott's rule where leave-one-out cannot tell bandwidths apart."""
        if not _is_informative(observations):
            return _by_rule(observations, task, random_state)
        best = _without_useless_features(task, _search(task, random_state))
        if not best.converged:
            warnings.warn(
                f"The bandwidth search stopped after {_MAX_ITER} steps without converging.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return Selection(np.exp(best.x), _objective(task).reported(best.x) * task.unit)


def _is_informative(observations: Observations) -> bool:
    varies = observations.y_max > observations.y_min
    return observations.n_keys > 1 and bool(np.any(observations.extent > 0)) and bool(varies.any())


def _by_rule(
    observations: Observations, task: LeaveOneOut, random_state: np.random.RandomState
) -> Selection:
    bandwidth = Scott().select(observations, task, random_state).bandwidth
    return Selection(bandwidth, _objective(task).reported(np.log(bandwidth)) * task.unit)


def _objective(task: LeaveOneOut) -> Objective:
    def loss(log_bandwidth: Tensor) -> Tensor:
        return task.loss(task.rows / log_bandwidth.exp().to(task.rows.dtype))

    return Objective(loss, device=task.rows.device)


def _descent(task: LeaveOneOut) -> Descent:
    lower, upper = np.log(task.bounds)
    bounds = list(zip(lower.tolist(), upper.tolist(), strict=True))
    return Descent(bounds, _MAX_ITER, _TOL, polish_evaluations=task.polish_evaluations)


def _search(task: LeaveOneOut, random_state: np.random.RandomState) -> Minimum:
    small = task.subsample(_REHEARSAL_SIZE, random_state)
    rehearses = len(small) < len(task)
    found = descents(
        _objective(task),
        _starts(small),
        _descent(task),
        rehearsal=_objective(small) if rehearses else None,
        shift=np.log(len(small) / len(task)) / (task.n_features + 4),
    )
    return best_of(found)[0]


def _starts(task: LeaveOneOut) -> list[np.ndarray]:
    """Return log-bandwidths to descend from: the scan's minima, and a broader start."""
    minima = scan_minima(_objective(task), list(np.log(task.scan_bandwidths())))
    if task.n_features == 1:
        return minima[:3]
    broad = np.maximum(minima[0], np.log(task.spread))
    return [*minima[:2], broad]


def _without_useless_features(task: LeaveOneOut, best: Minimum) -> Minimum:
    """Widen every bandwidth to its bound where that does not raise the loss."""
    objective, descent = _objective(task), _descent(task)
    x, value = best.x.copy(), best.objective
    for feature, (low, high) in enumerate(descent.bounds):
        wide = x.copy()
        wide[feature] = high
        wide_value = objective.log_value(wide) if low < high else np.inf
        if wide_value <= value:
            x, value = wide, wide_value
    if np.array_equal(x, best.x):
        return best
    again = descent.run(objective, x)
    return again if again.objective <= value else Minimum(x, value, best.curve, best.converged)
