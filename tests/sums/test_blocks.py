"""Compact blocks: layouts, what may be dropped, and what must not be."""

import itertools

import numpy as np
import pytest
import reference
import torch
from designs import pairwise
from evaluation import done_by
from problems import problem

from sknw import NadarayaWatsonRegressor
from sknw.kernels import KERNELS, as_kernel
from sknw.sums import kernel_sums
from sknw.sums.algorithms.blocks import Blocks
from sknw.sums.evaluators.registry import FUSED, TORCH
from sknw.sums.geometry.interactions import Layout, Pairs, interactions_of
from sknw.support import tuning


def cloud(n, d, *, seed=0, kind="uniform"):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(n, d, generator=generator, dtype=torch.float64)
    if kind == "cauchy":
        rows = torch.tan(np.pi * (rows - 0.5))
    if kind == "lattice":
        rows = torch.floor(4 * rows)
    return rows


@pytest.mark.parametrize(
    ("n", "kind", "d"),
    pairwise([1, 2, 63, 64, 65, 1000, 5000], ["uniform", "cauchy", "lattice"], [1, 3, 8]),
)
def test_a_layout_holds_every_point_once_within_its_box(kind, n, d):
    points = cloud(n, d, kind=kind)
    layout = Layout.of(points, 64)
    assert torch.equal(layout.order.sort().values, torch.arange(n))
    assert torch.equal(layout.points, points[layout.order])
    assert torch.equal(layout.order[layout.places], torch.arange(n))
    starts = layout.block_starts
    assert starts[0] == 0
    assert starts[-1] == n
    assert (np.diff(starts) > 0).all()
    assert (np.diff(starts)[:-1] == 64).all()
    for b, (start, stop) in enumerate(itertools.pairwise(starts)):
        inside = layout.points[start:stop]
        assert torch.equal(inside.amin(0), layout.low[b])
        assert torch.equal(inside.amax(0), layout.high[b])
    columns = torch.arange(float(n))[None]
    assert torch.equal(layout.unsorted(columns[:, layout.order]), columns)


def test_blocks_are_compact_and_cut_along_the_features_that_extend():
    points = cloud(4096, 3) * torch.tensor([10.0, 10.0, 0.01])
    layout = Layout.of(points, 64)
    sides = (layout.high - layout.low).mean(dim=0)
    assert len(layout.low) >= 64
    assert sides[0] < 2
    assert sides[1] < 2


def test_points_that_stand_compactly_are_not_sorted_again():
    points = cloud(20_000, 2)
    first = Layout.of(points, 64)
    again = Layout.of(1.7 * first.points + 5, 128)
    assert torch.equal(again.order, torch.arange(len(points)))
    turned_flat = Layout.of(first.points * torch.tensor([1000.0, 1.0]), 64)
    assert not torch.equal(turned_flat.order, torch.arange(len(points)))


@pytest.mark.parametrize("name", ["gaussian", "exponential", "epanechnikov", "tophat"])
@pytest.mark.parametrize("rtol", [1e-3, 1e-8])
@pytest.mark.parametrize("kind", ["uniform", "cauchy"])
def test_what_is_dropped_weighs_less_than_the_tolerance(name, rtol, kind):
    generator = torch.Generator().manual_seed(5)
    keys = Layout.of(60 * cloud(900, 2, kind=kind), 16)
    queries = Layout.of(60 * cloud(300, 2, seed=1, kind=kind), 16)
    weights = torch.rand(900, generator=generator, dtype=torch.float64) ** 8
    found = interactions_of(KERNELS[name], queries, keys, weights, rtol)
    sq = torch.cdist(queries.points, keys.points).square()
    mass = KERNELS[name].profile(sq.clone()) * weights
    needed = sq <= torch.as_tensor(found.cutoffs)[:, None]
    dropped = torch.where(needed, 0.0, mass).sum(1)
    mass = mass.sum(1)
    normal = (mass == 0) | (mass > 1e-250)  # deeper down, the profile is clamped
    assert (dropped <= rtol * mass)[normal].all()
    assert normal.double().mean() > 0.7
    assert needed.double().mean() < 0.9  # something was dropped


def test_a_query_that_leaves_out_its_only_near_key_keeps_the_far_ones():
    keys = torch.cat([cloud(300, 1), torch.tensor([[60.0]], dtype=torch.float64)])[None]
    columns = torch.stack([torch.ones(301), torch.linspace(0, 1, 301)])[None].double()
    dense, pruned = (
        kernel_sums(KERNELS["gaussian"], None, keys, columns, algorithm=name)
        for name in ("dense", "blocks")
    )
    ratios = [result.sums[0, -1, 1] / result.sums[0, -1, 0] for result in (dense, pruned)]
    torch.testing.assert_close(*ratios, rtol=1e-8, atol=0)


@pytest.mark.parametrize("evaluator", ["fused", "torch"])
def test_a_key_without_weight_still_has_a_gradient(evaluator):
    keys = 5 * cloud(400, 2)[None]
    columns = torch.ones(1, 2, 400, dtype=torch.float64)
    near_first = (keys[0] - keys[0, 0]).square().sum(1).argsort()[:20]
    columns[:, :, near_first] = 0  # whole blocks of weight zero
    gradients = []
    for name in ("dense", "blocks"):
        leaf = columns.clone().requires_grad_()
        with done_by(evaluator):
            sums = kernel_sums(KERNELS["gaussian"], keys, keys, leaf, algorithm=name).sums
            (gradient,) = torch.autograd.grad(sums[..., 1].sum(), leaf)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_the_compiled_loops_look_closer_than_at_blocks():
    if not FUSED.accepts(KERNELS["tophat"], torch.float64, torch.device("cpu")):
        pytest.skip("numba is not installed")
    keys = Layout.of(12 * cloud(4000, 2), 32)
    found = interactions_of(KERNELS["tophat"], keys, keys, torch.ones(4000), 1e-8)
    in_blocks = found.pairs.evaluated
    columns = torch.ones(1, 1, 4000, dtype=torch.float64)
    results = [
        e.sums(KERNELS["tophat"], None, e.points(keys.points[None]), columns, None, found.pairs)
        for e in (FUSED, TORCH)
    ]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert found.pairs.evaluated < 0.8 * in_blocks < 0.3 * 4000**2


def test_all_pairs_are_all():
    pairs = Pairs.all(130, 2500, 3)
    assert pairs.possible == 130 * 2500
    assert len(pairs) == 3


def test_a_function_that_might_grow_is_refused():
    def ring(u):
        return torch.exp(-((u - 2) ** 2))

    (reason,) = Blocks(1e-8).unsupported_reasons(problem(kernel=as_kernel(ring)))
    assert "is not known to fall with the distance" in reason


@pytest.mark.filterwarnings("ignore::sknw.EmptyNeighborhoodWarning")
@pytest.mark.parametrize("kernel", ["epanechnikov", "gaussian"])
def test_rows_done_again_are_the_same_with_and_without_blocks_of_keys(kernel):
    rng = np.random.default_rng(0)
    X, y, far = rng.normal(size=(600, 2)), rng.normal(size=600), 30 + rng.normal(size=(80, 2))
    found = []
    for worth in (np.inf, 0):
        with tuning.override(TAIL_PAIRS_FOR_BLOCKS_OF_MANY=worth):
            model = NadarayaWatsonRegressor(0.3, kernel=kernel, algorithm="blocks", rtol=1e-10)
            found.append(model.fit(X, y).predict(far))
            assert np.array_equal(model.predict(far), found[-1])
    np.testing.assert_allclose(*found, rtol=0, atol=1e-9 * np.ptp(y))


@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
@pytest.mark.parametrize("kernel", ["gaussian", "exponential"])
@pytest.mark.parametrize("n_queries", [5, 3000])
def test_rows_done_again_are_exact_whatever_the_tolerance(algorithm, kernel, n_queries):
    """Few rows meet all keys, many rows blocks of them: neither leaves out what can be seen."""
    generator = np.random.default_rng(0)
    X = generator.uniform(size=(4000, 2)) * [0.8, 0.4]
    y = generator.normal(size=4000)
    queries = np.column_stack([np.full(n_queries, 38.0), generator.uniform(-1, 1, size=n_queries)])
    h = 1.0 if kernel == "gaussian" else 1 / 20
    model = NadarayaWatsonRegressor(h, kernel=kernel, algorithm=algorithm, rtol=0.5).fit(X, y)
    predictions = model.predict(queries)
    assert model.sums_report_["rows_redone"] == n_queries
    some = slice(0, 200)
    expected = reference.predict(kernel, queries[some], X, y, h)
    np.testing.assert_allclose(predictions[some], expected, rtol=0, atol=1e-12)
