"""Whether the compiled loops may be used: where compiling them does not cost more than they bring.

numba compiles the loops of one precision in 20 to 90 seconds of a quiet core, once, and keeps them
on disk. A small problem must not wait for that, nor for the import of numba. So as long as the
loops are not ready, torch does the sums, and the seconds that this takes are added up:

- loops that are on disk are loaded for the first problem of some hundred rows;
- after two seconds of torch's work, a process of low priority compiles them in the background;
- work that takes torch longer than a compilation waits for them.

`compile_ahead` does it at once.
"""

import atexit
import glob
import logging
import os
import sys
import threading
import time
import warnings
from contextlib import AbstractContextManager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from sknw.sums.evaluators.compiled.background import BackgroundCompiler, compile_drivers
from sknw.support import tuning
from sknw.support.compat import is_installed
from sknw.support.threads import leaving_cores

PRECISIONS = ("float64", "float32")
_logger = logging.getLogger("sknw")


class Loops:
    """The compiled loops of this process."""

    def __init__(self) -> None:
        self._absent_because: str | None = None
        self._module: ModuleType | None = None
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._ready: set[str] = set()
        self._looked: set[str] = set()
        self._torch_seconds = dict.fromkeys(PRECISIONS, 0.0)
        self._compilers: dict[str, BackgroundCompiler | None] = {}  # None where it has ended
        self._is_compiling = False
        self._may_load = True

    @property
    def installed(self) -> bool:
        """Whether numba is there, as far as that can be told without its import."""
        return self._absent_because is None and _numba_is_there()

    def module(self) -> ModuleType | None:
        """Import the loops; None, with a warning that says why, where that cannot be."""
        if self._module is None and self.installed:
            with self._lock:
                self._import()
        return self._module

    def _import(self) -> None:
        if self._module is not None or self._absent_because is not None:
            return
        try:
            numba = import_module("numba")
            if numba.config.DISABLE_JIT:
                self._give_up("NUMBA_DISABLE_JIT is set")
            else:
                self._module = import_module("sknw.sums.evaluators.compiled.loops")
        except Exception as error:  # a broken llvmlite raises OSError, AttributeError and others
            self._give_up(f"numba cannot be imported ({type(error).__name__}: {error})")

    def _give_up(self, reason: str) -> None:
        self._absent_because = reason
        warnings.warn(
            f"{reason}: kernel sums are done by torch, several times slower on a CPU.",
            RuntimeWarning,
            stacklevel=2,
        )

    def are_ready(self, precision: str) -> bool:
        """Whether nothing is left to load or to compile; a call of theirs compiles them, too."""
        if precision not in self._ready and self._module is not None:
            overloads = self._module.add_sums.overloads
            if overloads and self._module.signatures(precision)["add_sums"] in overloads:
                self._ready.add(precision)
        return precision in self._ready

    def likely(self, precision: str, seconds: float) -> bool:
        """Whether work that takes torch so long would be done by the loops; nothing is loaded."""
        if self.are_ready(precision):
            return True
        if not self._may_load:
            return False
        if precision not in self._looked and _may_be_on_disk():
            return True
        return self._pays(precision, seconds)

    def usable(self, precision: str, seconds: float) -> bool:
        """Whether the loops do that work; they are loaded, or waited for where that pays."""
        if self.are_ready(precision):
            return True
        pays = self._pays(precision, seconds)
        if not self._may_load or (self._is_compiling and not pays):
            return False
        with self._lock:
            if precision not in self._looked:
                self._looked.add(precision)
                if _may_be_on_disk() and self._load(precision):
                    return True
            self._harvest(precision, wait=pays)
            if pays and precision not in self._ready and self.module() is not None:
                _logger.warning(
                    "Compiling the loops for %s, once, before a long calculation.", precision
                )
                self.compile(precision)
            return precision in self._ready

    def _pays(self, precision: str, seconds: float) -> bool:
        return self._torch_seconds[precision] + seconds > tuning.SECONDS_WORTH_WAITING

    def count(self, precision: str, seconds: float) -> None:
        """Add up what torch does for want of the loops; compile them when it has become much."""
        if not self._may_load or self._is_compiling:
            return
        with self._lock:
            self._torch_seconds[precision] += seconds
            much = self._torch_seconds[precision] > tuning.SECONDS_WORTH_COMPILING
            if much and precision not in self._compilers and precision not in self._ready:
                self._start(precision)

    def compile(self, precision: str) -> bool:
        """Load the loops or compile them, here and now; return whether they came from the disk."""
        with self._lock:
            if precision in self._ready or self._load(precision):
                return True
            self._is_compiling = True
            try:
                compile_drivers(self._module, precision)
            finally:
                self._is_compiling = False
            self._ready.add(precision)
            return False

    def _load(self, precision: str) -> bool:
        """Load all drivers from the disk, if they are there."""
        if self.module() is None:
            return False
        from sknw.sums.evaluators.compiled.disk_cache import (
            NotOnDiskError,
            TolerantCache,
            only_load,
        )

        try:
            with only_load():
                for name, signature in self._module.signatures(precision).items():
                    driver = getattr(self._module, name)
                    if not isinstance(driver._cache, TolerantCache):
                        return False
                    driver.compile(signature)
        except NotOnDiskError:
            return False
        self._ready.add(precision)
        return True

    @property
    def n_compilers(self) -> int:
        """Number of processes that compile in the background now."""
        compilers = list(self._compilers.values())  # another thread may start one
        return sum(compiler is not None and compiler.is_running for compiler in compilers)

    def _start(self, precision: str) -> None:
        try:
            self._compilers[precision] = BackgroundCompiler(precision)
        except (OSError, RuntimeError) as error:  # none can be started, or at the interpreter's end
            self._compilers[precision] = None
            _logger.info("The loops cannot be compiled in the background: %s", error)
            return
        _logger.info("Compiling the loops for %s in the background; torch works on.", precision)

    def _harvest(self, precision: str, *, wait: bool) -> None:
        """Load what the background has compiled, once it has ended."""
        compiler = self._compilers.get(precision)
        if compiler is None or (compiler.is_running and not wait):
            return
        if compiler.is_running:
            _logger.warning("Waiting for the loops for %s, which are being compiled.", precision)
            compiler.wait()
        self._compilers[precision] = None
        trouble = compiler.trouble()
        compiler.stop()
        if self._load(precision):
            _logger.info("The loops for %s are ready.", precision)
        elif self._absent_because is None:
            warnings.warn(
                "The compiled loops could not be kept on disk, so torch does kernel sums as long "
                f"as they are not long enough to compile for: {trouble or 'no reason is known'}. "
                "Set NUMBA_CACHE_DIR to a folder with room.",
                RuntimeWarning,
                stacklevel=2,
            )

    def stop(self) -> None:
        """End what runs in the background."""
        for compiler in self._compilers.values():
            if compiler is not None:
                compiler.stop()

    def after_fork(self) -> None:
        """Begin anew in a forked child, with the loops that were loaded before.

        Another thread of the parent may have been within numba, whose locks then stay taken: the
        child loads no more.
        """
        ready, taken = self._ready, not self._lock.acquire(blocking=False)
        for compiler in self._compilers.values():
            if compiler is not None:
                compiler.disown()
        self._begin()
        self._ready |= ready
        self._may_load = not taken


LOOPS = Loops()
atexit.register(LOOPS.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=LOOPS.after_fork)


def beside_compilers() -> AbstractContextManager:
    """Return a context in which torch leaves a core to each process that compiles."""
    return leaving_cores(LOOPS.n_compilers)


@cache
def _numba_is_there() -> bool:
    return is_installed("numba")


def _may_be_on_disk() -> bool:
    """Whether numba's cache has files of these loops, perhaps of another version of them.

    This looks where numba would: its import takes longer than a small problem.
    """
    folders = [Path(__file__).parent / "__pycache__"]
    users = {
        "win32": os.environ.get("LOCALAPPDATA", ""),
        "darwin": os.path.expanduser("~/Library/Caches"),
    }.get(sys.platform, os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    within = ["numba", "Cache"] if sys.platform == "win32" else ["numba"]
    folders.append(Path(users, *within, "compiled_*"))
    if os.environ.get("NUMBA_CACHE_DIR"):
        folders = [Path(os.environ["NUMBA_CACHE_DIR"]) / "compiled_*"]
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return any(glob.glob(str(folder / f"loops.add_sums-*.{python}*.nbi")) for folder in folders)


def compile_ahead() -> dict[str, object]:
    """Compile the loops for kernel sums now, for both precisions, and keep them on disk.

    Without this call they are compiled when enough work for them has come together, in the
    background, and until then torch does the work. Call it while an image is built, before a
    continuous-integration job, or before a benchmark. It takes 40 to 100 seconds of a quiet
    core, and a second where the loops are on disk already.

    Returns
    -------
    report : dict
        For ``"float64"`` and ``"float32"`` what was done: ``"compiled"``, ``"loaded"`` from the
        disk (or there already), or ``"unavailable"``. ``"seconds"`` that it took, and the
        ``"cache_folder"`` that numba keeps them in, None where there is none. ``NUMBA_CACHE_DIR``
        in the environment names another.

    Warns
    -----
    RuntimeWarning
        If numba is missing or cannot work, with the reason; torch then does the sums.

    Examples
    --------
    >>> import sknw
    >>> report = sknw.compile_ahead()
    >>> sorted(report)
    ['cache_folder', 'float32', 'float64', 'seconds']
    """
    start = time.perf_counter()
    module, report, folder = LOOPS.module(), dict.fromkeys(PRECISIONS, "unavailable"), None
    if not _numba_is_there():
        warnings.warn(
            "There is nothing to compile: numba is not installed (pip install numba). "
            "Kernel sums are done by torch.",
            RuntimeWarning,
            stacklevel=2,
        )
    if module is not None:
        for precision in PRECISIONS:
            report[precision] = "loaded" if LOOPS.compile(precision) else "compiled"
        folder = getattr(module.add_sums._cache, "cache_path", None)
    return {**report, "seconds": time.perf_counter() - start, "cache_folder": folder}
