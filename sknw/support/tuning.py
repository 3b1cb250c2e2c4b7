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

# --- sums ----------------------------------------------------------------------------------------

# Pairs of one problem from which a call of compiled loops pays: their loading takes longer before.
FEWEST_COMPILED_PAIRS = 2**17
# Pairs below which all of them take less time than a look at the data that could spare some.
FEWEST_PAIRS_FOR_A_CHOICE = 2e7
# Points of a block: small boxes drop more pairs, whole vectors of a core are read fastest.
POINTS_PER_BLOCK = 64
# Blocks of keys from which a look at the near keys tells more of a query's mass than bounds do.
FEWEST_BLOCKS_FOR_A_LOOK = 64
# Pairs of tail rows and keys from which blocks of both pay, for few rows and for many.
TAIL_PAIRS_FOR_BLOCKS = 5e7
MANY_TAIL_ROWS = 64
TAIL_PAIRS_FOR_BLOCKS_OF_MANY = 5e6
# Keys and rows of such blocks.
TAIL_KEYS_PER_BLOCK = 256
TAIL_ROWS_PER_BLOCK = 16


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
