"""Whose threads have the cores during a search.

The compiled loops of the kernel sums start threads of their own, one for each core. Two other pools
would take the cores from them: SciPy's L-BFGS-B calls threaded LAPACK on matrices of a few rows,
and torch splits small products among OpenMP threads; the threads of both spin for a while after
each call. So BLAS pools are limited to one thread while a search runs, and restored after the last
one that runs; OpenMP's limit is the calling thread's own, so no other thread of the process sees
it.

Sums share their work out among Python's own threads (`shared_out`), started for a call and gone
after it. A child of a fork has none of the threads of its parent. OpenMP does not know that and
waits for them, so there torch keeps to the calling thread.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, cached_property
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
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


class _SharedLimit:
    """A limit of one thread for BLAS pools, from the first search that runs to the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._limit = None
        self.is_abandoned = False  # in a forked child, which has a new one in its place

    def begin(self) -> None:
        with self._lock:
            if self._running == 0:
                self._limit = _pools("blas").limit(limits=1)
            self._running += 1

    def end(self) -> None:
        if self.is_abandoned:
            return
        with self._lock:
            self._running -= 1
            if self._running == 0:
                self._limit.restore_original_limits()


_blas = _SharedLimit()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS pools to one thread in the block; searches in several threads share the limit."""
    limit = _blas
    limit.begin()
    try:
        yield
    finally:
        limit.end()


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch's own operations in this thread use so many cores; `n_threads` stays as it was.

    Within such a block another one changes nothing.
    """
    if getattr(_own, "n_threads", None) is not None:
        yield
        return
    _own.n_threads = torch.get_num_threads()
    limit, process = _pools("openmp").limit(limits=n), os.getpid()
    try:
        yield
    finally:
        if os.getpid() == process:  # a fork from within the block keeps the limit
            limit.restore_original_limits()
        _own.n_threads = None


def leaving_cores(n: int) -> AbstractContextManager:
    """Return a context in which torch leaves so many cores to others, and keeps at least one.

    Threads of OpenMP wait for each other: where one has to share its core, all are many times
    slower.
    """
    left = max(1, torch.get_num_threads() - n)
    return torch_threads(left) if left < torch.get_num_threads() else nullcontext()


def shared_out(
    task: Callable[[_Item, threading.Event], _Result], items: Iterable[_Item], n_threads: int
) -> list[_Result]:
    """Return the task's results for all items, in their order.

    So many threads take the items one after another, the calling thread among them; where no other
    can be started (too many, or the interpreter ends), it does all. The first error ends the work
    and is raised, KeyboardInterrupt too: no thread takes another item, and a task that takes long
    can look at the event, which is set then.
    """
    source, taking = enumerate(items), threading.Lock()
    results: dict[int, _Result] = {}
    errors: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                with taking:
                    index, item = next(source, (None, None))
                if index is None:
                    return
                results[index] = task(item, stop)
        except BaseException as error:
            errors.append(error)
            stop.set()

    others: list[threading.Thread] = []
    try:
        _start_others(work, n_threads - 1, others)
        work()
        for other in others:
            other.join()
    finally:  # an interrupt may come at any place
        if len(others) and any(other.is_alive() for other in others):
            stop.set()
            for other in others:
                other.join()
    if errors:
        raise errors[0]
    return [results[index] for index in sorted(results)]


def _start_others(work: Callable[[], None], n: int, others: list[threading.Thread]) -> None:
    for _ in range(n):
        thread = threading.Thread(target=work, name="sknw", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return
        others.append(thread)


def _after_fork() -> None:
    """Begin anew in a forked child: no other thread is there that would release a lock."""
    global _blas
    _blas.is_abandoned = True
    _blas = _SharedLimit()
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    if getattr(_own, "n_threads", None) is not None:
        _own.n_threads = 1
    if sys.version_info < (3, 12):  # until then each cached property has a lock
        _renew_locks_of_properties()


def _renew_locks_of_properties() -> None:
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "sknw"]
    classes = [kind for module in modules for kind in vars(module).values()]
    for kind in classes:
        for attribute in vars(kind).values() if isinstance(kind, type) else ():
            if isinstance(attribute, cached_property):
                attribute.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
