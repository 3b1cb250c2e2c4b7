"""Full-batch quasi-Newton training of scales: deterministic, bounded, several starts."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from sknw._arrays import to_tensor
from sknw.optimize import Descent, Objective, descend
from sknw.training.problem import Settings, Solver, Trained, TrainingProblem


class Lbfgs(Solver):
    """SciPy's L-BFGS-B on the widths 1/|w|; the sign of w does not matter and stays."""

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
        unit, report = problem.task.unit, None
        if settings.report is not None:

            def report(step: int, loss: float) -> None:
                settings.report(step, loss * unit)

        signs, widths = np.sign(starts[0]), problem.widths
        shrinkage = 1.0
        if rehearsal is not None:
            share = len(rehearsal.task) / len(problem.task)
            shrinkage = share ** (1 / (problem.task.n_features + 4))
        best = descend(
            _objective(problem, signs),
            [widths.coordinates(1 / np.abs(start)) for start in starts],
            Descent(
                widths.bounds,
                settings.max_iter,
                settings.tol,
                problem.task.polish_evaluations(),
            ),
            rehearsal=None if rehearsal is None else _objective(rehearsal, signs),
            carry_over=lambda coordinates: widths.shrunk(coordinates, shrinkage),
            on_step=report,
        )
        curve = [loss * unit for loss in best.curve]
        return Trained(
            w=signs / widths.values(best.x),
            loss_curve=curve[: max(best.n_iter, 1)],  # a start at the minimum is one step
            loss=curve[-1],
            objective=best.objective,
            n_iter=max(best.n_iter, 1),
            converged=best.converged,
            message=f"max_iter={settings.max_iter} steps ended it before tol={settings.tol:g} did",
        )


def _objective(problem: TrainingProblem, signs: np.ndarray) -> Objective:
    device, widths = problem.task.rows.device, problem.widths

    def scales(coordinates: Tensor) -> Tensor:
        sign = to_tensor(signs, dtype=coordinates.dtype, device=device)
        return sign / widths.at(coordinates)

    return Objective(
        lambda coordinates: problem.loss(scales(coordinates)),
        penalty=lambda coordinates: problem.penalty(scales(coordinates)),
        device=device,
    )
