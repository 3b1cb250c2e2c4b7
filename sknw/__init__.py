"""Nadaraya-Watson kernel regression (attention pooling) as scikit-learn estimators on torch."""

from sknw._types import (
    DeviceWarning,
    EmptyNeighborhoodWarning,
    MetricWarning,
    UnseenCategoryWarning,
)
from sknw.bandwidth import BandwidthSearch, NeighborBandwidth
from sknw.nadaraya_watson import NadarayaWatsonRegressor
from sknw.parametric import ParametricNWRegressor

__version__ = "0.1.0.dev0"

__all__ = [
    "BandwidthSearch",
    "DeviceWarning",
    "EmptyNeighborhoodWarning",
    "MetricWarning",
    "NadarayaWatsonRegressor",
    "NeighborBandwidth",
    "ParametricNWRegressor",
    "UnseenCategoryWarning",
]
