"""Full-batch quasi-Newton training of log-scales: deterministic, bounded, several starts."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from sknw._arrays import to_tensor
from sknw.optimize import Descent, Objective, best_of, descents
from sknw.training.problem import Settings, Solver, Trained, TrainingProblem


class Lbfgs(Solver):
    """SciPy's L-BFGS-B on log|w|; the sign of w does not matter and stays."""

    name = "lbfgs"
    n_starts = 3

    def train(
        self,
        problem: TrainingProblem,
        starts: Sequence[np.ndarray],
        settings: Settings,
        rehearsal: TrainingProblem | None,
    ) -> Trained:
        """Return the lowest minimum that the descents reach."""
        signs = np.sign(starts[0])
        n, shift = len(problem.task), 0.0
        if rehearsal is not None:
            shift = np.log(n / len(rehearsal.task)) / (problem.task.n_features + 4)
        found = descents(
            _objective(problem, signs),
            [np.log(np.abs(start)) for start in starts],
            Descent(
                problem.log_scale_bounds(),
                settings.max_iter,
                settings.tol,
                problem.task.polish_evaluations,
            ),
            rehearsal=None if rehearsal is None else _objective(rehearsal, signs),
            shift=shift,
            on_step=settings.report,
        )
        best = best_of(found)[0]
        unit = problem.task.unit
        curve = [loss * unit for loss in best.curve]
        return Trained(
            w=signs * np.exp(best.x),
            loss_curve=curve[: max(best.n_iter, 1)],
            loss=curve[-1],
            objective=best.objective,
            n_iter=best.n_iter,
            converged=best.converged,
            message=f"max_iter={settings.max_iter} steps ended it before tol={settings.tol:g} did",
        )


def _objective(problem: TrainingProblem, signs: np.ndarray) -> Objective:
    device = problem.task.rows.device

    def scales(log_scale: Tensor) -> Tensor:
        return log_scale.exp() * to_tensor(signs, dtype=log_scale.dtype, device=device)

    return Objective(
        lambda log_scale: problem.loss(scales(log_scale)),
        penalty=(lambda log_scale: problem.penalty(scales(log_scale))) if problem.alpha else None,
        device=device,
    )
