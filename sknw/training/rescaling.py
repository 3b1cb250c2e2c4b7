"""One common factor of an embedding: the width of its windows as a whole.

Training on a share of the keys settles at windows a little too wide for all of them, and a user's
module starts at any scale.
"""

import numpy as np
import torch
from torch import Tensor

from sknw._arrays import to_tensor
from sknw.leave_one_out import LeaveOneOut
from sknw.training.problem import TrainingProblem
from sknw.training.validation import in_blocks

_NEAR = np.geomspace(0.6, 1.7, 13)
_WIDE = np.geomspace(1e-3, 1e3, 49)
_ROWS = 2000  # held out


def rescaled(problem: TrainingProblem, w: np.ndarray, *, wide: bool = False) -> np.ndarray:
    """Return parameters w (p,) with the embedding times the factor of the lowest loss.

    The loss is that of the validation rows if there are any, else the leave-one-out loss of at most
    2000 rows.
    """
    if problem.is_scale or len(problem.task) < 2:
        return w
    module, task = problem.at(w).eval(), problem.task
    factors = [1.0, *(_WIDE if wide else _NEAR)]
    with torch.no_grad():
        if problem.validation is not None:
            losses = [_validation_loss(problem, module, factor) for factor in factors]
        else:
            part = _spread_out(task)
            embedded = in_blocks(module, problem.scaled)
            losses = [part.loss(embedded * factor).item() for factor in factors]
    if np.isfinite(losses).any():
        problem.metric.rescale(module, factors[int(np.nanargmin(losses))])
    return problem.parameters


def _validation_loss(problem: TrainingProblem, module: torch.nn.Module, factor: float) -> float:
    def scaled(rows: Tensor) -> Tensor:
        return module(rows) * factor

    errors = problem.validation.errors(scaled, problem.task, problem.bandwidth)
    return problem.validation.mean(errors)


def _spread_out(task: LeaveOneOut) -> LeaveOneOut:
    """Return the problem of rows held out evenly."""
    if len(task) <= _ROWS:
        return task
    rows = np.linspace(0, len(task) - 1, _ROWS).astype(int)
    return task.holding_out_rows(to_tensor(rows, dtype=torch.int64, device=task.rows.device))
