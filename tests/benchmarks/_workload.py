"""What the benchmarks of large problems share: data with remote rows, bandwidths, exact answers."""

import contextlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

from sknw import NadarayaWatsonRegressor

PEERS = ("numba", "finufft", "pykeops")
TILE_ELEMENTS = 2**22


def print_peers():
    """Print the versions of what only the benchmarks of kernel sums use."""
    print("          " + ", ".join(f"{name} {_version(name)}" for name in PEERS), flush=True)


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def normal_data(n, m, d, *, n_remote=0, seed=0):
    """Draw n rows and m queries, normal and so with some far out; y is smooth with noise.

    The first `n_remote` rows and queries are moved out by a factor of 20.
    """
    rng = np.random.default_rng(seed)
    X, X_test = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    X[:n_remote] *= 20
    X_test[:n_remote] *= 20
    frequencies = np.linspace(2, 0.5, d) if d > 1 else np.array([2.0])
    return X, np.sin(X * frequencies).sum(axis=1) + rng.normal(0, 0.3, size=n), X_test


def scott_bandwidth(X):
    """Scott's rule for a Gaussian, one bandwidth per feature."""
    n, d = X.shape
    return X.std(axis=0) * n ** (-1 / (d + 4))


def leave_one_out_bandwidth(X, y, size):
    """Select on the first `size` rows; rescale as the best bandwidth shrinks with n."""
    n, d = X.shape
    size = min(size, n)
    selected = NadarayaWatsonRegressor().fit(X[:size], y[:size]).bandwidth_
    return selected * (size / n) ** (1 / (d + 4))


def exact_means(X, y, queries, bandwidth):
    """Gaussian predictions in float64, each query's weights relative to its nearest key's."""
    keys, queries = np.float64(X) / bandwidth, np.float64(queries) / bandwidth
    size = max(1, TILE_ELEMENTS // len(keys))
    parts = [_means(queries[i : i + size], keys, y) for i in range(0, len(queries), size)]
    return np.concatenate(parts)


def _means(queries, keys, y):
    sq = np.zeros((len(queries), len(keys)))
    for feature in range(keys.shape[1]):
        sq += np.square(queries[:, None, feature] - keys[None, :, feature])
    sq -= sq.min(axis=1, keepdims=True)
    weights = np.exp(-0.5 * sq)
    return weights @ y / weights.sum(axis=1)


def in_a_fresh_process(*arguments):
    """Run this script once more with arguments appended; return the JSON that it prints last."""
    command = [sys.executable, *sys.argv, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib(function):
    """Call the function; return its result and MiB at its peak above what was resident before.

    Linux's own account of the process: the high-water mark of the resident set, set back first.
    """
    with contextlib.suppress(OSError):  # where it may not be set back, earlier peaks count
        Path("/proc/self/clear_refs").write_text("5")
    before = _status_mib("VmRSS")
    result = function()
    return result, _status_mib("VmHWM") - before


def _status_mib(field):
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
