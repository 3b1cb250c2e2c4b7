"""Bandwidths that minimise the leave-one-out squared error, one per feature.

Leave-one-out loss has local minima at small bandwidths and plateaus at large ones. The search
therefore scans the whole range with one common multiple of every feature's spread, and then each
feature's own. From the best of both, bounded quasi-Newton descents start (in the coordinates of
`sknw.widths`), and last every feature is asked whether the loss is lower without it. On larger data
a random subsample rehearses; its bandwidths, rescaled by ``(n_s/n)^(1/(d+4))``, start the descents
on all rows, and only the latter count.

Above 20,000 rows a criterion over all of them is too dear. There, rows to *predict* are drawn at
random, an unbiased sample of the criterion; their neighbours are always all the others. A single
feature with a fast transform needs no sample.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

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
from sknw.optimize import (
    Descent,
    Minimum,
    Objective,
    coordinate_scan,
    descend,
    line_search,
    scan_minima,
)
from sknw.widths import Widths

_MAX_ITER = 200
_TOL = 1e-11
_EXPLORATIONS, _STRIDE, _ROWS_TO_EXPLORE = 3, 1.25, 2000  # more rows, a smoother loss
_DRAWN, _N_DRAWN, _ROWS_PER_START = (0.05, 3.0), 16, 600  # multiples of the spreads
# More rows than this are held out in part, and rehearsed on a part of them first.
_LARGE, _PART = 20_000, 4000
_FEWEST_HELD_OUT, _PAIRS = 5000, _LARGE**2
_TOL_OF_LARGE, _RTOL_OF_LARGE = 1e-7, 1e-6
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
        found = (_search_large if len(task) > _LARGE else _search_all)(task, random_state)
        if not found.minimum.converged:
            warn_user(
                f"The bandwidth search stopped after {_MAX_ITER} steps without converging.",
                ConvergenceWarning,
            )
        return Selection(task.widths.values(found.minimum.x), found.criterion, found.report)


@dataclass(frozen=True)
class _Found:
    """The end of a search: on which problem, and after what."""

    task: LeaveOneOut
    objective: Objective
    minimum: Minimum

    @property
    def criterion(self) -> float:
        """Criterion reached, in squared units of y for one output."""
        return self.objective.reported(self.minimum.x) * self.task.unit

    @property
    def report(self) -> dict:
        """What the search looked at."""
        task = self.task
        bandwidth = task.widths.values(self.minimum.x)
        scale = to_tensor(bandwidth, dtype=task.rows.dtype, device=task.rows.device)
        return {
            "n_rows": len(task),
            "n_held_out": len(task) if task.held_out is None else len(task.held_out),
            "n_evaluations": self.objective.n_evaluations,
            "algorithm": task.algorithm_at(task.rows / scale, needs_grad=False),
        }


def _search_all(task: LeaveOneOut, random_state: np.random.RandomState) -> _Found:
    """Search on all rows."""
    objective = _objective(task)
    return _Found(task, objective, _search(task, objective, random_state))


def _search_large(task: LeaveOneOut, random_state: np.random.RandomState) -> _Found:
    """Search on a subset of the rows, then go on from there with all of them as neighbours."""
    task = task.in_compact_order()
    part = task.subsample(_PART, random_state)
    rough = _search_all(part, random_state).minimum
    shrinkage = (len(part) / len(task)) ** (1 / (task.n_features + 4))
    start = task.widths.shrunk(rough.x, shrinkage)
    if task.n_features > 1 or not _has_cheap_values(task, start):
        task = task.holding_out(max(_FEWEST_HELD_OUT, int(_PAIRS / len(task))), random_state)
    # a sampled criterion is known to percents; where its minimum lies needs no more than this
    task = replace(task, rtol=max(task.rtol, _RTOL_OF_LARGE))
    objective = _objective(task)
    if task.n_features == 1:
        return _Found(task, objective, line_search(objective, start[0], task.widths.bounds[0]))
    descent = Descent(task.widths.bounds, _MAX_ITER, _TOL_OF_LARGE)
    minimum = descend(objective, [start], descent)
    return _Found(task, objective, _explored(task, objective, minimum, descent))


def _has_cheap_values(task: LeaveOneOut, coordinates: np.ndarray) -> bool:
    """Whether the sums over all rows take time linear in their number."""
    scale = task.widths.at(to_tensor(coordinates, dtype=torch.float64, device=task.rows.device))
    embedded = task.rows / scale.to(task.rows.dtype)
    return task.algorithm_at(embedded, needs_grad=False) == "nufft"


def _is_informative(observations: Observations) -> bool:
    varies = observations.y_max > observations.y_min
    return observations.n_keys > 1 and bool(np.any(observations.extent > 0)) and bool(varies.any())


def _by_rule(
    observations: Observations, task: LeaveOneOut, random_state: np.random.RandomState
) -> Selection:
    bandwidth, rows = Scott().select(observations, task, random_state).bandwidth, task.rows
    with torch.no_grad():
        scale = to_tensor(bandwidth, dtype=rows.dtype, device=rows.device)
        report = {"n_rows": len(task), "n_held_out": len(task), "n_evaluations": 1}
        loss = task.loss(rows / scale).item() * task.unit
        algorithm = task.algorithm_at(rows / scale, needs_grad=False)
        return Selection(bandwidth, loss, {**report, "algorithm": algorithm})


def _objective(task: LeaveOneOut) -> Objective:
    def loss(coordinates: Tensor) -> Tensor:
        return task.loss(task.rows, 1 / task.widths.at(coordinates))

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
