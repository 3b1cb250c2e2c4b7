"""The criterion of a bandwidth search against the bandwidths that it tried."""

import numpy as np

from sknw.plotting._shared import (
    COLORS,
    DATA_COLOR,
    axes_grid,
    categorical_mask,
    default_names,
    labels_for,
    names_after,
    per_feature,
    required,
    unwrapped,
)
from sknw.support import tuning

_LABELS = {
    "loo": "leave-one-out loss",
    "loo_absolute": "leave-one-out absolute error",
    "aicc": "AICc",
    "gcv": "GCV",
}


class BandwidthPathDisplay:
    """Criterion at every bandwidth that a search tried, with the chosen one marked.

    Make one by `from_estimator`. With several features there is one panel for each; a dot is then a
    trial at which the other bandwidths differ too, and the lower edge of the cloud is what counts.

    Parameters
    ----------
    bandwidths : array-like of shape (n_evaluations, n_features) or (n_evaluations,)
        Bandwidths tried, in the units of X; for categorical features the weights λ.
    criteria : array-like of shape (n_evaluations,)
        Criterion at each; those not finite are not drawn.
    chosen : float or array-like of shape (n_features,), default=None
        The bandwidth chosen; None: the one with the lowest criterion.
    reached : float, default=None
        Criterion at `chosen`; None: the lowest.
    feature_names : str or list of str, default=None
        One per feature; None: ``x``, or ``x0``, ``x1``, ...
    is_categorical : array-like of bool of shape (n_features,), default=None
        Features whose bandwidth is a weight λ from 0 to 1; None: none.
    irrelevant : array-like of int, default=()
        Features that were found not to help.
    criterion_label : str, default="leave-one-out loss"
        Label of the axis.

    Attributes
    ----------
    trials_ : list of Line2D
        The trials, one per panel: connected where there is a single feature.
    chosen_ : list of Line2D
        Marks of the chosen bandwidth, one per panel.
    axes_ : ndarray of Axes of shape (n_features,)
        One per feature.
    ax_ : Axes
        The first of them.
    figure_ : Figure
        The figure.

    Examples
    --------
    >>> import numpy as np
    >>> from sknw import NadarayaWatsonRegressor
    >>> from sknw.datasets import make_attention_curve
    >>> from sknw.plotting import BandwidthPathDisplay
    >>> X, y, *_ = make_attention_curve(random_state=0)
    >>> tried = np.geomspace(0.05, 2, 30)
    >>> errors = [
    ...     np.mean((NadarayaWatsonRegressor(h).fit(X, y).predict_loo() - y) ** 2)
    ...     for h in tried
    ... ]
    >>> display = BandwidthPathDisplay(tried, errors, feature_names="x").plot()
    >>> display.chosen_[0].get_xdata()[0].round(3)
    np.float64(0.297)
    """

    def __init__(
        self,
        bandwidths,
        criteria,
        *,
        chosen=None,
        reached=None,
        feature_names=None,
        is_categorical=None,
        irrelevant=(),
        criterion_label="leave-one-out loss",
    ):
        self.bandwidths = bandwidths
        self.criteria = criteria
        self.chosen = chosen
        self.reached = reached
        self.feature_names = feature_names
        self.is_categorical = is_categorical
        self.irrelevant = irrelevant
        self.criterion_label = criterion_label

    @classmethod
    def from_estimator(cls, estimator):
        """Take what the search of a fitted estimator tried.

        Parameters
        ----------
        estimator : estimator
            A `NadarayaWatsonRegressor` whose bandwidth was searched, or a pipeline or search that
            ends in one.

        Returns
        -------
        display : BandwidthPathDisplay

        Raises
        ------
        AttributeError
            If no bandwidth was searched.
        ValueError
            If the search was for a number of neighbours.
        """
        model, _ = unwrapped(estimator)
        path = required(model, "search_path_", "fit with a bandwidth that is searched, as 'loo'")
        if "bandwidth" not in path:
            raise ValueError(
                "search_path_ must have bandwidths; that of a NeighborBandwidth has numbers of "
                "neighbours. Plot search_path_['n_neighbors'] against search_path_['criterion']."
            )
        report = getattr(model, "search_report_", {"criterion": "loo"})
        return cls(
            path["bandwidth"],
            path["criterion"],
            chosen=model.bandwidth_,
            reached=model.criterion_,
            feature_names=names_after(estimator, model),
            is_categorical=categorical_mask(model),
            irrelevant=getattr(model, "irrelevant_features_", ()),
            criterion_label=_LABELS.get(report["criterion"], report["criterion"]),
        )

    def plot(self, ax=None, **line_kwargs):
        """Draw the trials.

        Parameters
        ----------
        ax : Axes or array of Axes, default=None
            One per feature. None: a new figure.
        **line_kwargs : dict
            For the ``plot`` of the trials.

        Returns
        -------
        display : BandwidthPathDisplay
            With its artists as attributes.

        Raises
        ------
        ValueError
            If shapes do not agree, or no criterion is finite.
        """
        bandwidths, criteria = self._finite_trials()
        n_features = bandwidths.shape[1]
        lowest = np.argmin(criteria)
        chosen = bandwidths[lowest] if self.chosen is None else self.chosen
        chosen = _one_each("chosen", chosen, n_features)
        reached = criteria[lowest] if self.reached is None else self.reached
        names = default_names(n_features) if self.feature_names is None else self.feature_names
        names = labels_for(names, n_features, "feature_names", "feature")
        self.axes_ = self._axes(ax, n_features)
        self.trials_, self.chosen_ = [], []
        for j, axes in enumerate(self.axes_):
            order = np.argsort(bandwidths[:, j], kind="stable")
            style = {"color": COLORS[0], "marker": ".", "markersize": 6}
            style["linestyle"] = "-" if n_features == 1 else "none"
            self.trials_ += axes.plot(
                bandwidths[order, j], criteria[order], **{**style, "label": "tried", **line_kwargs}
            )
            axes.axvline(chosen[j], color=DATA_COLOR, linewidth=1, linestyle=":")
            style = {"color": COLORS[1], "marker": "D", "linestyle": "none", "label": "chosen"}
            self.chosen_ += axes.plot([chosen[j]], [reached], **style)
            axes.set_title(f"chosen: {chosen[j]:.4g}", color=COLORS[1])
            self._describe(axes, names[j], j)
        self.ax_ = self.axes_[0]
        self.figure_ = self.ax_.figure
        return self

    def _finite_trials(self) -> tuple[np.ndarray, np.ndarray]:
        """Return bandwidths (n, n_features) and criteria (n,) that are finite."""
        bandwidths = np.asarray(self.bandwidths, dtype=np.float64)
        bandwidths = bandwidths[:, None] if bandwidths.ndim == 1 else bandwidths
        criteria = np.asarray(self.criteria, dtype=np.float64)
        if bandwidths.ndim != 2 or criteria.shape != (len(bandwidths),):
            raise ValueError(
                "bandwidths must be (n_evaluations, n_features) and criteria (n_evaluations,); got "
                f"shapes {np.shape(self.bandwidths)} and {criteria.shape}."
            )
        finite = np.isfinite(criteria)
        if not finite.any():
            raise ValueError("criteria must hold a finite value; got none.")
        return bandwidths[finite], criteria[finite]

    def _axes(self, ax, n_features: int) -> np.ndarray:
        n_columns = min(n_features, tuning.PANELS_OF_A_ROW)
        n_rows = -(-n_features // n_columns)
        if ax is not None:
            return axes_grid(ax, 1, n_features, (0, 0)).ravel()
        axes = axes_grid(None, n_rows, n_columns, (3.2, 2.8), sharey=True).ravel()
        for spare in axes[n_features:]:
            spare.remove()
        return axes[:n_features]

    def _describe(self, axes, name: str, j: int) -> None:
        is_categorical = _is_in(self.is_categorical, j)
        if is_categorical:
            axes.set_xlim(-0.05, 1.05)
        else:
            axes.set_xscale("log")
        label = f"weight λ of {name}" if is_categorical else f"bandwidth of {name}"
        is_irrelevant = j in np.asarray(self.irrelevant, dtype=int)
        is_first = j % tuning.PANELS_OF_A_ROW == 0
        axes.set(
            xlabel=f"{label} (irrelevant)" if is_irrelevant else label,
            ylabel=self.criterion_label if is_first else "",
        )


def _is_in(mask, j: int) -> bool:
    return mask is not None and bool(mask[j])


def _one_each(name: str, values, n_features: int) -> np.ndarray:
    each = per_feature(values, n_features)
    if each is None:
        raise ValueError(
            f"{name} must be a number or have shape ({n_features},); got {np.shape(values)}."
        )
    return each
