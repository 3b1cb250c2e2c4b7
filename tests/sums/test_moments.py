"""Moments against the reference and their gradients against torch's own, in all forms of a call."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch

from sknw.kernels import KERNELS, as_kernel
from sknw.kernels.codes import Codes
from sknw.sums import kernel_moments, kernel_sums
from sknw.sums.monomials import Monomials

NAMES = sorted(KERNELS)
LIGHT_TAILED = reference.INFINITE_SUPPORT
ALGORITHMS_OF = {name: ["dense", "blocks"] for name in NAMES} | {
    "gaussian": ["dense", "blocks", "nufft"]
}
PAIRS = [(name, algorithm) for name in NAMES for algorithm in ALGORITHMS_OF[name]]


def needs(algorithm):
    if algorithm == "nufft":
        pytest.importorskip("finufft")


def points(n, d, *, seed, batch=1, scale=0.6):
    drawn = np.random.default_rng(seed).normal(scale=scale, size=(batch, n, d))
    return torch.tensor(drawn)


def columns_of(n, k, *, seed, batch=1):
    drawn = np.random.default_rng(seed).normal(size=(batch, k, n))
    drawn[:, 0] = np.abs(drawn[:, 0]) + 0.1
    return torch.tensor(drawn)


def unscaled(found):
    return found.moments * found.log_scale.exp()[..., None, None]


def explicit(weights, queries, keys, columns, exponents):
    """Moments (b, m, p, k) from weights (b, m, n), for torch to differentiate."""
    steps = keys[:, None] - queries[:, :, None]
    powers = [(steps ** torch.tensor(a)).prod(dim=-1) for a in exponents]
    return torch.stack([(weights * power) @ columns.mT for power in powers], dim=2)


def differentiable_weights(name, queries, keys, left_out):
    """Weights (b, m, n) relative to the nearest key's where the kernel never vanishes."""
    sq = (queries[:, :, None] - keys[:, None]).square().sum(-1).clamp_min(1e-300)
    if name in LIGHT_TAILED:
        logs = -sq / 2 if name == "gaussian" else -sq.sqrt()
        logs = logs.masked_fill(left_out, -torch.inf)
        return torch.exp(logs - logs.detach().amax(dim=-1, keepdim=True))
    u = sq.sqrt()
    return reference.COMPACT_PROFILES[name](u.clamp_max(1)) * (u < 1) * ~left_out


# --- which monomials ------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "order"), [(1, 0), (1, 6), (2, 2), (3, 4), (5, 2), (8, 1)])
def test_monomials_come_by_degree(d, order):
    found = Monomials.up_to(d, order).exponents
    np.testing.assert_array_equal(found, reference.exponents(d, order))


@pytest.mark.parametrize(("d", "order"), [(0, 2), (1, 5), (3, 3)])
def test_each_monomial_is_visited_once(d, order):
    monomials = Monomials.up_to(d, order)
    steps = [torch.full((1,), float(f + 2), dtype=torch.float64) for f in range(d)]
    found = dict(monomials.times(torch.ones(1, dtype=torch.float64), steps))
    assert sorted(found) == list(range(len(monomials)))
    for place, product in found.items():
        assert product.item() == np.prod((np.arange(d) + 2.0) ** monomials.exponents[place])


def test_squares_are_visited_without_what_is_between():
    monomials = Monomials.squares(3)
    steps = [torch.full((1,), float(f + 2), dtype=torch.float64) for f in range(3)]
    found = dict(monomials.times(torch.full((1,), 5.0, dtype=torch.float64), steps))
    assert {place: product.item() for place, product in found.items()} == {
        0: 5.0, 1: 20.0, 2: 45.0, 3: 80.0
    }  # fmt: skip


@pytest.mark.parametrize("order", [-1, 1.0, True, "2", None])
def test_an_order_is_a_number_of_steps(order):
    keys, columns = points(5, 2, seed=0), columns_of(5, 1, seed=1)
    with pytest.raises(ValueError, match=f"order must be an integer >= 0; got {order!r}"):
        kernel_moments(KERNELS["gaussian"], None, keys, columns, order=order)


def test_too_many_monomials_are_refused_with_what_fits():
    keys, columns = points(5, 30, seed=0), columns_of(5, 1, seed=1)
    message = "order 5 in 30 dimensions are 324,632 monomials, over 50,000; .* that fits is 4"
    with pytest.raises(ValueError, match=message):
        kernel_moments(KERNELS["gaussian"], None, keys, columns, order=5)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize(("name", "algorithm"), PAIRS)
def test_moments_are_those_of_the_reference(name, algorithm, leave_one_out):
    needs(algorithm)
    n, order = 300, 2
    keys, queries = points(n, 2, seed=1, batch=2), points(200, 2, seed=2, batch=2)
    columns = columns_of(n, 3, seed=3, batch=2)
    found = kernel_moments(
        KERNELS[name], None if leave_one_out else queries, keys, columns,
        order=order, algorithm=algorithm,
    )  # fmt: skip
    assert found.report["algorithm"] == algorithm
    queries = keys if leave_one_out else queries
    for b in range(2):
        expected = reference.moments(
            name, queries[b].numpy(), keys[b].numpy(), columns[b].numpy().T, order,
            exclude=np.eye(n, dtype=bool) if leave_one_out else None,
        )  # fmt: skip
        got = unscaled(found)[b].numpy()
        if name in LIGHT_TAILED:  # where the reference has another unit
            got, expected = (a / a[:, :1, :1] for a in (got, expected))
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("name", "algorithm"), PAIRS)
def test_the_first_moments_are_the_sums(name, algorithm):
    needs(algorithm)
    keys, queries = points(300, 2, seed=1), points(100, 2, seed=2, scale=3.0)
    queries[0, 0] = 80.0
    columns, exclude = columns_of(300, 2, seed=3), torch.arange(-3, 97).clamp_min(-1)
    settings = {"exclude": exclude, "algorithm": algorithm}
    sums = kernel_sums(KERNELS[name], queries, keys, columns, **settings)
    only = kernel_moments(KERNELS[name], queries, keys, columns, order=0, **settings)
    torch.testing.assert_close(only.moments[:, :, 0], sums.sums, rtol=0, atol=0)
    found = kernel_moments(KERNELS[name], queries, keys, columns, order=1, **settings)
    torch.testing.assert_close(
        unscaled(found)[:, :, 0], unscaled(only)[:, :, 0], rtol=1e-7, atol=1e-7
    )
    if algorithm != "nufft":  # which trusts fewer rows for moments
        torch.testing.assert_close(found.log_scale, sums.log_scale, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.moments[:, :, 0], sums.sums, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
def test_moments_under_the_square_are_in_steps_of_the_points(name, algorithm):
    keys, columns = points(200, 2, seed=1), columns_of(200, 2, seed=2)
    queries, square = points(50, 2, seed=3), KERNELS[name].squared()
    found = kernel_moments(square, queries, keys, columns, order=3, algorithm=algorithm)
    weights = KERNELS[name].profile((queries[:, :, None] - keys[:, None]).square().sum(-1))
    expected = explicit(weights.square(), queries, keys, columns, found.exponents)
    torch.testing.assert_close(unscaled(found), expected, rtol=1e-7, atol=1e-7)


def test_moments_of_a_function_of_the_distance():
    def cauchy(u):
        return 1 / (1 + u**2)

    keys, columns = points(200, 3, seed=1), columns_of(200, 2, seed=2)
    queries = points(50, 3, seed=3)
    found = kernel_moments(as_kernel(cauchy), queries, keys, columns, order=2)
    distances = (queries[:, :, None] - keys[:, None]).square().sum(-1).sqrt()
    expected = explicit(cauchy(distances), queries, keys, columns, found.exponents)
    torch.testing.assert_close(unscaled(found), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("algorithm", ["dense", "blocks", "nufft"])
@pytest.mark.parametrize("far", [30.0, 1e3, 1e6])
def test_tail_rows_have_moments_relative_to_their_nearest_key(far, algorithm):
    needs(algorithm)
    keys, columns = points(300, 2, seed=1), columns_of(300, 2, seed=2)
    queries = points(20, 2, seed=3)
    queries[0, :10] += far
    found = kernel_moments(
        KERNELS["gaussian"], queries, keys, columns, order=2, algorithm=algorithm
    )
    assert found.report["rows_redone"] >= 10
    expected = reference.moments(
        "gaussian", queries[0].numpy(), keys[0].numpy(), columns[0].numpy().T, 2
    )
    got, expected = (a / a[:, :1, :1] for a in (found.moments[0].numpy(), expected))
    np.testing.assert_allclose(got[:10], expected[:10], rtol=1e-9 * far, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_moments_of_parts_of_the_keys_merge_into_those_of_all(name, far):
    queries, keys = points(12, 2, seed=0), points(30, 2, seed=1)
    queries[0, :4, 0] += far
    columns = columns_of(30, 3, seed=2)
    parts = [
        kernel_moments(KERNELS[name], queries, keys[:, part], columns[..., part], order=2)
        for part in (slice(0, 5), slice(5, 6), slice(6, 30))
    ]
    whole = kernel_moments(KERNELS[name], queries, keys, columns, order=2)
    for merged in (
        parts[0].merge(parts[1]).merge(parts[2]),
        parts[2].merge(parts[0].merge(parts[1])),
    ):
        ratio = (merged.log_scale - whole.log_scale).exp()[..., None, None]
        torch.testing.assert_close(merged.moments * ratio, whole.moments, rtol=1e-8, atol=1e-12)
        assert merged.exponents is whole.exponents
    if far and name in LIGHT_TAILED:
        assert (parts[0].log_scale != parts[2].log_scale).any()


def test_float32_moments_are_summed_in_float64():
    keys, columns = points(500, 2, seed=1).float(), columns_of(500, 2, seed=2).float()
    found = kernel_moments(KERNELS["gaussian"], None, keys, columns, order=4)
    exact = kernel_moments(KERNELS["gaussian"], None, keys.double(), columns.double(), order=4)
    assert found.moments.dtype == torch.float64
    torch.testing.assert_close(found.moments, exact.moments, rtol=1e-4, atol=1e-3)


# --- gradients ------------------------------------------------------------------------------------

CALLS = [
    (pair, call, scale)
    for pair, call, scale in itertools.product(
        PAIRS, ["queries", "leave one out", "exclude"], [0.6, 40.0]
    )
    if scale < 1 or pair[0] in LIGHT_TAILED  # compact kernels have no tail rows
]


@pytest.mark.parametrize(("pair", "call", "scale"), CALLS)
def test_gradients_are_those_of_the_explicit_moments(pair, call, scale):
    name, algorithm = pair
    needs(algorithm)
    keys = points(60, 2, seed=1, batch=2, scale=scale).requires_grad_()
    queries = points(60, 2, seed=2, batch=2, scale=scale).requires_grad_()
    columns = columns_of(60, 2, seed=3, batch=2).requires_grad_()
    exclude = torch.arange(-20, 40).clamp_min(-1) if call == "exclude" else None
    left_out = torch.zeros(60, 60, dtype=torch.bool)
    if exclude is not None:
        left_out[exclude >= 0, exclude[exclude >= 0]] = True
    if call == "leave one out":
        left_out = torch.eye(60, dtype=torch.bool)
    from_points = keys if call == "leave one out" else queries
    inputs = (keys, columns) if call == "leave one out" else (queries, keys, columns)
    found = kernel_moments(
        KERNELS[name], None if call == "leave one out" else queries, keys, columns,
        order=2, exclude=exclude, algorithm=algorithm,
    )  # fmt: skip
    weights = differentiable_weights(name, from_points, keys, left_out)
    expected = explicit(weights, from_points, keys, columns, found.exponents)
    factors = scale ** -torch.tensor(found.exponents.sum(axis=1)).double()

    def gradients(moments):
        mass = moments[..., :1, :1]
        usable = mass > 0
        ratios = torch.where(usable, moments / torch.where(usable, mass, 1.0), 0.0)
        return torch.autograd.grad((ratios * factors[:, None]).sin().sum(), inputs)

    for got, want in zip(gradients(found.moments), gradients(expected), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7 * (1 + want.abs().max().item()))


def test_there_are_first_derivatives_in_reverse_mode_only():
    keys, columns = points(10, 2, seed=1).requires_grad_(), columns_of(10, 2, seed=2)
    found = kernel_moments(KERNELS["gaussian"], None, keys, columns, order=1)
    (grad,) = torch.autograd.grad(found.moments.sum(), keys, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives in reverse mode only"):
        grad.sum().backward()


def test_categories_take_part_in_the_weights_only():
    rng = np.random.default_rng(0)
    codes = Codes.of(np.array([1.0])).at(torch.tensor([1.3], dtype=torch.float64))
    kernel = replace(KERNELS["gaussian"], codes=codes)
    keys, queries = (
        torch.tensor(np.column_stack([rng.normal(size=(n, 2)), rng.integers(3, size=n)]))[None]
        for n in (200, 30)
    )
    keys.requires_grad_()
    columns = columns_of(200, 2, seed=4)
    numbers, others = keys[..., :2], queries[..., :2]
    mismatches = queries[:, :, None, 2] != keys[:, None, :, 2]
    sq = (others[:, :, None] - numbers[:, None]).square().sum(-1) + 1.3**2 * mismatches.double()
    for algorithm in ("dense", "blocks"):
        found = kernel_moments(kernel, queries, keys, columns, order=2, algorithm=algorithm)
        assert found.exponents.shape == (6, 2)
        expected = explicit((-sq / 2).exp(), others, numbers, columns, found.exponents)
        torch.testing.assert_close(unscaled(found), expected, rtol=1e-7, atol=1e-7)
        got, want = (
            torch.autograd.grad(at.sin().sum(), keys, retain_graph=True)[0]
            for at in (unscaled(found), expected)
        )
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
        assert (got[..., 2] == 0).all()
