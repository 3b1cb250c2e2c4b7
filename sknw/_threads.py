"""Whose threads have the cores during a search.

The compiled loops of the kernel sums start threads of their own, one for each core. Two other pools
would take the cores from them: SciPy's L-BFGS-B calls threaded LAPACK on matrices of a few rows,
and torch splits small products among OpenMP threads; the threads of both spin for a while after
each call. So BLAS pools are limited to one thread while a search runs, and restored after the last
one that runs; OpenMP's limit is the calling thread's own, so no other thread of the process sees
it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_running = 0
_limit = None
_own = threading.local()


@cache
def _pools(kind: str) -> ThreadpoolController:
    """Find the process' pools of a kind, once: it takes milliseconds.

    The end of a limit restores all that its controller holds, so it must hold no other kind.
    """
    return ThreadpoolController().select(user_api=kind)


def n_threads() -> int:
    """Return how many threads sums on a CPU may use: torch's number outside of any search."""
    return getattr(_own, "n_threads", None) or torch.get_num_threads()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS pools to one thread in the block; searches in several threads share the limit."""
    global _running, _limit
    with _lock:
        if _running == 0:
            _limit = _pools("blas").limit(limits=1)
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                _limit.restore_original_limits()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch's own operations in this thread use one core; `n_threads` stays as it was."""
    if getattr(_own, "n_threads", None) is not None:
        yield
        return
    _own.n_threads = torch.get_num_threads()
    limit = _pools("openmp").limit(limits=1)
    try:
        yield
    finally:
        limit.restore_original_limits()
        _own.n_threads = None
