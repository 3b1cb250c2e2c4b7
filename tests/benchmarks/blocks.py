"""Blocks out of reach left out: algorithm="blocks" beside "dense", by the same evaluator.

The Gaussian has the leave-one-out bandwidth, Epanechnikov one at which a share of the points is in
reach, and tophat the same radius as scikit-learn's RadiusNeighborsRegressor, which is the third.
"""

import argparse
import warnings
from contextlib import nullcontext

import numpy as np
from _report import median_seconds, print_header, print_table
from _workload import leave_one_out_bandwidth, normal_data, print_peers
from sklearn.neighbors import RadiusNeighborsRegressor

from sknw import NadarayaWatsonRegressor
from sknw.sums.evaluators.compiled.driver import disabled

EVALUATORS = {"fused": nullcontext, "torch": disabled}
SAMPLE = 200


def main():
    options = _options()
    print_header(f"blocks: predictions at n = m = {options.n}, d = {options.d} (medians)")
    print_peers()
    X, y, X_test = normal_data(options.n, options.n, options.d)
    bandwidths = {
        "gaussian": leave_one_out_bandwidth(X, y, options.subsample),
        "epanechnikov": bandwidth_in_reach(X, X_test, options.share),
        "tophat": bandwidth_in_reach(X, X_test, options.share),
    }
    for kernel, bandwidth in bandwidths.items():
        print(f"{kernel}: bandwidth {np.array2string(np.atleast_1d(bandwidth), precision=4)}")
    problems = [(kernel, name) for kernel in options.kernels for name in options.evaluators]
    rows = [
        row(kernel, bandwidths[kernel], evaluator, (X, y, X_test), options.repeats)
        for kernel, evaluator in problems
    ]
    header = (
        *("kernel", "evaluator", "share of pairs", "blocks [s]", "dense [s]", "dense / blocks"),
        *("max difference", "RadiusNeighbors [s]", "RadiusNeighbors / blocks"),
    )
    print_table(header, rows)


def bandwidth_in_reach(X, X_test, share):
    """Return the bandwidth within which, on average over queries, that share of the keys lies."""
    sample = np.random.default_rng(0).choice(len(X_test), min(SAMPLE, len(X_test)), replace=False)
    sq = sum(np.square(X_test[sample, None, f] - X[None, :, f]) for f in range(X.shape[1]))
    return float(np.sqrt(np.quantile(sq, share)))


def row(kernel, bandwidth, evaluator, data, repeats):
    """One line of the table: seconds of a prediction and the largest difference over range(y)."""
    X, y, X_test = data
    means, calls = {}, {}
    with EVALUATORS[evaluator]():
        for name in ("blocks", "dense"):
            model = NadarayaWatsonRegressor(bandwidth, kernel=kernel, algorithm=name).fit(X, y)
            means[name], calls[name] = model.predict(X_test), _call(model, X_test)
            if name == "blocks":
                share = getattr(model, "sums_report_", {}).get("share_of_pairs", "-")
        if kernel == "tophat":
            peer = RadiusNeighborsRegressor(radius=bandwidth, n_jobs=-1).fit(X, y)
            calls["peer"] = _call(peer, X_test)
        seconds = median_seconds(calls, repeats)
    difference = np.abs(means["blocks"] - means["dense"]).max() / (y.max() - y.min())
    blocks, dense, peer = seconds["blocks"], seconds["dense"], seconds.get("peer")
    beside = (peer, peer / blocks) if peer else ("-", "-")
    return kernel, evaluator, share, blocks, dense, dense / blocks, f"{difference:.1e}", *beside


def _call(model, X_test):
    return lambda: model.predict(X_test)


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000, help="keys, and as many queries")
    parser.add_argument("--d", type=int, default=3, help="features")
    kernels = ["gaussian", "epanechnikov", "tophat"]
    parser.add_argument("--kernels", nargs="+", default=kernels, choices=kernels)
    names = list(EVALUATORS)
    parser.add_argument("--evaluators", nargs="+", default=names, choices=names)
    parser.add_argument("--share", type=float, default=0.01, help="of the points, in reach")
    parser.add_argument("--subsample", type=int, default=4000, help="rows to select a bandwidth on")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds")
    return parser.parse_args()


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)  # remote queries have empty neighbourhoods
    main()
