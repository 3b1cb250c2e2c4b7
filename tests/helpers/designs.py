"""Few combinations of settings that still meet: designs for tests of several factors."""

from collections.abc import Sequence
from itertools import combinations


def pairwise(*factors: Sequence) -> list[tuple]:
    """Choices of a level for each factor, so that every two levels of two factors meet somewhere.

    A fault that takes two settings to show shows in one of them. Where three or more must meet, ask
    for the full product.

    >>> pairwise("ab", [1, 2], "xy")
    [('a', 1, 'x'), ('a', 2, 'y'), ('b', 1, 'y'), ('b', 2, 'x')]
    """
    # Pairs ((factor, level), (factor, level)), in a dict for its order.
    missing = dict.fromkeys(
        ((i, a), (j, b))
        for i, j in combinations(range(len(factors)), 2)
        for a in range(len(factors[i]))
        for b in range(len(factors[j]))
    )

    def gain(chosen: dict[int, int], i: int, a: int) -> int:
        return sum(tuple(sorted([(i, a), other])) in missing for other in chosen.items())

    design = []
    while missing:
        chosen = dict(next(iter(missing)))
        for i, levels in enumerate(factors):
            if i not in chosen:
                chosen[i] = max(range(len(levels)), key=lambda a: gain(chosen, i, a))
        for pair in combinations(sorted(chosen.items()), 2):
            missing.pop(pair, None)
        design.append(tuple(factors[i][chosen[i]] for i in range(len(factors))))
    return design


def name_of(level: object) -> str | None:
    """How pytest shows a level; None leaves it to pytest.

    >>> name_of(("dense", "torch"))
    'dense-torch'
    """
    return "-".join(map(str, level)) if isinstance(level, tuple | list) else None
