"""Warnings that the public methods emit, and nothing that computes."""

import sys
import warnings


class EmptyNeighborhoodWarning(UserWarning):
    """Some queries have no training row in reach; `empty_neighborhood` says what they get."""


class UnseenCategoryWarning(UserWarning):
    """Some rows have a category that fit has not seen; it differs equally from every seen one."""


class DeviceWarning(UserWarning):
    """The device a model was fitted on is absent here, and the CPU is used instead."""


class MetricWarning(UserWarning):
    """The learned metric is hardly what was wanted: collapsed, saturated, worse than the mean."""


class VersionWarning(UserWarning):
    """A model was saved by another version of sknw than the one that loads it."""


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's that led here: the first outside sknw and scikit-learn."""
    level, frame = 1, sys._getframe(0)
    while frame is not None and _package(frame) in ("sknw", "sklearn"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _package(frame) -> str:
    return frame.f_globals.get("__name__", "").split(".")[0]


def warn_if_empty(policy: str, n_empty: int, n_queries: int) -> None:
    """Warn once, with the number of queries that have no training row in reach."""
    if n_empty:
        warn_user(
            f"{n_empty} of {n_queries} queries have no training row in reach; "
            f"empty_neighborhood={policy!r} decides what they get.",
            EmptyNeighborhoodWarning,
        )
