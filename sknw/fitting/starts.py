"""Where descents start: minima of scans over the whole range, from broad windows.

A softmax whose windows are narrow has saturated: every row is predicted by its nearest neighbour
and the gradient vanishes. The best common scale of many features is often such a place (too narrow
for the features that matter little), so each feature's own width is scanned from broad windows too.
"""

from collections.abc import Sequence

import numpy as np

from sknw.fitting.objective import Objective
from sknw.fitting.parametrization import Widths
from sknw.kernels import Kernel
from sknw.support import tuning


def common_widths(widths: Widths, kernel: Kernel, *, is_fine: bool) -> np.ndarray:
    """Return widths (n_points, p) from narrow to wide, in equal log-steps.

    Each is one multiple of every spread. A fine scan, of a search over nothing but a single width,
    starts at the smallest one worth trying, since nothing else finds a narrow minimum.
    """
    n_points, (narrowest, widest) = tuning.SCAN_POINTS, tuning.SCAN_RANGE
    if is_fine:
        n_points = tuning.SCAN_POINTS_OF_ONE * (1 if kernel.has_smooth_loss else 3)
        narrowest = min(narrowest, float(widths.lower[0] * kernel.search_scale / widths.spread[0]))
    multiples = np.geomspace(narrowest, widest, n_points)
    return np.clip(multiples[:, None] * widths.spread, widths.lower, widths.upper)


def mixed_start(objective: Objective, widths: Widths) -> np.ndarray:
    """Return the best mix of widths: each in turn, while those after it are out of the way."""
    multiples = [
        widths.coordinates(multiple * widths.spread) for multiple in tuning.MULTIPLES_OF_ONE_SPREAD
    ]
    return coordinate_scan(objective, multiples[-1], multiples)


def scan_minima(objective: Objective, points: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the local minima of the objective along a line of points, the lowest first.

    Minima much higher than the lowest are left out, among them the plateau of saturated windows.
    """
    values = objective.log_values(points)
    padded = np.concatenate([[np.inf], values, [np.inf]])
    found = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]))
    found = found[values[found] <= values.min() + tuning.HOPELESS]
    return [points[index] for index in sorted(found, key=lambda index: values[index])]


def coordinate_scan(
    objective: Objective, start: np.ndarray, choices: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the start improved one parameter at a time, each over the values in `choices`."""
    x, value = start.copy(), objective.log_value(start)
    for index in range(len(start)):
        moved = np.repeat(x[None], len(choices), axis=0)
        moved[:, index] = [choice[index] for choice in choices]
        values = objective.log_values(moved)
        if values.min() < value:
            x, value = moved[values.argmin()], float(values.min())
    return x
