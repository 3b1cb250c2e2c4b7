"""Models, data and answers that the contract tests share."""

import numpy as np
import pytest
from sklearn.experimental import enable_halving_search_cv  # noqa: F401

from sknw import BandwidthSearch, NadarayaWatsonRegressor, NeighborBandwidth, ParametricNWRegressor
from sknw.metrics import MlpMetric, ScalarMetric

NAMES = ["height", "weight", "age"]
MODELS = {
    "fixed": NadarayaWatsonRegressor(bandwidth=0.8),
    "per-feature": NadarayaWatsonRegressor(bandwidth=[0.8, 1.0, 2.0], kernel="exponential"),
    "rule": NadarayaWatsonRegressor(bandwidth="scott", kernel="tricube"),
    "loo": NadarayaWatsonRegressor(BandwidthSearch(n_starts=1)),
    "search": NadarayaWatsonRegressor(BandwidthSearch("aicc", n_starts=1)),
    "neighbors": NadarayaWatsonRegressor(NeighborBandwidth(4, kind="key")),
    "diagonal": ParametricNWRegressor(n_starts=1),
    "scalar-sgd": ParametricNWRegressor(metric="scalar", solver="sgd", max_iter=5),
    "full": ParametricNWRegressor(metric="full", n_components=2, n_starts=1, max_iter=5),
    # a loose tol, since the simpler metrics that a network starts from are trained by it
    "mlp": ParametricNWRegressor(MlpMetric(8, 8, n_bins=4), n_starts=1, max_iter=2, tol=1e-2),
    "metric-object": ParametricNWRegressor(metric=ScalarMetric(), n_starts=1, alpha=0.01),
}
# One that selects nothing, one that searches and one that trains: for slower tests.
BRIEF = {name: MODELS[name] for name in ("fixed", "loo", "diagonal")}


# Compact kernels meet far queries here, and short trainings their last step.
EXPECTED_WARNINGS = [
    pytest.mark.filterwarnings("ignore::sknw.support.warnings.EmptyNeighborhoodWarning"),
    pytest.mark.filterwarnings(
        "ignore:Training did not converge:sklearn.exceptions.ConvergenceWarning"
    ),
    pytest.mark.filterwarnings("ignore::sknw.MetricWarning"),
]


def over(table, argument="model"):
    return pytest.mark.parametrize(argument, table.values(), ids=table.keys())


def make_data(n=60, n_outputs=None, dtype=np.float64, seed=0):
    """Two informative features and a useless one."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.1 * rng.normal(size=n)
    if n_outputs is not None:
        y = np.column_stack([y * (k + 1) + k for k in range(n_outputs)])
    return X.astype(dtype), y


QUERY_METHODS = {
    "predict": lambda model, X: model.predict(X),
    "predict_loo": lambda model, X: model.predict_loo(),
    "attention_weights": lambda model, X: model.attention_weights(X),
    "attention_weights-loo": lambda model, X: model.attention_weights(),
    "attention_weights-top": lambda model, X: model.attention_weights(X, top_k=2).toarray(),
    "effective_neighbors": lambda model, X: model.effective_neighbors(X),
}
METHODS_OF = {
    NadarayaWatsonRegressor: QUERY_METHODS,
    ParametricNWRegressor: {**QUERY_METHODS, "transform": lambda model, X: model.transform(X)},
}


def answers(model, X):
    """What every query method of a fitted model says."""
    return {name: method(model, X) for name, method in METHODS_OF[type(model)].items()}


def assert_same_answers(one, other, X, rtol=0.0):
    expected = answers(other, X)
    for name, found in answers(one, X).items():
        np.testing.assert_allclose(found, expected[name], rtol=rtol, err_msg=name)
