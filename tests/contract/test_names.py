"""Public names that both estimators share, their aliases, and names in messages."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.feature_selection import SelectFromModel
from sklearn.pipeline import make_pipeline

from sknw import NadarayaWatsonRegressor, NeighborBandwidth, ParametricNWRegressor
from sknw.bandwidth import aitchison_aitken


def data(n=200):
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(n, 3))
    return X, np.sin(6 * X[:, 0]) + 0.5 * X[:, 2] + rng.normal(0, 0.05, n)


MODELS = {
    "search": NadarayaWatsonRegressor(),
    "diagonal": ParametricNWRegressor(),
    "full": ParametricNWRegressor("full"),
}


@pytest.fixture(scope="module", params=MODELS)
def fitted(request):
    return MODELS[request.param].fit(*data())


def test_the_leave_one_out_loss_has_one_name(fitted):
    _, y = data()
    loss = np.square(y - fitted.predict_loo()).mean()
    assert fitted.criterion_ == pytest.approx(loss, rel=1e-6)


def test_best_loss_is_an_alias():
    model = ParametricNWRegressor("scalar").fit(*data(50))
    assert model.criterion_ == model.best_loss_
    with pytest.raises(AttributeError):
        ParametricNWRegressor().criterion_  # noqa: B018


def test_importances_are_shares_and_find_the_feature_that_does_nothing(fitted):
    importances = fitted.feature_importances_
    assert importances.sum() == pytest.approx(1)
    assert importances.argmax() == 0
    assert importances.argmin() == 1
    assert importances[1] < 0.05


def test_importances_do_not_depend_on_units():
    X, y = data()
    plain = NadarayaWatsonRegressor().fit(X, y).feature_importances_
    scaled = NadarayaWatsonRegressor().fit(X * [1.0, 100.0, 0.01], y).feature_importances_
    np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-6)


def test_support_is_a_mask_or_indices():
    model = NadarayaWatsonRegressor().fit(*data())
    np.testing.assert_array_equal(model.get_support(), [True, False, True])
    np.testing.assert_array_equal(model.get_support(indices=True), [0, 2])
    assert model.irrelevant_features_.tolist() == [1]


def test_support_of_a_given_bandwidth_follows_the_range():
    X, y = data()
    model = NadarayaWatsonRegressor([0.5, 50.0, 9.0]).fit(X, y)
    np.testing.assert_array_equal(model.get_support(), [True, False, True])
    assert model.feature_importances_.argmin() == 1


def test_a_constant_feature_has_no_importance():
    X, y = data()
    X[:, 2] = 7.0
    model = NadarayaWatsonRegressor(0.3).fit(X, y)
    assert model.feature_importances_[2] == 0
    assert not model.get_support()[2]


def test_windows_by_neighbours_have_importances():
    model = NadarayaWatsonRegressor(NeighborBandwidth(20)).fit(*data())
    np.testing.assert_allclose(model.feature_importances_, 1 / 3, atol=0.02)


def test_an_exact_match_matters_at_most():
    X, y = data()
    X = pd.DataFrame({"x": X[:, 0], "kind": pd.Categorical(np.where(X[:, 1] > 0.5, "a", "b"))})
    model = NadarayaWatsonRegressor([0.3, 0.0]).fit(X, y)
    assert model.feature_importances_.argmax() == 1
    assert model.get_support().all()


def test_select_from_model_keeps_what_matters(fitted):
    X, y = data()
    selector = SelectFromModel(fitted, threshold=0.1, prefit=True)
    np.testing.assert_array_equal(selector.get_support(), [True, False, True])
    pipeline = make_pipeline(
        SelectFromModel(NadarayaWatsonRegressor(), threshold=0.1), NadarayaWatsonRegressor()
    )
    assert pipeline.fit(X, y).named_steps["nadarayawatsonregressor"].n_features_in_ == 2


def test_a_network_has_no_importances():
    X, y = data(60)
    with pytest.warns(ConvergenceWarning):
        model = ParametricNWRegressor("mlp", solver="lbfgs", max_iter=2).fit(X, y)
    assert not hasattr(model, "feature_importances_")
    with pytest.raises(AttributeError, match="get_support are there for linear metrics; MlpMetric"):
        model.get_support()


def test_before_a_fit_they_say_so():
    with pytest.raises(NotFittedError):
        NadarayaWatsonRegressor().feature_importances_  # noqa: B018
    with pytest.raises(NotFittedError):
        NadarayaWatsonRegressor().get_support()


def test_aitchison_and_aitkens_lambda_is_a_function_and_a_method():
    X = pd.DataFrame({"kind": pd.Categorical(list("abc") * 20)})
    y = np.tile([0.0, 1.0, 2.0], 20) + np.random.default_rng(0).normal(size=60)
    model = NadarayaWatsonRegressor([0.3]).fit(X, y)
    lambdas = aitchison_aitken(model.bandwidth_, 3)
    np.testing.assert_allclose(model.aitchison_aitken(), lambdas, rtol=1e-15)
    match, mismatch = 1 - lambdas[0], lambdas[0] / 2
    assert mismatch / match == pytest.approx(0.3)


# --- messages ------------------------------------------------------------------------------------

CHOICES = {
    NadarayaWatsonRegressor(kernel="no"): (
        "'gaussian', 'exponential', 'cosine', 'epanechnikov', 'tophat', 'linear', 'biweight', "
        "'triweight', 'tricube'"
    ),
    NadarayaWatsonRegressor(duplicates="no"): "'auto', 'keep', 'merge'",
    ParametricNWRegressor(metric=3): "'scalar', 'diagonal', 'full', 'mlp'}, an instance of "
    "'sknw.metrics.Metric' or an instance of 'torch.nn.modules.module.Module'",
    ParametricNWRegressor(solver=3): "'auto', 'lbfgs', 'adam', 'sgd'} or an instance of "
    "'sknw.training.Solver'",
}


@pytest.mark.parametrize(
    ("model", "choices"), CHOICES.items(), ids=["kernel", "duplicates", "metric", "solver"]
)
def test_messages_list_choices_in_their_order_and_name_no_private_module(model, choices):
    with pytest.raises(ValueError, match=re.escape(choices)) as refusal:
        model.fit([[0.0], [1.0]], [0.0, 1.0])
    assert "._" not in str(refusal.value)


def test_the_html_view_links_to_no_page_of_another_library():
    assert NadarayaWatsonRegressor()._get_doc_link() == ""
