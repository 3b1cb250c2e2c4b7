"""This version beside another: seconds of the same work, in pairs, and the ratio's 90 % interval.

    git worktree add ../before COMMIT
    python tests/benchmarks/pairs.py --before ../before

Each version runs in a process of its own, which stays alive and is asked for one piece of work
after the other, in turns, so that drift of the machine hits both alike. The work is done through
the public API alone, so that any two versions can be compared; it is that of `selection.py`,
`tiles.py`, `million.py`, `blocks.py` and `latency.py`. A ratio above one means that this version
takes longer; the interval is the bootstrap's of the median of the pairs' ratios.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from _report import print_header, print_table

RESAMPLES = 4000


# --- work: each function prepares a problem and returns what is timed ----------------------------


def search(n, d, kernel="gaussian", n_seeds=5):
    problems = [_rows(n, d, seed) for seed in range(n_seeds)]
    return lambda: [_model("loo", kernel=kernel).fit(X, y) for X, y in problems]


def predict(n, d, dtype, **params):
    X, y = _rows(2 * n, d)
    X = X.astype(dtype)
    model = _model(0.5, **params).fit(X[:n], y[:n])
    return lambda: model.predict(X[n:])


def fit_and_predict(n, d):
    X, y = _rows(2 * n, d)
    return lambda: _model("scott").fit(X[:n], y[:n]).predict(X[n:])


def leave_one_out(n, d, dtype):
    X, y = _rows(n, d)
    X = X.astype(dtype)
    return lambda: _model(0.5, algorithm="dense").fit(X, y).predict_loo()


def train(n, d, metric):
    from sknw import ParametricNWRegressor

    X, y = _rows(n, d)
    model = ParametricNWRegressor(metric=metric, n_starts=1, max_iter=15, random_state=0)
    return lambda: model.fit(X, y)


WORK = {
    "search n=300 d=2": lambda: search(300, 2),
    "search n=1000 d=3": lambda: search(1000, 3),
    "search n=4000 d=3": lambda: search(4000, 3),
    "search n=1000 d=3 epanechnikov": lambda: search(1000, 3, "epanechnikov", 1),
    "search n=1000 d=8": lambda: search(1000, 8, n_seeds=1),
    "search n=8000 d=8": lambda: search(8000, 8, n_seeds=1),
    "search n=100,000 d=1": lambda: search(10**5, 1, n_seeds=1),
    "training n=2000 d=8 diagonal": lambda: train(2000, 8, "diagonal"),
    "training n=1000 d=8 full": lambda: train(1000, 8, "full"),
    **{
        f"all pairs n=20,000 d={d} {dtype}": lambda d=d, dtype=dtype: predict(
            20_000, d, dtype, algorithm="dense"
        )
        for dtype in ("float64", "float32")
        for d in (1, 3, 8)
    },
    "all pairs n=20,000 d=3 epanechnikov": lambda: predict(
        20_000, 3, "float64", algorithm="dense", kernel="epanechnikov"
    ),
    "blocks n=100,000 d=3 epanechnikov": lambda: predict(
        100_000, 3, "float64", algorithm="blocks", kernel="epanechnikov"
    ),
    "all pairs n=10,000 d=16": lambda: predict(10_000, 16, "float64", algorithm="dense"),
    "leave-one-out n=8000 d=3": lambda: leave_one_out(8000, 3, "float64"),
    "leave-one-out n=8000 d=8": lambda: leave_one_out(8000, 8, "float64"),
    "fit + predict n=10,000 d=1": lambda: fit_and_predict(10**4, 1),
    "fit + predict n=100,000 d=2": lambda: fit_and_predict(10**5, 2),
    "fit + predict n=100,000 d=3": lambda: fit_and_predict(10**5, 3),
    "fit + predict n=1,000,000 d=1": lambda: fit_and_predict(10**6, 1),
    "fit + predict n=1,000,000 d=2": lambda: fit_and_predict(10**6, 2),
    "predict 1 of n=10,000 d=3": lambda: _few(1),
    "predict 100 of n=10,000 d=3": lambda: _few(100),
    "fit + predict n=500 d=3": lambda: fit_and_predict(500, 3),
}


def _few(m):
    X, y = _rows(10_000, 3)
    model = _model(0.5).fit(X, y)
    return lambda: model.predict(X[:m])


def _rows(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, d))
    return X, np.sin(X * np.linspace(2, 0.5, d)).sum(axis=1) + rng.normal(0, 0.3, size=n)


def _model(bandwidth, **params):
    from sknw import NadarayaWatsonRegressor

    return NadarayaWatsonRegressor(bandwidth, **params)


# --- pairs ---------------------------------------------------------------------------------------


def main():
    options = _options()
    if options.serve:
        serve()
        return
    print_header("pairs: this version beside another (medians)")
    before, after = Version(options.before), Version(Path(__file__).resolve().parents[2])
    print(f"before: {before.commit}; after: {after.commit}; {options.pairs} pairs each")
    names = [name for name in WORK if any(part in name for part in options.only)]
    rows = []
    for name in names:
        rows.append(compare(name, before, after, options.pairs))
        print("  ".join(map(str, rows[-1])), flush=True)
    header = ("work", "before [ms]", "after [ms]", "after / before", "90 % interval")
    print_table(header, rows)


def compare(name, before, after, n_pairs):
    """Time the work in both versions in turns; the first call of each is not counted."""
    calls = [version.prepare(name) for version in (before, after)]
    seconds = np.empty((n_pairs, 2))
    for i, pair in enumerate(seconds):
        for which in (0, 1) if i % 2 else (1, 0):
            pair[which] = calls[which]()
    ratios = seconds[:, 1] / seconds[:, 0]
    draws = np.random.default_rng(0).choice(ratios, size=(RESAMPLES, n_pairs))
    low, high = np.quantile(np.median(draws, axis=1), (0.05, 0.95))
    milliseconds = (f"{1000 * value:.4g}" for value in np.median(seconds, axis=0))
    return name, *milliseconds, f"{np.median(ratios):.3f}", f"{low:.3f} to {high:.3f}"


class Version:
    """A checkout whose package a process of its own has imported."""

    def __init__(self, root):
        where = {"PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | where,
        )
        imported = self._ask("import")
        if Path(imported).resolve().parent.parent != Path(root).resolve():
            raise RuntimeError(f"the package was to come from {root}; it came from {imported}")
        revision = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        self.commit = subprocess.run(revision, capture_output=True, text=True).stdout.strip()

    def prepare(self, name):
        """Let the process set up this work and do it once; return a function that times it."""
        self._ask(f"prepare {name}")
        return lambda: self._ask("run")

    def _ask(self, order):
        print(order, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def serve():
    """Do what the lines of the standard input ask for, and answer each by a line."""
    import sknw

    if hasattr(sknw, "compile_ahead"):
        sknw.compile_ahead()
    warnings.simplefilter("ignore")
    work = None
    for line in sys.stdin:
        order, _, name = line.strip().partition(" ")
        if order == "prepare":
            work = WORK[name]()
        answer = sknw.__file__
        if order != "import":
            start = time.perf_counter()
            work()
            answer = time.perf_counter() - start
        print(json.dumps(answer), flush=True)


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="a checkout of the version before")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of each piece of work")
    parser.add_argument("--only", nargs="+", default=[""], help="words in the names of the work")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.before is None and not options.serve:
        parser.error("--before must name a checkout: git worktree add ../before COMMIT")
    return options


if __name__ == "__main__":
    main()
