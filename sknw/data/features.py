"""From a table of numbers and categories to numeric columns.

A category enters the distance like a number: with a width h, a mismatch of an unordered feature
adds ``1/h²`` to the squared distance, and each step between ordered categories does. Under the
Gaussian these are the factors ``λ^{1(a≠b)}`` and ``λ^{|a−b|}`` of Li and Racine, with
``λ = exp(−1/(2h²))``: 0 asks for an exact match, 1 makes the feature irrelevant.

A category is one column of codes, after the columns of numbers; what a mismatch of codes adds is
said in `sknw.kernels.codes`. Metrics that need coordinates (a matrix, a network) get `expanded`
features instead: a block of columns for each category that share one width, a scaled one-hot code
or a thermometer code, whose squared distances are the same.

A category that fit has not seen lies equally far from every one it has. A missing category is one
of its own where fit saw any, and else as an unseen one.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from scipy import sparse

from sknw.data.tables import Column, Table, is_frame
from sknw.support import tuning
from sknw.support.ordering import in_order
from sknw.support.warnings import UnseenCategoryWarning, warn_user

_UNSEEN, _MISSING = -1, -2  # codes; those of known categories are their positions
_EXACT, _NONE = 1e-4, 1e8  # widths that stand for λ = 0 and λ = 1
_KINDS = ("unordered", "ordered")


@dataclass(frozen=True)
class Categories:
    """The categories of one feature.

    Parameters
    ----------
    name : str
        What the feature is called in messages.
    values : list
        The known categories in their order.
    ordered : bool
        Whether the positions mean an order.
    has_missing : bool
        Whether missing values are a category.
    """

    name: str
    values: list
    ordered: bool
    has_missing: bool

    @classmethod
    def of(cls, name: str, column: Column, ordered: bool) -> "Categories":
        """Learn the categories of a column."""
        present = _distinct(name, column.present)
        known = column.known if ordered and column.known is not None else in_order(present)
        return cls(name, known, ordered, bool(column.missing.any()))

    def check_number(self) -> None:
        """Refuse more categories than may become columns.

        Raises
        ------
        ValueError
        """
        if self.n_categories > tuning.MOST_CATEGORY_COLUMNS:
            raise ValueError(
                f"A categorical feature may become at most {tuning.MOST_CATEGORY_COLUMNS} columns "
                f"of an embedding, one for each category; {self.name} has {self.n_categories} "
                "categories. Use metric='diagonal' or 'scalar', whose "
                "distances need no such columns, group them, drop unused ones "
                "(remove_unused_categories), or encode them as numbers "
                "(sklearn.preprocessing.TargetEncoder)."
            )

    @cached_property
    def _positions(self) -> dict:
        """The position of each known category."""
        return {value: position for position, value in enumerate(self.values)}

    @property
    def n_categories(self) -> int:
        """Number of known categories, missing included."""
        return len(self.values) + self.has_missing

    @property
    def n_columns(self) -> int:
        """Number of columns of the block."""
        return max(1, self.n_categories - self.ordered)

    @property
    def cap(self) -> int:
        """The largest mismatch: one, or the number of steps."""
        return max(1, len(self.values) - 1) if self.ordered else 1

    @property
    def unit(self) -> float:
        """Distance between neighbouring categories along a column of the block."""
        return 1.0 if self.ordered else 1 / np.sqrt(2)  # which has one-hot codes at distance one

    def numbers(self, codes: np.ndarray) -> np.ndarray:
        """Return codes (n,) as whole numbers; missing and unseen ones beyond all others."""
        last = len(self.values) - 1
        numbers = np.where(codes == _MISSING, last + self.cap, codes)
        return np.where(codes == _UNSEEN, last + 2 * self.cap, numbers)

    def spread(self, numbers: np.ndarray, weights: np.ndarray) -> float:
        """Return the standard deviation of codes as numbers (n,), with weights (n,).

        That of the block of columns: its square is half the mean mismatch of two rows.
        """
        values, places = np.unique(numbers, return_inverse=True)
        shares = np.bincount(places, weights=weights) / weights.sum()
        if not self.ordered:
            return float(np.sqrt(shares @ (1 - shares) / 2))
        missing = float(shares[values >= len(self.values)].sum())
        known = values < len(self.values)
        below = np.cumsum(shares[known])[:-1]
        steps = below * (1 - missing - below) @ np.diff(values[known])
        return float(np.sqrt(steps + missing * (1 - missing) * self.cap))

    def codes(self, column: Column) -> np.ndarray:
        """Return positions (n,), or the code of a missing or an unseen category."""
        _distinct(self.name, column.present)
        codes = np.array([self._positions.get(value, _UNSEEN) for value in column.values], int)
        codes[column.missing] = _MISSING if self.has_missing else _UNSEEN
        n_unseen = int(np.count_nonzero(codes == _UNSEEN))
        if n_unseen:
            warn_user(
                f"{n_unseen} rows have a category of {self.name} that fit has not seen; it counts "
                "as equally different from every category that it has.",
                UnseenCategoryWarning,
            )
        return codes

    def block(self, codes: np.ndarray) -> np.ndarray:
        """Return the columns (n, n_columns) of codes (n,)."""
        return (self._thermometer if self.ordered else self._one_hot)(codes)

    def _one_hot(self, codes: np.ndarray) -> np.ndarray:
        """Return points at distance one from each other, unseen ones as far from all of them."""
        n = self.n_columns
        level = np.where(codes == _MISSING, n - 1, codes)
        block = (level[:, None] == np.arange(n)) * self.unit
        block[codes == _UNSEEN] = (np.sqrt(2) + np.sqrt(2 + 2 * n)) / (2 * n)
        return block

    def _thermometer(self, codes: np.ndarray) -> np.ndarray:
        """Return points whose squared distance is the number of steps between them.

        The centre of the cube is equally far from all of them. Missing values lie above it, in a
        column of their own.
        """
        n_steps = max(0, len(self.values) - 1)
        block = np.zeros((len(codes), self.n_columns))
        block[:, :n_steps] = codes[:, None] > np.arange(n_steps)
        block[codes < 0, :n_steps] = 0.5
        if self.has_missing:
            block[codes == _MISSING, n_steps:] = 1.0
        return block


def _distinct(name: str, values: Iterable) -> set[Hashable]:
    """Return the distinct values, in which 1 and 1.0 are one."""
    try:
        return set(values)
    except TypeError:
        raise ValueError(
            f"Categories must be numbers, texts or other values that can be hashed; {name} has "
            "some that cannot, such as lists. Turn them into texts."
        ) from None


@dataclass(frozen=True, eq=False)
class Features:
    """What each feature of X is.

    Parameters
    ----------
    n_features : int
        Number of features.
    categories : dict of int to Categories
        Those that are categorical, by their index.
    has_blocks : bool, default=False
        Whether a category is a block of columns, in the place of its feature, and not a column of
        codes after all numbers.
    names : tuple of str or None, default=None
        What the features are called; None: X has no names.
    """

    n_features: int
    categories: dict[int, Categories] = field(default_factory=dict)
    has_blocks: bool = False
    names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, X: Any, categorical_features: Any) -> "Features | None":
        """Return the features of a table with categories in it; None if there are none.

        Parameters
        ----------
        X : array-like or data frame of shape (n_rows, n_features)
        categorical_features : "from_dtype", None, dict or array-like
            As in the estimators.

        Raises
        ------
        ValueError
            If `categorical_features` does not fit X.
        """
        if categorical_features is None:
            return None
        if isinstance(categorical_features, str) and not is_frame(X):
            return None  # an array has no dtypes of columns
        if sparse.issparse(X):
            return None  # refused by the validation that follows
        table = Table.of(X)
        kinds = _kinds(table, categorical_features)
        if not kinds:
            return None
        categories = {
            index: Categories.of(table.label(index), table.column(index), kind == "ordered")
            for index, kind in sorted(kinds.items())
        }
        return cls(table.n_features, categories)

    @cached_property
    def is_categorical(self) -> np.ndarray:
        """Mask of the categorical features (n_features,)."""
        mask = np.zeros(self.n_features, dtype=bool)
        mask[list(self.categories)] = True
        return mask

    def in_order(self, name: str, values: Any) -> Any:
        """Return values in the order of the features, by their index if they have one of names.

        Parameters
        ----------
        name : str
            What the argument is called.
        values : object
            A pandas series or data frame whose index has names; anything else comes back as it is.

        Raises
        ------
        ValueError
            If a feature has no value, several, or there is a value of none.
        """
        index = getattr(values, "index", None)
        if index is None or callable(index):  # a list has a method of that name
            return values
        labels = list(index)
        if labels == list(range(len(labels))):
            return values
        if self.names is None:
            raise ValueError(
                f"{name} is by name, {labels}, but X has no column names; pass an array in the "
                "order of the features, or X as a data frame."
            )
        absent = [label for label in self.names if label not in labels]
        unknown = [label for label in labels if label not in self.names]
        twice = sorted({label for label in labels if labels.count(label) > 1}, key=str)
        wrong = {"missing": absent, "unknown": unknown, "given twice": twice}
        if any(wrong.values()):
            found = "; ".join(f"{what}: {which}" for what, which in wrong.items() if which)
            raise ValueError(f"{name} by name must have each feature of X once; got {found}.")
        return values.loc[list(self.names)]

    def expanded(self) -> "Features":
        """Return the features with a block of columns for each category.

        Raises
        ------
        ValueError
            If a feature has too many categories for that.
        """
        for categories in self.categories.values():
            categories.check_number()
        return replace(self, has_blocks=True)

    @cached_property
    def coded(self) -> np.ndarray:
        """The features that are codes, in the order of their columns."""
        return np.flatnonzero(self.is_categorical & (not self.has_blocks))

    @property
    def n_numbers(self) -> int:
        """Number of columns that are no codes."""
        return self.n_columns - len(self.coded)

    @property
    def caps(self) -> np.ndarray:
        """The largest mismatch of each column of codes."""
        return np.array([self.categories[index].cap for index in self.coded], dtype=np.float64)

    @cached_property
    def of_column(self) -> np.ndarray:
        """The feature that each column belongs to, (n_columns,)."""
        if not self.has_blocks:
            return np.append(np.flatnonzero(~self.is_categorical), self.coded)
        sizes = [
            self.categories[index].n_columns if index in self.categories else 1
            for index in range(self.n_features)
        ]
        return np.repeat(np.arange(self.n_features), sizes)

    @cached_property
    def first_columns(self) -> np.ndarray:
        """The first column of each feature, (n_features,)."""
        return np.unique(self.of_column, return_index=True)[1]

    def by_feature(self, reduce: np.ufunc, of_columns: np.ndarray) -> np.ndarray:
        """Return what each feature's columns reduce to, (n_features,)."""
        order = np.argsort(self.of_column, kind="stable")
        starts = np.searchsorted(self.of_column[order], np.arange(self.n_features))
        return reduce.reduceat(of_columns[order], starts)

    def spread(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the standard deviation of each feature that is codes, of rows (n, n_columns)."""
        columns = rows[:, self.n_numbers :].T
        return np.array(
            [
                self.categories[index].spread(column, weights)
                for index, column in zip(self.coded, columns, strict=True)
            ]
        )

    def steps(self, rows: np.ndarray) -> np.ndarray:
        """Return the distance between values of each feature that is codes; 0 if it is constant."""
        units = np.array([self.categories[index].unit for index in self.coded])
        return units * (np.ptp(rows[:, self.n_numbers :], axis=0) > 0)

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return len(self.of_column)

    def numeric_part(self, X: Any) -> Any:
        """Return the columns of X that are numbers, in the container that they came in."""
        table = Table.of(X)
        if self.is_categorical.all():
            return np.empty((len(table.X), 0))
        return table.take(np.flatnonzero(~self.is_categorical))

    def columns(self, X: Any, numbers: np.ndarray) -> np.ndarray:
        """Return all columns (n_rows, n_columns), given the checked numbers among them."""
        table = Table.of(X)
        result = np.empty((len(numbers), self.n_columns), dtype=numbers.dtype)
        result[:, ~self.is_categorical[self.of_column]] = numbers
        for index, categories in self.categories.items():
            codes, own = categories.codes(table.column(index)), self.of_column == index
            as_columns = categories.block if self.has_blocks else categories.numbers
            result[:, own] = as_columns(codes).reshape(len(codes), -1)
        return result

    def widths(self, bandwidth: float | np.ndarray) -> float | np.ndarray:
        """Return the widths for a bandwidth: the same, but for the λ of categories.

        A single number is the same width for all features.
        """
        if not self.categories or np.ndim(bandwidth) == 0:
            return bandwidth
        widths = np.array(bandwidth, dtype=np.float64)
        with np.errstate(divide="ignore"):
            mismatch = -2 * np.log(widths[self.is_categorical])
            widths[self.is_categorical] = np.clip(mismatch**-0.5, _EXACT, _NONE)
        return widths

    def bandwidth(self, widths: float | np.ndarray) -> float | np.ndarray:
        """Return the bandwidths for widths (..., n_features): the same, but λ for categories."""
        if not self.categories:
            return widths
        widths = np.broadcast_to(widths, np.broadcast_shapes(np.shape(widths), (self.n_features,)))
        lambdas = np.exp(-0.5 * widths**-2.0)
        lambdas = np.where(widths > _EXACT, lambdas, 0.0)
        return np.where(self.is_categorical, np.where(widths < _NONE, lambdas, 1.0), widths)


def _kinds(table: Table, wanted: Any) -> dict[int, str]:
    """Return the kind of each categorical feature, by its index."""
    if isinstance(wanted, str):
        kinds = {index: table.kind(index) for index in range(table.n_features)}
        kinds = {index: kind for index, kind in kinds.items() if kind is not None}
        _warn_of_numeric_texts(table, kinds)
        return kinds
    if isinstance(wanted, dict):
        _check_kinds(wanted)
        indices = _indices(table, list(wanted))
        return dict(zip(indices, wanted.values(), strict=True))
    return {index: table.kind(index) or "unordered" for index in _indices(table, wanted)}


def _warn_of_numeric_texts(table: Table, indices: Iterable[int]) -> None:
    """Warn of texts that all read as numbers: nobody has said that they are categories."""
    for index in indices:
        present = table.column(index).present if table.is_text(index) else []
        if present and all(_is_numeric_text(value) for value in present):
            warn_user(
                f"The texts of column {table.label(index)} are numbers, such as {present[0]!r}, "
                "but are taken for categories. Convert the column if they are numbers "
                "(pandas.to_numeric); if they are categories, name it in categorical_features or "
                "give it a categorical dtype.",
                UserWarning,
            )


def _is_numeric_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and np.isfinite(float(value))
    except ValueError:
        return False


def _check_kinds(wanted: dict) -> None:
    for key, kind in wanted.items():
        if kind not in _KINDS:
            raise ValueError(
                f"categorical_features, as a dict, has 'ordered' or 'unordered' for a feature; got "
                f"{kind!r} for {key!r}."
            )


def _indices(table: Table, wanted: Any) -> list[int]:
    """Return the indices that names and indices, or a mask, stand for."""
    chosen = wanted.tolist() if hasattr(wanted, "tolist") else list(wanted)
    if chosen and all(isinstance(value, bool | np.bool_) for value in chosen):
        if len(chosen) != table.n_features:
            raise ValueError(
                "categorical_features as a mask must have one value per feature, "
                f"{table.n_features}; got {len(chosen)}."
            )
        return np.flatnonzero(chosen).tolist()
    if any(isinstance(value, bool) or not isinstance(value, Integral | str) for value in chosen):
        raise ValueError(
            "categorical_features must be 'from_dtype', None, a dict, or a list of names, indices "
            f"or booleans; got {wanted!r}."
        )
    names = [value for value in chosen if isinstance(value, str)]
    _check_names(table, names, wanted)
    indices = [value for value in chosen if not isinstance(value, str)]
    if not all(0 <= index < table.n_features for index in indices):
        raise ValueError(
            f"categorical_features as indices must be between 0 and {table.n_features - 1}; got "
            f"{wanted!r}."
        )
    return [table.names.index(value) if isinstance(value, str) else int(value) for value in chosen]


def _check_names(table: Table, names: list[str], wanted: Any) -> None:
    if names and table.names is None:
        raise ValueError(
            f"categorical_features names {wanted!r}, but X has no column names; use indices or a "
            "mask, or pass a data frame."
        )
    absent = [name for name in names if name not in table.names]
    if absent:
        raise ValueError(
            f"categorical_features names {absent}, which X does not have; its columns are "
            f"{list(table.names)}."
        )
