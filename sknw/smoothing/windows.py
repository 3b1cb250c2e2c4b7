"""Windows: the same everywhere, or as wide as the neighbours are far.

A selector of bandwidths returns one of them, and it makes the smoother of the keys.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sknw.smoothing.cells import OwnCells
from sknw.smoothing.method import Method
from sknw.smoothing.neighbors import NeighborDistances, NeighborSmoother
from sknw.smoothing.polynomial_smoother import PolynomialSmoother
from sknw.smoothing.smoother import Smoother


@dataclass(frozen=True, eq=False)
class KeyWeights:
    """Weights of keys that may be cells of several observations.

    Parameters
    ----------
    plain : Tensor of shape (n,)
        Weights as the sums can hold them.
    logs : Tensor of shape (n,) or None, default=None
        Their logarithms, exact where the weights are lighter than that; None: they are not.
    concentration : Tensor of shape (n,) or None, default=None
        Sum of the squared shares of the observations of a key; None: each is one observation.
    own : OwnCells or None, default=None
        What leave-one-out predicts where keys are cells of several observations.
    """

    plain: Tensor
    logs: Tensor | None = None
    concentration: Tensor | None = None
    own: OwnCells | None = None


class Windows(ABC):
    """How wide the windows are, and what smooths with them."""

    has_own_radii: bool  # whether keys have one each, so that observations cannot share a key
    widths: float | np.ndarray  # what distances are divided by first: of each feature, or of all

    @property
    @abstractmethod
    def code(self) -> bytes:
        """A code of all that the windows are."""

    @abstractmethod
    def describe(self) -> str:
        """Return in a few words how windows are."""

    @abstractmethod
    def smoother(
        self, method: Method, keys: Tensor, values: Tensor, weights: KeyWeights
    ) -> Smoother | NeighborSmoother:
        """Return what answers queries, for keys (n, d) in units of the widths."""


@dataclass(frozen=True, eq=False)
class FixedWindows(Windows):
    """Windows that are the same everywhere.

    Parameters
    ----------
    widths : float or ndarray of shape (n_features,)
        The width of each feature in the units of the columns, or one of all.
    """

    widths: float | np.ndarray

    has_own_radii = False

    @property
    def code(self) -> bytes:
        """A code of the widths."""
        return np.asarray(self.widths).tobytes()

    def describe(self) -> str:
        """Return that they are fixed."""
        return "fixed"

    def smoother(
        self, method: Method, keys: Tensor, values: Tensor, weights: KeyWeights
    ) -> Smoother:
        """Return a smoother with the sums' algorithms."""
        kind = PolynomialSmoother if method.degree else Smoother
        return kind.of(
            method,
            keys,
            values,
            weights.plain,
            log_weights=weights.logs,
            concentration=weights.concentration,
            own=weights.own,
        )


@dataclass(frozen=True, eq=False)
class NeighborWindows(Windows):
    """Windows that reach to a neighbour.

    Parameters
    ----------
    radii : ndarray of shape (n_observations,)
        Distance of each observation to its `n_neighbors`-th nearest other one.
    n_neighbors : int
        Rank of the neighbour whose distance is the width.
    kind : {"query", "key"}
        Whose neighbour.
    """

    radii: np.ndarray
    n_neighbors: int
    kind: str

    has_own_radii = True
    widths = 1.0

    @property
    def code(self) -> bytes:
        """A code of the radii and of whose they are."""
        return self.radii.tobytes() + f"{self.n_neighbors} {self.kind}".encode()

    def describe(self) -> str:
        """Return by how many neighbours of what."""
        return f"{self.n_neighbors} neighbors of the {self.kind}"

    def smoother(
        self,
        method: Method,
        keys: Tensor,
        values: Tensor,
        weights: KeyWeights,
        distances: NeighborDistances | None = None,
    ) -> NeighborSmoother:
        """Return a smoother of all pairs; `distances` are those of the keys, if they are known."""
        return NeighborSmoother.of(
            method,
            keys,
            values,
            weights.plain,
            radii=self.radii,
            n_neighbors=self.n_neighbors,
            kind=self.kind,
            distances=distances,
        )
