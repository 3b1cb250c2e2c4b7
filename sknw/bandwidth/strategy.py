"""How the minimum of a criterion is looked for.

A criterion of bandwidths has local minima where they are narrow and plateaus where they are wide.
The search therefore scans the whole range with one common multiple of every feature's spread, and
then each feature's own. From the best of both, and from random ones, bounded quasi-Newton descents
start, in the rounds of `sknw.fitting.schedule`; last every feature is asked whether the criterion
is lower without it. Where there is a single bandwidth to find, the scan alone tells its minima
apart, and each is refined.

The criterion of a kernel with an edge has kinks and flat stretches, where descents stop early. A
search without gradients goes on from there. With more than 15 bandwidths it would have too many
directions to try, and common multiples of all spreads leave most rows without neighbours: there the
Gaussian's bandwidths are found first, the descent starts from their best common multiple, and where
it stops single bandwidths are moved by ever shorter strides, each followed by another descent.

Above 20,000 rows a criterion over all of them is too dear. There, rows to *predict* are drawn at
random, an unbiased sample of the criterion; their neighbours are always all the others. A single
bandwidth whose sums take time by the rows and not by the pairs needs no sample.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from sknw.data.arrays import to_tensor
from sknw.fitting.criteria import Criterion
from sknw.fitting.leave_one_out import LeaveOneOut, with_kernel
from sknw.fitting.minimize import Level, Minimum, Start, line_search, minimize
from sknw.fitting.objective import Objective
from sknw.fitting.parametrization import Scales, Widths
from sknw.fitting.scale_objective import refinement_evaluations, scale_objective
from sknw.fitting.schedule import levels, parts, schedule
from sknw.fitting.starts import common_widths, mixed_start, scan_minima
from sknw.fitting.subsets import in_compact_order
from sknw.kernels import KERNELS
from sknw.sums import ALGORITHMS
from sknw.support import tuning


@dataclass(frozen=True)
class Plan:
    """What to minimise, and how hard to try; None leaves the choice to the search.

    Parameters
    ----------
    criterion : Criterion
        What is minimised.
    shared : ndarray of shape (n_features,) or None
        Index of the bandwidth of each feature; None: each has its own.
    bounds : tuple of two ndarray of shape (n_features,) or None
        The user's smallest and largest bandwidths.
    n_starts, n_held_out : int or None
        See `sknw.BandwidthSearch`.
    max_iter, tol : int, float
        See `sknw.BandwidthSearch`.
    """

    criterion: Criterion
    shared: np.ndarray | None
    bounds: tuple[np.ndarray, np.ndarray] | None
    n_starts: int | None
    max_iter: int
    tol: float
    n_held_out: int | None

    def scales(self, task: LeaveOneOut) -> Scales:
        """Return what the search walks in."""
        ranges = Widths.of(task.observations, task.method.kernel, self.bounds)
        return Scales.of(ranges, task.observations.features.of_column, self.shared)

    def refinement(self, task: LeaveOneOut) -> int:
        """Return how many evaluations a search without gradients may add on these rows."""
        scales = self.scales(task)
        if len(task) > tuning.MANY_ROWS or len(scales) > tuning.MOST_REFINED_WIDTHS:
            return 0
        return refinement_evaluations(task, scales, self.criterion)


@dataclass(frozen=True)
class Found:
    """The end of a search: on which problem, and where."""

    criterion: Criterion
    task: LeaveOneOut
    minimum: Minimum

    @property
    def scales(self) -> Scales:
        """What the search walked in."""
        return self.minimum.coordinates

    @property
    def widths(self) -> np.ndarray:
        """Bandwidths reached, one for each feature."""
        return self.widths_at(self.minimum.x)

    def widths_at(self, x: np.ndarray) -> np.ndarray:
        """Return the bandwidths (n_features,) at coordinates."""
        return self.scales.widths.values(x)[self.scales.of_feature]

    @property
    def value(self) -> float:
        """Criterion reached."""
        loss = self.minimum.objective.reported(self.minimum.x)
        return self.criterion.reported(loss, self.task.targets)

    @property
    def is_usable(self) -> bool:
        """Whether the criterion is finite there."""
        return bool(np.isfinite(self.minimum.objective.reported(self.minimum.x)))

    @property
    def report(self) -> dict:
        """What the search looked at."""
        task = self.task
        return {
            "criterion": self.criterion.name,
            "n_rows": len(task),
            "n_held_out": len(task) if task.held_out is None else len(task.held_out),
            "n_evaluations": self.minimum.objective.n_evaluations,
            "algorithm": _algorithm_at(task, self.scales, self.minimum.x),
        }


def _algorithm_at(task: LeaveOneOut, scales: Scales, x: np.ndarray) -> str:
    """Return the algorithm of the sums at search coordinates."""
    at = to_tensor(scales.column_scales(x), dtype=torch.float64, device=task.rows.device)
    return task.algorithm_at(task.rows, at, needs_grad=False)


def _is_linear(task: LeaveOneOut, start: Start) -> bool:
    """Whether predicting all rows takes little longer than predicting some."""
    return ALGORITHMS[_algorithm_at(task, start.coordinates, start.x)].is_linear


def search(task: LeaveOneOut, plan: Plan, random_state: np.random.RandomState) -> Found:
    """Look for the minimum: on all rows, or with a part of them held out."""
    scales = plan.scales(task)
    has_edges = len(scales) > tuning.MOST_REFINED_WIDTHS and not task.method.kernel.has_smooth_loss
    if has_edges and len(task) <= tuning.MANY_ROWS:
        return _search_from_gaussian(task, plan, random_state)
    task = in_compact_order(task)
    rounds = schedule("bandwidths", len(task), task.n_features, is_single=len(scales) == 1)
    if plan.n_held_out is not None:
        rounds[-1] = replace(rounds[-1], held_out=plan.n_held_out)
    tasks = parts(rounds, task, random_state)
    if len(task) > tuning.MANY_ROWS:
        # a sampled criterion is known to per cents; where its minimum lies needs no more than this
        rtol = max(task.method.rtol, tuning.RTOL_OF_LARGE_SEARCH)
        tasks[-1] = replace(tasks[-1], method=replace(task.method, rtol=rtol))
    objectives = {id(part): scale_objective(part, plan.criterion, scales) for part in tasks}
    if has_edges:  # the part of the rows before the last round is searched in its own way
        rounds, tasks = rounds[-2:], tasks[-2:]
        found = [_search_from_gaussian(tasks[0], plan, random_state).minimum.x]
    else:
        with task.progress.stage(f"scan of {len(tasks[0])} observations"):
            found = _starts(tasks[0], scales, plan, objectives[id(tasks[0])], random_state)
    starts = [Start(x, scales) for x in found]
    run = levels(
        rounds,
        tasks,
        lambda part, coordinates: objectives[id(part)],
        plan.max_iter,
        plan.tol,
        n_starts=len(starts),
        refinement=plan.refinement,
    )
    if len(scales) == 1 and len(task) > tuning.MANY_ROWS:
        return _search_line(task, plan, tasks[-1], run, starts)
    best = minimize(run, starts)
    last = replace(run[-1], objective=lambda _: best.objective)
    return Found(plan.criterion, tasks[-1], _explored(tasks[-1], best, last))


def _search_line(
    task: LeaveOneOut, plan: Plan, sample: LeaveOneOut, run: list[Level], starts: list[Start]
) -> Found:
    """Return the minimum over a single bandwidth of many rows.

    Sums in time by the rows need no sample of them.
    """
    before, scales = minimize(run[:-1], starts), starts[0].coordinates
    start = Start(run[-1].transfer(scales, before.x), scales)
    if plan.n_held_out is None and _is_linear(task, start):
        sample = replace(task, method=sample.method)
    objective = scale_objective(sample, plan.criterion, scales)
    with task.progress.stage(f"{len(task)} observations", None):
        return Found(plan.criterion, sample, line_search(objective, start))


def _search_from_gaussian(
    task: LeaveOneOut, plan: Plan, random_state: np.random.RandomState
) -> Found:
    """Return the minimum near a multiple of the Gaussian's bandwidths."""
    kernel = task.method.kernel
    ratio, gaussian = kernel.search_scale, replace(KERNELS["gaussian"], codes=kernel.codes)
    bounds = plan.bounds and tuple(bound / ratio for bound in plan.bounds)
    with task.progress.stage("Gaussian bandwidths", None):
        smooth = search(with_kernel(task, gaussian), replace(plan, bounds=bounds), random_state)
    task, scales = with_kernel(smooth.task, kernel), plan.scales(task)
    objective, widths = scale_objective(task, plan.criterion, scales), scales.widths
    found = smooth.scales.widths.values(smooth.minimum.x)
    is_out = found >= smooth.scales.widths.upper
    with task.progress.stage(f"multiples of them for {kernel.name!r}"):
        multiples = ratio * found * np.geomspace(*tuning.MULTIPLES_OF_GAUSSIAN)[:, None]
        points = [widths.coordinates(np.where(is_out, widths.upper, at)) for at in multiples]
        start = scan_minima(objective, points)[0]
    level = Level(
        lambda _: objective, plan.max_iter, plan.tol, line_steps=tuning.LINE_STEPS_AT_KINKS
    )
    best = minimize([level], [Start(start, scales)])
    for stride in tuning.STRIDES_AT_KINKS:
        best = _lower_minimum(task, best, level, stride) or best
    return Found(plan.criterion, task, best.no_higher())


def _starts(
    task: LeaveOneOut,
    scales: Scales,
    plan: Plan,
    objective: Objective,
    random_state: np.random.RandomState,
) -> list[np.ndarray]:
    """Return coordinates to descend from: common multiples of the spreads, and mixed ones."""
    widths = scales.widths
    scan = [
        widths.coordinates(at)
        for at in common_widths(widths, task.method.kernel, is_fine=len(scales) == 1)
    ]
    minima = scan_minima(objective, scan)
    if len(scales) == 1:
        return minima[: plan.n_starts or tuning.MINIMA_OF_ONE_WIDTH]
    starts = [*minima[:2], mixed_start(objective, widths)]
    if plan.n_starts is None:
        n_drawn = int(np.clip(tuning.ROWS_PER_START / len(task), 1, 6))
    else:
        n_drawn = max(0, plan.n_starts - len(starts))
    return [*starts, *_drawn_starts(widths, objective, n_drawn, random_state)][: plan.n_starts]


def _drawn_starts(
    widths: Widths, objective: Objective, n_drawn: int, random_state: np.random.RandomState
) -> list[np.ndarray]:
    """Return the best of random bandwidths; the fewer the rows, the more local minima there are."""
    size = max(tuning.N_DRAWN, n_drawn), len(widths.lower)
    draws = random_state.uniform(*np.log(tuning.DRAWN), size=size) if n_drawn else []
    points = [widths.coordinates(np.exp(draw) * widths.spread) for draw in draws]
    order = np.argsort(objective.log_values(points), kind="stable")
    return [points[index] for index in order[:n_drawn]]


def _explored(task: LeaveOneOut, best: Minimum, level: Level) -> Minimum:
    """Look around a minimum and descend again, as long as something lower lies close by."""
    stride = tuning.STRIDE if len(task) <= tuning.ROWS_TO_EXPLORE else None
    for _ in range(tuning.EXPLORATIONS):
        lower = _lower_minimum(task, best, level, stride)
        if lower is None:
            break
        best = lower
    return best


def _lower_minimum(
    task: LeaveOneOut, best: Minimum, level: Level, stride: float | None
) -> Minimum | None:
    """Return where a descent ends from what lies close by, if something there is lower."""
    with task.progress.stage("look around"):
        lower = _lower_neighbor(best, stride)
    if lower is None:
        return None
    again = minimize([level], [Start(lower.x, lower.coordinates)])
    return again if again.value <= lower.value else lower


def _lower_neighbor(best: Minimum, stride: float | None) -> Minimum | None:
    """Return what moves of single widths lead to, if it is lower (or wider and no higher).

    Widths are moved out of the way or by a stride; None: only out of the way.
    """
    objective, ranges = best.objective, best.coordinates.widths
    widths = ranges.values(best.x)
    strides = () if stride is None else (stride, 1 / stride)
    moves = list(_moves(widths, ranges, strides))
    if not moves:
        return None
    points = [_moved(best.x, widths, ranges, *move) for move in moves]
    # where it is now is asked again among them: another evaluator may do several at once
    *values, here = objective.log_values([*points, best.x])
    best, found = replace(best, value=here), None
    # the best move first; then whatever else is still an improvement after it
    for index in np.argsort(values, kind="stable"):
        move, x, value = moves[index], points[index], values[index]
        if found is not None:  # from where the search is by now
            x = _moved(best.x, widths, ranges, *move)
            value = objective.log_value(x)
        if _improves(value, best.value, move):
            best = found = replace(best, x=x, value=value)
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
