"""Kernel sums: the one numeric operation of the project.

For queries ``q_i``, keys ``z_j`` and value columns ``v_j``, all in bandwidth units,

    S_i = Σ_j K(‖q_i − z_j‖) v_j

`kernel_sums` is differentiable, and so are `kernel_moments`, the sums with monomials of the steps
``z_j − q_i``; `PreparedSums` keeps what the keys need between calls. From below: `problem` and
`monomials` hold the records, `geometry/` tells which points are near each other, `evaluators/`
evaluate given pairs of queries and keys, `algorithms/` decide which pairs are evaluated, `engine`
takes exact sums of `tails` for rows that underflow or are inaccurate, and `autograd` and `moments`
differentiate.
"""

from sknw.sums.algorithms.algorithm import Algorithm
from sknw.sums.algorithms.choice import ALGORITHMS, choose
from sknw.sums.autograd import gradient_by_log_scales, kernel_sums
from sknw.sums.engine import DEFAULT_RTOL, PreparedSums, check_algorithm
from sknw.sums.evaluators.compiled.readiness import compile_ahead
from sknw.sums.evaluators.registry import has_own_threads
from sknw.sums.geometry.interactions import Layout
from sknw.sums.moments import kernel_moments
from sknw.sums.problem import KernelMoments, KernelSums, Problem

__all__ = [
    "ALGORITHMS",
    "DEFAULT_RTOL",
    "Algorithm",
    "KernelMoments",
    "KernelSums",
    "Layout",
    "PreparedSums",
    "Problem",
    "check_algorithm",
    "choose",
    "compile_ahead",
    "gradient_by_log_scales",
    "has_own_threads",
    "kernel_moments",
    "kernel_sums",
]
