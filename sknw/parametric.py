"""Parametric Nadaraya-Watson regression: the metric inside the softmax is learned."""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from sknw._base import BaseNadarayaWatson
from sknw._validation import validate_queries
from sknw.bandwidth import NeighborBandwidth, resolve_bandwidth
from sknw.data.arrays import to_numpy
from sknw.data.features import Features
from sknw.fitting.leave_one_out import LeaveOneOut, with_kernel
from sknw.fitting.subsets import in_compact_order
from sknw.metrics import METRICS, Metric, ModuleMetric, ScaleMetric, learned
from sknw.support.compat import Interval, StrOptions
from sknw.support.progress import Progress
from sknw.support.random import NoDraws
from sknw.support.state import question
from sknw.support.warnings import MetricWarning, warn_user
from sknw.training import SOLVERS, Config, Result, Settings, Solver, diagnose, train


class ParametricNWRegressor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseNadarayaWatson):
    """Nadaraya-Watson regression with learned attention (parametric attention pooling).

    Predicts ``f(x) = Σ_i softmax_i(log K(‖z(x) − z(x_i)‖)) y_i`` for a learned embedding z; for the
    Gaussian kernel the softmax is of ``−½‖z(x) − z(x_i)‖²``. With u the rows less their centre, in
    units of the bandwidth h, the embedding is ``w u`` (scalar), ``w ∘ u`` (diagonal), ``W u``
    (full) or ``W u + network(u)`` (mlp). Its weights minimise the leave-one-out squared error:
    every training row is predicted from all the others. The textbook's model is
    ``metric="scalar", bandwidth=1.0, solver="sgd", max_iter=5, learning_rate_init=0.5 * n`` (the
    textbook sums the loss over its n rows, here it is the mean).

    Training goes up from the simplest metric: each starts where the simpler one ended and, without
    `early_stopping`, never ends above its leave-one-out loss (plus penalty, with `alpha`); with
    fewer components, never above that of the simpler one's most important directions.

    Parameters
    ----------
    metric : {"scalar", "diagonal", "full", "mlp"}, Metric or torch.nn.Module, default="diagonal"
        What is learned: one scale; one per feature; a matrix; a matrix plus a residual network
        (`sknw.metrics.MlpMetric` has its sizes). A module maps ``(n, n_features)`` to
        ``(n, n_components)``; it is copied, trained from its present parameters, and times one
        learned scale it is the embedding.
    bandwidth : float, array-like of shape (n_features,), or str, default="scott"
        The starting scale h, as in `NadarayaWatsonRegressor`; only ``w / h`` matters to the
        prediction.
    kernel : str or callable, default="gaussian"
        As in `NadarayaWatsonRegressor`.
    degree : int, default=0
        As in `NadarayaWatsonRegressor`; polynomials are in the coordinates of the embedding, and
        training minimises the leave-one-out loss of that degree.
    categorical_features : "from_dtype", None, dict or array-like, default="from_dtype"
        As in `NadarayaWatsonRegressor`. A category is a block of columns with one common scale in
        ``"scalar"`` and ``"diagonal"``; ``"full"`` and ``"mlp"`` see the columns.
    n_components : int, default=None
        Dimension of the embedding. For ``"full"`` the rank, at most and by default the number of
        features; for ``"mlp"`` by default 32 more than that. Only used by those two. The guarantee
        above holds from as many components as features on; fewer start from the directions along
        which the simpler metric's predictions vary most.
    w_init : float or array-like of shape (n_features,) or (n_components, n_features), default=None
        Where training starts, not zero; simpler metrics are then not trained. None: as above. For a
        network None only.
    alpha : float, default=0.0
        Strength of the penalty: training minimises the leave-one-out loss plus ``alpha ‖w‖²``, the
        sum of squares of all weights learned: scales, the entries of W, or all parameters of the
        network, biases too.
    solver : {"auto", "lbfgs", "adam", "sgd"} or Solver, default="auto"
        ``"lbfgs"``: quasi-Newton steps on all rows (scales: on widths ``1/|w|``, within bounds),
        deterministic. ``"adam"``: steps on batches of rows held out (`sknw.training.Adam` has its
        settings: the decay of the steps, and the share of rows a batch is predicted from).
        ``"sgd"``: gradient descent on w with a fixed step, every row held out in turn in each step.
        ``"auto"``: ``"adam"`` for networks, else ``"lbfgs"``. Simpler metrics on the way are always
        trained by their own default.
    learning_rate_init : float, default=None
        Largest step of ``"adam"`` (None: 0.03, for networks 0.003), in the coordinates it walks:
        log-widths for scales, entries over their size at the start for a matrix, parameters for
        networks. Step of ``"sgd"`` on the mean loss (None: two over the variance of y, which makes
        steps free of the units of y). Not used by ``"lbfgs"``.
    batch_size : int or "auto", default="auto"
        Rows held out in one step of ``"adam"``; ``"auto"``: 64 up to 4096 rows, above 1024 near
        ones. The other solvers hold out all rows.
    max_iter : int, default=200
        Largest number of steps on all rows; of ``"adam"``, of epochs.
    tol : float, default=1e-6
        ``"lbfgs"`` ends when a step gains less than this, relatively; the others when
        `n_iter_no_change` steps (epochs) do.
    n_starts : int or "auto", default="auto"
        How many starts are tried: `w_init` or the simpler metric's end (where there are 20 rows for
        each weight, the ends of those below it next), then for scales the best mix of widths seen
        from broad windows and the minima of a scan over common scales, then random multiples of the
        first start. ``"auto"``: `w_init` alone if given, else 3 for ``"lbfgs"`` and 1 for the
        others. Above 400 rows ``"lbfgs"`` compares starts of scales on a subsample; above 1500 it
        gives up other starts that are not the lowest after 12 steps.
    early_stopping : bool, default=False
        Keep `validation_fraction` of the rows out of training, stop when predicting them from the
        others has not become better for `n_iter_no_change` steps (epochs; ``"adam"`` counts from
        the end of its decay), keep the state that predicts them best, and prefer the simpler
        metric unless this one predicts them better by more than one standard error of the paired
        differences of squared errors. All rows are neighbours in the end.
    validation_fraction : float, default=0.1
        Share of the rows to validate on. Only used with `early_stopping`.
    n_iter_no_change : int, default=10
        Patience of ``"adam"`` and ``"sgd"``, in epochs or steps; of any solver with
        `early_stopping`.
    warm_start : bool, default=False
        On the same rows with the same parameters but `max_iter`, `tol`, `n_iter_no_change` and
        `verbose`, go on as if the last fit had not stopped (of several starts: from the one that
        was lowest then; above 1500 rows a fit that stopped within the 12 steps that compare them
        may then take another path). Otherwise start from the last fit's weights instead of
        `w_init`, whatever its bandwidth was.
    duplicates, algorithm, rtol, empty_neighborhood, device
        As in `NadarayaWatsonRegressor`.
    random_state : int, RandomState instance or None, default=None
        Draws the subsample, random restarts, validation rows, a network's start and batches. None
        is a fixed seed: fitting is deterministic.
    verbose : int, default=0
        Above 0, print one line per iteration, and for what comes before (a search, starts, simpler
        metrics) one at the end of each stage and about every second.

    Attributes
    ----------
    w_ : float, ndarray of shape (n_features,) or (n_components, n_features), or None
        Learned scales, a float for ``metric="scalar"``; the matrix W; None for networks.
    components_ : ndarray of shape (n_components, n_features)
        The embedding in the units of X: ``transform(X) = X @ components_.T``. Linear metrics only.
    bandwidth_ : float or ndarray of shape (n_features,)
        The starting scale used.
    metric_ : Metric
        The trained metric.
    loss_curve_ : list of float
        Entry t is the leave-one-out loss at the weights before step t + 1, without penalty: the
        weighted mean squared error; with several outputs, the mean over outputs of each one's error
        over its weighted variance. For ``"adam"`` the mean over the batches of epoch t + 1. Of the
        best start; where a sample compared the starts, of the descent on all rows that followed.
    validation_curve_ : list of float
        The error of the validation rows after each step, in the same units; empty without
        `early_stopping`.
    criterion_ : float
        The leave-one-out loss of all rows at the end, also as ``best_loss_``.
    feature_importances_ : ndarray of shape (n_features,)
        Importance of each feature to the distance, with a sum of one; of linear metrics only.
    n_iter_ : int
        Number of steps of the best start.
    n_observations_, duplicates_, algorithm_, device_, n_features_in_, feature_names_in_
        As in `NadarayaWatsonRegressor`.

    Warns
    -----
    ConvergenceWarning
        If training ended before it settled, or diverged (the best state seen is kept).
    MetricWarning
        If the metric has collapsed (every prediction is the mean), has saturated (one neighbour
        decides), or predicts held-out rows worse than the mean of y does.

    See Also
    --------
    NadarayaWatsonRegressor : Selects a bandwidth instead.

    References
    ----------
    .. [1] A. Zhang, Z. C. Lipton, M. Li and A. J. Smola, "Dive into Deep Learning", chapter on
           attention pooling.
    .. [2] K. Q. Weinberger and G. Tesauro, "Metric learning for kernel regression", AISTATS 2007.
    .. [3] H.-J. Ye, H.-H. Yin and D.-C. Zhan, "Revisiting nearest neighbor for tabular data: a deep
           tabular baseline two decades later" (ModernNCA), ICLR 2025.

    Examples
    --------
    >>> from sknw import ParametricNWRegressor
    >>> from sknw.datasets import make_attention_curve
    >>> X, y, X_test, y_test = make_attention_curve(random_state=0)
    >>> model = ParametricNWRegressor(metric="scalar", bandwidth=1.0).fit(X, y)
    >>> model.best_loss_ < model.loss_curve_[0]
    True
    >>> model.predict(X_test).shape
    (50,)
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseNadarayaWatson._parameter_constraints,
        "metric": [StrOptions(METRICS), Metric, torch.nn.Module],
        "n_components": [None, Interval(Integral, 1, None, closed="left")],
        "w_init": [None, Real, "array-like"],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "solver": [StrOptions(["auto", *SOLVERS]), Solver],
        "learning_rate_init": [None, Interval(Real, 0, None, closed="neither")],
        "batch_size": [StrOptions(["auto"]), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_starts": [StrOptions(["auto"]), Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
    }

    def __init__(
        self,
        metric="diagonal",
        *,
        bandwidth="scott",
        kernel="gaussian",
        degree=0,
        categorical_features="from_dtype",
        n_components=None,
        w_init=None,
        alpha=0.0,
        solver="auto",
        learning_rate_init=None,
        batch_size="auto",
        max_iter=200,
        tol=1e-6,
        n_starts="auto",
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        duplicates="auto",
        algorithm="auto",
        rtol=1e-8,
        empty_neighborhood="nearest",
        device=None,
        random_state=None,
        verbose=0,
    ):
        self.metric = metric
        self.bandwidth = bandwidth
        self.kernel = kernel
        self.degree = degree
        self.categorical_features = categorical_features
        self.n_components = n_components
        self.w_init = w_init
        self.alpha = alpha
        self.solver = solver
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_starts = n_starts
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.duplicates = duplicates
        self.algorithm = algorithm
        self.rtol = rtol
        self.empty_neighborhood = empty_neighborhood
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _fit_metric(self, task: LeaveOneOut, random_state: np.random.RandomState) -> None:
        if isinstance(self.bandwidth, NeighborBandwidth):
            raise ValueError(
                "bandwidth must be the same everywhere where a metric is learned: a number, an "
                "array, a rule or a BandwidthSearch; got a NeighborBandwidth."
            )
        features = self._observations.features
        metric, solver = self._chosen()
        metric.see(features.of_column)
        n_columns = features.n_columns
        n_components = metric.components(n_columns, self.n_components)
        w_init = self._user_start(metric, n_columns, n_components)
        selection = resolve_bandwidth(self.bandwidth, self._observations, task, random_state)
        bandwidth = np.broadcast_to(selection.windows.widths, (task.n_features,))[
            features.of_column
        ]
        code = self._training_code(metric, bandwidth) if self.warm_start else None
        state, buffers = getattr(self, "_training_state", None), {}
        if code is None or state is None or state["code"] != code:
            state = None  # not the same problem
        if state is None and self.warm_start and hasattr(self, "metric_"):
            w_init = self._last_weights(metric, n_columns, n_components)
            buffers = self.metric_.buffers_for_next
        request = Config(
            metric=metric,
            solver=solver,
            n_components=self.n_components,
            alpha=float(self.alpha),
            w_init=w_init,
            n_starts=self.n_starts,
            validation_fraction=self.validation_fraction if self.early_stopping else None,
            state=state,
            buffers=buffers,
        )
        self.bandwidth_ = features.bandwidth(selection.windows.widths)
        # the edges of an embedding in training are those of its coordinates as they are
        task = with_kernel(in_compact_order(task), replace(task.method.kernel, given=None))
        settings = self._settings(metric, n_components, task.progress)
        module, trained = train(request, task, bandwidth, settings, random_state)
        for name, value in self._learned(metric, module, n_components).items():
            setattr(self, name, value)
        self.loss_curve_ = trained.loss_curve
        self.validation_curve_ = trained.validation_curve
        self.best_loss_ = trained.loss
        self.n_iter_ = trained.n_iter
        self._training_state = None if trained.state is None else {"code": code, **trained.state}
        _warn(trained, diagnose(module, task, bandwidth, trained.loss))

    def _chosen(self) -> tuple[Metric, Solver]:
        """Return the metric and the solver that the parameters stand for."""
        if isinstance(self.metric, torch.nn.Module):
            metric = ModuleMetric(self.metric)
        else:
            metric = METRICS[self.metric]() if isinstance(self.metric, str) else clone(self.metric)
        name = metric.default_solver if self.solver == "auto" else self.solver
        return metric, SOLVERS[name] if isinstance(name, str) else name

    def _settings(self, metric: Metric, n_components: int, progress: Progress) -> Settings:
        def on_step(step: int, loss: float, module: Callable[[], torch.nn.Module]) -> bool:
            return progress.step(
                loss,
                line=f"step {step:4d}  leave-one-out loss {loss:.8g}",
                fitted=lambda: {
                    **vars(self),
                    **self._learned(copy.deepcopy(metric), module(), n_components),
                },
            )

        return Settings(
            max_iter=self.max_iter,
            tol=self.tol,
            learning_rate_init=self.learning_rate_init,
            n_iter_no_change=self.n_iter_no_change,
            batch_size=self.batch_size,
            keeps_state=self.warm_start,
            on_step=on_step,
        )

    def _learned(self, metric: Metric, module: torch.nn.Module, n_components: int) -> dict:
        """Return the attributes that predictions follow from."""
        return {
            "metric_": metric.store(module, n_components),
            "w_": metric.describe(module),
            "bandwidth_": self.bandwidth_,
        }

    def _user_start(self, metric: Metric, n_columns: int, n_components: int) -> np.ndarray | None:
        if self.w_init is None:
            return None
        w_init = self._observations.features.in_order("w_init", self.w_init)
        return metric.initial(w_init, n_columns, n_components)

    def _last_weights(self, metric: Metric, n_columns: int, n_components: int) -> np.ndarray:
        """Return the last fit's parameters in one vector, if this fit learns as many."""
        before = self.metric_.parameter_vector
        with NoDraws():
            now = learned(metric.build(n_columns, n_components))
        n_parameters = sum(parameter.numel() for parameter in now.values())
        if len(before) != n_parameters or list(now) != self.metric_.parameter_names_:
            others = "others" if len(before) == n_parameters else str(n_parameters)
            raise ValueError(
                f"warm_start=True goes on from w_, which has {len(before)} values, but "
                f"{others} are learned now; use warm_start=False."
            )
        return before

    def _training_code(self, metric: Metric, bandwidth: float | np.ndarray) -> str:
        """Return a code of all that the path of a training follows from."""
        observations = self._observations
        code = hashlib.blake2b(digest_size=16)
        arrays = (observations.X, observations.cell, observations.y, observations.weights)
        for array in (*arrays, bandwidth):
            code.update(np.ascontiguousarray(array).tobytes())
        passing = (
            "metric",
            "max_iter",
            "tol",
            "n_iter_no_change",
            "verbose",
            "warm_start",
            "w_init",
        )
        parameters = self.get_params(deep=False)
        code.update(repr([(k, v) for k, v in parameters.items() if k not in passing]).encode())
        code.update(metric.code())
        return code.hexdigest()

    @property
    def _takes_codes(self) -> bool:
        return isinstance(self._chosen()[0], ScaleMetric)

    @property
    def _metric(self) -> Metric:
        return self.metric_

    @property
    def _n_features_out(self) -> int:
        features = self._observations.features
        if len(features.coded):
            return features.expanded().n_columns
        return self.metric_.n_components_

    @property
    def criterion_(self):
        """The leave-one-out loss of all rows at the end: the name that both estimators share."""
        return self.best_loss_

    def _feature_scales(self) -> np.ndarray:
        features = self._observations.features
        if self.metric_.scale_of_column(features.n_columns) is not None:
            with np.errstate(divide="ignore"):
                scales = np.abs(self.w_) / features.widths(self.bandwidth_)
            return np.broadcast_to(scales, (features.n_features,))
        if not self.metric_.is_linear:
            raise AttributeError(
                "feature_importances_ and get_support are there for linear metrics; "
                f"{type(self.metric_).__name__} is none."
            )
        lengths = np.square(self.components_).sum(axis=0)
        return np.sqrt(np.bincount(features.of_column, lengths, minlength=features.n_features))

    @property
    @question
    def components_(self):
        """Matrix (n_components, n_features) of the embedding: ``transform(X) = X @ components_.T``.

        With categories it acts on the columns that they become: a scaled one-hot code, or for
        ordered ones a thermometer code. AttributeError for a metric that is not linear.
        """
        check_is_fitted(self)
        features = self._observations.features
        if len(features.coded):
            return np.diag(self._scales_of_blocks(features.expanded()))
        module = self.metric_.load(features.n_columns, dtype=torch.float64, device="cpu")
        matrix = self.metric_.matrix(module, features.n_columns)
        if matrix is None:
            raise AttributeError(
                f"components_ is there for linear metrics; {type(self.metric_).__name__} is none."
            )
        return to_numpy(matrix) / self._model.column_widths

    def _scales_of_blocks(self, features: Features) -> np.ndarray:
        """Return the scale of each column where categories are blocks, (n_columns,)."""
        widths = features.widths(self.bandwidth_)
        return np.broadcast_to(self.w_ / widths, (features.n_features,))[features.of_column]

    @question
    def transform(self, X):
        """Return the learned embedding of rows, in which the bandwidth is 1.

        A linear metric maps the origin of X to the origin: ``X @ components_.T``.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Rows.

        Returns
        -------
        Z : ndarray of shape (n_queries, n_components)
            Categories are columns here: a scaled one-hot code, or for ordered ones a thermometer
            code.

        Raises
        ------
        ValueError
            If a feature has too many categories to be columns.
        """
        check_is_fitted(self)
        features = self._observations.features
        if len(features.coded):
            features = features.expanded()
            columns = validate_queries(self, X, features)
            return columns * self._scales_of_blocks(features).astype(columns.dtype)
        return self._model.embedded(self._columns(X))


def _warn(trained: Result, messages: list[str]) -> None:
    if not trained.converged:
        warn_user(f"Training did not converge: {trained.message}.", ConvergenceWarning)
    for message in messages:
        warn_user(f"{message}.", MetricWarning)
