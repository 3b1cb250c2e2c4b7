"""What depends on other packages: private names of scikit-learn (1.6 onward), optional packages."""

from collections.abc import Iterable
from importlib.util import find_spec

from sklearn import __version__ as _sklearn_version
from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils._param_validation import StrOptions as _StrOptions
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import validate_data

try:
    from sklearn.callback import CallbackSupportMixin

    HAS_CALLBACKS = True
except ImportError:  # before 1.9
    HAS_CALLBACKS = False

    class CallbackSupportMixin:
        """Stands for the mixin that scikit-learn does not have yet."""


# Before 1.7.2 one of scikit-learn's own checks cannot be run on an estimator with this tag: it
# subtracts a mean from integer categories in place.
HAS_CATEGORICAL_TAG = parse_version(_sklearn_version) >= parse_version("1.7.2")


class StrOptions(_StrOptions):
    """Choices by name, which messages list in the order given; a set would be in any."""

    def __init__(self, options: Iterable[str]):
        self._in_order = list(options)
        super().__init__(set(self._in_order))

    def __str__(self) -> str:
        return f"a str among {{{', '.join(map(repr, self._in_order))}}}"


def is_installed(package: str) -> bool:
    """Return whether an optional package is there, without its import."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # something in the process keeps it out
        return False


__all__ = [
    "HAS_CALLBACKS",
    "HAS_CATEGORICAL_TAG",
    "CallbackSupportMixin",
    "Interval",
    "StrOptions",
    "check_sample_weight",
    "fit_context",
    "is_installed",
    "validate_data",
]
