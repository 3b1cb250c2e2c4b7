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

# --- data ----------------------------------------------------------------------------------------

# Equal rows expected by chance in a whole table from which on such rows are observations of their
# own, and rows of a group of equals that no resampling makes of one row (sknw.data.duplicates).
COINCIDENCES_BY_CHANCE, ROWS_OF_NO_COPY = 0.01, 10
# Cells of equal X per observation up to which sharing their sums pays: cells have different
# weights, and sums with weights read a tenth more (float32, one feature) than those without.
CELLS_WORTH_SHARING = 0.9
# Categories of a feature that may become as many columns of an embedding.
MOST_CATEGORY_COLUMNS = 1000

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
# Pairs beside which the smallest and largest coordinates cost nothing: where all points are near,
# sums of up to three features need no guard against vanishing weights. Without this look all pairs
# of 20,000 rows with three features took 1.24 times as long, leave-one-out of 8000 1.22 times
# (float64, a CPU without AVX-512; with it 1.04), by tests/benchmarks/pairs.py.
PAIRS_WORTH_A_LOOK = 5e6
# Pairs from which a thread more is worth its start.
PAIRS_PER_THREAD = 5e5
# Rows of a block of a fast transform: they stay in cache.
ROWS_OF_A_TRANSFORM = 2**16
# Rows from which a fast transform on a thread of its own is worth it.
FEWEST_ROWS_OF_A_TRANSFORM = 2**14
# Points of a grid above which several threads may share one transform.
LARGE_GRID = 2**18

# --- smoothing -----------------------------------------------------------------------------------

# Numbers b · m · n · d of the largest tensors of a block of attention pooling.
POOLING_BLOCK = 2**21

# --- metrics -------------------------------------------------------------------------------------

# Influence of a column of a matrix, in units of its spread, that a step may give back to it.
LEAST_INFLUENCE = 0.1
# Components of a network beyond the number of its columns.
EXTRA_COMPONENTS = 32
# Share of its usual size that a network's output has at the start: small beside the linear part,
# but not zero, since a component in which all rows agree would never get a gradient.
OUTPUT_OF_A_NEW_NETWORK = 0.1
# Rows whose quantiles are taken for those of all.
ROWS_OF_QUANTILES = 10_000

# --- fitting: the widths of a search (sknw.fitting.parametrization) ------------------------------

# Widths are searched as logarithms up to about so many spreads.
BROAD_WIDTH = 3.0
# The range of a width, from a fraction of the smallest gap (and a tiny one of the spread) to many
# ranges of the feature: there its influence on any weight is below rounding of the criterion.
LEAST_WIDTH_IN_GAPS, LEAST_WIDTH_IN_SPREADS, LARGEST_WIDTH_IN_RANGES = 0.1, 1e-7, 1e4

# --- fitting: the rounds of a search (sknw.fitting.schedule) ------------------------------------

# Points of a scan over common multiples of the spreads, and its range; points for a single width.
SCAN_POINTS, SCAN_RANGE, SCAN_POINTS_OF_ONE = 16, (0.01, 10.0), 60
# Pairs that a search without gradients may evaluate, at a kernel or a criterion with kinks.
REFINEMENT_PAIRS = 5e8
# Pairs of several scales that are evaluated as one batch: more take so long that nothing is gained.
PAIRS_AT_ONCE = 1e7
# Rows of the subsample on which starts are compared, at least; and for each feature, since with
# fewer of them starts in many features look alike. A single width is scanned so finely that more
# rows are needed to tell its minima apart.
ROWS_TO_SCREEN, ROWS_TO_SCREEN_PER_FEATURE, ROWS_TO_SCREEN_ONE = 400, 25, 2000
# Steps and tolerance of screening, and how many ends are kept of it: enough to rank the ends.
SCREENING_STEPS, TOL_OF_SCREENING, SCREENED = 40, 1e-5, 4
# Rows above which all of them are dear to predict, and the size of the subsample before them.
MANY_ROWS, ROWS_BEFORE_MANY = 20_000, 4000
# Of more rows, how many a bandwidth search predicts: so many that there are so many pairs, but a
# least number; and its tolerance, since a sampled criterion is known to per cents.
PAIRS_HELD_OUT, FEWEST_HELD_OUT, TOL_OF_LARGE_SEARCH = 4e8, 5000, 1e-7
# Of more rows, how many a training predicts before it predicts all, and until when.
HELD_OUT_IN_TRAINING, TOL_OF_HELD_OUT = 5000, 1e-4
# Rows above which only the lowest of several starts of many weights goes on after so many steps.
ROWS_OF_TRIALS, TRIAL_STEPS = 1500, 12
# Keys from which it pays to put near ones beside each other.
FEWEST_KEYS_TO_SORT = 20_000
# A start that is so nearly as low as the lowest, in the logarithm of the objective, goes on, too;
# ends closer than that in coordinates are one; minima of a scan so far above its lowest are left
# out.
NEARLY_AS_LOW, APART, HOPELESS = 0.02, 0.05, 0.5
# Multiples of one feature's spread that are tried while the others stay.
MULTIPLES_OF_ONE_SPREAD = (0.1, 0.3, 1.0, float("inf"))
# Window around a minimum in which a search without gradients looks, in the logarithm of a width.
REFINEMENT_WINDOW = 1.5
# Window of a line search, how often it doubles, and its tolerance, in the logarithm of a width.
LINE_WINDOW, LINE_WINDOWS, LINE_TOL = 0.7, 8, 1e-4
# Corrections that a quasi-Newton step knows at most: an evaluation is dearer than they are.
MOST_CORRECTIONS = 40
# Rows above which torch's own work on them wants several threads.
ROWS_OF_ONE_THREAD = 20_000
# Keys of a block into which many rows are sorted.
KEYS_OF_A_SORTED_BLOCK = 64
# Tolerance of the sums of a training in float32, which has no more digits to its gradients.
RTOL_OF_FLOAT32_TRAINING = 1e-4

# --- bandwidths ----------------------------------------------------------------------------------

# How often, and by which stride, a search looks around its end; on more rows the criterion is so
# smooth that only moves out of the way are tried.
EXPLORATIONS, STRIDE, ROWS_TO_EXPLORE = 3, 1.25, 2000
# Range of random starts in spreads, how many are drawn, and of how many rows each spares one: the
# fewer the rows, the more local minima there are.
DRAWN, N_DRAWN, ROWS_PER_START = (0.05, 3.0), 16, 600
# Minima of a scan of a single bandwidth that are refined.
MINIMA_OF_ONE_WIDTH = 3
# Tolerance of the sums of a search on a sample, whose criterion is known to per cents.
RTOL_OF_LARGE_SEARCH = 1e-6
# Bandwidths of a kernel with an edge above which a search without gradients has too many directions
# to try; then multiples of the Gaussian's bandwidths are (lowest, highest, how many), and strides.
MOST_REFINED_WIDTHS, MULTIPLES_OF_GAUSSIAN = 15, (0.1, 10.0, 25)
STRIDES_AT_KINKS, LINE_STEPS_AT_KINKS = (1.6, 1.25, 1.1, 1.04, 1.015), 5
# Numbers of neighbours that are looked at in one pass.
N_CANDIDATES = 20

# --- training ------------------------------------------------------------------------------------

# Rows for each weight from which on even simpler metrics are starts: with fewer they fit noise.
ROWS_PER_WEIGHT = 20
# Steps of simpler metrics, whatever the unit of the user's, and their tolerance on many rows.
STEPS_OF_SIMPLER_METRICS, TOL_OF_SIMPLER_METRICS_OF_MANY = 200, 1e-3
# Standard deviation of the logarithms of weights among random restarts.
RESTART_SPREAD = 1.0
# Numbers that a fit keeps to go on from, at most.
MOST_REMEMBERED = 4_000_000
# Step of gradient descent for a loss in units of variance.
STEP_PER_VARIANCE = 2.0
# Rows up to which Adam predicts a batch from all others; rows of a batch by what it is predicted
# from; groups of near rows in a batch.
MOST_ROWS_AS_ALL_KEYS, BATCHES, BATCH_OF_SHARE = 4096, {"all": 64, "near": 1024}, 512
GROUPS_OF_A_BATCH = 2
# Largest norm of Adam's gradient, for a loss in units of variance, and its least step's share.
LARGEST_GRADIENT, LEAST_STEP = 1.0, 0.01
# Common factors of an embedding: the stride between them, or all of a range (lowest, highest, how
# many); rows to judge them by, and the fewest validation rows that can.
STRIDE_OF_RESCALING, FACTORS_OF_RESCALING = 1.12, (1e-3, 1e3, 49)
ROWS_OF_RESCALING, FEWEST_ROWS_OF_RESCALING = 2000, 200
# Rows whose gradients tell the directions that matter.
ROWS_OF_DIRECTIONS = 2000

# Rows below which nothing is said of a trained metric, and how many are looked at.
FEWEST_ROWS_TO_DIAGNOSE, ROWS_TO_DIAGNOSE = 20, 1000
# A metric has collapsed where this share of the rows attends to this share of all others.
SHARE_COLLAPSED, NEARLY_ALL_NEIGHBORS = 0.9, 0.99
# It has saturated where this share of the rows attends to a single one, but for rounding.
SHARE_SATURATED, NEARLY_ONE_NEIGHBOR = 0.5, 1 + 1e-9

# --- estimators ----------------------------------------------------------------------------------

# Range of a feature in bandwidths below which it changes no weight of a Gaussian kernel by more
# than half a per cent, so that it counts as irrelevant.
LEAST_REACH_OF_A_RELEVANT_FEATURE = 0.1
# Rows up to which the property attention_weights_ computes a matrix that nobody has asked to limit.
MOST_ROWS_OF_THE_PROPERTY = 2000
# Rows up to which the property residual_variance_ is computed: pages that show an estimator read
# all properties, and should not take longer than a second.
MOST_ROWS_OF_THE_RESIDUAL_VARIANCE = 10_000

# --- plotting ------------------------------------------------------------------------------------

# Points of a curve, and of each side of a surface; of a window around a query likewise.
POINTS_OF_A_CURVE, POINTS_OF_A_WINDOW = {1: 200, 2: 60}, {1: 500, 2: 120}
# Rows of a scatter: more hide each other.
MOST_ROWS_DRAWN = 2000
# Steps of a training that are marked; more are drawn as a line alone.
MOST_STEPS_MARKED = 40
# Categories on one axis, of which more cannot be read, and letters that fit without being turned.
MOST_CATEGORIES_OF_AN_AXIS, MOST_LETTERS_OF_AN_AXIS = 60, 40
# Share of scikit-learn's working_memory that the weights of a display may take at once.
MEMORY_OF_A_DISPLAY = 1 / 8
# Inches of the widest figure, and panels in a row: on a page wider ones are shrunk until their
# texts cannot be read.
WIDEST_FIGURE, PANELS_OF_A_ROW = 10.0, 3


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
