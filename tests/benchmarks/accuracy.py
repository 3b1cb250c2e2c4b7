"""Test error of the learned metrics on standard data sets, beside tuned models of scikit-learn.

A set is a file NAME.npz in the folder given by --data, with X (n, d), y (n,) and, where the set has
standard splits, test_mask (n, n_splits), true for the test rows; without it, random fifths are test
rows. Inputs are standardised on the training rows, errors are in the units of y.
"""

import argparse
import statistics
import warnings
from pathlib import Path

import numpy as np
from _report import print_header, print_table, timed
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor

SETS = ("yacht", "energy", "concrete", "kin8nm", "pumadyn32nm", "california", "protein")
_MOST_FOR_KERNEL_RIDGE = 12_000  # rows: it solves a dense system
_FOLDS = 3


def models(n_rows):
    """Return the models by name; those of scikit-learn tuned by cross-validation."""
    few = {"cv": _FOLDS, "scoring": "neg_mean_squared_error"}
    knn = {"n_neighbors": [1, 2, 3, 5, 8, 12, 20, 30], "weights": ["uniform", "distance"]}
    ridge = {"alpha": [1e-3, 1e-2, 1e-1, 1.0], "gamma": [0.01, 0.03, 0.1, 0.3]}
    forest = {"max_features": [0.33, 0.66, 1.0]}
    boosting = {"learning_rate": [0.05, 0.1], "max_leaf_nodes": [15, 31, 63], "max_iter": [500]}
    found = {
        "widths": NadarayaWatsonRegressor(),
        "widths, lines": NadarayaWatsonRegressor(degree=1),
        "scalar": ParametricNWRegressor("scalar"),
        "diagonal, lines": ParametricNWRegressor("diagonal", degree=1),
        "full, lines": ParametricNWRegressor("full", degree=1),
        "diagonal": ParametricNWRegressor("diagonal"),
        "full": ParametricNWRegressor("full"),
        "mlp": ParametricNWRegressor("mlp", early_stopping=True),
        "kNN": GridSearchCV(KNeighborsRegressor(), knn, **few),
        "KernelRidge": GridSearchCV(KernelRidge(kernel="rbf"), ridge, **few),
        "RandomForest": GridSearchCV(RandomForestRegressor(random_state=0), forest, **few),
        "HistGradientBoosting": GridSearchCV(
            HistGradientBoostingRegressor(early_stopping=True, random_state=0), boosting, **few
        ),
    }
    if n_rows > _MOST_FOR_KERNEL_RIDGE:
        del found["KernelRidge"]
    return found


def main():
    options = _options()
    print_header("accuracy: test RMSE, mean ± standard error over the splits, and seconds of a fit")
    for name in options.sets:
        X, y, masks = load(options.data / f"{name}.npz", options.splits)
        rows = []
        for model in options.models:
            if model in models(len(y)):
                rows.append((model, *_result(model, X, y, masks)))
                print(f"{name} {model}: {rows[-1][1]}, {rows[-1][2]:.3g} s", flush=True)
        print_table((f"{name}, {len(y)} x {X.shape[1]}", "RMSE", "fit [s]", "splits"), rows)


def load(path, n_splits):
    """Return X, y and the test rows of each of the first splits."""
    with np.load(path) as data:
        X, y = data["X"], data["y"]
        masks = data["test_mask"].T if "test_mask" in data else _fifths(len(y))
    return X, y, masks[:n_splits].astype(bool)


def _fifths(n):
    """Return five random test masks of a fifth of the rows each."""
    masks = np.zeros((5, n), dtype=bool)
    for seed, mask in enumerate(masks):
        mask[np.random.RandomState(seed).permutation(n)[: n // 5]] = True
    return masks


def _result(name, X, y, masks):
    """Return RMSE as text, the mean seconds of a fit, and the number of splits."""
    measured = [_split(models(len(y))[name], X, y, mask) for mask in masks]
    errors, seconds = zip(*measured, strict=True)
    spread = statistics.stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else float("nan")
    return f"{statistics.mean(errors):.4g} ± {spread:.2g}", statistics.mean(seconds), len(errors)


def _split(model, X, y, mask):
    """Fit on the other rows; return the RMSE on the test rows and the seconds of the fit."""
    scaler = StandardScaler().fit(X[~mask])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, seconds = timed(lambda: model.fit(scaler.transform(X[~mask]), y[~mask]))
        predicted = model.predict(scaler.transform(X[mask]))
    return float(np.sqrt(np.mean((predicted - y[mask]) ** 2))), seconds


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=SETS, help="names of sets")
    parser.add_argument("--splits", type=int, default=5, help="first splits of each set")
    parser.add_argument(
        "--models", nargs="+", default=list(models(0)), choices=list(models(0)), help="models"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
