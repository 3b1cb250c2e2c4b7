"""The compiled loops as an evaluator: numpy views of CPU tensors, and the project's own threads.

Threads are Python's, as many as torch would use (`torch.get_num_threads`), started for a call and
gone after it; the compiled code runs outside the interpreter's lock. No thread setting of the
process is touched.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from sknw._arrays import to_numpy, to_tensor
from sknw.kernels import Kernel
from sknw.sums.evaluator import Evaluator
from sknw.sums.pairs import Pairs

_CHUNKS_PER_THREAD = 8
_PAIRS_PER_THREAD = 2e6  # below, starting a thread costs more than it brings
_NONE = np.empty(0, dtype=np.int64)
_switched_off = threading.local()


@contextmanager
def disabled() -> Iterator[None]:
    """Let torch evaluate every tile in the block, in this thread; for tests and benchmarks."""
    before = getattr(_switched_off, "value", False)
    _switched_off.value = True
    try:
        yield
    finally:
        _switched_off.value = before


@cache
def _loops() -> ModuleType | None:
    """Import the compiled loops; None without numba."""
    try:
        return import_module("sknw.sums.compiled")
    except ImportError:
        return None


class Fused(Evaluator):
    """Distance, kernel and accumulation in a core's registers and first cache."""

    name = "fused"

    def accepts(self, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> bool:
        """CPU tensors and kernels with a compiled formula, where numba is installed."""
        return (
            kernel.formula is not None
            and device.type == "cpu"
            and dtype in (torch.float32, torch.float64)
            and not getattr(_switched_off, "value", False)
            and _loops() is not None
            and kernel.formula[0] in _loops().FAMILIES
        )

    def points(self, rows: Tensor) -> np.ndarray:
        """Return the points feature-first, (b, d, n)."""
        return to_numpy(rows.mT.contiguous())

    def sums(self, kernel, queries, keys, columns, exclude, pairs, nearest=None) -> Tensor:
        """Return ``Σ_j K_ij v_j``, shape (b, k, m); relative to `nearest` (m,) if given."""
        queries, exclude = _with_identity(queries, keys, exclude)
        columns = _columns(columns, keys)
        out = np.zeros((*columns.shape[:2], queries.shape[2]))
        for b in range(len(keys)):
            self._run(
                "add_sums", kernel, pairs, exclude, nearest, queries[b], keys[b], columns[b],
                out=out[b],
            )  # fmt: skip
        return to_tensor(out, dtype=torch.float64, device="cpu")

    def pull(
        self, kernel, queries, keys, left, right, exclude, pairs, *, squared=False, nearest=None
    ) -> Tensor:
        """Return ``Σ_j K_ij ⟨left_i, right_j⟩ (q_i − z_j)``, shape (b, m, d)."""
        queries, exclude = _with_identity(queries, keys, exclude)
        left, right = _columns(_even(left), keys), _columns(_even(right), keys)
        out = np.zeros(queries.shape)
        for b in range(len(keys)):
            self._run(
                "add_pulls", kernel, pairs, exclude, nearest, queries[b], keys[b], left[b],
                right[b], squared, out=out[b],
            )  # fmt: skip
        return to_tensor(out, dtype=torch.float64, device="cpu").mT

    def nearest(
        self, queries: np.ndarray, keys: np.ndarray, exclude: np.ndarray | None, pairs: Pairs | None
    ) -> np.ndarray:
        """Return the squared distance (m,) of each query's nearest key, for one set (1, d, m)."""
        _, exclude = _with_identity(queries, keys, exclude)
        pairs = pairs or Pairs.all(queries.shape[2], keys.shape[2], keys.shape[1])
        out, tiles = np.full(queries.shape[2], np.inf, dtype=keys.dtype), _tiles(pairs, keys.dtype)

        def task(first: int, last: int) -> int:
            return _loops().find_nearest(queries[0], keys[0], exclude, tiles, first, last, out)

        _in_threads(task, pairs)
        return out

    def _run(self, name, kernel, pairs, exclude, nearest, queries, keys, *arguments, out) -> None:
        loops = _loops()
        family, form = kernel.formula
        codes = loops.FAMILIES.index(family), loops.FORMS.index(form)
        pairs = pairs or Pairs.all(queries.shape[1], keys.shape[1], keys.shape[0])
        tiles = _tiles(pairs, keys.dtype)
        nearest = np.empty(0, dtype=keys.dtype) if nearest is None else nearest

        def task(first: int, last: int) -> int:
            return getattr(loops, name)(
                queries, keys, *arguments, exclude, nearest, tiles, first, last, *codes, out
            )

        pairs.tally.append(_in_threads(task, pairs))


def _tiles(pairs: Pairs, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Return the pairs as the compiled loops take them."""
    indices = (pairs.blocks, pairs.offsets, pairs.starts, pairs.stops, pairs.places)
    lengths = (pairs.low, pairs.high, pairs.reaches, pairs.limits)
    return *indices, *(np.ascontiguousarray(array, dtype=dtype) for array in lengths)


def _with_identity(
    queries: np.ndarray | None, keys: np.ndarray, exclude: Tensor | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Write leave-one-out of the keys as queries that each exclude a key."""
    if queries is None:
        return keys, np.arange(keys.shape[2], dtype=np.int64)
    if exclude is None:
        return queries, _NONE
    return queries, exclude if isinstance(exclude, np.ndarray) else to_numpy(exclude)


def _columns(columns: Tensor, keys: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(to_numpy(columns), dtype=keys.dtype)


def _even(columns: Tensor) -> Tensor:
    """Append a column of zeros where the number of columns (b, k, n) is odd."""
    if columns.shape[1] % 2 == 0:
        return columns
    return torch.cat([columns, torch.zeros_like(columns[:, :1])], dim=1)


def _in_threads(task: Callable[[int, int], int], pairs: Pairs) -> int:
    """Run the task over all blocks of queries, in several threads where that pays.

    Returns the sum of what it returns.
    """
    n_blocks = len(pairs)
    worth = int(min(pairs.count / _PAIRS_PER_THREAD, n_blocks))
    n_threads = max(1, min(torch.get_num_threads(), worth))
    if n_threads == 1:
        return task(0, n_blocks)
    size = max(1, n_blocks // (n_threads * _CHUNKS_PER_THREAD))
    counter = itertools.count(0, size)

    def work() -> int:
        total = 0
        while (first := next(counter)) < n_blocks:
            total += task(first, min(first + size, n_blocks))
        return total

    with ThreadPoolExecutor(n_threads - 1, thread_name_prefix="sknw") as pool:
        others = [pool.submit(work) for _ in range(n_threads - 1)]
        return work() + sum(other.result() for other in others)
