"""Bandwidths that minimise a criterion: the settings of a search, and what it hands back.

How the minimum is looked for is in `sknw.bandwidth.strategy`.
"""

from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from sknw.bandwidth.rules import Scott
from sknw.bandwidth.selector import Selection, Selector
from sknw.bandwidth.strategy import Found, Plan, search
from sknw.data.features import Features
from sknw.data.observations import Observations
from sknw.fitting.criteria import CRITERIA
from sknw.fitting.leave_one_out import LeaveOneOut, threads_of
from sknw.fitting.minimize import Minimum
from sknw.fitting.parametrization import Widths
from sknw.fitting.scale_objective import (
    CriterionOfPolynomials,
    criterion_of_scales,
    scale_objective,
)
from sknw.smoothing.windows import FixedWindows
from sknw.support import tuning
from sknw.support.compat import Interval, StrOptions
from sknw.support.warnings import warn_user


class BandwidthSearch(Selector, BaseEstimator):
    """A search for the bandwidths that minimise a criterion, with its settings.

    Given as ``bandwidth=BandwidthSearch(...)``; its parameters nest in a grid search as
    ``bandwidth__criterion`` and so on. ``bandwidth="loo"`` is ``BandwidthSearch("loo")``, and so
    for the other criteria. The search is deterministic unless the estimator's `random_state` says
    otherwise, and leaves its findings on the estimator: `criterion_`, `search_report_`,
    `search_path_` and `irrelevant_features_`.

    Parameters
    ----------
    criterion : {"loo", "loo_absolute", "aicc", "gcv"}, default="loo"
        What is minimised. With several outputs, errors count in units of each output's variance
        (of its mean absolute deviation for ``"loo_absolute"``) and are averaged.

        - ``"loo"``: weighted mean squared leave-one-out error [1]_;
        - ``"loo_absolute"``: weighted mean absolute leave-one-out error, for outliers in y;
        - ``"aicc"``: ``log σ² + (1 + tr H/n)/(1 − (tr H + 2)/n)`` with σ² the mean squared error of
          the fit and H the matrix that turns y into it [2]_; smoother than ``"loo"``;
        - ``"gcv"``: ``σ²/(1 − tr H/n)²`` [3]_.
    per_feature : bool, default=True
        Whether every numeric feature has a bandwidth of its own; False: all have the same one, in
        the units of X (categories keep one each).
    n_starts : int or "auto", default="auto"
        How many starts a search over several bandwidths descends from, all of them broad.
        ``"auto"``: the minima of a scan over common multiples of the spreads, one of single
        features, and random ones, the more the fewer the rows. A search over one bandwidth scans
        its whole range, and descends from each of the `n_starts` lowest minima (``"auto"``: 3).
    bounds : "auto", (float, float) or array-like of shape (n_features, 2), default="auto"
        Smallest and largest bandwidth; a pair for all numeric features or one per feature (for a
        categorical feature of λ). ``"auto"``: a tenth of the smallest gap, and 10⁴ times the range,
        at which a feature has no influence left.
    max_iter : int, default=200
        Largest number of quasi-Newton steps from a start.
    tol : float, default=1e-11
        A step that gains less, relatively, is the last.
    n_held_out : int or "auto", default="auto"
        How many rows are predicted to compute the criterion, drawn once at random; their neighbours
        are always all the others. ``"auto"``: all up to 20,000 rows; of more, at least 5,000, but
        all of one feature whose sums take time by the rows alone. A number at least the number of
        rows: all.

    See Also
    --------
    NeighborBandwidth : A bandwidth that follows the density of the training rows.

    References
    ----------
    .. [1] W. Härdle and J. S. Marron, "Optimal bandwidth selection in nonparametric regression
           function estimation", Annals of Statistics 13(4), 1985.
    .. [2] C. M. Hurvich, J. S. Simonoff and C.-L. Tsai, "Smoothing parameter selection in
           nonparametric regression using an improved Akaike information criterion", Journal of the
           Royal Statistical Society B 60(2), 1998.
    .. [3] P. Craven and G. Wahba, "Smoothing noisy data with spline functions", Numerische
           Mathematik 31, 1979.

    Examples
    --------
    >>> from sknw import BandwidthSearch, NadarayaWatsonRegressor
    >>> from sknw.datasets import make_attention_curve
    >>> X, y, _, _ = make_attention_curve(random_state=0)
    >>> model = NadarayaWatsonRegressor(BandwidthSearch("aicc")).fit(X, y)
    >>> len(model.bandwidth_), bool(model.criterion_ < 1)
    (1, True)
    """

    _parameter_constraints: ClassVar[dict] = {
        "criterion": [StrOptions(CRITERIA)],
        "per_feature": ["boolean"],
        "n_starts": [StrOptions(["auto"]), Interval(Integral, 1, None, closed="left")],
        "bounds": "no_validation",
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_held_out": [StrOptions(["auto"]), Interval(Integral, 2, None, closed="left")],
    }

    def __init__(
        self,
        criterion="loo",
        *,
        per_feature=True,
        n_starts="auto",
        bounds="auto",
        max_iter=200,
        tol=1e-11,
        n_held_out="auto",
    ):
        self.criterion = criterion
        self.per_feature = per_feature
        self.n_starts = n_starts
        self.bounds = bounds
        self.max_iter = max_iter
        self.tol = tol
        self.n_held_out = n_held_out

    def check(self, features: Features) -> None:
        """Refuse parameters that are not as described."""
        super().check(features)
        self._width_bounds(features)

    def select(
        self,
        observations: Observations,
        task: LeaveOneOut,
        random_state: np.random.RandomState,
    ) -> Selection:
        """Search; take Scott's rule where no criterion can tell bandwidths apart."""
        plan = Plan(
            CRITERIA[self.criterion],
            shared=self._shared(observations.features),
            bounds=self._bounds(task),
            n_starts=None if self.n_starts == "auto" else self.n_starts,
            max_iter=self.max_iter,
            tol=self.tol,
            n_held_out=None if self.n_held_out == "auto" else self.n_held_out,
        )
        if not _is_informative(observations):
            return self._by_rule(observations, task, random_state, plan)
        task.progress.say(
            f"bandwidth search by {self.criterion!r}: {len(plan.scales(task))} parameters, "
            f"{len(task)} observations"
        )
        with threads_of(task):
            found = search(task, plan, random_state)
        if not found.is_usable:
            warn_user(
                f"The criterion {self.criterion!r} is finite at no bandwidth for these "
                f"{len(task)} observations; Scott's rule is used.",
                ConvergenceWarning,
            )
            return self._by_rule(observations, task, random_state, plan)
        if not found.minimum.converged:
            warn_user(
                f"The bandwidth search stopped after {self.max_iter} steps without converging.",
                ConvergenceWarning,
            )
        at_bound = _at_upper_bound(found)
        return self._selection(found, at_bound, linear=_linear(found, at_bound))

    def _by_rule(
        self,
        observations: Observations,
        task: LeaveOneOut,
        random_state: np.random.RandomState,
        plan: Plan,
    ) -> Selection:
        """Return Scott's bandwidths, within the bounds, with the criterion there."""
        by_rule, scales = Scott().select(observations, task, random_state), plan.scales(task)
        widths = by_rule.windows.widths
        widths = [np.exp(np.log(widths[own]).mean()) for own in scales.members]
        x = scales.widths.coordinates(np.array(widths))
        objective = scale_objective(task, plan.criterion, scales)
        value = objective.log_value(x)
        minimum = Minimum(x, value, [], True, scales, objective, start=x)
        none = np.zeros(task.n_features, dtype=bool)
        return self._selection(Found(plan.criterion, task, minimum), none, linear=none)

    def _selection(self, found: Found, at_bound: np.ndarray, linear: np.ndarray) -> Selection:
        task, widths = found.task, found.widths
        coordinates, losses = found.minimum.objective.path
        is_common = not (self.per_feature or task.observations.features.categories)
        reported = [found.criterion.reported(loss, task.targets) for loss in losses]
        return Selection(
            FixedWindows(float(widths[0]) if is_common else widths),
            criterion=found.value,
            report=found.report,
            path={
                "widths": np.array([found.widths_at(x) for x in coordinates]),
                "criterion": np.array(reported),
            },
            irrelevant=np.flatnonzero(at_bound & ~linear),
            linear=np.flatnonzero(linear),
        )

    def _shared(self, features: Features) -> np.ndarray | None:
        """Return the parameter of each feature; None where each has its own."""
        if self.per_feature:
            return None
        categorical = features.is_categorical  # each keeps a parameter of its own
        first = 0 if categorical.all() else 1
        return np.where(categorical, first + np.cumsum(categorical) - 1, 0)

    def _bounds(self, task: LeaveOneOut) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the user's bounds of each feature's width, and the data's where there are none."""
        bounds = self._width_bounds(task.observations.features)
        if bounds is None:
            return None
        automatic = Widths.of(task.observations, task.method.kernel)
        automatic = np.column_stack([automatic.lower, automatic.upper])
        lower, upper = np.where(np.isfinite(bounds), bounds, automatic).T
        return lower, upper

    def _width_bounds(self, features: Features) -> np.ndarray | None:
        """Return the bounds as widths (n_features, 2), NaN where the data decide."""
        if isinstance(self.bounds, str) and self.bounds == "auto":
            return None
        bounds = features.in_order("bounds", self.bounds)
        try:
            bounds = np.asarray(bounds, dtype=np.float64)
        except (TypeError, ValueError):
            bounds = np.empty(0)
        if bounds.shape not in ((2,), (features.n_features, 2)):
            raise ValueError(
                "bounds must be 'auto', a pair (lowest, highest), or one pair per feature, "
                f"({features.n_features}, 2); got {self.bounds!r}."
            )
        lowest, highest = bounds[..., 0], bounds[..., 1]
        may_be_zero = features.is_categorical if bounds.ndim == 2 else False
        is_positive = np.where(may_be_zero, lowest >= 0, lowest > 0)
        if not (np.isfinite(bounds).all() and is_positive.all() and (lowest <= highest).all()):
            raise ValueError(
                "bounds must be positive and finite (of a categorical feature's λ at least 0), the "
                f"lowest not above the highest; got {self.bounds!r}."
            )
        if bounds.ndim == 1:
            bounds = np.where(features.is_categorical[:, None], np.nan, bounds)
        elif (highest[features.is_categorical] > 1).any():
            raise ValueError(
                f"bounds of a categorical feature are of λ, at most 1; got {self.bounds!r}."
            )
        return np.column_stack([features.widths(column) for column in bounds.T])


def _at_upper_bound(found: Found) -> np.ndarray:
    """Return which features have no influence left (n_features,)."""
    ranges = found.scales.widths
    at_bound = (ranges.values(found.minimum.x) >= ranges.upper)[found.scales.of_feature]
    return at_bound & (found.task.observations.extent.range > 0)


def _linear(found: Found, at_bound: np.ndarray) -> np.ndarray:
    """Return which features (n_features,) at the bound change the criterion by their line."""
    task, linear = found.task, np.zeros_like(at_bound)
    if not task.method.degree or not at_bound.any():
        return linear
    features = task.observations.features
    scales = found.scales.column_scales(found.minimum.x)[None]
    with_all = criterion_of_scales(task, found.criterion).values(scales)[0]
    for feature in np.flatnonzero(at_bound & ~features.is_categorical):
        columns = tuple(np.flatnonzero(features.of_column == feature).tolist())
        of_others = CriterionOfPolynomials(task, found.criterion, columns).values(scales)[0]
        linear[feature] = abs(of_others - with_all) > tuning.CHANGE_BY_A_LINE * with_all
    return linear


def _is_informative(observations: Observations) -> bool:
    some_feature_varies = bool(np.any(observations.extent.range > 0))
    return len(observations) > 1 and some_feature_varies and observations.target_scale.varies
