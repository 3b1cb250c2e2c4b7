"""Kernel sums: the one numeric operation of the project.

For queries ``q_i``, keys ``z_j`` and value columns ``v_j``, all in bandwidth units,

    S_i = Σ_j K(‖q_i − z_j‖) v_j

`kernel_sums` is differentiable; `PreparedSums` keeps what the keys need between calls. An algorithm
computes plain sums and says what it cannot do; `engine` repairs rows that underflow and `autograd`
differentiates, both for every algorithm alike.
"""

from sknw.sums.autograd import kernel_sums
from sknw.sums.choice import ALGORITHMS
from sknw.sums.engine import PreparedSums, choose_for
from sknw.sums.problem import Algorithm, KernelSums, Problem

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "KernelSums",
    "PreparedSums",
    "Problem",
    "choose_for",
    "kernel_sums",
]
