"""Full-batch quasi-Newton training: deterministic, bounded, several starts.

The starts go through the rounds of `sknw.fitting.schedule`. SciPy keeps no state to go on from. But
its path follows from the values and gradients it has seen, so those of the last descent are kept,
and the next fit walks the same path again without computing a gradient until it arrives where the
last one stopped.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from sknw.fitting.criteria import CRITERIA
from sknw.fitting.leave_one_out import LeaveOneOut, threads_of
from sknw.fitting.minimize import Level, Minimum, OnStep, Start, descend, minimize, refined
from sknw.fitting.objective import Objective
from sknw.fitting.scale_objective import refinement_evaluations
from sknw.fitting.schedule import levels, parts, schedule
from sknw.support import tuning
from sknw.training.coordinates import Coordinates
from sknw.training.problem import Result, Settings, Solver, TrainingProblem
from sknw.training.steps import Steps


class Lbfgs(Solver):
    """SciPy's L-BFGS-B: scales as widths 1/|w|, whose signs do not matter and stay."""

    name = "lbfgs"
    n_starts = 3

    def train(
        self,
        problem: TrainingProblem,
        starts: Sequence[np.ndarray],
        settings: Settings,
        screened: TrainingProblem | None,
        random_state: np.random.RandomState,
    ) -> Result:
        """Return the lowest minimum that the descents reach."""
        problem.model.module.eval()
        steps = Steps.of(problem, settings)
        task, kind = problem.task, "scales" if problem.is_scale else "weights"
        rounds = schedule(kind, len(task), task.n_features, is_single=task.n_features == 1)
        if screened is None:
            rounds = [at for at in rounds if at.rows is None]
        is_first = kind == "scales" and screened is not None
        tasks = parts(rounds, task, random_state, screened.task if is_first else None)

        def objective(part: LeaveOneOut, coordinates: Coordinates) -> Objective:
            memory = {} if settings.keeps_state and part is task else None
            return problem.on(part).objective(coordinates, memory)

        run = levels(
            rounds,
            tasks,
            objective,
            settings.max_iter,
            settings.tol,
            n_starts=len(starts),
            refinement=lambda part: _refinement(problem.on(part)),
        )
        shared = problem.coordinates(starts[0]) if problem.is_scale else None
        begun = []
        for start in starts:
            coordinates = problem.coordinates(start) if shared is None else shared
            begun.append(Start(coordinates.of(start), coordinates))
        with _threads(problem):
            best = minimize(run, begun, _telling(steps))
        return _trained(problem, best, settings, steps)

    def resume(self, problem: TrainingProblem, settings: Settings, state: dict) -> Result:
        """Walk the same path again, and on."""
        problem.model.module.eval()
        coordinates = problem.coordinates(state["origin"])
        done = state["n_iter"]
        memory = dict(zip(state["seen"], state["values"], strict=True))
        objective = problem.objective(coordinates, memory)
        steps = Steps.of(problem, settings, state["stopping"])
        level = Level(None, done + settings.max_iter, settings.tol)
        start, curve = state["start"], [*state["began"], np.nan]
        begun = Minimum(start, np.inf, curve, False, coordinates, objective, start)
        with _threads(problem):
            best = descend(level, begun, _telling(steps, skip=done))
            best = refined(best, _refinement(problem))
        return _trained(problem, best, settings, steps, done)


def _threads(problem: TrainingProblem) -> AbstractContextManager:
    """Return the context of `threads_of` for metrics that cost little themselves."""
    return threads_of(problem.task) if problem.model.metric.is_linear else nullcontext()


def _refinement(problem: TrainingProblem) -> int:
    if not problem.is_scale:
        return 0
    scales = problem.coordinates(problem.model.values)
    return refinement_evaluations(problem.task, scales, CRITERIA["loo"])


def _telling(steps: Steps, skip: int = 0) -> OnStep:
    """Return what tells of steps, but for those that an earlier fit has told of."""

    def on_step(step: int, loss: float, x: np.ndarray, coordinates: Coordinates) -> bool:
        return step > skip and steps(step - skip, loss, coordinates.values(x))

    return on_step


def _trained(
    problem: TrainingProblem,
    best: Minimum,
    settings: Settings,
    steps: Steps,
    done: int = 0,
) -> Result:
    unit = problem.task.unit
    curve = [loss * unit for loss in best.curve[min(done, best.n_iter) :]]
    n_iter = max(len(curve) - 1, 1)  # a start at the minimum is one step
    w, loss = best.coordinates.values(best.x), curve[-1]
    if steps.stopping.best is not None:
        w, loss = steps.stopping.best, None
    return Result(
        w=w,
        loss_curve=curve[:n_iter],
        loss=loss,
        n_iter=n_iter,
        converged=best.converged,
        message=f"max_iter={settings.max_iter} steps ended it before tol={settings.tol:g} did",
        validation_curve=steps.stopping.curve,
        state=_state(best, steps.stopping.state),
    )


def _state(best: Minimum, stopping: dict) -> dict | None:
    """Return where the best descent began and all that it has seen, unless that is too much."""
    memory = best.objective.memory
    if memory is None or len(memory) * len(best.x) > tuning.MOST_REMEMBERED:
        return None
    return {
        "origin": best.coordinates.values(best.start),
        "start": best.start,
        "began": best.curve[: best.began],
        "n_iter": best.n_iter,
        "seen": list(memory),
        "values": list(memory.values()),
        "stopping": stopping,
    }
