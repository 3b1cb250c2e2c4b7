"""Who voted for a query: the window around it and the rows that count most."""

import numpy as np

from sknw.plotting._columns import (
    Axis,
    as_table,
    categorical_columns,
    column_names,
    column_numbers,
    drawn_features,
    grid_table,
    spread_out,
)
from sknw.plotting._shared import (
    COLOR_MAP,
    COLORS,
    DATA_COLOR,
    DIVERGING_COLOR_MAP,
    WINDOW_COLOR,
    categorical_mask,
    check_training_rows,
    is_unchanged,
    name_places,
    new_axes,
    per_feature,
    required,
    spread_at_places,
    target_column,
    text_color,
    unwrapped,
)
from sknw.support import tuning

_SMALLEST_MARK = 14  # in square points


class NeighborhoodDisplay:
    """The training rows that one prediction averages over.

    Make one by `from_estimator`. Along one feature: the data, the rows with the largest attention
    weights (coloured by weight), the prediction, and the window of one bandwidth. Over two
    features: the same from above, coloured by the rows' targets.

    Parameters
    ----------
    X : ndarray of shape (n_shown, n_rows)
        The one or two features drawn, of every training row; of a categorical one the places 0, 1,
        ... of its categories.
    y : ndarray of shape (n_rows,)
        Their targets.
    weights : ndarray of shape (n_rows,)
        Their attention weights.
    query : ndarray of shape (n_shown,)
        The query's features drawn.
    prediction : float
        Its prediction.
    top_k : int, default=10
        How many rows are shown as voters.
    window_grid : list of ndarray, default=None
        Values of each feature drawn at which `distances` are.
    distances : ndarray, default=None
        Distance from the query in bandwidths on the grid, (m,) or (m_1, m_2); None: unknown.
    feature_names : list of str, default=("x",)
        One per feature drawn.
    target_name : str, default="y"
        What is predicted.
    categories : list of (list of str or None), default=None
        One per feature drawn: the names of its categories, or None for numbers.

    Attributes
    ----------
    voters_ : ndarray of int of shape (top_k,)
        The rows with the largest weights, the largest first.
    scatter_ : PathCollection
        All rows (at most 2000).
    voters_scatter_ : PathCollection
        The voters; their size grows with the weight.
    query_, prediction_ : Line2D
        Along one feature, a line at the query and a mark at its prediction; over two features both
        are the mark.
    window_ : PolyCollection, QuadContourSet or None
        Where the distance is at most one bandwidth.
    colorbar_ : Colorbar
        Of the weights along one feature, of the targets over two.
    ax_ : Axes
        The axes.
    figure_ : Figure
        The figure.

    See Also
    --------
    AttentionDisplay : The weights of many queries.

    Examples
    --------
    >>> from sknw import NadarayaWatsonRegressor
    >>> from sknw.datasets import make_attention_curve
    >>> from sknw.plotting import NeighborhoodDisplay
    >>> X, y, *_ = make_attention_curve(random_state=0)
    >>> model = NadarayaWatsonRegressor(0.3).fit(X, y)
    >>> display = NeighborhoodDisplay.from_estimator(
    ...     model, X, y, [2.0], top_k=5
    ... ).plot()
    >>> X[display.voters_].ravel().round(2).tolist()
    [2.07, 1.92, 2.12, 1.82, 2.19]
    """

    def __init__(
        self,
        X,
        y,
        weights,
        *,
        query,
        prediction,
        top_k=10,
        window_grid=None,
        distances=None,
        feature_names=("x",),
        target_name="y",
        categories=None,
    ):
        self.X = X
        self.y = y
        self.weights = weights
        self.query = query
        self.prediction = prediction
        self.top_k = top_k
        self.window_grid = window_grid
        self.distances = distances
        self.feature_names = feature_names
        self.target_name = target_name
        self.categories = categories

    @classmethod
    def from_estimator(cls, estimator, X, y, query, *, features=None, top_k=10):
        """Compute one query's weights on the training rows.

        Parameters
        ----------
        estimator : estimator
            A fitted `NadarayaWatsonRegressor` or `ParametricNWRegressor`, or a pipeline or search
            that ends in one.
        X : array-like of shape (n_rows, n_features)
            The training rows, as they were given to fit.
        y : array-like of shape (n_rows,)
            Their targets.
        query : array-like of shape (n_features,) or (1, n_features)
            The query; a frame of one row where X is one.
        features : int, str or pair of them, default=None
            The features drawn; None: the first two that are numbers, or the only one, or else the
            first category. The window is drawn for the other features at the query's values, and
            not along categories.
        top_k : int, default=10
            How many rows are shown as voters.

        Returns
        -------
        display : NeighborhoodDisplay

        Raises
        ------
        AttributeError
            If the estimator has no attention weights.
        ValueError
            If X, y or the query have wrong shapes, a feature is not there or has more than 60
            categories, or the query's category is in none of the rows.
        """
        model, prepare = unwrapped(estimator)
        required(model, "attention_weights", "use an estimator of sknw")
        X = as_table(X)
        query = as_table(query if np.ndim(query) != 1 else np.asarray(query)[None])
        if query.shape != (1, X.shape[1]):
            raise ValueError(
                f"query must be one row of {X.shape[1]} features; got shape {query.shape}."
            )
        weights = model.attention_weights(prepare(query))[0]
        check_training_rows(X, len(weights))
        target_name = str(getattr(y, "name", None) or "y")
        y = target_column(y, len(X))
        is_categorical = categorical_columns(X, [estimator])
        drawn = _drawn_features(X, features, is_categorical)
        axes = [Axis.of(X, j, is_categorical=is_categorical[j]) for j in drawn]
        places = [axis.place_of(query, j) for axis, j in zip(axes, drawn, strict=True)]
        grid = distances = None
        if not is_categorical[drawn].any():
            grid = [
                _grid(axis.values, place, len(drawn))
                for axis, place in zip(axes, places, strict=True)
            ]
            distances = _distances(model, prepare, query, dict(zip(drawn, grid, strict=True)))
        return cls(
            np.array([axis.values for axis in axes]),
            y,
            weights,
            query=np.array(places),
            prediction=float(target_column(estimator.predict(query), 1, "the prediction")[0]),
            top_k=top_k,
            window_grid=grid,
            distances=distances,
            feature_names=[str(column_names(X)[j]) for j in drawn],
            target_name=target_name,
            categories=[axis.categories for axis in axes],
        )

    def plot(self, ax=None, **voter_kwargs):
        """Draw the neighbourhood.

        Parameters
        ----------
        ax : Axes, default=None
            None: a new figure.
        **voter_kwargs : dict
            For the ``scatter`` of the voters.

        Returns
        -------
        display : NeighborhoodDisplay
            With its artists as attributes.

        Raises
        ------
        ValueError
            If `top_k` is not between 1 and the number of rows.
        """
        n_rows = len(self.weights)
        if not 1 <= self.top_k <= n_rows:
            raise ValueError(
                f"top_k must be between 1 and the number of training rows, {n_rows}; got "
                f"{self.top_k}."
            )
        magnitudes = np.abs(self.weights)
        self.voters_ = np.argsort(-magnitudes, kind="stable")[: self.top_k]
        self.ax_ = new_axes(ax)
        self.figure_ = self.ax_.figure
        draw = self._plot_along if len(self.X) == 1 else self._plot_above
        draw(voter_kwargs)
        total = magnitudes.sum()
        share = magnitudes[self.voters_].sum() / total if total > 0 else 0.0
        noun = "row has" if self.top_k == 1 else "rows have"
        what = "magnitude of all weights" if (self.weights < 0).any() else "attention"
        self.ax_.set_title(f"{self.top_k} of {n_rows} {noun} {share:.0%} of the {what}")
        self.ax_.legend()
        return self

    def _plot_along(self, voter_kwargs: dict) -> None:
        ax, top, (x,) = self.ax_, self.voters_, self._places()
        self._draw_rows(x, self.y)
        self.window_ = None
        if self.distances is not None:
            self.window_ = ax.fill_between(
                self.window_grid[0],
                0,
                1,
                where=self.distances <= 1,
                transform=ax.get_xaxis_transform(),
                color=WINDOW_COLOR,
                alpha=0.35,
                linewidth=0,
                label="within one bandwidth",
            )
        self.query_ = ax.axvline(self.query[0], color=text_color(), linewidth=1, label="query")
        if (self.weights[top] < 0).any():
            largest = np.abs(self.weights[top]).max()
            signed = {"cmap": DIVERGING_COLOR_MAP, "vmin": -largest, "vmax": largest}
            voter_kwargs = {**signed, **voter_kwargs}
        self._draw_voters(x, self.y, self.weights[top], "attention weight", voter_kwargs)
        self._draw_prediction(self.query[0], self.prediction)
        ax.set(xlabel=self.feature_names[0], ylabel=self.target_name)
        name_places(ax.xaxis, self._names_along(0))

    def _plot_above(self, voter_kwargs: dict) -> None:
        ax, top, places = self.ax_, self.voters_, self._places()
        self._draw_rows(*places)
        self.window_ = None
        if self.distances is not None:
            settings = {"levels": [1.0], "colors": [WINDOW_COLOR], "linewidths": 2}
            self.window_ = ax.contour(*self.window_grid, self.distances.T, **settings)
            ax.plot([], [], color=WINDOW_COLOR, linewidth=2, label="one bandwidth away")
        self._draw_voters(*places, self.y[top], self.target_name, voter_kwargs)
        self._draw_prediction(*self.query)
        self.query_ = self.prediction_
        ax.set(xlabel=self.feature_names[0], ylabel=self.feature_names[1])
        name_places(ax.xaxis, self._names_along(0))
        name_places(ax.yaxis, self._names_along(1))

    def _names_along(self, axis: int) -> list[str] | None:
        return None if self.categories is None else self.categories[axis]

    def _places(self) -> list[np.ndarray]:
        return [spread_at_places(x, self._names_along(axis)) for axis, x in enumerate(self.X)]

    def _draw_rows(self, x, y) -> None:
        kept = spread_out(len(x), tuning.MOST_ROWS_DRAWN)
        style = {"s": _SMALLEST_MARK, "color": DATA_COLOR, "alpha": 0.7, "linewidth": 0}
        self.scatter_ = self.ax_.scatter(x[kept], y[kept], label="training rows", **style)

    def _draw_voters(self, x, y, colors, color_label: str, voter_kwargs: dict) -> None:
        top = self.voters_
        magnitudes = np.abs(self.weights[top])
        relative = magnitudes / magnitudes[0] if magnitudes[0] > 0 else np.zeros(len(top))
        style = {
            "s": _SMALLEST_MARK * (1 + 15 * relative),
            "c": colors,
            "cmap": COLOR_MAP,
            "edgecolor": text_color(),
            "linewidth": 0.6,
            "label": "largest weights",
            "zorder": 3,
            **voter_kwargs,
        }
        self.voters_scatter_ = self.ax_.scatter(x[top], y[top], **style)
        self.colorbar_ = self.figure_.colorbar(self.voters_scatter_, ax=self.ax_, label=color_label)

    def _draw_prediction(self, x: float, y: float) -> None:
        style = {"color": COLORS[1], "marker": "*", "markersize": 16, "linestyle": "none"}
        style |= {"markeredgecolor": text_color(), "markeredgewidth": 0.6, "zorder": 4}
        label = f"prediction {self.prediction:.4g}"
        (self.prediction_,) = self.ax_.plot([x], [y], label=label, **style)


# --- what is drawn -------------------------------------------------------------------------------


def _drawn_features(X, features, is_categorical: np.ndarray) -> list[int]:
    """Return the positions of the one or two features to draw."""
    if features is not None:
        return drawn_features(X, features, "features")
    return np.flatnonzero(~is_categorical)[:2].tolist() or [0]


def _grid(values: np.ndarray, query: float, n_drawn: int) -> np.ndarray:
    """Return a grid over the data and the query, and a little beyond."""
    ends = np.append(values, query)
    margin = 0.06 * np.ptp(ends)  # no mark is cut by the frame
    return np.linspace(ends.min() - margin, ends.max() + margin, tuning.POINTS_OF_A_WINDOW[n_drawn])


def _distances(model, prepare, query, grid: dict[int, np.ndarray]) -> np.ndarray | None:
    """Return distances in bandwidths from the query on a grid of features; None if unknown."""
    shape = tuple(len(values) for values in grid.values())
    table = grid_table(query, grid)
    if hasattr(model, "transform"):  # the embedding, in which the bandwidth is 1
        scaled = model.transform(prepare(table)) - model.transform(prepare(query))
        return np.linalg.norm(scaled, axis=1).reshape(shape)
    bandwidth = per_feature(model.bandwidth_, model.n_features_in_)
    is_categorical = categorical_mask(model)
    if bandwidth is None:
        return None
    if is_unchanged(prepare):  # the features that are not drawn do not differ
        drawn = list(grid)
        differences = [column_numbers(table, j) - column_numbers(query, j) for j in drawn]
        scaled = np.array(differences).T / bandwidth[drawn]
    elif is_categorical.any():
        return None
    else:
        scaled = (np.asarray(prepare(table)) - np.asarray(prepare(query))) / bandwidth
    return np.linalg.norm(scaled, axis=1).reshape(shape)
