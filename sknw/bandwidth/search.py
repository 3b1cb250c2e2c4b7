"""Bandwidths that minimise the leave-one-out squared error, one per feature.

Leave-one-out loss has local minima at small bandwidths and plateaus at large ones. The search
therefore scans the whole range with one common multiple of every feature's spread, and then each
feature's own. From the best of both, bounded quasi-Newton descents start (in the coordinates of
`sknw.widths`), and last every feature is asked whether the loss is lower without it. On larger data
a random subsample rehearses; its bandwidths, rescaled by ``(n_s/n)^(1/(d+4))``, start the descents
on all rows, and only the latter count.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sknw._arrays import to_tensor
from sknw._observations import Observations
from sknw._types import warn_user
from sknw.bandwidth.rules import Scott
from sknw.bandwidth.selector import Selection, Selector
from sknw.leave_one_out import REHEARSAL_SIZE, LeaveOneOut
from sknw.optimize import Descent, Minimum, Objective, coordinate_scan, descend, scan_minima
from sknw.widths import Widths

_MAX_ITER = 200
_TOL = 1e-11
_EXPLORATIONS, _STRIDE, _ROWS_TO_EXPLORE = 3, 1.25, 2000  # more rows, a smoother loss
_DRAWN, _N_DRAWN, _ROWS_PER_START = (0.05, 3.0), 16, 600  # multiples of the spreads
_MULTIPLES = (0.1, 0.3, 1.0, np.inf)  # of one feature's spread, while the others stay


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
        objective = _objective(task)
        best = _search(task, objective, random_state)
        if not best.converged:
            warn_user(
                f"The bandwidth search stopped after {_MAX_ITER} steps without converging.",
                ConvergenceWarning,
            )
        return Selection(task.widths.values(best.x), objective.reported(best.x) * task.unit)


def _is_informative(observations: Observations) -> bool:
    varies = observations.y_max > observations.y_min
    return observations.n_keys > 1 and bool(np.any(observations.extent > 0)) and bool(varies.any())


def _by_rule(
    observations: Observations, task: LeaveOneOut, random_state: np.random.RandomState
) -> Selection:
    bandwidth, rows = Scott().select(observations, task, random_state).bandwidth, task.rows
    with torch.no_grad():
        scale = to_tensor(bandwidth, dtype=rows.dtype, device=rows.device)
        return Selection(bandwidth, task.loss(rows / scale).item() * task.unit)


def _objective(task: LeaveOneOut) -> Objective:
    def loss(coordinates: Tensor) -> Tensor:
        return task.loss(task.rows / task.widths.at(coordinates).to(task.rows.dtype))

    return Objective(loss, device=task.rows.device)


def _search(
    task: LeaveOneOut, objective: Objective, random_state: np.random.RandomState
) -> Minimum:
    small = task.subsample(REHEARSAL_SIZE, random_state)
    shrinkage = (len(small) / len(task)) ** (1 / (task.n_features + 4))
    descent = Descent(task.widths.bounds, _MAX_ITER, _TOL, task.polish_evaluations)
    best = descend(
        objective,
        _starts(small, random_state),
        descent,
        rehearsal=_objective(small) if len(small) < len(task) else None,
        carry_over=lambda coordinates: task.widths.shrunk(coordinates, shrinkage),
    )
    return _explored(task, objective, best, descent)


def _starts(task: LeaveOneOut, random_state: np.random.RandomState) -> list[np.ndarray]:
    """Return coordinates to descend from: common multiples of the spreads, and mixed ones."""
    objective, widths = _objective(task), task.widths
    scan = [widths.coordinates(bandwidth) for bandwidth in task.scan_bandwidths()]
    minima = scan_minima(objective, scan)
    if task.n_features == 1:
        return minima[:3]
    multiples = [widths.coordinates(multiple * widths.spread) for multiple in _MULTIPLES]
    mixed = coordinate_scan(objective, np.maximum(minima[0], multiples[-1]), multiples)
    return [*minima[:2], mixed, *_drawn_starts(task, random_state)]


def _drawn_starts(task: LeaveOneOut, random_state: np.random.RandomState) -> list[np.ndarray]:
    """Return the best of random bandwidths; the fewer the rows, the more local minima there are."""
    objective, widths = _objective(task), task.widths
    draws = random_state.uniform(*np.log(_DRAWN), size=(_N_DRAWN, task.n_features))
    points = [widths.coordinates(np.exp(draw) * widths.spread) for draw in draws]
    points.sort(key=objective.log_value)
    return points[: int(np.clip(_ROWS_PER_START / len(task), 1, 6))]


def _explored(task: LeaveOneOut, objective: Objective, best: Minimum, descent: Descent) -> Minimum:
    """Look around a minimum and descend again, as long as something lower lies close by."""
    for _ in range(_EXPLORATIONS):
        lower = _lower_neighbor(objective, task, best)
        if lower is None:
            break
        again = descend(objective, [lower.x], descent)
        best = again if again.objective <= lower.objective else lower
    return best


def _lower_neighbor(objective: Objective, task: LeaveOneOut, best: Minimum) -> Minimum | None:
    """Return the best of the moves of one width, if it is lower (or wider and no higher)."""
    widths = task.widths.values(best.x)
    found = None
    strides = (_STRIDE, 1 / _STRIDE) if len(task) <= _ROWS_TO_EXPLORE else ()
    for feature, moved in _moves(widths, task.widths, strides):
        x = best.x.copy()
        tried = widths.copy()
        tried[feature] = moved
        x[feature] = task.widths.coordinates(tried)[feature]
        value = objective.log_value(x)
        if value < best.objective or (np.isinf(moved) and value <= best.objective):
            best = found = replace(best, x=x, objective=value)
            widths[feature] = moved
    return found


def _moves(
    widths: np.ndarray, ranges: Widths, strides: tuple[float, ...]
) -> Iterator[tuple[int, float]]:
    """Yield moves (feature, width): a broad one out of the way, a narrow one up and down."""
    for feature, width in enumerate(widths):
        if width >= ranges.upper[feature]:
            continue
        if width > ranges.spread[feature]:
            yield feature, np.inf
        else:
            yield from ((feature, width * stride) for stride in strides)
