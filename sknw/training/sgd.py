"""Full-batch gradient descent on w itself: the textbook's training loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sknw.support import tuning
from sknw.training.problem import Result, Settings, Solver, TrainingProblem
from sknw.training.steps import Steps


class Sgd(Solver):
    """``w ← w − learning_rate ∇(loss + alpha ‖w‖²)``, every row held out in turn in each step."""

    name = "sgd"
    n_starts = 1

    def train(
        self,
        problem: TrainingProblem,
        starts: Sequence[np.ndarray],
        settings: Settings,
        screened: TrainingProblem | None,
        random_state: np.random.RandomState,
    ) -> Result:
        """Return the end with the lowest objective over all starts."""
        ends = [_descend(problem, start, settings) for start in starts]
        if len(ends) == 1:
            return ends[0]
        return min(ends, key=lambda end: problem.total(end.w, problem.final_loss(end.w)))

    def resume(self, problem: TrainingProblem, settings: Settings, state: dict) -> Result:
        """Go on from the last w, with the objectives seen so far."""
        return _descend(problem, state["w"], settings, state)


@dataclass
class _Path:
    """The losses and objectives (in units of variance) on the way, the last w and the best."""

    before: list[float]  # objectives of an earlier training
    losses: list[float] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    last: np.ndarray | None = None
    best: np.ndarray | None = None

    def add(self, w: np.ndarray, loss: float, objective: float) -> None:
        if objective < min(self.objectives, default=np.inf):
            self.best = w
        self.last = w
        self.losses.append(loss)
        self.objectives.append(objective)

    def has_stalled(self, settings: Settings) -> bool:
        """Whether the last `n_iter_no_change` steps brought no relative gain of `tol`."""
        patience, seen = settings.n_iter_no_change, self.before + self.objectives
        if len(seen) <= patience:
            return False
        return min(seen[-patience:]) >= min(seen[:-patience]) * (1 - settings.tol)


def _descend(
    problem: TrainingProblem, start: np.ndarray, settings: Settings, state: dict | None = None
) -> Result:
    problem.model.module.eval()
    state = state or {"before": [], "stopping": {}}
    w = np.asarray(start, dtype=np.float64)
    step, path = _step(problem, settings), _Path(state["before"])
    steps = Steps.of(problem, settings, state["stopping"])
    with problem.task.progress.stage("gradient descent", settings.max_iter):
        for t in range(settings.max_iter + 1):  # the last one only looks at where the steps ended
            loss, objective, gradient = _evaluated(problem, w)
            if not np.isfinite(objective):
                break
            path.add(w, loss, objective)
            if t == settings.max_iter or path.has_stalled(settings) or steps.stopped:
                break
            w = w - step * gradient
            steps(t + 1, loss, w)
    return _end(problem, path, bool(np.isfinite(objective)), settings, steps)


def _step(problem: TrainingProblem, settings: Settings) -> float:
    """Return the step in units of variance; by default safe for the penalty's curvature too."""
    if settings.learning_rate_init is not None:
        return settings.learning_rate_init * problem.task.unit
    curvature = 2 * problem.alpha / problem.task.unit if problem.alpha else 0.0
    return tuning.STEP_PER_VARIANCE / (1 + curvature)


def _evaluated(problem: TrainingProblem, w: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Return loss, objective and the objective's gradient at w."""
    (loss, gradient), (penalty, of_penalty) = problem.loss_and_gradient(w), problem.penalty(w)
    return loss, loss + penalty, gradient + of_penalty


def _end(
    problem: TrainingProblem,
    path: _Path,
    is_finite: bool,
    settings: Settings,
    steps: Steps,
) -> Result:
    """Return the last parameters visited or, after a divergence, the best."""
    unit, last = problem.task.unit, len(path.losses) - 1
    if last < 0:  # not even the start can be evaluated
        raise ValueError("The leave-one-out loss is not finite at w_init; use a smaller w_init.")
    stalled = path.has_stalled(settings)
    diverged = not is_finite or (stalled and path.objectives[last] > path.objectives[0])
    kept = int(np.argmin(path.objectives)) if diverged else last
    message = f"max_iter={settings.max_iter} steps ended it before the loss settled"
    if diverged:
        message = "the loss diverged; the best w seen is kept. Lower learning_rate_init"
    losses = [loss * unit for loss in path.losses]
    w, loss = path.best if diverged else path.last, losses[kept]
    if steps.stopping.best is not None:
        w, loss = steps.stopping.best, None
    state = {
        "w": path.last.copy(),
        "before": path.before + path.objectives[:-1],
        "stopping": steps.stopping.state,
    }
    return Result(
        w=w,
        loss_curve=losses[: max(last, 1)],
        loss=loss,
        n_iter=max(last, 1),
        converged=(stalled or steps.stopped) and not diverged,
        message=message,
        validation_curve=steps.stopping.curve,
        state=state if settings.keeps_state and not diverged else None,
    )
