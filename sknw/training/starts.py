"""Where training starts: at the simpler metric's end, at broad windows, at random."""

from collections.abc import Sequence

import numpy as np

from sknw.fitting.starts import common_widths, mixed_start, scan_minima
from sknw.support import tuning
from sknw.training.problem import TrainingProblem


def starts(
    problem: TrainingProblem,
    first: Sequence[np.ndarray],
    n_starts: int,
    random_state: np.random.RandomState,
) -> list[np.ndarray]:
    """Return parameters (p,) to start from.

    Parameters
    ----------
    problem : TrainingProblem
        The problem, or one of fewer rows.
    first : sequence of ndarray of shape (p,)
        Starts that are known already: the user's, or the simpler metric's end.
    n_starts : int
        How many are wanted.
    random_state : RandomState
        Draws random restarts.
    """
    found = list(first)
    if len(found) < n_starts and problem.is_scale:
        found.extend(_scale_starts(problem))
    while len(found) < n_starts:
        jump = random_state.normal(scale=tuning.RESTART_SPREAD, size=found[0].shape)
        found.append(found[0] * np.exp(jump))
    return found[:n_starts]


def _scale_starts(problem: TrainingProblem) -> list[np.ndarray]:
    """Return the best mix of widths seen from broad windows, and the best common scales."""
    widths = problem.widths
    coordinates = problem.coordinates(np.ones(len(widths.spread)))
    objective = problem.objective(coordinates)
    scan = common_widths(widths, problem.task.method.kernel, is_fine=problem.task.n_features == 1)
    minima = scan_minima(objective, [widths.coordinates(at) for at in scan])
    if len(widths.spread) > 1:
        minima.insert(0, mixed_start(objective, widths))
    return [coordinates.values(x) for x in minima]
