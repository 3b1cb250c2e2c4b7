"""Fits over data: a curve along one feature, or a surface over two."""

import inspect

import numpy as np
from scipy.stats import norm

from sknw.plotting._shared import (
    COLOR_MAP,
    DATA_COLOR,
    as_list,
    as_table,
    axes_grid,
    checked_names,
    column,
    column_index,
    column_names,
    grid_table,
    labels_for,
    line_style,
    new_axes,
    rows,
    spread_out,
    target_column,
    text_color,
    typical_row,
    unwrapped,
)

_CURVE_POINTS, _SURFACE_POINTS = 200, 60
_LARGEST_SCATTER = 2000
_TRUTH_DASHES = (0, (4, 2))


class RegressionCurveDisplay:
    """Predictions along one feature over the data, or over two features as a map.

    Make one by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    grid : list of ndarray
        Values of the one feature (m,), or of both (m_1,) and (m_2,).
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
        Data to draw: the features drawn, and the targets.

    Attributes
    ----------
    lines_ : list of Line2D
        Curves only: one per estimator.
    truth_ : Line2D or None
        Curves only: the truth.
    bands_ : list of PolyCollection
        Curves only: the bands.
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
        """Predict along a feature, from the smallest to the largest of its values.

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
        others : {"median", "average"}, default="median"
            What the other features are: ``"median"`` holds them at their medians (at the commonest
            value where they are no numbers); ``"average"`` averages predictions over their values
            in the data (partial dependence).
        names : str or list of str, default=None
            One per estimator; None: their classes.
        band : bool, default=True
            Whether to draw a band where an estimator has one: its ``predict_interval``, or else as
            many standard deviations of ``predict(X, return_std=True)`` as `coverage` of a normal
            distribution need. Not for averages and surfaces.
        coverage : float, default=0.9
            Coverage of the band, between 0 and 1.
        n_points : int, default=None
            Number of grid points of each feature; None: 200 for a curve, 60 for a surface.
        max_rows : int, default=100
            ``"average"`` averages over at most as many rows of X, evenly spread.

        Returns
        -------
        display : RegressionCurveDisplay

        Raises
        ------
        ValueError
            If a feature is not there or holds no numbers, there are more than two, shapes do not
            agree or there are several outputs.
        """
        if others not in ("median", "average"):
            raise ValueError(f"others must be 'median' or 'average'; got {others!r}.")
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must be between 0 and 1; got {coverage}.")
        estimators, X = as_list(estimator), as_table(X)
        names = checked_names(names, estimators)
        drawn = _drawn_features(X, feature)
        columns = [column(X, j) for j in drawn]
        n_points = n_points or (_CURVE_POINTS if len(drawn) == 1 else _SURFACE_POINTS)
        grid = [np.linspace(values.min(), values.max(), n_points) for values in columns]
        tables = _tables(X, drawn, grid, others, max_rows)
        shape = tuple(len(values) for values in grid)
        bands, labels = [None] * len(estimators), [""] * len(estimators)
        if band and len(drawn) == len(tables) == 1:
            found = [_band(estimator, tables[0], coverage) for estimator in estimators]
            bands, labels = ([one[i] for one in found] for i in (0, 1))
        kept = spread_out(len(X), _LARGEST_SCATTER)
        return cls(
            grid,
            [_averaged(estimator.predict, tables, shape) for estimator in estimators],
            names=names,
            feature_names=[str(column_names(X)[j]) for j in drawn],
            target_name=str(getattr(y, "name", None) or "y"),
            truth=None if truth is None else _averaged(truth, tables, shape),
            bands=bands,
            band_labels=labels,
            X=None if y is None else np.array(columns)[:, kept],
            y=None if y is None else target_column(y, len(X))[kept],
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
            If shapes do not agree.
        """
        x = np.asarray(x, dtype=np.float64)
        x = target_column(x, len(x), "x")
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
        draw = self._plot_curves if len(self.grid) == 1 else self._plot_surfaces
        draw(ax, data_kwargs or {}, kwargs)
        self.figure_ = self.ax_.figure
        return self

    def _plot_curves(self, ax, data_kwargs: dict, line_kwargs: dict) -> None:
        self.ax_ = ax = new_axes(ax)
        self.axes_ = np.array([ax])
        x = self.grid[0]
        self.scatter_ = self.truth_ = None
        if self.y is not None:
            style = {"s": 16, "color": DATA_COLOR, "alpha": _opacity(len(self.y)), "label": "data"}
            self.scatter_ = ax.scatter(self.X[0], self.y, **{**style, **data_kwargs})
        if self.truth is not None:
            style = {"color": text_color(), "linestyle": _TRUTH_DASHES, "label": "truth"}
            (self.truth_,) = ax.plot(x, self.truth, **style)
        self.lines_, self.bands_ = [], []
        for i, (name, curve) in enumerate(zip(self.names, self.predictions, strict=True)):
            style = {**line_style(i), "linewidth": 2, "label": name, **line_kwargs}
            (line,) = ax.plot(x, curve, **style)
            self.lines_.append(line)
            if self.bands is not None and self.bands[i] is not None:
                label = {} if self.band_labels is None else {"label": self.band_labels[i]}
                style = {"color": line.get_color(), "alpha": 0.3, "linewidth": 0, **label}
                self.bands_.append(ax.fill_between(x, *self.bands[i], **style))
        ax.set(xlabel=self.feature_names[0], ylabel=self.target_name)
        ax.legend()

    def _plot_surfaces(self, ax, data_kwargs: dict, mesh_kwargs: dict) -> None:
        panels, titles = list(self.predictions), list(self.names)
        if self.truth is not None:
            panels, titles = [self.truth, *panels], ["truth", *titles]
        sharing = {"sharex": True, "sharey": True} if ax is None else {}
        self.axes_ = axes_grid(ax, 1, len(panels), (3.6, 3.6), **sharing)
        lowest, highest = np.min(panels), np.max(panels)
        colors = {"cmap": COLOR_MAP, "vmin": lowest, "vmax": highest, **mesh_kwargs}
        self.surfaces_, self.scatter_ = [], []
        for axes, title, surface in zip(self.axes_.flat, titles, panels, strict=True):
            mesh = axes.pcolormesh(*self.grid, surface.T, **{"shading": "gouraud", **colors})
            self.surfaces_.append(mesh)
            if self.y is not None:
                style = {"s": 18, "edgecolor": "white", "linewidth": 0.4, **data_kwargs}
                style = {"c": self.y, "cmap": mesh.get_cmap(), "norm": mesh.norm, **style}
                self.scatter_.append(axes.scatter(*self.X, **style))
            axes.set(title=title, xlabel=self.feature_names[0], ylabel=self.feature_names[1])
            if ax is None:
                axes.label_outer()
        self.ax_ = self.axes_[0, 0]
        self.colorbar_ = self.ax_.figure.colorbar(
            self.surfaces_[0], ax=list(self.axes_.flat), label=self.target_name
        )


# --- what is drawn -------------------------------------------------------------------------------


def _drawn_features(X, feature) -> list[int]:
    """Return the positions of one feature, or of two different ones."""
    features = list(feature) if isinstance(feature, (tuple, list)) else [feature]
    drawn = [column_index(X, one) for one in features]
    if len(set(drawn)) != len(drawn) or len(drawn) not in (1, 2):
        raise ValueError(f"feature must be one feature or two different ones; got {feature!r}.")
    return drawn


def _tables(X, drawn: list[int], grid: list[np.ndarray], others: str, max_rows: int) -> list:
    """Return one table of grid points for each setting of the other features."""
    if others == "median" or X.shape[1] == len(drawn):
        background = typical_row(X)
    else:
        background = rows(X, spread_out(len(X), max_rows))
    columns = dict(zip(drawn, grid, strict=True))
    return [grid_table(rows(background, np.array([i])), columns) for i in range(len(background))]


def _averaged(predict, tables: list, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mean of the predictions over tables of the same grid points."""
    n = int(np.prod(shape))
    predictions = [target_column(predict(table), n, "a prediction") for table in tables]
    return np.mean(predictions, axis=0).reshape(shape)


def _band(estimator, table, coverage: float) -> tuple[tuple[np.ndarray, np.ndarray] | None, str]:
    """Return the estimator's band at the rows of a table, and what it is; None if it has none."""
    model, prepare = unwrapped(estimator)
    if hasattr(model, "predict_interval"):
        ends = model.predict_interval(prepare(table), coverage=coverage)
        lower, upper = ends if isinstance(ends, tuple) else np.asarray(ends).T
        return (lower, upper), f"{coverage:.0%} interval"
    if "return_std" not in inspect.signature(model.predict).parameters:
        return None, ""
    mean, std = model.predict(prepare(table), return_std=True)
    if not np.any(std > 0):  # as a DummyRegressor's, which is a placeholder
        return None, ""
    width = norm.ppf((1 + coverage) / 2)
    return (mean - width * std, mean + width * std), f"± {width:.2f} standard deviations"


def _opacity(n: int) -> float:
    return 0.8 if n <= 500 else 0.4
