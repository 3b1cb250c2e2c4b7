"""Who evaluates the pairs, and in how small blocks: for tests of small problems."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from sknw.sums.evaluators.compiled.driver import disabled
from sknw.support import tuning


@contextmanager
def done_by(evaluator: str, *, pruned: bool = False) -> Iterator[None]:
    """Have every pair evaluated by ``"fused"`` or ``"torch"``, in blocks of 8.

    ``pruned``: blocks of keys are left out in tail rows too, however few the pairs. Without numba,
    what asks for ``"fused"`` is skipped.
    """
    if evaluator == "fused":
        pytest.importorskip("numba")
    small = {"FEWEST_COMPILED_PAIRS": 0, "POINTS_PER_BLOCK": 8}
    if pruned:
        small |= {"TAIL_PAIRS_FOR_BLOCKS": 0, "TAIL_KEYS_PER_BLOCK": 8, "TAIL_ROWS_PER_BLOCK": 8}
    with tuning.override(**small), disabled() if evaluator == "torch" else nullcontext():
        yield
