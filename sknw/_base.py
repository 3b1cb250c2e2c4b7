"""What both estimators share: validate -> arrays -> embed -> smooth -> arrays.

`fit` and every query walk the rooms once, in order. The estimators add one hook, `_fit_metric`,
which finds the bandwidth or trains the metric.
"""

import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from numbers import Real
from typing import ClassVar

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y

from sknw._importances import FeatureImportances
from sknw._prepared import latest_report, prepared_smoother, remember_report
from sknw._version import __version__
from sknw.bandwidth import check_bandwidth
from sknw.data.arrays import (
    accumulator_dtype,
    fit_device,
    input_array,
    predict_device,
    to_numpy,
    to_tensor,
    torch_dtype,
    weights_tensor,
)
from sknw.data.duplicates import DUPLICATES
from sknw.data.features import Features
from sknw.data.observations import Observations
from sknw.data.tables import naming_columns, readable, refuse_dates
from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.kernels import KERNELS, Kernel, as_kernel
from sknw.kernels.codes import Codes
from sknw.metrics import pulled_in, representable_bandwidth
from sknw.smoothing.attention import attention_matrix, top_attention
from sknw.smoothing.cells import Cells, OwnCells
from sknw.smoothing.smoother import EMPTY_NEIGHBORHOODS, Smoother, value_columns
from sknw.sums import ALGORITHMS, check_algorithm
from sknw.support import tuning
from sknw.support.compat import (
    HAS_CATEGORICAL_TAG,
    CallbackSupportMixin,
    Interval,
    StrOptions,
    check_sample_weight,
    fit_context,
    validate_data,
)
from sknw.support.progress import Progress, progress_of
from sknw.support.state import full_precision_everywhere, publish, question, snapshot
from sknw.support.warnings import EmptyNeighborhoodWarning, VersionWarning, warn_if_empty, warn_user

_FLOATS = [np.float64, np.float32]
_VERSION_KEY = "_sknw_version"  # in pickles
_SEED = 0  # random_state=None means deterministic, and never the global generator


class BaseNadarayaWatson(
    FeatureImportances,
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
        with progress_of(self, X=X, y=y, metadata=metadata) as progress:
            return self._fit(X, y, sample_weight, progress)

    def __sklearn_tags__(self):
        """Say that X may have categories, and texts in whatever container where these are named."""
        tags = super().__sklearn_tags__()
        wanted = self.categorical_features
        tags.input_tags.categorical = HAS_CATEGORICAL_TAG and wanted is not None
        # by their dtype texts are categories in data frames only; an array of them is refused
        tags.input_tags.string = wanted is not None and not isinstance(wanted, str)
        return tags

    def _fit(self, X, y, sample_weight, progress: Progress):
        """Fit a copy, then publish what it learned."""
        model = snapshot(self)
        before = vars(model).copy()
        with torch.inference_mode(False), full_precision_everywhere():
            model._learn(X, y, sample_weight, progress)
        publish(self, before, vars(model))
        return self

    def _learn(self, X, y, sample_weight, progress: Progress) -> None:
        """Set all attributes that `fit` promises."""
        device = fit_device(self.device, X)
        X, y, sample_weight, features = self._validate_training(X, y, sample_weight)
        check_bandwidth(self.bandwidth, features)
        self.is_categorical_ = features.is_categorical if features.categories else None
        kernel = _with_codes(as_kernel(self.kernel), features)
        check_algorithm(self.algorithm, kernel, X.shape[1], torch_dtype(X.dtype), device)
        self._y_is_flat, self._y_dtype = y.ndim == 1, _dtype_of_predictions(y)
        y = y.reshape(len(y), -1)
        self.device_ = device
        self._observations = Observations.of(X, y, sample_weight, features, self.duplicates)
        self.n_observations_ = len(self._observations)
        self.duplicates_ = dict(self._observations.duplicates)
        task = LeaveOneOut.of(
            self._observations,
            self._kernel_of_rows(torch_dtype(X.dtype), device),
            algorithm=self.algorithm,
            rtol=self.rtol,
            empty_neighborhood=self.empty_neighborhood,
            dtype=torch_dtype(X.dtype),
            device=device,
            progress=progress,
        )
        self._fit_metric(
            task, check_random_state(_SEED if self.random_state is None else self.random_state)
        )
        self.algorithm_ = self._smoother().choose().name

    def _validate_training(self, X, y, sample_weight):
        if sparse.issparse(y):
            raise TypeError(
                "Sparse data was passed for y, but dense data is required. Use '.toarray()' to "
                "convert it."
            )
        X, y, sample_weight = _read(X=X, y=y, sample_weight=sample_weight)
        features = Features.of(X, self.categorical_features)
        accept = {"dtype": _FLOATS, "multi_output": True, "y_numeric": True}
        if features is None:
            with naming_columns(X):
                X, y = validate_data(self, X, y, **accept)
            features = Features(X.shape[1])
        else:
            validate_data(self, X, skip_check_array=True)
            features = features if self._takes_codes else features.expanded()
            with naming_columns(X, features.is_categorical):
                numbers, y = check_X_y(
                    features.numeric_part(X), y, ensure_min_features=0, estimator=self, **accept
                )
            X = features.columns(X, numbers)
        names = getattr(self, "feature_names_in_", None)
        features = replace(features, names=None if names is None else tuple(names.tolist()))
        if isinstance(sample_weight, Real):
            sample_weight = np.full(len(X), float(sample_weight))
        sample_weight = check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        if not sample_weight.any():
            raise ValueError("sample_weight must have at least one positive value; got all zeros.")
        return X, y, sample_weight, features

    def __getstate__(self):
        """Return the attributes, and the version that they are of."""
        return {**super().__getstate__(), _VERSION_KEY: __version__}

    def __setstate__(self, state):
        """Take attributes, with a warning if they are of another version."""
        state = dict(state)
        version = state.pop(_VERSION_KEY, "unknown")
        if version != __version__:
            warn_user(
                f"This {type(self).__name__} was saved by sknw {version} and is loaded by "
                f"{__version__}: it may fail or predict something else. Fit it again, or load it "
                "with the version that saved it.",
                VersionWarning,
            )
        super().__setstate__(state)

    @abstractmethod
    def _fit_metric(self, task: LeaveOneOut, random_state: np.random.RandomState) -> None:
        """Set `bandwidth_` and whatever else the embedding needs."""

    @property
    def _takes_codes(self) -> bool:
        """Whether the embedding scales features one by one, so that categories may be codes."""
        return True

    @abstractmethod
    def _embed(self, scaled: torch.Tensor) -> torch.Tensor:
        """Return the embedding of rows (m, n_features) in units of the bandwidth."""

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
            Predictions, within the range of y.

        Warns
        -----
        EmptyNeighborhoodWarning
            If queries have no training row in reach; `empty_neighborhood` says what they get.
        """
        X = self._validate_queries(X)
        smoother = self._smoother(X.dtype)
        prediction = smoother.predict(self._queries(X, smoother))
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
        y, sample_weight = _read(y=y, sample_weight=sample_weight)
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
        check_is_fitted(self)
        observations, smoother = self._observations, self._smoother()
        prediction = smoother.predict(None)
        remember_report(self._observations, prediction.report)
        group = to_tensor(observations.group, dtype=torch.int64, device=smoother.keys.device)
        means, n_empty, is_weightless = prediction.means[group], prediction.n_empty, group < 0
        if is_weightless.any():
            others = smoother.predict(self._queries(observations.weightless, smoother))
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
            Keep only the `top_k` largest weights of each query, in a sparse matrix. They are not
            normalised again: a row sums to the share of all attention that they have.

        Returns
        -------
        weights : ndarray or CSR array of shape (n_queries, n_samples)
            Rows are queries, columns training rows. Full rows sum to 1, and
            ``attention_weights(X) @ y`` equals ``predict(X)``.

        Raises
        ------
        ValueError
            If the full matrix would exceed scikit-learn's ``working_memory``, or `top_k` is not
            between 1 and the number of training rows.
        """
        check_is_fitted(self)
        smoother, queries, exclude, rows = self._attention_queries(X)
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
        X = self._validate_queries(X)
        smoother = self._smoother(X.dtype)
        return to_numpy(smoother.effective_neighbors(self._queries(X, smoother)))

    def _validate_queries(self, X, features: Features | None = None) -> np.ndarray:
        """Return the columns (m, n_columns) of queries, of the features of fit if not of others."""
        check_is_fitted(self)
        (X,), features = _read(X=X), features or self._observations.features
        if not features.categories:
            with naming_columns(X):
                return validate_data(self, X, dtype=_FLOATS, reset=False)
        validate_data(self, X, skip_check_array=True, reset=False)
        with naming_columns(X, features.is_categorical):
            numbers = check_array(
                features.numeric_part(X), dtype=_FLOATS, ensure_min_features=0, estimator=self
            )
        return features.columns(X, numbers)

    def _smoother(self, *dtypes: np.dtype) -> Smoother:
        """Return the fitted keys, ready for queries of these dtypes."""
        dtype = torch_dtype(self._observations.X.dtype, *dtypes)
        device = predict_device(self.device_)
        eps = max(float(np.finfo(each).eps) for each in (self._observations.X.dtype, *dtypes))

        parameters = (self.kernel, self.algorithm, self.rtol, self.empty_neighborhood)
        settings = (dtype, device, eps, *parameters, self._embedding_state())
        return prepared_smoother(
            self._observations, settings, lambda: self._new_smoother(dtype, device, eps)
        )

    def _new_smoother(self, dtype: torch.dtype, device: str, eps: float) -> Smoother:
        """Return a smoother whose keys are the cells of the observations."""
        observations = self._observations
        y = to_tensor(observations.cell_y, dtype=dtype, device=device)
        weights = weights_tensor(observations.cell_weights, dtype=dtype, device=device)
        wide = accumulator_dtype(torch.device(device))
        log_weights, concentration = (
            to_tensor(of, dtype=wide, device=device)
            for of in (observations.cell_log_weights, observations.cell_concentration)
        )
        keys = self._embedded(self._centred(observations.X, dtype), dtype, device)
        return Smoother.of(
            self._kernel_of_embedded(keys, eps),
            keys,
            y,
            weights,
            algorithm=self.algorithm,
            rtol=self.rtol,
            empty_neighborhood=self.empty_neighborhood,
            log_weights=log_weights,
            concentration=concentration,
            own=self._own_cells(device),
        )

    def _own_cells(self, device: str) -> OwnCells | None:
        """Return what leave-one-out needs of cells of several observations; None without such."""
        observations = self._observations
        if observations.are_distinct:
            return None
        values, dtype = (
            (observations.y, observations.weights),
            accumulator_dtype(torch.device(device)),
        )
        y, weights = (to_tensor(of, dtype=dtype, device=device) for of in values)
        cell = to_tensor(observations.cell, dtype=torch.int64, device=device)
        cells = Cells.of(cell, value_columns(y[None], weights[None])[0])
        return OwnCells(cells.of_row, cells.others)

    def _smoother_of_observations(self) -> Smoother:
        """Return a smoother whose keys are the observations, so that each can leave itself out."""
        observations = self._observations
        dtype, device = torch_dtype(observations.X.dtype), predict_device(self.device_)
        eps = float(np.finfo(observations.X.dtype).eps)
        return Smoother.of(
            *self._embedded_observations(dtype, device, eps),
            algorithm=self.algorithm,
            rtol=self.rtol,
            empty_neighborhood=self.empty_neighborhood,
            log_weights=to_tensor(
                observations.log_weights,
                dtype=accumulator_dtype(torch.device(device)),
                device=device,
            ),
        )

    def _kernel_of_embedded(self, keys: torch.Tensor, eps: float) -> Kernel:
        """Return the kernel for embedded rows like the keys, given with a relative precision."""
        zero = torch.zeros_like(keys[:1])
        if self._is_linear:
            observations = self._observations
            origin = (observations.centre - observations.informative_centre)[None]
            zero = self._embedded(self._centred(origin, keys.dtype), keys.dtype, keys.device)
        return self._kernel_at_fit(keys.dtype, keys.device).seeing(zero, eps)

    def _embedded_observations(self, dtype: torch.dtype, device: str, eps: float) -> tuple:
        """Return the kernel, the embedded observations, their values and their weights."""
        observations = self._observations
        cells = self._embedded(self._centred(observations.X, dtype), dtype, device)
        return (
            self._kernel_of_embedded(cells, eps),
            cells[to_tensor(observations.cell, dtype=torch.int64, device=device)],
            to_tensor(observations.y, dtype=dtype, device=device),
            weights_tensor(observations.weights, dtype=dtype, device=device),
        )

    def _kernel_of_rows(self, dtype: torch.dtype, device: str) -> Kernel:
        """Return the kernel for centred rows in the units of X."""
        centre = to_tensor(self._observations.informative_centre[None], dtype=dtype, device=device)
        kernel = _with_codes(as_kernel(self.kernel), self._observations.features)
        return kernel.seeing(-centre, float(torch.finfo(dtype).eps))

    @property
    def _is_linear(self) -> bool:
        """Whether the embedding keeps differences of rows, and so has a zero where X has one."""
        return True

    def _kernel_at_fit(self, dtype: torch.dtype, device: str) -> Kernel:
        """Return the kernel, with what mismatches of categories cost in the embedding."""
        kernel = _with_codes(as_kernel(self.kernel), self._observations.features)
        if kernel.codes is None:
            return kernel
        # numbers so far apart that all is brought closer do not make a match less exact
        widths, bandwidth = self._column_widths, self._representable_bandwidth(dtype)
        widths = np.where(np.exp(-0.5 * widths**-2.0) > 0, bandwidth, widths)
        widths = to_tensor(widths, dtype=torch.float64, device=device)
        return kernel.scaled_by(self._embed(1 / widths[None])[0])[0]

    def _embedding_state(self) -> bytes:
        """Return a code of what the embedding depends on."""
        return np.asarray(self.bandwidth_).tobytes()

    @property
    def sums_report_(self):
        """How the latest prediction's kernel sums were done.

        A dict with ``algorithm`` and ``evaluator`` (what ran), ``n_queries``, ``n_keys``,
        ``share_of_pairs`` (share of all pairs of a query and a training row that were evaluated
        one by one, queries done again included), ``rows_redone`` (queries done again exactly) and
        ``audited_error`` (for an algorithm with absolute error, the error found on exact sums times
        its safety factor, relative to the total weight of the training rows; else 0). It is of the
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

    def _embedded(self, centred: np.ndarray, dtype: torch.dtype, device) -> torch.Tensor:
        """Return the embedding of centred rows, kept where squares do not overflow."""
        rows, n_numbers = centred, self._observations.features.n_numbers
        has_codes = n_numbers < rows.shape[1]
        if has_codes:
            rows = np.array(rows)
            rows[:, n_numbers:] = 0
        rows = to_tensor(rows, dtype=dtype, device=device)
        bandwidth = to_tensor(self._representable_bandwidth(dtype), dtype=dtype, device=device)
        embedded = self._embed(pulled_in(rows / bandwidth, rows, bandwidth))
        embedded = pulled_in(embedded, embedded, torch.ones_like(embedded[:1, :1]))
        if has_codes:
            embedded[:, n_numbers:] = to_tensor(centred[:, n_numbers:], dtype=dtype, device=device)
        return embedded

    def _representable_bandwidth(self, dtype: torch.dtype) -> np.ndarray:
        largest = torch.finfo(dtype).max
        return representable_bandwidth(self._widths, self._observations.farthest, largest)

    @property
    def _widths(self) -> float | np.ndarray:
        """The width of every column, or one for all."""
        features = self._observations.features
        widths = features.widths(self.bandwidth_)
        return widths[features.of_column] if np.ndim(widths) else widths

    @property
    def _column_widths(self) -> np.ndarray:
        """The width of every column, (n_columns,)."""
        return np.broadcast_to(self._widths, (self._observations.features.n_columns,))

    def _queries(self, X: np.ndarray, smoother: Smoother) -> torch.Tensor:
        dtype = smoother.keys.dtype
        return self._embedded(self._centred(X, dtype), dtype, smoother.keys.device)

    def _centred(self, X: np.ndarray, dtype: torch.dtype) -> np.ndarray:
        """Return rows less the centre, in the precision of the sums that they are for."""
        precision = np.float32 if dtype == torch.float32 else np.float64
        return self._observations.centred(X.astype(precision, copy=False))

    def _attention_queries(self, X):
        """Return the smoother, the queries, each query's excluded key, and the rows' keys.

        The latter are the key that each training row belongs to and its share of that key.
        """
        observations = self._observations
        if X is not None:
            X = self._validate_queries(X)
            smoother = self._smoother(X.dtype)
            return smoother, self._queries(X, smoother), None, self._keys_of_rows(smoother)
        smoother = self._smoother_of_observations()
        group = to_tensor(observations.group, dtype=torch.int64, device=smoother.keys.device)
        queries, is_weightless = smoother.keys[group], group < 0
        if is_weightless.any():
            queries[is_weightless] = self._queries(observations.weightless, smoother)
        return smoother, queries, group, (observations.group.clip(0), observations.share)

    def _keys_of_rows(self, smoother: Smoother) -> tuple[np.ndarray, np.ndarray]:
        """Return the smoother's key of each training row, and the row's share of its weight."""
        observations = self._observations
        group = observations.group.clip(0)  # a weightless row has no key, and no share
        if len(smoother.keys) == len(observations):
            return group, observations.share
        return observations.cell[group], observations.row_share

    def _targets(self, means: torch.Tensor) -> np.ndarray:
        """Return scaled means (m, n_outputs) in the units, range, shape and precision of y."""
        observations = self._observations
        y = to_numpy(means).astype(np.float64, copy=False) * observations.y_scale
        y += observations.y_centre
        np.clip(y, observations.y_min, observations.y_max, out=y)
        y = y.astype(self._y_dtype, copy=False)
        return y[:, 0] if self._y_is_flat else y


def _with_codes(kernel: Kernel, features: Features) -> Kernel:
    """Return the kernel, told which columns of the points are codes of categories."""
    return replace(kernel, codes=Codes.of(features.caps)) if len(features.coded) else kernel


def _read(**arguments) -> tuple:
    """Return arguments in containers that the validation knows; refuse dates."""
    found = tuple(readable(name, input_array(values)) for name, values in arguments.items())
    for name, values in zip(arguments, found, strict=True):
        refuse_dates(name, values)
    return found


def _dtype_of_predictions(y: np.ndarray) -> str:
    """Return float32 where y is that, else float64."""
    return "float32" if y.dtype == np.float32 else "float64"
