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
# Cells of equal X per observation up to which sharing their sums pays for finding the cells.
CELLS_WORTH_SHARING = 0.9
# Categories of a feature that may become as many columns of an embedding.
MOST_CATEGORY_COLUMNS = 1000

# --- kernels -------------------------------------------------------------------------------------

# Roundings of one point that a squared distance of 1 may hold, in units of eps times the size of
# its coordinates. A coordinate as given carries about one eps (0.1 k: half for 0.1, half for the
# product), the centred and scaled one another (half for the difference, half for the division);
# the square of a distance of 1 doubles both. The rest is for data that were rounded once more.
EDGE_ROUNDINGS = 4.0
# The most that rounding may count there: however large the coordinates, near keys stay inside.
LARGEST_EDGE_ALLOWANCE = 0.25
# Steps to a fixed point that they come close to, and a factor that covers the rest of the way.
FIXED_POINT_STEPS, FIXED_POINT_MARGIN = 6, 1.05

# --- sums: evaluators ----------------------------------------------------------------------------
# Dictionaries by 8 and 4 have one entry for float64 and one for float32, by bytes of a number.

# Pairs of one problem from which a call of compiled loops pays: their loading takes longer before.
FEWEST_COMPILED_PAIRS = 2**17
# Seconds that torch needs for a pair on one core, about, with the gradients that most sums have.
TORCH_SECONDS_PER_PAIR = 1e-8
# Seconds of torch's work after which loops are compiled in the background, and from which on the
# work waits for them.
SECONDS_WORTH_COMPILING, SECONDS_WORTH_WAITING = 2.0, 60.0
# Niceness of that process: no more, since who waits for it must not wait for all else that runs.
COMPILER_NICENESS = 5
# Pairs beside which the smallest and largest coordinates cost nothing: where all points are near,
# sums of up to three features need no guard against vanishing weights. Without this look all pairs
# of 20,000 rows with three features took 1.24 times as long, leave-one-out of 8000 1.22 times
# (float64, a CPU without AVX-512; with it 1.04), by tests/benchmarks/pairs.py.
PAIRS_WORTH_A_LOOK = 5e6
# Exponents s up to which 2^-s is far from the smallest number, so that no guard is needed.
NEAR_POWER = {8: 1000.0, 4: 120.0}
# Squared distances up to which rounding changes no weight by more than the precision has.
FAR_SQUARE = {8: 1e6, 4: 1e2}
# Pairs from which a thread more is worth its start.
PAIRS_PER_THREAD = 5e5
# Numbers that a first call of the loops reads: some hundredths of a second. A kernel's formula
# takes the time of so many. Calls shorter and longer than these seconds are doubled and halved, so
# that Ctrl-C is heard; and each thread has at least so many, so that all end about together.
NUMBERS_PER_CALL, NUMBERS_OF_A_KERNEL = 2e8, 8
SHORT_CALL, LONG_CALL, CALLS_PER_THREAD = 0.02, 0.1, 64
# Elements of a tile of torch: few enough for a CPU's cache, enough to fill an accelerator. So many
# tensors of that size are alive at a time.
TILE_ELEMENTS, BUFFERS_PER_TILE = {"cpu": 2**19, "accelerator": 2**25}, 4
# Keys of a tile, and side of a tile of a set over itself on a CPU, which each pair enters once.
KEYS_PER_TILE, SIDE_OF_A_SQUARE_TILE = 2048, 512
# Largest error that squared distances by a matrix product may have, in bandwidths squared. Those as
# near to an edge as some such errors are computed again from differences; where they are a larger
# share of a tile than this, all of it is.
PRODUCT_ERROR, PRODUCT_MARGIN, SHARE_WORTH_DIFFERENCES = {8: 1e-12, 4: 1e-5}, 10, 1 / 16
# Features up to which differences one by one are faster than torch's distances of pairs.
FEATURES_BY_DIFFERENCES = 4
# Monomials above which moments are refused: a tile is multiplied by each of them.
MOST_MONOMIALS = 50_000

# --- local polynomials ---------------------------------------------------------------------------

# What the negative weights of a fit with few neighbours may sum to: more is mixed with a lower
# degree. At 2 a prediction cannot leave the range of y by more than two ranges.
BOUND_OF_NEGATIVE_WEIGHTS = 2.0
# Bounds of negative weights from which on a fit fades out, and from which on it is gone: there the
# rounding of the moments decides it.
BOUNDS_OF_ROUNDING = 5e3, 5e4
# Share of a term's sum of squares that the terms before it must leave: of all keys, below which the
# term is undetermined; and of the keys in reach, below which what is left is rounding.
LEAST_PIVOT_OF_TERMS, LEAST_PIVOT = 1e-11, 1e-13
# Share of the criterion by which the line of a feature at the largest bandwidth has to change it to
# count: below that the feature is irrelevant.
CHANGE_BY_A_LINE = 1e-6
# Numbers that the moments of queries may take at once.
NUMBERS_OF_MOMENTS = 2**26
# What a fit may make of the error of approximate moments; beyond it they are summed pair by pair.
LARGEST_AMPLIFICATION = 1000.0

# --- sums: which pairs meet ----------------------------------------------------------------------

# Points of a block: small boxes drop more pairs, whole vectors of a core are read fastest; but of
# more blocks than these the comparison of all their boxes takes too long.
POINTS_PER_BLOCK, MOST_BLOCKS = 64, 4096
# Blocks that make a cube: they follow each other along the last feature.
BLOCKS_OF_A_CUBE = 2
# Points that stand in blocks already are not sorted: of at least so many blocks, whose squared
# diagonals are typically no more than so many times those of the blocks to be made.
FEWEST_COMPACT_BLOCKS, COMPACT_EXTENT = 16, 4.0
# Blocks of keys from which a look at the near keys tells more of a query's mass than bounds do.
# Near are those whose weight has at least this logarithm.
FEWEST_BLOCKS_FOR_A_LOOK, NEAR_LOG_WEIGHT = 64, -1.0
# Share of the weight of all keys below which a mass may be nothing but rounding.
LEAST_MASS = 1e-30
# Nearest blocks of keys whose mass bounds that of a query, and pairs of boxes compared at a time.
NEAR_BLOCKS, BOXES_AT_ONCE = 8, 2**21
# Squared distance of the nearest block above which rounding hides what is nearer.
REMOTE_SQUARE = 1e12
# What is added to cutoff radii for distances that are rounded to float32.
CUTOFF_MARGIN = 1e-5
# Share of a query's mass that is less than rounding of its sum: what is exact may leave it out.
NO_SHARE = 1e-17
# Queries and keys of a box where all pairs meet: keys stay in a core's cache.
QUERIES_PER_BOX, KEYS_PER_BOX = 64, 2048
# Queries of a tile of torch, and tiles that are enough for their boxes to be small.
QUERIES_PER_TILE, FEWEST_TILES = 256, 64

# --- sums: fallback rows -------------------------------------------------------------------------

# Plain masses below these are not trusted: rounding of clamped exponents begins to show.
LEAST_TRUSTED_MASS = {8: 1e-250, 4: 1e-20}
# Logarithm of the largest weight of a key of weight zero, which may be nearer than the nearest.
LARGEST_LOG_WEIGHT = {8: 700.0, 4: 80.0}
# Pairs of fallback rows and keys from which blocks of both pay, for few rows and for many.
TAIL_PAIRS_FOR_BLOCKS = 5e7
MANY_TAIL_ROWS = 64
TAIL_PAIRS_FOR_BLOCKS_OF_MANY = 5e6
# Keys and rows of such blocks.
TAIL_KEYS_PER_BLOCK = 256
TAIL_ROWS_PER_BLOCK = 16

# --- sums: fast transforms -----------------------------------------------------------------------

# Part of the tolerance that a periodic image, or all keys too far to count, may weigh.
NEGLIGIBLE_SHARE = 0.5
# Points of the FFT's grid per mode and axis, where they are not 2. Coarse: less FFT, but each point
# is spread wider, and for a tolerance below this wider than finufft does. Low: this is finufft's
# error at the highest frequencies, where the kernel's transform is smaller by this factor at least;
# such a grid is worth a trial down to this tolerance of the ratios.
COARSE_UPSAMPLING, COARSE_TOLERANCE = 1.5, 1e-12
LOW_UPSAMPLING, LOW_UPSAMPLING_TOLERANCE = 1.25, 3e-10
LOW_UPSAMPLING_SAFETY_FACTOR, LOW_UPSAMPLING_RTOL = 0.1, 3e-9
# Smallest and largest error of a transform that is aimed at.
TRANSFORM_TOLERANCES = (1e-14, 1e-5)
# Share of the working memory that a grid may take.
GRID_SHARE_OF_MEMORY = 0.75
# Rows of a block of a transform: they stay in cache. Rows from which a transform on a thread of its
# own is worth it, and points of the grid for each row. Points of a grid above which several threads
# may share one transform.
ROWS_OF_A_TRANSFORM, FEWEST_ROWS_OF_A_TRANSFORM, GRID_POINTS_PER_ROW = 2**16, 2**14, 8
LARGE_GRID = 2**18
# Shares of the keys beyond each side of a box around their bulk, and how many keys are asked.
BOX_TAILS, SAMPLE_FOR_A_BOX = (1e-4, 1e-3, 5e-3, 2e-2), 2**17
# Points at which a transform is compared with exact sums, and the share of them whose mass may be
# too little for the accuracy that is aimed at.
AUDIT_POINTS, POOR_AUDIT_POINTS = 64, 0.1
# The largest error at all queries beside that at these points, and how much less is aimed at.
AUDIT_SAFETY_FACTOR, AIM_SAFETY_FACTOR = 5.0, 0.1
# Keys so many times as heavy as the mean are heavy; so many of them have audit points about them,
# at distances from the key itself to where it is about to vanish.
HEAVY_KEY, MOST_HEAVY_KEYS, DISTANCES_ABOUT_HEAVY = 8.0, 16, (0.0, 2.5, 6.0)

# --- sums: what an algorithm costs ---------------------------------------------------------------
# Measured on two AVX-512 cores (docs/benchmarks.md). Only the ratios matter, and these only where
# algorithms are far apart.

# Pairs below which all of them take less time than a look at the data that could spare some.
FEWEST_PAIRS_FOR_A_CHOICE = 2e7
# Share of the tolerance that sums keep for the sake of their gradients.
GRADIENT_SAFETY_FACTOR = 1e-3
# Nanoseconds of one core for a pair: at all, for each feature, for each value column, and for each
# monomial of moments.
PAIR_COSTS = {
    ("fused", 8): (0.45, 0.06, 0.03, 0.2),
    ("fused", 4): (0.15, 0.03, 0.02, 0.1),
    ("torch", 8): (3.0, 0.4, 0.2, 1.0),
    ("torch", 4): (1.5, 0.2, 0.1, 1.0),
}
# Seconds of a call; how many times its sums a gradient takes, and a pair in short runs of keys one
# of a whole set.
SECONDS_PER_CALL, COST_OF_A_GRADIENT, COST_IN_RUNS = 1e-4, 2.0, 1.5
# Seconds of one core to sort a point along one feature, and to compare two boxes along one.
SECONDS_PER_SORTED_POINT, SECONDS_PER_BOX_PAIR = 1e-7, 1e-9
# Seconds of one core to spread a point onto a grid of one to three axes, and of a point of its FFT.
SECONDS_PER_SPREAD_POINT, SECONDS_PER_GRID_POINT = {1: 45e-9, 2: 140e-9, 3: 800e-9}, 30e-9
# Nanoseconds of one core to sort a point, to sweep over one with a window or with an exponential,
# and for each number of a state; passes of a gradient more; and points from which a thread pays.
SWEEP_COSTS, PASSES_OF_A_SWEPT_GRADIENT, POINTS_OF_A_SWEEP = (75.0, 100.0, 50.0, 6.0), 3.0, 20_000
# Cores that an accelerator is worth.
CORES_OF_AN_ACCELERATOR = 100
# Keys among which, and of how many of them, neighbours are counted to tell which pairs matter.
SAMPLED_KEYS, SAMPLED_QUERIES = 2048, 64

# Share of a squared distance, by bytes of a number, up to which a logarithm of weights is as good
# by its derivative as by a difference: the root of rounding.
LITTLE_EXCESS = {8: 1e-8, 4: 3e-4}

# --- smoothing -----------------------------------------------------------------------------------

# Numbers b · m · n · d of the largest tensors of a block of attention pooling.
POOLING_BLOCK = 2**21
# Keys up to which few pairs are pooled at once; sums of more are accumulated more accurately.
POOLING_KEYS = 2048
# Rows from which another layout of the points is worth it, so that sums add whole matrices.
FEWEST_ROWS_FOR_A_LAYOUT = 4

# --- metrics -------------------------------------------------------------------------------------

# Influence of a column of a matrix, in units of its spread, that a step may give back to it.
LEAST_INFLUENCE = 0.1
# Components of a network beyond the number of its columns.
EXTRA_COMPONENTS = 32
# Share of its usual size that a network's output has at the start: small beside the linear part,
# but not zero, since a component in which all rows agree would never get a gradient.
OUTPUT_OF_A_NEW_NETWORK = 0.1
# Rows that pass a module at once, so that memory stays small.
ROWS_OF_A_MODULE = 8192
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
