"""Descents: which starts survive a rehearsal."""

import numpy as np
import pytest
import torch

from sknw.optimize import Descent, Objective, descend


def with_valley(at):
    """Return an objective with a valley there, and a lower-lying plain that leads nowhere."""

    def loss(x):
        valley = 0.6 * torch.exp(-((x[0] - at) ** 2) / 4)
        return 1 - valley - 0.2 * torch.sigmoid(10 * (x[0] - 8))

    return Objective(loss)


@pytest.mark.parametrize("starts", [(1.0, 10.0), (10.0, 1.0)])
def test_the_start_that_the_rehearsal_found_lowest_is_followed(starts):
    objective, rehearsal = with_valley(-1.0), with_valley(2.0)
    assert objective.log_value(np.array([2.0])) > objective.log_value(np.array([10.0])) + 0.02
    found = [np.array([start]) for start in starts]
    best = descend(objective, found, Descent([(-5.0, 12.0)], 50, 1e-8), rehearsal=rehearsal)
    assert best.x[0] == pytest.approx(-1.0, abs=1e-2)
