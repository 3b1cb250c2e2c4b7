"""How many pairs matter, estimated on a sample."""

import math
from typing import Any

import torch
from torch import Tensor

from sknw.data.arrays import to_numpy
from sknw.kernels import Kernel
from sknw.kernels.codes import numeric_part
from sknw.sums.problem import Problem
from sknw.support import tuning


def share_of_near_pairs(problem: Problem, dropped: float, block_size: int) -> float:
    """Return about which share of all pairs lies in pairs of blocks that must meet.

    Parameters
    ----------
    dropped : float
        Share of a query's mass that may be dropped.
    block_size : int
        Number of keys of a block, whose extent widens every cutoff radius.
    """
    if problem.keys is None:
        return 1.0
    distances, step = _sampled_distances(problem)
    # the block around a query extends to its `block_size`-th neighbour
    neighbor = min(distances.shape[1] - 1, -(-block_size // step))
    extent = distances[:, neighbor] * min(1.0, block_size / (step * neighbor)) ** (
        1 / problem.n_features
    )
    cutoff = _cutoff(problem.kernel, distances[:, 1], dropped / problem.n_keys)
    return float((distances <= (cutoff + extent)[:, None]).double().mean())


def share_inaccurate(problem: Problem, grid: Any, least_share: float) -> float:
    """Return about which share of queries lies outside a grid's box or has too little mass.

    Parameters
    ----------
    grid : Grid
        Has corners `low` and `high`, (d,), and tells whether its box is the `whole` one.
    least_share : float
        Share of the keys' total weight that a query must reach.
    """
    keys = problem.keys[0].detach()
    outside = 0.0
    if not grid.whole:
        sample = to_numpy(keys[:: -(-len(keys) // tuning.SAMPLED_KEYS)])
        outside = float(((sample < grid.low) | (sample > grid.high)).any(axis=1).mean())
    distances, _ = _sampled_distances(problem)
    share = problem.kernel.profile(distances[:, 1:].square()).mean(dim=1)
    return outside + float((share < least_share).double().mean())


def _sampled_distances(problem: Problem) -> tuple[Tensor, int]:
    """Return the sorted distances of some keys from more keys, and how many keys one stands for.

    Of their numbers: boxes are of those.
    """
    if "distances" not in problem.memo:
        keys = numeric_part(problem.kernel.codes, problem.keys[0].detach())
        step = -(-len(keys) // tuning.SAMPLED_KEYS)
        sample = keys[::step].double()
        queries = sample[:: -(-len(sample) // tuning.SAMPLED_QUERIES)]
        problem.memo["distances"] = torch.cdist(queries, sample).sort(dim=1).values, step
    return problem.memo["distances"]


def _cutoff(kernel: Kernel, nearest: Tensor, share: float) -> Tensor:
    """Return the distance beyond which a key's weight is below a share of the nearest one's."""
    if not math.isinf(kernel.support):
        return torch.full_like(nearest, kernel.support)
    return kernel.squared_cutoff(kernel.log_profile(nearest.square()) + math.log(share)).sqrt()
