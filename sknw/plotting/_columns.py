"""The columns of a table as axes: numbers along a line, categories at places with names.

A category is never interpolated, and no median is taken of codes: a curve along it is a point at
each category, and where it is held, it is held at the most frequent one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from sknw.data.tables import Table
from sknw.plotting._shared import (
    categorical_mask,
    default_names,
    is_unchanged,
    names_after,
    unwrapped,
)
from sknw.support import tuning
from sknw.support.ordering import in_order

_MISSING = "missing"


# --- tables --------------------------------------------------------------------------------------


def as_table(X):
    """Return a pandas or polars frame as it is, and anything else as an array of rows.

    Raises
    ------
    ValueError
        If X is not two-dimensional, or has no rows.
    """
    X = X if _is_frame(X) else np.asarray(X)
    if len(X.shape) != 2:
        raise ValueError(f"X must have rows and columns; got shape {X.shape}.")
    if len(X) == 0:
        raise ValueError("X must have at least one row; got none.")
    return X


def _is_frame(X) -> bool:
    return hasattr(X, "columns") and (hasattr(X, "iloc") or hasattr(X, "with_columns"))


def column_names(X) -> list[str]:
    """Return the columns' names; ``x``, or ``x0``, ``x1``, ... for an array."""
    return list(X.columns) if _is_frame(X) else default_names(X.shape[1])


def column_index(X, feature: int | str) -> int:
    """Return the position of a feature given by position or name.

    Raises
    ------
    ValueError
        If X has no such feature.
    """
    names = column_names(X)
    if isinstance(feature, str):
        if feature not in names:
            raise ValueError(f"X has no feature {feature!r}; its features are {names}.")
        return names.index(feature)
    if not -len(names) <= feature < len(names):
        raise ValueError(f"X has {len(names)} features; got feature {feature}.")
    return int(feature) % len(names)


def drawn_features(X, features, parameter: str) -> list[int]:
    """Return the positions of one feature, or of two different ones.

    Raises
    ------
    ValueError
        If there are none or more, or one is not there.
    """
    wanted = list(features) if isinstance(features, (tuple, list)) else [features]
    drawn = [column_index(X, one) for one in wanted]
    if len(set(drawn)) != len(drawn) or len(drawn) not in (1, 2):
        raise ValueError(
            f"{parameter} must be one feature or two different ones; got {features!r}."
        )
    return drawn


def rows(X, index: np.ndarray):
    """Return rows by their positions."""
    return X.iloc[index] if hasattr(X, "iloc") else X[index]


def _column(X, j: int):
    """Return one column in the container that it came in."""
    return X.iloc[:, j] if hasattr(X, "iloc") else X[:, j]


def with_columns(X, values: dict[int, Any]):
    """Return a copy of X in which some columns have other values."""
    if hasattr(X, "with_columns"):  # polars
        return X.with_columns(**{X.columns[j]: new for j, new in values.items()})
    if not _is_frame(X):
        X = np.array(X, dtype=np.result_type(X, *values.values()))
        for j, new in values.items():
            X[:, j] = new
        return X
    X = X.copy()
    for j, new in values.items():
        X.isetitem(j, getattr(new, "array", new))  # without the index of a series
    return X


def grid_table(row, grid: dict[int, Any]):
    """Return a one-row table repeated over the grid of some columns, the last fastest."""
    sizes = [range(len(values)) for values in grid.values()]
    places = np.array(list(product(*sizes)))  # (n_points, n_columns)
    repeated = rows(row, np.zeros(len(places), dtype=int))
    chosen = {
        j: rows(values, place) for (j, values), place in zip(grid.items(), places.T, strict=True)
    }
    return with_columns(repeated, chosen)


# --- what columns hold ---------------------------------------------------------------------------


def categorical_columns(X, estimators: Sequence) -> np.ndarray:
    """Return which columns of X are categories (n_columns,): by dtype, or to an estimator."""
    mask = np.array([_is_category(X, j) for j in range(X.shape[1])])
    names = column_names(X)
    for estimator in estimators:
        model, prepare = unwrapped(estimator)
        if not hasattr(model, "n_features_in_"):
            continue
        treated = np.flatnonzero(categorical_mask(model))
        seen = names_after(estimator, model)
        seen = names if is_unchanged(prepare) else seen
        mask |= np.isin(names, [seen[j] for j in treated])
    return mask


def dtype_kind(X, j: int) -> str | None:
    """Return ``"unordered"`` or ``"ordered"`` if a dtype is of categories, else None."""
    return Table.of(X).kind(j)


def _is_category(X, j: int) -> bool:
    """Whether the dtype is no number's: a categorical, text, boolean or date."""
    return dtype_kind(X, j) is not None or numbers(_column(X, j)) is None


def numbers(column) -> np.ndarray | None:
    """Return a column of numbers in float64, missing ones as NaN; None if it holds others."""
    kind = getattr(column.dtype, "kind", "")
    if kind == "b":
        return None
    if hasattr(column, "iloc") and kind in "iuf":
        column = column.to_numpy(dtype=np.float64, na_value=np.nan)
    values = np.asarray(column)
    try:
        return None if values.dtype.kind in "bmM" else values.astype(np.float64)
    except (TypeError, ValueError):
        return None


def column_numbers(X, j: int) -> np.ndarray:
    """Return a column (n_rows,) that is no category."""
    return numbers(_column(X, j))


def as_categories(X, j: int) -> tuple[np.ndarray, list]:
    """Return positions (n,) of the categories that a column has, and these in their order.

    The order is that of the dtype, or else that of the values; a missing value is the last.
    """
    column = Table.of(X).column(j)
    present = set(column.present)
    order = in_order(present) if column.known is None else column.known
    order = [value for value in order if value in present]
    position = {value: place for place, value in enumerate(order)}
    codes = [
        len(order) if is_missing else position[value]
        for value, is_missing in zip(column.values, column.missing.tolist(), strict=True)
    ]
    return np.array(codes), order + [None] * bool(column.missing.any())


def category_names(categories: list) -> list[str]:
    """Return what categories are called at an axis."""
    return [
        _MISSING if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        for value in categories
    ]


@dataclass(frozen=True)
class Axis:
    """One feature along an axis.

    Parameters
    ----------
    values : ndarray of shape (n_rows,)
        Place of each row.
    categories : list of str or None
        Names of the places 0, 1, ...; None for numbers.
    column : array or series of shape (n_rows,)
        The column of the table.
    """

    values: np.ndarray
    categories: list[str] | None
    column: Any

    @classmethod
    def of(cls, X, j: int, *, is_categorical: bool) -> "Axis":
        """Return the axis of a column.

        Raises
        ------
        ValueError
            If it has more categories than an axis has room for.
        """
        column = _column(X, j)
        if not is_categorical:
            return cls(numbers(column), None, column)
        codes, categories = as_categories(X, j)
        if len(categories) > tuning.MOST_CATEGORIES_OF_AN_AXIS:
            raise ValueError(
                f"Feature {column_names(X)[j]!r} has {len(categories)} categories, more than the "
                f"{tuning.MOST_CATEGORIES_OF_AN_AXIS} that can be told apart along an axis. Group "
                "them, or draw another feature."
            )
        return cls(codes.astype(np.float64), category_names(categories), column)

    def place_of(self, row, j: int) -> float:
        """Return the place of the only row of another table.

        Raises
        ------
        ValueError
            If its category is none of those on the axis.
        """
        if self.categories is None:
            return float(column_numbers(row, j)[0])
        (name,) = category_names(as_categories(row, j)[1])
        if name not in self.categories:
            raise ValueError(
                f"The query's {column_names(row)[j]!r} must be one of the categories of the rows, "
                f"{self.categories}, to be drawn; got {name!r}."
            )
        return float(self.categories.index(name))

    def grid(self, n_points: int) -> tuple[np.ndarray, Any]:
        """Return places on the axis (m,) and the values there, as the table has them."""
        if self.categories is None:
            places = np.linspace(np.nanmin(self.values), np.nanmax(self.values), n_points)
            return places, places
        places = np.arange(len(self.categories), dtype=np.float64)
        first = [int(np.argmax(self.values == place)) for place in places]
        return places, rows(self.column, np.array(first))


# --- rows that stand for others ------------------------------------------------------------------


def typical_row(X, is_categorical: np.ndarray, held: dict[int, Any]):
    """Return one row of medians and, of categories, the most frequent; some values are given.

    Raises
    ------
    ValueError
        If a given value is none that the column can have.
    """
    values = {}
    for j in range(X.shape[1]):
        if is_categorical[j]:
            values[j] = _typical_category(X, j, held)
        else:
            given = held[j] if j in held else np.nanmedian(column_numbers(X, j))
            values[j] = np.array([_number(X, j, given)])
    return with_columns(rows(X, np.array([0])), values)


def _typical_category(X, j: int, held: dict[int, Any]):
    """Return the column at a row that has the given category, or the most frequent one."""
    codes, categories = as_categories(X, j)
    place = int(np.bincount(codes).argmax())
    if j in held:
        if held[j] not in categories:
            raise ValueError(
                f"others must hold {column_names(X)[j]!r} at one of its categories, "
                f"{category_names(categories)}; got {held[j]!r}."
            )
        place = categories.index(held[j])
    first = int(np.argmax(codes == place))
    return rows(_column(X, j), np.array([first]))


def _number(X, j: int, value) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"others must hold {column_names(X)[j]!r} at a number; got {value!r}."
        ) from None


def spread_out(n: int, largest: int) -> np.ndarray:
    """Return at most `largest` positions of 0, ..., n - 1, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, largest)).round().astype(int))
