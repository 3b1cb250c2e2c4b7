"""Parametric Nadaraya-Watson regression: the scale inside the softmax is learned."""

from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.exceptions import ConvergenceWarning

from sknw._arrays import predict_device, to_numpy, torch_dtype
from sknw._base import BaseNadarayaWatson
from sknw._compat import Interval, StrOptions
from sknw._types import warn_user
from sknw.bandwidth import NeighborBandwidth, resolve_bandwidth
from sknw.leave_one_out import LeaveOneOut
from sknw.metrics import METRICS, ScaleMetric
from sknw.training import SOLVERS, Settings, Trained, TrainingProblem, train


class ParametricNWRegressor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseNadarayaWatson):
    """Nadaraya-Watson regression with learned attention (parametric attention pooling).

    Predicts ``f(x) = Σ_i softmax_i(log K(‖w ∘ (x − x_i)/h‖)) y_i``; for the Gaussian kernel the
    softmax is of ``−½‖w ∘ (x − x_i)/h‖²``. The scales w minimise the leave-one-out squared error:
    every training row is predicted from all the others. The textbook's model is
    ``metric="scalar", bandwidth=1.0, solver="sgd", max_iter=5, learning_rate_init=0.5 * n`` (the
    textbook sums the loss over its n rows, here it is the mean).

    Parameters
    ----------
    metric : {"scalar", "diagonal"} or Metric, default="diagonal"
        What is learned: one scale, or one per feature.
    bandwidth : float, array-like of shape (n_features,), or str, default="scott"
        The starting scale h, as in `NadarayaWatsonRegressor`; only ``w / h`` matters to the
        prediction.
    kernel : str or callable, default="gaussian"
        As in `NadarayaWatsonRegressor`.
    w_init : float or array-like of shape (n_features,), default=None
        Where training starts, not zero. None: at the best common scales of a scan from sharp to
        broad windows.
    alpha : float, default=0.0
        Strength of the penalty: training minimises the leave-one-out loss plus ``alpha ‖w‖²``.
    solver : {"lbfgs", "sgd"}, default="lbfgs"
        ``"lbfgs"``: bounded quasi-Newton steps on the widths ``1/|w|``, deterministic. ``"sgd"``:
        gradient descent on w with a fixed step, every row held out in turn in each step.
    learning_rate_init : float, default=None
        Step of ``"sgd"`` on the mean loss; None: two over the variance of y, which makes steps
        free of the units of y. Only used by ``"sgd"``.
    max_iter : int, default=200
        Largest number of steps on all rows.
    tol : float, default=1e-6
        ``"lbfgs"`` ends when a step gains less than this, relatively; ``"sgd"`` when
        `n_iter_no_change` steps do.
    n_iter_no_change : int, default=10
        Patience of ``"sgd"``, in steps. Only used by ``"sgd"``.
    n_starts : int or "auto", default="auto"
        How many starts are tried: `w_init` if given, then the minima of the scan, then random
        multiples of the first start. ``"auto"``: `w_init` alone if given, else 3 for
        ``"lbfgs"`` and 1 for ``"sgd"``. Above 400 rows the starts of ``"lbfgs"`` are compared on a
        subsample.
    warm_start : bool, default=False
        Start from the last fit's `w_` instead of `w_init`, whatever its bandwidth was.
    algorithm, rtol, empty_neighborhood, device
        As in `NadarayaWatsonRegressor`.
    random_state : int, RandomState instance or None, default=None
        Draws the subsample and the random restarts. None is a fixed seed: fitting is
        deterministic.
    verbose : int, default=0
        Above 0, print one line per iteration.

    Attributes
    ----------
    w_ : float or ndarray of shape (n_features,)
        Learned scales; a float for ``metric="scalar"``.
    bandwidth_ : float or ndarray of shape (n_features,)
        The starting scale used.
    metric_ : Metric
        The trained metric.
    loss_curve_ : list of float
        Entry t is the leave-one-out loss at the w before step t + 1, without penalty: the weighted
        mean squared error; with several outputs, the mean over outputs of each one's error over its
        weighted variance. Of the best start; where a subsample compared the starts (above 400
        rows), of the descent on all rows that followed.
    best_loss_ : float
        The loss at `w_`.
    n_iter_ : int
        Number of steps of the best start.
    algorithm_, device_, n_features_in_, feature_names_in_
        As in `NadarayaWatsonRegressor`.

    See Also
    --------
    NadarayaWatsonRegressor : Selects a bandwidth instead.

    References
    ----------
    .. [1] A. Zhang, Z. C. Lipton, M. Li and A. J. Smola, "Dive into Deep Learning", chapter on
           attention pooling.
    .. [2] K. Q. Weinberger and G. Tesauro, "Metric learning for kernel regression", AISTATS 2007.

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
        "metric": [StrOptions(set(METRICS)), ScaleMetric],
        "w_init": [None, Real, "array-like"],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "solver": [StrOptions(set(SOLVERS))],
        "learning_rate_init": [None, Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "n_starts": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
    }

    def __init__(
        self,
        metric="diagonal",
        *,
        bandwidth="scott",
        kernel="gaussian",
        categorical_features="from_dtype",
        w_init=None,
        alpha=0.0,
        solver="lbfgs",
        learning_rate_init=None,
        max_iter=200,
        tol=1e-6,
        n_iter_no_change=10,
        n_starts="auto",
        warm_start=False,
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
        self.categorical_features = categorical_features
        self.w_init = w_init
        self.alpha = alpha
        self.solver = solver
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.n_starts = n_starts
        self.warm_start = warm_start
        self.algorithm = algorithm
        self.rtol = rtol
        self.empty_neighborhood = empty_neighborhood
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _fit_metric(self, task: LeaveOneOut, random_state: np.random.RandomState) -> None:
        metric = METRICS[self.metric]() if isinstance(self.metric, str) else clone(self.metric)
        w_init = self._first_start(metric, task.n_features)
        if isinstance(self.bandwidth, NeighborBandwidth):
            raise ValueError(
                "bandwidth must be the same everywhere where a metric is learned: a number, an "
                "array, a rule or a BandwidthSearch; got a NeighborBandwidth."
            )
        selection = resolve_bandwidth(self.bandwidth, self._observations, task, random_state)
        task = task.in_compact_order()
        module = metric.build(task.n_features)
        bandwidth = np.broadcast_to(selection.widths, (task.n_features,))
        trained = train(
            self.solver,
            TrainingProblem(module, task, bandwidth, float(self.alpha)),
            Settings(
                max_iter=self.max_iter,
                tol=self.tol,
                learning_rate_init=self.learning_rate_init,
                n_iter_no_change=self.n_iter_no_change,
                report=_print_step if self.verbose else None,
            ),
            w_init=w_init,
            n_starts=self.n_starts,
            random_state=random_state,
        )
        self.bandwidth_ = self._observations.features.bandwidth(selection.widths)
        self._keep(metric, module, trained)

    def _first_start(self, metric: ScaleMetric, n_features: int) -> np.ndarray | None:
        previous = getattr(self, "w_", None) if self.warm_start else None
        n_scales = metric.n_scales(n_features) or 1
        if previous is not None and np.size(previous) != n_scales:
            raise ValueError(
                f"warm_start=True goes on from w_, which has {np.size(previous)} values, but "
                f"{n_scales} are learned now; use warm_start=False."
            )
        w_init = self.w_init if previous is None else previous
        return None if w_init is None else metric.initial(w_init, n_features)

    def _keep(self, metric: ScaleMetric, module: torch.nn.Module, trained: Trained) -> None:
        module.set_scales(trained.w)
        self.metric_ = metric.store(module)
        self.w_ = metric.describe(module)
        self.loss_curve_ = trained.loss_curve
        self.best_loss_ = trained.loss
        self.n_iter_ = trained.n_iter
        if not trained.converged:
            warn_user(f"Training did not converge: {trained.message}.", ConvergenceWarning)

    def _embed(self, scaled: torch.Tensor) -> torch.Tensor:
        module = self.metric_.load(self.n_features_in_, dtype=scaled.dtype, device=scaled.device)
        with torch.no_grad():
            return module(scaled)

    def _embedding_state(self) -> bytes:
        learned = self.metric_.parameters_
        return super()._embedding_state() + b"".join(
            np.asarray(learned[name]).tobytes() for name in sorted(learned)
        )

    @property
    def _n_features_out(self) -> int:
        return self.n_features_in_

    def transform(self, X):
        """Return the learned embedding of rows, in which the bandwidth is 1.

        The origin of X is mapped to the origin: ``x ∘ w / bandwidth`` for the scalar and the
        diagonal metric.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Rows.

        Returns
        -------
        Z : ndarray of shape (n_queries, n_components)
        """
        X = self._validate_queries(X)
        dtype = torch_dtype(self._observations.X.dtype, X.dtype)
        device = predict_device(self.device_)
        embedded = [self._embedded(rows, dtype, device) for rows in (X, np.zeros_like(X[:1]))]
        return to_numpy(embedded[0] - embedded[1])


def _print_step(step: int, loss: float) -> None:
    print(f"step {step:4d}  leave-one-out loss {loss:.8g}")
