"""The full metric beside metric-learn's MLKR: seconds, and the leave-one-out loss reached.

metric-learn does not run on current scikit-learn, so it runs in an environment of its own, whose
interpreter --python names (``pip install metric-learn "scikit-learn<1.6"`` makes one). Both get the
same rows; the losses are computed here, by one plain function, from either's matrix. Ours walks
from the ends of the diagonal and of the common scale. Imports and warm-up are not timed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _report import print_header, print_table, timed

_PEER = """
import json, sys, time
import numpy as np
from metric_learn import MLKR
data = np.load(sys.argv[1])
X, y = data["X"], data["y"]
MLKR(max_iter=2).fit(X[:50], y[:50])
start = time.perf_counter()
model = MLKR().fit(X, y)
seconds = time.perf_counter() - start
np.save(sys.argv[2], model.components_)
print(json.dumps({"seconds": seconds, "n_iter": int(model.n_iter_)}))
"""


def main():
    options = _options()
    print_header("mlkr: a full matrix by leave-one-out error, beside metric-learn")
    fit(*data(1000, options.d, seed=0))  # compiles the loops
    rows = [beside(options.python, options.n, options.d, seed) for seed in range(options.repeats)]
    header = ("n", "d", "seed", "sknw [s]", "MLKR [s]", "ratio", "sknw loss", "MLKR loss")
    print_table(header, rows)


def data(n, d, seed):
    """Draw rows whose target varies along two oblique directions."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    first, second = rng.normal(size=(2, d)) / d**0.5
    return X, np.sin(2 * X @ first) + 0.5 * (X @ second) ** 2 + rng.normal(0, 0.2, size=n)


def fit(X, y):
    from sknw import ParametricNWRegressor

    return ParametricNWRegressor("full", n_starts=2).fit(X, y)


def beside(python, n, d, seed):
    """One line of the table."""
    X, y = data(n, d, seed)
    model, seconds = timed(lambda: fit(X, y))
    peer_seconds, peer = fit_peer(python, X, y)
    losses = loss(model.transform(X), y), loss(X @ peer.T, y, scale=2**0.5)
    return n, d, seed, seconds, peer_seconds, peer_seconds / seconds, *losses


def fit_peer(python, X, y):
    """Return the seconds and the matrix of MLKR."""
    with tempfile.TemporaryDirectory() as folder:
        rows, matrix = Path(folder) / "rows.npz", Path(folder) / "matrix.npy"
        np.savez(rows, X=X, y=y)
        command = [python, "-W", "ignore", "-c", _PEER, rows, matrix]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"metric-learn failed:\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])["seconds"], np.load(matrix)


def loss(Z, y, scale=1.0):
    """Mean squared leave-one-out error with weights exp(-d²/2), or exp(-d²) for scale sqrt(2)."""
    Z = Z * scale
    errors = []
    for row in range(len(Z)):
        exponents = -0.5 * np.square(Z - Z[row]).sum(axis=1)
        exponents[row] = -np.inf
        weights = np.exp(exponents - exponents.max())
        errors.append(y[row] - weights @ y / weights.sum())
    return float(np.mean(np.square(errors)))


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="interpreter with metric-learn")
    parser.add_argument("--n", type=int, default=2000, help="rows")
    parser.add_argument("--d", type=int, default=8, help="features")
    parser.add_argument("--repeats", type=int, default=3, help="seeds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
