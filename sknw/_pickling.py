"""Pickles carry the version that they are of, and another one warns."""

from sknw._version import __version__
from sknw.support.warnings import VersionWarning, warn_user

_VERSION_KEY = "_sknw_version"


class VersionedState:
    """State with a version; comes before `sklearn.base.BaseEstimator`."""

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
