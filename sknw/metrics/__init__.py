"""Metrics: embeddings of the rows, X -> Z, in which the bandwidth is 1.

`METRICS` holds them by the name that the ``metric`` parameter takes. A metric names the next
`simpler` one; training goes up from the simplest, so that none ends above a simpler one.
"""

from sknw.metrics import matrix, network, scales
from sknw.metrics.matrix import FullMetric
from sknw.metrics.metric import Metric, fill, learned
from sknw.metrics.module import ModuleMetric
from sknw.metrics.network import MlpMetric
from sknw.metrics.scales import DiagonalMetric, ScalarMetric, ScaleMetric

METRICS: dict[str, type[Metric]] = {**scales.METRICS, **matrix.METRICS, **network.METRICS}

Metric.__module__ = __name__  # messages name what users import

__all__ = [
    "METRICS",
    "DiagonalMetric",
    "FullMetric",
    "Metric",
    "MlpMetric",
    "ModuleMetric",
    "ScalarMetric",
    "ScaleMetric",
    "fill",
    "learned",
]
