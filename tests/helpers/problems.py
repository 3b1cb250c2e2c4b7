"""A problem as algorithms judge it, for tests of refusals and choices."""

import torch

from sknw.kernels import KERNELS
from sknw.sums.problem import Problem


def problem(**changes):
    """A million uniform keys in a square of 100 bandwidths over themselves, but for the changes."""
    keys = torch.rand(1, 5000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = {
        "kernel": KERNELS["gaussian"],
        "n_batch": 1,
        "n_queries": 1_000_000,
        "n_keys": 1_000_000,
        "n_features": 2,
        "n_columns": 2,
        "dtype": torch.float64,
        "device": torch.device("cpu"),
        "needs_grad": False,
        "leave_one_out": True,
        "rtol": 1e-8,
        "keys": 100 * keys,
    }
    return Problem(**{**settings, **changes})
