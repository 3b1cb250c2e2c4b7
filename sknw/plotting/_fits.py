"""What a display of fits draws: predictions and bands on a grid, the other features held."""

import inspect
from typing import Any

import numpy as np
from scipy.stats import norm

from sknw.plotting._columns import (
    column_index,
    column_names,
    grid_table,
    rows,
    spread_out,
    typical_row,
)
from sknw.plotting._shared import target_column, unwrapped


def held_values(X, others, drawn: list[int]) -> dict[int, Any]:
    """Return the values at which features are held, by position, that the user gave.

    Raises
    ------
    ValueError
        If `others` is no setting, or names a feature that is drawn or not there.
    """
    if not isinstance(others, dict):
        if others not in ("median", "average"):
            raise ValueError(
                "others must be 'median', 'average' or a dict of features and the values to hold "
                f"them at; got {others!r}."
            )
        return {}
    held = {column_index(X, feature): value for feature, value in others.items()}
    both = [column_names(X)[j] for j in drawn if j in held]
    if both:
        raise ValueError(f"others must not hold features that are drawn; got {both}.")
    return held


def tables_on_grid(X, columns: dict[int, Any], others, is_categorical, max_rows: int) -> list:
    """Return one table of grid points for each setting of the other features.

    Parameters
    ----------
    X : table of shape (n_rows, n_features)
    columns : dict of int to column
        Values of each feature drawn, by its position.
    others : "median", "average" or dict
    is_categorical : ndarray of bool of shape (n_features,)
    max_rows : int
        How many rows are averaged over.
    """
    if others == "average" and X.shape[1] > len(columns):
        background = rows(X, spread_out(len(X), max_rows))
    else:
        background = typical_row(X, is_categorical, held_values(X, others, list(columns)))
    return [grid_table(rows(background, np.array([i])), columns) for i in range(len(background))]


def averaged(predict, tables: list, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mean of the predictions over tables of the same grid points."""
    n = int(np.prod(shape))
    predictions = [target_column(predict(table), n, "a prediction") for table in tables]
    return np.mean(predictions, axis=0).reshape(shape)


def band_of(estimator, table, coverage: float) -> tuple[tuple[np.ndarray, np.ndarray] | None, str]:
    """Return the estimator's band at the rows of a table, and what it is; None if it has none."""
    model, prepare = unwrapped(estimator)
    if hasattr(model, "predict_interval"):
        ends = model.predict_interval(prepare(table), coverage=coverage)
        lower, upper = ends if isinstance(ends, tuple) else np.asarray(ends).T
        return (lower, upper), f"{coverage:.0%} interval"
    if "return_std" not in inspect.signature(model.predict).parameters:
        return None, ""
    mean, std = model.predict(prepare(table), return_std=True)
    if not np.any(std > 0):  # as a DummyRegressor's, which is a placeholder
        return None, ""
    width = norm.ppf((1 + coverage) / 2)
    return (mean - width * std, mean + width * std), f"± {width:.2f} standard deviations"
