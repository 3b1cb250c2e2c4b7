"""What a fit says beside its predictions: slopes, leverage, degrees of freedom, a summary."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sknw._model import Model
from sknw._prepared import remember_report
from sknw._summary import FitSummary
from sknw.data.arrays import to_numpy
from sknw.data.extent import weighted_mean
from sknw.data.observations import Observations
from sknw.smoothing.gradients import Gradient
from sknw.support import tuning
from sknw.support.state import question
from sknw.support.warnings import warn_if_empty

_KINDS = ("trace", "squared")
_INTERPOLATES = 1e-12  # share of the weight that residuals keep, below which it is rounding


@dataclass(frozen=True, eq=False)
class InSample:
    """The fit at its own observations, each counted in its own estimate.

    Parameters
    ----------
    model : Model
        The fitted model.
    """

    model: Model

    @property
    def observations(self) -> Observations:
        """The training set."""
        return self.model.observations

    @cached_property
    def weights(self) -> np.ndarray:
        """Weights of the observations (n,), with a sum of one."""
        return self.observations.weights / self.observations.weights.sum()

    @cached_property
    def _key(self) -> np.ndarray:
        """The key that each observation belongs to, (n,)."""
        n_keys = len(self.model.smoother().keys)
        is_alone = n_keys == len(self.observations)
        return np.arange(n_keys) if is_alone else self.observations.cell

    @cached_property
    def _own(self):
        return self.model.smoother().own_weights()

    @cached_property
    def _share(self) -> np.ndarray:
        """Share of each observation in the weight of its key, (n,)."""
        logs = self.observations.log_weights
        totals = np.full(self._key.max() + 1, -np.inf)
        np.logaddexp.at(totals, self._key, logs)
        return np.exp(np.minimum(logs - totals[self._key], 0.0))

    @cached_property
    def leverage(self) -> np.ndarray:
        """The weight of each observation in its own estimate, (n,)."""
        return to_numpy(self._own.own)[self._key] * self._share

    @property
    def trace(self) -> float:
        """``Σ_i H_ii``."""
        return float(self.leverage.sum())

    @property
    def squared(self) -> float:
        """``Σ_ij (w_i / w_j) H_ij²``."""
        return float(to_numpy(self._own.square).sum())

    @cached_property
    def residuals(self) -> np.ndarray:
        """Scaled targets less their estimates, (n, n_outputs)."""
        smoother = self.model.smoother()
        means = to_numpy(smoother.predict(smoother.keys).means)
        return self.observations.y - means[self._key]

    @cached_property
    def residual_variance(self) -> np.ndarray:
        """Estimate of the variance of the errors, (n_outputs,), in squared units of y."""
        concentration = to_numpy(self._own.concentration)[self._key]
        left = self.weights @ (1 - 2 * self.leverage + concentration)
        squares = weighted_mean(np.square(self.residuals), self.weights)
        variance = squares / left if left > _INTERPOLATES else np.full_like(squares, np.nan)
        return variance * np.square(self.observations.target_scale.scale)

    @cached_property
    def r2(self) -> np.ndarray:
        """Share of the weighted variance that the fit explains, (n_outputs,)."""
        y = self.observations.y
        total = weighted_mean(np.square(y - weighted_mean(y, self.weights)), self.weights)
        left = weighted_mean(np.square(self.residuals), self.weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(total > 0, 1 - left / total, np.nan)

    @cached_property
    def loo_mse(self) -> np.ndarray:
        """Weighted mean of squared leave-one-out errors, (n_outputs,); NaN where some have none."""
        try:
            means = to_numpy(self.model.smoother().predict(None).means)
        except ValueError:  # the policy is to raise
            return np.full(self.observations.y.shape[1], np.nan)
        squares = np.square(self.observations.y - means)
        unit = np.square(self.observations.target_scale.scale)
        return weighted_mean(squares, self.weights) * unit

    @cached_property
    def average_gradient(self) -> np.ndarray:
        """Weighted mean of the gradients at the observations, (n_features, n_outputs)."""
        smoother, X = self.model.smoother(), self.observations.X
        by_key = gradients_of(self.model, X, smoother.gradient(self.model.points(X, smoother)))
        of_cells = self.observations.cell_weights / self.observations.cell_weights.sum()
        return np.einsum("c,cfk->fk", of_cells, by_key)


def gradients_of(model: Model, X: np.ndarray, found: Gradient) -> np.ndarray:
    """Return gradients (m, n_features, n_outputs) in the units of y and X; NaN by categories."""
    by_numbers, are_numbers = model.gradients(X, found.by_points, model.smoother(X.dtype))
    shape = len(X), len(are_numbers), by_numbers.shape[2]
    gradients = np.full(shape, np.nan)
    gradients[:, are_numbers] = by_numbers * model.observations.target_scale.scale
    return gradients


class Inference:
    """Slopes, leverage and degrees of freedom of an estimator that has a model."""

    _observations: Observations
    _model: Model

    @question
    def gradient(self, X):
        """Return the slope of the regression function at X: the marginal effects.

        With `degree` 0 the derivative of the prediction, else the slope of the local polynomial,
        which estimates the same without the bias of the former; a fit that is mixed with lower
        degrees has the same mixture of slopes. At a kink the mean of the one-sided derivatives.
        With a `~sknw.bandwidth.NeighborBandwidth` the derivative at a fixed window.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Queries.

        Returns
        -------
        gradient : ndarray of shape (n_queries, n_features) or (n_queries, n_features, n_outputs)
            In units of y per unit of X; the latter for a two-dimensional y. NaN in the features
            that are categories. Where no training row is in reach: zero for an
            `empty_neighborhood` of "nearest" and "mean", NaN for "nan".

        Raises
        ------
        ValueError
            If a query has no training row in reach, for an `empty_neighborhood` of "raise".

        Warns
        -----
        EmptyNeighborhoodWarning
            If queries have no training row in reach.

        References
        ----------
        .. [1] W. Härdle and T. M. Stoker, "Investigating smooth multiple regression by the method
               of average derivatives", Journal of the American Statistical Association 84, 1989.

        Examples
        --------
        >>> from sknw import NadarayaWatsonRegressor
        >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 4.0, 9.0]
        >>> model = NadarayaWatsonRegressor(bandwidth=0.5).fit(X, y)
        >>> model.gradient([[1.0], [1.5]]).round(3)
        array([[1.72 ],
               [3.432]])
        """
        X, model = self._columns(X), self._model
        smoother = model.smoother(X.dtype)
        found = smoother.gradient(model.points(X, smoother))
        remember_report(self._observations, found.report)
        warn_if_empty(self.empty_neighborhood, found.n_empty, len(X))
        gradient = gradients_of(model, X, found).astype(self._y_dtype, copy=False)
        return gradient[:, :, 0] if self._y_is_flat else gradient

    @question
    def leverage(self):
        """Return the weight of each training row's observation in its own prediction.

        The diagonal of the hat matrix; with `degree` 0 it is ``K(0) w_i / Σ_j K_ij w_j`` over all
        observations, itself included. Copies of one observation have its leverage.

        Returns
        -------
        leverage : ndarray of shape (n_samples,)
            Between 0 and 1 for every named kernel; 0 for a row of weight zero.

        Raises
        ------
        ValueError
            If a kernel that is zero at distance zero leaves a row without any in reach, for an
            `empty_neighborhood` of "raise".

        Examples
        --------
        >>> from sknw import NadarayaWatsonRegressor
        >>> X, y = [[0.0], [1.0], [2.0], [9.0]], [0.0, 1.0, 4.0, 9.0]
        >>> model = NadarayaWatsonRegressor(bandwidth=1.0).fit(X, y)
        >>> model.leverage().round(3)
        array([0.574, 0.452, 0.574, 1.   ])
        """
        observations = self._model.observations
        leverage = np.append(InSample(self._model).leverage, 0.0)
        return leverage[observations.group]  # the last for group -1

    @question
    def degrees_of_freedom(self, kind="trace"):
        """Return how many parameters the fit amounts to.

        Parameters
        ----------
        kind : {"trace", "squared"}, default="trace"
            With the hat matrix H of the observations and their weights w, ``"trace"`` is
            ``Σ_i H_ii``, the sum of their leverages; ``"squared"`` is ``Σ_ij (w_i / w_j) H_ij²``,
            for equal weights ``tr HᵀH`` [1]_.

        Returns
        -------
        degrees_of_freedom : float
            From 1, for a constant, to the number of observations, for one that interpolates.

        Raises
        ------
        ValueError
            If `kind` is neither.

        References
        ----------
        .. [1] C. Loader, "Local Regression and Likelihood", Springer, 1999, section 2.3.2.

        Examples
        --------
        >>> from sknw import NadarayaWatsonRegressor
        >>> X, y = [[0.0], [1.0], [2.0], [9.0]], [0.0, 1.0, 4.0, 9.0]
        >>> model = NadarayaWatsonRegressor(bandwidth=1.0).fit(X, y)
        >>> round(model.degrees_of_freedom(), 3)
        2.6
        >>> round(model.degrees_of_freedom("squared"), 3)
        2.268
        """
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(f"kind must be 'trace' or 'squared'; got {kind!r}.")
        return getattr(InSample(self._model), kind)

    @property
    @question
    def residual_variance_(self):
        """Estimate of the variance of y about the fit, a float or (n_outputs,).

        ``Σ_i w_i r_i² / Σ_i w_i (1 − 2 H_ii + Σ_j H_ij²)`` with the residuals r of the fit and
        its hat matrix H (Cleveland and Devlin 1988): the mean square of the residuals, over the
        share of the errors that they keep. NaN where the fit interpolates. It is computed on
        access; AttributeError above 10,000 training rows, where `summary` has it.
        """
        check_is_fitted(self)
        n_rows, most = len(self._observations.group), tuning.MOST_ROWS_OF_THE_RESIDUAL_VARIANCE
        if n_rows > most:
            raise AttributeError(
                f"residual_variance_ is computed on access for at most {most} training rows; got "
                f"{n_rows}. Use summary().residual_variance."
            )
        try:
            variance = InSample(self._model).residual_variance
        except ValueError as error:
            raise AttributeError(str(error)) from error
        return float(variance[0]) if self._y_is_flat else variance

    @question
    def summary(self):
        """Return what the fit amounts to, in a table and as numbers.

        Number of observations, kernel, bandwidth of each feature and whether it matters, R²,
        residual standard error, degrees of freedom, mean squared leave-one-out error, and the
        average marginal effect of each numeric feature: the weighted mean of `gradient` over the
        training rows. It takes about as long as ten predictions of the training rows.

        Returns
        -------
        summary : FitSummary
            Prints as a table of at most 79 columns. Its attributes are listed by
            ``summary.to_dict()``.

        Raises
        ------
        ValueError
            As in `leverage`.

        Examples
        --------
        >>> from sknw import NadarayaWatsonRegressor
        >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 4.0, 9.0]
        >>> model = NadarayaWatsonRegressor(bandwidth=0.5).fit(X, y)
        >>> found = model.summary()
        >>> found.n_observations, found.average_gradient.round(2)
        (4, array([1.92]))
        >>> print(found)
        Kernel regression: NadarayaWatsonRegressor
        ==========================================
        Observations                4
        Kernel               gaussian
        Degree                      0
        Bandwidth               fixed
        Degrees of freedom
          trace                 3.335
          squared               2.862
        R-squared              0.9905
        Residual std. error     1.549
        Leave-one-out MSE       7.024
        -----------------------------
        Feature  Bandwidth  Average effect
        x0             0.5            1.92
        """
        model, fit = self._model, InSample(self._model)
        features = model.observations.features
        with np.errstate(divide="ignore"):
            widths, irrelevant = self._widths_of_features()
        flat = self._y_is_flat
        return FitSummary(
            estimator=type(self).__name__,
            n_observations=len(model.observations),
            kernel=self.kernel if isinstance(self.kernel, str) else _name_of(self.kernel),
            degree=self.degree,
            windows=model.windows.describe(),
            feature_names=_feature_names(self),
            bandwidth=widths,
            is_categorical=features.is_categorical.copy(),
            is_irrelevant=irrelevant,
            is_linear=np.isin(np.arange(len(widths)), getattr(self, "linear_features_", [])),
            degrees_of_freedom=fit.trace,
            degrees_of_freedom_squared=fit.squared,
            r2=_flat(fit.r2, flat),
            residual_variance=_flat(fit.residual_variance, flat),
            loo_mse=_flat(fit.loo_mse, flat),
            average_gradient=fit.average_gradient[:, 0] if flat else fit.average_gradient,
        )

    def _widths_of_features(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each feature's width (n_features,), λ for categories, and which do not matter.

        The width is how far rows lie apart, in this feature alone, whose distance is one bandwidth.
        NaN where the metric is not linear.
        """
        categorical = self._observations.features.is_categorical
        try:
            scales = np.asarray(self._feature_scales(), dtype=np.float64)
        except AttributeError:
            unknown = np.full(len(categorical), np.nan)
            return unknown, np.zeros(len(categorical), dtype=bool)
        with np.errstate(over="ignore"):
            widths = np.where(categorical, np.exp(-0.5 * scales**2), 1 / scales)
        irrelevant = self._scales_where_relevant() == 0
        return widths, irrelevant


def _feature_names(estimator: BaseEstimator) -> list[str]:
    names = getattr(estimator, "feature_names_in_", None)
    return [f"x{i}" for i in range(estimator.n_features_in_)] if names is None else list(names)


def _name_of(kernel) -> str:
    return getattr(kernel, "__name__", type(kernel).__name__)


def _flat(of_outputs: np.ndarray, flat: bool) -> float | np.ndarray:
    return float(of_outputs[0]) if flat else of_outputs
