"""How much each feature matters to the distance."""

import numpy as np

from sknw.plotting._columns import as_categories, as_table, column_names, column_numbers, dtype_kind
from sknw.plotting._shared import (
    COLORS,
    categorical_mask,
    labels_for,
    names_after,
    new_axes,
    per_feature,
    required,
    unwrapped,
)
from sknw.support import tuning


class FeatureScaleDisplay:
    """Scale of each feature in the distance: the learned ``|w|/h``, or ``1/h``.

    Make one by `from_estimator`. A feature with a large scale is looked at closely, one with scale
    0 has no say.

    Parameters
    ----------
    scales : array-like of shape (n_features,)
        Scales >= 0; infinite for a category that must match exactly.
    feature_names : list of str
        One per feature.
    irrelevant : array-like of int, default=()
        Features that have no say; marked by an empty bar and a word.
    scale_label : str, default="scale"
        Label of the axis.

    Attributes
    ----------
    bars_ : BarContainer
        One bar per feature.
    texts_ : list of Text
        The words at the bars.
    ax_ : Axes
        The axes.
    figure_ : Figure
        The figure.

    Examples
    --------
    >>> import numpy as np
    >>> from sknw import NadarayaWatsonRegressor
    >>> from sknw.plotting import FeatureScaleDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.sin(2 * X[:, 0]) + X[:, 1]
    >>> model = NadarayaWatsonRegressor().fit(X, y)
    >>> display = FeatureScaleDisplay.from_estimator(model, X).plot()
    >>> display.irrelevant.tolist()
    [2]
    """

    def __init__(self, scales, *, feature_names, irrelevant=(), scale_label="scale"):
        self.scales = scales
        self.feature_names = feature_names
        self.irrelevant = irrelevant
        self.scale_label = scale_label

    @classmethod
    def from_estimator(cls, estimator, X=None, *, feature_names=None):
        """Take the scales of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted `NadarayaWatsonRegressor`, or a `ParametricNWRegressor` with a linear metric;
            or a pipeline or search that ends in one, whose last step's features are then drawn.
        X : array-like of shape (n_rows, n_features), default=None
            Rows, as they are given to `estimator`. Scales are then multiplied by each feature's
            standard deviation, which makes them free of units and comparable. None: in 1 over the
            units of each feature.
        feature_names : list of str, default=None
            One per feature; None: those seen in fit.

        Returns
        -------
        display : FeatureScaleDisplay
            Irrelevant are the features that a bandwidth search found to be so
            (``irrelevant_features_``). Where the estimator tells none and X is given: those whose
            range is less than a tenth of a bandwidth, so that they change no weight of a Gaussian
            kernel by more than half a percent; for ordered categories all steps are counted.

        Raises
        ------
        AttributeError
            If the estimator has no bandwidth.
        ValueError
            If its metric has no scale per feature.
        """
        model, prepare = unwrapped(estimator)
        scales = _scales(model)
        label, is_numeric = "scale (1 / unit of the feature)", ~categorical_mask(model)
        irrelevant = getattr(model, "irrelevant_features_", None)
        if X is not None:
            label = "scale × standard deviation of the feature"
            prepared = as_table(prepare(as_table(X)))
            spread, extent = _spread_and_extent(prepared, is_numeric, model)
            if irrelevant is None:
                least = tuning.LEAST_REACH_OF_A_RELEVANT_FEATURE
                irrelevant = np.flatnonzero(scales * extent < least)
            scales = scales * spread
        if feature_names is None:
            feature_names = names_after(estimator, model)
        return cls(
            scales,
            feature_names=labels_for(feature_names, len(scales), "feature_names", "feature"),
            irrelevant=np.array([] if irrelevant is None else irrelevant, dtype=int),
            scale_label=label,
        )

    def plot(self, ax=None, **bar_kwargs):
        """Draw one bar per feature, the first on top.

        Parameters
        ----------
        ax : Axes, default=None
            None: a new figure.
        **bar_kwargs : dict
            For the ``barh``.

        Returns
        -------
        display : FeatureScaleDisplay
            With its artists as attributes.
        """
        scales = np.asarray(self.scales, dtype=np.float64)
        names = labels_for(self.feature_names, len(scales), "feature_names", "feature")
        size = {"figsize": (6.4, max(2.4, 1.2 + 0.3 * len(scales)))}
        self.ax_ = ax = new_axes(ax, **size)
        self.figure_ = ax.figure
        finite = scales[np.isfinite(scales)]
        longest = finite.max() if finite.size and finite.max() > 0 else 1.0
        lengths = np.where(np.isfinite(scales), scales, longest)
        places = np.arange(len(scales))
        self.bars_ = ax.barh(places, lengths, **{"color": COLORS[0], **bar_kwargs})
        self.texts_ = []
        for j, bar in enumerate(self.bars_):
            word = "" if np.isfinite(scales[j]) else "exact match"
            if j in np.asarray(self.irrelevant, dtype=int):
                bar.set(facecolor="none", edgecolor=COLORS[1], hatch="////")
                word = "irrelevant"
            if word:
                self.texts_.append(ax.text(lengths[j] + 0.01 * longest, j, word, va="center"))
        ax.set(xlabel=self.scale_label, xlim=(0, 1.25 * longest))  # room for the words
        ax.set_yticks(places, names)
        ax.invert_yaxis()
        return self


def _scales(model) -> np.ndarray:
    """Return how fast the distance grows along each feature, (n_features,)."""
    required(model, "bandwidth_", "use an estimator of sknw with a bandwidth")
    scales, matrix, w = None, getattr(model, "components_", None), getattr(model, "w_", None)
    if matrix is not None and matrix.shape[1] == model.n_features_in_:  # a linear embedding
        scales = np.linalg.norm(matrix, axis=0)
    elif w is not None:  # with categories the matrix is of the columns that they become
        w = per_feature(w, model.n_features_in_)
        scales = None if w is None else np.abs(w) * _inverse_bandwidths(model)
    elif not hasattr(model, "transform"):
        scales = _inverse_bandwidths(model)
    scales = None if scales is None else per_feature(scales, model.n_features_in_)
    if scales is None:
        raise ValueError(
            f"{type(model).__name__} has no scale for each feature here: its metric is no linear "
            "one, or its bandwidth is none of the feature's. Use EmbeddingDisplay, or "
            "sklearn.inspection.permutation_importance."
        )
    return scales


def _inverse_bandwidths(model) -> np.ndarray | None:
    """Return 1/h of each feature and, for a category of weight λ, the distance that it makes."""
    bandwidth = per_feature(model.bandwidth_, model.n_features_in_)
    if bandwidth is None:
        return None
    is_categorical = categorical_mask(model)
    with np.errstate(divide="ignore"):
        per_unit = 1 / np.where(is_categorical, 1.0, bandwidth)
        # one category for another costs -log λ in log-weight, a distance s costs s²/2
        per_category = np.sqrt(-2 * np.log(np.where(is_categorical, bandwidth, 1.0)))
    return np.where(is_categorical, per_category, per_unit)


def _spread_and_extent(X, is_numeric: np.ndarray, model) -> tuple[np.ndarray, np.ndarray]:
    """Return standard deviation and range of numbers; of categories 1 and the largest distance."""
    spread, extent = np.ones((2, X.shape[1]))
    for j, is_number in enumerate(is_numeric):
        if is_number:
            values = column_numbers(X, j)
            spread[j], extent[j] = values.std(), np.ptp(values)
        elif _is_ordered(X, j, model):  # n steps have n times the squared distance of one
            extent[j] = np.sqrt(max(1, len(as_categories(X, j)[1]) - 1))
    return spread, extent


def _is_ordered(X, j: int, model) -> bool:
    """Whether the model takes steps between the categories of a column."""
    given = getattr(model, "categorical_features", None)
    given = given if isinstance(given, dict) else {}
    return "ordered" in (given.get(j), given.get(column_names(X)[j]), dtype_kind(X, j))
