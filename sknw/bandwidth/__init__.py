"""Bandwidth selection: a room of selectors, each a way from data to bandwidths.

`SELECTORS` holds them by the name that the estimators' ``bandwidth`` parameter takes; a number or
an array is taken as it is by `resolve_bandwidth`.
"""

from numbers import Real

import numpy as np

from sknw._observations import Observations
from sknw.bandwidth.rules import Scott, Silverman
from sknw.bandwidth.search import LeaveOneOutSearch
from sknw.bandwidth.selector import Selection, Selector
from sknw.leave_one_out import LeaveOneOut

SELECTORS: dict[str, Selector] = {
    selector.name: selector for selector in (LeaveOneOutSearch(), Scott(), Silverman())
}
_ACCEPTED = f"a positive number, an array with one per feature, or one of {list(SELECTORS)}"


def check_bandwidth(bandwidth, n_features: int) -> None:
    """Refuse a bandwidth that is not positive and finite, or not one per feature.

    Raises
    ------
    ValueError
    """
    if isinstance(bandwidth, str):
        if bandwidth not in SELECTORS:
            raise ValueError(f"bandwidth must be {_ACCEPTED}; got {bandwidth!r}.")
        return
    values = _as_numbers(bandwidth)
    if values.ndim > 1:
        raise ValueError(
            "bandwidth must be a number or a 1-D array with one value per feature; "
            f"got an array of shape {values.shape}."
        )
    if values.ndim == 1 and len(values) != n_features:
        raise ValueError(f"bandwidth has {len(values)} values but X has {n_features} features.")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"bandwidth must be positive and finite; got {bandwidth}.")


def _as_numbers(bandwidth) -> np.ndarray:
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
    """Return the bandwidths that a parameter stands for, checked."""
    check_bandwidth(bandwidth, task.n_features)
    if isinstance(bandwidth, str):
        return SELECTORS[bandwidth].select(observations, task, random_state)
    if isinstance(bandwidth, Real):
        return Selection(float(bandwidth))
    return Selection(_as_numbers(bandwidth))


__all__ = ["SELECTORS", "Selection", "Selector", "check_bandwidth", "resolve_bandwidth"]
