"""What the displays share: estimators unwrapped, axes, colours that everyone can tell.

Nothing here imports matplotlib before something is drawn. Text, axes and backgrounds are left to
matplotlib's settings, so a style (light, dark, transparent) applies to every display; the colours
below have a contrast of at least 3 : 1 on white and on a dark page.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sknw.support import tuning

# Okabe and Ito's colours that are visible on white and on black, each with a line style of its own
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
LINE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D")
DATA_COLOR = "0.55"
WINDOW_COLOR = "#56B4E9"
COLOR_MAP, DIVERGING_COLOR_MAP = "viridis", "RdBu"
_ROOM_OF_MARKS = 0.5  # of the distance between categories on an axis, for the marks of one


# --- estimators ----------------------------------------------------------------------------------


def unwrapped(estimator: BaseEstimator) -> tuple[BaseEstimator, Callable[[Any], Any]]:
    """Return the fitted last step of a pipeline or search, and what comes before it on rows."""
    check_is_fitted(estimator)
    if hasattr(estimator, "cv_results_"):  # a search
        return unwrapped(required(estimator, "best_estimator_", "search with refit=True"))
    if not isinstance(estimator, Pipeline):
        return estimator, _unchanged
    model, prepare = unwrapped(estimator[-1])
    if len(estimator) == 1:
        return model, prepare
    return model, lambda X: prepare(estimator[:-1].transform(X))


def _unchanged(X):
    return X


def is_unchanged(prepare: Callable) -> bool:
    """Whether nothing comes before the estimator."""
    return prepare is _unchanged


def required(model: BaseEstimator, name: str, remedy: str) -> Any:
    """Return an attribute of the model, or say what to do to have it.

    Raises
    ------
    AttributeError
        If the model has none.
    """
    try:
        return getattr(model, name)
    except AttributeError:
        raise AttributeError(
            f"{type(model).__name__} has no {name}, which this display needs; {remedy}."
        ) from None


def as_list(estimators) -> list:
    """Return one estimator, or a sequence of them, as a list.

    Raises
    ------
    ValueError
        If there are none.
    """
    if isinstance(estimators, BaseEstimator) or not isinstance(estimators, Sequence):
        return [estimators]
    if not estimators:
        raise ValueError("At least one estimator is needed; got none.")
    return list(estimators)


def checked_names(names: Sequence[str] | None, estimators: list) -> list[str]:
    """Return one name per estimator: those given, or the classes', numbered where they repeat.

    Raises
    ------
    ValueError
        If there are not as many names as estimators.
    """
    if names is None:
        classes = [type(unwrapped(estimator)[0]).__name__ for estimator in estimators]
        repeated = len(set(classes)) < len(classes)
        return [f"{name} {i + 1}" if repeated else name for i, name in enumerate(classes)]
    return labels_for(names, len(estimators), "names", "estimator")


def labels_for(labels: str | Sequence[str], n: int, parameter: str, thing: str) -> list[str]:
    """Return labels as a list of n, one per thing."""
    labels = [labels] if isinstance(labels, str) else list(labels)
    if len(labels) != n:
        raise ValueError(f"{parameter} must hold one text per {thing}, {n}; got {len(labels)}.")
    return labels


def per_feature(values, n_features: int) -> np.ndarray | None:
    """Return one value for all features, or one each, as (n_features,); None if it is neither."""
    values = np.asarray(values, dtype=np.float64)
    return np.broadcast_to(values, (n_features,)) if values.shape in ((), (n_features,)) else None


def categorical_mask(model: BaseEstimator) -> np.ndarray:
    """Return which features are categorical: those have a weight λ as bandwidth."""
    none = np.zeros(model.n_features_in_, dtype=bool)
    mask = getattr(model, "is_categorical_", None)
    return none if mask is None else np.asarray(mask, dtype=bool)


def names_after(estimator: BaseEstimator, model: BaseEstimator) -> list[str]:
    """Return the names of the features that the model sees, where there are none default ones."""
    if hasattr(model, "feature_names_in_"):
        return list(model.feature_names_in_)
    pipeline = getattr(estimator, "best_estimator_", estimator)
    if isinstance(pipeline, Pipeline) and len(pipeline) > 1:
        try:
            return list(pipeline[:-1].get_feature_names_out())
        except (AttributeError, ValueError):  # a step that names nothing
            pass
    return default_names(model.n_features_in_)


def default_names(n_features: int) -> list[str]:
    """Return names for features that have none."""
    return ["x"] if n_features == 1 else [f"x{j}" for j in range(n_features)]


def target_column(y, n: int, name: str = "y") -> np.ndarray:
    """Return targets as (n,) in float64.

    Raises
    ------
    ValueError
        If there are not n of them, or several outputs.
    """
    y = np.asarray(y, dtype=np.float64)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(
            f"{name} must have one output to be drawn; got shape {y.shape}. Draw one output at a "
            "time."
        )
    if len(y) != n:
        raise ValueError(f"{name} must have {n} values, one per row of X; got {len(y)}.")
    return y


# --- drawing -------------------------------------------------------------------------------------


def new_axes(ax, **figure_settings):
    """Return the axes, or those of a new figure whose parts do not overlap."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained", **figure_settings)[1]


def axes_grid(axes, n_rows: int, n_columns: int, panel_size: tuple[float, float], **settings):
    """Return axes (n_rows, n_columns): those given, or new ones of this size in inches.

    Raises
    ------
    ValueError
        If there are too few or too many axes.
    """
    n = n_rows * n_columns
    if axes is None:
        size = (panel_size[0] * n_columns, panel_size[1] * n_rows)
        settings |= {} if n == 1 else {"figsize": size}
        return new_axes(None, nrows=n_rows, ncols=n_columns, squeeze=False, **settings)
    axes = np.asarray(axes, dtype=object)
    if axes.size != n:
        raise ValueError(f"ax must hold {n} axes, one per panel; got {axes.size}.")
    return axes.reshape(n_rows, n_columns)


def check_training_rows(X, n_keys: int, name: str = "X") -> None:
    """Refuse rows that cannot be those an estimator was fitted on.

    Raises
    ------
    ValueError
    """
    if len(X) != n_keys:
        raise ValueError(
            f"{name} must be the {n_keys} rows that the estimator was fitted on; got {len(X)} rows."
        )


def line_style(i: int) -> dict:
    """Return the colour and the style of the i-th line."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": LINE_STYLES[i % len(LINE_STYLES)]}


def text_color() -> str:
    """Return the colour of text in the present style: of lines that are no data."""
    import matplotlib as mpl

    return mpl.rcParams["text.color"]


def spread_at_places(values: np.ndarray, names: list[str] | None) -> np.ndarray:
    """Return places at which rows of one category do not hide each other; numbers as they are.

    Multiples of the golden ratio are evenly spread however many there are, and always the same.
    """
    if names is None:
        return values
    golden_ratio = (math.sqrt(5) - 1) / 2
    offsets = np.arange(len(values)) * golden_ratio % 1 - 0.5
    return values + _ROOM_OF_MARKS * offsets


def side_by_side(i: int, n: int) -> float:
    """Return by how much the i-th of n marks at a category is moved aside."""
    return (i - (n - 1) / 2) * min(0.14, _ROOM_OF_MARKS / n)


def name_places(axis, names: list[str] | None) -> None:
    """Write the names of categories at their places; leave an axis of numbers alone."""
    if names is None:
        return
    is_horizontal = axis.axis_name == "x"
    is_long = is_horizontal and sum(map(len, names)) > tuning.MOST_LETTERS_OF_AN_AXIS
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    axis.set_ticks(range(len(names)), names, **turned)
    ends = -0.5, len(names) - 0.5
    (axis.axes.set_xlim if is_horizontal else axis.axes.set_ylim)(ends)
