"""About how long things take: the constants behind ``algorithm="auto"``, in one table.

Measured on two AVX-512 cores (see docs/benchmarks.md). Only their ratios matter, and these
only where algorithms are far apart.
"""

import torch

from sknw.sums.evaluators.registry import likely_evaluator
from sknw.sums.problem import Problem
from sknw.support.threads import n_threads

# Nanoseconds of one core for a pair: at all, for each feature, for each value column.
_PAIR = {
    ("fused", torch.float64): (0.45, 0.06, 0.03),
    ("fused", torch.float32): (0.15, 0.03, 0.02),
    ("torch", torch.float64): (3.0, 0.4, 0.2),
    ("torch", torch.float32): (1.5, 0.2, 0.1),
}
_PRODUCT = 1.0  # for each monomial of moments
_CALL = {"fused": 100e-6, "torch": 100e-6}  # seconds for a call
_PULL = 2.0  # a gradient takes so many times its sums
_IN_RUNS = 1.5  # a pair in short runs of keys takes so many times one of a whole set
_LAYOUT = 100e-9  # seconds of one core to sort a point along one feature
_BOX_PAIR = 1e-9  # to compare a pair of boxes along one feature
_SPREAD = {1: 45e-9, 2: 140e-9, 3: 800e-9}  # to spread a point onto a grid of so many axes
_GRID_POINT = 30e-9  # of an FFT, which few rows leave to one core
_ACCELERATOR = 100  # an accelerator is so many times a core


def seconds_of_pairs(problem: Problem, n_pairs: float) -> float:
    """Return the time that the tiles of so many pairs take."""
    place, n_batch = (problem.dtype, problem.device), problem.n_batch
    n_pairs_each = problem.n_queries * problem.n_keys
    name = likely_evaluator(problem.kernel, *place, n_pairs_each, n_batch, problem.order).name
    pair, feature, column = _PAIR[name, problem.dtype]
    nanoseconds = pair + feature * problem.n_features + column * problem.n_columns
    # a monomial more is a product more, and as many sums
    nanoseconds += (problem.n_monomials - 1) * (_PRODUCT + column * problem.n_columns)
    passes = 1 + _PULL * problem.needs_grad
    return _CALL[name] + n_pairs * nanoseconds * 1e-9 * passes / speed(problem)


def seconds_of_runs(problem: Problem, n_pairs: float) -> float:
    """Return the time that so many pairs take in short runs of keys."""
    return seconds_of_pairs(problem, _IN_RUNS * n_pairs)


def seconds_of_layouts(problem: Problem, n_box_pairs: float) -> float:
    """Return the time to sort keys and queries into blocks and to compare their boxes."""
    n_points = problem.n_keys + (0 if problem.leave_one_out else problem.n_queries)
    seconds = n_points * _LAYOUT + n_box_pairs * _BOX_PAIR
    return 1e-3 + problem.n_batch * seconds * problem.n_features


def seconds_of_transforms(problem: Problem, n_grid: int, n_points: int) -> float:
    """Return the time of transforms of so many points on a grid of so many."""
    columns = -(-problem.n_columns // 2)  # two travel as one complex column
    if problem.needs_grad:  # sums with moments, over keys and over queries
        columns += 2 * -(-problem.n_columns * (1 + problem.n_features) // 2)
    spreading = n_points * _SPREAD[problem.n_features] / speed(problem)
    columns *= problem.n_monomials
    return 2e-3 + problem.n_batch * columns * (spreading + 2 * n_grid * _GRID_POINT)


def speed(problem: Problem) -> float:
    """Return how many cores' worth of arithmetic there is."""
    return n_threads() if problem.device.type == "cpu" else _ACCELERATOR
