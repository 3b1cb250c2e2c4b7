"""One order of values of any type."""

from collections.abc import Iterable
from numbers import Real
from typing import Any


def in_order(values: Iterable) -> list:
    """Return values sorted; numbers come before others where both cannot be compared.

    >>> in_order(["b", 10, "a", 9])
    [9, 10, 'a', 'b']
    """
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=_of_any_type)


def _of_any_type(value: Any) -> tuple:
    if isinstance(value, Real):
        return "", value, ""
    return type(value).__name__, 0, str(value)
