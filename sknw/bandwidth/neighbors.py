"""Bandwidths that follow the density: the distance to the k-th nearest other training row."""

from numbers import Integral
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator

from sknw.bandwidth.selector import Selection, Selector
from sknw.data.arrays import to_numpy
from sknw.data.duplicates import kinds
from sknw.data.features import Features
from sknw.data.observations import Observations
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.smoothing.neighbors import NEIGHBOR_KINDS, NeighborDistances, NeighborSmoother
from sknw.smoothing.windows import KeyWeights, NeighborWindows
from sknw.support import tuning
from sknw.support.compat import Interval, StrOptions
from sknw.support.warnings import warn_user


class NeighborBandwidth(Selector, BaseEstimator):
    """A bandwidth of its own for every query or training row, by its k-th nearest neighbour.

    Where training rows are dense the window is narrow, where they are sparse it is wide. Distances
    are Euclidean in the units of X; nothing is standardised.

    Parameters
    ----------
    n_neighbors : int or "loo", default="loo"
        The bandwidth is the distance to this many-th nearest *other* observation (copies of a
        row count once). ``"loo"``: the number that minimises the weighted mean squared
        leave-one-out error, by a scan over all magnitudes and then ever closer around the lowest.
        Where m observations lie at one place, the distance to the (m − 1)-th neighbour there is
        zero, so that only numbers from m on are possible: ``search_report_`` has the first as
        ``smallest_n_neighbors``, and a warning tells if that is the one chosen.
    kind : {"query", "key"}, default="query"
        Whose neighbour: of the query (generalized nearest neighbours), or of each training row
        (adaptive nearest neighbours).

    See Also
    --------
    BandwidthSearch : Bandwidths that are the same everywhere.

    Notes
    -----
    The kernel of the scaled distance is the same as with a fixed bandwidth. A compact kernel with
    ``kind="query"`` gives no weight to the k-th neighbour itself. Predictions take time in
    proportion to the number of queries times that of training rows. `bandwidth_` then has the
    bandwidth at each training row, and `n_neighbors_` the number of neighbours.

    References
    ----------
    .. [1] D. O. Loftsgaarden and C. P. Quesenberry, "A nonparametric estimate of a multivariate
           density function", Annals of Mathematical Statistics 36(3), 1965.
    .. [2] L. Breiman, W. Meisel and E. Purcell, "Variable kernel estimates of multivariate
           densities", Technometrics 19(2), 1977.

    Examples
    --------
    >>> from sknw import NadarayaWatsonRegressor, NeighborBandwidth
    >>> X, y = [[0.0], [1.0], [3.0], [7.0]], [0.0, 1.0, 9.0, 49.0]
    >>> model = NadarayaWatsonRegressor(NeighborBandwidth(n_neighbors=1)).fit(X, y)
    >>> model.bandwidth_
    array([1., 1., 2., 4.])
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_neighbors": [StrOptions(["loo"]), Interval(Integral, 1, None, closed="left")],
        "kind": [StrOptions(NEIGHBOR_KINDS)],
    }

    def __init__(self, n_neighbors="loo", *, kind="query"):
        self.n_neighbors = n_neighbors
        self.kind = kind

    def check(self, features: Features) -> None:
        """Refuse parameters that are not as described, and categories."""
        super().check(features)
        if features.categories:
            names = [categories.name for categories in features.categories.values()]
            raise ValueError(
                "NeighborBandwidth measures distances between numbers, but X has categorical "
                f"features: {', '.join(names)}. Encode or drop them, use "
                "categorical_features=None, or use a BandwidthSearch."
            )

    def select(
        self,
        observations: Observations,
        task: LeaveOneOut,
        random_state: np.random.RandomState,
    ) -> Selection:
        """Measure the distances; compare numbers of neighbours where none is given."""
        n_others = len(observations) - 1
        if n_others < 1:
            raise ValueError(
                "NeighborBandwidth needs at least 2 observations; got n_samples = "
                f"{len(observations)}."
            )
        if self.n_neighbors != "loo" and self.n_neighbors > n_others:
            raise ValueError(
                f"n_neighbors must be at most the number of other observations, "
                f"{n_others}; got {self.n_neighbors}."
            )
        trial = _Trial(task, self.kind, NeighborDistances(task.rows))
        smallest = _largest_tie(observations)
        if self.n_neighbors != "loo":
            radii = trial.radii([self.n_neighbors])[:, 0]
            _check_positive(radii, self.n_neighbors, smallest)
            return Selection(NeighborWindows(radii, self.n_neighbors, self.kind))
        with task.progress.stage("scan of numbers of neighbours"):
            losses = _scan(trial, min(smallest, n_others), n_others)
        best = min(losses, key=lambda rank: (losses[rank], rank))
        radii = trial.radii([best])[:, 0]
        _check_positive(radii, best, smallest)
        if best == smallest > 1:
            warn_user(
                f"Fewer neighbours than the {best} chosen are impossible, though their "
                f"leave-one-out error might be lower: {smallest} observations lie at one place, "
                f"where the distance to the {_ordinal(smallest - 1)} other is zero. A bandwidth "
                "that is the same everywhere (BandwidthSearch) has no such limit.",
                UserWarning,
            )
        return Selection(
            NeighborWindows(radii, best, self.kind),
            criterion=losses[best] * task.unit,
            report={
                "criterion": "loo",
                "n_rows": len(task),
                "n_held_out": len(task),
                "n_evaluations": len(losses),
                "smallest_n_neighbors": smallest,
                "algorithm": NeighborSmoother.name,
            },
            path={
                "n_neighbors": np.array(list(losses)),
                "criterion": np.array(list(losses.values())) * task.unit,
            },
        )


class _Trial:
    """The leave-one-out loss of a number of neighbours."""

    def __init__(self, task: LeaveOneOut, kind: str, distances: NeighborDistances):
        self.task, self.kind, self.distances = task, kind, distances

    def radii(self, ranks: list[int]) -> np.ndarray:
        """Return the distances (n, len(ranks)) of the keys to the neighbours of these ranks."""
        return self.distances.to(self.task.rows, ranks)

    def losses(self, ranks: list[int]) -> dict[int, float]:
        """Return the loss of each number of neighbours; infinite where a radius is zero."""
        found, task = {}, self.task
        for rank, radii in zip(ranks, self.radii(ranks).T, strict=True):
            found[rank] = np.inf
            if radii.min() > 0:
                smoother = NeighborWindows(radii, rank, self.kind).smoother(
                    task.method,
                    task.rows,
                    task.values,
                    KeyWeights(task.weights),
                    distances=self.distances,
                )
                with torch.no_grad():
                    found[rank] = float(to_numpy(task.loss_of(smoother.predict(None).means)))
                task.progress.evaluated(found[rank] * task.unit)
        return found


def _largest_tie(observations: Observations) -> int:
    """Return how many observations lie at the place that has most of them."""
    return int(np.bincount(kinds(observations.X)[observations.cell]).max())


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10)
    return f"{number}{suffix or 'th'}"


def _scan(trial: _Trial, smallest: int, largest: int) -> dict[int, float]:
    """Return the losses looked at: all magnitudes first, then ever closer around the lowest."""
    ranks = np.unique(np.geomspace(smallest, largest, tuning.N_CANDIDATES).round().astype(int))
    losses = trial.losses(ranks.tolist())
    while True:
        best = min(losses, key=lambda rank: (losses[rank], rank))
        known = sorted(losses)
        place = known.index(best)
        low, high = known[max(place - 1, 0)], known[min(place + 1, len(known) - 1)]
        between = np.unique(np.linspace(low, high, tuning.N_CANDIDATES).round().astype(int))
        new = [rank for rank in between.tolist() if rank not in losses]
        if not new:
            return losses
        losses.update(trial.losses(new))


def _check_positive(radii: np.ndarray, n_neighbors: int, largest_tie: int) -> None:
    n_zero = int(np.count_nonzero(radii == 0))
    if not n_zero:
        return
    larger = "" if largest_tie >= len(radii) else f"n_neighbors of at least {largest_tie}, or "
    raise ValueError(
        f"{n_zero} of {len(radii)} training rows have {n_neighbors} or more others at the same "
        f"place (at most {largest_tie} rows lie at one), so the distance to that neighbour, their "
        f"bandwidth, is zero; use {larger}a bandwidth that is the same everywhere."
    )
