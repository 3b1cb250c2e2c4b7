"""scikit-learn's private names, imported here and nowhere else (1.6 onward)."""

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import validate_data

try:
    from sklearn.callback import CallbackSupportMixin

    HAS_CALLBACKS = True
except ImportError:  # before 1.9
    HAS_CALLBACKS = False

    class CallbackSupportMixin:
        """Stands for the mixin that scikit-learn does not have yet."""


__all__ = [
    "HAS_CALLBACKS",
    "CallbackSupportMixin",
    "Interval",
    "StrOptions",
    "check_sample_weight",
    "fit_context",
    "validate_data",
]
