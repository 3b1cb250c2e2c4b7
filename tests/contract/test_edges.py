"""Edges of windows: a distance that equals the bandwidth up to rounding is outside, in every path.

Whole numbers, tenths, grids and seconds of an epoch put many rows exactly at the edge of a compact
kernel's support, where rounding decided before, and rows far away changed it.
"""

import numpy as np
import pytest
import reference
import torch
from designs import name_of, pairwise
from evaluation import done_by

from sknw import NadarayaWatsonRegressor, NeighborBandwidth, ParametricNWRegressor
from sknw.functional import attention_pooling
from sknw.kernels import KERNELS
from sknw.sums.evaluators.registry import TORCH
from sknw.sums.evaluators.torch import Tile

pytestmark = pytest.mark.filterwarnings("ignore::sknw.support.warnings.EmptyNeighborhoodWarning")

COMPACT = sorted(reference.COMPACT_PROFILES)


def open_step(u):
    """A tophat, as a user would write it for torch and for numpy."""
    return (u < 1) * 1.0


def closed_step(u):
    """One whose edge belongs to it."""
    return (u <= 1) * 1.0


def far_majority():
    near, far = 0.25 * np.arange(20), 1e9 + np.arange(60)
    return np.concatenate([near, far])[:, None], near[:, None]


def grid(side, d):
    return np.stack(np.meshgrid(*[np.arange(float(side))] * d), axis=-1).reshape(-1, d)


LINE = np.arange(30.0)[:, None]
SECONDS = 1.7e9 + 60 * LINE
# rows, queries and bandwidth: many pairs exactly one bandwidth apart
PROBLEMS = {
    "whole numbers": (LINE, LINE, 3.0),
    "tenths by 0.3": (0.1 * LINE, 0.1 * LINE, 0.3),
    "tenths by 0.7": (0.1 * LINE, 0.1 * LINE + 0.7, 0.7),
    "seconds": (SECONDS, SECONDS, 300.0),
    "seconds and tenths": (
        np.hstack([SECONDS, 0.1 * (LINE % 7)]),
        np.hstack([SECONDS, 0.1 * (LINE % 5)]),
        [300.0, 0.3],
    ),
    "tenths far from zero": (1e9 + 0.1 * LINE, 1e9 + 0.1 * LINE, 1.0),
    "whole numbers far from zero": (1e9 + LINE, 1e9 + LINE, 1.0),
    "a far row": (np.vstack([LINE, [[1e9 + 0.3]]]), LINE, 3.0),
    "a far row of tenths": (np.vstack([0.1 * LINE, [[-1e7]]]), 0.1 * LINE, 0.3),
    "most rows far away": (*far_majority(), 0.75),
    "grid of steps": (grid(7, 2), grid(7, 2), 1.0),
    "grid of tenths": (0.1 * grid(7, 2), 0.1 * grid(7, 2), 0.3),
    "3, 4 and 5": (grid(9, 2), grid(9, 2), 5.0),
    "five features": (0.1 * grid(3, 5), 0.1 * grid(3, 5)[::7], 0.2),
    "an own bandwidth each": (grid(7, 2) * [0.1, 60.0], grid(7, 2) * [0.1, 60.0], [0.2, 120.0]),
    "single precision": (
        np.float32(0.1) * LINE.astype(np.float32),
        np.float32(0.1) * LINE.astype(np.float32),
        0.3,
    ),
    "single precision, grid": (
        np.float32(0.1) * grid(7, 2).astype(np.float32),
        np.float32(0.1) * grid(7, 2).astype(np.float32),
        0.3,
    ),
}
WAYS = [("dense", "torch"), ("dense", "fused"), ("blocks", "torch"), ("blocks", "fused")]
DTYPES = [torch.float64, torch.float32]


@pytest.fixture(params=WAYS, ids="-".join)
def way(request):
    """An algorithm, and who evaluates its tiles."""
    algorithm, evaluator = request.param
    with done_by(evaluator):
        yield algorithm


def fitted(problem, kernel, **settings):
    rows, _, bandwidth = PROBLEMS[problem]
    y = np.sin(np.arange(len(rows)) ** 1.5)
    return NadarayaWatsonRegressor(bandwidth, kernel=kernel, **settings).fit(rows, y), y


def tolerance(problem):
    """What rounding of centred coordinates may do to weights."""
    if problem.startswith("single"):
        return 2e-5
    # centred far away, tenths keep few digits
    return 2e-6 if "far" in problem or "seconds" in problem else 1e-12


@pytest.mark.parametrize(
    ("problem", "kernel", "way"),
    pairwise(list(PROBLEMS), COMPACT, WAYS),
    indirect=["way"],
    ids=name_of,
)
def test_every_answer_decides_edges_as_the_reference(problem, kernel, way):
    rows, queries, bandwidth = PROBLEMS[problem]
    model, y = fitted(problem, kernel, algorithm=way, empty_neighborhood="nan")
    atol = tolerance(problem)
    expected = reference.weights(kernel, queries, rows, bandwidth)
    found = model.attention_weights(queries)
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(np.nan_to_num(found), expected, atol=atol)
    means = reference.predict(kernel, queries, rows, y, bandwidth, empty="nan")
    np.testing.assert_allclose(model.predict(queries), means, atol=10 * atol)
    np.testing.assert_allclose(
        model.effective_neighbors(queries),
        reference.effective_neighbors(kernel, queries, rows, bandwidth),
        atol=100 * atol,
    )
    others = reference.predict_loo(kernel, rows, y, bandwidth, empty="nan")
    np.testing.assert_allclose(model.predict_loo(), others, atol=10 * atol)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("step", [open_step, closed_step])
def test_functions_that_step_at_one_step_there(problem, step):
    rows, queries, bandwidth = PROBLEMS[problem]
    model, y = fitted(problem, step, empty_neighborhood="nan")
    expected = reference.weights(step, queries, rows, bandwidth)
    np.testing.assert_array_equal(model.attention_weights(queries) > 0, expected > 0)
    means = reference.predict(step, queries, rows, y, bandwidth, empty="nan")
    np.testing.assert_allclose(model.predict(queries), means, atol=1e-6)
    others = reference.predict_loo(step, rows, y, bandwidth, empty="nan")
    np.testing.assert_allclose(model.predict_loo(), others, atol=1e-6)


def test_the_published_example():
    model = NadarayaWatsonRegressor(3.0, kernel="tophat").fit(LINE[:12], LINE[:12, 0])
    expected = [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9, 9.5, 10]
    np.testing.assert_allclose(model.predict(LINE[:12]), expected, rtol=1e-14)


@pytest.mark.parametrize("kernel", COMPACT)
def test_rows_far_away_change_nothing(kernel, way):
    rows, queries = 0.1 * LINE, 0.1 * LINE + 0.4
    y = np.cos(LINE[:, 0])
    found = []
    for far in (0, 1, 40):
        remote = np.full((far, 1), 1e7) + np.arange(far)[:, None]
        model = NadarayaWatsonRegressor(0.7, kernel=kernel, algorithm=way)
        found.append(model.fit(np.vstack([rows, remote]), np.append(y, np.ones(far))))
    expected = found[0].attention_weights(queries) > 0
    for model in found[1:]:
        np.testing.assert_array_equal(model.attention_weights(queries)[:, :30] > 0, expected)
        np.testing.assert_allclose(model.predict(queries), found[0].predict(queries), atol=1e-6)


@pytest.mark.parametrize("kernel", COMPACT)
def test_keys_just_inside_have_weight(kernel, way):
    # a distance that is shorter than the bandwidth by more than roundings counts
    inside = np.array([[1 - 1e-13], [-1 + 1e-13], [0.5]])
    model = NadarayaWatsonRegressor(1.0, kernel=kernel, algorithm=way).fit(inside, [1.0, 2.0, 3.0])
    assert (model.attention_weights([[0.0]]) > 0).all()


def test_an_own_row_has_weight_however_large_the_coordinates(way):
    rows = 1e18 + 1e4 * LINE
    for kernel in COMPACT:
        model = NadarayaWatsonRegressor(1.0, kernel=kernel, algorithm=way)
        model.set_params(empty_neighborhood="nan").fit(rows, LINE[:, 0])
        np.testing.assert_allclose(model.predict(rows), LINE[:, 0])


def test_rows_in_single_precision_have_edges_of_that_when_asked_in_double(way):
    tenths = np.float32(0.1) * np.arange(20, dtype=np.float32)[:, None]
    model = NadarayaWatsonRegressor(0.3, kernel="tophat", algorithm=way).fit(tenths, tenths[:, 0])
    expected = model.attention_weights(tenths) > 0
    assert expected.sum(axis=1).max() == 5
    np.testing.assert_array_equal(model.attention_weights(tenths.astype(float)) > 0, expected)
    exact = 0.1 * np.arange(20)[:, None]
    np.testing.assert_array_equal(model.attention_weights(exact) > 0, expected)
    double = NadarayaWatsonRegressor(0.3, kernel="tophat", algorithm=way).fit(exact, exact[:, 0])
    np.testing.assert_array_equal(double.attention_weights(tenths) > 0, expected)


@pytest.mark.parametrize(
    ("kernel", "way", "dtype"), pairwise(COMPACT, WAYS, DTYPES), indirect=["way"], ids=name_of
)
def test_pooling_takes_tensors_as_given(kernel, dtype, way):
    tenths = torch.tensor(0.1, dtype=dtype) * torch.arange(20, dtype=dtype)[:, None]
    keys = torch.stack([tenths, tenths + 2, tenths - 1000])  # each with a centre of its own
    values = torch.eye(20, dtype=dtype)
    found = attention_pooling(keys, keys, values, bandwidth=0.5, kernel=kernel, algorithm=way)
    for member, rows in zip(found, keys, strict=True):
        expected = reference.weights(kernel, rows.numpy(), rows.numpy(), 0.5)
        np.testing.assert_array_equal(member.numpy() > 0, expected > 0)


@pytest.mark.parametrize("kernel", COMPACT)
def test_gradients_at_the_edge_are_the_mean_of_both_sides(kernel, way):
    rows = torch.tensor(grid(4, 2))
    values, steps = torch.sin(torch.arange(16.0, dtype=torch.float64))[:, None], torch.arange(16)

    def gradients(pool):
        keys, queries = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        column = values.clone().requires_grad_()
        pooled = pool(queries, keys, column)
        (pooled[:, 0] * (1 + steps)).sum().backward()
        grads = [tensor.grad for tensor in (queries, keys, column)]
        return [0.0 if grad is None else grad.numpy() for grad in grads]  # of a step

    def written_out(queries, keys, column):
        s = ((queries[:, None] - keys[None]) ** 2).sum(dim=-1) / 4  # bandwidth 2
        inside = s.detach() < 1
        apart = inside & (s.detach() > 0)
        u = torch.where(apart, s, 0.25).sqrt()
        weights = torch.where(apart, reference.COMPACT_PROFILES[kernel](u), inside.double())
        at_edge = s.detach() == 1
        profile = reference.COMPACT_PROFILES[kernel](torch.where(at_edge, s, 0.25).sqrt())
        weights = weights + torch.where(at_edge, (profile - profile.detach()) / 2, 0.0)
        return weights @ column / weights.sum(dim=1, keepdim=True)

    found = gradients(
        lambda *tensors: attention_pooling(*tensors, bandwidth=2.0, kernel=kernel, algorithm=way)
    )
    for one, other in zip(found, gradients(written_out), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spacing", [0.1, 1.0, 0.37])
def test_distances_by_matrix_product_are_settled_by_differences(dtype, spacing):
    # once few pairs of a tile are near an edge, once most are
    few = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    few = few * spacing
    for rows in (torch.tensor(spacing * grid(9, 2), dtype=dtype), few):
        if rows is few:
            rows[:20, 0], rows[:20, 1] = torch.arange(20, dtype=dtype) * spacing, 0
        points = TORCH.points(rows[None] / (3 * spacing))
        everything = slice(0, len(rows))
        for name in ("epanechnikov", "biweight", "triweight"):
            tile = Tile(KERNELS[name], points, points, (len(rows), len(rows)))
            assert tile.may_use_product
            found = tile.weights(everything, everything)[0].numpy()
            expected = reference.settled_distances(rows.numpy(), rows.numpy(), 3 * spacing) < 1
            np.testing.assert_array_equal(found > 0, expected)


@pytest.mark.parametrize("kind", ["query", "key"])
@pytest.mark.parametrize("kernel", COMPACT)
def test_the_neighbour_that_makes_the_window_is_at_its_edge(kind, kernel):
    for rows in (0.1 * LINE, 1e9 + 0.1 * LINE, SECONDS, 0.1 * grid(6, 2)):
        for dtype in (np.float64, np.float32) if rows.max() < 1e4 else (np.float64,):
            X = rows.astype(dtype)
            bandwidth = NeighborBandwidth(4, kind=kind)
            model = NadarayaWatsonRegressor(bandwidth, kernel=kernel).fit(X, np.arange(len(X)))
            radii = model.bandwidth_
            found = model.attention_weights(X) > 0
            found = found if kind == "query" else found.T
            for i, radius in enumerate(radii):
                u = reference.settled_distances(X[i : i + 1], X, radius)[0]
                # a radius is a rounded distance itself
                np.testing.assert_array_equal(found[i], u < 1 - 1e-5, err_msg=f"window {i}")


def test_learned_scales_have_edges_of_the_coordinates_as_given():
    rows = 0.1 * LINE + 1000.0
    model = ParametricNWRegressor(
        "scalar", kernel="tophat", bandwidth=0.3, w_init=1.0, max_iter=0, solver="lbfgs"
    )
    model = model.set_params(max_iter=1, tol=1e9)
    model.fit(rows, LINE[:, 0])
    expected = reference.weights("tophat", rows, rows, 0.3 / model.w_) > 0
    np.testing.assert_array_equal(model.attention_weights(rows) > 0, expected)
