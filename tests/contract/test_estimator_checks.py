"""scikit-learn's own estimator checks, with no expected failure."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sknw import BandwidthSearch, NadarayaWatsonRegressor, NeighborBandwidth, ParametricNWRegressor
from sknw.metrics import MlpMetric

# Each setting once: every kind of kernel (smooth, with a kink, with a jump, of infinite support),
# every way to find a bandwidth, every policy that gives finite predictions, every metric and
# solver. The checks round X for an estimator that may have categories, so that it has many ties;
# `None` makes them leave it alone.
NADARAYA_WATSON = [
    NadarayaWatsonRegressor(),
    NadarayaWatsonRegressor(BandwidthSearch("aicc", n_starts=1), categorical_features=None),
    NadarayaWatsonRegressor(BandwidthSearch("gcv", per_feature=False), kernel="exponential"),
    NadarayaWatsonRegressor(NeighborBandwidth(2, kind="key"), kernel="tricube"),
    NadarayaWatsonRegressor("silverman", kernel="biweight"),
    NadarayaWatsonRegressor("scott", kernel="cosine", empty_neighborhood="nan"),
    NadarayaWatsonRegressor(bandwidth=1.0, kernel="linear", algorithm="dense", device="cpu"),
    NadarayaWatsonRegressor(bandwidth=2.0, kernel="epanechnikov", empty_neighborhood="mean"),
    NadarayaWatsonRegressor(bandwidth=3.0, kernel="tophat", empty_neighborhood="raise"),
    NadarayaWatsonRegressor(BandwidthSearch(n_starts=1, max_iter=2, per_feature=False), degree=1),
    NadarayaWatsonRegressor("scott", degree=2, kernel="biweight", categorical_features=None),
    NadarayaWatsonRegressor(NeighborBandwidth(2), degree=1),
]

PARAMETRIC = [
    ParametricNWRegressor(),
    ParametricNWRegressor(
        alpha=0.1, n_starts=2, max_iter=3, random_state=0, categorical_features=None
    ),
    ParametricNWRegressor("scalar", bandwidth=1.0, n_starts=1),
    ParametricNWRegressor(degree=1, n_starts=1, max_iter=2),
    ParametricNWRegressor(
        "scalar",
        kernel="epanechnikov",
        solver="sgd",
        max_iter=5,
        w_init=1.0,
        learning_rate_init=0.1,
    ),
    # to the last digit: a second fit starts where the first ended, and the checks compare the two
    ParametricNWRegressor("scalar", warm_start=True, tol=1e-12),
    ParametricNWRegressor(
        kernel="exponential",
        bandwidth="silverman",
        empty_neighborhood="mean",
        max_iter=5,
        n_starts=1,
    ),
    ParametricNWRegressor("full", n_components=1, max_iter=3, alpha=0.01, n_starts=1),
    ParametricNWRegressor("diagonal", solver="adam", max_iter=3, early_stopping=True, n_starts=1),
    # a loose tol, since the simpler metrics that a network starts from are trained by it
    ParametricNWRegressor(MlpMetric(8, 8, n_bins=4), max_iter=2, n_starts=1, tol=1e-2),
]


def parametrized_checks(estimators):
    """`parametrize_with_checks`, whose generator (scikit-learn 1.6) pytest 9 refuses, as a list."""
    mark = parametrize_with_checks(estimators).mark
    names, cases = mark.args
    return pytest.mark.parametrize(names, list(cases), **mark.kwargs)


# Narrow windows on the checks' made-up data, and the small max_iter above, are no failures.
@pytest.mark.filterwarnings("ignore::sknw.support.warnings.EmptyNeighborhoodWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sknw.MetricWarning")
@parametrized_checks([*NADARAYA_WATSON, *PARAMETRIC])
def test_estimator_passes_the_check(estimator, check):
    check(estimator)
