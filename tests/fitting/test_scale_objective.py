"""A criterion's gradient in closed form, against torch's own of the criterion written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sknw import NadarayaWatsonRegressor
from sknw.data.observations import Observations
from sknw.fitting.criteria import CRITERIA
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.parametrization import Scales, Widths
from sknw.fitting.scale_objective import CriterionOfScales, scale_objective
from sknw.kernels import KERNELS
from sknw.smoothing.method import Method
from sknw.support import tuning

SMOOTH = [name for name, kernel in KERNELS.items() if kernel.smooth]


def task_of(n=60, d=3, *, kernel="gaussian", n_outputs=1, ties=False, algorithm="dense"):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    if ties:
        X = X.round()
    y = np.sin(2 * X[:, :1]) + 0.3 * rng.normal(size=(n, n_outputs))
    return LeaveOneOut.of(
        Observations.of(X, y, rng.uniform(1, 3, n), duplicates="keep"),
        Method(KERNELS[kernel], algorithm, 1e-10),
        dtype=torch.float64,
        device="cpu",
    )


def written_out(task, criterion, scales):
    """The criterion of scales (q,) from the matrix of all pairs; differentiable."""
    rows = task.rows * scales
    steps = rows[:, None] - rows[None]
    weights = task.method.kernel.profile(steps.square().sum(dim=-1)) * task.weights
    itself = weights.diagonal()
    if not CRITERIA[criterion].counts_itself:
        weights = weights - torch.diag(itself)
    mass = weights.sum(dim=1)
    held_out = slice(None) if task.held_out is None else task.held_out
    errors = ((weights @ task.values) / mass[:, None] - task.values)[held_out]
    share = task.weights[held_out] / task.weights[held_out].sum()
    if criterion == "loo_absolute":
        return (share @ errors.abs() / task.targets.deviation).mean()
    squared = (share @ errors.square() / task.variance).mean()
    if criterion == "loo":
        return squared
    n = task.targets.effective_size
    trace = (itself / mass)[held_out].mean() * len(task)
    if criterion == "gcv":
        return squared / (1 - trace / n) ** 2
    return squared * torch.exp((1 + trace / n) / (1 - (trace + 2) / n))


def assert_equal(task, criterion, scales, rtol=1e-9):
    value, by_logs = CriterionOfScales(task, CRITERIA[criterion]).value_and_gradient(scales)
    at = torch.tensor(scales, requires_grad=True)
    expected = written_out(task, criterion, at)
    (gradient,) = torch.autograd.grad(expected, at)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    expected = gradient.numpy() * scales
    np.testing.assert_allclose(by_logs, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("kernel", SMOOTH)
def test_every_kernel_and_criterion(kernel, criterion):
    assert_equal(task_of(kernel=kernel), criterion, np.array([0.5, 0.4, 0.2]))


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_outputs_ties_and_rows_held_out(criterion, ties, held_out, n_outputs):
    task = task_of(n_outputs=n_outputs, ties=ties)
    assert (task.cells is not None) == ties
    if held_out:
        task = replace(task, held_out=torch.arange(3, 50, 2))
    assert_equal(task, criterion, np.array([1.0, 2.0, 0.5]))


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("algorithm", ["dense", "blocks", "nufft"])
def test_every_algorithm(criterion, algorithm):
    if algorithm == "nufft":
        pytest.importorskip("finufft")
    task = task_of(n=300, d=2, algorithm=algorithm)
    assert_equal(task, criterion, np.array([1.0, 2.0]), rtol=1e-7)


@pytest.mark.parametrize("criterion", ["loo", "loo_absolute"])
def test_rows_whose_plain_sums_underflow(criterion):
    """Their sums are relative to the nearest key, and so is the gradient by the sums."""
    task, scales = task_of(), np.array([40.0, 30.0, 60.0])
    value, by_logs = CriterionOfScales(task, CRITERIA[criterion]).value_and_gradient(scales)
    rows = (task.rows * torch.as_tensor(scales)).numpy()
    squared = np.square(rows[:, None] - rows[None])
    squared[np.arange(60), np.arange(60)] = np.inf
    total = squared.sum(axis=2)
    assert (total.min(axis=1) > 1500).any()

    def reference(log_steps):
        at = (squared * np.exp(2 * log_steps)).sum(axis=2)
        weights = np.exp(-(at - at.min(axis=1, keepdims=True)) / 2) * task.weights.numpy()
        errors = (weights @ task.values.numpy()) / weights.sum(axis=1)[
            :, None
        ] - task.values.numpy()
        share = (task.weights / task.weights.sum()).numpy()
        if criterion == "loo":
            return share @ np.square(errors[:, 0]) / task.variance.item()
        return share @ np.abs(errors[:, 0]) / task.targets.deviation.item()

    assert value == pytest.approx(reference(np.zeros(3)), rel=1e-12)
    for index in range(3):
        step = 1e-6 * np.eye(3)[index]
        slope = (reference(step) - reference(-step)) / 2e-6
        assert by_logs[index] == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("policy", ["nearest", "mean"])
def test_empty_rows_have_the_value_of_the_policy_and_no_gradient(policy):
    plain = task_of(kernel="epanechnikov")
    task = replace(plain, method=replace(plain.method, empty_neighborhood=policy))
    scales = np.array([3.0, 3.0, 3.0])
    value, by_logs = CriterionOfScales(task, CRITERIA["loo"]).value_and_gradient(scales)
    model = NadarayaWatsonRegressor(1 / scales, kernel="epanechnikov", empty_neighborhood=policy)
    y = task.values[:, 0].numpy()
    with pytest.warns(UserWarning, match="neighbo"):
        predicted = model.fit(task.rows.numpy(), y, task.weights.numpy()).predict_loo()
    share = (task.weights / task.weights.sum()).numpy()
    assert value == pytest.approx(share @ np.square(predicted - y) / task.variance.item(), rel=1e-9)
    slopes = []
    for index in range(3):
        step = np.exp(1e-6 * np.eye(3)[index])
        ahead, behind = CriterionOfScales(task, CRITERIA["loo"]).values(
            np.array([scales * step, scales / step])
        )
        slopes.append((ahead - behind) / 2e-6)
    np.testing.assert_allclose(by_logs, slopes, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("kernel", ["gaussian", "tophat"])
def test_several_scales_at_once_are_the_same_one_by_one(criterion, kernel):
    of_scales = CriterionOfScales(task_of(kernel=kernel, n_outputs=2), CRITERIA[criterion])
    # from broad windows to such as leave rows without mass
    scales = np.array([[0.3] * 3, [1.0, 2.0, 0.1], [3.0] * 3])
    together = of_scales.values(scales)
    with tuning.override(PAIRS_AT_ONCE=0):
        apart = of_scales.values(scales)
    np.testing.assert_allclose(together, apart, rtol=1e-10)
    one_by_one = [of_scales.value_and_gradient(at)[0] for at in scales]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-10)


def test_float32_has_the_same_gradient_to_its_digits():
    task, scales = task_of(n=200), np.array([1.0, 2.0, 0.5])
    (value, by_logs), (single, by_logs_single) = (
        CriterionOfScales(at, CRITERIA["loo"]).value_and_gradient(scales)
        for at in (task, task.single())
    )
    assert single == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(by_logs_single, by_logs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shared", [None, [0, 0, 0], [0, 1, 0]])
def test_coordinates_carry_the_gradient_to_widths_one_each_or_shared(shared):
    task = task_of()
    shared = None if shared is None else np.array(shared)
    scales = Scales.of(Widths.of(task.observations, task.method.kernel), np.arange(3), shared)
    objective = scale_objective(task, CRITERIA["loo"], scales)
    x = scales.widths.coordinates(0.6 * np.ones(len(scales)) + 0.1 * np.arange(len(scales)))
    value, gradient = objective.log_value_and_gradient(x)
    steps = 1e-6 * np.eye(len(x))
    slopes = [(objective.log_value(x + s) - objective.log_value(x - s)) / 2e-6 for s in steps]
    assert value == pytest.approx(objective.log_value(x), rel=1e-12)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-8)


def test_a_penalty_counts_in_what_is_minimised_and_not_in_what_is_reported():
    task = task_of()
    scales = Scales.of(Widths.of(task.observations, task.method.kernel), np.arange(3))
    plain = scale_objective(task, CRITERIA["loo"], scales)
    x = scales.widths.coordinates(np.ones(3))
    penalised = scale_objective(task, CRITERIA["loo"], scales, penalty=lambda x: (0.5 * x @ x, x))
    (value, gradient), loss = plain.log_value_and_gradient(x), plain.reported(x)
    total, of_total = penalised.log_value_and_gradient(x)
    assert total == pytest.approx(np.log(loss + 0.5 * x @ x), rel=1e-12)
    np.testing.assert_allclose(of_total, (gradient * np.exp(value) + x) / np.exp(total))
    assert penalised.reported(x) == pytest.approx(loss, rel=1e-14)
