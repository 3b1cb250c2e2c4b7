"""What predictions prepare, kept beside the training sets and not in the estimators.

A prediction must not change its estimator, and a pickle must stay as small as the training set. So
the prepared keys and the reports of the latest sums live here, for as long as the training set that
they are of. Keys are used again only while everything that they depend on is the same; a report is
seen by the thread that asked.
"""

import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

from sknw.data.observations import Observations
from sknw.smoothing.smoother import Smoother

_smoothers: WeakKeyDictionary[Observations, tuple[tuple, Smoother]] = WeakKeyDictionary()


class _Reports(threading.local):
    def __init__(self):
        self.latest: WeakKeyDictionary[Observations, dict] = WeakKeyDictionary()


_reports = _Reports()


def prepared_smoother(
    observations: Observations, settings: tuple, make: Callable[[], Smoother]
) -> Smoother:
    """Return the smoother of these observations for the same settings, or make it.

    `settings` are all else that a smoother depends on.
    """
    kept = _smoothers.get(observations)
    if kept is not None and kept[0] == settings:
        return kept[1]
    smoother = make()
    _smoothers[observations] = settings, smoother
    return smoother


def remember_report(observations: Observations, report: dict) -> None:
    """Keep the report of the latest sums of a training set."""
    _reports.latest[observations] = dict(report)


def latest_report(observations: Observations | None) -> dict | None:
    """Return a copy of the report of this thread's latest sums; None before the first."""
    report = None if observations is None else _reports.latest.get(observations)
    return None if report is None else dict(report)
