"""The compiled loops against torch tiles, and their manners: threads, caches, memory."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import processes
import pytest
import torch
from designs import pairwise

from sknw import NadarayaWatsonRegressor
from sknw.kernels import KERNELS
from sknw.sums.evaluators import registry as evaluators
from sknw.sums.evaluators.compiled import driver as fused
from sknw.sums.evaluators.registry import FUSED, TORCH, evaluator_for
from sknw.sums.monomials import Monomials
from sknw.sums.tails import KeySet, nearest_kernel
from sknw.support import tuning

CPU = torch.device("cpu")
NAMES = sorted(KERNELS)
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6}

if not FUSED.accepts(KERNELS["gaussian"], torch.float64, CPU):
    pytest.skip("numba is not installed", allow_module_level=True)


def points(n, d, *, seed, dtype, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    rows = scale * torch.randn(1, n, d, generator=generator, dtype=torch.float64)
    return rows.to(dtype)


def columns_of(k, n, *, seed, dtype):
    return points(k, n, seed=seed, dtype=dtype)


def forms_of(name):
    kernel = KERNELS[name]
    return {"profile": kernel, "derivative": kernel.derivative(), "square": kernel.squared()}


def close(got, want, dtype):
    scale = want.abs().max() + 1e-300
    assert ((got - want).abs().max() / scale) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["profile", "derivative", "square"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_kernel_and_form_is_the_torch_one(name, form, dtype):
    if name == "tophat" and dtype == torch.float32:
        pytest.skip("a pair on the edge falls to either side")
    kernel, scale = forms_of(name)[form], 1.0 if name in ("gaussian", "exponential") else 0.4
    keys, queries = (points(n, 3, seed=n, dtype=dtype, scale=scale) for n in (1500, 70))
    columns = columns_of(2, 1500, seed=1, dtype=dtype)
    sums = [
        e.sums(kernel, e.points(queries), e.points(keys), columns, None, None)
        for e in (FUSED, TORCH)
    ]
    close(*sums, dtype)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 19])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_any_number_of_features_and_columns(d, k):
    kernel, dtype = KERNELS["gaussian"], torch.float64
    keys, queries = (points(n, d, seed=n, dtype=dtype, scale=d**-0.5) for n in (1100, 33))
    columns = columns_of(k, 1100, seed=1, dtype=dtype)
    left, right = columns_of(k, 33, seed=2, dtype=dtype), columns
    for evaluated in zip(
        *(
            (
                e.sums(kernel, e.points(queries), e.points(keys), columns, None, None),
                e.sums(kernel, None, e.points(keys), columns, None, None),
                e.steps(kernel, e.points(queries), e.points(keys), left, right, None, None),
            )
            for e in (FUSED, TORCH)
        ),
        strict=True,
    ):
        close(*evaluated, dtype)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mass_and_total_of_a_gaussian(d, equal, dtype):
    # the loops of the commonest case: several boxes of keys, the first and last key left out
    keys, queries = (points(n, d, seed=n, dtype=dtype, scale=d**-0.5) for n in (4500, 131))
    columns = columns_of(2, 4500, seed=1, dtype=dtype)
    columns[:, 0] = 2.5 if equal else columns[:, 0].abs()
    exclude = torch.full((131,), -1)
    exclude[[0, 5, 6, 64, 130]] = torch.tensor([0, 4499, 2047, 2048, 17])
    for kernel in (KERNELS["gaussian"], KERNELS["gaussian"].derivative()):
        for left_out in (None, exclude):
            evaluated = [
                e.sums(kernel, e.points(queries), e.points(keys), columns, left_out, None)
                for e in (FUSED, TORCH)
            ]
            close(*evaluated, dtype)
        close(
            *(e.sums(kernel, None, e.points(keys), columns, None, None) for e in (FUSED, TORCH)),
            dtype,
        )


def test_exponentials_are_accurate_over_their_whole_range():
    distance = torch.linspace(0, 37, 4001, dtype=torch.float64)
    keys, columns = torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double()
    for name, log in (("gaussian", -(distance**2) / 2), ("exponential", -distance)):
        weights = FUSED.sums(
            KERNELS[name],
            FUSED.points(distance[None, :, None]),
            FUSED.points(keys),
            columns,
            None,
            None,
        )[0, 0]
        relative = weights / torch.exp(log) - 1
        assert (relative.abs() < 6e-16 * (2 + log.abs())).all()


@pytest.mark.parametrize("d", [1, 3, 5, 9])
def test_powers_in_registers_are_accurate_over_their_whole_range(d):
    distance = torch.linspace(0, 37, 4000, dtype=torch.float64)
    queries = torch.zeros(1, 4000, d, dtype=torch.float64)
    queries[0, :, 0] = distance
    keys, columns = torch.zeros(1, 1, d).double(), torch.ones(1, 2, 1).double()
    points_of = FUSED.points(queries), FUSED.points(keys)
    weights = FUSED.sums(KERNELS["gaussian"], *points_of, columns, None, None)[0, 0]
    log = -(distance**2) / 2
    relative = weights / torch.exp(log) - 1
    assert (relative.abs() < 6e-15 + 6e-16 * log.abs()).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("d", [1, 2, 3, 5, 9])
def test_a_query_that_is_not_a_number_spoils_no_other(d, dtype):
    queries, keys = (points(n, d, seed=n, dtype=dtype) for n in (64, 300))
    queries[0, 1:] += 20.0
    columns = two_columns(300, dtype, weighted=True)
    spoilt = queries.clone()
    spoilt[0, 0] = torch.nan
    clean, found = (
        FUSED.sums(KERNELS["gaussian"], FUSED.points(at), FUSED.points(keys), columns, None, None)
        for at in (queries, spoilt)
    )
    assert found[..., 0].isnan().all()
    assert torch.equal(found[..., 1:], clean[..., 1:])


@pytest.mark.parametrize("d", [1, 3, 5, 9])
def test_a_key_that_is_not_a_number_is_not_passed_over(d):
    queries, keys = (points(n, d, seed=n, dtype=torch.float64) for n in (40, 100))
    keys[0, 7] = torch.nan
    columns = two_columns(100, torch.float64, weighted=False)
    points_of = FUSED.points(queries), FUSED.points(keys)
    assert FUSED.sums(KERNELS["gaussian"], *points_of, columns, None, None).isnan().all()


def test_the_cosine_vanishes_at_its_edge_and_only_there():
    keys, columns = torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double()
    near = torch.tensor([0.5, 1 - 1e-9, 1.0, 1.5], dtype=torch.float64)
    weights = FUSED.sums(
        KERNELS["cosine"],
        FUSED.points(near[None, :, None]),
        FUSED.points(keys),
        columns,
        None,
        None,
    )[0, 0]
    assert weights[1] == pytest.approx(np.pi / 2 * 1e-9, rel=1e-6)
    assert (weights[2:] == 0).all()


def test_equally_near_keys_share_wherever_they_stand():
    # ties must be equal to the last bit at any place of a vector loop, its remainder included
    generator = torch.Generator().manual_seed(0)
    for n in (1, 5, 17, 1030):
        keys = torch.rand(n, 3, generator=generator, dtype=torch.float64)
        keys = torch.cat([keys, keys.flip(0)])
        queries = torch.rand(9, 3, generator=generator, dtype=torch.float64) + 2
        weights = torch.ones(2 * n, dtype=torch.float64)
        kernel, rows = nearest_kernel(KERNELS["epanechnikov"]), torch.arange(9)
        groups = list(KeySet(keys, weights).shifted_groups(kernel, queries, None, rows))
        assert sum(len(group) for group, _ in groups) == 9
        for _, shifted in groups:
            np.testing.assert_array_equal(shifted.sums(kernel, weights[None])[0], 2.0)


def test_custom_kernels_and_small_problems_are_left_to_torch():
    custom = replace(KERNELS["gaussian"], formula=None)
    assert evaluator_for(custom, torch.float64, CPU, 1e12) is TORCH
    assert evaluator_for(KERNELS["gaussian"], torch.float64, CPU, 100) is TORCH
    assert evaluator_for(KERNELS["gaussian"], torch.float64, CPU, 1e12) is FUSED
    with fused.disabled():
        assert evaluator_for(KERNELS["gaussian"], torch.float64, CPU, 1e12) is TORCH


@pytest.fixture
def threads_for_few_pairs():
    with tuning.override(PAIRS_PER_THREAD=1e4):
        yield


@pytest.mark.usefixtures("threads_for_few_pairs")
def test_the_number_of_threads_changes_nothing_and_no_setting_is_touched():
    kernel, before = KERNELS["gaussian"], torch.get_num_threads()
    keys = FUSED.points(points(3000, 2, seed=0, dtype=torch.float64))
    columns = columns_of(2, 3000, seed=1, dtype=torch.float64)
    running = threading.active_count()
    found = []
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            found.append(FUSED.sums(kernel, None, keys, columns, None, None))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert threading.active_count() == running
    for other in found[1:]:
        assert torch.equal(other, found[0])


@pytest.mark.usefixtures("threads_for_few_pairs")
def test_an_error_in_a_thread_is_raised():
    def task(first, last):
        raise MemoryError("none left")

    with pytest.raises(MemoryError, match="none left"):
        fused._in_threads(task, fused.Pairs.all(3000, 3000, 1), 8)


def test_threads_predict_at_once():
    X = np.random.default_rng(0).normal(size=(900, 2))
    model = NadarayaWatsonRegressor(0.3, algorithm="dense").fit(X, X.sum(axis=1))
    expected = model.predict(X)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.predict(X), range(12)):
            np.testing.assert_array_equal(found, expected)


def test_no_matrix_of_pairs_is_built():
    n = 4000
    keys = FUSED.points(points(n, 3, seed=0, dtype=torch.float64))
    columns = columns_of(2, n, seed=1, dtype=torch.float64)
    FUSED.sums(KERNELS["biweight"], None, keys, columns, None, None)
    tracemalloc.start()
    try:
        FUSED.sums(KERNELS["biweight"], None, keys, columns, None, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * n * 8


def output_of(program, **environment):
    """Return what the program prints in a process of its own."""
    ran = processes.run(program, **environment)
    assert ran.code == 0, ran.stderr
    return ran.stdout.strip()


AHEAD = """
import torch
import sknw
from sknw.kernels import KERNELS
from sknw.sums.evaluators.registry import FUSED
from sknw.sums.geometry.interactions import Layout, interactions_within
from sknw.sums.monomials import Monomials
report = sknw.compile_ahead()
from sknw.sums.evaluators.compiled import loops as compiled
drivers = compiled.add_sums, compiled.add_squares, compiled.add_steps, compiled.find_nearest
for dtype in (torch.float64, torch.float32):
    rows = torch.randn(1, 300, 2, dtype=dtype)
    keys, exclude = FUSED.points(rows), torch.arange(300)
    columns = torch.ones(1, 2, 300, dtype=dtype)
    layout = Layout.of(rows[0], 64)
    near = interactions_within(layout, layout, 1.0).pairs
    squares = Monomials.squares(keys.features.shape[1])
    FUSED.moments(KERNELS["gaussian"], None, keys, columns, None, None, squares)
    for pairs in (None, near):
        shift, _ = FUSED.nearest(keys, keys, exclude, pairs, exactly=True)
        for name in ("gaussian", "biweight"):
            kernel = KERNELS[name]
            FUSED.sums(kernel, None, keys, columns, None, pairs)
            FUSED.steps(kernel.derivative(), keys, keys, columns, columns, exclude, pairs)
        FUSED.sums(KERNELS["gaussian"], keys, keys, columns, exclude, pairs, shift)
print(report["float64"], report["float32"], *(len(driver.overloads) for driver in drivers))
"""


def test_what_is_compiled_ahead_is_all_that_calls_need():
    assert output_of(AHEAD) == "loaded loaded 2 2 2 2"


NARROW = """
import numpy as np
from sknw.sums.evaluators.compiled import loops, vectors as registers
from sknw.sums.evaluators.compiled.formulas import Points
rng, n, m, none = np.random.default_rng(0), 203, 8, np.zeros(0)
def error_of(d, add):
    queries, keys, columns = (rng.normal(size=(k, size)) for k, size in ((d, m), (d, n), (2, n)))
    found = np.zeros((2, m))
    add(Points(queries, keys, none, none), columns, found)
    squares = np.square(queries[:, :, None] - keys[:, None]).sum(axis=0)
    return np.abs(found - columns @ np.exp2(-squares).T).max()
def few(points, columns, out):
    loops._add_few_powers(points, 0, m, np.array([[0, n]]), 1, columns, False, out)
def four(points, columns, out):
    for i in (0, 4):
        loops._add_four_powers(points, i, 0, n, columns, np.zeros(4 * len(points.keys)), out)
def pieces(points, columns, out):
    squares = np.zeros(n)
    for i in range(m):
        loops.distances(points, i, 0, n, squares)
        loops._weigh(squares, (0, n), columns, -1, i, out)
worst = max(error_of(1, few), error_of(3, few), error_of(6, four), error_of(6, pieces))
print(registers.HAS_TABLES, worst < 1e-12)
"""


def test_narrow_registers_without_tables(tmp_path):
    """The loops that hold numbers in registers, alone: all loops take long to compile."""
    found = output_of(NARROW, NUMBA_CACHE_DIR=tmp_path, NUMBA_CPU_NAME="generic")
    assert found == "False True"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize("n_keys", [1, 7, 8, 9, 16, 1031])
def test_numbers_of_keys_that_fill_no_register(dtype, d, n_keys):
    queries, keys = (points(n, d, seed=n, dtype=dtype) for n in (37, n_keys))
    columns = two_columns(n_keys, dtype, weighted=True)
    sums = [
        e.sums(KERNELS["gaussian"], e.points(queries), e.points(keys), columns, None, None)
        for e in (FUSED, TORCH)
    ]
    close(*sums, dtype)


@pytest.mark.parametrize("d", [1, 3, 5])
@pytest.mark.parametrize("far", [30.0, 60.0, 1e9, 1e150])
def test_weights_of_remote_queries_end_in_the_smallest_normal_number(d, far):
    keys, queries = (torch.zeros(1, n, d, dtype=torch.float64) for n in (40, 40))
    queries += far
    columns = torch.ones(1, 2, 40, dtype=torch.float64)
    points_of = FUSED.points(queries), FUSED.points(keys)
    mass = FUSED.sums(KERNELS["gaussian"], *points_of, columns, None, None)[0, 0]
    true = 40 * np.exp(max(-d * far**2 / 2, np.log(2.0**-1021)))
    assert torch.allclose(mass, torch.full_like(mass, true), rtol=1e-11, atol=0)


def test_registry_names_are_those_of_the_evaluators():
    assert list(evaluators.EVALUATORS) == ["fused", "torch"]
    assert all(kernel.formula[0] in fused._loops().FAMILIES for kernel in KERNELS.values())


# --- sums and squares in one pass ----------------------------------------------------------------


def two_columns(n, dtype, *, weighted):
    values = columns_of(2, n, seed=7, dtype=dtype)
    weights = values[:, :1].abs() + 0.1 if weighted else torch.full_like(values[:, :1], 0.5)
    return torch.cat([weights, weights * values[:, 1:]], dim=1)


LEFT_OUT = {"all keys": (None, None), "some": ("rows", "exclude"), "none": ("rows", None)}


@pytest.mark.parametrize(
    ("d", "left_out", "weighted", "dtype"),
    pairwise([1, 2, 3, 4, 5, 8], list(LEFT_OUT), [False, True], [torch.float64, torch.float32]),
)
def test_squares_are_the_squared_steps_of_torch(d, weighted, left_out, dtype):
    kernel, n = KERNELS["gaussian"], 1203  # more than a piece, and odd
    keys, columns = points(n, d, seed=d, dtype=dtype), two_columns(n, dtype, weighted=weighted)
    rows, excluded = LEFT_OUT[left_out]
    queries = keys[:, 100:401] if rows else None
    exclude = torch.arange(100, 401) if excluded else None
    found = FUSED.moments(
        kernel, None if queries is None else FUSED.points(queries), FUSED.points(keys), columns,
        exclude, None, Monomials.squares(d),
    )  # fmt: skip
    keys, columns = keys.double(), columns.double()  # the reference has no rounding of its own
    on_torch = None if queries is None else TORCH.points(queries.double())
    sums = TORCH.sums(kernel, on_torch, TORCH.points(keys), columns, exclude, None)
    steps = [
        TORCH.steps(kernel, on_torch, TORCH.points(keys), own, columns, exclude, None, squared=True)
        for own in one_column_each(sums)
    ]
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    for got, want in (
        (found[:, 0], sums),
        (found[:, 1:], torch.stack([at.mT for at in steps], dim=2)),
    ):
        assert (got - want.reshape(got.shape)).abs().max() < tolerance * want.abs().max()


def one_column_each(sums):
    """Return, for each column, the gradient that picks it."""
    return [torch.zeros_like(sums).index_fill_(1, torch.tensor(c), 1.0) for c in range(2)]


def test_who_has_squares():
    assert FUSED.has_squares(KERNELS["gaussian"], 2)
    assert not FUSED.has_squares(KERNELS["gaussian"], 3)
    assert not FUSED.has_squares(KERNELS["gaussian"].derivative(), 2)
    assert not FUSED.has_squares(KERNELS["epanechnikov"], 2)
    assert not TORCH.has_squares(KERNELS["gaussian"], 2)


@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("k", [2, 4, 6])
def test_pulls_on_an_odd_number_of_queries(d, squared, k):
    kernel, dtype = KERNELS["gaussian"].derivative(), torch.float64
    queries, keys = (points(n, d, seed=n, dtype=dtype) for n in (271, 1203))
    left, right = columns_of(k, 271, seed=1, dtype=dtype), columns_of(k, 1203, seed=2, dtype=dtype)
    pulls = [
        e.steps(kernel, e.points(queries), e.points(keys), left, right, None, None, squared=squared)
        for e in (FUSED, TORCH)
    ]
    close(*pulls, dtype)


SPANS = {
    "near": (8.0, None, True),
    "far": (9.5, None, False),
    "a query that is no number": (1.0, np.nan, False),
    "an infinite query": (1.0, np.inf, False),
}


@pytest.mark.parametrize(("largest", "odd", "is_near"), SPANS.values(), ids=SPANS)
def test_without_the_guard_only_where_all_is_near_and_to_the_same_bits(
    largest, odd, is_near, monkeypatch
):
    kernel, dtype = KERNELS["gaussian"], torch.float64
    keys, queries = (torch.rand(1, n, 3, dtype=dtype) * largest * 2 - largest for n in (900, 40))
    keys[0, 0], queries[0, 0] = largest, -largest  # squared: 12 largest², in powers of two 8.7
    if odd is not None:
        queries[0, 5, 1] = odd
    columns = torch.stack([torch.ones(900), torch.rand(900)])[None].to(dtype)
    nearest = {8: 12 * 8.0**2 / 2 / np.log(2) + 1}
    found, near = [], []
    known = fused._Call.is_near.fget
    monkeypatch.setattr(
        fused._Call, "is_near", property(lambda call: near.append(known(call)) or near[-1])
    )
    for worth in (np.inf, 0):
        with tuning.override(PAIRS_WORTH_A_LOOK=worth, NEAR_POWER=nearest):
            found.append(
                FUSED.sums(kernel, FUSED.points(queries), FUSED.points(keys), columns, None, None)
            )
    assert near == [False, is_near]
    np.testing.assert_array_equal(*found)


# --- moments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form", "d", "order", "k", "left_out"),
    pairwise(NAMES, ["profile", "derivative"], [1, 2, 3, 5], [1, 2, 4], [1, 2, 3], list(LEFT_OUT)),
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_moments_are_those_of_torch(name, form, d, order, k, left_out, dtype):
    if name == "tophat" and dtype == torch.float32:
        pytest.skip("a pair on the edge falls to either side")
    kernel, n = forms_of(name)[form], 1203  # more than a piece, and odd
    keys = points(n, d, seed=d, dtype=dtype, scale=0.6)
    columns, monomials = columns_of(k, n, seed=3, dtype=dtype), Monomials.up_to(d, order)
    rows, excluded = LEFT_OUT[left_out]
    queries = keys[:, 100:401] if rows else None
    exclude = torch.arange(100, 401) if excluded else None
    found, on_torch = (
        e.moments(
            kernel, None if queries is None else e.points(queries), e.points(keys), columns,
            exclude, None, monomials,
        )
        for e in (FUSED, TORCH)
    )  # fmt: skip
    for place in range(len(monomials)):
        close(found[:, place], on_torch[:, place], dtype)
