"""Gradients of estimates by their queries.

The local constant is ``m(q) = Σ_j α_j y_j``, and its gradient

    ∇m = Σ_j α_j g_j (y_j − m)    with  g_j = ∇ log K_j = 2 (log K)'(s_j) (q − z_j)

where s_j is the squared distance. Algorithms have it as sums under the slope of the kernel
(`Algorithm.ratio_gradients`). Where weights underflow it is summed pair by pair, and then less the
largest weight's ``g_a``: since ``Σ_j α_j (y_j − m) = 0``, one vector may be taken from all g_j.
What is left is as small as the other weights, and has all its digits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sknw.data.arrays import accumulator_dtype
from sknw.kernels import Kernel
from sknw.kernels.codes import numeric_part
from sknw.smoothing.empty import refuse_if_raising
from sknw.sums.geometry.distances import pair_distances


@dataclass(frozen=True, eq=False)
class Gradient:
    """Gradients of the estimates by their queries.

    Parameters
    ----------
    by_points : Tensor of shape (m, d, k)
        By the numbers of the points; codes of categories have none.
    n_empty : int
        Number of queries without a key in reach.
    report : dict
        How the sums were done: see `sknw.sums.engine`.
    """

    by_points: Tensor
    n_empty: int
    report: dict


def fill_empty_gradients(policy: str, gradients: Tensor, empty: Tensor) -> int:
    """Overwrite those of empty rows (m,), and return their number.

    The nearest key's value and the mean of all are locally constant.
    """
    n_empty = int(empty.sum())
    refuse_if_raising(policy, n_empty, len(gradients))
    gradients[empty] = torch.nan if policy == "nan" else 0.0
    return n_empty


def gradients_of_attention(
    kernel: Kernel, queries: Tensor, keys: Tensor, attention: Tensor, values: Tensor
) -> Tensor:
    """Return gradients (m, d, k) for attention weights (m, n) and values (n, k).

    Queries (m, d) and keys (n, d) may have codes of categories, which get none.
    """
    dtype = accumulator_dtype(keys.device)
    codes = kernel.codes
    queries, keys = queries.to(dtype), keys.to(dtype)
    squares = pair_distances(codes and codes.without_exact, queries, keys)
    if kernel.tail is None:
        weights = kernel.profile(squares.clone())
        rates = kernel.profile_derivative(squares) / torch.where(weights > 0, weights, 1.0)
    else:
        rates = kernel.log_profile_derivative(squares)
    queries, keys = (numeric_part(codes, points) for points in (queries, keys))
    return gradients_by_rates(queries, keys, attention.to(dtype), rates, values.to(dtype))


def gradients_by_rates(
    queries: Tensor, keys: Tensor, attention: Tensor, rates: Tensor, values: Tensor
) -> Tensor:
    """Return ``2 Σ_j α_j r_j (q − z_j) (y_j − m)``, (m, d, k), less what cancels.

    Parameters
    ----------
    queries, keys : Tensor of shape (m, d) and (n, d)
        Points.
    attention : Tensor of shape (m, n)
        Weights α that sum to one, or are all zero.
    rates : Tensor of shape (m, n)
        Derivatives r of the logarithms of the weights by the squared distances.
    values : Tensor of shape (n, k)
        Values y.
    """
    anchor = attention.argmax(dim=1, keepdim=True)
    at_anchor = rates.gather(1, anchor)
    residuals = _residuals(attention, values, anchor)
    gradients = queries.new_zeros((*queries.shape, values.shape[1]))
    for f in range(queries.shape[1]):
        near = keys[anchor, f]  # (m, 1)
        pulls = rates * (near - keys[:, f]) + (rates - at_anchor) * (queries[:, f, None] - near)
        for k, residual in enumerate(residuals):
            gradients[:, f, k] = 2 * (attention * residual * pulls).sum(dim=1)
    return gradients


def gradients_by_slopes(
    queries: Tensor, keys: Tensor, attention: Tensor, slopes: Tensor, values: Tensor
) -> Tensor:
    """Return ``2 Σ_j w_j (q − z_j) (y_j − m)``, (m, d, k), for derivatives w (m, n) of weights.

    They are relative to the mass, as α is; the others as in `gradients_by_rates`.
    """
    residuals = _residuals(attention, values, attention.argmax(dim=1, keepdim=True))
    gradients = queries.new_zeros((*queries.shape, values.shape[1]))
    for f in range(queries.shape[1]):
        pulls = slopes * (queries[:, f, None] - keys[:, f])
        for k, residual in enumerate(residuals):
            gradients[:, f, k] = 2 * (pulls * residual).sum(dim=1)
    return gradients


def _residuals(attention: Tensor, values: Tensor, anchor: Tensor) -> list[Tensor]:
    """Return ``y_j − m`` (m, n) of each output, as differences from the anchor's (m, 1) value."""
    found = []
    for of_output in values.mT:
        differences = of_output - of_output[anchor]
        found.append(differences - (attention * differences).sum(dim=1, keepdim=True))
    return found
