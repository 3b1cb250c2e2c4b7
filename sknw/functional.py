"""Attention pooling on tensors, for use inside torch models."""

from numbers import Real

import torch
from torch import Tensor

from sknw.kernels import as_kernel
from sknw.smoother import EMPTY_NEIGHBORHOODS, smooth


def attention_pooling(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    bandwidth: float | Tensor = 1.0,
    kernel="gaussian",
    weights: Tensor | None = None,
    leave_one_out: bool = False,
    algorithm: str = "auto",
    rtol: float = 1e-8,
    empty_neighborhood: str = "nearest",
) -> Tensor:
    """Pool values by kernel attention, ``Σ_i softmax_i(log K(‖(q − k_i)/h‖)) v_i``.

    Differentiable in queries, keys, values, bandwidth and weights; memory is linear in the numbers
    of queries and keys, forward and backward.

    Parameters
    ----------
    queries : Tensor of shape (..., n_queries, n_features)
        Queries.
    keys : Tensor of shape (..., n_keys, n_features)
        Keys.
    values : Tensor of shape (..., n_keys, n_values)
        Values. Batch dimensions of the three broadcast.
    bandwidth : float or Tensor of shape () or (n_features,), default=1.0
        Width of the window, > 0.
    kernel : str or callable, default="gaussian"
        As in `NadarayaWatsonRegressor`. Parameters inside a callable get no gradient.
    weights : Tensor of shape (..., n_keys), default=None
        Weights of the keys, >= 0; zero masks a key out.
    leave_one_out : bool, default=False
        Whether query i leaves out key i; there must be as many queries as keys.
    algorithm : str, default="auto"
        As in `NadarayaWatsonRegressor`.
    rtol : float, default=1e-8
        As in `NadarayaWatsonRegressor`.
    empty_neighborhood : {"nearest", "mean", "nan", "raise"}, default="nearest"
        What a query without a key in reach gets; gradients flow to values alone there.

    Returns
    -------
    Tensor of shape (..., n_queries, n_values)
        Pooled values, in the dtype of `values`.

    Raises
    ------
    ValueError
        If shapes do not agree, or the bandwidth or a weight is not as described.

    Examples
    --------
    >>> import torch
    >>> from sknw.functional import attention_pooling
    >>> keys = torch.tensor([[0.0], [1.0], [2.0]])
    >>> attention_pooling(keys[:1], keys, 10 * keys, bandwidth=0.5)
    tensor([[1.1976]])
    """
    _check(queries, keys, values, weights, leave_one_out, empty_neighborhood)
    bandwidth = _checked_bandwidth(bandwidth, queries)
    if not isinstance(rtol, Real) or not 0 < rtol < 1:
        raise ValueError(f"rtol must be a number between 0 and 1; got {rtol!r}.")
    weights = torch.ones_like(values[..., 0]) if weights is None else weights
    batch = _batch_shape(queries, keys, values, weights)
    in_use = (weights > 0)[..., None]
    # shifting all points alike changes no distance and keeps squares small
    centre = torch.where(in_use, keys.detach(), 0.0).sum(dim=-2, keepdim=True)
    centre = centre / in_use.sum(dim=-2, keepdim=True)
    keys = torch.where(in_use, keys, centre)  # a masked key has no say, not even in rounding
    values = torch.where(in_use, values, 0.0)
    zero = _flat(-centre.detach() / bandwidth.detach(), batch)[:, 0]
    pooled = smooth(
        as_kernel(kernel).seeing(zero, torch.finfo(queries.dtype).eps),
        _flat((queries - centre) / bandwidth, batch),
        _flat((keys - centre) / bandwidth, batch),
        _flat(values, batch),
        _flat(weights[..., None], batch)[..., 0],
        exclude=torch.arange(keys.shape[-2], device=keys.device) if leave_one_out else None,
        algorithm=algorithm,
        rtol=rtol,
        empty_neighborhood=empty_neighborhood,
    )
    return pooled.to(values.dtype).reshape(*batch, *pooled.shape[-2:])


def _flat(tensor: Tensor, batch: torch.Size) -> Tensor:
    """Broadcast to the batch shape and flatten it to one dimension."""
    rows, columns = tensor.shape[-2:]
    return tensor.expand(*batch, rows, columns).reshape(-1, rows, columns)


def _batch_shape(queries: Tensor, keys: Tensor, values: Tensor, weights: Tensor) -> torch.Size:
    shapes = [tensor.shape[:-2] for tensor in (queries, keys, values)] + [weights.shape[:-1]]
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(
            "The batch dimensions of queries, keys, values and weights must broadcast; got "
            f"{', '.join(str(tuple(shape)) for shape in shapes)}."
        ) from None


def _checked_bandwidth(bandwidth: float | Tensor, queries: Tensor) -> Tensor:
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, (Real, Tensor)):
        raise ValueError(
            "bandwidth must be a positive number or a tensor with one per feature; got "
            f"{bandwidth!r}."
        )
    bandwidth = torch.as_tensor(bandwidth, dtype=queries.dtype, device=queries.device)
    if bandwidth.ndim > 1 or (bandwidth.ndim == 1 and len(bandwidth) != queries.shape[-1]):
        raise ValueError(
            f"bandwidth must be a number or have {queries.shape[-1]} values, one per feature; "
            f"got shape {tuple(bandwidth.shape)}."
        )
    if not bool(torch.isfinite(bandwidth).all() and (bandwidth > 0).all()):
        raise ValueError(f"bandwidth must be positive and finite; got {bandwidth.tolist()}.")
    return bandwidth


def _check(queries, keys, values, weights, leave_one_out, empty_neighborhood) -> None:
    named = {"queries": queries, "keys": keys, "values": values}
    for name, tensor in named.items():
        _check_points(name, tensor)
    if len({tensor.dtype for tensor in named.values()}) > 1:
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
    if weights is not None:
        _check_weights(weights, n_keys, values.dtype)
    if leave_one_out and queries.shape[-2] != n_keys:
        raise ValueError(
            f"leave_one_out needs as many queries as keys; got {queries.shape[-2]} and {n_keys}."
        )
    if empty_neighborhood not in EMPTY_NEIGHBORHOODS:
        raise ValueError(
            f"empty_neighborhood must be one of {EMPTY_NEIGHBORHOODS}; got {empty_neighborhood!r}."
        )


def _check_points(name: str, tensor: Tensor) -> None:
    expected = f"{name} must be a float32 or float64 tensor of shape (..., rows, columns)"
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{expected}; got {type(tensor).__name__}.")
    if tensor.ndim < 2 or tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{expected}; got {tensor.dtype} of shape {tuple(tensor.shape)}.")
    if 0 in tensor.shape:
        raise ValueError(f"{expected}, none of them 0; got shape {tuple(tensor.shape)}.")


def _check_weights(weights: Tensor, n_keys: int, dtype: torch.dtype) -> None:
    if not isinstance(weights, Tensor) or weights.ndim < 1 or weights.shape[-1] != n_keys:
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(f"weights must be a tensor with one value per key, {n_keys}; got {got}.")
    if weights.dtype != dtype:
        raise ValueError(
            f"weights must have the dtype of the values, {dtype}; got {weights.dtype}."
        )
    if not bool(torch.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(
            "weights must be finite and >= 0; got values from "
            f"{weights.min():g} to {weights.max():g}."
        )
    if bool((weights.sum(dim=-1) == 0).any()):
        raise ValueError("weights must have a positive value in every batch; got all zeros in one.")
