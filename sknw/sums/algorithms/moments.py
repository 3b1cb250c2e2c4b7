"""Gradients of kernel sums as kernel sums, for algorithms that have nothing better.

With ``S_i = Σ_j K(s_ij) v_j``, ``s_ij = |q_i − z_j|²`` and ``G = dL/dS``,

    dL/dq_i = 2 Σ_c G_ic (q_i Σ_j K'(s_ij) v_jc − Σ_j K'(s_ij) v_jc z_j)
    dL/dz_j = 2 Σ_c v_jc (z_j Σ_i K'(s_ij) G_ic − Σ_i K'(s_ij) G_ic q_i)
    dL/dv_j = Σ_i K(s_ij) G_i

that is, sums of the extra columns ``v ⊗ z``, and sums with the roles of queries and keys swapped.
"""

import torch
from torch import Tensor


def swapped_exclude(exclude: Tensor | None, n_keys: int) -> Tensor | None:
    """For every key the query that leaves it out, or -1; no key is left out twice."""
    if exclude is None:
        return None
    swapped = exclude.new_full((n_keys,), -1)
    has_one = exclude >= 0
    swapped[exclude[has_one]] = has_one.nonzero().squeeze(1)
    return swapped


def both_ways(grad: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``[G, v]`` and ``[v, G]``: over one set, both ways of a pair in one symmetric pull."""
    return torch.cat([grad, values], dim=1), torch.cat([values, grad], dim=1)


def with_moments(columns: Tensor, points: Tensor) -> Tensor:
    """Append the columns ``v ⊗ z``: (b, k, n) and (b, n, d) to (b, k (1 + d), n)."""
    moments = columns[:, :, None, :] * points.mT[:, None]  # (b, k, d, n)
    return torch.cat([columns, moments.flatten(1, 2)], dim=1)


def contract(points: Tensor, weights: Tensor, sums: Tensor) -> Tensor:
    """Return ``2 Σ_c weights_c (points Σ K' column_c − Σ K' column_c ⊗ others)``.

    From points (b, n, d), weights (b, k, n) and sums (b, k (1 + d), n), to (b, n, d).
    """
    k, weights = weights.shape[1], weights.to(sums.dtype)
    moments = sums[:, k:].unflatten(1, (k, -1))  # (b, k, d, n)
    own = (weights * sums[:, :k]).sum(dim=1)[..., None] * points
    return 2 * (own - torch.einsum("bkn,bkdn->bnd", weights, moments))
