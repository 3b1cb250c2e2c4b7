"""Fits over data: a curve along one feature, points at categories, or a surface over two."""

import numpy as np

from sknw.plotting._columns import (
    Axis,
    as_table,
    categorical_columns,
    column_names,
    drawn_features,
    numbers,
    spread_out,
)
from sknw.plotting._fits import averaged, band_of, held_values, tables_on_grid
from sknw.plotting._shared import (
    COLOR_MAP,
    DATA_COLOR,
    MARKERS,
    as_list,
    axes_grid,
    checked_names,
    labels_for,
    line_style,
    name_places,
    new_axes,
    side_by_side,
    spread_at_places,
    target_column,
    text_color,
)
from sknw.support import tuning


class RegressionCurveDisplay:
    """Predictions along one feature over the data, or over two features as a map.

    Make one by `from_estimator` or `from_predictions`. Along a categorical feature a fit is a point
    at each category, since there is nothing in between.

    Parameters
    ----------
    grid : list of ndarray
        Values of the one feature (m,), or of both (m_1,) and (m_2,); of a categorical one the
        places 0, 1, ... of its categories.
    predictions : list of ndarray of shape (m,) or (m_1, m_2)
        One per estimator.
    names : list of str
        One per estimator.
    feature_names : list of str, default=("x",)
        One per feature drawn.
    target_name : str, default="y"
        What is predicted.
    truth : ndarray of shape (m,) or (m_1, m_2), default=None
        The noiseless function on the grid.
    bands : list of (ndarray, ndarray) or None, default=None
        One per estimator: lower and upper ends (m,), or None. For curves only.
    band_labels : list of str, default=None
        What each band is.
    X, y : ndarray of shape (n_features, n) and (n,), default=None
        Data to draw: the features drawn (places, of categories), and the targets.
    categories : list of (list of str or None), default=None
        One per feature drawn: the names of its categories, or None for numbers.

    Attributes
    ----------
    lines_ : list of Line2D
        Curves only: one per estimator; marks at categories.
    truth_ : Line2D or None
        Curves only: the truth.
    bands_ : list of PolyCollection or LineCollection
        Curves only: the bands; bars at categories.
    surfaces_ : list of QuadMesh
        Surfaces only: one per panel, the truth first where it is given.
    scatter_ : PathCollection or None
        The data; a list with one per panel for surfaces.
    colorbar_ : Colorbar
        Surfaces only.
    ax_ : Axes
        The axes; of surfaces, those of the first panel.
    axes_ : ndarray of Axes
        All axes.
    figure_ : Figure
        The figure.

    Examples
    --------
    >>> from sknw import NadarayaWatsonRegressor
    >>> from sknw.datasets import attention_curve, make_attention_curve
    >>> from sknw.plotting import RegressionCurveDisplay
    >>> X, y, *_ = make_attention_curve(random_state=0)
    >>> models = [NadarayaWatsonRegressor(h).fit(X, y) for h in (0.2, 1.0)]
    >>> display = RegressionCurveDisplay.from_estimator(
    ...     models, X, y, truth=attention_curve, names=["h = 0.2", "h = 1"]
    ... )
    >>> [line.get_label() for line in display.plot().lines_]
    ['h = 0.2', 'h = 1']
    """

    def __init__(
        self,
        grid,
        predictions,
        *,
        names,
        feature_names=("x",),
        target_name="y",
        truth=None,
        bands=None,
        band_labels=None,
        X=None,
        y=None,
        categories=None,
    ):
        self.grid = grid
        self.predictions = predictions
        self.names = names
        self.feature_names = feature_names
        self.target_name = target_name
        self.truth = truth
        self.bands = bands
        self.band_labels = band_labels
        self.X = X
        self.y = y
        self.categories = categories

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        feature=0,
        truth=None,
        others="median",
        names=None,
        band=True,
        coverage=0.9,
        n_points=None,
        max_rows=100,
    ):
        """Predict along a feature, from its smallest to its largest value, or at each category.

        Categories are columns of categorical, text or boolean dtype, and those that an estimator of
        sknw treats as such.

        Parameters
        ----------
        estimator : estimator or list of estimators
            Fitted regressors with one output, of any kind.
        X : array-like of shape (n_samples, n_features)
            Data: its range is drawn, and its rows where `y` is given (at most 2000 of them).
        y : array-like of shape (n_samples,), default=None
            Targets.
        feature : int, str or pair of them, default=0
            Which feature is drawn, by position or name; two make a surface.
        truth : callable, default=None
            Takes rows like those of X and returns the true values.
        others : {"median", "average"} or dict, default="median"
            What the other features are: ``"median"`` holds them at their medians, and categories at
            the most frequent one (the first of those equally frequent); a dict of names or
            positions and values holds some of them there, such as ``{"colour": "red"}``;
            ``"average"`` averages predictions over their values in the data (partial dependence).
        names : str or list of str, default=None
            One per estimator; None: their classes.
        band : bool, default=True
            Whether to draw a band where an estimator has one: its ``predict_interval``, or else as
            many standard deviations of ``predict(X, return_std=True)`` as `coverage` of a normal
            distribution need. Not for averages and surfaces.
        coverage : float, default=0.9
            Coverage of the band, between 0 and 1.
        n_points : int, default=None
            Number of grid points of each feature that is no category; None: 200 for a curve, 60 for
            a surface.
        max_rows : int, default=100
            ``"average"`` averages over at most as many rows of X, evenly spread.

        Returns
        -------
        display : RegressionCurveDisplay

        Raises
        ------
        ValueError
            If a feature is not there or has more than 60 categories, there are more than two,
            shapes do not agree or there are several outputs.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must be between 0 and 1; got {coverage}.")
        estimators, X = as_list(estimator), as_table(X)
        names = checked_names(names, estimators)
        drawn = drawn_features(X, feature, "feature")
        held_values(X, others, drawn)
        is_categorical = categorical_columns(X, estimators)
        n_points = n_points or tuning.POINTS_OF_A_CURVE[len(drawn)]
        axes = [Axis.of(X, j, is_categorical=is_categorical[j]) for j in drawn]
        grid, columns = zip(*(axis.grid(n_points) for axis in axes), strict=True)
        columns = dict(zip(drawn, columns, strict=True))
        tables = tables_on_grid(X, columns, others, is_categorical, max_rows)
        shape = tuple(len(values) for values in grid)
        bands, labels = [None] * len(estimators), [""] * len(estimators)
        if band and len(drawn) == len(tables) == 1:
            found = [band_of(estimator, tables[0], coverage) for estimator in estimators]
            bands, labels = ([one[i] for one in found] for i in (0, 1))
        kept = spread_out(len(X), tuning.MOST_ROWS_DRAWN)
        return cls(
            list(grid),
            [averaged(estimator.predict, tables, shape) for estimator in estimators],
            names=names,
            feature_names=[str(column_names(X)[j]) for j in drawn],
            target_name=str(getattr(y, "name", None) or "y"),
            truth=None if truth is None else averaged(truth, tables, shape),
            bands=bands,
            band_labels=labels,
            X=None if y is None else np.array([axis.values[kept] for axis in axes]),
            y=None if y is None else target_column(y, len(X))[kept],
            categories=[axis.categories for axis in axes],
        )

    @classmethod
    def from_predictions(
        cls, x, y_pred, *, y=None, truth=None, names=None, feature_name="x", target_name="y"
    ):
        """Draw predictions that are there already, along one feature.

        Parameters
        ----------
        x : array-like of shape (n_samples,) or (n_samples, 1)
            The feature, in any order.
        y_pred : array-like of shape (n_samples,), or list of them
            Predictions at `x`, of one or several models.
        y : array-like of shape (n_samples,), default=None
            Targets at `x`.
        truth : array-like of shape (n_samples,), default=None
            The noiseless function at `x`.
        names : str or list of str, default=None
            One per model.
        feature_name, target_name : str
            Labels of the axes.

        Returns
        -------
        display : RegressionCurveDisplay

        Raises
        ------
        ValueError
            If shapes do not agree, or `x` holds categories.
        """
        x = target_column(_numbers_along(x), len(x), "x")
        several = isinstance(y_pred, (list, tuple)) and np.ndim(y_pred[0]) > 0
        curves = [target_column(one, len(x), "y_pred") for one in (y_pred if several else [y_pred])]
        if names is None:
            names = [f"prediction {i + 1}" for i in range(len(curves))] if several else "prediction"
        order = np.argsort(x, kind="stable")
        return cls(
            [x[order]],
            [curve[order] for curve in curves],
            names=labels_for(names, len(curves), "names", "prediction"),
            feature_names=[feature_name],
            target_name=target_name,
            truth=None if truth is None else target_column(truth, len(x), "truth")[order],
            X=None if y is None else x[None],
            y=None if y is None else target_column(y, len(x)),
        )

    def plot(self, ax=None, *, data_kwargs=None, **kwargs):
        """Draw the fits.

        Parameters
        ----------
        ax : Axes, default=None
            None: a new figure. Several surfaces need an array of axes, one per panel.
        data_kwargs : dict, default=None
            For the ``scatter`` of the data.
        **kwargs : dict
            For the ``plot`` of the curves, or the ``pcolormesh`` of the surfaces.

        Returns
        -------
        display : RegressionCurveDisplay
            With its artists as attributes.
        """
        if len(self.grid) == 2:
            self._plot_surfaces(ax, data_kwargs or {}, kwargs)
        else:
            self._plot_fits(ax, data_kwargs or {}, kwargs)
        self.figure_ = self.ax_.figure
        return self

    def _plot_fits(self, ax, data_kwargs: dict, line_kwargs: dict) -> None:
        self.ax_ = ax = new_axes(ax)
        self.axes_ = np.array([ax])
        self.scatter_ = self.truth_ = None
        if self.y is not None:
            style = {"s": 16, "color": DATA_COLOR, "alpha": _opacity(len(self.y)), "label": "data"}
            x = spread_at_places(self.X[0], self._names_along(0))
            self.scatter_ = ax.scatter(x, self.y, **{**style, **data_kwargs})
        self.lines_, self.bands_ = [], []
        draw = self._draw_curves if self._names_along(0) is None else self._draw_points
        draw(line_kwargs)
        ax.set(xlabel=self.feature_names[0], ylabel=self.target_name)
        name_places(ax.xaxis, self._names_along(0))
        ax.legend()

    def _draw_curves(self, line_kwargs: dict) -> None:
        ax, x = self.ax_, self.grid[0]
        if self.truth is not None:
            style = {"color": text_color(), "linestyle": (0, (4, 2)), "label": "truth"}
            (self.truth_,) = ax.plot(x, self.truth, **style)
        for i, (name, curve) in enumerate(zip(self.names, self.predictions, strict=True)):
            style = {**line_style(i), "linewidth": 2, "label": name, **line_kwargs}
            self.lines_ += ax.plot(x, curve, **style)
            band, label = self._band_and_label(i)
            if band is not None:
                style = {"color": self.lines_[-1].get_color(), "alpha": 0.3, "linewidth": 0}
                self.bands_.append(ax.fill_between(x, *band, **style, label=label))

    def _draw_points(self, line_kwargs: dict) -> None:
        """Draw the fits at categories, beside each other."""
        ax = self.ax_
        if self.truth is not None:
            style = {"color": text_color(), "linestyle": "none", "marker": "_", "markersize": 28}
            (self.truth_,) = ax.plot(self.grid[0], self.truth, **style, label="truth")
        for i, (name, heights) in enumerate(zip(self.names, self.predictions, strict=True)):
            x = self.grid[0] + side_by_side(i, len(self.names))
            style = {"color": line_style(i)["color"], "marker": MARKERS[i % len(MARKERS)]}
            style |= {"linestyle": "none", "markersize": 8, "zorder": 3, "label": name}
            self.lines_ += ax.plot(x, heights, **{**style, **line_kwargs})
            band, label = self._band_and_label(i)
            if band is not None:
                style = {"color": self.lines_[-1].get_color(), "alpha": 0.5, "linewidth": 4}
                self.bands_.append(ax.vlines(x, *band, **style, label=label))

    def _band_and_label(self, i: int):
        band = None if self.bands is None else self.bands[i]
        return band, None if self.band_labels is None else self.band_labels[i]

    def _names_along(self, axis: int) -> list[str] | None:
        return None if self.categories is None else self.categories[axis]

    def _plot_surfaces(self, ax, data_kwargs: dict, mesh_kwargs: dict) -> None:
        panels, titles = list(self.predictions), list(self.names)
        if self.truth is not None:
            panels, titles = [self.truth, *panels], ["truth", *titles]
        sharing = {"sharex": True, "sharey": True} if ax is None else {}
        self.axes_ = axes_grid(ax, 1, len(panels), (3.6, 3.6), **sharing)
        along = [self._names_along(axis) for axis in (0, 1)]
        is_smooth = along == [None, None]  # between categories there is nothing
        colors = {"cmap": COLOR_MAP, "vmin": np.min(panels), "vmax": np.max(panels)}
        colors |= {"shading": "gouraud" if is_smooth else "nearest", **mesh_kwargs}
        self.surfaces_, self.scatter_ = [], []
        for axes, title, surface in zip(self.axes_.flat, titles, panels, strict=True):
            self.surfaces_.append(axes.pcolormesh(*self.grid, surface.T, **colors))
            if self.y is not None:
                self.scatter_.append(self._scatter_on(self.surfaces_[-1], data_kwargs))
            axes.set(title=title, xlabel=self.feature_names[0], ylabel=self.feature_names[1])
            name_places(axes.xaxis, along[0])
            name_places(axes.yaxis, along[1])
            if ax is None:
                axes.label_outer()
        self.ax_ = self.axes_[0, 0]
        self.colorbar_ = self.ax_.figure.colorbar(
            self.surfaces_[0], ax=list(self.axes_.flat), label=self.target_name
        )

    def _scatter_on(self, mesh, data_kwargs: dict):
        style = {"s": 18, "edgecolor": "white", "linewidth": 0.4, **data_kwargs}
        style = {"c": self.y, "cmap": mesh.get_cmap(), "norm": mesh.norm, **style}
        x, y = (spread_at_places(self.X[axis], self._names_along(axis)) for axis in (0, 1))
        return mesh.axes.scatter(x, y, **style)


def _numbers_along(x) -> np.ndarray:
    values = None if hasattr(getattr(x, "dtype", None), "categories") else numbers(np.asarray(x))
    if values is None:
        raise ValueError(
            "x must hold numbers to be drawn along; got categories, texts or booleans. "
            "from_estimator draws points at the categories of a feature."
        )
    return values


def _opacity(n: int) -> float:
    return 0.8 if n <= 500 else 0.4
