"""What looks wrong with a trained metric: it collapsed, saturated, or is worse than the mean.

A loss says little by itself. These look at the attention: to how many rows it amounts, and whether
the predictions beat the mean of y.
"""

from dataclasses import replace

import numpy as np
import torch

from sknw.data.arrays import to_numpy
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.metrics.embedding import Embedding
from sknw.smoothing.smoother import Smoother
from sknw.support import tuning


def diagnose(
    module: torch.nn.Module, task: LeaveOneOut, bandwidth: np.ndarray, loss: float
) -> list[str]:
    """Return messages for the user, most often none.

    Parameters
    ----------
    module : torch.nn.Module
        The trained embedding.
    task : LeaveOneOut
        All rows.
    bandwidth : ndarray of shape (n_columns,)
        The starting scale.
    loss : float
        The leave-one-out loss reached, in squared units of y.
    """
    if len(task) < tuning.FEWEST_ROWS_TO_DIAGNOSE or not (task.values.std(dim=0) > 0).any():
        return []
    neighbors = _neighbors(module, task, bandwidth)
    all_others = task.observations.effective_size - 1
    collapsed = np.mean(neighbors > tuning.NEARLY_ALL_NEIGHBORS * all_others)
    if collapsed > tuning.SHARE_COLLAPSED:
        return [
            "The metric has collapsed: every prediction is nearly the mean of y. Either no feature "
            "tells anything about y, or alpha is too large, or training started too broad (try "
            "another w_init or bandwidth)"
        ]
    saturated = np.mean((neighbors > 0) & (neighbors < tuning.NEARLY_ONE_NEIGHBOR))
    found = []
    if saturated > tuning.SHARE_SATURATED:
        found.append(
            f"The attention has saturated: {saturated:.0%} of the training rows are predicted from "
            "a single neighbour each, where the loss has no gradient. Start broader (a smaller "
            "w_init, a larger bandwidth), or try more n_starts or a positive alpha"
        )
    mean_loss = _loss_of_mean(task)
    if not loss <= mean_loss * (1 + 1e-6):
        cause = "the windows are too narrow" if found else "the features tell little"
        found.append(
            f"The metric predicts held-out rows worse than the mean of y does (loss {loss:.4g}, "
            f"that of the mean {mean_loss:.4g}): {cause}, or training ended too early"
        )
    return found


def _neighbors(module: torch.nn.Module, task: LeaveOneOut, bandwidth: np.ndarray) -> np.ndarray:
    """Return the effective number of neighbours of some training rows, each left out."""
    with torch.no_grad():
        embedding = Embedding.of(module, task.method.kernel, bandwidth, like=task.rows)
        embedded = embedding.points(task.rows)
        method = replace(
            task.method,
            kernel=embedding.kernel,
            algorithm="dense" if task.method.algorithm == "dense" else "auto",
            rtol=max(task.method.rtol, 1e-9),
        )
        smoother = Smoother.of(method, embedded, task.values, task.weights)
        step = -(-len(task) // tuning.ROWS_TO_DIAGNOSE)
        rows = torch.arange(0, len(task), step, device=embedded.device)
        return to_numpy(smoother.effective_neighbors(embedded[rows], rows))


def _loss_of_mean(task: LeaveOneOut) -> float:
    """Return the leave-one-out loss of the weighted mean of the other rows."""
    weights, values = task.weights.double(), task.values.double()
    total = weights.sum()
    mean = (weights @ values) / total
    others = total / (total - weights)  # y_i − mean of the others, over y_i − mean
    errors = ((values - mean) * others[:, None]).square()
    return ((weights @ errors / total) / task.variance.double()).mean().item() * task.unit
