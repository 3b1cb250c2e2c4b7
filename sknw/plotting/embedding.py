"""The learned space, coloured by the target."""

import numpy as np
from sklearn.decomposition import PCA

from sknw.plotting._columns import as_table, rows, spread_out
from sknw.plotting._shared import (
    COLOR_MAP,
    DATA_COLOR,
    new_axes,
    required,
    target_column,
    unwrapped,
)


class EmbeddingDisplay:
    """Rows in the space that an estimator learned, where attention depends on distance alone.

    Make one by `from_estimator`. The unit is the bandwidth: two rows a unit apart give each other
    ``K(1)`` of the weight that they give themselves, 61 % for the Gaussian kernel.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_shown)
        One or two coordinates of each row.
    y : ndarray of shape (n_rows,)
        Targets.
    labels : list of str
        One per coordinate.
    target_name : str, default="y"
        What colours (and, for one coordinate, heights) show.

    Attributes
    ----------
    scatter_ : PathCollection
        The rows.
    colorbar_ : Colorbar
        Of the targets.
    ax_ : Axes
        The axes.
    figure_ : Figure
        The figure.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sknw import ParametricNWRegressor
    >>> from sknw.plotting import EmbeddingDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = ParametricNWRegressor(n_starts=1, max_iter=5, tol=1e-2).fit(
    ...     X[:, :4], y
    ... )
    >>> display = EmbeddingDisplay.from_estimator(model, X[:, :4], y).plot()
    >>> display.Z.shape
    (442, 2)
    """

    def __init__(self, Z, y, *, labels, target_name="y"):
        self.Z = Z
        self.y = y
        self.labels = labels
        self.target_name = target_name

    @classmethod
    def from_estimator(cls, estimator, X, y, *, components=None, max_points=2000):
        """Transform rows.

        Parameters
        ----------
        estimator : estimator
            A fitted estimator with ``transform``: `ParametricNWRegressor`, or a pipeline or search
            that ends in one.
        X : array-like of shape (n_rows, n_features)
            Rows.
        y : array-like of shape (n_rows,)
            Their targets.
        components : pair of int, default=None
            The coordinates drawn. None: the only ones; if there are more than two, the two
            principal axes, which turn the space but change no distance in it.
        max_points : int, default=2000
            Draw at most as many rows, evenly spread.

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        AttributeError
            If the estimator has no ``transform``.
        ValueError
            If shapes do not agree, or there are no such components.
        """
        model, prepare = unwrapped(estimator)
        required(model, "transform", "only learned metrics, as in ParametricNWRegressor, embed")
        X = as_table(X)
        target_name = str(getattr(y, "name", None) or "y")
        y = target_column(y, len(X))
        kept = spread_out(len(X), max_points)
        Z, labels = _coordinates(model.transform(prepare(rows(X, kept))), components)
        return cls(Z, y[kept], labels=labels, target_name=target_name)

    def plot(self, ax=None, **scatter_kwargs):
        """Draw the rows.

        Parameters
        ----------
        ax : Axes, default=None
            None: a new figure.
        **scatter_kwargs : dict
            For the ``scatter``.

        Returns
        -------
        display : EmbeddingDisplay
            With its artists as attributes.
        """
        self.ax_ = ax = new_axes(ax)
        self.figure_ = ax.figure
        is_plane = self.Z.shape[1] == 2
        style = {"c": self.y, "cmap": COLOR_MAP, "s": 22}
        style |= {"edgecolor": DATA_COLOR, "linewidth": 0.4}  # seen on light and on dark pages
        heights = self.Z[:, 1] if is_plane else self.y
        self.scatter_ = ax.scatter(self.Z[:, 0], heights, **{**style, **scatter_kwargs})
        ax.set(xlabel=self.labels[0], ylabel=self.labels[1] if is_plane else self.target_name)
        if is_plane:
            ax.set_aspect("equal", adjustable="datalim")  # distances can be read in any direction
        self.colorbar_ = self.figure_.colorbar(self.scatter_, ax=ax, label=self.target_name)
        return self


def _coordinates(Z: np.ndarray, components) -> tuple[np.ndarray, list[str]]:
    """Return one or two coordinates (n_rows, n_shown) of the embedding, and their labels."""
    n_components = Z.shape[1]
    if components is not None:
        components = list(components)
        if len(components) != 2 or not all(0 <= j < n_components for j in components):
            raise ValueError(
                f"components must be two of the {n_components} coordinates, from 0; got "
                f"{components}."
            )
        return Z[:, components], [f"component {j} (bandwidths)" for j in components]
    if n_components <= 2:
        return Z, [f"component {j} (bandwidths)" for j in range(n_components)]
    pca = PCA(2, svd_solver="full").fit(Z)
    shares = pca.explained_variance_ratio_
    labels = [
        f"principal axis {i + 1} (bandwidths; {share:.0%} of variance)"
        for i, share in enumerate(shares)
    ]
    return pca.transform(Z), labels
