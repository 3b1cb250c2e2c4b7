"""The training set as the estimators see it: observations in cells of equal X, centre and scale.

A row is an observation; copies of a row are one observation with their summed weight
(`sknw.data.duplicates` tells which they are). Observations with equal X make a cell. A cell is one
key of the kernel sums, since all that a prediction needs of it are its weight and its mean;
leave-one-out takes an observation out of its cell. Rows of weight zero are no observations, but
they too get leave-one-out predictions.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch

from sknw.data.arrays import least_weight
from sknw.data.duplicates import Groups
from sknw.data.extent import FeatureExtent
from sknw.data.features import Features
from sknw.data.targets import TargetScale


@dataclass(frozen=True, eq=False)
class Observations:
    """Rows of X with positive weight (the cells), and the observations at them.

    Observations with equal X share a cell, unless hardly any have: then each is a cell of its own.

    Parameters
    ----------
    X : ndarray of shape (n_cells, n_columns)
        The cells, as given. A numeric feature is one column, a categorical one is codes or a block.
    cell : ndarray of shape (n_observations,)
        The cell of each observation, never falling.
    y : ndarray of shape (n_observations, n_outputs)
        Scaled targets.
    weights : ndarray of shape (n_observations,)
        Weights, the largest being 1; none is less than `least_weight`.
    given_log_weights : ndarray of shape (n_observations,) or None
        Logarithms of the weights where some are less than that; None: where none is.
    group : ndarray of shape (n_rows,)
        The observation that each training row belongs to; -1 for a row of weight zero.
    share : ndarray of shape (n_rows,)
        The row's share of its observation's weight.
    weightless : ndarray of shape (n_weightless, n_columns)
        The rows of weight zero, as given.
    centre : ndarray of shape (n_columns,)
        Median of each column: robust, so that one remote row cannot cost the others digits. Zero
        for codes.
    target_scale : TargetScale
        How targets were scaled, and how they vary.
    features : Features
        Which feature each column belongs to.
    duplicates : dict of str to int
        How many rows with equals were kept as rows (``"keep"``), and how many were merged.
    """

    X: np.ndarray
    cell: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    given_log_weights: np.ndarray | None
    group: np.ndarray
    share: np.ndarray
    weightless: np.ndarray
    centre: np.ndarray
    target_scale: TargetScale
    features: Features
    duplicates: dict[str, int]

    @classmethod
    def of(
        cls,
        X: np.ndarray,
        y: np.ndarray,
        sample_weight: np.ndarray,
        features: Features | None = None,
        duplicates: str = "auto",
    ) -> "Observations":
        """Find copies and cells, centre.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_columns)
        y : ndarray of shape (n_rows, n_outputs)
        sample_weight : ndarray of shape (n_rows,)
            Weights >= 0, not all zero.
        features : Features or None, default=None
            Which feature each column belongs to; None: each column is a number.
        duplicates : {"auto", "keep", "merge"}, default="auto"
            As in the estimators.
        """
        features = features or Features(X.shape[1])
        counts = sample_weight > 0
        group = np.full(len(X), -1)
        rows, targets, given = X[counts], y[counts].astype(np.float64), sample_weight[counts]
        least = least_weight(torch.float64)
        weights = given / given.max()
        is_wide = weights.min() < least
        weights = np.maximum(weights, least)
        found = Groups.of(rows, targets, weights, features, duplicates)
        group[counts] = found.observation
        totals = np.bincount(found.observation, weights=weights)
        share = np.zeros(len(X))
        share[counts] = weights / totals[found.observation]
        targets, observed = targets[found.first], np.maximum(totals / totals.max(), least)
        scale = TargetScale.of(targets, observed)
        cells = rows[found.first[_heads(found.cell)]] + X.dtype.type(0)  # -0.0 equals 0.0
        centre = np.median(cells, axis=0).astype(X.dtype)
        centre[features.n_numbers :] = 0
        return cls(
            X=cells,
            cell=found.cell,
            y=scale.scaled(targets),
            weights=observed,
            given_log_weights=_log_totals(given, found.observation) if is_wide else None,
            group=group,
            share=share,
            weightless=X[~counts],
            centre=centre,
            target_scale=scale,
            features=features,
            duplicates=found.decided,
        )

    def __len__(self) -> int:
        return len(self.weights)

    def __getstate__(self) -> dict:
        """Leave what was computed on the way out of pickles."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def are_distinct(self) -> bool:
        """Whether no two observations have equal X."""
        return len(self) == len(self.X)

    def centred(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (n, n_columns) as given, less the centre."""
        return rows - self.centre

    @property
    def informative_centre(self) -> np.ndarray:
        """The centre, 0 in columns where all rows are equal and no distance comes from."""
        return np.where(np.ptp(self.X, axis=0) > 0, self.centre, 0).astype(self.centre.dtype)

    @cached_property
    def keys(self) -> np.ndarray:
        """The cells less the centre, (n_cells, n_columns)."""
        return self.centred(self.X)

    def by_cell(self, of_observations: np.ndarray) -> np.ndarray:
        """Return the sums (n_cells, ...) over the observations of each cell."""
        if self.are_distinct:
            return of_observations
        return np.add.reduceat(of_observations, _heads(self.cell), axis=0)

    @cached_property
    def cell_weights(self) -> np.ndarray:
        """Total weight of each cell, (n_cells,)."""
        return self.by_cell(self.weights)

    @property
    def log_weights(self) -> np.ndarray:
        """Logarithms of the weights, exact where `weights` are as light as weights may be."""
        known = self.given_log_weights
        return np.log(self.weights) if known is None else known

    @property
    def cell_log_weights(self) -> np.ndarray:
        """Logarithm of the total weight of each cell, relative to the heaviest observation's."""
        if self.given_log_weights is None:
            return np.log(self.cell_weights)
        return np.logaddexp.reduceat(self.log_weights, _heads(self.cell))

    @property
    def cell_concentration(self) -> np.ndarray:
        """Sum of the squared shares that observations have of their cell's weight, (n_cells,)."""
        if self.are_distinct:
            return np.ones(len(self))
        return self.by_cell(np.square(self.weights / self.cell_weights[self.cell]))

    @property
    def cell_y(self) -> np.ndarray:
        """Weighted mean of the scaled targets of each cell, (n_cells, n_outputs)."""
        if self.are_distinct:
            return self.y
        return self.by_cell(self.weights[:, None] * self.y) / self.cell_weights[:, None]

    @property
    def row_share(self) -> np.ndarray:
        """Each training row's share of the weight of its cell, (n_rows,); 0 for weightless rows."""
        if self.are_distinct:
            return self.share
        of_observation = self.weights / self.cell_weights[self.cell]
        return self.share * of_observation[self.group.clip(0)]

    @cached_property
    def effective_size(self) -> float:
        """Kish's effective number of observations, ``(Σw)²/Σw²``."""
        return float(self.weights.sum() ** 2 / np.square(self.weights).sum())

    @cached_property
    def extent(self) -> FeatureExtent:
        """How far the features extend."""
        return FeatureExtent(self.keys, self.cell_weights, self.features)

    @cached_property
    def farthest(self) -> np.ndarray:
        """Largest absolute coordinate of each column of the keys; zero for codes."""
        farthest = np.maximum(self.keys.max(axis=0), -self.keys.min(axis=0))
        farthest[self.features.n_numbers :] = 0
        return farthest


def _heads(cell: np.ndarray) -> np.ndarray:
    """Return the first observation of each cell (n_cells,)."""
    return np.flatnonzero(np.append(True, cell[1:] != cell[:-1]))


def _log_totals(weights: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Return the logarithm of the total weight of each kind, relative to the largest."""
    heaviest = np.zeros(kind.max() + 1)
    np.maximum.at(heaviest, kind, weights)
    logs = np.log(heaviest) + np.log(np.bincount(kind, weights=weights / heaviest[kind]))
    return logs - logs.max()
