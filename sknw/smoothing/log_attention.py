"""Attention weights from logarithms, for queries whose weights would underflow.

The weights of keys may span more than a floating-point number does: a row of weight 1e-300 beside
one of 1e300 still is all that a remote query sees. The columns of kernel sums hold such weights at
`least_weight`, which is right wherever a heavier key is in reach. Where none is, logarithms of the
weights are added to those of the kernel, pair by pair. The same serves where the *squares* of
weights underflow.
"""

import torch
from torch import Tensor

from sknw.data.arrays import accumulator_dtype
from sknw.kernels import Kernel
from sknw.sums.geometry.distances import edge_allowance, pair_distances, settle_edges
from sknw.sums.tails import KeySet, TorchRows


def profile_of_pairs(kernel: Kernel, queries: Tensor, keys: Tensor) -> Tensor:
    """Return the kernel of all pairs, (m, n)."""
    codes = kernel.codes
    sq = pair_distances(codes, queries, keys)
    if kernel.has_edge:
        edges = (edge_allowance(kernel, rows[None])[0] for rows in (queries, keys))
        return kernel.profile(settle_edges(sq, *edges))
    exact = None if codes is None else codes.is_exact(sq)
    weights = kernel.profile(sq)
    # not even the smallest number where categories must match
    return weights if exact is None else weights.masked_fill_(exact, 0.0)


def log_attention(
    kernel: Kernel, keys: Tensor, log_weights: Tensor, queries: Tensor, exclude: Tensor | None
) -> Tensor:
    """Return attention weights (m, n) of queries (m, d); rows without a neighbour are zero.

    Parameters
    ----------
    kernel : Kernel
        The window.
    keys : Tensor of shape (n, d)
        Keys in bandwidth units.
    log_weights : Tensor of shape (n,)
        Logarithms of the keys' weights.
    queries : Tensor of shape (m, d)
        Queries in bandwidth units.
    exclude : Tensor of shape (m,) or None
        Key that a query leaves out, or -1.
    """
    dtype = accumulator_dtype(keys.device)
    if kernel.tail is None:
        logs = profile_of_pairs(kernel, queries, keys).to(dtype).log()
        if exclude is not None:
            rows = (exclude >= 0).nonzero().squeeze(1)
            logs[rows, exclude[rows]] = -torch.inf
    else:
        key_set = KeySet(keys, torch.ones_like(keys[:, 0]), kernel.codes)
        rows = TorchRows.of(key_set, queries, exclude)
        logs = torch.cat([tile.to(dtype) for _, tile in rows.log_tiles(kernel)], dim=1)
    logs += log_weights
    return logs.softmax(dim=1).nan_to_num(0.0)
