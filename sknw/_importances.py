"""How much each feature matters to the distance, by the names that scikit-learn's selectors ask."""

from abc import abstractmethod

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sknw.data.observations import Observations
from sknw.support import tuning
from sknw.support.state import question


class FeatureImportances:
    """`feature_importances_` and `get_support` of an estimator that knows its observations."""

    _observations: Observations

    @abstractmethod
    def _feature_scales(self) -> np.ndarray:
        """Return how far one unit of each feature moves a row, in bandwidths, (n_features,)."""

    @property
    @question
    def feature_importances_(self):
        """Importance of each feature, (n_features,): not negative, with a sum of one.

        With r the standard deviation of a feature in bandwidths, the importance is in proportion to
        ``r / (1 + r)``: 0 for a feature without influence, and nearly the same for all whose
        windows are much narrower than their spread. A feature that enters linearly counts as one
        whose window is as wide as its spread (r = 1). `sklearn.feature_selection.SelectFromModel`
        reads it. AttributeError for a metric that is not linear.
        """
        check_is_fitted(self)
        deviations = self._scales_where_relevant() * self._observations.extent.deviation
        deviations[self._linear] = 1.0
        with np.errstate(invalid="ignore"):
            shares = np.where(np.isinf(deviations), 1.0, deviations / (1 + deviations))
        total = shares.sum()
        return shares / total if total > 0 else shares

    @question
    def get_support(self, indices=False):
        """Return which features matter to the distance.

        A feature does not where a bandwidth search found it irrelevant, or where its range is less
        than a tenth of a bandwidth, so that it changes no weight of a Gaussian kernel by more than
        half a per cent. One that enters linearly matters.

        Parameters
        ----------
        indices : bool, default=False
            Whether to return integers instead of a mask.

        Returns
        -------
        support : ndarray of bool of shape (n_features,), or of int of shape (n_relevant,)

        Raises
        ------
        AttributeError
            If the metric is not linear.

        Examples
        --------
        >>> import numpy as np
        >>> from sknw import NadarayaWatsonRegressor
        >>> rng = np.random.default_rng(3)
        >>> X = rng.uniform(size=(100, 2))
        >>> y = X[:, 0] + rng.normal(0, 0.2, size=100)
        >>> model = NadarayaWatsonRegressor().fit(X, y)
        >>> model.get_support()
        array([ True, False])
        """
        check_is_fitted(self)
        reach = self._scales_where_relevant() * self._observations.extent.range
        support = reach >= tuning.LEAST_REACH_OF_A_RELEVANT_FEATURE
        support[self._linear] = True
        return np.flatnonzero(support) if indices else support

    @property
    def _linear(self) -> np.ndarray:
        """Indices of the features that a search found to enter linearly."""
        return getattr(self, "linear_features_", np.empty(0, dtype=int))

    def _scales_where_relevant(self) -> np.ndarray:
        """Return the scales of features, 0 where a search found no influence."""
        scales = np.array(self._feature_scales(), dtype=np.float64)
        scales[getattr(self, "irrelevant_features_", np.empty(0, dtype=int))] = 0.0
        scales[self._observations.extent.range == 0] = 0.0
        return scales
