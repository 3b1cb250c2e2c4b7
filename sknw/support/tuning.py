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

# Pairs from which a call of compiled code, or for one problem its loading, is worth its time.
FEWEST_FUSED_PAIRS = 2**17
# Pairs from which a thread more is worth its start.
PAIRS_PER_THREAD = 5e5
# Pairs below which looking at the data takes longer than doing all of them.
FEWEST_PAIRS_TO_CHOOSE_FOR = 2e7
# Points of a block: smaller boxes drop more pairs, but more boxes are compared. Sums over keys are
# fastest where blocks are whole vectors of a core, several at a time.
SMALLEST_BLOCK = 64
# Pairs of tail rows and keys from which sorting them into blocks pays, for few rows and for many.
PAIRS_OF_A_TAIL_LAYOUT, PAIRS_OF_A_TAIL_LAYOUT_FOR_MANY = 5e7, 5e6
# Keys and tail rows of a block.
TAIL_KEY_BLOCK, TAIL_ROW_BLOCK = 256, 16
# Rows of a block of a fast transform: they stay in cache.
ROWS_OF_A_TRANSFORM = 2**16
# Rows from which a fast transform on a thread of its own is worth it.
FEWEST_ROWS_OF_A_TRANSFORM = 2**14
# Points of a grid above which several threads may share one transform.
LARGE_GRID = 2**18

# --- smoothing -----------------------------------------------------------------------------------

# Numbers b · m · n · d of the largest tensors of a block of attention pooling.
POOLING_BLOCK = 2**21

# --- fitting and bandwidths ----------------------------------------------------------------------

# Keys from which it pays to put near ones beside each other.
FEWEST_KEYS_TO_SORT = 20_000
# Rows above which a bandwidth search holds out a part of them only, and begins on a subsample.
ROWS_OF_A_FULL_SEARCH, ROWS_OF_A_SUBSAMPLE = 20_000, 4000
# Rows that a search of many rows holds out: at least so many, and so many pairs with all rows.
FEWEST_HELD_OUT, PAIRS_OF_HELD_OUT = 5000, 20_000**2


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
