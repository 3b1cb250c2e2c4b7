"""Every threshold of the library in one table: what it decides, and what the number rests on.

A threshold is a number that could be another one without any result being wrong: from how many
pairs on a thread pays, how many rows a first search takes. Code reads it where it decides,
``tuning.LONGEST_SILENCE``, never at import, so that a test can set another value for a block of
code:

>>> from sknw.support import tuning
>>> with tuning.override(LONGEST_SILENCE=0.05):
...     tuning.LONGEST_SILENCE
0.05

Numbers of a definition (the Gaussian's constant, the bits of a mantissa) stay beside the formula
that they belong to, and so do those that are compiled into the loops.
"""

from collections.abc import Iterator
from contextlib import contextmanager

# --- support -------------------------------------------------------------------------------------

# Seconds after which a stage that has told nothing says that it is still at work.
LONGEST_SILENCE = 5.0
# Seconds between the lines of a stage that does tell.
SECONDS_BETWEEN_LINES = 1.0


@contextmanager
def override(**values: float) -> Iterator[None]:
    """Set thresholds for the length of the block; for tests.

    All threads of the process see them, so tests that override do not run in threads.

    Raises
    ------
    AttributeError
        If there is no threshold of that name.
    """
    table = globals()
    unknown = sorted(name for name in values if not name.isupper() or name not in table)
    if unknown:
        raise AttributeError(f"there is no threshold {', '.join(unknown)} in sknw.support.tuning")
    before = {name: table[name] for name in values}
    table.update(values)
    try:
        yield
    finally:
        table.update(before)
