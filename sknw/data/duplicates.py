"""Which equal rows are copies of one observation, and which are observations of their own.

Two rows that are equal in every feature and every output are *copies* where such a coincidence
cannot be chance: a bootstrap sample, a table that was joined to itself. Leave-one-out leaves copies
out together, or a copied row would predict itself. Where coincidences are to be expected (a binary
outcome on whole years, counts on a grid, a lookup table), equal rows are observations like any
others, and to leave them out together would remove just the rows that agree with y.

A group of equal rows is taken for rows where one of these holds:

- so many coincidences are expected. With n rows, ``n Π_j max(p_j, p̄_j) >= 0.01``: over the
  features and outputs j that are not constant, p_j is the share of the *other* distinct (x, y) that
  have the group's value of j, and p̄_j the mean of p_j over all distinct (x, y);
- the group has at least ``max(10, √n)`` rows;
- all features are categories, and all rows of the cell have the same y.
"""

import math
from dataclasses import dataclass

import numpy as np

from sknw.data.features import Features
from sknw.support import tuning

DUPLICATES = ("auto", "keep", "merge")


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows sorted into observations, and observations into cells of equal X.

    The order of both depends on the values alone, so that no result depends on that of the rows.

    Parameters
    ----------
    observation : ndarray of shape (n_rows,)
        The observation that each row belongs to.
    cell : ndarray of shape (n_observations,)
        The cell that each observation belongs to, never falling. Where hardly any observations
        have the same X, each is a cell of its own.
    first : ndarray of shape (n_observations,)
        A row of each observation.
    decided : dict of str to int
        How many rows with equals were kept as rows (``"keep"``), and how many were merged.
    """

    observation: np.ndarray
    cell: np.ndarray
    first: np.ndarray
    decided: dict[str, int]

    @classmethod
    def of(
        cls, X: np.ndarray, y: np.ndarray, weights: np.ndarray, features: Features, duplicates: str
    ) -> "Groups":
        """Sort rows X (n, n_columns) with outputs y (n, n_outputs) and weights (n,) > 0."""
        n = len(X)
        cell = kinds(X)
        n_cells = int(cell.max()) + 1
        if n_cells == n:
            return cls(cell, np.arange(n), _places(cell), {"keep": 0, "merge": 0})
        kind = kinds(np.column_stack([cell, y]))
        size = np.bincount(kind)[kind]
        merged = size > 1
        if duplicates == "keep":
            merged[:] = False
        elif duplicates == "auto" and merged.any():
            merged &= ~_expected(X, y, features, cell, kind)[kind]
        order = np.lexsort((weights, kind, cell))
        begins = np.append(True, np.diff(kind[order]) != 0) | ~merged[order]
        observation = np.empty(n, dtype=np.int64)
        observation[order] = np.cumsum(begins) - 1
        first = order[begins]
        decided = {
            "keep": int(np.count_nonzero((size > 1) & ~merged)),
            "merge": int(np.count_nonzero(merged)),
        }
        cell = cell[first]
        n_cells = np.count_nonzero(np.diff(cell)) + 1
        if n_cells > tuning.CELLS_WORTH_SHARING * len(cell):
            cell = np.arange(len(cell))
        return cls(observation, cell, first, decided)


def _expected(
    X: np.ndarray, y: np.ndarray, features: Features, cell: np.ndarray, kind: np.ndarray
) -> np.ndarray:
    """Return which kinds (n_kinds,) of equal rows may be equal by chance."""
    n = len(X)
    _, first, sizes = np.unique(kind, return_index=True, return_counts=True)
    n_others = max(len(first) - 1, 1)
    log_expected = np.full(len(first), math.log(n))
    for values in _variables(X[first], y[first], features):
        _, of_value, counts = np.unique(values, return_inverse=True, return_counts=True)
        if len(counts) == 1:
            continue
        shares = (counts[of_value] - 1) / n_others
        typical = shares.mean()
        with np.errstate(divide="ignore"):
            log_expected += np.log(np.maximum(shares, typical))
    least_size = max(tuning.ROWS_OF_NO_COPY, math.sqrt(n))
    is_expected = log_expected >= math.log(tuning.COINCIDENCES_BY_CHANCE)
    by_chance = is_expected | (sizes >= least_size)
    if len(features.categories) == features.n_features:
        is_lookup = np.bincount(cell[first])[cell[first]] == 1
        by_chance |= is_lookup
    return by_chance


def _variables(X: np.ndarray, y: np.ndarray, features: Features):
    """Yield the values (n,) of each feature and output, categories as numbers of their own."""
    for feature in range(features.n_features):
        columns = X[:, features.of_column == feature]
        yield columns[:, 0] if columns.shape[1] == 1 else kinds(columns)
    yield from y.T


def kinds(rows: np.ndarray) -> np.ndarray:
    """Return a number (n,) for each row: equal rows share one, 0 to the number of kinds less 1."""
    rows = np.asarray(rows, dtype=np.float64) + 0.0  # -0.0 equals 0.0
    codes = _row_codes(rows)
    order = np.argsort(codes)
    sorted_codes = codes[order]
    if (sorted_codes[1:] != sorted_codes[:-1]).all():  # all differ, so np.unique is not needed
        return _places(order)
    _, first, kind = np.unique(codes, return_index=True, return_inverse=True)
    if not np.array_equal(rows[first[kind]], rows):
        # different rows share a code: sort the rows themselves
        _, kind = np.unique(rows, axis=0, return_inverse=True)
    return kind.reshape(-1)


def _places(order: np.ndarray) -> np.ndarray:
    """Return where each element stands in an order."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def _row_codes(rows: np.ndarray) -> np.ndarray:
    """Return a 64-bit code per row; equal rows have equal codes."""
    bits = np.ascontiguousarray(rows).view(np.uint64)
    codes = np.zeros(len(rows), dtype=np.uint64)
    for column in bits.T:
        codes = (codes ^ column) * np.uint64(0x9E3779B97F4A7C15)
        codes ^= codes >> np.uint64(29)
    return codes
