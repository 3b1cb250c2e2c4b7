"""The one search: which starts a round keeps, what the next one does with them, and its steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sknw.fitting.minimize import Level, Minimum, Start, descend, line_search, minimize, refined
from sknw.fitting.objective import Objective
from sknw.fitting.schedule import Round, schedule
from sknw.support import tuning


def by_torch(loss):
    """The objective of a loss that torch differentiates: a tensor (p,) to a scalar."""

    def losses(points):
        return np.array([loss(torch.tensor(point)).item() for point in points])

    def loss_and_gradient(x):
        parameters = torch.tensor(x, requires_grad=True)
        value = loss(parameters)
        (gradient,) = torch.autograd.grad(value, parameters)
        return value.item(), gradient.numpy()

    return Objective(losses, loss_and_gradient)


class Box:
    """Coordinates between bounds, which a factor divides."""

    def __init__(self, *bounds):
        self.bounds = list(bounds)


def with_valley(at):
    """Return an objective with a valley there, and a lower-lying plain that leads nowhere."""

    def loss(x):
        valley = 0.6 * torch.exp(-((x[0] - at) ** 2) / 4)
        return 1 - valley - 0.2 * torch.sigmoid(10 * (x[0] - 8))

    return by_torch(loss)


def rosenbrock(x):
    return 1 + (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def counted(loss):
    """Return an objective, and the parameters that it was asked for."""
    asked = []

    def counting(x):
        asked.append(tuple(x.tolist()))
        return loss(x)

    return by_torch(counting), asked


@pytest.mark.parametrize("starts", [(1.0, 10.0), (10.0, 1.0)])
def test_the_start_that_a_cheap_round_found_lowest_is_followed(starts):
    objective, cheap, box = with_valley(-1.0), with_valley(2.0), Box((-5.0, 12.0))
    assert objective.log_value(np.array([2.0])) > objective.log_value(np.array([10.0])) + 0.02
    levels = [Level(lambda _: cheap, 40, 1e-5, keep=4), Level(lambda _: objective, 50, 1e-8)]
    best = minimize(levels, [Start(np.array([start]), box) for start in starts])
    assert best.x[0] == pytest.approx(-1.0, abs=1e-2)
    assert best.objective is objective


def test_a_round_begins_where_ends_are_transferred_to():
    cheap, objective, box = with_valley(2.0), with_valley(1.0), Box((-5.0, 12.0))
    seen = []

    def transfer(coordinates, x):
        seen.append((coordinates, x[0]))
        return x / 2

    levels = [
        Level(lambda _: cheap, 40, 1e-9),
        Level(lambda _: objective, 50, 1e-9, transfer=transfer),
    ]
    best = minimize(levels, [Start(np.array([1.5]), box)])
    assert seen == [(box, pytest.approx(2.0, abs=1e-3))]
    assert best.start[0] == pytest.approx(1.0, abs=1e-3)


def test_only_the_lowest_goes_on_from_a_trial_and_its_steps_count_on():
    box = Box((-5.0, 5.0), (-5.0, 5.0))
    near, asked_near = counted(rosenbrock)
    far, asked_far = counted(lambda x: rosenbrock(x) + 1)
    boxes = {id(box): near}
    other = Box(*box.bounds)
    boxes[id(other)] = far
    told = []
    levels = [Level(lambda at: boxes[id(at)], 5, 0), Level(None, 100, 1e-12)]
    starts = [Start(np.array([-1.2, 1.0]), other), Start(np.array([0.5, 1.0]), box)]
    best = minimize(levels, starts, lambda step, loss, x, at: told.append((at is box, step)))
    assert best.coordinates is box
    np.testing.assert_allclose(best.x, 1, atol=1e-3)
    assert best.began == 5
    assert told == [
        *((False, step) for step in range(1, 6)),
        *((True, step) for step in range(1, best.n_iter + 1)),
    ]
    assert len(asked_far) < len(asked_near)


def test_a_round_on_the_same_objective_takes_no_more_steps_than_allowed_in_all():
    box, objective = Box((-5.0, 5.0), (-5.0, 5.0)), by_torch(rosenbrock)
    levels = [Level(lambda _: objective, 5, 0), Level(None, 5, 1e-12)]
    best = minimize(levels, [Start(np.array([-1.2, 1.0]), box)])
    assert best.n_iter == 5
    assert not best.converged


def test_distinct_ends_are_kept_and_the_lowest_is_returned():
    def two_valleys(x):
        return 2 - torch.exp(-((x[0] + 2) ** 2)) - 1.01 * torch.exp(-((x[0] - 2) ** 2))

    box, objective = Box((-5.0, 5.0)), by_torch(two_valleys)
    levels = [Level(lambda _: objective, 3, 1e-3, keep=4), Level(None, 50, 1e-12)]
    begun = []
    starts = [Start(np.array([x]), box) for x in (-1.6, -1.5, 1.5)]
    best = minimize(levels, starts, lambda step, loss, x, at: begun.append(step))
    assert best.x[0] == pytest.approx(2.0, abs=1e-3)


def test_a_step_that_is_told_stop_ends_its_descent():
    box, objective = Box((-5.0, 5.0), (-5.0, 5.0)), by_torch(rosenbrock)
    start = Start(np.array([-1.2, 1.0]), box)
    best = minimize([Level(lambda _: objective, 50, 0)], [start], lambda step, *_: step == 3)
    assert best.n_iter == 3


def test_a_descent_with_a_memory_is_walked_again_without_an_evaluation():
    box = Box((-5.0, 5.0), (-5.0, 5.0))
    objective, asked = counted(rosenbrock)
    first = replace(objective, memory={}, _seen={})
    start = np.array([-1.2, 1.0])
    half = minimize([Level(lambda _: first, 10, 0)], [Start(start, box)])
    n_asked = len(asked)
    again = replace(objective, memory=first.memory, _seen={})
    begun = Minimum(start, np.inf, [np.nan], False, box, again, start)
    whole = descend(Level(None, 20, 0), begun)
    assert len(asked) > n_asked
    assert not set(asked[:n_asked]) & set(asked[n_asked:])
    assert whole.curve[:10] == half.curve[:10]
    fresh = by_torch(rosenbrock)
    straight = minimize([Level(lambda _: fresh, 20, 0)], [Start(start, box)])
    np.testing.assert_array_equal(whole.x, straight.x)


def test_a_search_without_gradients_goes_on_from_a_kink():
    box, objective = Box((-4.0, 4.0)), by_torch(lambda x: 1 + (x[0].round() - 1).abs())
    x = np.zeros(1)
    stuck = Minimum(x, objective.log_value(x), [2.0], True, box, objective, start=x)
    assert refined(stuck, 0) is stuck
    assert refined(stuck, 100).value == objective.log_value(np.ones(1))


@pytest.mark.parametrize("start", [-3.0, 0.1, 2.0, 4.9])
@pytest.mark.parametrize("lowest", [-2.0, 0.3, 4.99])
def test_a_line_search_walks_to_the_minimum(start, lowest):
    objective = by_torch(lambda x: 1 + (x[0] - lowest).square())
    found = line_search(objective, Start(np.array([start]), Box((-4.0, 5.0))))
    assert found.converged
    assert found.x[0] == pytest.approx(lowest, abs=1e-3)


def test_a_line_search_may_end_at_a_bound():
    box, objective = Box((-1.5, 5.0)), by_torch(lambda x: 2 + x[0].exp())
    found = line_search(objective, Start(np.zeros(1), box))
    assert found.converged
    assert found.x[0] == pytest.approx(-1.5, abs=1e-3)


# --- the schedule --------------------------------------------------------------------------------


def test_every_schedule_ends_with_all_rows_as_neighbours():
    for kind in ("bandwidths", "scales", "weights"):
        for n in (10, 1000, 10_000, 100_000):
            *_, last = schedule(kind, n, 3, is_single=False)
            assert last.rows is None
            assert last.max_iter is None


def test_a_schedule_follows_the_table_of_thresholds():
    assert schedule("weights", 300, 3, is_single=False) == [Round()]
    with tuning.override(ROWS_OF_TRIALS=200, TRIAL_STEPS=7):
        assert schedule("weights", 300, 3, is_single=False) == [Round(max_iter=7), Round()]
    with tuning.override(MANY_ROWS=200, HELD_OUT_IN_TRAINING=50):
        assert [at.held_out for at in schedule("scales", 300, 3, is_single=False)] == [
            None,
            50,
            None,
        ]
        assert [at.rows for at in schedule("bandwidths", 300, 3, is_single=False)] == [
            400,
            4000,
            None,
        ]


def test_narrow_features_and_single_widths_take_more_rows_to_screen():
    assert schedule("scales", 5000, 3, is_single=False)[0].rows == 400
    assert schedule("scales", 5000, 40, is_single=False)[0].rows == 1000
    assert schedule("bandwidths", 5000, 1, is_single=True)[0].rows == 2000
