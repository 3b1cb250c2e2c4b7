"""Nadaraya-Watson kernel regression (attention pooling) as scikit-learn estimators on torch.

The public submodules are attributes that are imported when they are first asked for, so that
`import sknw` loads neither matplotlib nor compiled code.
"""

import importlib
from types import ModuleType

from sknw._version import __version__ as __version__
from sknw.bandwidth import BandwidthSearch, NeighborBandwidth
from sknw.nadaraya_watson import NadarayaWatsonRegressor
from sknw.parametric import ParametricNWRegressor
from sknw.sums import compile_ahead
from sknw.support.warnings import (
    DeviceWarning,
    EmptyNeighborhoodWarning,
    MetricWarning,
    UnseenCategoryWarning,
    VersionWarning,
)

__all__ = [
    "BandwidthSearch",
    "DeviceWarning",
    "EmptyNeighborhoodWarning",
    "MetricWarning",
    "NadarayaWatsonRegressor",
    "NeighborBandwidth",
    "ParametricNWRegressor",
    "UnseenCategoryWarning",
    "VersionWarning",
    "compile_ahead",
]

_SUBMODULES = (
    "bandwidth",
    "datasets",
    "functional",
    "kernels",
    "metrics",
    "plotting",
    "sums",
    "training",
)


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return importlib.import_module(f"sknw.{name}")
    raise AttributeError(f"module 'sknw' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES, "__version__"])
