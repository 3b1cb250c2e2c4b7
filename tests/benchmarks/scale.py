"""Seconds and peak memory of fit + predict on many rows, beside scikit-learn's working memory.

Each measurement has an interpreter of its own. Memory is Linux's own account of that process:
the high-water mark of its resident set after predict (VmHWM in /proc/self/status), above what was
resident (VmRSS) once the inputs existed and a fit of a few rows had loaded libraries and threads.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import sklearn
from _report import print_header, print_table, timed
from sklearn.kernel_ridge import KernelRidge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor

WARM_UP_ROWS = 64
MODELS = {
    "sknw": NadarayaWatsonRegressor(bandwidth=0.5),
    "KNeighbors": KNeighborsRegressor(),
    "KernelRidge": KernelRidge(kernel="rbf", gamma=2.0),
    "scalar": ParametricNWRegressor("scalar"),
    "diagonal": ParametricNWRegressor("diagonal"),
    "full": ParametricNWRegressor("full"),
    "mlp": ParametricNWRegressor("mlp", early_stopping=True),
}


def main():
    options = _options()
    if options.measure:
        measured = measure(MODELS[options.measure], options)
        print(json.dumps(measured))
        return
    print_header(f"scale: fit + predict at n = m = {options.n}, d = {options.d}")
    print(f"working memory: {options.working_memory} MiB")
    rows = [(name, *_measure_in_a_fresh_process(name)) for name in options.models]
    print_table(("model", "fit [s]", "predict [s]", "peak above the inputs [MiB]"), rows)


def measure(model, options):
    """Fit and predict once; return seconds of both and MiB at the peak above the inputs."""
    X, y, X_test = _rows(options)
    with sklearn.config_context(working_memory=options.working_memory):
        model.fit(X[:WARM_UP_ROWS], y[:WARM_UP_ROWS]).predict(X[:WARM_UP_ROWS])
        before = _status_mib("VmRSS")
        _, fit_seconds = timed(lambda: model.fit(X, y))
        _, predict_seconds = timed(lambda: model.predict(X_test))
    return fit_seconds, predict_seconds, _status_mib("VmHWM") - before


def _rows(options):
    """Return the first rows of a set, standardised, as training rows and queries; or drawn ones."""
    if options.data is not None:
        with np.load(options.data) as data:
            X, y = data["X"][: options.n], data["y"][: options.n]
        X = StandardScaler().fit_transform(X)
        return X, y, X
    rng = np.random.default_rng(0)
    X, X_test = rng.uniform(-2, 2, size=(2, options.n, options.d))
    return X, np.sin(X).sum(axis=1) + rng.normal(0, 0.3, size=options.n), X_test


def _measure_in_a_fresh_process(name):
    command = [sys.executable, *sys.argv, "--measure", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def _status_mib(field):
    """Read one memory entry of this process, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        sys.exit("Memory is read from /proc/self/status, which only Linux has.")
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000, help="rows to fit and to predict")
    parser.add_argument("--d", type=int, default=8, help="features")
    parser.add_argument("--data", type=Path, help="a set to take the rows from, .npz of X and y")
    parser.add_argument("--models", nargs="+", default=["sknw"], choices=list(MODELS))
    default = sklearn.get_config()["working_memory"]
    parser.add_argument("--working-memory", type=int, default=default, help="MiB")
    parser.add_argument("--measure", choices=list(MODELS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
