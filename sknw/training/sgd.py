"""Full-batch gradient descent on w itself: the textbook's training loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sknw._arrays import to_numpy, to_tensor
from sknw.training.problem import Settings, Solver, Trained, TrainingProblem

_STEP_PER_VARIANCE = 2.0


class Sgd(Solver):
    """``w ← w − learning_rate ∇(loss + alpha ‖w‖²)``, every row held out in turn in each step."""

    name = "sgd"
    n_starts = 1

    def train(
        self,
        problem: TrainingProblem,
        starts: Sequence[np.ndarray],
        settings: Settings,
        rehearsal: TrainingProblem | None,
    ) -> Trained:
        """Return the end with the lowest objective over all starts."""
        ends = [_descend(problem, start, settings) for start in starts]
        return min(ends, key=lambda end: end.objective)


@dataclass
class _Path:
    """The scales visited, and the loss and the objective (in units of variance) at each."""

    scales: list[torch.Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)

    def add(self, w: torch.Tensor, loss: float, objective: float) -> None:
        self.scales.append(w)
        self.losses.append(loss)
        self.objectives.append(objective)


def _descend(problem: TrainingProblem, start: np.ndarray, settings: Settings) -> Trained:
    w = to_tensor(start, dtype=torch.float64, device=problem.task.rows.device)
    unit, step, path = problem.task.unit, _step(problem, settings), _Path()
    for t in range(settings.max_iter + 1):  # the last one only looks at where the steps ended
        loss, objective, gradient = _evaluated(problem, w)
        if not np.isfinite(objective):
            break
        path.add(w, loss, objective)
        if t == settings.max_iter or _has_stalled(path.objectives, settings):
            break
        if settings.report is not None:
            settings.report(t + 1, loss * unit)
        w = w - step * gradient
    return _end(problem, path, np.isfinite(objective), settings)


def _step(problem: TrainingProblem, settings: Settings) -> float:
    """Return the step in units of variance; by default safe for the penalty's curvature too."""
    if settings.learning_rate_init is not None:
        return settings.learning_rate_init * problem.task.unit
    curvature = 2 * problem.alpha / problem.task.unit if problem.alpha else 0.0
    return _STEP_PER_VARIANCE / (1 + curvature)


def _evaluated(problem: TrainingProblem, w: torch.Tensor) -> tuple[float, float, torch.Tensor]:
    """Return loss, objective and the objective's gradient at w."""
    with torch.inference_mode(False), torch.enable_grad():
        w = w.detach().clone().requires_grad_()
        loss = problem.loss(w)
        objective = loss + problem.penalty(w)
        (gradient,) = torch.autograd.grad(objective, w)
    return loss.item(), objective.item(), gradient


def _has_stalled(objectives: list[float], settings: Settings) -> bool:
    """Whether the last `n_iter_no_change` steps brought no relative gain of `tol`."""
    patience = settings.n_iter_no_change
    if len(objectives) <= patience:
        return False
    return min(objectives[-patience:]) >= min(objectives[:-patience]) * (1 - settings.tol)


def _end(problem: TrainingProblem, path: _Path, is_finite: bool, settings: Settings) -> Trained:
    """Return the last scales visited or, after a divergence, the best."""
    unit, last = problem.task.unit, len(path.scales) - 1
    if last < 0:  # not even the start can be evaluated
        raise ValueError("The leave-one-out loss is not finite at w_init; use a smaller w_init.")
    stalled = _has_stalled(path.objectives, settings)
    diverged = not is_finite or (stalled and path.objectives[last] > path.objectives[0])
    kept = int(np.argmin(path.objectives)) if diverged else last
    message = f"max_iter={settings.max_iter} steps ended it before the loss settled"
    if diverged:
        message = "the loss diverged; the best w seen is kept. Lower learning_rate_init"
    losses = [loss * unit for loss in path.losses]
    return Trained(
        w=to_numpy(path.scales[kept]),
        loss_curve=losses[: max(last, 1)],
        loss=losses[kept],
        objective=path.objectives[kept],
        n_iter=max(last, 1),
        converged=stalled and not diverged,
        message=message,
    )
