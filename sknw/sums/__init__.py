"""Kernel sums: the one numeric operation of the project.

For queries ``q_i``, keys ``z_j`` and value columns ``v_j``, all in bandwidth units,

    S_i = Σ_j K(‖q_i − z_j‖) v_j

`kernel_sums` is differentiable; `PreparedSums` keeps what the keys need between calls. An algorithm
(`dense`, `blocks`, `nufft`) decides which pairs count, an evaluator (`torch_tiles`, `fused` with
the loops in `compiled`) does a tile of them. `engine` has rows that underflow done again by
`exact`, and `autograd` differentiates, both for every algorithm alike; `choice` and `costs` choose.
"""

from sknw.sums.algorithm import Algorithm
from sknw.sums.autograd import kernel_sums
from sknw.sums.choice import ALGORITHMS
from sknw.sums.engine import DEFAULT_RTOL, PreparedSums, check_algorithm, choose_for
from sknw.sums.pairs import Layout
from sknw.sums.problem import KernelSums, Problem

__all__ = [
    "ALGORITHMS",
    "DEFAULT_RTOL",
    "Algorithm",
    "KernelSums",
    "Layout",
    "PreparedSums",
    "Problem",
    "check_algorithm",
    "choose_for",
    "kernel_sums",
]
