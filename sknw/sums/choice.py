"""Which algorithm does the sums: the registry, and the choice by name or by capability."""

from sknw.sums.dense import Dense
from sknw.sums.problem import Algorithm, Problem

ALGORITHMS: dict[str, Algorithm] = {algorithm.name: algorithm for algorithm in (Dense(),)}


def choose(algorithm: str, problem: Problem) -> Algorithm:
    """Return the algorithm of that name, or for ``"auto"`` the first that can do the problem.

    Raises
    ------
    ValueError
        If none of the candidates can; the message gives every reason of every candidate.
    """
    automatic = isinstance(algorithm, str) and algorithm == "auto"
    candidates = list(ALGORITHMS.values()) if automatic else [_named(algorithm)]
    refusals = []
    for candidate in candidates:
        reasons = candidate.unsupported_reasons(problem)
        if not reasons:
            return candidate
        refusals.append(f"{candidate.name}: {', '.join(reasons)}")
    raise ValueError(
        f"No algorithm can do this problem: {'; '.join(refusals)}. Use algorithm='auto'."
    )


def _named(algorithm: str) -> Algorithm:
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(
            f"algorithm must be 'auto' or one of {list(ALGORITHMS)}; got {algorithm!r}."
        )
    return ALGORITHMS[algorithm]
