"""Displays: what they compute, the artists that they draw, and what they refuse."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import polars as pl
import processes
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import PowerNorm, to_hex
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import sknw.plotting
from sknw import NadarayaWatsonRegressor, NeighborBandwidth, ParametricNWRegressor
from sknw.datasets import attention_curve, make_attention_curve
from sknw.plotting import (
    AttentionDisplay,
    BandwidthPathDisplay,
    EmbeddingDisplay,
    FeatureScaleDisplay,
    LossCurveDisplay,
    NeighborhoodDisplay,
    RegressionCurveDisplay,
)

mpl.use("Agg")


class Fitted(BaseEstimator):
    """A fitted estimator whose answers a test writes down."""

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def curve():
    return make_attention_curve(random_state=0)


@pytest.fixture(scope="module")
def model(curve):
    return NadarayaWatsonRegressor(0.3).fit(*curve[:2])


@pytest.fixture(scope="module")
def learned(curve):
    return ParametricNWRegressor("scalar", bandwidth=1.0).fit(*curve[:2])


@pytest.fixture(scope="module")
def plane():
    """Two features that count and one that does not, as a frame with names."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.uniform(-2, 2, size=(150, 3)), columns=["a", "b", "noise"])
    y = pd.Series(np.sin(2 * X["a"]) + X["b"] ** 2 + rng.normal(0, 0.1, 150), name="height")
    return X, y


@pytest.fixture(scope="module")
def plane_model(plane):
    return NadarayaWatsonRegressor([0.3, 0.5, 1e4]).fit(*plane)


@pytest.fixture(scope="module")
def plane_learned(plane):
    return ParametricNWRegressor().fit(*plane)


# --- all of them ---------------------------------------------------------------------------------


def test_matplotlib_is_imported_only_when_something_is_drawn():
    code = """
import sys
from sknw import NadarayaWatsonRegressor
from sknw.plotting import AttentionDisplay
model = NadarayaWatsonRegressor(1.0).fit([[0.0], [1.0]], [0.0, 1.0])
display = AttentionDisplay.from_estimator(model, [[0.5]])
assert "matplotlib" not in sys.modules, "too early"
display.plot()
assert "matplotlib" in sys.modules
"""
    ran = processes.run(code, MPLBACKEND="Agg")
    assert ran.code == 0, ran.stderr


@pytest.fixture
def displays(curve, model, learned, plane, plane_model, plane_learned):
    """One of every display, not drawn yet."""
    X, y, X_test, _ = curve
    return {
        "AttentionDisplay": AttentionDisplay.from_estimator(model, X_test),
        "BandwidthPathDisplay": BandwidthPathDisplay([[0.1], [0.2], [0.4]], [3.0, 1.0, 2.0]),
        "EmbeddingDisplay": EmbeddingDisplay.from_estimator(plane_learned, *plane),
        "FeatureScaleDisplay": FeatureScaleDisplay.from_estimator(plane_model, plane[0]),
        "LossCurveDisplay": LossCurveDisplay.from_estimator(learned),
        "NeighborhoodDisplay": NeighborhoodDisplay.from_estimator(model, X, y, [2.0]),
        "RegressionCurveDisplay": RegressionCurveDisplay.from_estimator(model, X, y),
    }


def test_every_display_is_tested_here(displays):
    assert sorted(displays) == sorted(sknw.plotting.__all__)


@pytest.mark.parametrize("name", sknw.plotting.__all__)
def test_plot_returns_the_display_and_draws_into_given_axes(displays, name):
    figure, ax = plt.subplots()
    display = displays[name]
    assert display.plot(ax) is display
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize("name", sknw.plotting.__all__)
def test_plot_makes_a_figure_of_its_own_with_labelled_axes(displays, name):
    display = displays[name].plot()
    assert display.ax_.get_xlabel()
    assert display.ax_.get_ylabel() or name == "FeatureScaleDisplay"  # its ticks are names
    assert display.figure_.number in plt.get_fignums()


@pytest.mark.parametrize("name", sknw.plotting.__all__)
def test_drawing_twice_keeps_the_data(displays, name):
    display = displays[name]
    before = {key: value for key, value in vars(display).items() if not key.endswith("_")}
    display.plot()
    display.plot()
    assert all(vars(display)[key] is value for key, value in before.items())


@pytest.mark.parametrize("style", ["default", "dark_background"])
@pytest.mark.parametrize("name", sknw.plotting.__all__)
def test_no_mark_or_text_has_the_colour_of_the_page(displays, name, style):
    with plt.style.context(style):
        display = displays[name].plot()
        page = to_hex(mpl.rcParams["axes.facecolor"])
        ax = display.ax_
        colors = [line.get_color() for line in ax.lines] + [text.get_color() for text in ax.texts]
        colors += [ax.xaxis.label.get_color(), ax.title.get_color()]
        assert page not in [to_hex(color) for color in colors]


@pytest.mark.parametrize("name", sknw.plotting.__all__)
def test_texts_of_a_figure_do_not_overlap(displays, name):
    assert_texts_do_not_overlap(displays[name].plot().figure_)


@pytest.mark.parametrize("shape", [(1, 3), (1, 4), (2, 2)])
def test_texts_of_panels_do_not_overlap(shape):
    weights = np.random.default_rng(0).dirichlet(np.ones(300), size=(*shape, 300))
    values = np.linspace(-1000, 1000, 300)
    display = AttentionDisplay.from_weights(
        weights, titles=["a title"] * np.prod(shape), query_values=values, key_values=values
    )
    assert_texts_do_not_overlap(display.plot().figure_)


def test_texts_of_a_path_do_not_overlap():
    tried = np.random.default_rng(0).uniform(size=(20, 4))
    display = BandwidthPathDisplay(tried, tried[:, 0], is_categorical=[0, 0, 1, 0], irrelevant=[1])
    assert_texts_do_not_overlap(display.plot().figure_)


def assert_texts_do_not_overlap(figure):
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [
        text
        for axes in figure.axes
        for text in [axes.title, axes.xaxis.label, axes.yaxis.label, *_tick_labels(axes)]
        if text.get_text() and text.get_visible()
    ]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for i, box in enumerate(boxes):
        assert box.xmin >= 0
        assert box.ymin >= 0
        assert box.xmax <= figure.bbox.xmax
        assert box.ymax <= figure.bbox.ymax
        assert not any(box.overlaps(other) for other in boxes[i + 1 :]), texts[i]


def _tick_labels(axes):
    """Tick labels that are drawn: those within the limits."""
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        for tick in axis.get_major_ticks():
            if min(limits) <= tick.get_loc() <= max(limits):
                yield from (tick.label1, tick.label2)


@pytest.mark.parametrize(
    "draw",
    [
        lambda m, X, y: AttentionDisplay.from_estimator(m, X),
        lambda m, X, y: RegressionCurveDisplay.from_estimator(m, X),
        lambda m, X, y: LossCurveDisplay.from_estimator(m),
        lambda m, X, y: BandwidthPathDisplay.from_estimator(m),
        lambda m, X, y: NeighborhoodDisplay.from_estimator(m, X, y, X[0]),
        lambda m, X, y: EmbeddingDisplay.from_estimator(m, X, y),
        lambda m, X, y: FeatureScaleDisplay.from_estimator(m),
    ],
)
def test_an_estimator_that_is_not_fitted_is_refused(draw, curve):
    with pytest.raises(NotFittedError):
        draw(ParametricNWRegressor(), *curve[:2])
    with pytest.raises(NotFittedError):
        draw(make_pipeline(StandardScaler(), ParametricNWRegressor()), *curve[:2])


@pytest.mark.parametrize(
    ("draw", "name", "remedy"),
    [
        (lambda m, X, y: AttentionDisplay.from_estimator(m, X), "attention_weights", "of sknw"),
        (lambda m, X, y: LossCurveDisplay.from_estimator(m), "loss_curve_", "train by steps"),
        (lambda m, X, y: BandwidthPathDisplay.from_estimator(m), "search_path_", "'loo'"),
        (
            lambda m, X, y: NeighborhoodDisplay.from_estimator(m, X, y, X[0]),
            "attention_weights",
            "of sknw",
        ),
        (lambda m, X, y: EmbeddingDisplay.from_estimator(m, X, y), "transform", "learned metrics"),
        (lambda m, X, y: FeatureScaleDisplay.from_estimator(m), "bandwidth_", "with a bandwidth"),
    ],
)
def test_a_missing_attribute_is_named_with_what_to_do(draw, name, remedy, curve):
    with pytest.raises(AttributeError, match=rf"LinearRegression has no {name}.*{remedy}"):
        draw(LinearRegression().fit(*curve[:2]), *curve[:2])


def test_a_search_without_refit_says_so(curve):
    search = GridSearchCV(NadarayaWatsonRegressor(), {"bandwidth": [0.2, 0.3]}, refit=False)
    with pytest.raises(AttributeError, match=r"best_estimator_.*refit=True"):
        AttentionDisplay.from_estimator(search.fit(*curve[:2]), curve[2])


# --- attention -----------------------------------------------------------------------------------


def test_attention_of_queries(curve, model):
    display = AttentionDisplay.from_estimator(model, curve[2]).plot()
    expected = model.attention_weights(curve[2])
    np.testing.assert_allclose(display.images_[0, 0].get_array(), expected, rtol=1e-12)
    assert display.images_[0, 0].get_clim() == (0.0, pytest.approx(expected.max()))
    assert display.colorbar_.ax.get_ylabel() == "attention weight (rows sum to 1)"


def test_attention_without_queries_leaves_one_out(model):
    display = AttentionDisplay.from_estimator(model)
    np.testing.assert_allclose(display.weights, model.attention_weights(), rtol=1e-12)
    assert display.query_label == "training row left out"


@pytest.mark.parametrize("top_k", [None, 50])
def test_attention_is_summed_over_keys_and_averaged_over_queries(curve, model, top_k):
    display = AttentionDisplay.from_estimator(model, curve[2], max_bins=7, top_k=top_k)
    full = model.attention_weights(curve[2])
    bins = np.arange(50) * 7 // 50
    expected = [
        [full[np.ix_(bins == i, bins == j)].sum() / (bins == i).sum() for j in range(7)]
        for i in range(7)
    ]
    np.testing.assert_allclose(display.weights, expected, rtol=1e-10)
    np.testing.assert_allclose(display.weights.sum(axis=1), 1, rtol=1e-10)
    assert "weight of a cell" in display.plot().colorbar_.ax.get_ylabel()
    assert display.images_[0, 0].get_extent() == [-0.5, 49.5, 49.5, -0.5]


def test_attention_in_batches_is_that_at_once(curve, model):
    X_test = np.tile(curve[2], (60, 1))
    whole = AttentionDisplay.from_estimator(model, X_test, sort_by=0, X_train=curve[0])
    with config_context(working_memory=0.2):
        parts = AttentionDisplay.from_estimator(model, X_test, sort_by=0, X_train=curve[0])
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-12)


def test_no_more_than_the_memory_is_asked_for(curve):
    X, y, _, _ = make_attention_curve(400, random_state=1)
    model = NadarayaWatsonRegressor(0.05).fit(X, y)
    sizes = []

    class Watched(Fitted):
        predict_loo = model.predict_loo

        def attention_weights(self, X=None, *, top_k=None):
            weights = model.attention_weights(X, top_k=top_k)
            sizes.append(weights.data.nbytes)
            return weights

    memory = 1.0 * 2**20
    with config_context(working_memory=1.0):
        AttentionDisplay.from_estimator(Watched(), np.tile(X, (3, 1)))
        assert max(sizes) <= memory / 8
        sizes.clear()
        display = AttentionDisplay.from_estimator(Watched())
        assert max(sizes) <= memory / 8
    full = model.attention_weights()
    kept = np.sort(full, axis=1)[:, -int(memory / 8 / 16 / 400) :].sum() / 400
    assert display.attention_shown == pytest.approx(kept, rel=1e-6)
    assert f"{kept:.1%} of all" in display.plot().colorbar_.ax.get_ylabel()


def test_attention_sorted_by_a_feature(curve, model):
    X, _, X_test, _ = curve
    rng = np.random.default_rng(0)
    shuffled = X_test[rng.permutation(len(X_test))]
    display = AttentionDisplay.from_estimator(model, shuffled, X_train=X, sort_by=0).plot()
    np.testing.assert_allclose(display.weights, model.attention_weights(X_test), rtol=1e-12)
    np.testing.assert_array_equal(display.query_values, X_test[:, 0])
    assert display.ax_.get_xlabel() == "x of training row (key)"
    formatter = display.ax_.yaxis.get_major_formatter()
    assert [formatter(place) for place in (0, 10, 49, 60)] == ["0.00", "1.00", "4.90", ""]


def test_ticks_tell_values_to_a_hundredth_of_their_range():
    def ticks(values):
        display = AttentionDisplay.from_weights(np.eye(3), key_values=values).plot()
        return [display.ax_.xaxis.get_major_formatter()(place) for place in range(3)]

    assert ticks([-1e-9, 0.5, 1.0]) == ["0.00", "0.50", "1.00"]
    assert ticks([1000.0, 2000.4, 9000.0]) == ["1000", "2000", "9000"]
    assert ticks([0.001, 0.002, 0.003]) == ["0.00100", "0.00200", "0.00300"]
    assert ticks([7.0, 7.0, 7.0]) == ["7.00", "7.00", "7.00"]


def test_attention_sorted_by_prediction(curve, model):
    X_test = curve[2]
    display = AttentionDisplay.from_estimator(model, X_test, sort_by="prediction")
    by_query, by_key = np.argsort(model.predict(X_test)), np.argsort(model.predict_loo())
    expected = model.attention_weights(X_test)[by_query][:, by_key]
    np.testing.assert_allclose(display.weights, expected, rtol=1e-12)
    np.testing.assert_array_equal(display.key_values, np.sort(model.predict_loo()))


def test_leave_one_out_attention_sorted_by_a_name(plane, plane_model):
    display = AttentionDisplay.from_estimator(plane_model, X_train=plane[0], sort_by="b")
    order = np.argsort(plane[0]["b"].to_numpy())
    expected = plane_model.attention_weights()[order][:, order]
    np.testing.assert_allclose(display.weights, expected, rtol=1e-12)
    assert display.key_label == "b of training row (key)"


def test_attention_of_a_pipeline_and_of_a_search(plane):
    X, y = plane
    pipeline = make_pipeline(StandardScaler(), NadarayaWatsonRegressor(0.5))
    search = GridSearchCV(pipeline, {"nadarayawatsonregressor__bandwidth": [0.3]}, cv=2).fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    expected = NadarayaWatsonRegressor(0.3).fit(scaled, y).attention_weights(scaled[:9])
    display = AttentionDisplay.from_estimator(search, X[:9])
    np.testing.assert_allclose(display.weights, expected, rtol=1e-12)


@pytest.mark.parametrize("frame", [np.asarray, pd.DataFrame, lambda X: pl.DataFrame(np.asarray(X))])
def test_attention_of_any_table(plane, frame):
    X, y = frame(plane[0]), plane[1]
    model = NadarayaWatsonRegressor(0.5).fit(X, y)
    display = AttentionDisplay.from_estimator(model, X, X_train=X, sort_by=1)
    order = np.argsort(plane[0]["b"].to_numpy())
    expected = model.attention_weights(X)[order][:, order]
    np.testing.assert_allclose(display.weights, expected, rtol=1e-12)


def test_a_grid_of_panels_shares_colours_and_has_titles():
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 3, 5))
    titles = [f"head {i}" for i in range(6)]
    display = AttentionDisplay.from_weights(weights, titles=titles).plot()
    assert display.axes_.shape == (2, 3)
    assert [axes.get_title() for axes in display.axes_.flat] == titles
    for place, image in np.ndenumerate(display.images_):
        np.testing.assert_allclose(image.get_array(), weights[place], rtol=1e-12)
        assert image.get_clim() == (0.0, weights.max())
    assert len(display.figure_.axes) == 7  # six panels, one colour bar


def test_a_row_of_panels_from_a_list_with_a_sparse_matrix(curve, model):
    full = model.attention_weights(curve[2])
    display = AttentionDisplay.from_weights([full, sparse.csr_array(full)])
    assert display.weights.shape == (1, 2, 50, 50)
    np.testing.assert_array_equal(display.weights[0, 0], display.weights[0, 1])


def test_one_sparse_matrix_is_binned(curve, model):
    sparse_weights = model.attention_weights(curve[2], top_k=5)
    display = AttentionDisplay.from_weights(sparse_weights, max_bins=10)
    assert display.weights.shape == (1, 1, 10, 10)
    np.testing.assert_allclose(display.weights.sum(), sparse_weights.sum() / 5)


def test_matrices_are_sorted_by_given_values():
    weights = np.arange(6.0).reshape(2, 3)
    display = AttentionDisplay.from_weights(
        weights, query_values=[2, 1], key_values=[3, 1, 2], query_label="asks", key_label="is asked"
    )
    assert display.plot().ax_.get_xlabel() == "is asked"
    assert display.ax_.get_ylabel() == "asks"
    assert display.weights.tolist() == [[[[4, 5, 3], [1, 2, 0]]]]
    assert display.key_values.tolist() == [1, 2, 3]


def test_panels_are_drawn_into_given_axes():
    _, axes = plt.subplots(1, 2)
    display = AttentionDisplay.from_weights(np.ones((2, 3, 3))).plot(axes)
    assert list(display.axes_.flat) == list(axes)
    with pytest.raises(ValueError, match="ax must hold 2 axes, one per panel; got 1"):
        display.plot(axes[0])


def test_a_norm_is_shared_by_the_panels_and_not_changed():
    norm = PowerNorm(0.5)
    display = AttentionDisplay.from_weights([np.eye(3) / 4, np.eye(3)]).plot(norm=norm, cmap="gray")
    assert [image.get_clim() for image in display.images_.flat] == [(0, 1), (0, 1)]
    assert display.images_[0, 1].get_cmap().name == "gray"
    assert norm.vmax is None
    assert display.plot(norm="symlog").images_[0, 0].norm.vmax == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sort_by": 0}, r"sort_by=0 sorts the training rows too; give them as X_train"),
        ({"sort_by": 3, "X_train": True}, "X has 1 features; got feature 3"),
        ({"sort_by": "a", "X_train": True}, r"X has no feature 'a'; its features are \['x'\]"),
        ({"X_train": [[1.0]]}, "X_train must be the 50 rows .* got 1 rows"),
        ({"X_train": [1.0]}, r"X must have rows and columns; got shape \(1,\)"),
        ({"top_k": 51}, "top_k must be an integer between 1 and"),
    ],
)
def test_attention_refuses(curve, model, settings, message):
    if settings.get("X_train") is True:
        settings = {**settings, "X_train": curve[0]}
    with pytest.raises(ValueError, match=message):
        AttentionDisplay.from_estimator(model, curve[2], **settings)


def test_attention_of_no_queries_is_refused(model):
    with pytest.raises(ValueError, match="X must have at least one row; got none"):
        AttentionDisplay.from_estimator(model, np.empty((0, 1)))


def test_sorting_by_the_prediction_of_several_outputs_is_refused(curve):
    X, y = curve[:2]
    model = NadarayaWatsonRegressor(0.3).fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match="needs one output; got 2"):
        AttentionDisplay.from_estimator(model, sort_by="prediction")


@pytest.mark.parametrize(
    ("weights", "settings", "message"),
    [
        (np.ones(3), {}, r"weights must be a matrix .* got shape \(3,\)"),
        (np.ones((0, 3)), {}, "none of them 0"),
        ([np.ones((2, 2)), np.ones((3, 2))], {}, "of one shape"),
        (np.ones((2, 3)), {"key_values": [1, 2]}, r"key_values must have shape \(3,\)"),
        (np.ones((2, 3)), {"query_values": [[1, 2]]}, r"query_values must have shape \(2,\)"),
        (np.ones((2, 3, 3)), {"titles": "one"}, "titles must hold one text per panel, 2; got 1"),
    ],
)
def test_matrices_of_wrong_shape_are_refused(weights, settings, message):
    with pytest.raises(ValueError, match=message):
        AttentionDisplay.from_weights(weights, **settings)


# --- curves and surfaces -------------------------------------------------------------------------


def test_curves_are_the_predictions_on_a_grid(curve, model, learned):
    X, y = curve[:2]
    display = RegressionCurveDisplay.from_estimator(
        [model, learned], X, y, truth=attention_curve, n_points=30
    ).plot()
    grid = np.linspace(X.min(), X.max(), 30)
    for line, estimator in zip(display.lines_, [model, learned], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), grid)
        np.testing.assert_allclose(line.get_ydata(), estimator.predict(grid[:, None]))
    np.testing.assert_allclose(display.truth_.get_ydata(), attention_curve(grid))
    np.testing.assert_array_equal(display.scatter_.get_offsets(), np.column_stack([X, y]))
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["data", "truth", "NadarayaWatsonRegressor", "ParametricNWRegressor"]
    assert len({line.get_color() for line in display.lines_}) == 2
    assert len({line.get_linestyle() for line in display.lines_}) == 2


def test_two_estimators_of_one_class_are_numbered(curve, model):
    display = RegressionCurveDisplay.from_estimator([model, model], curve[0])
    assert display.names == ["NadarayaWatsonRegressor 1", "NadarayaWatsonRegressor 2"]
    assert display.plot().scatter_ is None


def test_line_and_data_settings_are_passed_on(curve, model):
    display = RegressionCurveDisplay.from_estimator(model, *curve[:2], names="fit")
    display.plot(data_kwargs={"s": 5}, linewidth=7)
    assert display.lines_[0].get_linewidth() == 7
    assert display.scatter_.get_sizes().tolist() == [5]
    assert display.lines_[0].get_label() == "fit"


@pytest.mark.parametrize("feature", [0, "a", -3])
def test_other_features_are_held_at_their_medians(plane, plane_model, feature):
    X, y = plane
    display = RegressionCurveDisplay.from_estimator(plane_model, X, y, feature=feature, n_points=9)
    rows = pd.DataFrame({"a": display.grid[0], "b": X["b"].median(), "noise": X["noise"].median()})
    np.testing.assert_allclose(display.predictions[0], plane_model.predict(rows), rtol=1e-10)
    assert (display.feature_names, display.target_name) == (["a"], "height")


def test_other_features_are_averaged_over(plane, plane_model):
    X, _ = plane
    display = RegressionCurveDisplay.from_estimator(
        plane_model, X, feature="b", others="average", n_points=5, max_rows=150
    )
    for value, prediction in zip(display.grid[0], display.predictions[0], strict=True):
        expected = plane_model.predict(X.assign(b=value)).mean()
        assert prediction == pytest.approx(expected, rel=1e-10)


def test_an_average_is_over_as_many_rows_as_said(plane, plane_model):
    X, _ = plane
    settings = {"feature": "b", "others": "average", "n_points": 5}
    some = RegressionCurveDisplay.from_estimator(plane_model, X, max_rows=2, **settings)
    ends = RegressionCurveDisplay.from_estimator(plane_model, X.iloc[[0, -1]], **settings)
    ends_on_grid = np.mean(
        [plane_model.predict(X.iloc[[i] * 5].assign(b=some.grid[0])) for i in (0, -1)], axis=0
    )
    np.testing.assert_allclose(some.predictions[0], ends_on_grid, rtol=1e-10)
    assert len(ends.grid[0]) == 5


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_a_column_without_numbers_is_held_at_its_commonest_value(kind):
    table = {"size": [1, 2, 3, 4], "colour": ["red", "blue", "blue", "green"]}
    X = pd.DataFrame(table) if kind == "pandas" else pl.DataFrame(table)
    seen = []

    class Watched(Fitted):
        def predict(self, X):
            seen.append(X)
            return np.zeros(len(X))

    RegressionCurveDisplay.from_estimator(Watched(), X, n_points=3)
    assert list(seen[0]["colour"]) == ["blue"] * 3
    assert list(seen[0]["size"]) == [1.0, 2.5, 4.0]


class WithInterval(Fitted):
    """Predicts 0 within ± coverage."""

    def __init__(self, as_columns=False):
        self.as_columns = as_columns

    def predict(self, X):
        return np.zeros(len(X))

    def predict_interval(self, X, coverage):
        ends = np.full(len(X), -coverage), np.full(len(X), coverage)
        return np.column_stack(ends) if self.as_columns else ends


@pytest.mark.parametrize("as_columns", [False, True])
def test_the_band_is_the_interval_of_the_estimator(curve, as_columns):
    estimator = make_pipeline(StandardScaler(), WithInterval(as_columns)).fit(*curve[:2])
    display = RegressionCurveDisplay.from_estimator(estimator, curve[0], coverage=0.8).plot()
    (band,) = display.bands_
    assert band.get_label() == "80% interval"
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (-0.8, 0.8)


def test_the_band_is_of_standard_deviations_where_there_are_no_intervals(curve):
    gp = GaussianProcessRegressor(alpha=0.2).fit(*curve[:2])
    display = RegressionCurveDisplay.from_estimator(gp, curve[0], coverage=0.95, n_points=7)
    mean, std = gp.predict(display.grid[0][:, None], return_std=True)
    np.testing.assert_allclose(display.bands[0][1], mean + 1.959964 * std, rtol=1e-6)
    assert display.band_labels == ["± 1.96 standard deviations"]


def test_a_band_without_width_is_none(curve):
    average = DummyRegressor().fit(*curve[:2])
    assert RegressionCurveDisplay.from_estimator(average, curve[0]).bands == [None]


def test_there_is_no_band_where_there_is_none_or_none_is_wanted(curve, model, plane):
    gp = GaussianProcessRegressor(alpha=0.2).fit(*curve[:2])
    display = RegressionCurveDisplay.from_estimator([model, gp], curve[0])
    assert display.bands[0] is None
    assert len(display.plot().bands_) == 1
    assert not RegressionCurveDisplay.from_estimator(gp, curve[0], band=False).plot().bands_
    gp.fit(*plane)
    averaged = RegressionCurveDisplay.from_estimator(gp, plane[0], others="average", max_rows=3)
    assert averaged.bands == [None]


def test_many_rows_are_thinned_out():
    X, y, _, _ = make_attention_curve(5000, random_state=0)
    model = NadarayaWatsonRegressor(0.3).fit(X, y)
    display = RegressionCurveDisplay.from_estimator(model, X, y, n_points=3).plot()
    assert len(display.scatter_.get_offsets()) == 2000
    assert display.grid[0][[0, -1]].tolist() == [X.min(), X.max()]


def test_two_features_make_a_surface(plane, plane_model):
    X, y = plane

    def truth(rows):
        return np.sin(2 * rows["a"]) + rows["b"] ** 2

    display = RegressionCurveDisplay.from_estimator(
        plane_model, X, y, feature=("b", "a"), truth=truth, n_points=4
    ).plot()
    b, a = np.meshgrid(*display.grid, indexing="ij")
    np.testing.assert_allclose(display.truth, np.sin(2 * a) + b**2)
    rows = pd.DataFrame({"a": a.ravel(), "b": b.ravel(), "noise": X["noise"].median()})
    np.testing.assert_allclose(display.predictions[0].ravel(), plane_model.predict(rows))
    assert [axes.get_title() for axes in display.axes_.flat] == ["truth", "NadarayaWatsonRegressor"]
    assert display.ax_.get_xlabel() == "b"
    assert len({surface.get_clim() for surface in display.surfaces_}) == 1
    np.testing.assert_array_equal(display.surfaces_[1].get_array(), display.predictions[0].T)
    np.testing.assert_array_equal(display.scatter_[0].get_array(), y)
    assert display.colorbar_.ax.get_ylabel() == "height"


def test_curves_from_predictions_are_sorted():
    display = RegressionCurveDisplay.from_predictions(
        [3, 1, 2], [[30, 10, 20], [0, 0, 1]], y=[3, 1, 2], truth=[9, 1, 4], names=["ten", "peak"]
    ).plot()
    assert display.lines_[0].get_ydata().tolist() == [10, 20, 30]
    assert display.lines_[1].get_ydata().tolist() == [0, 1, 0]
    assert display.truth_.get_ydata().tolist() == [1, 4, 9]
    assert display.scatter_.get_offsets().tolist() == [[3, 3], [1, 1], [2, 2]]
    one = RegressionCurveDisplay.from_predictions([2, 1], [5, 6], feature_name="t", target_name="v")
    assert one.plot().ax_.get_xlabel() == "t"
    assert (one.names, one.ax_.get_ylabel()) == (["prediction"], "v")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature": "c"}, r"no feature 'c'; its features are \['a', 'b', 'noise'\]"),
        ({"feature": ("a", "a")}, "one feature or two different ones"),
        ({"feature": (0, 1, 2)}, "one feature or two different ones"),
        ({"others": "mean"}, "others must be 'median', 'average' or a dict .* got 'mean'"),
        ({"coverage": 1.0}, r"coverage must be between 0 and 1; got 1\.0"),
        ({"names": ["one", "two"]}, "names must hold one text per estimator, 1; got 2"),
        ({"y": [1.0]}, "y must have 150 values, one per row of X; got 1"),
        ({"truth": lambda rows: np.zeros(3)}, "a prediction must have 200 values"),
    ],
)
def test_curves_refuse(plane, plane_model, settings, message):
    with pytest.raises(ValueError, match=message):
        RegressionCurveDisplay.from_estimator(plane_model, plane[0], **settings)


def test_several_outputs_are_refused(curve):
    X, y = curve[:2]
    model = NadarayaWatsonRegressor(0.3).fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match=r"must have one output to be drawn; got shape \(200, 2\)"):
        RegressionCurveDisplay.from_estimator(model, X)


def test_no_estimator_is_refused(curve):
    with pytest.raises(ValueError, match="At least one estimator is needed"):
        RegressionCurveDisplay.from_estimator([], curve[0])


# --- losses --------------------------------------------------------------------------------------


def test_the_loss_curve_and_what_was_reached(learned):
    display = LossCurveDisplay.from_estimator(learned, names="w").plot(linewidth=3)
    assert display.lines_[0].get_ydata().tolist() == learned.loss_curve_
    assert display.lines_[0].get_xdata().tolist() == list(range(learned.n_iter_))
    assert display.lines_[0].get_linewidth() == 3
    assert display.best_[0].get_ydata()[0] == learned.best_loss_
    assert display.lines_[0].get_label() == f"w: {learned.best_loss_:.4g} reached"


def test_losses_of_several_trainings_in_a_pipeline_and_elsewhere(curve, learned):
    X, y = curve[:2]
    pipeline = make_pipeline(StandardScaler(), ParametricNWRegressor("scalar")).fit(X, y)
    mlp = MLPRegressor(max_iter=60, tol=9, n_iter_no_change=58, random_state=0).fit(X, y)
    display = LossCurveDisplay.from_estimator([pipeline, mlp]).plot()
    assert display.loss_curves == [pipeline[-1].loss_curve_, mlp.loss_curve_]
    assert [line.get_marker() for line in display.lines_] == ["o", "None"]  # many steps: no marks
    assert display.names == ["ParametricNWRegressor", "MLPRegressor"]


def test_losses_alone():
    display = LossCurveDisplay([[3, 2, 1]], loss_label="error").plot()
    assert display.best_ == []
    assert display.ax_.get_ylabel() == "error"
    assert display.ax_.get_legend() is None
    with pytest.raises(ValueError, match="names must hold one text per curve, 1; got 2"):
        LossCurveDisplay([[3, 2, 1]], names=["a", "b"]).plot()


# --- bandwidths ----------------------------------------------------------------------------------


def test_the_trials_of_one_bandwidth_are_joined_in_order():
    display = BandwidthPathDisplay([0.4, 0.1, 0.2, 0.8], [2.0, 3.0, 1.0, np.inf]).plot(alpha=0.5)
    assert display.trials_[0].get_xdata().tolist() == [0.1, 0.2, 0.4]
    assert display.trials_[0].get_ydata().tolist() == [3.0, 1.0, 2.0]
    assert display.trials_[0].get_linestyle() == "-"
    assert display.trials_[0].get_alpha() == 0.5
    assert (*display.chosen_[0].get_xdata(), *display.chosen_[0].get_ydata()) == (0.2, 1.0)
    assert display.ax_.get_xscale() == "log"
    assert display.ax_.get_title() == "chosen: 0.2"
    assert display.ax_.get_xlabel() == "bandwidth of x"


def test_each_feature_has_a_panel():
    rng = np.random.default_rng(0)
    tried, criteria = rng.uniform(size=(20, 4)), rng.uniform(size=20)
    display = BandwidthPathDisplay(
        tried,
        criteria,
        chosen=[0.1, 0.2, 0.3, 0.4],
        reached=0.0,
        feature_names=["a", "b", "c", "d"],
        is_categorical=[False, True, False, False],
        irrelevant=[2],
        criterion_label="error",
    ).plot()
    assert display.axes_.shape == (4,)
    assert len(display.figure_.axes) == 4
    for j, (trials, chosen) in enumerate(zip(display.trials_, display.chosen_, strict=True)):
        np.testing.assert_array_equal(trials.get_xdata(), np.sort(tried[:, j]))
        assert (*chosen.get_xdata(), *chosen.get_ydata()) == ((j + 1) / 10, 0.0)
    assert [axes.get_xlabel() for axes in display.axes_] == [
        "bandwidth of a",
        "weight λ of b",
        "bandwidth of c (irrelevant)",
        "bandwidth of d",
    ]
    assert [axes.get_xscale() for axes in display.axes_] == ["log", "linear", "log", "log"]
    assert [axes.get_ylabel() for axes in display.axes_] == ["error", "", "", "error"]


class Searched(Fitted):
    """What the display reads of an estimator whose bandwidth was searched."""

    n_features_in_, feature_names_in_ = 2, np.array(["a", "b"])
    bandwidth_, criterion_ = np.array([0.5, 1e4]), 0.25
    irrelevant_features_ = np.array([1])
    search_path_ = {  # noqa: RUF012
        "bandwidth": np.array([[1.0, 1.0], [0.5, 1e4]]),
        "criterion": np.array([0.5, 0.25]),
    }


def test_the_path_of_an_estimator():
    display = BandwidthPathDisplay.from_estimator(Searched()).plot()
    assert [mark.get_xdata()[0] for mark in display.chosen_] == [0.5, 1e4]
    assert display.axes_[1].get_xlabel() == "bandwidth of b (irrelevant)"
    assert display.trials_[0].get_ydata().tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (([0.1, 0.2], [1.0]), {}, r"got shapes \(2,\) and \(1,\)"),
        (([0.1, 0.2], [np.nan, np.inf]), {}, "criteria must hold a finite value"),
        (([[0.1, 0.2]], [1.0]), {"chosen": [1, 2, 3]}, r"chosen must be a number or have shape"),
        (([0.1], [1.0]), {"feature_names": ["a", "b"]}, "one text per feature, 1; got 2"),
    ],
)
def test_paths_of_wrong_shape_are_refused(data, settings, message):
    with pytest.raises(ValueError, match=message):
        BandwidthPathDisplay(*data, **settings).plot()


# --- neighbourhoods ------------------------------------------------------------------------------


def test_the_voters_along_one_feature(curve, model):
    X, y = curve[:2]
    display = NeighborhoodDisplay.from_estimator(model, X, y, [2.0], top_k=4).plot(marker="s")
    weights = model.attention_weights([[2.0]])[0]
    np.testing.assert_array_equal(display.voters_, np.argsort(-weights)[:4])
    voters = display.voters_scatter_
    np.testing.assert_allclose(voters.get_offsets(), np.column_stack([X, y])[display.voters_])
    np.testing.assert_allclose(voters.get_array(), weights[display.voters_])
    assert voters.get_sizes().argmax() == 0
    assert display.prediction_.get_xydata().tolist() == [[2.0, model.predict([[2.0]])[0]]]
    assert display.query_.get_xdata() == [2.0, 2.0]
    share = weights[display.voters_].sum()
    assert display.ax_.get_title() == f"4 of 50 rows have {share:.0%} of the attention"
    assert display.colorbar_.ax.get_ylabel() == "attention weight"


def _window(display):
    ends = display.window_.get_paths()[0].vertices[:, 0]
    return ends.min(), ends.max()


def test_the_window_is_one_bandwidth_to_either_side(curve, model, learned):
    X, y = curve[:2]
    step = 1.12 * np.ptp(X) / 499
    display = NeighborhoodDisplay.from_estimator(model, X, y, [2.0]).plot()
    assert _window(display) == (pytest.approx(1.7, abs=step), pytest.approx(2.3, abs=step))
    display = NeighborhoodDisplay.from_estimator(learned, X, y, [2.0]).plot()
    width = 1 / abs(learned.w_)
    expected = pytest.approx(2 - width, abs=step), pytest.approx(2 + width, abs=step)
    assert _window(display) == expected


def test_the_window_of_a_pipeline_is_in_the_units_of_the_rows(curve):
    X, y = curve[:2]
    pipeline = make_pipeline(StandardScaler(), NadarayaWatsonRegressor(0.2)).fit(X, y)
    display = NeighborhoodDisplay.from_estimator(pipeline, X, y, [2.0]).plot()
    width, step = 0.2 * X.std(), 1.12 * np.ptp(X) / 499
    assert _window(display)[1] == pytest.approx(2 + width, abs=step)


def test_the_voters_over_two_features(plane, plane_model):
    X, y = plane
    display = NeighborhoodDisplay.from_estimator(plane_model, X, y, X[7:8], top_k=6).plot()
    np.testing.assert_array_equal(display.voters_scatter_.get_array(), y[display.voters_])
    assert display.voters_[0] == 7
    ring = display.window_.get_paths()[0].vertices
    distance = np.linalg.norm((ring - X.iloc[7, :2].to_numpy()) / [0.3, 0.5], axis=1)
    np.testing.assert_allclose(distance, 1, atol=0.02)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("a", "b")
    assert display.colorbar_.ax.get_ylabel() == "height"


def test_other_features_can_be_drawn(plane, plane_model):
    X, y = plane
    query = X.iloc[[3]]
    one = NeighborhoodDisplay.from_estimator(plane_model, X, y, query, features="b")
    np.testing.assert_array_equal(one.X, [X["b"]])
    two = NeighborhoodDisplay.from_estimator(plane_model, X, y, query, features=["b", 2])
    assert two.feature_names == ["b", "noise"]
    np.testing.assert_array_equal(two.query, query[["b", "noise"]].iloc[0])


def test_no_window_is_drawn_where_the_bandwidth_is_a_weight(plane, plane_model):
    class Mixed(Fitted):
        n_features_in_, bandwidth_, is_categorical_ = 3, plane_model.bandwidth_, [1, 0, 0]
        attention_weights = plane_model.attention_weights
        predict = plane_model.predict

    X, y = plane[0].round({"a": 0}), plane[1]
    of_category = NeighborhoodDisplay.from_estimator(Mixed(), X, y, X[:1], features="a")
    assert of_category.plot().window_ is None
    other = NeighborhoodDisplay.from_estimator(Mixed(), X, y, X[:1], features="b")
    assert other.plot().window_ is not None
    scaled = make_pipeline(FunctionTransformer(), Mixed())
    scaled = NeighborhoodDisplay.from_estimator(scaled, X, y, X[:1], features="b")
    assert scaled.distances is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": [1.0, 2.0]}, r"query must be one row of 3 features; got shape \(1, 2\)"),
        ({"query": np.ones((2, 3))}, r"query must be one row of 3 features; got shape \(2, 3\)"),
        ({"X": np.ones((4, 3)), "y": np.ones(4)}, "X must be the 150 rows .* got 4 rows"),
        ({"y": np.ones(4)}, "y must have 150 values"),
        ({"features": ("a", "b", "noise")}, "features must be one feature or two different ones"),
    ],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_neighbourhoods_refuse(plane, plane_model, change, message):
    settings = {"X": plane[0], "y": plane[1], "query": plane[0][:1], **change}
    with pytest.raises(ValueError, match=message):
        NeighborhoodDisplay.from_estimator(plane_model, **settings)


@pytest.mark.parametrize("top_k", [0, 51])
def test_too_few_or_too_many_voters_are_refused(curve, model, top_k):
    display = NeighborhoodDisplay.from_estimator(model, *curve[:2], [2.0], top_k=top_k)
    with pytest.raises(ValueError, match="top_k must be between 1 and the number of training rows"):
        display.plot()


# --- learned spaces ------------------------------------------------------------------------------


def test_an_embedding_of_two_components_is_drawn_as_it_is(plane):
    X, y = plane[0][["a", "b"]], plane[1]
    model = ParametricNWRegressor().fit(X, y)
    display = EmbeddingDisplay.from_estimator(model, X, y).plot(s=3)
    np.testing.assert_allclose(display.scatter_.get_offsets(), model.transform(X))
    np.testing.assert_array_equal(display.scatter_.get_array(), y)
    assert display.scatter_.get_sizes().tolist() == [3]
    assert display.ax_.get_aspect() == 1
    assert display.ax_.get_xlabel() == "component 0 (bandwidths)"


def test_an_embedding_of_more_is_turned_to_its_principal_axes(plane, plane_learned):
    X, y = plane
    display = EmbeddingDisplay.from_estimator(plane_learned, X, y)
    Z = plane_learned.transform(X)
    variances = np.linalg.eigvalsh(np.cov(Z.T))[::-1]
    np.testing.assert_allclose(display.Z.var(axis=0, ddof=1), variances[:2], rtol=1e-8)
    assert f"{variances[0] / variances.sum():.0%} of variance" in display.labels[0]
    assert display.plot().colorbar_.ax.get_ylabel() == "height"


def test_components_can_be_chosen_and_rows_thinned_out(plane, plane_learned):
    X, y = plane
    display = EmbeddingDisplay.from_estimator(plane_learned, X, y, components=(2, 0), max_points=3)
    expected = plane_learned.transform(X)[[0, 74, 149]][:, [2, 0]]
    np.testing.assert_allclose(display.Z, expected)
    np.testing.assert_array_equal(display.y, y.iloc[[0, 74, 149]])
    with pytest.raises(ValueError, match="components must be two of the 3 coordinates"):
        EmbeddingDisplay.from_estimator(plane_learned, X, y, components=(0, 3))


def test_one_component_is_drawn_against_the_target(curve, learned):
    X, y = curve[:2]
    display = EmbeddingDisplay.from_estimator(learned, X, y).plot()
    expected = np.column_stack([learned.transform(X), y])
    np.testing.assert_allclose(display.scatter_.get_offsets(), expected)
    assert display.ax_.get_ylabel() == "y"


# --- scales --------------------------------------------------------------------------------------


def test_scales_are_inverse_bandwidths(plane, plane_model):
    X, _ = plane
    raw = FeatureScaleDisplay.from_estimator(plane_model)
    np.testing.assert_allclose(raw.scales, 1 / plane_model.bandwidth_)
    assert raw.irrelevant.tolist() == []
    display = FeatureScaleDisplay.from_estimator(plane_model, X).plot(height=0.5)
    expected = X.std(ddof=0) / plane_model.bandwidth_
    np.testing.assert_allclose([bar.get_width() for bar in display.bars_], expected)
    assert display.bars_[0].get_height() == 0.5
    assert display.irrelevant.tolist() == [2]
    assert [text.get_text() for text in display.texts_] == ["irrelevant"]
    assert [bool(bar.get_hatch()) for bar in display.bars_] == [False, False, True]
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["a", "b", "noise"]
    assert display.ax_.get_xlabel() == "scale × standard deviation of the feature"


def test_scales_are_learned_weights_over_bandwidths(plane, plane_learned, learned):
    display = FeatureScaleDisplay.from_estimator(plane_learned)
    np.testing.assert_allclose(display.scales, np.abs(plane_learned.w_) / plane_learned.bandwidth_)
    one = FeatureScaleDisplay.from_estimator(learned, feature_names=["x"])
    np.testing.assert_allclose(one.scales, [abs(learned.w_)])


def test_a_scalar_metric_scales_all_features_alike(plane):
    model = ParametricNWRegressor("scalar", bandwidth=2.0).fit(*plane)
    scales = FeatureScaleDisplay.from_estimator(model).scales
    np.testing.assert_allclose(scales, np.full(3, abs(model.w_) / 2))


def test_scales_in_a_pipeline_are_of_its_last_step(plane):
    X, y = plane
    model = NadarayaWatsonRegressor([0.3, 0.5, 1e4])
    pipeline = make_pipeline(StandardScaler(), model).fit(X, y)
    display = FeatureScaleDisplay.from_estimator(pipeline, X)
    np.testing.assert_allclose(display.scales, 1 / np.array([0.3, 0.5, 1e4]))
    assert display.feature_names == ["a", "b", "noise"]


def test_a_step_that_names_nothing_gives_default_names(plane):
    pipeline = make_pipeline(FunctionTransformer(np.asarray), NadarayaWatsonRegressor(0.5))
    display = FeatureScaleDisplay.from_estimator(pipeline.fit(*plane))
    assert display.feature_names == ["x0", "x1", "x2"]


class Embedding(Fitted):
    """What the display reads of a learned embedding that is not linear."""

    n_features_in_, bandwidth_ = 2, np.array([1.0, 2.0])
    transform = None


class LinearEmbedding(Embedding):
    components_ = np.array([[3.0, 0.5], [4.0, 0.0]])


def test_a_linear_embedding_scales_by_its_columns():
    display = FeatureScaleDisplay.from_estimator(LinearEmbedding())
    np.testing.assert_allclose(display.scales, [5.0, 0.5])


@pytest.mark.parametrize("model", [Embedding(), Searched()])
def test_a_model_without_a_scale_for_each_feature_is_refused(model, monkeypatch):
    monkeypatch.setattr(Searched, "bandwidth_", np.ones(5))  # of neighbours, say
    with pytest.raises(ValueError, match=r"no scale for each feature.*permutation_importance"):
        FeatureScaleDisplay.from_estimator(model)


def test_categories_and_what_the_search_found_irrelevant(plane):
    class Mixed(Fitted):
        n_features_in_, is_categorical_ = 4, np.array([False, True, True, True])
        bandwidth_ = np.array([2.0, np.exp(-2.0), 0.0, 1.0])
        irrelevant_features_ = np.array([3])

    X = pd.DataFrame({"size": [0.0, 4.0], "b": ["u", "v"], "c": ["u", "v"], "d": ["u", "v"]})
    display = FeatureScaleDisplay.from_estimator(Mixed(), X).plot()
    np.testing.assert_allclose(display.scales, [1.0, 2.0, np.inf, 0.0])
    assert [text.get_text() for text in display.texts_] == ["exact match", "irrelevant"]
    assert [bar.get_width() for bar in display.bars_] == [1.0, 2.0, 2.0, 0.0]


def test_scales_alone():
    display = FeatureScaleDisplay([0.0, 0.0], feature_names=["a", "b"], scale_label="1 / h").plot()
    assert display.ax_.get_xlabel() == "1 / h"
    assert display.texts_ == []


def test_names_must_be_as_many_as_features(plane_model):
    with pytest.raises(ValueError, match="feature_names must hold one text per feature, 3; got 1"):
        FeatureScaleDisplay.from_estimator(plane_model, feature_names=["a"])


def test_the_path_says_which_criterion_it_is_of():
    X, y = np.arange(30.0)[:, None], np.sin(np.arange(30.0))
    model = NadarayaWatsonRegressor("aicc").fit(X, y)
    assert BandwidthPathDisplay.from_estimator(model).criterion_label == "AICc"


def test_a_path_of_neighbours_is_no_path_of_bandwidths():
    X, y = np.arange(30.0)[:, None], np.sin(np.arange(30.0))
    model = NadarayaWatsonRegressor(NeighborBandwidth()).fit(X, y)
    with pytest.raises(ValueError, match="that of a NeighborBandwidth has numbers of neighbours"):
        BandwidthPathDisplay.from_estimator(model)


def test_learned_scales_of_categories_are_those_of_the_features():
    X = pd.DataFrame({"a": np.linspace(0, 3, 40), "c": pd.Categorical(list("xyxx") * 10)})
    y = np.sin(X["a"]) + (X["c"] == "y")
    model = ParametricNWRegressor(n_starts=1, tol=1e-3).fit(X, y)
    display = FeatureScaleDisplay.from_estimator(model)
    columns = np.abs(model.components_[[0, 1], [0, 1]])  # a, and the first of two columns of c
    np.testing.assert_allclose(display.scales, columns, rtol=1e-9)


def test_negative_weights_of_local_lines_are_seen():
    X = np.linspace(0, 1, 30)[:, None]
    model = NadarayaWatsonRegressor(0.1, degree=2).fit(X, X[:, 0] ** 3)
    (image,) = AttentionDisplay.from_estimator(model, X).plot().images_.ravel()
    low, high = image.get_clim()
    assert low == -high < 0
    display = NeighborhoodDisplay.from_estimator(model, X, X[:, 0], [[1.0]], top_k=20).plot()
    magnitudes = np.abs(display.weights)
    assert display.weights[display.voters_].min() < 0
    assert magnitudes[display.voters_].min() >= np.delete(magnitudes, display.voters_).max()
    assert "magnitude of all weights" in display.ax_.get_title()
