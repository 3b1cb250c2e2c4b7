"""What both estimators share: validate -> observations -> model -> smooth -> arrays.

`fit` and every query walk the rooms once, in order. An estimator adds `_fit_metric`, which finds
the bandwidth or trains the metric, and says which windows and which metric its model has.
"""

import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from numbers import Real
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from sknw._importances import FeatureImportances
from sknw._inference import Inference
from sknw._model import Model, SumParameters
from sknw._pickling import VersionedState
from sknw._prepared import latest_report, remember_report
from sknw._validation import read, validate_queries, validate_training
from sknw.bandwidth import check_bandwidth
from sknw.data.arrays import fit_device, predict_device, to_numpy, to_tensor
from sknw.data.duplicates import DUPLICATES
from sknw.data.observations import Observations
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.kernels import KERNELS
from sknw.metrics import Metric
from sknw.smoothing.attention import attention_matrix, top_attention
from sknw.smoothing.empty import EMPTY_NEIGHBORHOODS
from sknw.smoothing.windows import FixedWindows, Windows
from sknw.sums import ALGORITHMS, check_algorithm
from sknw.support import tuning
from sknw.support.compat import (
    HAS_CATEGORICAL_TAG,
    CallbackSupportMixin,
    Interval,
    StrOptions,
    fit_context,
)
from sknw.support.progress import Progress, progress_of
from sknw.support.state import full_precision_everywhere, publish, question, snapshot
from sknw.support.warnings import EmptyNeighborhoodWarning, warn_if_empty

_SEED = 0  # random_state=None means deterministic, and never the global generator


class BaseNadarayaWatson(
    VersionedState,
    FeatureImportances,
    Inference,
    CallbackSupportMixin,
    MultiOutputMixin,
    RegressorMixin,
    BaseEstimator,
    ABC,
):
    """Kernel regression in an embedding that a subclass finds."""

    # scikit-learn's HTML view links to a page of this template; there is no published site yet, and
    # its own pages know nothing of these estimators
    _doc_link_module = "sknw"
    _doc_link_template = ""

    _parameter_constraints: ClassVar[dict] = {
        "bandwidth": "no_validation",
        "kernel": [StrOptions(KERNELS), callable],
        "categorical_features": [None, StrOptions(["from_dtype"]), dict, "array-like"],
        "degree": "no_validation",
        "duplicates": [StrOptions(DUPLICATES)],
        "algorithm": [StrOptions(["auto", *ALGORITHMS])],
        "rtol": [Interval(Real, 0, 1, closed="neither")],
        "empty_neighborhood": [StrOptions(EMPTY_NEIGHBORHOODS)],
        "device": [None, str, torch.device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Find the bandwidth or the metric, and keep the training rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; a float32 array is kept and computed on in float32, anything else in
            float64. A torch tensor sets the device too.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights >= 0, not all zero. Only their ratios count. In predictions integer weights
            equal repeated rows, and zero removes a row. In leave-one-out, which a search or a
            training minimises, a row of weight two is one observation that counts twice.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is not as described; the estimator is then as it was.
        """
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        model = snapshot(self)
        before = vars(model).copy()
        with (
            progress_of(self, X=X, y=y, metadata=metadata) as progress,
            torch.inference_mode(False),
            full_precision_everywhere(),
        ):
            model._learn(X, y, sample_weight, progress)
            publish(self, before, vars(model))
        return self

    def __sklearn_tags__(self):
        """Say that X may have categories, and texts in whatever container where these are named."""
        tags = super().__sklearn_tags__()
        wanted = self.categorical_features
        tags.input_tags.categorical = HAS_CATEGORICAL_TAG and wanted is not None
        # by their dtype texts are categories in data frames only; an array of them is refused
        tags.input_tags.string = wanted is not None and not isinstance(wanted, str)
        return tags

    def _learn(self, X, y, sample_weight, progress: Progress) -> None:
        """Set all attributes that `fit` promises."""
        device = fit_device(self.device, X)
        X, y, sample_weight, features = validate_training(
            self, X, y, sample_weight, takes_codes=self._takes_codes
        )
        check_bandwidth(self.bandwidth, features)
        self.is_categorical_ = features.is_categorical if features.categories else None
        parameters = SumParameters.of(self)
        dtype, method = parameters.dtype(device, X.dtype), parameters.method(features)
        check_algorithm(self.algorithm, method.kernel, X.shape[1], dtype, device)
        self._y_is_flat, self._y_dtype = y.ndim == 1, _dtype_of_predictions(y)
        y = y.reshape(len(y), -1)
        self.device_ = device
        self._observations = Observations.of(X, y, sample_weight, features, self.duplicates)
        self.n_observations_ = len(self._observations)
        self.duplicates_ = dict(self._observations.duplicates)
        centre = to_tensor(self._observations.informative_centre, dtype=dtype, device=device)
        kernel = method.kernel.seeing(-centre[None], float(torch.finfo(dtype).eps))
        task = LeaveOneOut.of(
            self._observations,
            replace(method, kernel=kernel),
            dtype=dtype,
            device=device,
            progress=progress,
        )
        self._fit_metric(
            task, check_random_state(_SEED if self.random_state is None else self.random_state)
        )
        self.algorithm_ = self._model.smoother().choose().name

    @abstractmethod
    def _fit_metric(self, task: LeaveOneOut, random_state: np.random.RandomState) -> None:
        """Set `bandwidth_` and whatever else the embedding needs."""

    @property
    def _takes_codes(self) -> bool:
        """Whether the embedding scales features one by one, so that categories may be codes."""
        return True

    @property
    def _windows(self) -> Windows:
        """The windows that were found."""
        return FixedWindows(self._observations.features.widths(self.bandwidth_))

    @property
    def _metric(self) -> Metric | None:
        """The metric that was trained; None where none is."""
        return None

    @property
    def _model(self) -> Model:
        """What was found, ready for queries."""
        check_is_fitted(self)
        return Model(
            self._observations,
            SumParameters.of(self),
            self._windows,
            self._metric,
            predict_device(self.device_),
        )

    def _columns(self, X) -> np.ndarray:
        """Return the columns (m, n_columns) of queries, checked."""
        check_is_fitted(self)
        return validate_queries(self, X, self._observations.features)

    @question
    def predict(self, X):
        """Predict the locally weighted mean of y at each row.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Queries.

        Returns
        -------
        y : ndarray of shape (n_queries,) or (n_queries, n_outputs)
            Predictions; with `degree` 0 within the range of y.

        Warns
        -----
        EmptyNeighborhoodWarning
            If queries have no training row in reach; `empty_neighborhood` says what they get.
        """
        X, model = self._columns(X), self._model
        smoother = model.smoother(X.dtype)
        prediction = smoother.predict(model.points(X, smoother))
        remember_report(self._observations, prediction.report)
        warn_if_empty(self.empty_neighborhood, prediction.n_empty, len(X))
        return self._targets(prediction.means)

    @question
    def score(self, X, y, sample_weight=None):
        """Return the coefficient of determination R² of the predictions.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,) or (n_queries, n_outputs)
            True targets.
        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries.

        Returns
        -------
        score : float
            1 is perfect, 0 is as good as the mean of y; several outputs are averaged.
        """
        y, sample_weight = read(y=y, sample_weight=sample_weight)
        return super().score(X, y, sample_weight)

    @question
    def predict_loo(self):
        """Predict each training row from all the others.

        A row leaves itself out with its whole weight; copies of one observation, as `duplicates`
        tells them, are left out together. A row of weight zero is predicted from all rows that
        have weight.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Leave-one-out predictions; NaN where no other row has weight.
        """
        model = self._model
        observations, smoother = model.observations, model.smoother()
        prediction = smoother.predict(None)
        remember_report(observations, prediction.report)
        group = to_tensor(observations.group, dtype=torch.int64, device=model.device)
        means, n_empty, is_weightless = prediction.means[group], prediction.n_empty, group < 0
        if is_weightless.any():
            others = smoother.predict(model.points(observations.weightless, smoother))
            means[is_weightless] = others.means
            n_empty += others.n_empty
        warn_if_empty(self.empty_neighborhood, n_empty, len(means))
        return self._targets(means)

    @question
    def attention_weights(self, X=None, *, top_k=None):
        """Return how much each training row counts in each prediction.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries. None means the training rows, each predicted from the others: the diagonal is
            zero and ``attention_weights() @ y`` equals `predict_loo`.
        top_k : int, default=None
            Keep only the `top_k` weights of the largest magnitude of each query, in a sparse
            matrix. They are not normalised again: a row sums to the share of all attention that
            they have.

        Returns
        -------
        weights : ndarray or CSR array of shape (n_queries, n_samples)
            Rows are queries, columns training rows. Full rows sum to 1, and
            ``attention_weights(X) @ y`` equals ``predict(X)``. With a `degree` above zero they are
            those of the equivalent kernel, some of them negative.

        Raises
        ------
        ValueError
            If the full matrix would exceed scikit-learn's ``working_memory``, or `top_k` is not
            between 1 and the number of training rows.
        """
        X, model = None if X is None else self._columns(X), self._model
        smoother, queries, exclude, rows = model.attention_queries(X)
        if top_k is None:
            weights, n_empty = attention_matrix(smoother, rows, queries, exclude)
        else:
            weights, n_empty = top_attention(smoother, rows, queries, exclude, top_k)
        warn_if_empty(self.empty_neighborhood, n_empty, len(queries))
        return weights

    @property
    @question
    def attention_weights_(self):
        """Leave-one-out attention weights of the training rows, computed on access.

        Raises AttributeError above 2000 rows: use ``attention_weights(X, top_k=...)``.
        """
        check_is_fitted(self)
        n_rows = len(self._observations.group)
        if n_rows > tuning.MOST_ROWS_OF_THE_PROPERTY:
            raise AttributeError(
                "attention_weights_ is there for at most "
                f"{tuning.MOST_ROWS_OF_THE_PROPERTY} training rows; got {n_rows}. Use "
                "attention_weights(X, top_k=...)."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmptyNeighborhoodWarning)
            try:
                return self.attention_weights()
            except ValueError as error:
                raise AttributeError(str(error)) from error

    @question
    def effective_neighbors(self, X):
        """Return how many equally weighted rows each prediction amounts to.

        Kish's ``(Σα)²/Σα²`` of the attention weights over the observations; 0 where no training row
        is in reach.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Queries.

        Returns
        -------
        neighbors : ndarray of shape (n_queries,)
        """
        X, model = self._columns(X), self._model
        smoother = model.smoother(X.dtype)
        return to_numpy(smoother.effective_neighbors(model.points(X, smoother)))

    @property
    def sums_report_(self):
        """How the latest prediction's kernel sums were done.

        A dict with ``algorithm`` and ``evaluator`` (what ran), ``n_queries``, ``n_keys``,
        ``share_of_pairs`` (share of all pairs of a query and a training row that were evaluated
        one by one, queries done again included), ``rows_redone`` (queries done again exactly) and
        ``audited_error`` (for an algorithm with absolute error, the error found on exact sums times
        its safety factor, relative to the total weight of the training rows; else 0); with a
        `degree` above zero also ``rows_lowered`` (queries whose fit is mixed with one of a lower
        degree, or that have no training row in reach). It is of the
        latest prediction since the fit in this thread: deep copies and pickles start without.
        AttributeError before the first.
        """
        report = latest_report(getattr(self, "_observations", None))
        if report is None:
            raise AttributeError(
                "sums_report_ is there after a prediction by this object in this thread; call "
                "predict first."
            )
        return report

    def _targets(self, means: torch.Tensor) -> np.ndarray:
        """Return scaled means (m, n_outputs) in the units, range, shape and precision of y."""
        y = self._observations.target_scale.in_units(to_numpy(means), within_range=not self.degree)
        y = y.astype(self._y_dtype, copy=False)
        return y[:, 0] if self._y_is_flat else y


def _dtype_of_predictions(y: np.ndarray) -> str:
    """Return float32 where y is that, else float64."""
    return "float32" if y.dtype == np.float32 else "float64"
