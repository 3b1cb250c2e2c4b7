"""Up to a million rows: fit + predict beside raw non-uniform Fourier transforms; selection.

Every cell has an interpreter of its own, warmed up on a few rows. The raw transforms are one of
type 1 and one of type 2 by finufft, of one complex strength vector (mass and total), with the
modes and the tolerance at which a Gaussian and its spectrum fall below rtol: no other work, and
no care for queries where mass is small. Errors are relative to the range of y, on 1000 queries
that include the 100 with the most remote nearest key.
"""

import argparse
import json
import math

import numpy as np
from _report import median_seconds, print_header, print_table, timed
from _workload import (
    exact_means,
    in_a_fresh_process,
    leave_one_out_bandwidth,
    normal_data,
    peak_mib,
    print_peers,
    scott_bandwidth,
)
from scipy.spatial import cKDTree

from sknw import NadarayaWatsonRegressor

ALGORITHMS = ("auto", "nufft", "blocks", "dense")
SELECT = ((10**6, 1), (10**6, 2), (10**6, 3), (10**5, 3), (10**5, 8))
WARM_UP_ROWS = 6000  # enough pairs to load whatever may be chosen
PROBES, REMOTE_PROBES = 1000, 100
MOST_MODES = 10**8


def main():
    options = _options()
    if options.measure:
        n, d, what = options.measure
        measure = measure_select if what == "select" else measure_predict
        print(json.dumps(measure(int(n), int(d), what, options)))
    elif options.select:
        print_selections(options)
    else:
        print_predictions(options)


def print_predictions(options):
    print_header("million: fit with a fixed bandwidth, and predict as many queries")
    print_peers()
    print(f"bandwidth: {options.bandwidth}; rtol: {options.rtol:g}; remote: {options.remote} rows")
    header = (
        *("n = m", "d", "algorithm", "used", "fit + predict [s]", "again [s]"),
        *("transforms [s]", "ratio", "max error", "within rtol", "redone", "peak [MiB]"),
    )
    rows, reports = [], []
    for d in options.d:
        for n in options.n:
            for name in options.algorithms:
                if name != "dense" or n * n <= options.dense_pairs:
                    row, report = in_a_fresh_process("--measure", n, d, name)
                    rows.append(row)
                    reports.append(f"n = {n}, d = {d}, {name}: {report}")
    print_table(header, rows)
    print("\n".join(["", *reports]))


def measure_predict(n, d, name, options):
    """One line of the table and the report of the sums."""
    X, y, X_test = normal_data(n, n, d, n_remote=options.remote)
    bandwidth = _bandwidth(X, y, options)
    model = NadarayaWatsonRegressor(bandwidth, algorithm=name, rtol=options.rtol)
    warm = slice(0, WARM_UP_ROWS)
    try:
        model.fit(X[warm], y[warm]).predict(X_test[warm])
        means, peak = peak_mib(lambda: model.fit(X, y).predict(X_test))
    except ValueError as refusal:
        return (n, d, name, *("-",) * 9), str(refusal)
    report = getattr(model, "sums_report_", {})
    calls = {"ours": lambda: model.fit(X, y).predict(X_test)}
    transforms = raw_transforms(X, y, X_test, bandwidth, options.rtol)
    if transforms is not None and name != "dense":
        calls["raw"] = transforms
    seconds = median_seconds(calls, options.repeats if name != "dense" else 1)
    again = timed(lambda: model.predict(X_test))[1]
    raw = seconds.get("raw")
    beside = (raw, seconds["ours"] / raw) if raw else ("-", "-")
    error = largest_error(X, y, X_test, bandwidth, means)
    ours = seconds["ours"], again, *beside, f"{error:.1e}", bool(error <= options.rtol)
    redone = report.get("rows_redone", "-")
    return (n, d, name, report.get("algorithm", "-"), *ours, redone, f"{peak:.0f}"), str(report)


def _bandwidth(X, y, options):
    if options.bandwidth == "scott":
        return scott_bandwidth(X)
    return leave_one_out_bandwidth(X, y, options.subsample)


def largest_error(X, y, X_test, bandwidth, means):
    """Largest error of the probes, the most remote queries among them, over the range of y."""
    distance, _ = cKDTree(X / bandwidth).query(X_test / bandwidth, workers=-1)
    remote = np.argsort(distance)[-REMOTE_PROBES:]
    drawn = np.random.default_rng(1).choice(len(X_test), min(PROBES, len(X_test)), replace=False)
    probes = np.union1d(remote, drawn[: PROBES - REMOTE_PROBES])
    errors = np.abs(means[probes] - exact_means(X, y, X_test[probes], bandwidth))
    return errors.max() / (y.max() - y.min())


def raw_transforms(X, y, X_test, bandwidth, rtol):
    """Return a call of the two transforms; None where finufft is absent or modes are too many."""
    try:
        import finufft
    except ImportError:
        return None
    reach = math.sqrt(2 * math.log(1 / rtol))  # where exp(−u²/2) = rtol
    low = np.minimum(X.min(axis=0), X_test.min(axis=0))
    extent = (np.maximum(X.max(axis=0), X_test.max(axis=0)) - low) / bandwidth
    period = extent + reach
    highest = np.ceil(reach * period / (2 * math.pi)).astype(int)
    n_modes = tuple(int(k) for k in 2 * highest + 1)
    if math.prod(n_modes) > MOST_MODES:
        return None
    keys, queries = (
        np.ascontiguousarray((2 * math.pi / period * (rows - low) / bandwidth - math.pi).T)
        for rows in (X, X_test)
    )
    spectrum = _spectrum(period, highest)
    strengths = 1 + 1j * y
    forward = getattr(finufft, f"nufft{len(period)}d1")
    backward = getattr(finufft, f"nufft{len(period)}d2")

    def transforms():
        modes = forward(*keys, strengths, n_modes, eps=rtol)
        modes *= spectrum
        sums = backward(*queries, modes, eps=rtol)
        return sums.imag / sums.real

    return transforms


def _spectrum(period, highest):
    """Fourier coefficients of the periodic Gaussian, of shape (2 highest + 1)."""
    spectrum = np.ones(())
    for length, most in zip(period, highest, strict=True):
        frequencies = 2 * math.pi / length * np.arange(-most, most + 1)
        weights = math.sqrt(2 * math.pi) / length * np.exp(-0.5 * frequencies**2)
        spectrum = spectrum[..., None] * weights
    return spectrum


def print_selections(options):
    print_header("million: bandwidths by leave-one-out")
    print_peers()
    rows = [in_a_fresh_process("--measure", n, d, "select") for n, d in options.select_sizes]
    header = ("n", "d", "fit [s]", "peak [MiB]", "criterion", "bandwidth")
    print_table(header, [row for row, _ in rows])
    for (n, d, *_), report in rows:
        print(f"\nn = {n}, d = {d}: {report}")


def measure_select(n, d, _what, options):
    """One line of the table and the report of the search."""
    X, y, _ = normal_data(n, 1, d, n_remote=options.remote)
    warm = slice(0, WARM_UP_ROWS)
    model = NadarayaWatsonRegressor(rtol=options.rtol).fit(X[warm], y[warm])
    (_, seconds), peak = peak_mib(lambda: timed(lambda: model.fit(X, y)))
    bandwidth = " ".join(f"{width:.4g}" for width in np.atleast_1d(model.bandwidth_))
    report = getattr(model, "search_report_", "no report")
    return (n, d, seconds, f"{peak:.0f}", f"{model.criterion_:.8g}", bandwidth), str(report)


def _size(text):
    """Read `1e6x3` as rows and features."""
    n, d = text.split("x")
    return int(float(n)), int(d)


def _rows(text):
    return int(float(text))


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=_rows, nargs="+", default=[10**4, 10**5, 10**6], help="rows")
    parser.add_argument("--d", type=int, nargs="+", default=[1, 2, 3], help="features")
    parser.add_argument(
        "--algorithms", nargs="+", default=["auto", "nufft", "dense"], choices=ALGORITHMS
    )
    parser.add_argument("--bandwidth", default="scott", choices=("scott", "loo"))
    parser.add_argument("--subsample", type=_rows, default=4000, help="rows of --bandwidth loo")
    parser.add_argument("--rtol", type=float, default=1e-8, help="tolerance")
    parser.add_argument("--remote", type=int, default=0, help="rows and queries moved far out")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds")
    parser.add_argument("--dense-pairs", type=float, default=1e10, help="most pairs of dense")
    parser.add_argument("--select", action="store_true", help="search bandwidths instead")
    parser.add_argument(
        "--select-sizes", type=_size, nargs="+", default=SELECT, help="such as 1e6x3 1e5x8"
    )
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
