"""scikit-learn's private names, imported here and nowhere else (1.6 onward)."""

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import validate_data

__all__ = ["Interval", "StrOptions", "check_sample_weight", "fit_context", "validate_data"]
