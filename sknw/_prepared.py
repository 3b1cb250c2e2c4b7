"""What predictions prepare, kept beside the estimators and not in them.

A prediction must not change its estimator, and a pickle must stay as small as the training set. So
the prepared keys and the report of the latest sums live here, for as long as their estimator lives.
They are used again only while everything that they depend on is the same.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from sknw.smoother import Smoother

_smoothers: WeakKeyDictionary[Any, tuple[Any, tuple, Smoother]] = WeakKeyDictionary()
_reports: WeakKeyDictionary[Any, dict] = WeakKeyDictionary()


def prepared_smoother(
    estimator: Any, state: Callable[[], tuple[Any, tuple]], make: Callable[[], Smoother]
) -> Smoother:
    """Return the estimator's smoother for the same state, or make it.

    `state` returns the observations and all settings that a smoother depends on. What is made while
    they change, by a fit in another thread, is not kept.
    """
    observations, settings = state()
    kept = _smoothers.get(estimator)
    if kept is not None and kept[0] is observations and kept[1] == settings:
        return kept[2]
    smoother = make()
    observations_after, settings_after = state()
    if observations_after is observations and settings_after == settings:
        _smoothers[estimator] = observations, settings, smoother
    return smoother


def remember_report(estimator: Any, report: dict) -> None:
    """Keep the report of the estimator's latest sums."""
    _reports[estimator] = dict(report)


def latest_report(estimator: Any) -> dict | None:
    """Return a copy of the report of the estimator's latest sums; None before the first."""
    report = _reports.get(estimator)
    return None if report is None else dict(report)
