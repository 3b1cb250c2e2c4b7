"""How the minimum of a criterion is looked for.

A criterion of bandwidths has local minima where they are narrow and plateaus where they are wide.
The search therefore scans the whole range with one common multiple of every feature's spread, and
then each feature's own. From the best of both, bounded quasi-Newton descents start (in the
coordinates of `sknw.fitting.parametrization`), and last every feature is asked whether the
criterion is lower without it. Where there is a single bandwidth to find, the scan alone tells its
minima apart, and each is refined. On larger data a random subsample rehearses; its bandwidths,
rescaled by ``(n_s/n)^(1/(d+4))``, start the descents on all rows, and only the latter count.

The criterion of a kernel with an edge has kinks and flat stretches, where descents stop early. A
search without gradients goes on from there. With more than 15 bandwidths it would have too many
directions to try, and common multiples of all spreads leave most rows without neighbours: there the
Gaussian's bandwidths are found first, the descent starts from their best common multiple, and where
it stops single bandwidths are moved by ever shorter strides, each followed by another descent.

Above 20,000 rows a criterion over all of them is too dear. There, rows to *predict* are drawn at
random, an unbiased sample of the criterion; their neighbours are always all the others. A single
bandwidth with a fast transform needs no sample.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sknw.bandwidth.criteria import Criterion
from sknw.data.arrays import to_tensor
from sknw.fitting.leave_one_out import REHEARSAL_SIZE, LeaveOneOut
from sknw.fitting.minimize import (
    Descent,
    Minimum,
    Objective,
    coordinate_scan,
    descend,
    line_search,
    scan_minima,
)
from sknw.fitting.parametrization import Widths
from sknw.support import tuning

_EXPLORATIONS, _STRIDE, _ROWS_TO_EXPLORE = 3, 1.25, 2000  # more rows, a smoother loss
_DRAWN, _N_DRAWN, _ROWS_PER_START = (0.05, 3.0), 16, 600  # multiples of the spreads
_MINIMA, _ROWS_TO_SCAN = 3, 2000  # of a single bandwidth
_TOL_OF_LARGE, _RTOL_OF_LARGE = 1e-7, 1e-6
_MOST_POLISHED = 15  # bandwidths of a kernel with an edge
_OF_GAUSSIAN = np.geomspace(0.1, 10.0, 25)  # multiples of the Gaussian's bandwidths
_STRIDES_OF_EDGE, _LINE_STEPS = (1.6, 1.25, 1.1, 1.04, 1.015), 5
_MULTIPLES = (0.1, 0.3, 1.0, np.inf)  # of one feature's spread, while the others stay


@dataclass(frozen=True)
class Plan:
    """What to minimise, and how hard to try; None leaves the choice to the search."""

    criterion: Criterion
    n_starts: int | None
    max_iter: int
    tol: float
    n_held_out: int | None

    def objective(self, task: LeaveOneOut) -> Objective:
        """Return the criterion as a function of search coordinates."""

        def loss(coordinates: Tensor) -> Tensor:
            return self.criterion.loss(task, task.column_scales(coordinates))

        def losses(coordinates: Tensor) -> Tensor:
            return self.criterion.losses(task, task.column_scales(coordinates))

        def slope(x: np.ndarray) -> tuple[float, np.ndarray] | None:
            coordinates = to_tensor(x, dtype=torch.float64, device=task.rows.device)
            found = self.criterion.loss_and_slope(task, task.column_scales(coordinates))
            return None if found is None else (found[0], task.by_coordinates(x, found[1]))

        return Objective(
            loss,
            device=task.rows.device,
            losses=losses,
            slope=slope,
            progress=task.progress,
            in_units=lambda loss: self.criterion.reported(loss, task),
        )

    def descent(self, task: LeaveOneOut) -> Descent:
        """Return how to go down on these rows."""
        polish = task.polish_evaluations(self.criterion.has_kinks)
        return Descent(task.widths.bounds, self.max_iter, self.tol, polish)


@dataclass(frozen=True)
class Found:
    """The end of a search: on which problem, and after what."""

    criterion: Criterion
    task: LeaveOneOut
    objective: Objective
    minimum: Minimum

    @property
    def value(self) -> float:
        """Criterion reached."""
        return self.criterion.reported(self.objective.reported(self.minimum.x), self.task)

    @property
    def is_usable(self) -> bool:
        """Whether the criterion is finite there."""
        return bool(np.isfinite(self.objective.reported(self.minimum.x)))

    @property
    def report(self) -> dict:
        """What the search looked at."""
        task = self.task
        return {
            "criterion": self.criterion.name,
            "n_rows": len(task),
            "n_held_out": len(task) if task.held_out is None else len(task.held_out),
            "n_evaluations": self.objective.n_evaluations,
            "algorithm": _algorithm_at(task, self.minimum.x),
        }


def _algorithm_at(task: LeaveOneOut, coordinates: np.ndarray) -> str:
    """Return the algorithm of the sums at search coordinates."""
    t = to_tensor(coordinates, dtype=torch.float64, device=task.rows.device)
    return task.algorithm_at(task.rows, task.column_scales(t), needs_grad=False)


def search(task: LeaveOneOut, plan: Plan, random_state: np.random.RandomState) -> Found:
    """Look for the minimum: on all rows, or with a part of them held out."""
    is_sampled = plan.n_held_out is not None and plan.n_held_out < len(task)
    if len(task) > tuning.ROWS_OF_A_FULL_SEARCH or is_sampled:
        return _search_large(task, plan, random_state)
    objective = plan.objective(task)
    return Found(plan.criterion, task, objective, _search(task, plan, objective, random_state))


def _search_large(task: LeaveOneOut, plan: Plan, random_state: np.random.RandomState) -> Found:
    """Search on a subset of the rows, then go on from there with all of them as neighbours."""
    task = task.in_compact_order()
    part = task.subsample(tuning.ROWS_OF_A_SUBSAMPLE, random_state)
    with task.progress.stage(f"{len(part)} of {len(task)} observations", None):
        rough = _search(part, plan, plan.objective(part), random_state)
    start = task.widths.shrunk(rough.x, _shrinkage(part, task))
    has_cheap_values = task.n_parameters == 1 and _algorithm_at(task, start) == "nufft"
    if plan.n_held_out is not None:
        task = task.holding_out(plan.n_held_out, random_state)
    elif not has_cheap_values:
        n_held_out = max(tuning.FEWEST_HELD_OUT, int(tuning.PAIRS_OF_HELD_OUT / len(task)))
        task = task.holding_out(n_held_out, random_state)
    # a sampled criterion is known to percents; where its minimum lies needs no more than this
    task = replace(task, rtol=max(task.rtol, _RTOL_OF_LARGE))
    objective = plan.objective(task)
    with task.progress.stage(f"{len(task)} observations", None):
        minimum = _minimum_of_large(task, plan, objective, start)
    return Found(plan.criterion, task, objective, minimum)


def _minimum_of_large(
    task: LeaveOneOut, plan: Plan, objective: Objective, start: np.ndarray
) -> Minimum:
    """Return the minimum near where that of a subsample says it is."""
    if task.n_parameters == 1:
        return line_search(objective, start[0], task.widths.bounds[0])
    descent = Descent(task.widths.bounds, plan.max_iter, max(plan.tol, _TOL_OF_LARGE))
    return _explored(task, objective, descend(objective, [start], descent), descent)


def _shrinkage(part: LeaveOneOut, task: LeaveOneOut) -> float:
    """Return the factor on bandwidths between different numbers of rows."""
    return (len(part) / len(task)) ** (1 / (task.n_features + 4))


def _search(
    task: LeaveOneOut, plan: Plan, objective: Objective, random_state: np.random.RandomState
) -> Minimum:
    if _starts_from_gaussian(task):
        return _search_from_gaussian(task, plan, objective, random_state)
    size = _ROWS_TO_SCAN if task.n_parameters == 1 else REHEARSAL_SIZE
    small = task.subsample(size, random_state)
    rehearsal = plan.objective(small) if len(small) < len(task) else None
    shrinkage, descent = _shrinkage(small, task), plan.descent(task)
    with task.progress.stage(f"scan of {len(small)} observations"):
        starts = _starts(small, plan, rehearsal or objective, random_state)
    best = descend(
        objective,
        starts,
        descent,
        rehearsal=rehearsal,
        carry_over=lambda coordinates: task.widths.shrunk(coordinates, shrinkage),
    )
    return _explored(task, objective, best, descent)


def _starts_from_gaussian(task: LeaveOneOut) -> bool:
    return task.n_parameters > _MOST_POLISHED and not task.kernel.has_smooth_loss


def _search_from_gaussian(
    task: LeaveOneOut, plan: Plan, objective: Objective, random_state: np.random.RandomState
) -> Minimum:
    """Return the minimum near a multiple of the Gaussian's bandwidths."""
    smooth, widths = task.with_gaussian(), task.widths
    with task.progress.stage("Gaussian bandwidths", None):
        found = _search(smooth, plan, plan.objective(smooth), random_state)
    found_widths = smooth.widths.values(found.x)
    is_out = found_widths >= smooth.widths.upper
    with task.progress.stage(f"multiples of them for {task.kernel.name!r}"):
        multiples = task.kernel.search_scale * found_widths * _OF_GAUSSIAN[:, None]
        points = [widths.coordinates(np.where(is_out, widths.upper, at)) for at in multiples]
        start = scan_minima(objective, points)[0]
    descent = Descent(widths.bounds, plan.max_iter, plan.tol, line_steps=_LINE_STEPS)
    best = descend(objective, [start], descent)
    for stride in _STRIDES_OF_EDGE:
        best = _lower_minimum(task, objective, best, descent, stride) or best
    return objective.no_higher(best)


def _starts(
    task: LeaveOneOut, plan: Plan, objective: Objective, random_state: np.random.RandomState
) -> list[np.ndarray]:
    """Return coordinates to descend from: common multiples of the spreads, and mixed ones."""
    widths = task.widths
    scan = [widths.coordinates(bandwidth) for bandwidth in task.scan_bandwidths()]
    minima = scan_minima(objective, scan)
    if task.n_parameters == 1:
        return minima[: plan.n_starts or _MINIMA]
    multiples = [widths.coordinates(multiple * widths.spread) for multiple in _MULTIPLES]
    mixed = coordinate_scan(objective, np.maximum(minima[0], multiples[-1]), multiples)
    starts = [*minima[:2], mixed]
    if plan.n_starts is None:
        n_drawn = int(np.clip(_ROWS_PER_START / len(task), 1, 6))
    else:
        n_drawn = max(0, plan.n_starts - len(starts))
    return [*starts, *_drawn_starts(task, objective, n_drawn, random_state)][: plan.n_starts]


def _drawn_starts(
    task: LeaveOneOut, objective: Objective, n_drawn: int, random_state: np.random.RandomState
) -> list[np.ndarray]:
    """Return the best of random bandwidths; the fewer the rows, the more local minima there are."""
    widths = task.widths
    size = max(_N_DRAWN, n_drawn), task.n_parameters
    draws = random_state.uniform(*np.log(_DRAWN), size=size) if n_drawn else []
    points = [widths.coordinates(np.exp(draw) * widths.spread) for draw in draws]
    order = np.argsort(objective.log_values(points), kind="stable")
    return [points[index] for index in order[:n_drawn]]


def _explored(task: LeaveOneOut, objective: Objective, best: Minimum, descent: Descent) -> Minimum:
    """Look around a minimum and descend again, as long as something lower lies close by."""
    stride = _STRIDE if len(task) <= _ROWS_TO_EXPLORE else None
    for _ in range(_EXPLORATIONS):
        lower = _lower_minimum(task, objective, best, descent, stride)
        if lower is None:
            break
        best = lower
    return best


def _lower_minimum(
    task: LeaveOneOut, objective: Objective, best: Minimum, descent: Descent, stride: float | None
) -> Minimum | None:
    """Return where a descent ends from what lies close by, if something there is lower."""
    with task.progress.stage("look around"):
        lower = _lower_neighbor(objective, task, best, stride)
    if lower is None:
        return None
    again = descend(objective, [lower.x], descent)
    return again if again.objective <= lower.objective else lower


def _lower_neighbor(
    objective: Objective, task: LeaveOneOut, best: Minimum, stride: float | None
) -> Minimum | None:
    """Return what moves of single widths lead to, if it is lower (or wider and no higher).

    Widths are moved out of the way or by a stride; None: only out of the way.
    """
    widths = task.widths.values(best.x)
    strides = () if stride is None else (stride, 1 / stride)
    moves = list(_moves(widths, task.widths, strides))
    if not moves:
        return None
    points = [_moved(best.x, widths, task.widths, *move) for move in moves]
    # where it is now is asked again among them: another evaluator may do several at once
    *values, here = objective.log_values([*points, best.x])
    best, found = replace(best, objective=here), None
    # the best move first; then whatever else is still an improvement after it
    for index in np.argsort(values, kind="stable"):
        move, x, value = moves[index], points[index], values[index]
        if found is not None:  # from where the search is by now
            x = _moved(best.x, widths, task.widths, *move)
            value = objective.log_value(x)
        if _improves(value, best.objective, move):
            best = found = replace(best, x=x, objective=value)
            widths[move[0]] = move[1]
    return found


def _improves(value: float, reached: float, move: tuple[int, float]) -> bool:
    """Whether a move leads lower, or out of the way and no higher."""
    return value < reached or (np.isinf(move[1]) and value <= reached)


def _moved(
    x: np.ndarray, widths: np.ndarray, ranges: Widths, feature: int, width: float
) -> np.ndarray:
    """Return coordinates with one width moved."""
    tried = widths.copy()
    tried[feature] = width
    x = x.copy()
    x[feature] = ranges.coordinates(tried)[feature]
    return x


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
