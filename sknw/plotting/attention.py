"""Attention weights as heat maps: queries down, keys across."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import sparse
from sklearn import get_config
from sklearn.utils import gen_batches

from sknw.plotting._columns import (
    as_categories,
    as_table,
    categorical_columns,
    category_names,
    column_index,
    column_names,
    column_numbers,
    rows,
)
from sknw.plotting._shared import (
    COLOR_MAP,
    DIVERGING_COLOR_MAP,
    axes_grid,
    check_training_rows,
    labels_for,
    required,
    unwrapped,
)
from sknw.support import tuning


class AttentionDisplay:
    """Heat maps of attention weights: how much each training row counts in each prediction.

    Make one by `from_estimator` or `from_weights`. Every row of a map is one query; its weights on
    the keys (the training rows) sum to 1.

    Parameters
    ----------
    weights : array-like of shape (n_queries, n_keys) or (n_rows, n_columns, n_queries, n_keys)
        One map, or a grid of panels. Where queries or keys were put together in bins, the mean over
        the queries and the sum over the keys of each cell, so that rows still sum to 1.
    titles : list of str, default=None
        One per panel.
    n_queries, n_keys : int, default=None
        How many there were before binning; None: as many as in `weights`.
    query_values, key_values : ndarray of shape (n_queries,) and (n_keys,), default=None
        What they were sorted by, which the ticks then tell: numbers, or names of categories; None:
        ticks count rows.
    query_label, key_label : str
        What the axes show.
    attention_shown : float, default=1.0
        Share of all attention that is in `weights`, where only the largest were computed.

    Attributes
    ----------
    images_ : ndarray of AxesImage of shape (n_rows, n_columns)
        The maps.
    axes_ : ndarray of Axes of shape (n_rows, n_columns)
        Their axes.
    ax_ : Axes
        The first of them.
    colorbar_ : Colorbar
        The colour bar that they share.
    figure_ : Figure
        The figure.

    See Also
    --------
    NeighborhoodDisplay : One query's weights, drawn on the data.

    Examples
    --------
    >>> from sknw import NadarayaWatsonRegressor
    >>> from sknw.datasets import make_attention_curve
    >>> from sknw.plotting import AttentionDisplay
    >>> X, y, X_test, y_test = make_attention_curve(random_state=0)
    >>> model = NadarayaWatsonRegressor().fit(X, y)
    >>> display = AttentionDisplay.from_estimator(model, X_test).plot()
    >>> display.weights.shape
    (50, 50)
    >>> display.weights.sum(axis=1).round(6).max()
    np.float64(1.0)
    """

    def __init__(
        self,
        weights,
        *,
        titles=None,
        n_queries=None,
        n_keys=None,
        query_values=None,
        key_values=None,
        query_label="query",
        key_label="training row (key)",
        attention_shown=1.0,
    ):
        self.weights = weights
        self.titles = titles
        self.n_queries = n_queries
        self.n_keys = n_keys
        self.query_values = query_values
        self.key_values = key_values
        self.query_label = query_label
        self.key_label = key_label
        self.attention_shown = attention_shown

    @classmethod
    def from_estimator(
        cls, estimator, X=None, *, X_train=None, sort_by=None, max_bins=200, top_k=None
    ):
        """Compute the weights of queries on the training rows, in batches of queries.

        Parameters
        ----------
        estimator : estimator
            A fitted `NadarayaWatsonRegressor` or `ParametricNWRegressor`, or a pipeline or search
            that ends in one.
        X : array-like of shape (n_queries, n_features), default=None
            Queries. None: the training rows, each predicted from the others (leave-one-out).
        X_train : array-like of shape (n_keys, n_features), default=None
            The training rows, as they were given to fit; needed to sort by a feature, since
            estimators do not show theirs.
        sort_by : "prediction", int or str, default=None
            Queries and keys are sorted by their prediction (keys: the leave-one-out prediction), or
            by a feature, given by its position or name; by a categorical one in the order of its
            categories. None: as they come.
        max_bins : int, default=200
            Largest number of rows and of columns of the map; more queries or keys are put together.
        top_k : int, default=None
            Compute only the largest weights of each query; the colour bar then tells which share of
            all attention they have. Leave-one-out weights of many rows need it: None then takes as
            many as fit an eighth of scikit-learn's ``working_memory``.

        Returns
        -------
        display : AttentionDisplay

        Raises
        ------
        AttributeError
            If the estimator has no attention weights.
        ValueError
            If `X_train` is missing or not what the estimator was fitted on, or the feature is not
            there.
        """
        model, prepare = unwrapped(estimator)
        required(model, "attention_weights", "use an estimator of sknw")
        X, X_train = (None if rows is None else as_table(rows) for rows in (X, X_train))
        queries = None if X is None else prepare(X)
        n_keys = _n_keys(model, queries)
        n_queries = n_keys if X is None else len(X)
        if X_train is not None:
            check_training_rows(X_train, n_keys, "X_train")
        keys = queried = _Sorting.by(sort_by, estimator, None, X_train)
        if X is not None:
            queried = _Sorting.by(sort_by, estimator, queries, X)
        query_order = _order(queried.values, n_queries)
        blocks = _batches(model, queries, query_order, n_keys, top_k)
        to_keys = _key_bins(_order(keys.values, n_keys), max_bins)
        weights, shown = _binned(blocks, n_queries, to_keys, max_bins)
        return cls(
            weights,
            n_queries=n_queries,
            n_keys=n_keys,
            query_values=queried.told,
            key_values=keys.told,
            query_label=queried.label_of("training row left out" if X is None else "query"),
            key_label=keys.label_of("training row (key)"),
            attention_shown=shown,
        )

    @classmethod
    def from_weights(
        cls,
        weights,
        *,
        titles=None,
        query_values=None,
        key_values=None,
        query_label="query",
        key_label="training row (key)",
        max_bins=200,
    ):
        """Draw matrices of weights that are there already.

        Parameters
        ----------
        weights : array-like, sparse matrix, or sequence of them
            One matrix (n_queries, n_keys), a row of panels (n_columns, n_queries, n_keys), or a
            grid of them (n_rows, n_columns, n_queries, n_keys).
        titles : str or sequence of str, default=None
            One per panel.
        query_values, key_values : array-like of shape (n_queries,) and (n_keys,), default=None
            Queries and keys are sorted by them, and the ticks tell them.
        query_label, key_label : str
            What the axes show.
        max_bins : int, default=200
            Largest number of rows and of columns of a map; more queries or keys are put together.

        Returns
        -------
        display : AttentionDisplay

        Raises
        ------
        ValueError
            If shapes do not agree.
        """
        panels = _as_panels(weights)
        n_rows, n_columns, n_queries, n_keys = panels.shape
        values = {"query_values": (query_values, n_queries), "key_values": (key_values, n_keys)}
        for name, (given, n) in values.items():
            if given is not None and np.shape(given) != (n,):
                raise ValueError(f"{name} must have shape ({n},); got {np.shape(given)}.")
        query_order = _order(query_values, n_queries)
        to_keys = _key_bins(_order(key_values, n_keys), max_bins)
        maps = [
            _binned([(slice(0, n_queries), panel[query_order])], n_queries, to_keys, max_bins)[0]
            for panel in panels.reshape(-1, n_queries, n_keys)
        ]
        return cls(
            np.reshape(maps, (n_rows, n_columns, *maps[0].shape)),
            titles=None if titles is None else labels_for(titles, len(maps), "titles", "panel"),
            n_queries=n_queries,
            n_keys=n_keys,
            query_values=_sorted(query_values),
            key_values=_sorted(key_values),
            query_label=query_label,
            key_label=key_label,
        )

    def plot(self, ax=None, **imshow_kwargs):
        """Draw the maps on one colour scale.

        Parameters
        ----------
        ax : Axes or array of Axes, default=None
            One per panel. None: a new figure.
        **imshow_kwargs : dict
            For matplotlib's ``imshow``: ``cmap``, ``norm``, ``vmin``, ``vmax``, ``aspect``, ... By
            default colours run linearly from 0 to the largest weight in any panel; where weights
            are negative, as some are with a `degree` above zero, white is 0.

        Returns
        -------
        display : AttentionDisplay
            With its artists as attributes.
        """
        panels = _as_panels(self.weights)
        n_rows, n_columns = panels.shape[:2]
        n_queries = panels.shape[2] if self.n_queries is None else self.n_queries
        n_keys = panels.shape[3] if self.n_keys is None else self.n_keys
        sharing = {"sharex": True, "sharey": True}
        size = min(3.2, tuning.WIDEST_FIGURE / n_columns), 2.9
        self.axes_ = axes_grid(ax, n_rows, n_columns, size, **(sharing if ax is None else {}))
        settings = {
            "cmap": COLOR_MAP,
            "aspect": "auto",
            "interpolation": "nearest",
            "extent": (-0.5, n_keys - 0.5, n_queries - 0.5, -0.5),
            **_shared_scale(panels, imshow_kwargs),
        }
        n_ticks = 6 if self.axes_.size == 1 else 4
        self.images_ = np.empty((n_rows, n_columns), dtype=object)
        for place, axes in np.ndenumerate(self.axes_):
            self.images_[place] = axes.imshow(panels[place], **settings)
            axes.set(xlabel=self.key_label, ylabel=self.query_label)
            _label_ticks(axes.xaxis, self.key_values, n_ticks)
            _label_ticks(axes.yaxis, self.query_values, n_ticks)
            if ax is None:
                axes.label_outer()
        if self.titles is not None:
            titles = labels_for(self.titles, self.axes_.size, "titles", "panel")
            for axes, title in zip(self.axes_.flat, titles, strict=True):
                axes.set_title(title)
        self.ax_ = self.axes_[0, 0]
        self.figure_ = self.ax_.figure
        is_binned = panels.shape[2:] != (n_queries, n_keys)
        self.colorbar_ = self.figure_.colorbar(
            self.images_[0, 0], ax=list(self.axes_.flat), label=self._weight_label(is_binned)
        )
        return self

    def _weight_label(self, is_binned: bool) -> str:
        label = "weight of a cell" if is_binned else "attention weight"
        if self.attention_shown > 0.9995:
            return f"{label} (rows sum to 1)"
        return f"{label} ({self.attention_shown:.1%} of all)"


# --- what is drawn -------------------------------------------------------------------------------


def _as_panels(weights) -> np.ndarray:
    """Return weights as (n_rows, n_columns, n_queries, n_keys)."""
    if sparse.issparse(weights):
        weights = weights.toarray()
    elif isinstance(weights, (list, tuple)):
        weights = [one.toarray() if sparse.issparse(one) else one for one in weights]
    try:
        panels = np.asarray(weights, dtype=np.float64)
    except ValueError:
        raise ValueError("All matrices of weights must be numeric and of one shape.") from None
    if not 2 <= panels.ndim <= 4 or panels.size == 0:
        raise ValueError(
            "weights must be a matrix (queries, keys), a row of them or a grid (rows, columns, "
            f"queries, keys), none of them 0; got shape {panels.shape}."
        )
    return panels.reshape((1,) * (4 - panels.ndim) + panels.shape)


def _shared_scale(panels: np.ndarray, imshow_kwargs: dict) -> dict:
    """Return settings in which colours run from 0 to the largest weight in any panel.

    Of weights some of which are negative, from minus the largest magnitude to that.
    """
    largest = np.nanmax(panels)
    if imshow_kwargs.get("norm") is None:
        if np.nanmin(panels) < 0:  # the equivalent kernel's, of local polynomials
            largest = np.nanmax(np.abs(panels))
            ends = {"vmin": -largest, "vmax": largest, "cmap": DIVERGING_COLOR_MAP}
            return {**ends, **imshow_kwargs}
        return {"vmin": 0.0, "vmax": largest, **imshow_kwargs}
    if isinstance(imshow_kwargs["norm"], str):
        return {"vmax": largest, **imshow_kwargs}
    norm = copy.copy(imshow_kwargs["norm"])
    norm.autoscale_None([0.0, largest])
    return {**imshow_kwargs, "norm": norm}


def _n_keys(model, queries) -> int:
    """Return the number of training rows."""
    if queries is None:
        return len(model.predict_loo())
    return model.attention_weights(rows(queries, np.array([0])), top_k=1).shape[1]


@dataclass(frozen=True)
class _Sorting:
    """What rows are sorted by: a number for each, what ticks tell of these in order, its name."""

    values: np.ndarray | None = None
    told: np.ndarray | None = None
    name: str | None = None

    @classmethod
    def by(cls, sort_by, estimator, queries, X) -> "_Sorting":
        """Sort rows X, prepared as `queries`; None means the training rows."""
        if sort_by is None:
            return cls()
        if isinstance(sort_by, str) and sort_by == "prediction":
            values = _predictions(estimator, queries)
            return cls(values, np.sort(values), "prediction")
        if X is None:
            raise ValueError(
                f"sort_by={sort_by!r} sorts the training rows too; give them as X_train=..."
            )
        j = column_index(X, sort_by)
        name = column_names(X)[j]
        if not categorical_columns(X, [estimator])[j]:
            values = column_numbers(X, j)
            return cls(values, np.sort(values), name)
        codes, categories = as_categories(X, j)
        return cls(codes, np.array(category_names(categories))[np.sort(codes)], name)

    def label_of(self, what: str) -> str:
        """Return the label of an axis."""
        return what if self.name is None else f"{self.name} of {what}"


def _predictions(estimator, queries) -> np.ndarray:
    model, _ = unwrapped(estimator)
    values = model.predict_loo() if queries is None else model.predict(queries)
    if values.ndim > 1:
        raise ValueError(
            f"sort_by='prediction' needs one output; got {values.shape[1]}. Sort by a feature, "
            "or give values to from_weights."
        )
    return values


def _batches(model, queries, order, n_keys: int, top_k) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield places in the order of queries with their weights, never all at once."""
    memory = tuning.MEMORY_OF_A_DISPLAY * get_config()["working_memory"] * 2**20
    dense, sparse_and_index = 8, 16  # bytes of a weight
    if queries is None:
        fitting = int(memory / sparse_and_index / n_keys)
        if top_k is None and n_keys**2 * dense > memory:
            top_k = int(np.clip(fitting, 1, n_keys))
        yield slice(0, n_keys), model.attention_weights(top_k=top_k)[order]
        return
    size = max(1, int(memory / dense / n_keys))
    for batch in gen_batches(len(order), size):
        yield batch, model.attention_weights(rows(queries, order[batch]), top_k=top_k)


def _binned(blocks, n_queries: int, to_keys, max_bins: int) -> tuple[np.ndarray, float]:
    """Return sums over bins of keys and means over bins of queries; and the mean row sum."""
    bins = _bin_of(n_queries, max_bins)
    counts = np.bincount(bins)
    total = np.zeros((len(counts), to_keys.shape[1]))
    for places, block in blocks:
        per_key_bin = block @ to_keys  # (b, n_keys) @ (n_keys, k_bins)
        if sparse.issparse(per_key_bin):
            per_key_bin = per_key_bin.toarray()
        np.add.at(total, bins[places], per_key_bin)
    return total / counts[:, None], float(total.sum() / n_queries)


def _key_bins(order: np.ndarray, max_bins: int) -> sparse.csr_array:
    """Return the matrix (n_keys, k_bins) that sums columns into bins of the order."""
    bins = _bin_of(len(order), max_bins)
    return sparse.csr_array((np.ones(len(order)), (order, bins)))


def _bin_of(n: int, max_bins: int) -> np.ndarray:
    """Return the bin of each of n places, bins differing by one place at most."""
    return np.arange(n) * min(n, max_bins) // n


def _order(values, n: int) -> np.ndarray:
    return np.arange(n) if values is None else np.argsort(values, kind="stable")


def _sorted(values):
    return None if values is None else np.sort(values)


def _label_ticks(axis, values, n_ticks: int) -> None:
    """Count rows at the ticks, or tell what they were sorted by."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(n_ticks, integer=True))
    if values is not None:
        axis.set_major_formatter(FuncFormatter(partial(_value_at, np.asarray(values))))


def _value_at(values: np.ndarray, place: float, _tick: int) -> str:
    """Return the value at a place in the order, numbers to a hundredth of the range."""
    if not -0.5 <= place <= len(values) - 0.5:
        return ""
    value = values[min(max(round(place), 0), len(values) - 1)]
    if values.dtype.kind not in "iuf":  # names of categories
        return str(value)
    extent = values[-1] - values[0]
    decimals = 2 - math.floor(math.log10(extent)) if extent > 0 else 2
    return f"{round(value, decimals) + 0.0:.{max(decimals, 0)}f}"  # + 0.0: never -0
