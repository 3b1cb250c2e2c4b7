"""Attention pooling on tensors, for use inside torch models."""

import math
from numbers import Real

import torch
from torch import Tensor

from sknw.kernels import as_kernel
from sknw.smoothing.empty import EMPTY_NEIGHBORHOODS
from sknw.smoothing.local_polynomial import check_degree
from sknw.smoothing.pooling.node import mean_of_used, pool, pool_polynomials
from sknw.smoothing.pooling.plain import Attention, holds_somewhere
from sknw.sums.algorithms.choice import named_algorithm

_HALF_PRECISION = (torch.float16, torch.bfloat16)
_DTYPES = (torch.float32, torch.float64, *_HALF_PRECISION)


def attention_pooling(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    bandwidth: float | Tensor = 1.0,
    kernel="gaussian",
    degree: int = 0,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    is_causal: bool = False,
    leave_one_out: bool = False,
    algorithm: str = "auto",
    rtol: float = 1e-8,
    empty_neighborhood: str = "nearest",
) -> Tensor:
    """Pool values by kernel attention, ``Σ_i softmax_i(log K(‖(q − k_i)/h‖)) v_i``.

    Differentiable in queries, keys, values, bandwidth and weights, to any order and in both modes
    of torch; memory is linear in the numbers of queries and keys, forward and backward. The user
    guide says what works with `torch.func`, `torch.compile` and automatic half precision.

    Parameters
    ----------
    queries : Tensor of shape (..., n_queries, n_features)
        Queries.
    keys : Tensor of shape (..., n_keys, n_features)
        Keys, at least one.
    values : Tensor of shape (..., n_keys, n_values)
        Values. Batch dimensions of the three broadcast. The three have one dtype, unless automatic
        half precision is on. Half precision is computed on in float32.
    bandwidth : float or Tensor of shape () or (n_features,), default=1.0
        Width of the window, > 0.
    kernel : str or callable, default="gaussian"
        As in `NadarayaWatsonRegressor`. Parameters inside a callable get no gradient.
    degree : int, default=0
        Degree of the local polynomials, 0 to 3, as in `NadarayaWatsonRegressor`; 1 is local linear
        attention. Above 0 there are first derivatives in reverse mode only, a mask is one for all
        queries, and sums are in float64.
    weights : Tensor of shape (..., n_keys), default=None
        Weights of the keys, >= 0; a key of weight zero counts for nothing, and the gradient by its
        weight tells what it would change. Batch dimensions broadcast to those of the three above.
    mask : bool Tensor of shape (..., n_queries, n_keys) or (n_keys,), default=None
        True where a query may attend to a key, as in
        `torch.nn.functional.scaled_dot_product_attention`. One for all queries, (n_keys,) or
        (..., 1, n_keys), costs nothing. What no query may attend to may hold any number, NaN
        too.
    is_causal : bool, default=False
        Whether query i attends to the keys up to key i only.
    leave_one_out : bool, default=False
        Whether query i leaves out key i; there must be as many queries as keys.
    algorithm : str, default="auto"
        As in `NadarayaWatsonRegressor`. With a mask of queries and keys, or `is_causal`, all pairs
        are evaluated whatever it says.
    rtol : float, default=1e-8
        As in `NadarayaWatsonRegressor`.
    empty_neighborhood : {"nearest", "mean", "nan", "raise"}, default="nearest"
        What a query without a key in reach gets; gradients flow to values alone there. A query that
        may attend to no key at all has no nearest one: "nearest" is NaN, "mean" the mean over all
        keys that some query may attend to, NaN without any.

    Returns
    -------
    Tensor of shape (..., n_queries, n_values)
        Pooled values, in the dtype of `values`; no rows for no queries.

    Raises
    ------
    ValueError
        If shapes do not agree, or the bandwidth or a weight is not as described.
    RuntimeError
        If other derivatives of a degree above zero are asked for.

    Examples
    --------
    >>> import torch
    >>> from sknw.functional import attention_pooling
    >>> keys = torch.tensor([[0.0], [1.0], [2.0]])
    >>> attention_pooling(keys[:1], keys, 10 * keys, bandwidth=0.5)
    tensor([[1.1976]])
    >>> attention_pooling(
    ...     keys, keys, 10 * keys, mask=torch.tensor([True, True, False])
    ... )
    tensor([[3.7754],
            [6.2246],
            [8.1757]])
    >>> attention_pooling(keys[:1], keys, 10 * keys, degree=1).abs().round(
    ...     decimals=4
    ... )
    tensor([[0.]])
    """
    _check(queries, keys, values, leave_one_out, empty_neighborhood)
    if not isinstance(is_causal, bool):
        raise ValueError(f"is_causal must be True or False; got {is_causal!r}.")
    check_degree(degree)
    if algorithm != "auto":
        named_algorithm(algorithm)
    if not isinstance(rtol, Real) or not 0 < rtol < 1:
        raise ValueError(f"rtol must be a number between 0 and 1; got {rtol!r}.")
    batch = _batch_shape(queries, keys, values)
    if weights is not None:
        _check_weights(weights, keys.shape[-2], values.dtype)
        _check_weights_batch(weights, queries, keys, values, batch)
    if mask is not None:
        _check_mask(mask, (queries.shape[-2], keys.shape[-2]), batch)
    attention = Attention(
        as_kernel(kernel),
        torch.finfo(queries.dtype).eps,
        empty_neighborhood,
        leave_one_out=leave_one_out,
        is_causal=is_causal,
    )
    given, dtype = values.dtype, _working_dtype(queries, keys, values)
    queries, keys, values = (tensor.to(dtype) for tensor in (queries, keys, values))
    bandwidth = _checked_bandwidth(bandwidth, queries)
    weights = None if weights is None else weights.to(dtype)
    weights, mask, visible = _masked_weights(weights, mask, keys)
    if weights is not None:
        keys, values = _sanitised(keys, values, weights, visible, bandwidth)
    if degree:
        _check_degree_goes(degree, mask, is_causal)
        pooled = pool_polynomials(
            attention,
            degree,
            *(_flat(tensor, batch) for tensor in (queries, keys, values)),
            None if weights is None else _flat(weights[..., None], batch)[..., 0],
            bandwidth=bandwidth,
            algorithm=algorithm,
            rtol=rtol,
        )
        return pooled.to(given).reshape(*batch, *pooled.shape[-2:])
    pooled = pool(
        attention,
        _flat(queries, batch),
        _flat(keys, batch),
        _flat(values, batch),
        None if weights is None else _flat(weights[..., None], batch)[..., 0],
        None if mask is None else _flat(mask, batch),
        bandwidth=bandwidth,
        algorithm=algorithm,
        rtol=rtol,
    )
    return pooled.to(given).reshape(*batch, *pooled.shape[-2:])


def _check_degree_goes(degree: int, mask: Tensor | None, is_causal: bool) -> None:
    if mask is not None or is_causal:
        what = "is_causal=True" if is_causal else f"a mask of shape {tuple(mask.shape)}"
        raise ValueError(
            f"degree={degree} goes with a mask that is one for all queries, (n_keys,) or "
            f"(..., 1, n_keys); got {what}. Use degree=0."
        )


def _working_dtype(*tensors: Tensor) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return torch.float32 if dtype in _HALF_PRECISION else dtype


def _masked_weights(
    weights: Tensor | None, mask: Tensor | None, keys: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the weights, a mask (..., n_queries, n_keys) or None, and which keys anybody sees.

    A mask that is one for all queries becomes weights of zero.
    """
    if mask is None:
        return weights, None, None
    if mask.ndim == 1:
        mask = mask[None]
    visible = mask.any(dim=-2)
    weights = keys.new_ones(keys.shape[-2]) if weights is None else weights
    weights = torch.where(visible, weights, 0.0)
    return weights, None if mask.shape[-2] == 1 else mask, visible


def _sanitised(
    keys: Tensor,
    values: Tensor,
    weights: Tensor,
    visible: Tensor | None,
    bandwidth: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Return keys and values without what has no say.

    A key of weight zero stays, since its weight has a gradient, unless it is so far away or so odd
    that rounding would spread it.
    """
    in_use = (weights > 0)[..., None]
    centre = mean_of_used(keys, weights)
    farthest = torch.finfo(keys.dtype).max ** 0.25
    near = (((keys - centre) / bandwidth).detach().abs() < farthest).all(dim=-1, keepdim=True)
    sound = near & torch.isfinite(values.detach()).all(dim=-1, keepdim=True)
    keep = in_use | (sound if visible is None else sound & visible[..., None])
    return torch.where(keep, keys, centre), torch.where(keep, values, 0.0)


def _flat(tensor: Tensor, batch: torch.Size) -> Tensor:
    """Broadcast to the batch shape and flatten it to one dimension."""
    if tensor.shape[:-2] == batch and len(batch) == 1:
        return tensor
    rows, columns = tensor.shape[-2:]
    return tensor.expand(*batch, rows, columns).reshape(batch.numel(), rows, columns)


def _batch_shape(queries: Tensor, keys: Tensor, values: Tensor) -> torch.Size:
    shapes = [tensor.shape[:-2] for tensor in (queries, keys, values)]
    if shapes[0] == shapes[1] == shapes[2]:
        return shapes[0]
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(
            "The batch dimensions of queries, keys and values must broadcast; got "
            f"{', '.join(str(tuple(shape)) for shape in shapes)}."
        ) from None


def _checked_bandwidth(bandwidth: float | Tensor, queries: Tensor) -> float | Tensor:
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, (Real, Tensor)):
        raise ValueError(
            "bandwidth must be a positive number or a tensor with one per feature; got "
            f"{bandwidth!r}."
        )
    if isinstance(bandwidth, Real):
        bandwidth = float(bandwidth)
        is_bad = not 0 < bandwidth < math.inf
    else:
        if bandwidth.ndim > 1 or (bandwidth.ndim == 1 and len(bandwidth) != queries.shape[-1]):
            raise ValueError(
                f"bandwidth must be a number or have {queries.shape[-1]} values, one per feature; "
                f"got shape {tuple(bandwidth.shape)}."
            )
        bandwidth = bandwidth.to(dtype=queries.dtype, device=queries.device)
        is_bad = holds_somewhere(~torch.isfinite(bandwidth) | (bandwidth <= 0), if_hidden=False)
    if is_bad:
        got = bandwidth.tolist() if isinstance(bandwidth, Tensor) else bandwidth
        raise ValueError(f"bandwidth must be positive and finite; got {got}.")
    return bandwidth


def _check(queries, keys, values, leave_one_out, empty_neighborhood) -> None:
    named = {"queries": queries, "keys": keys, "values": values}
    for name, tensor in named.items():
        _check_points(name, tensor)
    is_mixed = len({tensor.dtype for tensor in named.values()}) > 1
    if is_mixed and not torch.is_autocast_enabled(queries.device.type):
        raise ValueError(
            "queries, keys and values must have one dtype; got "
            f"{[str(tensor.dtype) for tensor in named.values()]}."
        )
    if queries.shape[-1] != keys.shape[-1]:
        raise ValueError(
            f"queries have {queries.shape[-1]} features but keys have {keys.shape[-1]}."
        )
    n_keys = keys.shape[-2]
    if values.shape[-2] != n_keys:
        raise ValueError(
            f"There must be as many values as keys; got {values.shape[-2]} values and "
            f"{n_keys} keys."
        )
    if leave_one_out and queries.shape[-2] != n_keys:
        raise ValueError(
            f"leave_one_out needs as many queries as keys; got {queries.shape[-2]} and {n_keys}."
        )
    if empty_neighborhood not in EMPTY_NEIGHBORHOODS:
        raise ValueError(
            f"empty_neighborhood must be one of {EMPTY_NEIGHBORHOODS}; got {empty_neighborhood!r}."
        )


def _check_points(name: str, tensor: Tensor) -> None:
    expected = (
        f"{name} must be a float32 or float64 tensor (or a float16 or bfloat16 one) of shape "
        "(..., rows, columns)"
    )
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{expected}; got {type(tensor).__name__}.")
    if tensor.ndim < 2 or tensor.dtype not in _DTYPES:
        raise ValueError(f"{expected}; got {tensor.dtype} of shape {tuple(tensor.shape)}.")
    n_rows, n_columns = tensor.shape[-2:]
    if n_columns == 0 or (n_rows == 0 and name != "queries"):
        raise ValueError(
            f"{name} must have at least one {'row and one ' if name != 'queries' else ''}column; "
            f"got shape {tuple(tensor.shape)}."
        )


def _check_weights(weights: Tensor, n_keys: int, dtype: torch.dtype) -> None:
    if not isinstance(weights, Tensor) or weights.ndim < 1 or weights.shape[-1] != n_keys:
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(f"weights must be a tensor with one value per key, {n_keys}; got {got}.")
    mixed = torch.is_autocast_enabled(weights.device.type) and weights.dtype in _DTYPES
    if weights.dtype != dtype and not mixed:
        raise ValueError(
            f"weights must have the dtype of the values, {dtype}; got {weights.dtype}."
        )
    if holds_somewhere(~torch.isfinite(weights) | (weights < 0), if_hidden=False):
        raise ValueError(
            "weights must be finite and >= 0; got values from "
            f"{weights.min():g} to {weights.max():g}."
        )
    if holds_somewhere(weights.sum(dim=-1) == 0, if_hidden=False):
        raise ValueError("weights must have a positive value in every batch; got all zeros in one.")


def _check_weights_batch(weights, queries, keys, values, batch: torch.Size) -> None:
    if _fits(weights.shape[:-1], batch):
        return
    shapes = [tensor.shape[:-2] for tensor in (queries, keys, values)] + [weights.shape[:-1]]
    raise ValueError(
        "The batch dimensions of queries, keys, values and weights must broadcast; got "
        f"{', '.join(str(tuple(shape)) for shape in shapes)}, and those of weights must fit the "
        "others'. What differs from query to query is a mask."
    )


def _check_mask(mask: Tensor, shape: tuple[int, int], batch: torch.Size) -> None:
    expected = (
        f"mask must be a boolean tensor of shape {shape}, or {shape[1:]} for all queries alike, "
        "with batch dimensions that fit the others'; True where a query may attend to a key"
    )
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"{expected}; got {got}.")
    is_per_key = mask.shape == shape[1:]
    is_per_pair = mask.ndim >= 2 and mask.shape[-1] == shape[1] and mask.shape[-2] in (1, shape[0])
    if not (is_per_key or (is_per_pair and _fits(mask.shape[:-2], batch))):
        raise ValueError(f"{expected}; got shape {tuple(mask.shape)}.")


def _fits(shape: torch.Size, batch: torch.Size) -> bool:
    """Whether batch dimensions broadcast to those of the batch, without enlarging them."""
    try:
        return torch.broadcast_shapes(shape, batch) == batch
    except RuntimeError:
        return False
