"""The leave-one-out loss over the steps of a training."""

from sknw.plotting._shared import (
    as_list,
    checked_names,
    labels_for,
    line_style,
    new_axes,
    required,
    unwrapped,
)
from sknw.support import tuning


class LossCurveDisplay:
    """Loss at each step of one or several trainings, and the loss that was reached.

    Make one by `from_estimator`.

    Parameters
    ----------
    loss_curves : list of sequence of float
        One per training; entry t is the loss before step t + 1.
    best_losses : list of float, default=None
        The loss at the parameters that each training kept.
    names : str or list of str, default=None
        One per training.
    loss_label : str, default="leave-one-out loss"
        Label of the axis. The losses of sknw are mean squared errors in squared units of y; with
        several outputs, means of each one's error over its variance.

    Attributes
    ----------
    lines_ : list of Line2D
        One per training.
    best_ : list of Line2D
        Horizontal lines at the losses reached.
    ax_ : Axes
        The axes.
    figure_ : Figure
        The figure.

    Examples
    --------
    >>> from sknw import ParametricNWRegressor
    >>> from sknw.datasets import make_attention_curve
    >>> from sknw.plotting import LossCurveDisplay
    >>> X, y, *_ = make_attention_curve(random_state=0)
    >>> model = ParametricNWRegressor("scalar", bandwidth=1.0).fit(X, y)
    >>> display = LossCurveDisplay.from_estimator(model).plot()
    >>> len(display.lines_[0].get_xdata()) == model.n_iter_
    True
    """

    def __init__(
        self, loss_curves, *, best_losses=None, names=None, loss_label="leave-one-out loss"
    ):
        self.loss_curves = loss_curves
        self.best_losses = best_losses
        self.names = names
        self.loss_label = loss_label

    @classmethod
    def from_estimator(cls, estimator, *, names=None):
        """Take the losses of fitted estimators.

        Parameters
        ----------
        estimator : estimator or list of estimators
            With a ``loss_curve_``: a fitted `ParametricNWRegressor`, a pipeline or search that ends
            in one, or another trained estimator.
        names : str or list of str, default=None
            One per estimator; None: their classes.

        Returns
        -------
        display : LossCurveDisplay

        Raises
        ------
        AttributeError
            If an estimator has no loss curve.
        """
        estimators = as_list(estimator)
        models = [unwrapped(one)[0] for one in estimators]
        remedy = "only estimators that train by steps, such as ParametricNWRegressor, have one"
        curves = [list(required(model, "loss_curve_", remedy)) for model in models]
        return cls(
            curves,
            best_losses=[getattr(model, "best_loss_", None) for model in models],
            names=checked_names(names, estimators),
        )

    def plot(self, ax=None, **line_kwargs):
        """Draw the losses.

        Parameters
        ----------
        ax : Axes, default=None
            None: a new figure.
        **line_kwargs : dict
            For the ``plot`` of the curves.

        Returns
        -------
        display : LossCurveDisplay
            With its artists as attributes.
        """
        n = len(self.loss_curves)
        names = [None] * n if self.names is None else labels_for(self.names, n, "names", "curve")
        best_losses = [None] * n if self.best_losses is None else self.best_losses
        self.ax_ = ax = new_axes(ax)
        self.figure_ = ax.figure
        self.lines_, self.best_ = [], []
        for i, curve in enumerate(self.loss_curves):
            marker = "o" if len(curve) <= tuning.MOST_STEPS_MARKED else None
            label = _label(names[i], best_losses[i])
            style = {**line_style(i), "marker": marker, "markersize": 4, "label": label}
            (line,) = ax.plot(range(len(curve)), curve, **{**style, **line_kwargs})
            self.lines_.append(line)
            if best_losses[i] is not None:
                style = {"color": line.get_color(), "linewidth": 1, "linestyle": ":"}
                self.best_.append(ax.axhline(best_losses[i], **style))
        ax.set(xlabel="steps taken", ylabel=self.loss_label)
        ax.xaxis.get_major_locator().set_params(integer=True)
        if self.best_ or self.names is not None:
            ax.legend()
        return self


def _label(name: str | None, best: float | None) -> str | None:
    """Return the name of a training and the loss that it reached, as far as they are known."""
    parts = [name, None if best is None else f"{best:.4g} reached"]
    return ": ".join(part for part in parts if part) or None
