"""One search from several starts: rounds on cheaper objectives first, then the objective itself.

A round descends from what the round before it left, on an objective that may be another one (a
subsample of the rows, a sample of rows that are predicted) or the same one, and keeps the lowest
distinct ends. What the rounds of a search are is in `sknw.fitting.schedule`.

SciPy's L-BFGS-B does the steps where gradients inform. Where they do not (compact kernels, whose
loss has kinks and flat stretches), dividing rectangles (DIRECT) look around the end, and Powell's
method refines what they find.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy import optimize

from sknw.fitting.objective import Objective
from sknw.support import tuning
from sknw.support.threads import one_blas_thread


class Bounded(Protocol):
    """Coordinates in which a search walks."""

    @property
    def bounds(self) -> Sequence[tuple[float, float]]:
        """Smallest and largest value of each coordinate."""


OnStep = Callable[[int, float, np.ndarray, Bounded], bool | None]


@dataclass(frozen=True)
class Start:
    """Where a search begins: coordinates x (p,), and what they are coordinates of."""

    x: np.ndarray
    coordinates: Bounded


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a descent ended.

    Parameters
    ----------
    x : ndarray of shape (p,)
        Coordinates.
    value : float
        Logarithm of the objective there, penalty included.
    curve : list of float
        Loss without penalty at the start and after every step.
    converged : bool
        False if the number of steps ended the search.
    coordinates : Bounded
        What x are coordinates of.
    objective : Objective
        What was minimised.
    start : ndarray of shape (p,)
        Where the last descent began, after the steps in `began`.
    began : int, default=0
        Steps taken before `start`.
    """

    x: np.ndarray
    value: float
    curve: list[float]
    converged: bool
    coordinates: Bounded
    objective: Objective
    start: np.ndarray
    began: int = 0

    @property
    def n_iter(self) -> int:
        """Number of steps."""
        return len(self.curve) - 1

    def no_higher(self) -> "Minimum":
        """Return the lowest loss that the objective has seen, if it is lower than this minimum.

        A line search that stops at a kink forgets where it has been.
        """
        x, loss, value = self.objective.lowest()
        if value >= self.value:
            return self
        return replace(self, x=x, value=value, curve=[*self.curve[:-1], loss])


@dataclass(frozen=True)
class Level:
    """One round of a search: what to descend on, how far, and how many ends to keep.

    Parameters
    ----------
    objective : callable or None
        Coordinates (`Start.coordinates`) to the objective in them; None: the objective of the
        round before, whose steps count on.
    max_iter : int
        Largest number of quasi-Newton steps.
    tol : float
        A step that gains less, relatively, is the last.
    keep : int, default=1
        Number of distinct ends to keep.
    transfer : callable, default=lambda coordinates, x: x
        What x are coordinates of, and the end x (p,) of the round before, to where this one begins.
    refinement_evaluations : int, default=0
        Evaluations that a search without gradients may add to the lowest end.
    line_steps : int, default=20
        Largest number of evaluations of one line search. At a kink none of them helps.
    name, where : str, default="descent", ""
        How to call a descent of this round, and on what it is.
    """

    objective: Callable[[Bounded], Objective] | None
    max_iter: int
    tol: float
    keep: int = 1
    transfer: Callable[[Bounded, np.ndarray], np.ndarray] = lambda coordinates, x: x
    refinement_evaluations: int = 0
    line_steps: int = 20
    name: str = "descent"
    where: str = ""


def minimize(
    levels: Sequence[Level], starts: Sequence[Start], on_step: OnStep | None = None
) -> Minimum:
    """Return the lowest minimum that the rounds find from the starts.

    The first round descends from every start. A later one on another objective first ranks what
    it is given and descends from the lowest, from any that is nearly as low, and from the one that
    the round before found lowest: another may lie lower only where it is transferred to, on a
    plateau. One on the same objective descends from the lowest and from any nearly as low.

    Parameters
    ----------
    levels : sequence of Level
        The rounds, the last one on the objective itself.
    starts : sequence of Start
        Where the first round begins.
    on_step : callable or None, default=None
        Gets each step's number, the loss before it, x after it and what x are coordinates of, in
        all rounds on the objective itself; true ends that descent.
    """
    final = max(index for index, level in enumerate(levels) if level.objective is not None)
    with one_blas_thread():
        objectives: dict[int, Objective] = {}
        ends: list[Minimum] = []
        for index, level in enumerate(levels):
            if index == 0:
                begun = [_begun(level, start.x, start.coordinates, objectives) for start in starts]
            elif level.objective is None:
                begun = [end for end in ends if end.value < ends[0].value + tuning.NEARLY_AS_LOW]
            else:
                objectives = {}
                begun = _transferred(level, ends, objectives)
            heard = on_step if index >= final else None
            found = [
                descend(level, at, heard, f"{level.name} {place + 1} of {len(begun)}{level.where}")
                for place, at in enumerate(begun)
            ]
            lowest, *others = _lowest(found, level.keep)
            ends = [refined(lowest, level.refinement_evaluations), *others]
        return ends[0]


def _begun(
    level: Level, x: np.ndarray, coordinates: Bounded, objectives: dict[int, Objective]
) -> Minimum:
    """Return a start as a descent without steps; starts share objectives of equal coordinates."""
    if id(coordinates) not in objectives:
        objectives[id(coordinates)] = level.objective(coordinates)
    x = np.clip(np.asarray(x, dtype=np.float64), *np.transpose(coordinates.bounds))
    objective = objectives[id(coordinates)]
    return Minimum(x, np.inf, [], False, coordinates, objective, start=x)


def _transferred(
    level: Level, ends: Sequence[Minimum], objectives: dict[int, Objective]
) -> list[Minimum]:
    begun = [
        _begun(level, level.transfer(end.coordinates, end.x), end.coordinates, objectives)
        for end in ends
    ]
    if len(begun) == 1:
        return begun
    begun = [replace(at, value=at.objective.log_value(at.x)) for at in begun]
    lowest = min(at.value for at in begun)
    return [
        at
        for index, at in enumerate(begun)
        if index == 0 or at.value < lowest + tuning.NEARLY_AS_LOW
    ]


def descend(
    level: Level, begun: Minimum, on_step: OnStep | None = None, name: str = "descent"
) -> Minimum:
    """Return where bounded L-BFGS ends that goes on from another descent's end, or from a start."""
    objective, bounds, steps = begun.objective, begun.coordinates.bounds, begun.curve[:-1]
    max_iter = level.max_iter - len(steps)
    if steps and max_iter <= 0:
        return begun
    curve, latest = list(steps), begun.x  # the loss before each step

    def record(x: np.ndarray) -> None:
        nonlocal latest
        curve.append(objective.reported(latest))
        latest = x.copy()
        if on_step is None:
            stop = objective.progress.step(objective.in_units(curve[-1]))
        else:
            stop = on_step(len(curve), curve[-1], latest, begun.coordinates)
        if stop:
            raise StopIteration

    options = {
        "maxiter": max_iter,
        "maxfun": 20 * max_iter,
        "maxls": level.line_steps,
        "ftol": level.tol,
        "gtol": 1e-10,
        "maxcor": int(np.clip(len(latest), 10, tuning.MOST_CORRECTIONS)),
    }
    with one_blas_thread(), objective.progress.stage(name, max_iter):
        result = optimize.minimize(
            objective.log_value_and_gradient,
            begun.x,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            callback=record,
            options=options,
        )
    curve.append(objective.reported(result.x))
    stopped = result.get("status") == 1  # by the number of steps; SciPy omits it if none is free
    return replace(
        begun,
        x=result.x,
        value=float(result.fun),
        curve=curve,
        converged=not stopped,
        start=begun.x,
        began=len(steps),
    )


def refined(found: Minimum, n_evaluations: int) -> Minimum:
    """Return a minimum after a search without gradients; never a higher one than was found."""
    if not n_evaluations:
        return found
    with found.objective.progress.stage("refinement without gradients"):
        return _refined(found, n_evaluations)


def _refined(found: Minimum, n_evaluations: int) -> Minimum:
    objective, bounds = found.objective, found.coordinates.bounds
    free = [low < high for low, high in bounds]
    if not any(free):
        return found

    def value(free_x: np.ndarray) -> float:
        return objective.log_value(_placed(found.x, free, free_x))

    start = found.x[free]
    low, high = np.transpose(
        [bound for bound, is_free in zip(bounds, free, strict=True) if is_free]
    )
    # line searches alone would stay in the kink or on the step they start in
    around = optimize.direct(
        value,
        list(
            zip(
                np.maximum(low, start - tuning.REFINEMENT_WINDOW),
                np.minimum(high, start + tuning.REFINEMENT_WINDOW),
                strict=True,
            )
        ),
        maxfun=n_evaluations // 2,
        vol_tol=0,
        len_tol=1e-4,
    )
    start = min([start, around.x], key=value)
    result = optimize.minimize(
        value,
        start,
        method="Powell",
        bounds=list(zip(low, high, strict=True)),
        options={"maxfev": n_evaluations // 2, "xtol": 1e-6, "ftol": 1e-10},
    )
    x = _placed(found.x, free, min([start, result.x], key=value))
    reached = objective.log_value(x)
    if reached >= found.value:
        return found
    steps = found.curve[:-1] or found.curve  # part of the last step, or the first
    return replace(found, x=x, value=reached, curve=[*steps, objective.reported(x)])


def line_search(objective: Objective, start: Start) -> Minimum:
    """Minimise over one coordinate without gradients, from a start near the minimum.

    Brent's method within a window around the start, which moves and widens as long as its end is
    the lowest.
    """
    with objective.progress.stage("line search"):
        return _line_search(objective, start)


def _line_search(objective: Objective, start: Start) -> Minimum:
    ((low, high),) = start.coordinates.bounds
    centre, curve = float(np.clip(start.x[0], low, high)), []
    for width in tuning.LINE_WINDOW * 2.0 ** np.arange(tuning.LINE_WINDOWS):
        window = max(low, centre - width), min(high, centre + width)
        result = optimize.minimize_scalar(
            lambda x: objective.log_value(np.array([x])),
            bounds=window,
            method="bounded",
            options={"xatol": tuning.LINE_TOL},
        )
        best = np.array([result.x])
        curve.append(objective.reported(best))
        moved = abs(result.x - centre)
        at_bound = min(result.x - low, high - result.x) < 2 * tuning.LINE_TOL
        centre = result.x
        converged = bool(at_bound or moved < width - 4 * tuning.LINE_TOL)
        if converged:
            break
    value = float(result.fun)
    return Minimum(best, value, curve, converged, start.coordinates, objective, start.x)


def _placed(x: np.ndarray, free: Sequence[bool], values: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[np.asarray(free)] = values
    return x


def _lowest(minima: Iterable[Minimum], keep: int) -> list[Minimum]:
    """Return the `keep` lowest minima that are distinct, the lowest first."""
    kept: list[Minimum] = []
    for minimum in sorted(minima, key=lambda found: found.value):
        if all(_are_apart(minimum, other) for other in kept):
            kept.append(minimum)
    return kept[:keep]


def _are_apart(one: Minimum, other: Minimum) -> bool:
    if one.coordinates is not other.coordinates:
        return True
    return bool(np.abs(one.x - other.x).max() > tuning.APART)
