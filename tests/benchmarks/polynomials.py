"""Local lines beside local means: predictions, searches, and statsmodels' local linear search.

    python tests/benchmarks/polynomials.py [--n 20000] [--peer-n 500 1000]

Ratios are medians of alternating pairs in one run. The criterion of the peer's bandwidths is
evaluated here, with the same rows left out.
"""

import argparse
import statistics
import warnings

import numpy as np
import torch
from _report import print_header, print_table, timed

from sknw import NadarayaWatsonRegressor
from sknw.data.observations import Observations
from sknw.fitting.criteria import CRITERIA
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.scale_objective import criterion_of_scales
from sknw.kernels import KERNELS
from sknw.smoothing.method import Method


def rows(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, np.sin(2 * X[:, 0]) + X.sum(axis=1) + 0.3 * rng.normal(size=n)


def predictions(n, d, bandwidth):
    X, y = rows(2 * n, d)
    models = [NadarayaWatsonRegressor(bandwidth, degree=p).fit(X[:n], y[:n]) for p in (0, 1)]
    return [lambda model=model: model.predict(X[n:]) for model in models]


def gradients(n, d, bandwidth):
    X, y = rows(n, d)
    scales = np.full(d, 1 / bandwidth)
    observations, found = Observations.of(X, y[:, None], np.ones(n), duplicates="keep"), []
    for degree in (0, 1):
        method = Method(KERNELS["gaussian"], degree=degree)
        task = LeaveOneOut.of(observations, method, dtype=torch.float64, device="cpu")
        of_scales = criterion_of_scales(task, CRITERIA["loo"])
        found.append(lambda of_scales=of_scales: of_scales.value_and_gradient(scales))
    return found


def ratio(of_means, of_lines, n_pairs):
    """Return the median seconds of both, and the median of the pairs' ratios."""
    for work in (of_means, of_lines):
        work()
    pairs = [(timed(of_means)[1], timed(of_lines)[1]) for _ in range(n_pairs)]
    seconds = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return *seconds, statistics.median(lines / means for means, lines in pairs)


def peer(n):
    """Return seconds and criteria of statsmodels' search and of this one, d = 2."""
    from statsmodels.nonparametric.kernel_regression import KernelReg

    X, y = rows(n, 2)
    model = NadarayaWatsonRegressor(degree=1, duplicates="keep")
    model.fit(X, y)
    _, ours = timed(lambda: model.fit(X, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, seconds = timed(lambda: KernelReg(y, X, "cc", reg_type="ll", bw="cv_ls"))
    at_theirs = NadarayaWatsonRegressor(np.abs(theirs.bw), degree=1, duplicates="keep").fit(X, y)
    reached = np.mean((at_theirs.predict_loo() - y) ** 2)
    return n, seconds, ours, seconds / ours, reached, model.criterion_


def main():
    options = _options()
    print_header("polynomials: local lines (degree 1) beside local means (degree 0)")
    found = []
    for n, d, bandwidth in ((options.n, 3, 0.3), (options.n, 2, 0.2), (10**6, 1, 0.01)):
        found.append(("predict", n, d, *ratio(*predictions(n, d, bandwidth), options.pairs)))
    for d, bandwidth in ((3, 0.5), (8, 1.5)):
        found.append(("value and gradient", 8000, d, *ratio(*gradients(8000, d, bandwidth), 3)))
    print_table(("work", "n", "d", "degree 0 [s]", "degree 1 [s]", "ratio"), found)
    found = [peer(n) for n in options.peer_n]
    if found:
        names = ("n", "statsmodels [s]", "sknw [s]", "ratio", "its criterion", "ours")
        print_table(names, found)


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--peer-n", type=int, nargs="*", default=[500, 1000])
    return parser.parse_args()


if __name__ == "__main__":
    main()
