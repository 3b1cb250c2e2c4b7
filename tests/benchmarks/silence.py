"""The longest silence of ``fit(verbose=1)``.

    python tests/benchmarks/silence.py --n 5000 --d 26

Prints, for both estimators, the longest time between two lines, what was printed before it, and how
long the fit took. Lines are timed as they arrive, the beginning and the end of the fit included.
"""

import argparse
import io
import time
import warnings
from contextlib import redirect_stdout

import numpy as np
from _report import print_header

from sknw import NadarayaWatsonRegressor, NeighborBandwidth, ParametricNWRegressor

MODELS = {
    "search": NadarayaWatsonRegressor(verbose=1),
    "neighbors": NadarayaWatsonRegressor(NeighborBandwidth(), verbose=1),
    "diagonal": ParametricNWRegressor(verbose=1),
    "full": ParametricNWRegressor("full", verbose=1),
    "mlp": ParametricNWRegressor("mlp", verbose=1, max_iter=20),
}


class Timed(io.TextIOBase):
    """A stream that keeps when each line came."""

    def __init__(self):
        self.lines = [(time.monotonic(), "the beginning")]

    def write(self, text):
        """Keep a line."""
        if text.strip():
            self.lines.append((time.monotonic(), text.strip()))
        return len(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--d", type=int, default=26)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["search", "diagonal"])
    asked = parser.parse_args()
    print_header("silence: the longest time between two lines of fit(verbose=1)")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(asked.n, asked.d))
    y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.1 * rng.normal(size=asked.n)
    for name in asked.models:
        out = Timed()
        with redirect_stdout(out), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            MODELS[name].fit(X, y)
        out.lines.append((time.monotonic(), "the end"))
        times = np.array([at for at, _ in out.lines])
        gaps = np.diff(times)
        place = int(gaps.argmax())
        print(
            f"{name:10s} longest silence {gaps[place]:5.1f} s after {out.lines[place][1]!r}; "
            f"{len(gaps) - 1} lines in {times[-1] - times[0]:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
