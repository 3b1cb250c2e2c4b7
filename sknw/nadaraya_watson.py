"""Nadaraya-Watson regression: a bandwidth per feature, found by a rule or by leave-one-out."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sknw._base import BaseNadarayaWatson
from sknw.bandwidth import (
    NeighborBandwidth,
    Selection,
    aitchison_aitken,
    resolve_bandwidth,
)
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.smoothing.windows import NeighborWindows, Windows
from sknw.support.progress import Progress
from sknw.support.state import question

_OF_A_SEARCH = (
    "criterion_", "search_report_", "search_path_", "irrelevant_features_",
    "linear_features_", "n_neighbors_", "_neighbor_windows",
)  # fmt: skip


class NadarayaWatsonRegressor(BaseNadarayaWatson):
    """Nadaraya-Watson kernel regression (nonparametric attention pooling).

    Predicts the locally weighted mean ``f(x) = Σ_i α(x, x_i) y_i``, with attention weights
    ``α = softmax_i(log K(‖(x − x_i)/h‖))`` for a kernel K and a bandwidth h per feature.

    Parameters
    ----------
    bandwidth : float, array-like of shape (n_features,), str, BandwidthSearch or \
            NeighborBandwidth, default="loo"
        Width h of the window in the units of X; nothing is standardised.

        - a positive number: the same for every feature; an array: one per feature, for a
          categorical one λ between 0 (exact match) and 1 (irrelevant);
        - ``"loo"``, ``"loo_absolute"``, ``"aicc"``, ``"gcv"``: one per feature, minimising that
          criterion: `BandwidthSearch` tells which is which, and has settings. A feature that does
          not help ends at its upper bound, many times its range. Above 20,000 rows the criterion
          is that of a random subset of the rows (at least 5,000), each predicted from *all*
          others: `search_report_` tells how many;
        - ``"scott"``: ``σ_j n^(−1/(d+4))``, ``"silverman"``: that times
          ``(4/(d+2))^(1/(d+4))``, both times the kernel's canonical factor; σ_j is the weighted
          standard deviation and n Kish's effective number of observations;
        - a `NeighborBandwidth`: the distance to the k-th nearest training row.
    kernel : str or callable, default="gaussian"
        Of the scaled distance ``u = ‖(x − x_i)/h‖``: ``"gaussian"`` ``exp(−u²/2)``,
        ``"exponential"`` ``exp(−u)``; with support u < 1: ``"cosine"`` ``cos(πu/2)``,
        ``"epanechnikov"`` ``1 − u²``, ``"tophat"`` ``1``, ``"linear"`` ``1 − u``, ``"biweight"``
        ``(1 − u²)²``, ``"triweight"`` ``(1 − u²)³``, ``"tricube"`` ``(1 − u³)³``. A callable takes
        a torch tensor of u >= 0 and returns weights >= 0 of the same shape.
    degree : int, default=0
        Degree of the local polynomials, 0 to 3. 0: locally weighted means. Above it, a polynomial
        of the numeric features is fitted by weighted least squares about each query, and predicts
        its value there [5]_: no bias at the ends of the data, slopes as they are (`gradient`), but
        predictions may leave the range of y. Where the rows in reach do not determine it well, it
        is mixed with the polynomial of the lower degree: `sums_report_` counts such queries as
        ``rows_lowered``. Computed in float64.
    categorical_features : "from_dtype", None, dict or array-like, default="from_dtype"
        Which features are categories. ``"from_dtype"``: categorical and text columns of a data
        frame (pandas or polars; ordered if the pandas dtype is); None: none. Else names, indices
        or a boolean mask, or a dict of a name or an index to ``"unordered"`` or ``"ordered"``
        (numbers in their order, an ordered dtype in its own). An unordered mismatch has the
        weight λ, an ordered one ``λ^steps`` (Li and Racine [4]_); under other kernels than the
        Gaussian the same distance, ``−2 log λ`` squared, counts. With one number as the bandwidth,
        ``λ = exp(−1/(2h²))``. Missing values are a category of their own if fit sees any.
    duplicates : {"auto", "keep", "merge"}, default="auto"
        What rows that are equal in every feature and every output are to leave-one-out, to whatever
        minimises it, and to formulas with the number of rows. ``"keep"``: observations of their
        own. ``"merge"``: copies of one observation with their summed weight, left out together.
        ``"auto"``: each group of equal rows is taken for copies where coincidences cannot be chance
        (a bootstrap sample), and for observations where they are to be expected (a yes or no on
        whole years). Predictions at a given bandwidth do not depend on it.
    algorithm : {"auto", "dense", "blocks", "nufft", "sorted"}, default="auto"
        How kernel sums are computed. ``"dense"``: all pairs, exact to rounding. ``"blocks"``: rows
        are sorted into compact blocks, and only pairs of blocks that matter are evaluated; exact
        for compact kernels. ``"nufft"``: non-uniform fast Fourier transforms, for the Gaussian in
        at most three dimensions in float64 on a CPU; its error is audited on exact sums, and
        queries for which it is not good enough are done again exactly. ``"sorted"``: one sweep over
        sorted rows, exact to rounding, for one numeric feature and every named kernel but the
        Gaussian; it needs numba. ``"auto"``: the one that should be fastest. All stay within
        scikit-learn's ``working_memory``; with numba installed, pairs are evaluated by compiled
        loops.
    rtol : float, default=1e-8
        Largest difference of a prediction from the exact one, relative to the range of y, whatever
        the algorithm and in the tails too. Rounding comes on top: that of float32, and for queries
        at u bandwidths from the rows that of ``x/h``, about ``1e-16 u`` times the distance between
        rows in bandwidths.
    empty_neighborhood : {"nearest", "mean", "nan", "raise"}, default="nearest"
        Prediction where no training row is in reach of a compact kernel: the nearest row's value
        (the limit that a Gaussian has), the mean of y, NaN, or a ValueError. A warning counts such
        queries. While a bandwidth is searched, ``"nan"`` and ``"raise"`` count as ``"mean"``.
    device : str, torch.device or None, default=None
        Where to compute. None: the CPU, or the device of X if it is a torch tensor; ``"auto"``: the
        best accelerator; else as named.
    random_state : int, RandomState instance or None, default=None
        Draws the subsample on which a search tries its starts when there are more than 400 rows,
        some of its starts, and the rows that it holds out when there are more than 20,000. None is
        a fixed seed: fitting is deterministic.
    verbose : int, default=0
        Above 0, print what a bandwidth search is doing, at the end of each stage and about every
        second, and what it found.

    Attributes
    ----------
    bandwidth_ : float or ndarray of shape (n_features,)
        The bandwidth used, λ for a categorical feature; a float where all features have the same.
        For a `NeighborBandwidth` that at each training row, (n_samples,).
    criterion_ : float
        Value of the criterion at `bandwidth_`; for ``"loo"`` the weighted mean squared error of
        `predict_loo`; with several outputs, the mean over outputs of each one's error over its
        weighted variance. Above 20,000 rows it is that of the rows that were held out. Only after
        a search, as the next three.
    irrelevant_features_ : ndarray of int
        Indices of the features whose bandwidth ended at the upper bound, and which therefore do
        not matter.
    linear_features_ : ndarray of int
        Indices of the features whose bandwidth ended there too, but which matter: with a `degree`
        above zero, their part of the local line (or polynomial) is the same everywhere.
    feature_importances_ : ndarray of shape (n_features,)
        Importance of each feature to the distance, with a sum of one.
    search_path_ : dict of ndarray
        Every ``"bandwidth"`` (n_evaluations, n_features) at which the criterion was computed in
        the last stage of the search, in this order, and its ``"criterion"`` (n_evaluations,). For
        a `NeighborBandwidth`: ``"n_neighbors"`` and ``"criterion"``.
    search_report_ : dict
        What the search looked at: the ``criterion``, ``n_rows`` (observations), ``n_held_out``
        (rows whose predictions make the criterion), ``n_evaluations`` and the ``algorithm`` of its
        sums.
    n_observations_ : int
        Number of observations: rows of positive weight, copies counted once.
    duplicates_ : dict of str to int
        How many rows that have equals were kept as observations (``"keep"``), and how many were
        merged as copies (``"merge"``).
    n_neighbors_ : int
        The number of neighbours. Only for a `NeighborBandwidth`.
    is_categorical_ : ndarray of bool of shape (n_features,) or None
        Mask of the categorical features; None if there are none.
    algorithm_ : str
        The algorithm of the kernel sums, for as many queries as training rows.
    sums_report_ : dict
        How the latest prediction was done: ``algorithm``, ``evaluator``, ``n_queries``, ``n_keys``,
        ``share_of_pairs`` evaluated one by one, ``rows_redone`` exactly, ``audited_error``.
    device_ : str
        The device of the fit.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where X has string column names.

    See Also
    --------
    ParametricNWRegressor : Learns the scale of each feature by gradient descent.

    Notes
    -----
    Leave-one-out removes one observation with its whole weight. Copies of a row are one
    observation, so a copied row cannot make its own leave-one-out error vanish; `duplicates` tells
    which rows are copies.

    References
    ----------
    .. [1] E. A. Nadaraya, "On estimating regression", Theory of Probability and its Applications
           9(1), 1964.
    .. [2] G. S. Watson, "Smooth regression analysis", Sankhyā A 26(4), 1964.
    .. [3] W. Härdle and J. S. Marron, "Optimal bandwidth selection in nonparametric regression
           function estimation", Annals of Statistics 13(4), 1985.
    .. [4] Q. Li and J. S. Racine, "Nonparametric estimation of regression functions with both
           categorical and continuous data", Journal of Econometrics 119(1), 2004.
    .. [5] J. Fan and I. Gijbels, "Local Polynomial Modelling and Its Applications", Chapman and
           Hall, 1996.

    Examples
    --------
    >>> from sknw import NadarayaWatsonRegressor
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 4.0, 9.0]
    >>> model = NadarayaWatsonRegressor(bandwidth=0.5).fit(X, y)
    >>> model.predict([[1.0], [1.5]]).round(3)
    array([1.215, 2.536])
    >>> model.attention_weights([[1.0]]).round(3)
    array([[0.106, 0.787, 0.106, 0.   ]])
    """

    def __init__(
        self,
        bandwidth="loo",
        *,
        kernel="gaussian",
        degree=0,
        categorical_features="from_dtype",
        duplicates="auto",
        algorithm="auto",
        rtol=1e-8,
        empty_neighborhood="nearest",
        device=None,
        random_state=None,
        verbose=0,
    ):
        self.bandwidth = bandwidth
        self.kernel = kernel
        self.degree = degree
        self.categorical_features = categorical_features
        self.duplicates = duplicates
        self.algorithm = algorithm
        self.rtol = rtol
        self.empty_neighborhood = empty_neighborhood
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        """Say that windows by neighbours are of numbers alone."""
        tags = super().__sklearn_tags__()
        if isinstance(self.bandwidth, NeighborBandwidth):
            tags.input_tags.categorical = tags.input_tags.string = False
        return tags

    def _fit_metric(self, task: LeaveOneOut, random_state: np.random.RandomState) -> None:
        selection = resolve_bandwidth(self.bandwidth, self._observations, task, random_state)
        for name in _OF_A_SEARCH:
            vars(self).pop(name, None)
        windows = selection.windows
        if isinstance(windows, NeighborWindows):
            _check_neighbor_algorithm(self.algorithm)
            self._neighbor_windows, self.n_neighbors_ = windows, windows.n_neighbors
            self.bandwidth_ = self._of_rows(windows.radii)
        else:
            self.bandwidth_ = self._observations.features.bandwidth(windows.widths)
        if selection.criterion is not None:
            self._keep_findings(selection, task.progress)

    def _keep_findings(self, selection: Selection, progress: Progress) -> None:
        self.criterion_ = selection.criterion
        self.search_report_ = selection.report
        path = dict(selection.path)
        if "widths" in path:
            path = {"bandwidth": self._observations.features.bandwidth(path.pop("widths")), **path}
            self.irrelevant_features_ = selection.irrelevant
            self.linear_features_ = selection.linear
        self.search_path_ = path
        name = "n_neighbors" if "n_neighbors" in path else "bandwidth"
        criterion = selection.report["criterion"]
        progress.say(
            f"{name} {getattr(self, f'{name}_')}, criterion {criterion!r} {self.criterion_:.6g}"
        )

    def _of_rows(self, of_observations: np.ndarray) -> np.ndarray:
        """Return for each training row what its observation has; NaN for weightless rows."""
        observations = self._observations
        return np.append(of_observations, np.nan)[observations.group]  # the last for group -1

    @property
    def _windows(self) -> Windows:
        return vars(self).get("_neighbor_windows") or super()._windows

    @question
    def aitchison_aitken(self):
        """Return what Aitchison and Aitken's kernel calls the λ of the unordered features.

        `sknw.bandwidth.aitchison_aitken` of the λ of `bandwidth_`.

        Returns
        -------
        lambdas : ndarray of shape (n_features,)
            NaN for every other feature.
        """
        check_is_fitted(self)
        lambdas = np.full(self.n_features_in_, np.nan)
        for index, categories in self._observations.features.categories.items():
            if not categories.ordered:
                lambdas[index] = aitchison_aitken(self.bandwidth_[index], categories.n_categories)
        return lambdas

    def _feature_scales(self) -> np.ndarray:
        windows = self._windows
        if isinstance(windows, NeighborWindows):  # they differ: the typical one
            return np.full(self.n_features_in_, 1 / np.median(windows.radii))
        with np.errstate(divide="ignore"):
            scales = 1 / np.asarray(windows.widths)
        return np.broadcast_to(scales, (self.n_features_in_,))


def _check_neighbor_algorithm(algorithm: str) -> None:
    if algorithm not in ("auto", "dense"):
        raise ValueError(
            f"algorithm must be 'auto' or 'dense' for a NeighborBandwidth, whose windows differ; "
            f"got {algorithm!r}."
        )
