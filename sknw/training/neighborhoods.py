"""Batches of near rows: each row's neighbours are in its batch, so a batch needs no other keys.

A random tree splits the rows at the median along the line between two random ones, again and again.
Its leaves are compact, a fresh tree each time averages their borders out, and the loss within a
batch is close to the loss over all rows, at a cost that does not grow with their number.
"""

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import to_numpy


def random_leaves(points: Tensor, size: int, drawn: np.random.RandomState) -> list[np.ndarray]:
    """Return row numbers of compact groups of at most `size` points (n, q), in random order."""
    open_nodes, leaves = [torch.arange(len(points), device=points.device)], []
    while open_nodes:
        rows = open_nodes.pop()
        if len(rows) <= size:
            leaves.append(to_numpy(rows))
            continue
        here = points[rows]
        one, other = drawn.randint(len(rows), size=2)
        order = (here @ (here[one] - here[other])).argsort(stable=True)  # (m, q) @ (q) -> (m)
        half = len(rows) // 2
        open_nodes += [rows[order[:half]], rows[order[half:]]]
    return [leaves[leaf] for leaf in drawn.permutation(len(leaves))]
