"""Orders: of values of any type, and of many numbers."""

from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np


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


def ascending_order(values: np.ndarray) -> np.ndarray | None:
    """Return the order (n,), int64, in which finite numbers ascend; None if they do already.

    Sorting whole numbers, each with its place in its last digits, takes half the time of
    `numpy.argsort`: as many leading digits of a number as there is room for, and where these are
    equal, a look at what is left.

    >>> import numpy as np
    >>> ascending_order(np.array([0.5, -1.0, 0.25]))
    array([1, 2, 0])
    """
    if not _descends(values):
        return None
    low, n_bits = values.min(), (len(values) - 1).bit_length()
    with np.errstate(over="ignore", invalid="ignore"):
        width = values.max() - low
        leading = (values - low) * ((2.0 ** (63 - n_bits) - 1) / width)
    if not np.isfinite(leading).all():
        return np.argsort(values, kind="stable")
    packed = leading.astype(np.uint64)
    packed <<= np.uint64(n_bits)
    packed |= np.arange(len(values), dtype=np.uint64)
    packed.sort()
    packed &= np.uint64(2**n_bits - 1)
    order = packed.view(np.int64)
    in_order = values[order]
    return order[np.argsort(in_order, kind="stable")] if _descends(in_order) else order


def _descends(values: np.ndarray) -> bool:
    return bool((values[1:] < values[:-1]).any())
