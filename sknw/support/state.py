"""One state at a time: a fit publishes at once, and a question reads what was there when it came.

A fit works on a copy of the estimator and replaces the attributes of the original in one
assignment at its end, so one that fails changes nothing. A question (`predict`, `transform` and
every other public method or property) copies the attributes in one operation and works on those. So
a prediction in another thread sees the model before a fit or after it, never half of each.

Both keep out of torch's automatic casting to half precision, which the caller may have on.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_CASTING = ("cpu", "cuda", "xpu", "mps")  # devices whose operations may be cast


def snapshot(estimator: Any) -> Any:
    """Return another estimator with the attributes that this one has now."""
    copied = object.__new__(type(estimator))
    vars(copied).update(vars(estimator).copy())
    return copied


def publish(estimator: Any, before: dict, fitted: dict) -> None:
    """Give the estimator what a fit on its snapshot has changed, all at once.

    Parameters
    ----------
    estimator : object
        Whose attributes are replaced; what others have set on it meanwhile stays.
    before, fitted : dict
        The attributes of the snapshot before and after.
    """
    new = {
        name: value
        for name, value in fitted.items()
        if name not in before or before[name] is not value
    }
    kept = {
        name: value
        for name, value in vars(estimator).copy().items()
        if name in fitted or name not in before
    }
    estimator.__dict__ = {**kept, **new}


def question(method: Callable) -> Callable:
    """Let a method work on one state of the estimator, in full precision."""

    @functools.wraps(method)
    def ask(self, *args, **kwargs):
        with full_precision_everywhere():
            return method(snapshot(self), *args, **kwargs)

    return ask


@contextmanager
def full_precision_everywhere() -> Iterator[None]:
    """Switch automatic casting off in the block, on every device."""
    with ExitStack() as stack:
        for device in _CASTING:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
