"""What does the first fit cost on a fresh machine? Import, first and second fit + predict.

Each line is the median of several processes: with numba and an empty cache, with numba and the
loops on disk, and with numba hidden. The ratio is the first fit to that without numba.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from _report import print_header, print_table

SIZES = ((50, 1), (500, 3), (2000, 1))
PROGRAM = """
import json, sys, time
hidden, n, d = json.loads(sys.argv[1])
if hidden:
    sys.modules["numba"] = None
start = time.perf_counter()
import numpy as np
from sknw import NadarayaWatsonRegressor
seconds = [time.perf_counter() - start]
rng = np.random.default_rng(n)
X = rng.uniform(-2, 2, size=(n, d))
y = np.sin(X).sum(axis=1) + rng.normal(0, 0.3, size=n)
for _ in range(2):
    start = time.perf_counter()
    model = NadarayaWatsonRegressor().fit(X, y)
    model.predict(X)
    seconds.append(time.perf_counter() - start)
print(json.dumps([*seconds, model.sums_report_["evaluator"]]))
"""


def main():
    options = _options()
    print_header("first_fit: seconds of import, first and second fit + predict")
    with tempfile.TemporaryDirectory() as warm:
        if options.warm:
            command = "import sknw; print('compiled', sknw.compile_ahead())"
            subprocess.run([sys.executable, "-c", command], env=_with(warm), check=True)
        cache = warm if options.warm else None
        rows = [row for size in SIZES for row in rows_of(*size, cache, options.repeats)]
    columns = ("n", "d", "", "import", "first", "second", "by", "first / without numba")
    print_table(columns, rows)


def rows_of(n, d, warm, repeats):
    """Lines of the table for one size."""
    found = {"without numba": [], "fresh": []} | ({} if warm is None else {"on disk": []})
    for _ in range(repeats):
        found["without numba"].append(_run_afresh(n, d, hidden=True))
        found["fresh"].append(_run_afresh(n, d, hidden=False))
        if warm is not None:
            found["on disk"].append(run(n, d, warm, hidden=False))
    lines = {name: _medians(runs) for name, runs in found.items()}
    without = lines["without numba"][1]
    return [(n, d, name, *line, line[1] / without) for name, line in lines.items()]


def _run_afresh(n, d, *, hidden):
    with tempfile.TemporaryDirectory() as cache:
        return run(n, d, cache, hidden=hidden)


def _medians(runs):
    *seconds, evaluators = zip(*runs, strict=True)
    return [*map(statistics.median, seconds), statistics.mode(evaluators)]


def run(n, d, cache, *, hidden):
    """Seconds of import, first and second fit in a new process, and what evaluated last."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([hidden, n, d])]
    done = subprocess.run(command, env=_with(cache), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _with(cache):
    return {**os.environ, "NUMBA_CACHE_DIR": cache}


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warm", action="store_true", help="loops on disk, too: compiles first")
    parser.add_argument("--repeats", type=int, default=5, help="processes of each line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
