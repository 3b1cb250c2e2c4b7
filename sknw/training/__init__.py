"""Metric training: gradient descent on the leave-one-out loss of an embedding.

`SOLVERS` holds the solvers by the name that the ``solver`` parameter takes; `train` chooses the
starts and runs one.
"""

from collections.abc import Sequence

import numpy as np

from sknw.leave_one_out import REHEARSAL_SIZE
from sknw.optimize import Objective, scan_minima
from sknw.training.lbfgs import Lbfgs
from sknw.training.problem import Settings, Solver, Trained, TrainingProblem
from sknw.training.sgd import Sgd

SOLVERS: dict[str, Solver] = {solver.name: solver for solver in (Lbfgs(), Sgd())}
_RESTART_SPREAD = 1.0  # standard deviation of log w among random restarts


def train(
    solver: str,
    problem: TrainingProblem,
    settings: Settings,
    *,
    w_init: np.ndarray | None,
    n_starts: int | str,
    random_state: np.random.RandomState,
) -> Trained:
    """Train from `w_init`, from the minima of a scan over common scales, and from random restarts.

    Parameters
    ----------
    solver : str
        Name in `SOLVERS`.
    problem : TrainingProblem
        What to minimise.
    settings : Settings
        When to stop, and how far to step.
    w_init : ndarray of shape (n_scales,) or None
        The first start; alone unless `n_starts` asks for more.
    n_starts : int or "auto"
        How many starts; ``"auto"``: one with `w_init`, else as many as the solver prefers.
    random_state : RandomState
        Draws the subsample that compares starts, and the restarts.
    """
    task = problem.task
    if len(task) < 2:
        w = np.ones(problem.module.w.numel()) if w_init is None else w_init
        return Trained(w, [np.nan], np.nan, np.nan, n_iter=0, converged=True)
    small = task.subsample(REHEARSAL_SIZE, random_state)
    rehearsal = problem.on(small) if len(small) < len(task) else None
    if n_starts == "auto":
        n_starts = SOLVERS[solver].n_starts if w_init is None else 1
    starts = _starts(rehearsal or problem, w_init, n_starts, random_state)
    if w_init is not None and n_starts == 1:
        rehearsal = None
    return SOLVERS[solver].train(problem, starts, settings, rehearsal)


def _starts(
    problem: TrainingProblem,
    w_init: np.ndarray | None,
    n_starts: int,
    random_state: np.random.RandomState,
) -> Sequence[np.ndarray]:
    starts = [] if w_init is None else [w_init]
    if len(starts) < n_starts:
        starts.extend(_scanned_starts(problem))
    while len(starts) < n_starts:
        jump = random_state.normal(scale=_RESTART_SPREAD, size=starts[0].shape)
        starts.append(starts[0] * np.exp(jump))
    return starts[:n_starts]


def _scanned_starts(problem: TrainingProblem) -> list[np.ndarray]:
    """Return the scan's best common scales: sharper ones may have saturated the softmax."""
    device, widths = problem.task.rows.device, problem.widths
    objective = Objective(
        lambda t: problem.loss(1 / widths.at(t)),
        penalty=lambda t: problem.penalty(1 / widths.at(t)),
        device=device,
    )
    minima = scan_minima(objective, [widths.coordinates(width) for width in problem.scan()])
    return [1 / widths.values(coordinates) for coordinates in minima]


__all__ = ["SOLVERS", "Settings", "Solver", "Trained", "TrainingProblem", "train"]
