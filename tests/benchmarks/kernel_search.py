"""What a bandwidth search costs with each kernel, beside the Gaussian's.

    python tests/benchmarks/kernel_search.py --sizes 1500x29 1000x8 1000x3

Prints the CPU seconds of a fit with ``bandwidth="loo"``, how many times those of the Gaussian they
are, and the criterion reached over the variance of y.
"""

import argparse
import time
import warnings

import numpy as np
from _report import print_header, print_table

from sknw import NadarayaWatsonRegressor


def problem(n, d, seed=0):
    """Draw rows of which two features matter, one of them in a curve."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] + 0.1 * rng.normal(size=n)


def searched(kernel, X, y):
    """Return the CPU seconds of a fit and the criterion it reaches over the variance of y."""
    NadarayaWatsonRegressor("scott", kernel=kernel).fit(X[:300], y[:300]).predict_loo()  # warms up
    start = time.process_time()
    model = NadarayaWatsonRegressor(kernel=kernel).fit(X, y)
    return time.process_time() - start, model.criterion_ / y.var()


def main():
    warnings.simplefilter("ignore")  # rows out of reach at Scott's bandwidths
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["1500x29", "1000x8", "1000x3"])
    parser.add_argument("--kernels", nargs="+", default=["epanechnikov", "tricube", "tophat"])
    asked = parser.parse_args()
    print_header("kernel_search: bandwidths by leave-one-out error, kernel by kernel")
    rows = []
    for size in asked.sizes:
        X, y = problem(*map(int, size.split("x")))
        measured = {kernel: searched(kernel, X, y) for kernel in ("gaussian", *asked.kernels)}
        for kernel, (seconds, reached) in measured.items():
            ratio = seconds / measured["gaussian"][0]
            rows.append((size, kernel, seconds, f"{ratio:.1f}", f"{reached:.5f}"))
    print_table(("size", "kernel", "CPU seconds", "times the Gaussian's", "reached"), rows)


if __name__ == "__main__":
    main()
