"""Bandwidth selection: a room of selectors, each a way from data to bandwidths.

`SELECTORS` holds them by the name that the estimators' ``bandwidth`` parameter takes; a number or
an array is taken as it is by `resolve_bandwidth`.
"""

from numbers import Real

import numpy as np

from sknw.bandwidth.neighbors import NeighborBandwidth
from sknw.bandwidth.rules import RULES, aitchison_aitken
from sknw.bandwidth.search import BandwidthSearch
from sknw.bandwidth.selector import Selection, Selector
from sknw.data.features import Features
from sknw.data.observations import Observations
from sknw.fitting.criteria import CRITERIA, Criterion
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.smoothing.windows import FixedWindows, NeighborWindows

SELECTORS: dict[str, Selector] = {
    **{criterion: BandwidthSearch(criterion) for criterion in CRITERIA},
    **RULES,
}
_ACCEPTED = (
    f"a positive number, an array with one per feature, one of {list(SELECTORS)}, a "
    "BandwidthSearch or a NeighborBandwidth"
)


def check_bandwidth(bandwidth, features: Features) -> None:
    """Refuse a bandwidth that is not positive and finite, or not one per feature.

    Raises
    ------
    ValueError
    """
    if isinstance(bandwidth, Selector):
        bandwidth.check(features)
        return
    if isinstance(bandwidth, str):
        if bandwidth not in SELECTORS:
            raise ValueError(f"bandwidth must be {_ACCEPTED}; got {bandwidth!r}.")
        return
    values, n_features = _as_numbers(bandwidth, features), features.n_features
    if values.ndim > 1:
        raise ValueError(
            "bandwidth must be a number or a 1-D array with one value per feature; "
            f"got an array of shape {values.shape}."
        )
    if values.ndim == 1 and len(values) != n_features:
        raise ValueError(f"bandwidth has {len(values)} values but X has {n_features} features.")
    is_lambda = features.is_categorical if values.ndim else np.array(False)
    if not ((values >= 0) & (values <= 1))[is_lambda].all():
        raise ValueError(
            "bandwidth of a categorical feature is λ, between 0 (exact match) and 1 (irrelevant); "
            f"got {bandwidth}."
        )
    numbers = values[~is_lambda]
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise ValueError(f"bandwidth must be positive and finite; got {bandwidth}.")


def _as_numbers(bandwidth, features: Features) -> np.ndarray:
    bandwidth = features.in_order("bandwidth", bandwidth)
    try:
        values = np.asarray(bandwidth)
    except ValueError:  # a ragged list
        values = np.asarray(None)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"bandwidth must be {_ACCEPTED}; got {bandwidth!r}.")
    return values.astype(np.float64)


def resolve_bandwidth(
    bandwidth,
    observations: Observations,
    task: LeaveOneOut,
    random_state: np.random.RandomState,
) -> Selection:
    """Return the windows that a parameter stands for, checked."""
    check_bandwidth(bandwidth, observations.features)
    selector = SELECTORS.get(bandwidth) if isinstance(bandwidth, str) else bandwidth
    if isinstance(selector, Selector):
        return selector.select(observations, task, random_state)
    if isinstance(bandwidth, Real):
        return Selection(FixedWindows(float(bandwidth)))
    widths = observations.features.widths(_as_numbers(bandwidth, observations.features))
    return Selection(FixedWindows(widths))


__all__ = [
    "CRITERIA",
    "SELECTORS",
    "BandwidthSearch",
    "Criterion",
    "FixedWindows",
    "NeighborBandwidth",
    "NeighborWindows",
    "Selection",
    "Selector",
    "aitchison_aitken",
    "check_bandwidth",
    "resolve_bandwidth",
]
