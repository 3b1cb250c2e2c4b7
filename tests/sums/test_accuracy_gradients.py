"""Gradients of every algorithm against float64 autograd of the explicit matrix.

Errors are relative to the largest entry of the gradient. Exact sums have rounding only, about
1e-12. Sums to a tolerance are asked for a thousandth of it where gradients follow, so theirs stay
within `rtol` too, however the rows' masses differ.
"""

from itertools import product

import numpy as np
import pytest
import reference
import torch
from designs import name_of, pairwise
from evaluation import done_by

from sknw.bandwidth import CRITERIA
from sknw.data.observations import Observations
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.parametrization import Scales, Widths
from sknw.fitting.scale_objective import scale_objective
from sknw.fitting.subsets import hold_out
from sknw.kernels import KERNELS
from sknw.smoothing.method import Method
from sknw.smoothing.smooth import smooth
from sknw.sums import kernel_sums
from sknw.sums.algorithms import fourier
from sknw.sums.evaluators import registry as evaluators_module

LIGHT_TAILED = reference.INFINITE_SUPPORT
ROUNDING = 1e-11
HAS_FUSED = evaluators_module.FUSED.accepts(KERNELS["gaussian"], torch.float64, torch.device("cpu"))
needs_fused = pytest.mark.skipif(not HAS_FUSED, reason="numba is not installed")
needs_finufft = pytest.mark.skipif(not fourier.available(), reason="finufft is not installed")
WAYS = [
    pytest.param((algorithm, evaluator), id=f"{algorithm}-{evaluator}", marks=marks)
    for algorithm, evaluator, marks in [
        ("dense", "torch", []),
        ("dense", "fused", [needs_fused]),
        ("blocks", "torch", []),
        ("blocks", "fused", [needs_fused]),
        ("nufft", "torch", [needs_finufft]),
        ("nufft", "fused", [needs_finufft, needs_fused]),
    ]
]
OF_ONE_FEATURE = pytest.param(("sorted", "fused"), marks=needs_fused)
EXACT_WAYS = [way.values[0] for way in WAYS if way.values[0][0] != "nufft"]
MODES = ["leave-one-out", "exclude", "queries"]


def _search_objective(task):
    """What a bandwidth search descends on."""
    return scale_objective(task, CRITERIA["loo"], widths_of(task))


def widths_of(task):
    ranges = Widths.of(task.observations, task.method.kernel)
    return Scales.of(ranges, np.arange(task.rows.shape[1]))


# With the kernels that each way knows, and with those that never reach zero.
WAYS_BY_KERNEL, WAYS_OF_TAILS = (
    [
        pytest.param(name, *way.values, id=f"{name}-{way.id}", marks=way.marks)
        for name in names
        for way in WAYS
        if name == "gaussian" or way.values[0][0] != "nufft"
    ]
    for names in (KERNELS, LIGHT_TAILED)
)


# --- the explicit matrix -------------------------------------------------------------------------


def log_profile(name, sq):
    """The logarithm of a kernel as plain torch operations; minus infinity outside its support."""
    u = sq.clamp_min(1e-300).sqrt()
    if name in LIGHT_TAILED:
        return -sq / 2 if name == "gaussian" else -u
    inside = sq < 1
    u = torch.where(inside, u, 0.5)
    return torch.where(inside, reference.COMPACT_PROFILES[name](u).log(), -torch.inf)


def explicit_means(name, queries, keys, columns, left_out=None):
    """Ratios (b, m, k − 1) of sums, each row's weights relative to its largest."""
    log_weights = log_profile(name, (queries[:, :, None] - keys[:, None]).square().sum(-1))
    if left_out is not None:
        log_weights = log_weights.masked_fill(left_out, -torch.inf)
    in_use = log_weights.masked_fill(columns[:, :1] == 0, -torch.inf)
    largest = in_use.detach().amax(-1, keepdim=True)
    weights = torch.exp(log_weights - largest.masked_fill(largest == -torch.inf, 0.0))
    return means_of(weights @ columns.mT)


def means_of(sums):
    return sums[..., 1:] / (sums[..., :1] + (sums[..., :1] == 0))


def gradients(means, inputs):
    """Gradients of a loss that looks at every mean differently."""
    factors = torch.linspace(-1, 2, means.shape[1], dtype=torch.float64)[:, None]
    loss = (means * factors).sin().sum()
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


# --- the problems --------------------------------------------------------------------------------


class Problem:
    """Keys, queries and columns, and which key each query leaves out."""

    def __init__(self, name, mode, d, scale, *, tails=False, batch=2, n=120, m=50):
        generator = torch.Generator().manual_seed(d)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.name, self.mode = name, mode
        keys, queries = scale * normal(batch, n, d), scale * normal(batch, m, d)
        if tails and mode == "leave-one-out":
            keys[:, :2] += 50.0
            keys[:, 2] -= 70.0
        elif tails:  # beside the keys, and so far that |q|² swallows their differences
            queries[:, :3] += torch.tensor([-30.0, 50.0, 300.0])[:, None]
        self.columns = normal(batch, 3, n)
        self.columns[:, 0] = 10 ** (-3 * torch.rand(n, generator=generator, dtype=torch.float64))
        self.columns[:, 1:] *= self.columns[:, :1]
        self.exclude, self.left_out = None, None
        if mode == "leave-one-out":
            self.left_out = torch.eye(n, dtype=torch.bool)
        elif mode == "exclude":
            chosen = torch.randperm(n, generator=generator)[:m]
            self.exclude = torch.where(torch.arange(m) % 4 == 0, -1, chosen)
            self.left_out = self.exclude[:, None] == torch.arange(n)
        self.keys, self.queries = keys, queries

    def inputs(self):
        """Fresh leaves: queries (unless they are the keys), keys and columns."""
        leaves = (self.keys, self.columns)
        if self.mode != "leave-one-out":
            leaves = (self.queries, *leaves)
        return [leaf.clone().requires_grad_() for leaf in leaves]

    def expected(self):
        inputs = self.inputs()
        queries = inputs[0]  # which in leave-one-out are the keys
        means = explicit_means(self.name, queries, *inputs[-2:], self.left_out)
        return [torch.nan_to_num(g) for g in gradients(means, inputs)]

    def found(self, algorithm, rtol):
        inputs = self.inputs()
        queries = None if self.mode == "leave-one-out" else inputs[0]
        sums = kernel_sums(
            KERNELS[self.name],
            queries,
            *inputs[-2:],
            exclude=self.exclude,
            algorithm=algorithm,
            rtol=rtol,
        )
        return gradients(means_of(sums.sums), inputs), sums.report

    def assert_alike(self, algorithm, rtol):
        found, report = self.found(algorithm, rtol)
        allowed = ROUNDING + (0 if algorithm == "dense" else rtol)
        for got, want in zip(found, self.expected(), strict=True):
            error, largest = float((got - want).abs().max()), float(want.abs().max())
            assert error <= allowed * largest
        return report


def scales_of(name):
    return (0.3, 1.0, 20.0) if name in LIGHT_TAILED else (0.1, 0.3, 0.6)


# --- kernel sums ---------------------------------------------------------------------------------


# Every kernel by every way with every mode; and with every number of features, in turn.
MATRICES = [
    (name, way, mode, d)
    for (name, way), mode, d in pairwise(list(product(KERNELS, EXACT_WAYS)), MODES, [1, 2, 5])
]


@pytest.mark.parametrize(("name", "way", "mode", "d"), MATRICES, ids=name_of)
def test_gradients_are_those_of_the_matrix(name, d, mode, way):
    narrow, medium, broad = zip(scales_of(name), (1e-10, 1e-6, 1e-3), strict=True)
    with done_by(way[1], pruned=True):
        for scale, rtol in {1: (narrow, medium), 2: (medium, broad), 5: (broad, narrow)}[d]:
            problem = Problem(name, mode, d, scale, n=80, m=40)
            report = problem.assert_alike(way[0], rtol)
            assert report["evaluator"] == way[1]


@pytest.mark.parametrize("way", WAYS[:4])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("name", LIGHT_TAILED)
def test_gradients_of_rows_in_the_deep_tail(name, pruned, mode, way):
    with done_by(way[1], pruned=pruned):
        for d, rtol in ((1, 1e-3), (3, 1e-8)):
            report = Problem(name, mode, d, 1.0, tails=True).assert_alike(way[0], rtol)
            assert (report["rows_redone"] > 0) == (name == "gaussian")


@pytest.mark.parametrize("way", WAYS[4:])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tails", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_gradients_by_transforms(d, tails, mode, way):
    scales = (0.3, 1.0, 4.0)[: 4 - d] if not tails else (1.0,)[: 3 - d]
    with done_by(way[1], pruned=True):
        for scale, rtol in zip(scales, (1e-3, 1e-6, 1e-10), strict=False):
            report = Problem("gaussian", mode, d, scale, tails=tails, batch=1).assert_alike(
                "nufft", rtol
            )
            assert report["algorithm"] == "nufft"
            assert (report["rows_redone"] > 0) >= tails


@needs_fused
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in KERNELS if name != "gaussian"])
def test_gradients_of_sorted_keys(name, mode):
    with done_by("fused", pruned=True):
        for scale in scales_of(name):
            report = Problem(name, mode, 1, scale).assert_alike("sorted", 0)
            assert report["algorithm"] == "sorted"
            assert report["share_of_pairs"] == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_keys_without_weight_have_a_gradient(mode, way):
    """Also in rows that are done again exactly: of which a transform has many in the tails."""
    problem = Problem("gaussian", mode, 1, 3.0, batch=1)
    problem.columns[:, :, problem.keys[0, :, 0].abs() > 4.0] = 0
    with done_by(way[1], pruned=True):
        problem.assert_alike(way[0], 1e-8)


# --- means ---------------------------------------------------------------------------------------


# Modes in turn: every kernel and every way meets each of them.
MEANS = [
    pytest.param(*way.values, MODES[i % 3], id=f"{way.id}-{MODES[i % 3]}", marks=way.marks)
    for i, way in enumerate(WAYS_BY_KERNEL)
]


@pytest.mark.parametrize(("name", "way", "mode"), MEANS)
def test_gradients_of_means(name, mode, way):
    """Through values and weights, rows without a neighbour included: the nearest key's value."""
    problem = Problem(name, mode, 2, 0.6)
    if name not in LIGHT_TAILED:
        problem.queries[:, :2] += 30.0
        problem.keys[:, :1] -= 10.0
    problem.columns[:, 1:] /= problem.columns[:, :1]

    def of(function):
        *queries, keys, columns = inputs = problem.inputs()
        return gradients(function(queries[0] if queries else None, keys, columns), inputs)

    def mine(queries, keys, columns):
        values, weights = columns[:, 1:].mT, columns[:, 0]
        return smooth(
            Method(KERNELS[name], way[0]),
            queries,
            keys,
            values,
            weights,
            exclude=problem.exclude,
        )

    def explicit(queries, keys, columns):
        weights, values = columns[:, :1], columns[:, 1:]
        wide = torch.cat([weights, weights * values], dim=1)
        queries = keys if queries is None else queries
        means = explicit_means(name, queries, keys, wide, problem.left_out)
        sq = (queries[:, :, None] - keys[:, None]).detach().square().sum(-1)
        if problem.left_out is not None:
            sq = sq.masked_fill(problem.left_out, torch.inf)
        empty = (sq >= 1).all(-1) & (name not in LIGHT_TAILED)
        nearest = values.gather(2, sq.argmin(-1)[:, None].expand(-1, 2, -1)).mT
        return torch.where(empty[..., None], nearest, means)

    with done_by(way[1], pruned=True):
        found = of(mine)
    for got, want in zip(found, of(explicit), strict=True):
        want = torch.nan_to_num(want)
        error, largest = float((got - want).abs().max()), float(want.abs().max())
        assert error <= 1e-8 * largest


# --- the leave-one-out loss in log-bandwidths ----------------------------------------------------


def task_of(algorithm, *, kernel="gaussian", d=2, n=150, rtol=1e-8, tails=False):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    if tails:
        X[:3] += 40.0
    y = np.sin(2 * X[:, :1]) + 0.2 * rng.normal(size=(n, 1))
    weights = rng.choice([1e-3, 1.0, 3.0], size=n)
    return LeaveOneOut.of(
        Observations.of(X, y, weights),
        Method(KERNELS[kernel], algorithm, rtol),
        dtype=torch.float64,
        device="cpu",
    )


def expected_loss(task, coordinates):
    """The loss by `reference`, over the rows that are held out (all, if none are)."""
    bandwidth = widths_of(task).widths.values(coordinates)
    X, y, weights = (t.numpy() for t in (task.rows, task.values, task.weights))
    loo = reference.predict_loo(task.method.kernel.name, X, y, bandwidth, weights)
    held_out = np.arange(len(X)) if task.held_out is None else task.held_out.numpy()
    errors = np.square(loo - y)[held_out]
    return np.average(errors[:, 0], weights=weights[held_out]) / task.variance.item()


def log_gradient(function, coordinates, step=1e-4):
    """Gradient of the logarithm of a function, by fourth-order differences."""

    def slope(i):
        at = [np.log(function(coordinates + k * step * np.eye(len(coordinates))[i]))
              for k in (-2, -1, 1, 2)]  # fmt: skip
        return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)

    return np.array([slope(i) for i in range(len(coordinates))])


# Every way at every bandwidth; all rows and some held out in turn, so that either meets both.
LOSSES = [
    pytest.param(
        *way.values, multiple, bool((i + j) % 2), id=f"{way.id}-{multiple}", marks=way.marks
    )
    for i, way in enumerate(WAYS_OF_TAILS)
    for j, multiple in enumerate((0.05, 0.3, 3.0))
]


@pytest.mark.parametrize(("kernel", "way", "multiple", "held_out"), LOSSES)
def test_the_loss_has_the_gradient_of_the_reference(kernel, multiple, held_out, way):
    task = task_of(way[0], kernel=kernel, tails=way[0] != "nufft")
    if held_out:
        task = hold_out(task, 40, np.random.RandomState(0))
    coordinates = widths_of(task).widths.coordinates(
        multiple * task.observations.extent.typical_deviation
    )
    with done_by(way[1], pruned=True):
        value, gradient = _search_objective(task).log_value_and_gradient(coordinates)
    expected = log_gradient(lambda x: expected_loss(task, x), coordinates)
    assert value == pytest.approx(np.log(expected_loss(task, coordinates)), abs=1e-7)
    # differences of the reference are good to about 1e-9
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("kernel", "held_out", "d"), pairwise(list(KERNELS), [False, True], [1, 2, 3])
)
def test_every_way_finds_the_same_gradient_of_the_loss(d, held_out, kernel):
    found = {}
    for parameter in (*WAYS, OF_ONE_FEATURE):
        way = parameter.values[0]
        if any(mark.args[0] for mark in parameter.marks):
            continue
        if way[0] == "sorted" and (kernel == "gaussian" or d > 1):
            continue
        if way[0] == "nufft" and (kernel != "gaussian" or d == 3):
            continue
        task = task_of(way[0], kernel=kernel, d=d)
        if held_out:
            task = hold_out(task, 40, np.random.RandomState(0))
        coordinates = widths_of(task).widths.coordinates(
            0.7 * task.observations.extent.typical_deviation
        )
        with done_by(way[1], pruned=True):
            found[way] = np.hstack(_search_objective(task).log_value_and_gradient(coordinates))
    first = found["dense", "torch"]
    for other in found.values():
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-8 * np.abs(first).max())
