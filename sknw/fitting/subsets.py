"""Parts of a leave-one-out problem: fewer rows, fewer rows held out, another order.

Where rows are held out, the others stay as their neighbours; in a subsample they do not.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_tensor
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.sums import Layout
from sknw.support import tuning


def subsample(task: LeaveOneOut, size: int, random_state: np.random.RandomState) -> LeaveOneOut:
    """Return the problem of a random subset of the rows; itself if it is no larger."""
    return task if size >= len(task) else task.take(_draw(task, size, random_state))


def hold_out(task: LeaveOneOut, size: int, random_state: np.random.RandomState) -> LeaveOneOut:
    """Return the problem with the loss of a random subset of the rows, all keys kept."""
    if size >= len(task):
        return task
    return replace(task, held_out=_draw(task, size, random_state))


def hold_out_evenly(task: LeaveOneOut, size: int) -> LeaveOneOut:
    """Return the problem with the loss of so many rows in even steps, all keys kept."""
    return task if size >= len(task) else replace(task, held_out=evenly_spaced(task, size))


def evenly_spaced(task: LeaveOneOut, size: int) -> Tensor:
    """Return the numbers (size,) of rows in even steps."""
    rows = np.linspace(0, len(task) - 1, size).astype(int)
    return to_tensor(rows, dtype=torch.int64, device=task.rows.device)


def among(task: LeaveOneOut, rows: Tensor, n_held_out: int) -> LeaveOneOut:
    """Return the problem of these rows (index), of which the first are held out."""
    all_held_out = n_held_out == len(rows)
    held_out = None if all_held_out else torch.arange(n_held_out, device=task.rows.device)
    return replace(task.take(rows), held_out=held_out)


def split(
    task: LeaveOneOut, share: float, random_state: np.random.RandomState
) -> tuple[LeaveOneOut, LeaveOneOut]:
    """Return the problems of two parts of the rows, a random share of them in the second."""
    order = random_state.permutation(len(task))
    n_second = int(np.clip(round(share * len(task)), 1, len(task) - 1))
    first, second = (
        task.take(to_tensor(np.sort(part), dtype=torch.int64, device=task.rows.device))
        for part in (order[n_second:], order[:n_second])
    )
    return first, second


def in_compact_order(task: LeaveOneOut) -> LeaveOneOut:
    """Return the problem with near rows together, where many make that worthwhile."""
    if len(task) < tuning.FEWEST_KEYS_TO_SORT:
        return task
    observations, rows = task.observations, task.rows
    deviation = observations.extent.deviation[observations.features.of_column]
    deviation = to_tensor(deviation, dtype=rows.dtype, device=rows.device)
    n_codes = task.method.kernel.n_codes
    return task.take(Layout.of(rows / deviation, tuning.KEYS_OF_A_SORTED_BLOCK, n_codes).order)


def _draw(task: LeaveOneOut, size: int, random_state: np.random.RandomState) -> Tensor:
    chosen = np.sort(random_state.choice(len(task), size, replace=False))
    return to_tensor(chosen, dtype=torch.int64, device=task.rows.device)
