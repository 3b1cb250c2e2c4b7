"""Exact sums in one feature beside sorting: predictions, and a search over all rows.

The unit is `numpy.sort` of the rows and of the queries, and a copy of both, in the same run. A
prediction is done again with what the model has prepared for its rows; the first one prepares them.
"""

import argparse

import numpy as np
from _report import median_seconds, print_header, print_table, timed

import sknw
from sknw import BandwidthSearch, NadarayaWatsonRegressor
from sknw.kernels import KERNELS

try:
    from statsmodels.nonparametric.smoothers_lowess import lowess
except ImportError:
    lowess = None


def main():
    options = _options()
    print_header(f"sorted: one feature, n = {options.n}, bandwidth {options.bandwidth}")
    sknw.compile_ahead()
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(options.n, 1))
    y = np.sin(20 * X[:, 0]) + rng.normal(size=options.n)
    for m in options.queries:
        queries = rng.uniform(size=(m, 1))
        print_table(
            (f"m = {m}", "algorithm", "first [s]", "again [s]", "in sorts"),
            list(predictions(X, y, queries, options)),
        )
    if options.search:
        rows = [search(X, y, name, options) for name in options.kernels]
        print_table(("search", "algorithm", "evaluations", "[s]", "in predictions"), rows)
    if lowess is not None:
        print_table(("lowess", "statsmodels [s]", "ours [s]"), [beside_lowess(X, y)])


def predictions(X, y, queries, options):
    """Yield a row of each kernel."""

    def sort():
        return np.sort(X[:, 0]), np.sort(queries[:, 0]), X.copy(), queries.copy()

    for name in options.kernels:
        model = NadarayaWatsonRegressor(options.bandwidth, kernel=name).fit(X, y)
        _, first = timed(lambda model=model: model.predict(queries))
        seconds = median_seconds(
            {"again": lambda model=model: model.predict(queries), "sort": sort}, options.repeats
        )
        algorithm = model.sums_report_["algorithm"]
        yield name, algorithm, first, seconds["again"], seconds["again"] / seconds["sort"]


def search(X, y, name, options):
    """Return a row: the leave-one-out search, in predictions of as many queries as rows."""
    model = NadarayaWatsonRegressor(BandwidthSearch(), kernel=name)
    _, seconds = timed(lambda: model.fit(X, y))
    model.predict(X)
    _, prediction = timed(lambda: model.predict(X))
    report = model.search_report_
    return name, report["algorithm"], report["n_evaluations"], seconds, seconds / prediction


def beside_lowess(X, y, n=5000, share=0.05):
    """Return a row: fits at n rows, tricube windows of about as many neighbours.

    Windows to a share of the rows of a uniform sample have all about the same width. The peer fits
    lines, this package means.
    """
    X, y = X[:n], y[:n]
    model = NadarayaWatsonRegressor(share / 2, kernel="tricube", algorithm="sorted")
    _, ours = timed(lambda: model.fit(X, y).predict(X))
    _, theirs = timed(lambda: lowess(y, X[:, 0], frac=share, it=0, delta=0.0))
    return f"n = {n}", theirs, ours


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--bandwidth", type=float, default=0.01)
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), default=list(KERNELS))
    parser.add_argument("--search", action="store_true", help="also search over all rows")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
