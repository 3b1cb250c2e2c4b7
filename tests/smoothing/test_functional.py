"""Attention pooling on tensors: the softmax it says it is, in a batch, under autograd."""

import pytest
import torch

from sknw.functional import attention_pooling


def tensors(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def softmax_pooling(queries, keys, values, bandwidth=1.0, mask=None):
    scores = -(((queries[..., :, None, :] - keys[..., None, :, :]) / bandwidth) ** 2).sum(-1) / 2
    if mask is not None:
        scores = scores.masked_fill(mask, -torch.inf)
    return torch.softmax(scores, dim=-1) @ values


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("bandwidth", [0.7, torch.tensor([0.5, 2.0], dtype=torch.float64)])
def test_gaussian_pooling_is_the_softmax(batch, bandwidth):
    queries, keys = tensors(*batch, 5, 2), tensors(*batch, 7, 2, seed=1)
    values = tensors(*batch, 7, 4, seed=2)
    pooled = attention_pooling(queries, keys, values, bandwidth=bandwidth)
    torch.testing.assert_close(pooled, softmax_pooling(queries, keys, values, bandwidth))


def test_batch_dimensions_broadcast():
    queries, keys, values = tensors(4, 1, 5, 2), tensors(3, 7, 2, seed=1), tensors(7, 1, seed=2)
    pooled = attention_pooling(queries, keys, values)
    assert pooled.shape == (4, 3, 5, 1)
    torch.testing.assert_close(pooled, softmax_pooling(queries, keys, values.expand(4, 3, 7, 1)))


def test_the_textbooks_batched_leave_one_out_is_the_flag():
    x, y = tensors(10, 1), tensors(10, 1, seed=1)
    keep = ~torch.eye(10, dtype=torch.bool)
    keys = x[:, 0].repeat(10, 1)[keep].reshape(10, 9, 1)  # each row: every x but its own
    values = y[:, 0].repeat(10, 1)[keep].reshape(10, 9, 1)
    by_hand = attention_pooling(x[:, None], keys, values)[:, 0]
    torch.testing.assert_close(attention_pooling(x, x, y, leave_one_out=True), by_hand)


def test_every_input_has_its_gradient():
    inputs = [tensors(2, 4, 3), tensors(2, 5, 3, seed=1), tensors(2, 5, 2, seed=2)]
    bandwidth = torch.tensor([0.8, 1.0, 1.5], dtype=torch.float64)
    weights = torch.rand(2, 5, generator=torch.Generator().manual_seed(3)).double() + 0.1
    inputs = [tensor.requires_grad_() for tensor in (*inputs, bandwidth, weights)]

    def function(queries, keys, values, bandwidth, weights):
        return attention_pooling(queries, keys, values, bandwidth=bandwidth, weights=weights)

    assert torch.autograd.gradcheck(function, inputs)


def test_zero_weights_mask_keys_out_even_the_nearest():
    queries, keys, values = tensors(3, 1), tensors(6, 1, seed=1), tensors(6, 1, seed=2)
    mask = torch.tensor([True, False, False, True, False, False])
    pooled = attention_pooling(1e3 * queries, keys, values, weights=(~mask).double())
    torch.testing.assert_close(pooled, softmax_pooling(1e3 * queries, keys, values, mask=mask))


def test_far_queries_and_offsets_stay_finite():
    keys, values = tensors(6, 2), tensors(6, 1, seed=1)
    far = torch.full((1, 2), 1e100, dtype=torch.float64)
    nearest = values[keys.sum(dim=1).argmax()]
    torch.testing.assert_close(attention_pooling(far, keys, values)[0], nearest)
    near = attention_pooling(keys, keys, values)
    torch.testing.assert_close(
        attention_pooling(keys + 1e6, keys + 1e6, values), near, rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype):
    pooled = attention_pooling(*(tensors(4, 2, seed=seed, dtype=dtype) for seed in range(3)))
    assert pooled.dtype == dtype


@pytest.mark.parametrize(
    ("policy", "expected"), [("nearest", 3.0), ("mean", 2.0), ("nan", float("nan"))]
)
def test_empty_neighborhoods_follow_the_policy(policy, expected):
    keys = torch.tensor([[0.0], [1.0]])
    pooled = attention_pooling(
        torch.tensor([[9.0]]),
        keys,
        torch.tensor([[1.0], [3.0]]),
        kernel="tophat",
        empty_neighborhood=policy,
    )
    torch.testing.assert_close(pooled, torch.tensor([[expected]]), equal_nan=True)


def test_gradients_flow_beside_an_empty_neighborhood():
    queries = torch.tensor([[0.1], [9.0]], requires_grad=True)
    keys, values = torch.tensor([[0.0], [0.5]]), torch.tensor([[1.0], [3.0]])
    attention_pooling(queries, keys, values, kernel="epanechnikov").sum().backward()
    assert queries.grad[0] > 0
    assert queries.grad[1] == 0


def test_a_small_model_learns_through_it():
    torch.manual_seed(0)
    x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
    y = torch.sin(12 * x)
    log_bandwidth = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_bandwidth], lr=0.1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        pooled = attention_pooling(x, x, y, bandwidth=log_bandwidth.exp(), leave_one_out=True)
        loss = (pooled - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20


Q, K, V = tensors(4, 2), tensors(5, 2, seed=1), tensors(5, 1, seed=2)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ([[1.0]], K, V),
            {},
            r"queries must be a float32 or float64 tensor .* of shape .*; got list",
        ),
        (
            (Q[0], K, V),
            {},
            r"queries must be a float32 or float64 tensor .* got torch.float64 of shape \(2,\)",
        ),
        ((Q, K.long(), V), {}, "keys must be a float32 or float64 tensor.*got torch.int64"),
        ((Q.float(), K, V), {}, "must have one dtype"),
        ((Q[:, :1], K, V), {}, "queries have 1 features but keys have 2"),
        ((Q, K, V[:3]), {}, "got 3 values and 5 keys"),
        ((Q, K[:0], V[:0]), {}, r"keys must have at least one row and one column; got .*\(0, 2\)"),
        ((Q, K, V), {"bandwidth": 0.0}, "bandwidth must be positive and finite; got 0.0"),
        ((Q, K, V), {"bandwidth": torch.ones(3)}, "bandwidth must be a number or have 2 values"),
        (
            (Q, K, V),
            {"weights": torch.ones(4)},
            "weights must be a tensor with one value per key, 5",
        ),
        ((Q, K, V), {"weights": -torch.ones(5).double()}, "weights must be finite and >= 0"),
        ((Q, K, V), {"leave_one_out": True}, "leave_one_out needs as many queries as keys"),
        ((Q, K, V), {"kernel": "gauss"}, "kernel must be one of"),
        ((Q, K, V), {"empty_neighborhood": "none"}, "empty_neighborhood must be one of"),
        ((Q, K, V), {"algorithm": "magic"}, "algorithm must be 'auto' or one of"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        attention_pooling(*arguments, **options)


def test_a_masked_key_has_no_say_not_even_in_rounding():
    queries, keys = tensors(20, 3, dtype=torch.float32), tensors(30, 3, seed=1, dtype=torch.float32)
    values = tensors(30, 1, seed=2, dtype=torch.float32)
    alone = attention_pooling(queries, keys, values, bandwidth=0.1)
    for far in (1e6, 1e30, float("nan")):
        more_keys = torch.cat([keys, torch.full((1, 3), far)])
        more_values = torch.cat([values, torch.full((1, 1), far)])
        weights = torch.cat([torch.ones(30), torch.zeros(1)])
        pooled = attention_pooling(queries, more_keys, more_values, bandwidth=0.1, weights=weights)
        torch.testing.assert_close(pooled, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["nearest", "mean"])
@pytest.mark.parametrize("kernel", ["tricube", "tophat", "epanechnikov"])
def test_values_have_a_gradient_at_empty_neighborhoods_too(policy, kernel):
    keys = tensors(6, 4)
    values = tensors(6, 2, seed=1).requires_grad_()

    def function(values):
        return attention_pooling(
            keys,
            keys,
            values,
            bandwidth=0.1,
            kernel=kernel,
            leave_one_out=True,
            empty_neighborhood=policy,
        )

    assert torch.autograd.gradcheck(function, values)
    (gradient,) = torch.autograd.grad(function(values).sum(), values)
    assert gradient.sum().item() == pytest.approx(12)


def test_automatic_half_precision_stays_outside():
    queries = 30 * tensors(50, 6, dtype=torch.float32)
    keys, values = tensors(400, 6, seed=1, dtype=torch.float32), tensors(400, 1, seed=2).float()
    for inputs in ((queries, keys, values), (keys, keys, values)):
        expected = attention_pooling(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(attention_pooling(*inputs), expected)


def test_a_module_as_kernel_is_evaluated_without_its_graph():
    class Window(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, u):
            return torch.exp(-self.rate * u * u)

    queries = tensors(5, 2).requires_grad_()
    keys, values, window = tensors(7, 2, seed=1), tensors(7, 1, seed=2), Window()
    pooled = attention_pooling(queries, keys, values, kernel=window)
    torch.testing.assert_close(pooled, softmax_pooling(queries, keys, values))
    pooled.sum().backward()
    assert window.rate.grad is None
    assert torch.isfinite(queries.grad).all()


def masked_softmax(queries, keys, values, mask):
    return softmax_pooling(queries, keys, values, mask=~mask)


WAYS = ["auto", "dense"]  # plain operations of torch, and sums or blocks


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 6), (3, 1, 4, 6), (3, 2, 4, 6), (2, 1, 6)])
def test_a_mask_is_that_of_softmax_attention(shape, way):
    queries, keys, values = tensors(3, 2, 4, 2), tensors(2, 6, 2, seed=1), tensors(6, 2, seed=2)
    mask = tensors(*shape, seed=3) > -0.7
    mask[..., 0] = True
    pooled = attention_pooling(queries, keys, values, mask=mask, algorithm=way)
    expected = masked_softmax(queries, keys, values.expand(3, 2, 6, 2), mask.expand(3, 2, -1, 6))
    torch.testing.assert_close(pooled, expected)


@pytest.mark.parametrize("way", WAYS)
def test_a_mask_of_keys_is_the_others_alone_whatever_is_behind_it(way):
    queries, keys, values = tensors(4, 2), tensors(6, 2, seed=1), tensors(6, 2, seed=2)
    mask = torch.tensor([True, False, True, True, False, True])
    weights = torch.rand(6, generator=torch.Generator().manual_seed(0)).double()
    expected = attention_pooling(queries, keys[mask], values[mask], weights=weights[mask])
    for odd in (1.0, 1e200, torch.nan, torch.inf):
        keys[~mask], values[~mask] = odd, -odd
        for shaped in (mask, mask[None], mask.expand(4, 6)):
            inputs = [tensor.clone().requires_grad_() for tensor in (queries, keys, values)]
            pooled = attention_pooling(*inputs, weights=weights, mask=shaped, algorithm=way)
            torch.testing.assert_close(pooled, expected)
            grads = torch.autograd.grad(pooled.square().sum(), inputs)
            assert all(torch.isfinite(grad).all() for grad in grads)
            assert (grads[1][~mask] == 0).all()
            assert (grads[2][~mask] == 0).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "biweight"])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(5, 5), (3, 5), (5, 3)])
def test_causal_attention_is_the_lower_triangle(n_queries, n_keys, kernel, way):
    points = tensors(n_queries, 2), tensors(n_keys, 2, seed=1), tensors(n_keys, 2, seed=2)
    triangle = torch.ones(n_queries, n_keys).tril() > 0  # as scaled_dot_product_attention
    options = {"kernel": kernel, "bandwidth": 3.0, "algorithm": way}
    torch.testing.assert_close(
        attention_pooling(*points, is_causal=True, **options),
        attention_pooling(*points, mask=triangle, **options),
    )
    both = tensors(n_queries, n_keys, seed=3) > -0.5
    torch.testing.assert_close(
        attention_pooling(*points, is_causal=True, mask=both, **options),
        attention_pooling(*points, mask=triangle & both, **options),
        equal_nan=True,
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "tricube"])
def test_a_query_that_may_attend_to_nothing_follows_the_policy(kernel, way):
    queries, keys, values = tensors(3, 2), tensors(4, 2, seed=1), tensors(4, 1, seed=2)
    values[3] = torch.nan  # a key that nobody sees
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]) > 0
    options = {"kernel": kernel, "bandwidth": 9.0, "algorithm": way}
    for policy, expected in (
        ("nearest", torch.nan),
        ("nan", torch.nan),
        ("mean", values[:3].mean().item()),
    ):
        inputs = [tensor.clone().requires_grad_() for tensor in (queries, keys, values)]
        pooled = attention_pooling(*inputs, mask=mask, empty_neighborhood=policy, **options)
        assert pooled[1].item() == pytest.approx(expected, nan_ok=True)
        alone = attention_pooling(queries[[0, 2]], keys, values, mask=mask[[0, 2]], **options)
        torch.testing.assert_close(pooled[[0, 2]], alone)
        grads = torch.autograd.grad(pooled[[0, 2]].sum(), inputs)
        assert all(torch.isfinite(grad).all() for grad in grads)
    with pytest.raises(ValueError, match="1 of 3 queries"):
        attention_pooling(queries, keys, values, mask=mask, empty_neighborhood="raise", **options)
    for everything in (mask[1], mask[1].expand(3, 4)):
        pooled = attention_pooling(queries, keys, values, mask=everything, **options)
        assert torch.isnan(pooled).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [(), (2,), (0,), (2, 0)])
def test_no_queries_give_no_rows_with_a_gradient(batch, way):
    queries = torch.zeros(*batch, 0, 2).requires_grad_()
    keys, values = torch.rand(5, 2), torch.rand(5, 3).requires_grad_()
    for options in ({}, {"kernel": "biweight"}, {"mask": torch.zeros(0, 5) > 0}):
        pooled = attention_pooling(queries, keys, values, algorithm=way, **options)
        assert pooled.shape == (*batch, 0, 3)
        found = torch.autograd.grad(pooled.sum(), (queries, values))
        assert found[0].shape == queries.shape
        assert (found[1] == 0).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [(0,), (3, 0)])
def test_a_batch_of_nobody_gives_nothing_with_a_gradient(batch, way):
    queries, keys, values = (torch.rand(*batch, n, 2).requires_grad_() for n in (4, 5, 5))
    for options in (
        {},
        {"kernel": "tricube"},
        {"is_causal": True, "weights": torch.ones(5)},
        {"mask": torch.ones(4, 5) > 0, "empty_neighborhood": "raise"},
    ):
        pooled = attention_pooling(queries, keys, values, algorithm=way, **options)
        assert pooled.shape == (*batch, 4, 2)
        found = torch.autograd.grad(pooled.sum(), (queries, keys, values))
        assert [grad.shape for grad in found] == [queries.shape, keys.shape, values.shape]


@pytest.mark.parametrize("way", ["auto", "dense", "blocks", "nufft"])
@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "biweight"])
def test_the_gradient_by_a_weight_of_zero_tells_what_the_key_would_change(
    kernel, leave_one_out, way
):
    if way == "nufft" and kernel != "gaussian":
        pytest.skip("nufft is for the Gaussian")
    n = 300
    keys = torch.rand(n, 2, generator=torch.Generator().manual_seed(0)).double() * 6
    values, grad = tensors(n, 2, seed=1), tensors(n, 2, seed=2)
    weights = torch.rand(n, generator=torch.Generator().manual_seed(3)).double() + 0.1
    weights[(keys[:, 0] > 2) & (keys[:, 0] < 3)] = 0  # a hole: nearer keys have no weight
    queries = keys.clone() if leave_one_out else keys.roll(1, 0) + 0.1
    queries[:3] += 40  # rows whose plain weights underflow
    keys = queries.clone() if leave_one_out else keys
    weights.requires_grad_()

    def by_hand():
        sq = ((queries[:, None] - keys) ** 2).sum(-1) / 0.3**2
        if leave_one_out:
            sq = sq + torch.diag(torch.full((n,), torch.inf, dtype=sq.dtype))
        if kernel == "biweight":
            strengths = (1 - sq).clamp_min(0) ** 2
            nobody = (strengths @ weights.detach() <= 0)[:, None]
        else:
            logs = -sq / 2 if kernel == "gaussian" else -sq.sqrt()
            top = logs.masked_fill(weights == 0, -torch.inf).amax(dim=1, keepdim=True)
            strengths, nobody = (logs - top).clamp_max(700).exp(), torch.zeros(n, 1) > 0
        strengths = strengths * weights
        mass = strengths.sum(dim=1, keepdim=True)
        means = strengths @ values / torch.where(nobody, 1.0, mass)
        return torch.where(nobody, 0.0, means), nobody

    expected, nobody = by_hand()
    pooled = attention_pooling(
        queries, keys, values, weights=weights, kernel=kernel, bandwidth=0.3,
        leave_one_out=leave_one_out, algorithm=way, empty_neighborhood="nan",
    )  # fmt: skip
    found, expected = (
        torch.autograd.grad((torch.where(nobody, 0.0, result) * grad).sum(), weights)[0]
        for result in (pooled, expected)
    )
    assert (expected[weights == 0] != 0).any()
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_on_in_single_precision(dtype):
    inputs = [tensors(50, 2, seed=seed).to(dtype) for seed in range(3)]
    for way in WAYS:
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        pooled = attention_pooling(*leaves, algorithm=way)
        assert pooled.dtype == dtype
        single = [tensor.float().requires_grad_() for tensor in inputs]
        expected = attention_pooling(*single, algorithm="dense")
        torch.testing.assert_close(pooled, expected.to(dtype))
        found = torch.autograd.grad(pooled.sum(), leaves)
        for grad, of_single in zip(found, torch.autograd.grad(expected.sum(), single), strict=True):
            torch.testing.assert_close(grad, of_single.to(dtype))


@pytest.mark.parametrize("way", WAYS)
def test_under_autocast_dtypes_mix_and_values_keep_theirs(way):
    layer = torch.nn.Linear(2, 2)
    keys, values = tensors(9, 2).float(), tensors(9, 1, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded = layer(keys)
        assert embedded.dtype == torch.bfloat16
        pooled = attention_pooling(embedded, keys, values, algorithm=way)
        assert pooled.dtype == torch.float32
        pooled.sum().backward()
    expected = attention_pooling(embedded.detach().float(), keys, values)
    torch.testing.assert_close(pooled, expected)
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "biweight"])
@pytest.mark.parametrize("bandwidth", [1.0, 0.8, torch.tensor([0.5, 0.9]).double()])
def test_many_small_batches_are_what_the_sums_give(kernel, bandwidth):
    queries, keys, values = tensors(40, 2, 2), tensors(40, 6, 2, seed=1), tensors(40, 6, 1, seed=2)
    queries[3] += 1e3
    queries[4] = 1e100
    weights = tensors(40, 6, seed=3).clamp_min(0) + (torch.arange(6) == 0)
    for options in ({}, {"weights": weights}):
        leaves = [tensor.clone().requires_grad_() for tensor in (queries, keys, values)]
        pooled, expected = (
            attention_pooling(*leaves, kernel=kernel, bandwidth=bandwidth, algorithm=way, **options)
            for way in WAYS
        )
        torch.testing.assert_close(pooled, expected, rtol=1e-9, atol=1e-9)
        found, wanted = (
            torch.autograd.grad(result[:4].square().sum(), leaves) for result in (pooled, expected)
        )
        for grad, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(grad, other, rtol=1e-6, atol=1e-8)


def pooling_loss(**options):
    return lambda *points: attention_pooling(*points, **options).nan_to_num().square().sum()


def in_one_graph(function, **how):
    return torch.compile(function, backend="aot_eager", **how)


def with_gradients(function):
    leaves = [tensors(6, 2), tensors(6, 2, seed=1), tensors(6, 1, seed=2)]
    leaves = [tensor.requires_grad_() for tensor in leaves]
    value = function(*leaves)
    return value, *torch.autograd.grad(value, leaves)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": tensors(6).abs(), "mask": tensors(6, 6) > 0},
        {"leave_one_out": True, "bandwidth": torch.tensor([0.5, 2.0]).double()},
        {"kernel": "biweight", "bandwidth": 2.0, "is_causal": True},
        {"kernel": lambda u: torch.exp(-u)},
    ],
    ids=["weights and mask", "leave-one-out", "causal biweight", "callable"],
)
def test_one_compiled_graph_holds_it(options):
    torch._dynamo.reset()
    function = pooling_loss(**options)
    compiled = in_one_graph(function, fullgraph=True)
    torch.testing.assert_close(with_gradients(compiled), with_gradients(function))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's tracer looks at it
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"algorithm": "dense"}, "memory is linear; leave out fullgraph=True"),
        ({"is_causal": True, "algorithm": "dense"}, "memory is linear; leave out fullgraph=True"),
        (
            {"kernel": "tophat", "bandwidth": 9.0, "empty_neighborhood": "raise"},
            "'raise' has to look at values; use 'nan'",
        ),
    ],
    ids=["sums", "blocks", "raise"],
)
def test_what_one_compiled_graph_cannot_hold_leaves_it_or_is_refused(options, reason):
    torch._dynamo.reset()
    function = pooling_loss(**options)
    torch.testing.assert_close(with_gradients(in_one_graph(function)), with_gradients(function))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=reason):
        with_gradients(in_one_graph(function, fullgraph=True))


@pytest.mark.parametrize("policy", ["nearest", "mean", "nan"])
@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "epanechnikov"])
@pytest.mark.parametrize("n", [6, 600])
def test_a_member_of_padding_alone_gets_nan_and_no_gradient(n, kernel, policy):
    x = torch.linspace(-1, 1, 2 * n).reshape(2, n, 1)
    y = (2 * x).requires_grad_()
    mask = torch.ones(2, 1, n, dtype=torch.bool)
    mask[1] = False
    for algorithm in ("auto", "dense", "blocks"):
        pooled = attention_pooling(
            x, x, y, mask=mask, kernel=kernel, empty_neighborhood=policy, algorithm=algorithm
        )
        assert pooled[0].isfinite().all()
        assert pooled[1].isnan().all()
        (slope,) = torch.autograd.grad(pooled.nan_to_num().sum(), y)
        assert slope[0].sum().item() == pytest.approx(n, rel=1e-3)
        assert (slope[1] == 0).all()


@pytest.mark.parametrize("policy", ["nearest", "mean"])
@pytest.mark.parametrize("algorithm", ["auto", "dense"])
def test_a_row_that_is_its_only_key_has_no_gradient(algorithm, policy):
    x = torch.tensor([[0.0], [1.0], [3.0]])
    y, weights = x.clone().requires_grad_(), torch.tensor([1.0, 0, 0], requires_grad=True)
    pooled = attention_pooling(
        x, x, y, weights=weights, leave_one_out=True, algorithm=algorithm, empty_neighborhood=policy
    )
    assert pooled.isnan().flatten().tolist() == [True, False, False]
    slopes = torch.autograd.grad(pooled.nan_to_num().sum(), (y, weights))
    assert slopes[0].flatten().tolist() == [2.0, 0.0, 0.0]
    assert slopes[1].isfinite().all()


def test_an_unknown_algorithm_is_refused_also_where_none_is_chosen():
    x = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="algorithm must be 'auto' or one of"):
        attention_pooling(x, x, x, algorithm="best", is_causal=True)
    with pytest.raises(ValueError, match="algorithm must be 'auto' or one of"):
        attention_pooling(x[:0], x, x, algorithm="best")
