"""About how long an algorithm takes, for ``algorithm="auto"``."""

from sknw.sums.evaluators.registry import likely_evaluator
from sknw.sums.problem import Problem
from sknw.support import tuning
from sknw.support.threads import n_threads


def seconds_of_pairs(problem: Problem, n_pairs: float) -> float:
    """Return the time that the tiles of so many pairs take."""
    place, n_batch = (problem.dtype, problem.device), problem.n_batch
    n_pairs_each = problem.n_queries * problem.n_keys
    evaluator = likely_evaluator(problem.kernel, *place, n_pairs_each, n_batch, problem.order)
    pair, feature, column, monomial = evaluator.pair_costs(problem.dtype)
    nanoseconds = pair + feature * problem.n_features + column * problem.n_columns
    # each further monomial takes a product, and the sums of all columns
    nanoseconds += (problem.n_monomials - 1) * (monomial + column * problem.n_columns)
    passes = 1 + tuning.COST_OF_A_GRADIENT * problem.needs_grad
    return tuning.SECONDS_PER_CALL + n_pairs * nanoseconds * 1e-9 * passes / speed(problem)


def seconds_of_runs(problem: Problem, n_pairs: float) -> float:
    """Return the time that so many pairs take in short runs of keys."""
    return seconds_of_pairs(problem, tuning.COST_IN_RUNS * n_pairs)


def seconds_of_layouts(problem: Problem, n_box_pairs: float) -> float:
    """Return the time to sort keys and queries into blocks and to compare their boxes."""
    n_points = problem.n_keys + (0 if problem.leave_one_out else problem.n_queries)
    seconds = n_points * tuning.SECONDS_PER_SORTED_POINT + n_box_pairs * tuning.SECONDS_PER_BOX_PAIR
    return 1e-3 + problem.n_batch * seconds * problem.n_features


def seconds_of_transforms(problem: Problem, n_grid: int, n_points: int) -> float:
    """Return the time of transforms of so many points on a grid of so many."""
    columns = -(-problem.n_columns // 2)  # two travel as one complex column
    if problem.needs_grad:  # sums with moments, over keys and over queries
        columns += 2 * -(-problem.n_columns * (1 + problem.n_features) // 2)
    spreading = n_points * tuning.SECONDS_PER_SPREAD_POINT[problem.n_features] / speed(problem)
    columns *= problem.n_monomials
    transform = 2 * n_grid * tuning.SECONDS_PER_GRID_POINT
    return 2e-3 + problem.n_batch * columns * (spreading + transform)


def seconds_of_sweeps(problem: Problem, n_functions: int, n_rows: int) -> float:
    """Return the time to sort keys and queries, and to sweep with states of so many rows."""
    sorting, window, decay, entry = tuning.SWEEP_COSTS
    nanoseconds = decay if n_functions == 0 else window
    nanoseconds += entry * n_rows * problem.n_columns * problem.n_monomials
    n_points = problem.n_keys + problem.n_queries
    passes = 1 + tuning.PASSES_OF_A_SWEPT_GRADIENT * problem.needs_grad
    sweeps = nanoseconds * passes / speed(problem)
    return 1e-3 + problem.n_batch * n_points * (sorting + sweeps) * 1e-9


def speed(problem: Problem) -> float:
    """Return how many cores' worth of arithmetic there is."""
    return n_threads() if problem.device.type == "cpu" else tuning.CORES_OF_AN_ACCELERATOR
