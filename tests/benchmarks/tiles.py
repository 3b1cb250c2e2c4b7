"""All pairs, in billions per second: ours beside KeOps, torch and the practical limit in C.

Every candidate predicts m queries from n keys with a Gaussian: the sums of `[1, y]` and their
ratio. The limit is `fused_loop.c`, compiled here for the CPU and the number of features at hand.
"""

import argparse
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from _report import median_seconds, print_header, print_table
from _workload import exact_means, print_peers
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from sknw import NadarayaWatsonRegressor
from sknw.data.observations import Observations
from sknw.fitting.criteria import CRITERIA
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.parametrization import Scales, Widths
from sknw.fitting.scale_objective import scale_objective
from sknw.kernels import KERNELS
from sknw.smoothing.method import Method
from sknw.sums.evaluators.compiled.driver import disabled

BANDWIDTH = 0.5
PROBES = 200
PARTS_PER_THREAD = 8
NAIVE_MATRICES = 4  # n × m, at the peak of the naive formula
C_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-Wno-psabi", "-shared", "-fPIC")
ALIGNMENT, REMOTE = 64, 1e9


def main():
    options = _options()
    print_header("tiles: Gaussian predictions from all pairs (medians)")
    print_peers()
    for dtype in options.dtype:
        with tempfile.TemporaryDirectory() as folder:
            rows = [predict_row(dtype, d, options, Path(folder)) for d in options.d]
        _print_rows(options.candidates, rows)
    loo = [(name, d) for name in options.dtype for d in options.loo_d]
    rows = [leave_one_out_row(dtype, d, options) for dtype, d in loo if options.loo_n]
    if rows:
        print("\nleave-one-out loss and its gradient in one bandwidth per feature")
        header = ("dtype", "d", "n", "fused [Gpairs/s]", "torch [Gpairs/s]", "fused / torch")
        print_table(header, rows)


def predict_row(dtype, d, options, folder):
    """Return the problem and, by candidate, Gpairs/s and the largest error of the probes."""
    n = options.n
    rng = np.random.default_rng(d)
    X, X_test = rng.uniform(-2, 2, size=(2, n, d)).astype(dtype)
    y = np.sin(X).sum(axis=1)
    exact = exact_means(X, y, X_test[:PROBES], BANDWIDTH)
    calls = {}
    for name in options.candidates:
        call = CANDIDATES[name](X, y, X_test, folder)
        if call is not None:
            calls[name] = call
    means = {}
    keeping = {name: functools.partial(_keep, means, name, call) for name, call in calls.items()}
    seconds = median_seconds(keeping, options.repeats)
    errors = {name: np.abs(means[name][:PROBES] - exact).max() for name in calls}
    speeds = {name: n * n / value / 1e9 for name, value in seconds.items()}
    return dtype, d, n, speeds, errors


def _keep(means, name, call):
    means[name] = call()


def _print_rows(names, rows):
    def lines(cell):
        return [(dtype, d, n, *(cell(s, e, name) for name in names)) for dtype, d, n, s, e in rows]

    print("\nbillions of pairs per second")
    print_table(("dtype", "d", "n = m", *names), lines(lambda s, e, name: s.get(name, "-")))
    if "fused" in names:
        print("\nratio: fused / each")
        ratios = lines(lambda s, e, name: s["fused"] / s[name] if name in s else "-")
        print_table(("dtype", "d", "n = m", *names), ratios)
    print(f"\nlargest error of {PROBES} predictions, in units of y")
    errors = lines(lambda s, e, name: f"{e[name]:.0e}" if name in e else "-")
    print_table(("dtype", "d", "n = m", *names), errors)


def ours_fused(X, y, X_test, _folder):
    model = NadarayaWatsonRegressor(bandwidth=BANDWIDTH, algorithm="dense").fit(X, y)
    return functools.partial(model.predict, X_test)


def ours_on_torch(X, y, X_test, _folder):
    with disabled():
        model = NadarayaWatsonRegressor(bandwidth=BANDWIDTH, algorithm="dense").fit(X, y)

    def predict():
        with disabled():
            return model.predict(X_test)

    return predict


def keops(X, y, X_test, _folder):
    try:
        import pykeops
        from pykeops.torch import Genred
    except ImportError:
        print("KeOps is left out: pykeops is not installed.")
        return None
    pykeops.set_verbose(False)
    queries, keys, y = _scaled_tensors(X, y, X_test)
    columns = torch.stack([torch.ones_like(y), y], dim=1)
    variables = [f"q = Vi({X.shape[1]})", f"z = Vj({X.shape[1]})", "v = Vj(2)"]
    sums = Genred("Exp(-SqDist(q, z) * IntInv(2)) * v", variables, reduction_op="Sum", axis=1)

    def predict():
        mass, total = sums(queries, keys, columns, backend="CPU").T
        return (total / mass).numpy()

    return predict


def naive(X, y, X_test, _folder):
    needed = NAIVE_MATRICES * len(X) * len(X_test) * X.itemsize
    if needed > _free_memory():
        return None
    queries, keys, y = _scaled_tensors(X, y, X_test)
    return lambda: (torch.softmax(-(torch.cdist(queries, keys) ** 2) / 2, dim=1) @ y).numpy()


def attention(X, y, X_test, _folder):
    """Attention: `q·z − |z|²/2` is `−|q − z|²/2` up to what is constant in a row."""
    queries, keys, y = _scaled_tensors(X, y, X_test)
    q = torch.cat([queries, torch.ones_like(queries[:, :1])], dim=1)[None, None]
    k = torch.cat([keys, -keys.square().sum(dim=1, keepdim=True) / 2], dim=1)[None, None]
    v = torch.zeros_like(k)  # as wide as the keys: else torch would build the n × m matrix
    v[..., 0] = y

    def predict():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            means = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        return means[0, 0, :, 0].numpy()

    return predict


def c_loop(X, y, X_test, folder):
    library = _compiled_loop(X.shape[1], X.dtype, folder)
    if library is None:
        return None
    return functools.partial(_c_predict, library, X, y, X_test)


@functools.cache
def _compiled_loop(n_features, dtype, folder):
    """Compile the C loop for this number of features; None without a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print("The C loop is left out: there is no C compiler (cc, gcc, or the variable CC).")
        return None
    target = folder / f"fused_loop_{n_features}_{dtype}.so"
    single = ["-DSINGLE"] if dtype == np.float32 else []
    source = Path(__file__).with_name("fused_loop.c")
    command = [compiler, *C_FLAGS, f"-DFEATURES={n_features}", *single, source, "-o", target]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(target))
    library.key_multiple.restype = ctypes.c_ssize_t
    return library


def _c_predict(library, X, y, X_test):
    """Predict by the C loop, in as many threads as torch has."""
    unit = BANDWIDTH * np.sqrt(2 * np.log(2))  # where a Gaussian is 2^(−s)
    multiple = library.key_multiple()
    keys = _padded((X / X.dtype.type(unit)).T, multiple, REMOTE)
    values = _padded(y[None], multiple, 0.0)
    queries = np.ascontiguousarray(X_test / X.dtype.type(unit))
    mass, total = np.zeros((2, len(queries)))
    threads = torch.get_num_threads()
    size = max(64, len(queries) // (threads * PARTS_PER_THREAD))

    def part(first):
        block = slice(first, first + size)
        library.kernel_sums(
            _address(keys), _address(values), ctypes.c_ssize_t(keys.shape[1]),
            _address(queries[block]), ctypes.c_ssize_t(len(queries[block])),
            _address(mass[block]), _address(total[block]),
        )  # fmt: skip

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(0, len(queries), size)))
    return total / mass


def _padded(rows, multiple, fill):
    """Return the rows (k, n), aligned and filled up to a multiple of n."""
    width = rows.shape[1] + -rows.shape[1] % multiple
    raw = np.empty(len(rows) * width * rows.itemsize + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    padded = raw[start : start + len(rows) * width * rows.itemsize].view(rows.dtype)
    padded = padded.reshape(len(rows), width)
    padded[:, : rows.shape[1]] = rows
    padded[:, rows.shape[1] :] = fill
    return padded


def _address(array):
    return ctypes.c_void_p(array.ctypes.data)


def _scaled_tensors(X, y, X_test):
    return (torch.from_numpy(array) for array in (X_test / BANDWIDTH, X / BANDWIDTH, y))


def _free_memory():
    """Bytes of memory that are free now; without bound where the system does not say."""
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return float("inf")
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


CANDIDATES = {
    "fused": ours_fused,
    "torch": ours_on_torch,
    "KeOps": keops,
    "naive": naive,
    "attention": attention,
    "C loop": c_loop,
}


def leave_one_out_row(dtype, d, options):
    """One line of the table: n² over the seconds of one value with its gradient."""
    n = options.loo_n
    rng = np.random.default_rng(d)
    X = rng.uniform(-2, 2, size=(n, d)).astype(dtype)
    y = np.sin(X).sum(axis=1, dtype=np.float64) + rng.normal(0, 0.3, size=n)
    objective, start = _leave_one_out_objective(X, y)

    def on_torch():
        with disabled():
            return objective.log_value_and_gradient(start)

    calls = {"fused": lambda: objective.log_value_and_gradient(start), "torch": on_torch}
    seconds = median_seconds(calls, options.repeats)
    speeds = [n * n / value / 1e9 for value in seconds.values()]
    return dtype, d, n, *speeds, speeds[0] / speeds[1]


def _leave_one_out_objective(X, y):
    """The loss that the bandwidth search minimises, over coordinates of one width per feature."""
    task = LeaveOneOut.of(
        Observations.of(X, y[:, None], np.ones(len(X))),
        Method(KERNELS["gaussian"], "dense"),
        dtype=torch.from_numpy(X).dtype,
        device="cpu",
    )

    ranges = Widths.of(task.observations, task.method.kernel)
    scales = Scales.of(ranges, np.arange(task.rows.shape[1]))
    start = ranges.coordinates(np.full(X.shape[1], BANDWIDTH))
    return scale_objective(task, CRITERIA["loo"], scales), start


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000, help="keys, and as many queries")
    parser.add_argument("--d", type=int, nargs="+", default=[1, 3, 8, 16], help="features")
    parser.add_argument(
        "--dtype", nargs="+", default=["float64", "float32"], choices=["float64", "float32"]
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds")
    names = list(CANDIDATES)
    parser.add_argument("--candidates", nargs="+", default=names, choices=names)
    parser.add_argument("--loo-n", type=int, default=8000, help="rows of leave-one-out; 0: none")
    parser.add_argument("--loo-d", type=int, nargs="+", default=[3, 8], help="its features")
    return parser.parse_args()


if __name__ == "__main__":
    main()
