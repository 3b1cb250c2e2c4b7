"""Metrics: embeddings of the rows, X -> Z, in which the bandwidth is 1.

`METRICS` holds them by the name that the ``metric`` parameter takes.
"""

from sknw.metrics._base import Metric, pulled_in, representable_bandwidth
from sknw.metrics.scales import DiagonalMetric, ScalarMetric, ScaleMetric

METRICS: dict[str, type[Metric]] = {"scalar": ScalarMetric, "diagonal": DiagonalMetric}

__all__ = [
    "METRICS",
    "DiagonalMetric",
    "Metric",
    "ScalarMetric",
    "ScaleMetric",
    "pulled_in",
    "representable_bandwidth",
]
