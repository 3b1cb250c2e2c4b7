"""The loss of scales in one node against the same through every kernel sum."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sknw import BandwidthSearch, NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.bandwidth import strategy
from sknw.bandwidth.criteria import CRITERIA
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.scale_loss import ScaleLoss
from sknw.kernels import KERNELS
from sknw.sums import PreparedSums
from sknw.sums.evaluators.registry import FUSED
from sknw.training.lbfgs import Lbfgs


def task_of(monkeypatch, n=700, d=3, *, kernel="gaussian", y_columns=1, dtype=torch.float64):
    """Return the problem that a fit makes."""
    found = []
    monkeypatch.setattr(LeaveOneOut, "of", _keeping(LeaveOneOut.of.__func__, found))
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)).astype(np.float32 if dtype == torch.float32 else float)
    y = np.sin(2 * X[:, :1]) + 0.3 * rng.normal(size=(n, y_columns))
    NadarayaWatsonRegressor("scott", kernel=kernel).fit(X, y, sample_weight=rng.uniform(1, 3, n))
    return found[0]


def _keeping(make, found):
    def of(cls, *arguments, **options):
        found.append(make(cls, *arguments, **options))
        return found[-1]

    return classmethod(of)


def value_and_gradient(task, scales):
    scales = torch.tensor(scales, dtype=torch.float64, requires_grad=True)
    loss = task.loss(task.rows, scales)
    (gradient,) = torch.autograd.grad(loss, scales)
    return loss.item(), gradient.numpy()


def both_ways(task, scales, monkeypatch):
    """Return value and gradient by the short and by the long way, and whether the short was one."""
    used, at = [], ScaleLoss.at

    def watched(*arguments):
        used.append(at(*arguments))
        return used[-1]

    with monkeypatch.context() as patch:
        patch.setattr(ScaleLoss, "at", watched)
        short = value_and_gradient(task, scales)
        patch.setattr(ScaleLoss, "at", lambda *_: None)
        long = value_and_gradient(task, scales)
    return short, long, any(loss is not None for loss in used)


@pytest.mark.parametrize("d", [1, 3, 5])
@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
@pytest.mark.skipif(
    not FUSED.accepts(KERNELS["gaussian"], torch.float64, torch.device("cpu")), reason="no numba"
)
def test_value_and_gradient(d, held_out, algorithm, monkeypatch):
    task = replace(task_of(monkeypatch, d=d), algorithm=algorithm)
    if held_out:
        task = task.holding_out_rows(torch.arange(3, 500, 2))
    scales = np.linspace(1.0, 3.0, d)
    (loss, gradient), (want, want_gradient), used = both_ways(task, scales, monkeypatch)
    assert used
    assert loss == pytest.approx(want, rel=1e-12)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-9, atol=1e-12)


def test_float32(monkeypatch):
    task = task_of(monkeypatch, dtype=torch.float32)
    (loss, gradient), (want, want_gradient), _ = both_ways(task, [1.0, 2.0, 0.5], monkeypatch)
    assert loss == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-3, atol=1e-5)


# windows so narrow that rows underflow, or empty; other kernels; several outputs
LEFT_TO_THE_SMOOTHER = {
    "rows done again": ({}, [300.0, 300.0, 300.0]),
    "other kernel": ({"kernel": "exponential"}, [1.0, 2.0, 3.0]),
    "empty": ({"kernel": "epanechnikov"}, [9.0, 9.0, 9.0]),
    "outputs": ({"y_columns": 2}, [1.0, 2.0, 3.0]),
    "few rows": ({"n": 40}, [1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("case", LEFT_TO_THE_SMOOTHER)
def test_what_is_out_of_the_ordinary_is_left_to_the_smoother(case, monkeypatch):
    options, scales = LEFT_TO_THE_SMOOTHER[case]
    task = task_of(monkeypatch, **options)
    (loss, gradient), (want, want_gradient), used = both_ways(task, scales, monkeypatch)
    assert not used
    assert loss == want
    np.testing.assert_array_equal(gradient, want_gradient)


def test_without_gradients_rows_done_again_are_fine(monkeypatch):
    task = task_of(monkeypatch)
    scales = torch.full((3,), 300.0, dtype=torch.float64)
    with torch.no_grad():
        loss = task.loss(task.rows, scales)
        errors = task.errors(task.predictions(task.rows, scales))
    want = task.mean(errors.square()) / task.variance
    assert loss.item() == pytest.approx(want.item(), rel=1e-12)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "tophat"])
@pytest.mark.parametrize("y_columns", [1, 2])
@pytest.mark.parametrize("n", [60, 400])
def test_several_losses_at_once_are_the_losses_one_by_one(kernel, y_columns, n, monkeypatch):
    task = task_of(monkeypatch, n=n, kernel=kernel, y_columns=y_columns)
    assert float(task.variance[0]) != pytest.approx(1, abs=0.1)
    # from broad windows to such as leave rows without mass
    scales = torch.tensor([[0.3] * 3, [1.0, 2.0, 0.1], [9.0] * 3, [900.0] * 3], dtype=torch.float64)
    one_by_one = torch.stack([task.loss(task.rows, at) for at in scales])
    np.testing.assert_allclose(task.losses(task.rows, scales), one_by_one, rtol=1e-10)


@pytest.mark.parametrize("policy", ["nearest", "mean"])
@pytest.mark.parametrize("held_out", [False, True])
def test_rows_without_mass_are_filled_in_the_same_pass(policy, held_out, monkeypatch):
    task = replace(task_of(monkeypatch, n=300, kernel="epanechnikov"), empty_neighborhood=policy)
    task = task.holding_out_rows(torch.arange(3, 200, 2)) if held_out else task
    scales, passes, sums = torch.tensor([9.0, 9.0, 9.0]), [], PreparedSums.sums
    monkeypatch.setattr(
        PreparedSums, "sums", lambda *arguments: passes.append(0) or sums(*arguments)
    )
    with torch.no_grad():
        found = task.loss(task.rows, scales.double())
        assert len(passes) == 1
        monkeypatch.setattr(ScaleLoss, "at", lambda *_: None)
        assert found.item() == pytest.approx(task.loss(task.rows, scales.double()).item(), 1e-12)


def test_no_second_derivative_is_claimed(monkeypatch):
    task = task_of(monkeypatch)
    scales = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(task.loss(task.rows, scales), scales, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


SEARCHES = {
    "a width for each": NadarayaWatsonRegressor(),
    "a common width": NadarayaWatsonRegressor(BandwidthSearch(per_feature=False)),
    "a category": NadarayaWatsonRegressor(categorical_features=[2]),
}


@pytest.mark.parametrize("model", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.skipif(
    not FUSED.accepts(KERNELS["gaussian"], torch.float64, torch.device("cpu")), reason="no numba"
)
def test_the_short_way_to_the_gradient_is_that_of_torch(model, monkeypatch):
    found = []

    def watched(task, plan, random_state):
        found.append((task, plan))
        return strategy.search(task, plan, random_state)

    monkeypatch.setattr("sknw.bandwidth.search.search", watched)
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(450, 2)), rng.integers(0, 4, 450)])
    y = np.sin(2 * X[:, 0]) + 0.3 * rng.normal(size=450)
    clone(model).fit(X, y, sample_weight=rng.uniform(0.5, 2, 450))
    ((task, plan),) = found
    assert_same_as_by_torch(plan.objective(task), task.widths.bounds)


def assert_same_as_by_torch(objective, bounds):
    by_torch = replace(objective, slope=None, losses=None, _seen={})
    low, high = np.transpose(bounds)
    points = [0.1 * low + 0.9 * high, high, 0.05 * low + 0.95 * high]
    for x in points:
        assert objective.slope(x) is not None
        value, gradient = objective.log_value_and_gradient(x)
        want, want_gradient = by_torch.log_value_and_gradient(x)
        assert value == pytest.approx(want, rel=1e-12)
        np.testing.assert_allclose(gradient, want_gradient, rtol=1e-9, atol=1e-13)
    assert objective.path[1] == by_torch.path[1]
    together, apart = objective.log_values(points), by_torch.log_values(points)
    np.testing.assert_allclose(together, apart, rtol=1e-10)


def test_where_the_short_way_finds_no_answer_torch_is_asked_once(monkeypatch):
    task, calls, known = task_of(monkeypatch), [], ScaleLoss.with_slope

    def watched(*arguments):
        calls.append(known(*arguments))
        return calls[-1]

    monkeypatch.setattr(ScaleLoss, "with_slope", watched)
    scales = torch.tensor([9000.0, -4000.0, 7000.0], dtype=torch.float64)  # rows without mass
    loss, slope = task.loss_and_slope(task.rows, scales)
    assert calls == [None]
    at = scales.clone().requires_grad_()
    want = task.loss(task.rows, at)
    (gradient,) = torch.autograd.grad(want, at)
    assert loss == pytest.approx(want.item(), rel=1e-12)
    np.testing.assert_allclose(slope, (gradient * scales).numpy(), rtol=1e-9, atol=1e-13)


TRAININGS = {
    "scalar": ("scalar", -0.3),
    "diagonal": ("diagonal", [0.5, -0.2, 0.9]),
    "a category": ("diagonal", [-0.5, 0.2, 0.9]),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("metric", "w_init"), TRAININGS.values(), ids=TRAININGS)
@pytest.mark.skipif(
    not FUSED.accepts(KERNELS["gaussian"], torch.float64, torch.device("cpu")), reason="no numba"
)
def test_the_short_way_to_a_metrics_gradient_is_that_of_torch(metric, w_init, request, monkeypatch):
    found, train = [], Lbfgs.train

    def watched(solver, problem, starts, *rest):
        found.append((problem, starts[0]))
        return train(solver, problem, starts, *rest)

    monkeypatch.setattr(Lbfgs, "train", watched)
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(450, 2)), rng.integers(0, 4, 450)])
    y = np.sin(2 * X[:, 0]) + 0.3 * rng.normal(size=450)
    categories = [2] if "category" in request.node.callspec.id else None
    ParametricNWRegressor(metric, w_init=w_init, max_iter=1, categorical_features=categories).fit(
        X, y, sample_weight=rng.uniform(0.5, 2, 450)
    )
    ((problem, start),) = found
    coordinates = problem.coordinates(start)
    assert_same_as_by_torch(problem.objective(coordinates), coordinates.bounds)
    penalised = replace(problem, alpha=0.1).objective(coordinates)
    assert penalised.log_value(coordinates.of(start)) > problem.objective(coordinates).log_value(
        coordinates.of(start)
    )


@pytest.mark.parametrize("criterion", ["loo_absolute", "aicc", "gcv"])
def test_other_criteria_have_no_short_way(criterion, monkeypatch):
    task = task_of(monkeypatch)
    scales = torch.ones(3, dtype=torch.float64)
    assert CRITERIA[criterion].loss_and_slope(task, scales) is None
