"""Attention matrices of training rows, from the attention weights of their observations."""

from collections.abc import Iterator
from numbers import Integral

import numpy as np
from scipy import sparse
from torch import Tensor

from sknw._arrays import to_numpy, working_memory_bytes
from sknw._observations import Observations
from sknw.smoother import Smoother


def attention_matrix(
    smoother: Smoother, observations: Observations, queries: Tensor, exclude: Tensor | None
) -> tuple[np.ndarray, int]:
    """Return the full matrix (n_queries, n_rows), and how many queries were empty.

    Raises
    ------
    ValueError
        If it would exceed scikit-learn's ``working_memory``.
    """
    shape = len(queries), len(observations.group)
    dtype = np.dtype(str(smoother.keys.dtype).removeprefix("torch."))
    _check_fits_memory(shape, dtype)
    weights = np.empty(shape, dtype=dtype)
    n_empty = 0
    for block, rows, empty in _blocks(smoother, observations, queries, exclude):
        weights[block] = rows
        n_empty += empty
    return weights, n_empty


def top_attention(
    smoother: Smoother,
    observations: Observations,
    queries: Tensor,
    exclude: Tensor | None,
    top_k: int,
) -> tuple[sparse.csr_array, int]:
    """Return the `top_k` largest weights of each query, and how many queries were empty."""
    n_rows = len(observations.group)
    if isinstance(top_k, bool) or not isinstance(top_k, Integral) or not 1 <= top_k <= n_rows:
        raise ValueError(
            "top_k must be an integer between 1 and the number of training rows, "
            f"{n_rows}; got {top_k!r}."
        )
    parts, n_empty = [], 0
    for _, rows, empty in _blocks(smoother, observations, queries, exclude):
        parts.append(_largest(rows, top_k))
        n_empty += empty
    return sparse.vstack(parts, format="csr"), n_empty


def _blocks(
    smoother: Smoother, observations: Observations, queries: Tensor, exclude: Tensor | None
) -> Iterator[tuple[slice, np.ndarray, int]]:
    """Yield blocks of queries with their weights on training rows (m_b, n_rows)."""
    group, n_keys = observations.group, observations.n_keys
    rows_are_keys = len(group) == n_keys and np.array_equal(group, np.arange(n_keys))
    key_of_row = np.minimum(group, n_keys - 1)  # a weightless row has no key, and no share
    for block, weights, empty in smoother.attention(queries, exclude, width=len(group)):
        rows = to_numpy(weights)
        if not rows_are_keys:
            rows = (rows[:, key_of_row] * observations.share).astype(rows.dtype, copy=False)
        yield block, rows, empty


def _largest(weights: np.ndarray, top_k: int) -> sparse.csr_array:
    """Return the largest weights of each row as CSR, columns in order, zeros left out."""
    columns = np.argpartition(weights, -top_k, axis=1)[:, -top_k:]
    columns.sort(axis=1)
    starts = np.arange(0, columns.size + 1, top_k)
    kept = np.take_along_axis(weights, columns, axis=1)
    matrix = sparse.csr_array((kept.ravel(), columns.ravel(), starts), shape=weights.shape)
    matrix.eliminate_zeros()
    return matrix


def _check_fits_memory(shape: tuple[int, int], dtype: np.dtype) -> None:
    size = shape[0] * shape[1] * dtype.itemsize
    allowed = working_memory_bytes()
    if size > allowed:
        raise ValueError(
            f"attention_weights would be a {shape[0]} x {shape[1]} matrix ({_readable(size)}), "
            f"over the working memory of {allowed / 2**20:g} MiB; ask for top_k=... or raise "
            "sklearn.set_config(working_memory=...)."
        )


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
