"""Import time; fit + predict, and predict alone, beside two scikit-learn regressors."""

import argparse
import functools
import statistics
import subprocess
import sys

import numpy as np
from _report import median_seconds, print_header, print_table
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.neighbors import KNeighborsRegressor

from sknw import NadarayaWatsonRegressor

IMPORTS = ("sknw", "sklearn.neighbors", "torch")
BANDWIDTH = 0.5
MODELS = {
    "sknw": NadarayaWatsonRegressor(bandwidth=BANDWIDTH),
    "KNeighbors": KNeighborsRegressor(),
    "KernelRidge": KernelRidge(kernel="rbf", gamma=1 / (2 * BANDWIDTH**2)),
}


def main():
    options = _options()
    print_header("latency: import, fit + predict, and predict alone (medians)")
    if not options.skip_import:
        print_table(("import", "seconds"), import_seconds(options.repeats).items())
    rows = [fit_row(n, d, options.repeats) for n in options.n for d in options.d]
    times = [f"{name} [ms]" for name in MODELS]
    ratios = [f"sknw / {name}" for name in MODELS if name != "sknw"]
    print_table(("n = m", "d", *times, *ratios), rows)
    problems = [(m, d) for m in options.queries for d in options.d]
    rows = [predict_row(options.keys, m, d, options.repeats) for m, d in problems]
    print_table(("n", "m", "d", "sknw [ms]", "KNeighbors [ms]", "sknw / KNeighbors"), rows)


def import_seconds(repeats):
    """Median seconds of each import in a fresh interpreter, without the interpreter's start."""
    seconds = {module: [] for module in IMPORTS}
    for module in IMPORTS:  # the first import may read from disk or compile
        _import_once(module)
    for _ in range(repeats):
        for module in IMPORTS:
            seconds[module].append(_import_once(module))
    return {module: statistics.median(values) for module, values in seconds.items()}


def _import_once(module):
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def fit_row(n, d, repeats):
    """One line of the table: milliseconds of each model and the ratios of ours to the others'."""
    X, y, X_test = _data(n, n, d)
    calls = {
        name: functools.partial(_fit_predict, model, X, y, X_test) for name, model in MODELS.items()
    }
    return n, d, *_times_and_ratios(calls, repeats if n < 2000 else max(3, repeats // 5))


def predict_row(n, m, d, repeats):
    """One line of the table of predictions alone: the models are fitted, and have predicted."""
    X, y, X_test = _data(n, m, d)
    calls = {
        name: functools.partial(clone(MODELS[name]).fit(X, y).predict, X_test)
        for name in ("sknw", "KNeighbors")  # the fit of kernel ridge takes too long
    }
    return n, m, d, *_times_and_ratios(calls, repeats)


def _data(n, m, d):
    rng = np.random.default_rng(n + d)
    X, X_test = rng.uniform(-2, 2, size=(n, d)), rng.uniform(-2, 2, size=(m, d))
    return X, np.sin(X).sum(axis=1) + rng.normal(0, 0.3, size=n), X_test


def _times_and_ratios(calls, repeats):
    seconds = median_seconds(calls, repeats)
    ratios = [seconds["sknw"] / value for name, value in seconds.items() if name != "sknw"]
    return *(1e3 * value for value in seconds.values()), *ratios


def _fit_predict(model, X, y, X_test):
    return model.fit(X, y).predict(X_test)


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[50, 500, 5000], help="rows")
    parser.add_argument("--d", type=int, nargs="+", default=[1, 8], help="features")
    parser.add_argument("--keys", type=int, default=10_000, help="rows of predict alone")
    parser.add_argument("--queries", type=int, nargs="*", default=[1, 100], help="its queries")
    parser.add_argument("--repeats", type=int, default=25, help="timed rounds (fewer when slow)")
    parser.add_argument("--skip-import", action="store_true", help="leave out the import times")
    return parser.parse_args()


if __name__ == "__main__":
    main()
