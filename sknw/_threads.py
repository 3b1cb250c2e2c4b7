"""BLAS threads during a search.

SciPy's L-BFGS-B calls threaded LAPACK on matrices of a few rows. The pool's threads then spin and
take the cores from the loss that is being minimised, which made searches several times slower. The
pool is limited to one thread while a search runs, and restored after the last one that runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from threadpoolctl import ThreadpoolController

_lock = Lock()
_running = 0
_limit = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS pools to one thread in the block; searches in several threads share the limit."""
    global _running, _limit
    with _lock:
        if _running == 0:
            _limit = ThreadpoolController().limit(limits=1, user_api="blas")
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                _limit.restore_original_limits()
