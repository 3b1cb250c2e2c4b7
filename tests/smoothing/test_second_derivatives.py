"""Attention pooling under every way that torch has to differentiate, beside plain torch."""

from contextlib import nullcontext

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from sknw.functional import attention_pooling
from sknw.support import tuning

# torch's own forward mode loads decompositions by torch.jit.script when first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

DOUBLE = torch.float64
WAYS = ["auto", "dense", "blocks"]  # plain operations of torch, and kernel sums with their gradient


def tensors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


Q, K, V = tensors(4, 2), tensors(5, 2, seed=1), tensors(5, 2, seed=2)
W = torch.tensor([0.5, 2.0, 0.0, 1.0, 0.3], dtype=DOUBLE)


def cauchy(u):
    return 1 / (1 + u * u)


def plain(queries, keys=K, values=V, weights=None, bandwidth=1.0):
    steps = (queries[..., :, None, :] - keys[..., None, :, :]) / bandwidth
    strengths = torch.exp(-0.5 * steps.square().sum(-1))
    if weights is not None:
        strengths = strengths * weights[..., None, :]
    return strengths @ values / strengths.sum(-1, keepdim=True)


def ours(way):
    def function(queries, keys=K, values=V, weights=None, bandwidth=1.0):
        return attention_pooling(
            queries, keys, values, weights=weights, bandwidth=bandwidth, algorithm=way
        )

    return function


def loss_of(function):
    return lambda *inputs: (function(*inputs) ** 2).sum()


def bump(u):
    return 1 / (1 + u * u) ** 2


def cusp(u):
    return torch.exp(-0.3 * u) / (1 + u)


@pytest.fixture(params=["auto", "dense"])
def blockwise(request):
    """An algorithm; plain torch operations, or the blocks of a node, made small."""
    with tuning.override(POOLING_BLOCK=24) if request.param == "dense" else nullcontext():
        yield request.param


KERNELS = ["gaussian", "exponential", "cosine", "linear", "biweight", "triweight", "tricube"]


@pytest.mark.parametrize("kernel", [*KERNELS, "epanechnikov", "tophat", bump, cusp])
def test_first_and_second_derivatives_by_every_input(kernel, blockwise):
    bandwidth = torch.tensor([2.5, 3.0], dtype=DOUBLE)  # compact windows hold something
    inputs = [tensor.clone().requires_grad_() for tensor in (Q, K, V, W + 0.1, bandwidth)]

    def function(queries, keys, values, weights, bandwidth):
        return attention_pooling(
            queries, keys, values, weights=weights, bandwidth=bandwidth,
            kernel=kernel, algorithm=blockwise,
        )  # fmt: skip

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize(
    "options",
    [
        {"leave_one_out": True},
        {"is_causal": True},
        {"mask": tensors(5, 5, seed=8) > -0.5},
        {"leave_one_out": True, "kernel": "biweight", "bandwidth": 3.0},
        {"kernel": "exponential", "mask": tensors(5) > -0.5},
    ],
    ids=["leave-one-out", "causal", "mask", "biweight", "mask of keys"],
)
def test_second_derivatives_with_masks_over_one_set_in_a_batch(options, blockwise):
    points = tensors(2, 5, 2, seed=3).requires_grad_()
    values = tensors(2, 5, 1, seed=4).requires_grad_()

    def function(points, values):
        moved = points * torch.tensor([1.0, 1.1], dtype=DOUBLE)
        return attention_pooling(points, moved, values, algorithm=blockwise, **options)

    assert torch.autograd.gradcheck(function, (points, values))
    assert torch.autograd.gradgradcheck(function, (points, values), fast_mode=True)


@pytest.mark.parametrize("way", ["auto", "dense"])
def test_equal_points_bend_a_smooth_kernel(way):
    def gaussian(u):
        return torch.exp(-u * u / 2)

    expected = hessian(loss_of(lambda x: plain(x, K, V)))(K.clone())
    for kernel in ("gaussian", gaussian):
        found = hessian(
            lambda x, kernel=kernel: (
                attention_pooling(x, K, V, kernel=kernel, algorithm=way) ** 2
            ).sum()
        )(K.clone())
        torch.testing.assert_close(found, expected)


def gradient_batch(function):
    queries = Q.clone().requires_grad_()
    batch = torch.eye(8, dtype=DOUBLE).reshape(8, 4, 2)
    (found,) = torch.autograd.grad(function(queries), queries, batch, is_grads_batched=True)
    return found


def dual_numbers(function):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(Q, torch.ones_like(Q))
        return torch.autograd.forward_ad.unpack_dual(function(dual)).tangent


def gradient_of_gradient(function, order=2):
    queries, current = Q.clone().requires_grad_(), None
    value = loss_of(function)(queries)
    for _ in range(order):
        (current,) = torch.autograd.grad(value, queries, create_graph=True)
        value = current.square().sum()
    return current


def step_of_meta_learning(function):
    p = torch.eye(2, dtype=DOUBLE, requires_grad=True)
    (g,) = torch.autograd.grad(((function(Q @ p) - 1) ** 2).mean(), p, create_graph=True)
    return torch.autograd.grad(((function(Q @ (p - 0.5 * g)) + 1) ** 2).mean(), p)[0]


MANY, MANY_W = tensors(3, 4, 2, seed=5), tensors(3, 5, seed=6).abs()
ASKED = {
    "grad": lambda f: grad(loss_of(f))(Q),
    "vjp": lambda f: vjp(f, Q)[1](torch.ones_like(Q))[0],
    "jvp": lambda f: jvp(f, (Q,), (torch.ones_like(Q),))[1],
    "jvp by all": lambda f: jvp(f, (Q, K, V, W), (Q + 1, K + 2, V + 3, W + 4))[1],
    "jacrev": lambda f: jacrev(f)(Q),
    "jacfwd": lambda f: jacfwd(f)(Q),
    "hessian": lambda f: hessian(loss_of(f), argnums=(0, 1, 2, 3))(Q, K, V, W),
    "reverse over reverse": lambda f: jacrev(jacrev(loss_of(f)))(Q),
    "forward over forward": lambda f: jacfwd(jacfwd(loss_of(f)))(Q),
    "reverse over forward": lambda f: jacrev(jacfwd(loss_of(f)))(Q),
    "third": lambda f: gradient_of_gradient(f, 3),
    "second": gradient_of_gradient,
    "autograd.functional.hessian": lambda f: torch.autograd.functional.hessian(loss_of(f), Q),
    "autograd.functional.hvp": lambda f: torch.autograd.functional.hvp(loss_of(f), Q, Q + 1)[1],
    "autograd.functional.jvp": lambda f: torch.autograd.functional.jvp(f, Q, Q + 1)[1],
    "dual numbers": dual_numbers,
    "meta-learning": step_of_meta_learning,
    "vmap": lambda f: vmap(f)(MANY),
    "vmap of all": lambda f: vmap(f)(MANY, K + MANY[:, :1], V + MANY[:, :1], MANY_W),
    "vmap along the last": lambda f: vmap(f, in_dims=2)(MANY.permute(1, 2, 0)),
    "vmap of vmap": lambda f: vmap(vmap(f))(torch.stack([MANY, MANY + 1])),
    "vmap of bandwidths": lambda f: vmap(lambda h: f(Q, K, V, W, h))(MANY_W[:, :2] + 0.5),
    "vmap of grad": lambda f: vmap(grad(loss_of(f), argnums=3))(MANY, K + MANY[:, :1],
                                                              V + MANY[:, :1], MANY_W),
    "grad of vmap": lambda f: grad(loss_of(vmap(f)))(MANY),
    "vmap of hessian": lambda f: vmap(hessian(loss_of(f)))(MANY),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", ASKED)
def test_whatever_torch_asks_for_is_that_of_plain_torch(asked, way):
    torch.testing.assert_close(ASKED[asked](ours(way)), ASKED[asked](plain))


def test_batches_of_gradients():
    torch.testing.assert_close(gradient_batch(ours("auto")), gradient_batch(plain))
    with pytest.raises(RuntimeError, match=r"is_grads_batched=True .*use torch\.func\.vmap"):
        gradient_batch(ours("dense"))


def test_compact_kernels_map_over_a_batch_with_their_empty_rows():
    queries = MANY.clone()
    queries[1, 2] += 40
    for way in ("auto", "dense"):
        for policy in ("nearest", "mean", "nan"):

            def function(queries, way=way, policy=policy):
                return attention_pooling(
                    queries, K, V, kernel="tricube", bandwidth=2.0,
                    algorithm=way, empty_neighborhood=policy,
                )  # fmt: skip

            expected = torch.stack([function(member) for member in queries])
            torch.testing.assert_close(vmap(function)(queries), expected, equal_nan=True)


def test_looking_at_hidden_values_is_refused():
    def function(queries):
        return attention_pooling(queries, K, V, kernel="tophat", empty_neighborhood="raise")

    with pytest.raises(RuntimeError, match="'raise' has to look at values"):
        vmap(function)(MANY + 40)


def test_per_sample_gradients_of_a_module():
    layer = torch.nn.Linear(2, 2).double()
    parameters = {name: tensor.detach() for name, tensor in layer.named_parameters()}

    def per_sample(function):
        def loss(parameters, query):
            embedded = functional_call(layer, parameters, (query[None],))
            return function(embedded).square().sum()

        return vmap(grad(loss), in_dims=(None, 0))(parameters, Q)

    for way in WAYS:
        torch.testing.assert_close(per_sample(ours(way)), per_sample(plain))


@pytest.mark.parametrize("order", [1, 2])
def test_blocks_of_rows_and_of_members_change_nothing(order, monkeypatch):
    queries, keys, values = tensors(3, 30, 2), tensors(3, 20, 2, seed=1), tensors(3, 20, 1, seed=2)

    def derivative():
        q, k = queries.clone().requires_grad_(), keys.clone().requires_grad_()
        found, options = (q, k), {"algorithm": "dense", "is_causal": True}
        value = attention_pooling(q, k, values, **options).square().sum()
        for _ in range(order):
            found = torch.autograd.grad(value, (q, k), create_graph=True)
            value = sum(tensor.square().sum() for tensor in found)
        return found

    expected = derivative()
    for elements in (1, 150, 1300, 2500):
        with tuning.override(POOLING_BLOCK=elements):
            torch.testing.assert_close(derivative(), expected)


@pytest.mark.parametrize("kernel", ["gaussian", "exponential"])
@pytest.mark.parametrize("distance", [40.0, 1e3, 1e6])
def test_derivatives_of_far_queries_are_those_of_shifted_softmax(kernel, distance):
    queries = (tensors(1, 1) + distance).requires_grad_()
    keys, values = tensors(5, 1, seed=1), V

    def shifted(queries):  # in one dimension and to the right of all keys
        rightmost = keys.max()
        if kernel == "gaussian":
            excess = (keys.T - rightmost) * (keys.T + rightmost - 2 * queries) / 2
        else:
            excess = rightmost - keys.T + 0 * queries
        return torch.softmax(-excess, dim=-1) @ values

    for way in ("auto", "dense"):
        found = hessian(
            lambda q, way=way: loss_of(
                lambda q: attention_pooling(q, keys, values, kernel=kernel, algorithm=way)
            )(q)
        )(queries)
        torch.testing.assert_close(found, hessian(loss_of(shifted))(queries), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("way", ["auto", "dense"])
@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "epanechnikov", "tricube", cauchy])
def test_forward_mode_within_forward_mode_is_right_or_refused(kernel, way):
    def loss(bandwidth):
        return attention_pooling(
            0.3 * Q, 0.3 * K, V, bandwidth=bandwidth, kernel=kernel, algorithm=way
        ).sum()

    bandwidth = torch.tensor(1.7, dtype=DOUBLE)
    if way == "auto" and kernel not in ("gaussian", "exponential"):
        with pytest.raises(RuntimeError, match="forward mode within forward mode"):
            jacfwd(jacfwd(loss))(bandwidth)
        return
    torch.testing.assert_close(jacfwd(jacfwd(loss))(bandwidth), hessian(loss)(bandwidth))
