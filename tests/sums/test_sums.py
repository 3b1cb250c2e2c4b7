"""The engine against the explicit matrix: values, gradients, merge, tiles, memory."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
import reference
import sklearn
import torch
from designs import name_of, pairwise
from problems import problem

from sknw.kernels import KERNELS
from sknw.sums import ALGORITHMS, Algorithm, KernelSums, PreparedSums, kernel_sums
from sknw.sums.algorithms.choice import choose
from sknw.sums.evaluators import torch as tiles_module

NAMES = sorted(KERNELS)
LIGHT_TAILED = ["gaussian", "exponential"]


def points(n, d, *, seed, scale=1.0, batch=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, n, d, generator=generator, dtype=torch.float64).to(dtype)


def columns_of(n, k, *, seed, batch=1):
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(batch, k, n, generator=generator, dtype=torch.float64)
    columns[:, 0] = torch.rand(batch, n, generator=generator, dtype=torch.float64) + 0.1
    return columns


def differentiable_profile(name, sq):
    """The kernel as plain torch operations, for autograd to differentiate."""
    sq = sq.clamp_min(1e-300)
    if name == "gaussian":
        return torch.exp(-sq / 2)
    u = sq.sqrt()
    if name == "exponential":
        return torch.exp(-u)
    inside = (u < 1).to(sq.dtype)
    u = u.clamp_max(1)
    return reference.COMPACT_PROFILES[name](u) * inside


def matrix_sums(name, queries, keys, columns, left_out=None):
    """Explicit (b, m, k) sums; left_out (m, n) is True where a key is not used."""
    sq = (queries[:, :, None] - keys[:, None]).square().sum(-1)
    weights = differentiable_profile(name, sq)
    if left_out is not None:
        weights = weights.masked_fill(left_out, 0.0)
    return weights @ columns.mT


def unscaled(result):
    return result.sums * result.log_scale.exp()[..., None]


CASES = pairwise(NAMES, [1, 2, 5, 8], [(7, 5), (300, 210)])


@pytest.mark.parametrize(("name", "d", "sizes"), CASES, ids=name_of)
def test_sums_are_those_of_the_matrix(name, d, sizes):
    n, m = sizes
    scale = 1.0 if name in LIGHT_TAILED else 0.5 / d**0.5
    keys, queries = points(n, d, seed=1, scale=scale), points(m, d, seed=2, scale=scale)
    columns = columns_of(n, 3, seed=3)
    result = kernel_sums(KERNELS[name], queries, keys, columns)
    expected = matrix_sums(name, queries, keys, columns)
    torch.testing.assert_close(unscaled(result), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("name", "d", "sizes"), CASES, ids=name_of)
def test_leave_one_out_leaves_out_the_row_itself(name, d, sizes):
    n, _ = sizes
    scale = 1.0 if name in LIGHT_TAILED else 0.5 / d**0.5
    keys = points(n, d, seed=1, scale=scale)
    keys[:, 1] = keys[:, 0]  # equal keys are neighbours of each other
    columns = columns_of(n, 3, seed=3)
    expected = matrix_sums(name, keys, keys, columns, torch.eye(n, dtype=torch.bool))
    itself = kernel_sums(KERNELS[name], None, keys, columns)
    torch.testing.assert_close(unscaled(itself), expected, rtol=1e-11, atol=1e-11)
    some = torch.tensor([4, 0, 1])
    by_index = kernel_sums(KERNELS[name], keys[:, some], keys, columns, exclude=some)
    torch.testing.assert_close(unscaled(by_index), expected[:, some], rtol=1e-11, atol=1e-11)


def test_a_query_without_an_excluded_key_uses_all():
    keys, columns = points(9, 2, seed=1), columns_of(9, 2, seed=2)
    exclude = torch.tensor([-1, 3])
    result = kernel_sums(KERNELS["gaussian"], keys[:, :2], keys, columns, exclude=exclude)
    left_out = torch.zeros(2, 9, dtype=torch.bool)
    left_out[1, 3] = True
    expected = matrix_sums("gaussian", keys[:, :2], keys, columns, left_out)
    torch.testing.assert_close(unscaled(result), expected)


def test_gradcheck_through_exclude_and_weights():
    keys = points(6, 2, seed=1).requires_grad_()
    columns = columns_of(6, 2, seed=2).requires_grad_()
    exclude = torch.tensor([5, 2, -1])
    queries = points(3, 2, seed=3).requires_grad_()

    def function(q, z, v):
        return unscaled(kernel_sums(KERNELS["gaussian"], q, z, v, exclude=exclude))

    assert torch.autograd.gradcheck(function, (queries, keys, columns))


SIX = columns_of(6, 2, seed=2)


def sums_of(keys):
    return kernel_sums(KERNELS["gaussian"], None, keys, SIX).sums


def gradient_with_graph(loss):
    keys = points(6, 2, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(sums_of(keys)), keys, create_graph=True)
    return keys, gradient


def by_grads_batched():
    keys = points(6, 2, seed=1).requires_grad_()
    sums = sums_of(keys)
    torch.autograd.grad(sums, keys, torch.ones(3, *sums.shape).double(), is_grads_batched=True)


def by_dual_numbers():
    keys = points(6, 2, seed=1)
    with torch.autograd.forward_ad.dual_level():
        sums_of(torch.autograd.forward_ad.make_dual(keys, torch.ones_like(keys)))


NOT_TO_BE_HAD = {
    "second": lambda: gradient_with_graph(lambda sums: sums.square().sum())[1].sum().backward(),
    "second of a linear loss": lambda: gradient_with_graph(torch.sum)[1].sum().backward(),
    "hessian": lambda: torch.autograd.functional.hessian(
        lambda keys: sums_of(keys).sum(), points(6, 2, seed=1)
    ),
    "forward mode": by_dual_numbers,
    "batch of gradients": by_grads_batched,
    "func.grad": lambda: torch.func.grad(lambda z: sums_of(z).sum())(points(6, 2, seed=1)),
    "func.jvp": lambda: torch.func.jvp(sums_of, *2 * [(points(6, 2, seed=1),)]),
    "func.jacrev": lambda: torch.func.jacrev(sums_of)(points(6, 2, seed=1)),
    "func.vmap": lambda: torch.func.vmap(sums_of)(points(6, 2, seed=1)[None]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("route", NOT_TO_BE_HAD)
def test_what_kernel_sums_have_no_derivative_for_is_refused(route):
    with pytest.raises(
        RuntimeError, match=r"^Kernel sums have first derivatives in reverse.*Use sknw"
    ):
        NOT_TO_BE_HAD[route]()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.2, 50.0, 1e4])
def test_merge_of_halves_is_the_whole(name, scale):
    keys, queries = points(20, 2, seed=1, scale=scale), points(15, 2, seed=2, scale=scale)
    columns = columns_of(20, 3, seed=3)
    whole = kernel_sums(KERNELS[name], queries, keys, columns)
    parts = [
        kernel_sums(KERNELS[name], queries, keys[:, half], columns[:, :, half])
        for half in (slice(0, 3), slice(3, 12), slice(12, 20))
    ]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    other_way = parts[0].merge(parts[1].merge(parts[2]))
    reached = whole.mass > 0
    for result in (merged, other_way):
        assert ((result.mass > 0) == reached).all()
        got = (result.sums / result.mass[..., None])[reached]
        torch.testing.assert_close(
            got, (whole.sums / whole.mass[..., None])[reached], rtol=1e-6, atol=1e-6
        )
        torch.testing.assert_close(
            (result.mass.log() + result.log_scale)[reached],
            (whole.mass.log() + whole.log_scale)[reached],
        )


def test_merge_with_an_empty_part_keeps_the_other():
    full = KernelSums(torch.tensor([-900.0]), torch.tensor([[0.5, 2.0]]))
    empty = KernelSums.plain(torch.zeros(1, 2))
    for merged in (full.merge(empty), empty.merge(full)):
        torch.testing.assert_close(merged.log_scale, full.log_scale)
        torch.testing.assert_close(merged.sums, full.sums)
    assert (empty.merge(empty).sums == 0).all()


@pytest.mark.parametrize("name", LIGHT_TAILED)
@pytest.mark.parametrize("distance", [30.0, 1e3, 1e8, 1e15, 1e100])
def test_far_queries_keep_their_ratio(name, distance):
    # on a line, log-weights relative to the nearest key are known exactly: see the tail formulas
    keys = torch.tensor([[[-0.3], [0.1], [0.3]]], dtype=torch.float64)
    queries = torch.tensor([[[distance]]], dtype=torch.float64)
    columns = torch.stack([torch.ones(3), torch.tensor([1.0, 2.0, 4.0])])[None].double()
    result = kernel_sums(KERNELS[name], queries, keys, columns)
    gaps = 0.3 - keys[0, :, 0]
    exponent = gaps * (distance - 0.3) + gaps.square() / 2 if name == "gaussian" else gaps
    weights = torch.exp(-exponent)
    expected = (weights * columns[0, 1]).sum() / weights.sum()
    got = result.sums[0, 0, 1] / result.sums[0, 0, 0]
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    assert torch.isfinite(result.log_scale).all()


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("d", [2, 6])
def test_points_far_from_the_origin_lose_no_more_than_their_own_rounding(offset, d):
    keys, queries = points(300, d, seed=1), points(200, d, seed=2)
    keys, queries = (keys + offset) - offset, (queries + offset) - offset
    columns = columns_of(300, 2, seed=3)
    near = kernel_sums(KERNELS["gaussian"], queries, keys, columns).sums
    far = kernel_sums(KERNELS["gaussian"], queries + offset, keys + offset, columns).sums
    torch.testing.assert_close(far, near, rtol=1e-10, atol=0)


def test_one_remote_key_costs_no_accuracy():
    keys, queries, columns = (
        points(500, 4, seed=1),
        points(50, 4, seed=2),
        columns_of(500, 2, seed=3),
    )
    alone = kernel_sums(KERNELS["gaussian"], queries, keys, columns).sums
    keys = torch.cat([keys, torch.full((1, 1, 4), 1e9, dtype=torch.float64)], dim=1)
    columns = torch.cat([columns, torch.ones(1, 2, 1)], dim=2)
    torch.testing.assert_close(
        kernel_sums(KERNELS["gaussian"], queries, keys, columns).sums, alone, rtol=1e-13, atol=0
    )


def test_masked_keys_do_not_set_the_scale():
    keys = torch.tensor([[[0.0], [100.0]]], dtype=torch.float64)
    columns = torch.tensor([[[0.0, 1.0], [0.0, 7.0]]], dtype=torch.float64)
    result = kernel_sums(KERNELS["gaussian"], keys[:, :1], keys, columns)
    assert result.sums[0, 0, 1] / result.sums[0, 0, 0] == 7.0


@pytest.mark.parametrize("name", NAMES)
def test_float32_accumulates_in_float64(name):
    scale = 1.0 if name in LIGHT_TAILED else 0.3
    keys, queries = points(3000, 3, seed=1, scale=scale), points(40, 3, seed=2, scale=scale)
    columns = columns_of(3000, 2, seed=3)
    exact = kernel_sums(KERNELS[name], queries, keys, columns).sums
    single = kernel_sums(KERNELS[name], queries.float(), keys.float(), columns.float()).sums
    assert single.dtype == torch.float64
    tolerance = 1e-5 if name != "tophat" else 1e-2  # a key on the edge falls to either side
    difference = (single - exact).abs().max() / exact.abs().max()
    assert difference < tolerance


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_tile_sizes_do_not_change_the_result(name, leave_one_out):
    keys, columns = points(50, 2, seed=1, batch=2, scale=0.4), columns_of(50, 2, seed=2, batch=2)
    queries = None if leave_one_out else points(30, 2, seed=3, batch=2, scale=0.4)
    whole = kernel_sums(KERNELS[name], queries, keys, columns).sums
    with sklearn.config_context(working_memory=64 * 8 / 2**20):  # 64 numbers at a time
        tiled = kernel_sums(KERNELS[name], queries, keys, columns).sums
    torch.testing.assert_close(tiled, whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("memory", [0.01, 1])
def test_tiles_stay_within_the_working_memory(memory):
    with sklearn.config_context(working_memory=memory):
        elements = tiles_module.tile_elements(torch.device("cpu"), torch.float64)
    assert elements * 8 <= memory * 2**20


@pytest.mark.parametrize("needs_grad", [False, True])
def test_memory_is_linear_in_the_number_of_points(needs_grad):
    n = 6000
    keys = points(n, 2, seed=1).requires_grad_(needs_grad)
    columns = columns_of(n, 2, seed=2)
    with (
        sklearn.config_context(working_memory=4),
        torch.profiler.profile(profile_memory=True, record_shapes=False) as profile,
    ):
        sums = kernel_sums(KERNELS["gaussian"], None, keys, columns).sums
        if needs_grad:
            (sums[..., 1] / sums[..., 0]).sum().backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= max(4 * 2**20, 20 * n * 8), f"one operation took {largest} bytes"


def test_an_algorithm_reuses_the_state_of_the_same_keys():
    dense = ALGORITHMS["dense"](1e-8)
    keys, columns = points(50, 2, seed=1), columns_of(50, 2, seed=2)
    first = PreparedSums.of(KERNELS["gaussian"], keys, columns, dense)
    again = dense.prepare(KERNELS["gaussian"], keys, 2 * columns, first.state)
    assert again.forms is first.state.forms
    doubled = dense.moments(again, dense.plan(again, None, None))[:, 0]
    torch.testing.assert_close(doubled.mT, 2 * first.sums(None).sums)
    others = dense.prepare(KERNELS["gaussian"], keys.clone(), columns, first.state)
    assert others.forms is not first.state.forms


def test_memory_kept_for_tiles_outlives_inference_mode_and_serves_several_threads():
    keys, queries = points(400, 6, seed=1), points(300, 6, seed=2)
    columns = columns_of(400, 2, seed=3)

    def ratio():
        return kernel_sums(KERNELS["gaussian"], queries, keys, columns).sums

    with ThreadPoolExecutor(1) as fresh_thread, torch.inference_mode():
        fresh_thread.submit(torch.inference_mode()(ratio)).result()
        expected = ratio()
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: ratio(), range(16)):
            torch.testing.assert_close(result, expected.clone(), rtol=0, atol=0)


class Picky(Algorithm):
    name = "picky"

    def unsupported_reasons(self, problem):
        return ["it is Tuesday", f"{problem.n_features} features are too many"]

    def never_asked(self, *arguments):
        raise AssertionError("never asked")

    seconds = prepare = plan = moments = never_asked


def registered(**algorithms):
    """Have these algorithms only."""
    return patch.dict(ALGORITHMS, algorithms, clear=True)


def test_a_refusal_names_every_reason():
    message = (
        "No algorithm can do this problem: picky: it is Tuesday, 2 features are too many. "
        "Use algorithm='auto'."
    )
    for name in ("picky", "auto"):
        with registered(picky=Picky), pytest.raises(ValueError, match=message):
            choose(name, problem())


def test_auto_takes_the_first_that_can():
    dense = ALGORITHMS["dense"]
    with registered(picky=Picky, dense=dense):
        assert type(choose("auto", problem())) is dense


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(
        ValueError, match=r"algorithm must be 'auto' or one of \['dense', .*; got 'x'"
    ):
        choose("x", problem())


def test_nothing_depends_on_the_global_generators():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    kernel_sums(KERNELS["gaussian"], None, points(9, 2, seed=1), columns_of(9, 2, seed=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


ALGORITHMS_OF_SQUARES = [
    (name, algorithm)
    for name in NAMES
    for algorithm in (["dense", "blocks", "nufft"] if name == "gaussian" else ["dense", "blocks"])
]


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize(("name", "algorithm"), ALGORITHMS_OF_SQUARES)
def test_sums_of_squared_weights_and_their_gradients(name, algorithm, leave_one_out):
    if algorithm == "nufft":
        pytest.importorskip("finufft")
    keys = points(400, 2, seed=1, scale=0.4).requires_grad_()
    queries = None if leave_one_out else points(300, 2, seed=2, scale=0.4).requires_grad_()
    columns = columns_of(400, 2, seed=3).requires_grad_()
    inputs = [at for at in (queries, keys, columns) if at is not None]
    found = kernel_sums(KERNELS[name].squared(), queries, keys, columns, algorithm=algorithm)
    sq = ((keys if leave_one_out else queries)[:, :, None] - keys[:, None]).square().sum(-1)
    weights = differentiable_profile(name, sq).square()
    if leave_one_out:
        weights = weights.masked_fill(torch.eye(400, dtype=torch.bool), 0.0)
    expected = weights @ columns.mT
    torch.testing.assert_close(unscaled(found), expected, rtol=1e-7, atol=1e-7)
    gradients = (
        torch.autograd.grad(sums.sin().sum(), inputs, allow_unused=True)
        for sums in (unscaled(found), expected)
    )
    for got, want in zip(*gradients, strict=True):
        want = torch.zeros_like(got) if want is None else want
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
