"""Attention pooling on tensors, for use inside torch models."""

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
        As in `NadarayaWatsonRegressor`.
    weights : Tensor of shape (..., n_keys), default=None
        Weights of the keys, >= 0; zero masks a key out.
    leave_one_out : bool, default=False
        Whether query i leaves out key i; there must be as many queries as keys.
    algorithm : str, default="auto"
        As in `NadarayaWatsonRegressor`.
    empty_neighborhood : {"nearest", "mean", "nan", "raise"}, default="nearest"
        What a query without a key in reach gets; no gradient flows there.

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
    batch = torch.broadcast_shapes(queries.shape[:-2], keys.shape[:-2], values.shape[:-2])
    if weights is None:
        weights = torch.ones_like(values[..., 0])
    if not bool(torch.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights must be finite and >= 0.")
    # shifting all points alike changes no distance and keeps squares small
    centre = keys.detach().mean(dim=-2, keepdim=True)
    pooled = smooth(
        as_kernel(kernel),
        _flat((queries - centre) / bandwidth, batch),
        _flat((keys - centre) / bandwidth, batch),
        _flat(values, batch),
        _flat(weights[..., None], batch)[..., 0],
        exclude=torch.arange(keys.shape[-2], device=keys.device) if leave_one_out else None,
        algorithm=algorithm,
        empty_neighborhood=empty_neighborhood,
    )
    return pooled.to(values.dtype).reshape(*batch, *pooled.shape[-2:])


def _flat(tensor: Tensor, batch: torch.Size) -> Tensor:
    """Broadcast to the batch shape and flatten it to one dimension."""
    rows, columns = tensor.shape[-2:]
    return tensor.expand(*batch, rows, columns).reshape(-1, rows, columns)


def _checked_bandwidth(bandwidth: float | Tensor, queries: Tensor) -> Tensor:
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
        if not isinstance(tensor, Tensor) or tensor.ndim < 2 or not tensor.is_floating_point():
            got = getattr(tensor, "dtype", type(tensor).__name__), getattr(tensor, "shape", "")
            raise ValueError(
                f"{name} must be a floating-point tensor of at least 2 dimensions; got {got}."
            )
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
    if n_keys == 0 or values.shape[-2] != n_keys:
        raise ValueError(
            f"There must be at least one key and as many values; got {n_keys} keys and "
            f"{values.shape[-2]} values."
        )
    if weights is not None and (not isinstance(weights, Tensor) or weights.shape[-1] != n_keys):
        raise ValueError(f"weights must be a tensor with one value per key, {n_keys}.")
    if leave_one_out and queries.shape[-2] != n_keys:
        raise ValueError(
            f"leave_one_out needs as many queries as keys; got {queries.shape[-2]} and {n_keys}."
        )
    if empty_neighborhood not in EMPTY_NEIGHBORHOODS:
        raise ValueError(
            f"empty_neighborhood must be one of {EMPTY_NEIGHBORHOODS}; got {empty_neighborhood!r}."
        )
