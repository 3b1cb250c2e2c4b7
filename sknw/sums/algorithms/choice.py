"""Which algorithm does the sums: the registry, and the choice by name or by estimated time."""

from sknw.sums.algorithms.algorithm import Algorithm
from sknw.sums.algorithms.blocks import Blocks
from sknw.sums.algorithms.dense import Dense
from sknw.sums.algorithms.nufft import Nufft
from sknw.sums.algorithms.sorted import Sorted
from sknw.sums.problem import Problem
from sknw.support import tuning

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.name: algorithm for algorithm in (Dense, Blocks, Nufft, Sorted)
}


def choose(algorithm: str, problem: Problem) -> Algorithm:
    """Return the algorithm of that name, or for ``"auto"`` the one that should be fastest.

    Of few pairs that is all of them.

    Raises
    ------
    ValueError
        If none of the candidates can; the message gives every reason of every candidate.
    """
    automatic = isinstance(algorithm, str) and algorithm == "auto"
    rtol = problem.rtol * (tuning.GRADIENT_SAFETY_FACTOR if problem.needs_grad else 1.0)
    if automatic and problem.n_pairs < tuning.FEWEST_PAIRS_FOR_A_CHOICE:
        return Dense(rtol)
    candidates = list(ALGORITHMS.values()) if automatic else [named_algorithm(algorithm)]
    able, refusals = [], []
    for candidate in (candidate(rtol) for candidate in candidates):
        reasons = candidate.unsupported_reasons(problem)
        if not reasons:
            able.append(candidate)
        refusals.append(f"{candidate.name}: {', '.join(reasons)}")
    if not able:
        raise ValueError(
            f"No algorithm can do this problem: {'; '.join(refusals)}. Use algorithm='auto'."
        )
    if len(able) == 1:
        return able[0]
    return min(able, key=lambda candidate: candidate.seconds(problem))


def named_algorithm(algorithm: str) -> type[Algorithm]:
    """Return the algorithm of a name other than ``"auto"``.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(
            f"algorithm must be 'auto' or one of {list(ALGORITHMS)}; got {algorithm!r}."
        )
    return ALGORITHMS[algorithm]
