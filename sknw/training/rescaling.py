"""One common factor of an embedding: the width of its windows as a whole.

Training on a share of the keys settles at windows a little too wide for all of them, and a user's
module starts at any scale.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sknw.fitting.subsets import hold_out_evenly
from sknw.metrics.embedding import in_blocks
from sknw.support import tuning
from sknw.training.problem import TrainingProblem


def rescaled(
    problem: TrainingProblem, w: np.ndarray, *, wide: bool = False
) -> tuple[np.ndarray, float]:
    """Return parameters w (p,) with the embedding times the factor of the lowest loss, and it.

    The loss, in squared units of y, is that of at most 2000 validation rows if there are any, else
    the leave-one-out loss of as many rows. Factors are tried upwards and downwards from 1 as long
    as the loss falls (with fewer than 200 validation rows none), or all of a wide range.
    """
    module = problem.model.at(w).eval()
    with torch.no_grad():
        loss_at = _losses(problem, module)
        if wide:
            _check_finite(in_blocks(module, problem.scaled))
            factors = np.geomspace(*tuning.FACTORS_OF_RESCALING)
            losses = [loss_at(factor) for factor in factors]
            best = int(np.nanargmin(losses))
            found = losses[best], factors[best]
        else:
            found = _descended(loss_at) if _can_tell(problem) else (loss_at(1.0), 1.0)
    problem.model.metric.rescale(module, found[1])
    return problem.model.values, found[0] * problem.task.unit


def _check_finite(embedded: Tensor) -> None:
    """Refuse a start from which no descent could go on.

    Raises
    ------
    ValueError
    """
    if not torch.isfinite(embedded).all():
        raise ValueError(
            "The metric's module gave values that are not finite for the training rows; change its "
            "parameters, or scale X."
        )


def _can_tell(problem: TrainingProblem) -> bool:
    """Whether there are rows enough to choose a factor by."""
    return (
        problem.validation is None
        or len(problem.validation.rows) >= tuning.FEWEST_ROWS_OF_RESCALING
    )


def _descended(loss_at: Callable[[float], float]) -> tuple[float, float]:
    """Return the lowest loss and its factor, going both ways from 1."""
    best = loss_at(1.0), 1.0
    for stride in (tuning.STRIDE_OF_RESCALING, 1 / tuning.STRIDE_OF_RESCALING):
        start = best[1]
        while True:
            factor = best[1] * stride
            loss = loss_at(factor)
            if not loss < best[0]:
                break
            best = loss, factor
        if best[1] != start:
            break
    return best


def _losses(problem: TrainingProblem, module: torch.nn.Module) -> Callable[[float], float]:
    """Return the loss as a function of a factor of the module's embedding."""
    task = problem.task
    keys = in_blocks(module, problem.scaled)
    if problem.validation is None:
        part = hold_out_evenly(task, tuning.ROWS_OF_RESCALING)
        return lambda factor: part.loss(keys * factor).item()
    part = problem.validation.at_most(tuning.ROWS_OF_RESCALING)
    rows = part.rows.rows.to(problem.unit.dtype)  # batches are in float32, validation rows are not
    queries = in_blocks(module, rows / problem.unit)
    return lambda factor: part.mean(part.errors(queries * factor, keys * factor, task))
