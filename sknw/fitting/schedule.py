"""The rounds of a search: what is cheap comes first, and what it leaves goes on.

Scales have many local minima, which few rows tell apart: their starts are screened on a subsample.
The many weights of a matrix or a network would fit a subsample in ways of their own: their starts
descend on all rows, and where that is dear only the lowest goes on after some steps. On very many
rows a sample of them is predicted, each from all others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.minimize import Bounded, Level
from sknw.fitting.objective import Objective
from sknw.fitting.subsets import hold_out, subsample
from sknw.support import tuning


@dataclass(frozen=True)
class Round:
    """A row of a schedule.

    Parameters
    ----------
    rows : int or None, default=None
        Size of the random subsample that the round is about; None: all rows.
    held_out : int or None, default=None
        How many of them are predicted; None: all.
    max_iter : int or None, default=None
        Largest number of steps; None: as many as the user allows.
    tol : float, default=0.0
        Tolerance, if it is larger than the user's.
    keep : int, default=1
        Number of distinct ends that go on to the next round.
    """

    rows: int | None = None
    held_out: int | None = None
    max_iter: int | None = None
    tol: float = 0.0
    keep: int = 1

    @property
    def part(self) -> tuple[int | None, int | None]:
        """Which rows it is about; consecutive rounds on the same rows share a problem."""
        return self.rows, self.held_out


def schedule(
    kind: Literal["bandwidths", "scales", "weights"],
    n_rows: int,
    n_features: int,
    *,
    is_single: bool,
) -> list[Round]:
    """Return the rounds of a search, the last one on all rows as neighbours.

    Parameters
    ----------
    kind : {"bandwidths", "scales", "weights"}
        What is looked for: bandwidths by a criterion, scales inside the softmax by training, or
        the weights of any other metric.
    n_rows, n_features : int
        Sizes of the problem.
    is_single : bool
        Whether one width is all that there is to find. A scalar metric of several features is not:
        it is a start for one that has a width for each.
    """
    is_large = n_rows > tuning.MANY_ROWS
    screening = Round(
        rows=screening_rows(n_features, is_single=is_single),
        max_iter=tuning.SCREENING_STEPS,
        tol=tuning.TOL_OF_SCREENING,
        keep=tuning.SCREENED,
    )
    if kind == "bandwidths":
        if not is_large:
            return [screening, Round()]
        n_held_out = max(tuning.FEWEST_HELD_OUT, int(tuning.PAIRS_HELD_OUT / n_rows))
        last = Round(held_out=n_held_out, tol=tuning.TOL_OF_LARGE_SEARCH)
        return [screening, Round(rows=tuning.ROWS_BEFORE_MANY), last]
    sample = Round(held_out=tuning.HELD_OUT_IN_TRAINING, tol=tuning.TOL_OF_HELD_OUT)
    if kind == "scales":
        return [screening, sample, Round()] if is_large else [screening, Round()]
    if is_large:
        return [Round(held_out=sample.held_out, max_iter=tuning.TRIAL_STEPS), sample, Round()]
    if n_rows > tuning.ROWS_OF_TRIALS:
        return [Round(max_iter=tuning.TRIAL_STEPS), Round()]
    return [Round()]


def screening_rows(n_features: int, *, is_single: bool) -> int:
    """Return the size of the subsample that starts are compared on; see `schedule`."""
    if is_single:
        return tuning.ROWS_TO_SCREEN_ONE
    return max(tuning.ROWS_TO_SCREEN, tuning.ROWS_TO_SCREEN_PER_FEATURE * n_features)


def parts(
    rounds: Sequence[Round],
    task: LeaveOneOut,
    random_state: np.random.RandomState,
    screened: LeaveOneOut | None = None,
) -> list[LeaveOneOut]:
    """Return the problem of each round.

    `screened` is the first round's, if it was drawn already.
    """
    found = [] if screened is None else [screened]
    for index, at in enumerate(rounds[len(found) :], start=len(found)):
        if index and at.part == rounds[index - 1].part:
            found.append(found[-1])
            continue
        part = task if at.rows is None else subsample(task, at.rows, random_state)
        found.append(part if at.held_out is None else hold_out(part, at.held_out, random_state))
    return found


def levels(
    rounds: Sequence[Round],
    tasks: Sequence[LeaveOneOut],
    objective: Callable[[LeaveOneOut, Bounded], Objective],
    max_iter: int,
    tol: float,
    *,
    n_starts: int,
    refinement: Callable[[LeaveOneOut], int] = lambda task: 0,
) -> list[Level]:
    """Return the rounds as `sknw.fitting.minimize` takes them.

    One start needs no round on the problem of the next: there is nothing to choose between.

    Parameters
    ----------
    rounds : sequence of Round
        The schedule.
    tasks : sequence of LeaveOneOut
        The problem of each round: see `parts`.
    objective : callable
        A problem and coordinates to the objective.
    max_iter, tol : int, float
        The user's.
    n_starts : int
        From how many starts the search begins.
    refinement : callable, default=lambda task: 0
        A problem to the number of evaluations of a search without gradients; rounds of screening
        have none.
    """
    found, before = [], None
    for index, (at, task) in enumerate(zip(rounds, tasks, strict=True)):
        if n_starts == 1 and index + 1 < len(tasks) and tasks[index + 1] is task:
            continue
        is_same, is_all = task is before, len(task) == len(tasks[-1])
        most = max_iter if at.max_iter is None else at.max_iter
        share = 1.0 if before is None else len(before) / len(task)
        found.append(
            Level(
                None if is_same else _of(objective, task),
                min(most, max_iter) if is_all else most,
                max(tol, at.tol),
                keep=at.keep,
                transfer=_narrowing(share ** (1 / (task.n_features + 4))),
                refinement_evaluations=refinement(task) if at.keep == 1 else 0,
                name="start" if index + 1 < len(tasks) else "descent",
                where=_where(task, tasks[-1]),
            )
        )
        before = task
    return found


def _where(task: LeaveOneOut, whole: LeaveOneOut) -> str:
    if len(task) < len(whole):
        return " on a subsample"
    return " on a sample" if task.held_out is not None else ""


def _of(
    objective: Callable[[LeaveOneOut, Bounded], Objective], task: LeaveOneOut
) -> Callable[[Bounded], Objective]:
    return lambda coordinates: objective(task, coordinates)


def _narrowing(factor: float) -> Callable[[Bounded, np.ndarray], np.ndarray]:
    """Return what narrows widths by a factor: the best ones are narrower where rows are more."""
    return lambda coordinates, x: x if factor == 1 else coordinates.narrowed(x, factor)
