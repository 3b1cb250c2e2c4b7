"""Full-batch quasi-Newton training: deterministic, bounded, several starts.

Scales are rehearsed on a subsample. The many weights of a matrix or a module would fit few rows in
ways of their own, so their starts, each in its own coordinates, race over all rows: to the end, or
where that is dear, until the first steps have told which is lowest.

On more rows than `_LARGE` the descents first run on a sample of the rows held out, each predicted
from all others; the steps over all rows begin where they end.

SciPy keeps no state to go on from. But its path follows from the values and gradients it has seen,
so they are kept, and the next fit walks the same path again without computing a gradient until it
arrives where the last one stopped.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sknw.fitting.minimize import Descent, Minimum, Walk, descend, go_on, race
from sknw.training.coordinates import Coordinates
from sknw.training.problem import Settings, Solver, Trained, TrainingProblem
from sknw.training.watch import Watch

_LARGE, _HELD_OUT, _TOL_OF_SAMPLE = 20_000, 5000, 1e-4
_DEAR, _TRIAL_STEPS = 1500, 12  # rows above which a start is given up after so many steps
_MOST_REMEMBERED = 4_000_000  # numbers


class Lbfgs(Solver):
    """SciPy's L-BFGS-B: scales as widths 1/|w|, whose signs do not matter and stay."""

    name = "lbfgs"
    n_starts = 3

    def train(
        self,
        problem: TrainingProblem,
        starts: Sequence[np.ndarray],
        settings: Settings,
        rehearsal: TrainingProblem | None,
        random_state: np.random.RandomState,
    ) -> Trained:
        """Return the lowest minimum that the descents reach."""
        problem.module.eval()
        watch = Watch(problem, settings)
        with problem.threads():
            if problem.is_scale:
                coordinates, best, memory = _of_scales(
                    problem, starts, settings, rehearsal, random_state, watch
                )
            else:
                coordinates, best, memory = _of_weights(
                    problem, starts, settings, random_state, watch
                )
        return _trained(problem, coordinates, best, settings, watch, memory)

    def resume(self, problem: TrainingProblem, settings: Settings, state: dict) -> Trained:
        """Walk the same path again, and on."""
        problem.module.eval()
        coordinates = problem.coordinates(state["origin"])
        done = state["n_iter"]
        onward = replace(settings, max_iter=done + settings.max_iter)
        memory = dict(zip(state["seen"], state["values"], strict=True))
        watch = Watch(problem, settings)
        watch.best, watch.best_loss, watch.waited = state["watched"]
        with problem.threads():
            best = go_on(
                problem.objective(coordinates, memory),
                state["start"],
                _descent(problem, coordinates, onward),
                state["began"],
                _watched(watch, coordinates, skip=done),
            )
        return _trained(problem, coordinates, best, settings, watch, memory, done)


def _of_scales(
    problem: TrainingProblem,
    starts: Sequence[np.ndarray],
    settings: Settings,
    rehearsal: TrainingProblem | None,
    random_state: np.random.RandomState,
    watch: Watch,
) -> tuple[Coordinates, Minimum, dict | None]:
    """Return the coordinates of scales, the lowest minimum, and what was seen on the way."""
    coordinates, options = problem.coordinates(starts[0]), {}
    memory = {} if settings.keeps_state else None
    if rehearsal is not None:
        share = len(rehearsal.task) / len(problem.task)
        shrinkage = share ** (1 / (problem.task.n_features + 4))
        options = {
            "rehearsal": rehearsal.objective(coordinates),
            "carry_over": lambda x: coordinates.narrowed(x, shrinkage),
        }
    found = [coordinates.of(start) for start in starts]
    if len(problem.task) > _LARGE:
        part, rough = _sampled(problem, settings, random_state)
        end = descend(
            part.objective(coordinates), found, _descent(part, coordinates, rough), **options
        )
        found, options = [end.x], {}
    best = descend(
        problem.objective(coordinates, memory),
        found,
        _descent(problem, coordinates, settings),
        on_step=_watched(watch, coordinates),
        **options,
    )
    return coordinates, best, memory


def _of_weights(
    problem: TrainingProblem,
    starts: Sequence[np.ndarray],
    settings: Settings,
    random_state: np.random.RandomState,
    watch: Watch,
) -> tuple[Coordinates, Minimum, dict | None]:
    """Return the coordinates of the lowest minimum of weights, it, and what was seen on the way."""
    places = [problem.coordinates(start) for start in starts]
    found = [place.of(start) for place, start in zip(places, starts, strict=True)]
    if len(problem.task) > _LARGE:
        part, rough = _sampled(problem, settings, random_state)
        walks = [
            Walk(part.objective(place, {}), x, _descent(part, place, rough))
            for place, x in zip(places, found, strict=True)
        ]
        index, end = race(walks, _TRIAL_STEPS)
        starts = [places[index].values(end.x)]
        places = [problem.coordinates(start) for start in starts]
        found = [place.of(start) for place, start in zip(places, starts, strict=True)]
    trial_steps = _TRIAL_STEPS if len(problem.task) > _DEAR and len(places) > 1 else None
    remembers = settings.keeps_state or trial_steps is not None
    walks = [
        Walk(
            problem.objective(place, {} if remembers else None),
            x,
            _descent(problem, place, settings),
            _watched(watch, place),
        )
        for place, x in zip(places, found, strict=True)
    ]
    index, best = race(walks, trial_steps)
    memory = walks[index].objective.memory if settings.keeps_state else None
    return places[index], best, memory


def _sampled(
    problem: TrainingProblem, settings: Settings, random_state: np.random.RandomState
) -> tuple[TrainingProblem, Settings]:
    """Return the problem with few rows held out, and when to stop on it."""
    part = problem.on(problem.task.holding_out(_HELD_OUT, random_state))
    return part, replace(settings, tol=max(settings.tol, _TOL_OF_SAMPLE))


def _descent(problem: TrainingProblem, coordinates: Coordinates, settings: Settings) -> Descent:
    polish = problem.task.polish_evaluations() if problem.is_scale else 0
    return Descent(coordinates.bounds, settings.max_iter, settings.tol, polish)


def _watched(watch: Watch, coordinates: Coordinates, skip: int = 0):
    def on_step(step: int, loss: float, x: np.ndarray) -> bool:
        return step > skip and watch(step - skip, loss, coordinates.values(x))

    return on_step


def _trained(
    problem: TrainingProblem,
    coordinates: Coordinates,
    best: Minimum,
    settings: Settings,
    watch: Watch,
    memory: dict | None,
    done: int = 0,
) -> Trained:
    unit = problem.task.unit
    curve = [loss * unit for loss in best.curve[min(done, best.n_iter) :]]
    n_iter = max(len(curve) - 1, 1)  # a start at the minimum is one step
    w, loss = coordinates.values(best.x), curve[-1]
    if watch.best is not None:
        w, loss = watch.best, None
    return Trained(
        w=w,
        loss_curve=curve[:n_iter],
        loss=loss,
        n_iter=n_iter,
        converged=best.converged,
        message=f"max_iter={settings.max_iter} steps ended it before tol={settings.tol:g} did",
        validation_curve=watch.curve,
        state=_state(coordinates, best, memory, watch),
    )


def _state(
    coordinates: Coordinates, best: Minimum, memory: dict | None, watch: Watch
) -> dict | None:
    """Return where the best descent began and all that it has seen, unless that is too much."""
    if memory is None or best.start is None or len(memory) * len(best.x) > _MOST_REMEMBERED:
        return None
    return {
        "origin": coordinates.values(best.start),
        "start": best.start,
        "began": best.curve[: best.began],
        "n_iter": best.n_iter,
        "seen": list(memory),
        "values": list(memory.values()),
        "watched": (watch.best, watch.best_loss, watch.waited),
    }
