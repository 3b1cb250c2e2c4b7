"""How good the automatic choice is: predict by algorithm="auto" beside each algorithm by name.

The first prediction of a fitted model prepares the keys; the second finds them prepared. Every
round fits afresh. A ratio of 1 means that "auto" took as long as the best algorithm.
"""

import argparse
import statistics
import warnings

import numpy as np
from _report import print_header, print_table, timed
from _workload import normal_data, print_peers, scott_bandwidth

from sknw import NadarayaWatsonRegressor
from sknw.kernels import KERNELS
from sknw.sums import ALGORITHMS
from sknw.support.warnings import EmptyNeighborhoodWarning

PAIRS_PER_CELL = 1e10  # rounds are fewer where one takes long


def main():
    options = _options()
    print_header("choice: milliseconds of predict, first and second call (medians)")
    print_peers()
    rows, ratios = [], ([], [])
    for kernel, n, d, multiple in _cells(options):
        if n * n > options.most_pairs:
            continue
        line, *cell_ratios = measure(kernel, n, d, multiple, options)
        rows.append(line)
        for found, ratio in zip(ratios, cell_ratios, strict=True):
            found.append(ratio)
    times = [f"{name} {call}" for name in ("auto", *ALGORITHMS) for call in ("1st", "2nd")]
    header = ("kernel", "n = m", "d", "h / Scott", "chosen", *times, "1st ratio", "2nd ratio")
    print_table(header, rows)
    for call, found in zip(("first", "second"), ratios, strict=True):
        print(f"{call} call, auto / best: median {statistics.median(found):.3f}", end=", ")
        print(f"worst {max(found):.3f}, over 1.1 in {sum(r > 1.1 for r in found)} of {len(found)}")


def _cells(options):
    for kernel in options.kernels:
        for d in options.d:
            for n in options.n:
                for multiple in options.multiples:
                    yield kernel, n, d, multiple


def measure(kernel, n, d, multiple, options):
    """One line of the table, and the ratios of auto to the best at the first and second call."""
    X, y, X_test = normal_data(n, n, d)
    bandwidth = multiple * KERNELS[kernel].canonical_factor * scott_bandwidth(X)
    makers = {}
    for name in ("auto", *ALGORITHMS):
        model = NadarayaWatsonRegressor(bandwidth, kernel=kernel, algorithm=name)
        if _accepts(model, X, y, X_test):
            makers[name] = model
    rounds = int(np.clip(PAIRS_PER_CELL / n**2, 1, options.repeats))
    seconds = {name: [] for name in makers}
    names = list(makers)
    for _ in range(rounds):
        for name in names:
            model = makers[name].fit(X, y)
            seconds[name].append([timed(lambda m=model: m.predict(X_test))[1] for _ in range(2)])
        names.reverse()
    medians = {name: np.median(values, axis=0) for name, values in seconds.items()}
    best = np.min([medians[name] for name in medians if name != "auto"], axis=0)
    ratios = (medians["auto"] / best).tolist()
    chosen = getattr(makers["auto"], "sums_report_", {}).get("algorithm", "-")
    times = [
        1e3 * float(medians[name][call]) if name in medians else "-"
        for name in ("auto", *ALGORITHMS)
        for call in (0, 1)
    ]
    return (kernel, n, d, f"{multiple:g}", chosen, *times, *ratios), *ratios


def _accepts(model, X, y, X_test):
    """Whether the algorithm can do the problem; it is warm afterwards."""
    try:
        model.fit(X, y).predict(X_test)
    except ValueError:
        return False
    return True


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[10**3, 10**4, 10**5], help="rows")
    parser.add_argument("--d", type=int, nargs="+", default=[1, 2, 3, 8], help="features")
    parser.add_argument("--multiples", type=float, nargs="+", default=[0.3, 1, 3], help="of Scott")
    kernels = ["gaussian", "epanechnikov"]
    parser.add_argument("--kernels", nargs="+", default=kernels, choices=list(KERNELS))
    parser.add_argument("--repeats", type=int, default=5, help="rounds (fewer where slow)")
    parser.add_argument("--most-pairs", type=float, default=1e10, help="leave larger cells out")
    return parser.parse_args()


if __name__ == "__main__":
    warnings.simplefilter("ignore", EmptyNeighborhoodWarning)  # of remote queries
    main()
