"""Full-batch gradient descent on w itself: the textbook's training loop."""

from collections.abc import Sequence

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


def _descend(problem: TrainingProblem, start: np.ndarray, settings: Settings) -> Trained:
    w = to_tensor(start, dtype=torch.float64, device=problem.task.rows.device)
    unit = problem.task.unit
    rate = settings.learning_rate_init
    step = _STEP_PER_VARIANCE if rate is None else rate * unit
    curve: list[float] = []
    visited = [w]
    while len(curve) < settings.max_iter:
        loss, gradient = _loss_and_gradient(problem, w)
        if not np.isfinite(loss):
            return _fallback(problem, visited, curve)
        curve.append(loss * unit)
        if settings.report is not None:
            settings.report(len(curve), curve[-1])
        w = w - step * gradient
        visited.append(w)
        if _has_stalled(curve, settings):
            break
    loss, _ = _loss_and_gradient(problem, w)
    if not np.isfinite(loss):
        return _fallback(problem, visited, curve)
    converged = _has_stalled(curve, settings)
    message = f"max_iter={settings.max_iter} steps ended it before the loss settled"
    return _end(problem, w, curve, loss * unit, converged, message)


def _loss_and_gradient(problem: TrainingProblem, w: torch.Tensor) -> tuple[float, torch.Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        w = w.detach().clone().requires_grad_()
        loss = problem.loss(w)
        (gradient,) = torch.autograd.grad(loss + problem.penalty(w), w)
    return loss.item(), gradient


def _has_stalled(curve: list[float], settings: Settings) -> bool:
    """Whether the last `n_iter_no_change` steps brought no relative gain of `tol`."""
    patience = settings.n_iter_no_change
    if len(curve) <= patience:
        return False
    return min(curve[-patience:]) >= min(curve[:-patience]) * (1 - settings.tol)


def _fallback(problem: TrainingProblem, visited: list[torch.Tensor], curve: list[float]) -> Trained:
    """Return the best w visited by a descent that diverged."""
    best = int(np.argmin(curve)) if curve else 0
    loss = curve[best] if curve else np.nan
    message = "the loss is no longer finite; the best w seen is kept. Lower learning_rate_init"
    return _end(problem, visited[best], curve or [loss], loss, False, message)


def _end(problem, w, curve, loss, converged, message) -> Trained:
    with torch.no_grad():
        penalty = problem.penalty(w).item() * problem.task.unit
    return Trained(
        w=to_numpy(w),
        loss_curve=curve,
        loss=loss,
        objective=loss + penalty,
        n_iter=len(curve),
        converged=converged,
        message=message,
    )
