"""The columns of a table, whatever holds it: arrays, lists, pandas and polars data frames.

Dates, durations and periods are no numbers: converted, they would be counts of a unit that the
container happens to have, and a missing one would be a number far in the past. They are refused by
the name of their column.
"""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np

_TIMES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)
_POLARS_TIMES = ("Date", "Datetime", "Duration", "Time")
_WAY_OUT = (
    "Give the days as numbers, of dates t: (t - t.min()) / pd.Timedelta('1D'), of durations t: "
    "t / pd.Timedelta('1D'); or encode dates as features, with skrub's DatetimeEncoder"
)


def is_frame(X: Any) -> bool:
    """Whether X is a data frame of pandas or polars."""
    return hasattr(X, "columns") and hasattr(X, "dtypes")


def refuse_dates(name: str, values: Any) -> None:
    """Refuse dates, times, durations and periods in an argument, a table or one column.

    A pandas categorical whose categories are dates is no date: its user made categories of them.

    Parameters
    ----------
    name : str
        What the argument is called.
    values : array-like, data frame or series
        The argument.

    Raises
    ------
    ValueError
        With the name of the column.
    """
    wanted = "numbers or categories" if name == "X" else "numbers"
    for label, found in _dates(values):
        raise ValueError(
            f"{name} must hold {wanted}; {label} holds dates or times ({found}). {_WAY_OUT}."
        )


def readable(name: str, values: Any) -> Any:
    """Return what pyarrow holds as pandas, and anything else as it is.

    Raises
    ------
    TypeError
        If there is nothing to read yet, as in a lazy frame of polars.
    """
    package = type(values).__module__.split(".")[0]
    if package == "pyarrow" and hasattr(values, "to_pandas"):
        return values.to_pandas()
    if package == "polars" and hasattr(values, "collect"):
        raise TypeError(
            f"{name} must hold values; got a polars LazyFrame, which has none yet. Pass what its "
            "collect() returns."
        )
    return values


@contextmanager
def naming_columns(X: Any, categorical: np.ndarray | None = None) -> Iterator[None]:
    """Let an error of the validation in the block say which columns of X it is about.

    Parameters
    ----------
    X : array-like or data frame
        The table that is validated.
    categorical : ndarray of bool of shape (n_features,) or None, default=None
        Columns that need not be numbers.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        hint = _hint(X, categorical)
        if hint is None:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error}\n{hint}") from error


def _hint(X: Any, categorical: np.ndarray | None) -> str | None:
    """Return a sentence on columns that hold no numbers or miss some; None if all have them."""
    try:
        table = Table.of(X)
    except (TypeError, ValueError):  # no table at all, as the error says
        return None
    missing = {}
    for index in range(table.n_features):
        if categorical is not None and categorical[index]:
            continue
        column = table.column(index)
        odd = next((v for v in column.present if not _is_number(v)), None)
        if odd is not None:
            return (
                f"Column {table.label(index)} holds {type(odd).__name__} values, such as {odd!r}. "
                "Turn them into numbers; or, if they are categories, into texts, and name the "
                f"column in categorical_features (index {index})."
            )
        if column.missing.any():
            missing[table.label(index)] = int(np.count_nonzero(column.missing))
    if not missing:
        return None
    columns = ", ".join(f"{label} ({count} rows)" for label, count in missing.items())
    return (
        f"Numbers are missing in {columns}. Fill them in a pipeline, such as "
        "make_pipeline(SimpleImputer(), NadarayaWatsonRegressor()), or drop the rows."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, complex)


def _dates(values: Any):
    """Yield what columns with dates are called, and what their dates are."""
    if values is None:
        return
    if is_frame(values):
        table = Table.of(values)
        for index in range(table.n_features):
            found = table.dates(index)
            if found is not None:
                yield f"column {table.label(index)}", found
        return
    if hasattr(values, "dtype") and not isinstance(values, np.ndarray):  # a series
        found = _dates_of_dtype(values.dtype)
        if found is not None:
            yield _name_of(values), found
            return
        if not _may_hide_dates(values.dtype):
            return
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # ragged, or numbers beside dates
        array = _objects(values)
    if array.dtype.kind in "OMm" and array.ndim in (1, 2):
        columns = array[:, None] if array.ndim == 1 else array
        for index in range(columns.shape[1]):
            found = dates_among(columns[:, index])
            if found is not None:
                yield _name_of(values) if array.ndim == 1 else f"column {index}", found


def _name_of(series: Any) -> str:
    name = getattr(series, "name", None)
    return "it" if name is None or name == "" else f"column {name!r}"


def _objects(values: Any) -> np.ndarray:
    try:
        return np.array(values, dtype=object)
    except ValueError:  # whatever it is, the validation that follows refuses it
        return np.empty(0)


def dates_among(values: np.ndarray) -> str | None:
    """Return the type of dates among values (n,); None if there are none."""
    if values.dtype.kind in "Mm":
        return str(values.dtype)
    if values.dtype.kind != "O":
        return None
    types = {type(value) for value in values.tolist()}
    found = sorted(kind.__name__ for kind in types if _is_time(kind))
    if found == ["NaTType"] and str in types:  # a mark of missing texts
        return None
    return found[0] if found else None


def _is_time(kind: type) -> bool:
    return issubclass(kind, _TIMES) or kind.__name__ in ("Period", "NaTType")


def _dates_of_dtype(dtype: Any) -> str | None:
    """Return the name of a dtype of pandas or polars that is of dates; None if it is not."""
    is_time = getattr(dtype, "kind", "") in ("M", "m") or str(dtype).startswith("period[")
    is_time = is_time or str(dtype).split("(")[0] in _POLARS_TIMES
    return str(dtype) if is_time else None


def _may_hide_dates(dtype: Any) -> bool:
    """Whether values of the dtype may be objects of any kind."""
    is_object = getattr(dtype, "kind", "") == "O" and not hasattr(dtype, "categories")
    return is_object or str(dtype) == "Object"  # of pandas, of polars


@dataclass(frozen=True)
class Column:
    """Values (n,) of one feature, which are missing, and the categories that its dtype lists.

    The values are Python's, in which 1 and 1.0 are equal and large integers keep all digits.
    """

    values: list
    missing: np.ndarray
    known: list | None = None

    @classmethod
    def of(cls, values, missing: np.ndarray | None = None, known=None) -> "Column":
        """Return the column of an array of any dtype."""
        values = np.asarray(values)
        missing = _missing(values) if missing is None else missing
        return cls(_plain(values), missing, None if known is None else _plain(np.asarray(known)))

    @property
    def present(self) -> list:
        """The values that are not missing."""
        return [
            v for v, is_out in zip(self.values, self.missing.tolist(), strict=True) if not is_out
        ]


def _plain(values: np.ndarray) -> list:
    """Return the values as Python's own."""
    if values.dtype.kind != "O":
        return values.tolist()
    return [v.item() if isinstance(v, np.generic) else v for v in values.tolist()]


class Table:
    """The columns of X, whatever holds them; this is the case of an array."""

    names: list[str] | None = None

    def __init__(self, X: Any):
        self.X = X

    @staticmethod
    def of(X: Any) -> "Table":
        """Return the table for a container."""
        if not is_frame(X):
            return Table(_as_array(X))
        return PandasTable(X) if hasattr(X, "iloc") else PolarsTable(X)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.X.shape[1]

    def label(self, index: int) -> str:
        """Return what a feature is called in messages."""
        return f"feature {index}" if self.names is None else repr(self.names[index])

    def kind(self, index: int) -> str | None:
        """Return which kind of category the dtype says; None if it says none."""
        return None

    def is_text(self, index: int) -> bool:
        """Whether a feature is a category only because it holds texts."""
        return False

    def column(self, index: int) -> Column:
        """Return one feature."""
        return Column.of(self.X[:, index])

    def dates(self, index: int) -> str | None:
        """Return the type of dates in a feature that is no categorical; None if it has none."""
        return dates_among(self.X[:, index])

    def take(self, indices: np.ndarray) -> Any:
        """Return some of the columns."""
        return self.X[:, indices]


class PandasTable(Table):
    """A pandas data frame."""

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.X.columns)

    def kind(self, index: int) -> str | None:
        """Categorical dtypes are categories, and so are texts."""
        dtype = _categorical(self.X.dtypes.iloc[index])
        if dtype is not None:
            return "ordered" if dtype.ordered else "unordered"
        return "unordered" if self.is_text(index) else None

    def is_text(self, index: int) -> bool:
        """Whether a feature is a category only because it holds texts."""
        dtype = self.X.dtypes.iloc[index]
        if _categorical(dtype) is not None or dtype.kind not in "OSU":  # U: texts of pyarrow
            return False
        return any(isinstance(value, str) for value in self.column(index).present)

    def column(self, index: int) -> Column:
        """Return one feature."""
        series = self.X.iloc[:, index]
        known = getattr(series.dtype, "categories", None)
        if known is None and _categorical(series.dtype) is not None:
            known = series.array.__arrow_array__().combine_chunks().dictionary.to_pylist()
        return Column.of(series.to_numpy(dtype=object), series.isna().to_numpy(dtype=bool), known)

    def dates(self, index: int) -> str | None:
        """Return the type of dates in a feature that is no categorical; None if it has none."""
        series = self.X.iloc[:, index]
        found = _dates_of_dtype(series.dtype)
        if found is None and _may_hide_dates(series.dtype):
            found = dates_among(series.to_numpy(dtype=object))
        return found

    def take(self, indices: np.ndarray) -> Any:
        """Return some of the columns."""
        return self.X.iloc[:, indices]


def _categorical(dtype: Any) -> Any:
    """Return a dtype of pandas, or of pyarrow within it, that knows its categories; else None."""
    if hasattr(dtype, "categories"):
        return dtype
    arrow = getattr(dtype, "pyarrow_dtype", None)
    return arrow if str(arrow).startswith("dictionary") else None


class PolarsTable(Table):
    """A polars data frame; its categoricals and enums are unordered unless the user says so."""

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.X.columns)

    def kind(self, index: int) -> str | None:
        """Categoricals, enums and texts are categories."""
        is_category = str(self.X.dtypes[index]).startswith(("Categorical", "Enum"))
        return "unordered" if is_category or self.is_text(index) else None

    def is_text(self, index: int) -> bool:
        """Whether a feature is a category only because it holds texts."""
        name = str(self.X.dtypes[index])
        if name == "Object":
            return any(isinstance(value, str) for value in self.column(index).present)
        return name.startswith("String")

    def column(self, index: int) -> Column:
        """Return one feature."""
        series = self.X[:, index]
        known = getattr(series.dtype, "categories", None)
        known = known.to_list() if str(series.dtype).startswith("Enum") else None
        values = np.array([*series.to_list(), None], dtype=object)[:-1]
        return Column.of(values, known=known)

    def dates(self, index: int) -> str | None:
        """Return the type of dates in a feature; None if it has none."""
        series = self.X[:, index]
        found = _dates_of_dtype(series.dtype)
        if found is None and _may_hide_dates(series.dtype):
            found = dates_among(np.array([*series.to_list(), None], dtype=object)[:-1])
        return found

    def take(self, indices: np.ndarray) -> Any:
        """Return some of the columns."""
        return self.X[:, indices.tolist()]


def _as_array(X: Any) -> np.ndarray:
    array = np.asarray(X) if hasattr(X, "shape") else np.array(X, dtype=object)
    if array.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {array.ndim}D array of shape {array.shape} instead. Reshape "
            "your data: X.reshape(-1, 1) if it is one feature, X.reshape(1, -1) if it is one row."
        )
    return array


def _missing(values: np.ndarray) -> np.ndarray:
    """Return which values are None, NaN or another mark of missing values."""
    if values.dtype.kind == "O":
        return np.array([_is_missing(value) for value in values.tolist()], dtype=bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ == "NAType":
        return True
    differs = value != value
    return isinstance(differs, bool | np.bool_) and bool(differs)  # an array in a cell does not say
