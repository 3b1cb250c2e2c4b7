"""Displays: what a fitted estimator attends to, how it fits, and how it got there.

They follow scikit-learn's convention: the constructor stores data, class methods such as
``from_estimator`` compute it, and ``plot(ax=None, **kwargs)`` draws, keeps the artists as
attributes and returns the display. matplotlib is imported when something is drawn. Estimators are
asked by their public methods and attributes alone; pipelines and searches that end in one of ours
are welcome, and `RegressionCurveDisplay` draws any regressor.
"""

from sknw.plotting.attention import AttentionDisplay
from sknw.plotting.bandwidth_path import BandwidthPathDisplay
from sknw.plotting.curve import RegressionCurveDisplay
from sknw.plotting.embedding import EmbeddingDisplay
from sknw.plotting.feature_scale import FeatureScaleDisplay
from sknw.plotting.loss import LossCurveDisplay
from sknw.plotting.neighborhood import NeighborhoodDisplay

__all__ = [
    "AttentionDisplay",
    "BandwidthPathDisplay",
    "EmbeddingDisplay",
    "FeatureScaleDisplay",
    "LossCurveDisplay",
    "NeighborhoodDisplay",
    "RegressionCurveDisplay",
]
