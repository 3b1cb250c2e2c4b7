"""A process that compiles the loops while this one goes on, and fills numba's cache on disk.

A thread would not do: numba's compiler holds the interpreter's lock most of the time, and each
short torch operation of the foreground would wait for it. The process ends with this one, whatever
ends that: it reads from a pipe that nobody writes to, and the pipe closes. What it has compiled by
then stays on disk.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from sknw.support import tuning

_PROGRAM = """
import os, sys
if hasattr(os, "nice"):
    os.nice({niceness})
sys.path[:] = {path!r}
from sknw.sums.evaluators.compiled.background import compile_for_parent
compile_for_parent({precision!r})
"""


class BackgroundCompiler:
    """A process that compiles the loops of one precision; OSError where none can be started."""

    def __init__(self, precision: str) -> None:
        if getattr(sys, "frozen", False) or not Path(sys.executable).stem.startswith("python"):
            raise OSError(f"{sys.executable!r} is not a Python interpreter")
        program = _PROGRAM.format(
            path=sys.path, precision=precision, niceness=tuning.COMPILER_NICENESS
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C is for the parent alone
        )

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait for the end."""
        self._process.wait()

    def trouble(self) -> str | None:
        """Return why an ended process has not filled the cache; None if it has."""
        said = self._process.stdout.read().decode(errors="replace").strip()
        if self._process.returncode == 0 and not said:
            return None
        return said or f"the process that compiles ended with code {self._process.returncode}"

    def stop(self) -> None:
        """End the process, after the file that it writes."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:  # it is still importing, or hangs
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def disown(self) -> None:
        """Forget the process in a fork of its parent, which must not keep its pipe open."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.returncode = 0


def compile_for_parent(precision: str) -> None:
    """Compile the loops, and print what kept them from the disk, if anything did."""
    import warnings

    warnings.simplefilter("ignore")
    from sknw.sums.evaluators.compiled import disk_cache, loops

    threading.Thread(target=_end_with_parent, args=(disk_cache.writing,), daemon=True).start()
    compile_drivers(loops, precision)
    print(disk_cache.trouble() or "", end="", flush=True)


def _end_with_parent(writing: threading.Lock) -> None:
    while sys.stdin.buffer.read(1):
        pass
    with writing:
        os._exit(1)


def compile_drivers(loops: ModuleType, precision: str) -> None:
    """Load the drivers from the disk or compile them; one process at a time does."""
    with _one_process(loops.__file__):
        for name, signature in loops.signatures(precision).items():
            getattr(loops, name).compile(signature)


@contextmanager
def _one_process(path: str) -> Iterator[None]:
    """Let others wait, so that a pool of workers compiles once; where files can be locked."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "rb") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
