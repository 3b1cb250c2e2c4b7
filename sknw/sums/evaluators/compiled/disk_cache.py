"""Compiled functions, and numba's cache on disk, where trouble with a file never stops a sum.

A power cut leaves empty or truncated files, a full disk takes no more, a folder may be read-only.
numba raises whatever unpickling or writing raises. Here a file that cannot be read counts as
absent, and its index is removed, so that the next compilation replaces it; what cannot be written
is compiled again in the next process. One warning says so. What is on disk is out of date when any
file of this folder has changed, since the loops contain what other files define.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

# Held while a file is written: a process that has to end waits for it and leaves no half file.
writing = threading.Lock()
_only_load = threading.local()
_troubles: list[str] = []


class NotOnDiskError(Exception):
    """The cache on disk has no such code."""


@contextmanager
def only_load() -> Iterator[None]:
    """Raise `NotOnDiskError` in the block, in this thread, instead of compiling."""
    _only_load.active = True
    try:
        yield
    finally:
        _only_load.active = False


def trouble() -> str | None:
    """Return what first went wrong with the cache in this process."""
    return _troubles[0] if _troubles else None


def compiled(function=None, *, fastmath=True):
    """Compile a function on first use."""
    if function is None:
        return lambda function: compiled(function, fastmath=fastmath)
    return njit(function, nogil=True, fastmath=fastmath, error_model="numpy")


def inlined(function):
    """Let numba write the function's body wherever it is called."""
    return njit(function, inline="always", fastmath=True, error_model="numpy")


def kept_on_disk(function=None, *, fastmath=True):
    """Compile a function on first use; keep the code on disk where there is a place for it."""
    if function is None:
        return lambda function: kept_on_disk(function, fastmath=fastmath)
    dispatcher = compiled(function, fastmath=fastmath)
    try:
        dispatcher._cache = TolerantCache(function)
    except RuntimeError:  # no folder to write to
        return dispatcher
    return dispatcher


class TolerantCache(FunctionCache):
    """The cache of one compiled function."""

    def __init__(self, function):
        super().__init__(function)
        files = sorted(Path(__file__).parent.glob("*.py"))
        stamp = tuple((file.stat().st_mtime, file.stat().st_size) for file in files)
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=stamp,
        )

    def load_overload(self, sig, target_context):
        """Return the code for a signature; None where there is none that can be read."""
        try:
            found = super().load_overload(sig, target_context)
        except Exception as error:  # a truncated pickle may raise any
            found = None
            with suppress(OSError):
                Path(self._cache_file._index_path).unlink()
            _warn_once(f"a file in {self.cache_path} cannot be read ({_named(error)})")
        if found is None and getattr(_only_load, "active", False):
            raise NotOnDiskError
        return found

    def save_overload(self, sig, data):
        """Write the code for a signature if that is possible."""
        try:
            with writing:
                super().save_overload(sig, data)
        except Exception as error:
            self.disable()
            _warn_once(f"{self.cache_path} cannot be written to ({_named(error)})")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _warn_once(what: str) -> None:
    _troubles.append(what)
    if len(_troubles) == 1:
        warnings.warn(
            f"numba's cache on disk is in trouble: {what}. Results are not affected, but the "
            "loops may have to be compiled again in each process. Set NUMBA_CACHE_DIR to a folder "
            "with room.",
            RuntimeWarning,
            stacklevel=2,
        )
