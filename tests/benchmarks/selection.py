"""Leave-one-out bandwidth search beside statsmodels' KernelReg(bw="cv_ls").

Both minimise the leave-one-out squared error of the local constant fit with a Gaussian product
kernel. The criterion of either's bandwidths is evaluated by one plain function of this file.
"""

import argparse
import statistics

import numpy as np
from _report import print_header, print_table, timed
from statsmodels.nonparametric.kernel_regression import KernelReg

from sknw import NadarayaWatsonRegressor


def main():
    options = _options()
    print_header("selection: per-feature bandwidths by leave-one-out error")
    print(f"medians over {options.repeats} seeds; criterion: leave-one-out mean squared error")
    print("worst excess: largest relative excess of our criterion over theirs; below 0 is lower")
    select_ours(*smooth_data(50, 1, seed=0))  # warms up
    rows = [beside_statsmodels(n, d, options.repeats) for n in options.n for d in options.d]
    header = ("n", "d", "sknw [s]", "statsmodels [s]", "speed ratio")
    criteria = ("sknw criterion", "statsmodels criterion", "worst excess")
    print_table((*header, *criteria), rows)
    rows = [ours_alone(n, options.alone_d, options.repeats) for n in options.alone]
    if rows:
        print_table(("n", "d", "sknw [s]", "sknw criterion"), rows)


def smooth_data(n, d, seed):
    """Draw rows of a smooth additive function whose features differ in their wiggliness."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, d))
    frequencies = np.linspace(2, 0.5, d) if d > 1 else np.array([2.0])
    return X, np.sin(X * frequencies).sum(axis=1) + rng.normal(0, 0.3, size=n)


def beside_statsmodels(n, d, seeds):
    """One line of the table: both searches on the same rows, seed by seed."""
    measured = np.array([_both(*smooth_data(n, d, seed)) for seed in range(seeds)])
    ours, theirs, our_criterion, their_criterion = np.median(measured, axis=0).tolist()
    speed_ratio = np.median(measured[:, 1] / measured[:, 0])
    excess = np.max(measured[:, 2] / measured[:, 3] - 1)
    criteria = (f"{our_criterion:.6f}", f"{their_criterion:.6f}", f"{excess:+.1e}")
    return n, d, ours, theirs, f"{speed_ratio:.0f}", *criteria


def _both(X, y):
    """Seconds and criterion of both searches: (ours, theirs, our criterion, their criterion)."""
    ours, our_seconds = timed(lambda: select_ours(X, y))
    theirs, their_seconds = timed(lambda: select_statsmodels(X, y))
    criteria = (leave_one_out_mse(X, y, bandwidth) for bandwidth in (ours, theirs))
    return our_seconds, their_seconds, *criteria


def ours_alone(n, d, seeds):
    """One line of the table: our search where statsmodels would take too long."""
    seconds, criteria = [], []
    for seed in range(seeds):
        X, y = smooth_data(n, d, seed)
        bandwidth, elapsed = timed(lambda X=X, y=y: select_ours(X, y))
        seconds.append(elapsed)
        criteria.append(leave_one_out_mse(X, y, bandwidth))
    return n, d, statistics.median(seconds), f"{statistics.median(criteria):.6f}"


def select_ours(X, y):
    return NadarayaWatsonRegressor().fit(X, y).bandwidth_


def select_statsmodels(X, y):
    types = "c" * X.shape[1]
    with np.errstate(invalid="ignore"):  # its search tries bandwidths at which all weights are 0
        return KernelReg(y, X, var_type=types, reg_type="lc", bw="cv_ls", rng=0).bw


def leave_one_out_mse(X, y, bandwidth):
    """Mean squared leave-one-out error, row by row, of the Gaussian product kernel."""
    errors = [_leave_one_out_error(X, y, np.asarray(bandwidth), row) for row in range(len(X))]
    return float(np.mean(np.square(errors)))


def _leave_one_out_error(X, y, bandwidth, row):
    others = np.arange(len(X)) != row
    log_weights = -0.5 * np.square((X[others] - X[row]) / bandwidth).sum(axis=1)
    weights = np.exp(log_weights - log_weights.max())  # a common factor, so that none is 0 / 0
    return y[row] - weights @ y[others] / weights.sum()


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="*", default=[250, 500, 1000], help="rows")
    parser.add_argument("--d", type=int, nargs="+", default=[1, 3], help="features")
    parser.add_argument("--repeats", type=int, default=3, help="seeds")
    parser.add_argument("--alone", type=int, nargs="*", default=[4000], help="rows, ours only")
    parser.add_argument("--alone-d", type=int, default=3, help="features of --alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
