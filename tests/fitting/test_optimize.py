"""Descents: which starts survive a rehearsal."""

import numpy as np
import pytest
import torch

from sknw.fitting.minimize import Descent, Objective, Walk, descend, race


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


def counted(loss):
    """Return an objective with a memory, and how often each of its parameters was asked for."""
    asked = []

    def counting(x):
        asked.append(tuple(x.tolist()))
        return loss(x)

    return Objective(counting, memory={}), asked


def rosenbrock(x):
    return 1 + (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_a_race_goes_to_the_end_from_the_lowest_trial_and_computes_no_step_twice():
    descent = Descent([(-5.0, 5.0)] * 2, 100, 1e-12)
    near, asked_near = counted(rosenbrock)
    far, asked_far = counted(lambda x: rosenbrock(x) + 1)
    told = []
    walks = [
        Walk(far, np.array([-1.2, 1.0]), descent),
        Walk(near, np.array([0.5, 1.0]), descent, lambda step, loss, x: told.append(step)),
    ]
    index, end = race(walks, 5)
    assert index == 1
    np.testing.assert_allclose(end.x, 1, atol=1e-3)
    assert told == list(range(1, end.n_iter + 1))
    assert len(asked_near) == len(set(asked_near))
    assert len(asked_far) < len(asked_near)

    alone = Walk(counted(rosenbrock)[0], walks[1].start, descent).end()
    assert np.array_equal(alone.x, end.x)
    assert alone.curve == end.curve


def test_a_race_without_a_trial_goes_to_every_end():
    descent = Descent([(-5.0, 12.0)], 50, 1e-10)
    walks = [Walk(with_valley(at), np.array([1.0]), descent) for at in (2.0, -1.0, 5.0)]
    ends = [walk.end().objective for walk in walks]
    index, best = race(walks, None)
    assert (index, best.objective) == (int(np.argmin(ends)), min(ends))
