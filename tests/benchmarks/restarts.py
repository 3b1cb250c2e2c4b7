"""How much the end of training depends on the random start, and the textbook's learned w.

Spread of the leave-one-out loss over random restarts on sets of the folder given by --data and on
the textbook's curve; then w learned over many draws of the curve, beside the true optimum and the
textbook's own recipe.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from _report import print_header, print_table

from sknw import ParametricNWRegressor
from sknw.datasets import make_attention_curve


def main():
    options = _options()
    warnings.simplefilter("ignore")
    print_header("restarts: spread of the loss reached, and w on the textbook's curve")
    rows = _spread("textbook", *make_attention_curve(random_state=0)[:2], options.restarts)
    for name in options.sets if options.data else ():
        with np.load(options.data / f"{name}.npz") as data:
            X, y = data["X"][: options.rows], data["y"][: options.rows]
        spread = X.std(axis=0)
        rows += _spread(name, X / np.where(spread > 0, spread, 1), y, options.restarts)
    header = (
        "set",
        "starts",
        "rows",
        "lowest loss",
        "median / lowest",
        "highest / lowest",
        "within 1 %",
    )
    print_table(header, rows)
    if options.seeds:
        print_table(("w over seeds", "median", "quartiles"), _textbook(options.seeds))


def _spread(name, X, y, restarts):
    """Two lines: the losses that default fits reach, and fits from one random w each."""
    lines = []
    for starts in ("default", "one random w"):
        losses = [_loss(X, y, seed, starts) for seed in range(restarts)]
        lowest = min(losses)
        within = f"{np.mean(np.array(losses) < 1.01 * lowest):.0%}"
        ratios = float(np.median(losses) / lowest), max(losses) / lowest
        lines.append((name, starts, len(y), lowest, *ratios, within))
    return lines


def _loss(X, y, seed, starts):
    w_init = None
    if starts != "default":
        w_init = np.exp(np.random.RandomState(seed).normal(size=X.shape[1]))
    return ParametricNWRegressor(w_init=w_init, random_state=seed).fit(X, y).best_loss_


def _textbook(seeds):
    """Lines of the learned w, the best w on a fine grid, and the textbook's recipe's w."""
    learned, best, recipe = [], [], []
    for seed in range(seeds):
        X, y, *_ = make_attention_curve(random_state=seed)
        learned.append(ParametricNWRegressor("scalar", bandwidth=1.0).fit(X, y).w_)
        best.append(_optimum(X[:, 0], y))
        # steps of 0.5 along the gradient of half the squared errors' sum, here of their mean
        rate = 0.5 * len(y) / 2
        steps = ParametricNWRegressor(
            "scalar", bandwidth=1.0, solver="sgd", max_iter=5, learning_rate_init=rate,
            w_init=np.random.RandomState(seed).uniform(0.01, 1),
        )  # fmt: skip
        recipe.append(abs(steps.fit(X, y).w_))
    lines = {"learned": learned, "true optimum": best, "textbook's recipe": recipe}
    return [(name, *_quartiles(values)) for name, values in lines.items()]


def _quartiles(values):
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(middle), f"{low:.3g} to {high:.3g}"


def _optimum(x, y):
    """Return the w of the lowest leave-one-out error on a fine grid, by the plain formula."""
    squared = np.square(x[:, None] - x)
    grid = np.geomspace(0.1, 100, 600)
    losses = []
    for w in grid:
        exponents = -0.5 * w**2 * squared
        np.fill_diagonal(exponents, -np.inf)
        weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
        losses.append(np.mean(np.square(y - weights @ y / weights.sum(axis=1))))
    return grid[int(np.argmin(losses))]


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=["yacht", "pumadyn32nm"], help="names of sets")
    parser.add_argument("--rows", type=int, default=2000, help="first rows of each set")
    parser.add_argument("--restarts", type=int, default=20, help="random states")
    parser.add_argument("--seeds", type=int, default=200, help="draws of the curve; 0 for none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
