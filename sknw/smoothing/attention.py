"""Attention matrices of training rows, from the attention weights of the keys they belong to."""

from collections.abc import Iterator
from numbers import Integral

import numpy as np
from scipy import sparse
from torch import Tensor

from sknw.data.arrays import to_numpy, working_memory_bytes
from sknw.smoothing.smoother import Smoother

RowKeys = tuple[np.ndarray, np.ndarray]


def attention_matrix(
    smoother: Smoother, rows: RowKeys, queries: Tensor, exclude: Tensor | None
) -> tuple[np.ndarray, int]:
    """Return the full matrix (n_queries, n_rows), and how many queries were empty.

    `rows` are the key of each training row (n_rows,), and its share of that key's weight.

    Raises
    ------
    ValueError
        If it would exceed scikit-learn's ``working_memory``.
    """
    shape = len(queries), len(rows[0])
    dtype = np.dtype(str(smoother.keys.dtype).removeprefix("torch."))
    _check_fits_memory(shape, dtype)
    weights = np.empty(shape, dtype=dtype)
    n_empty = 0
    for block, found, empty in _blocks(smoother, rows, queries, exclude):
        weights[block] = found
        n_empty += empty
    return weights, n_empty


def top_attention(
    smoother: Smoother,
    rows: RowKeys,
    queries: Tensor,
    exclude: Tensor | None,
    top_k: int,
) -> tuple[sparse.csr_array, int]:
    """Return the `top_k` largest weights of each query, and how many queries were empty."""
    n_rows = len(rows[0])
    if isinstance(top_k, bool) or not isinstance(top_k, Integral) or not 1 <= top_k <= n_rows:
        raise ValueError(
            "top_k must be an integer between 1 and the number of training rows, "
            f"{n_rows}; got {top_k!r}."
        )
    parts, n_empty = [], 0
    for _, found, empty in _blocks(smoother, rows, queries, exclude):
        parts.append(_largest(found, top_k))
        n_empty += empty
    return sparse.vstack(parts, format="csr"), n_empty


def _blocks(
    smoother: Smoother, rows: RowKeys, queries: Tensor, exclude: Tensor | None
) -> Iterator[tuple[slice, np.ndarray, int]]:
    """Yield blocks of queries with their weights on training rows (m_b, n_rows)."""
    key, share = rows
    rows_are_keys = np.array_equal(key, np.arange(len(smoother.keys))) and (share == 1).all()
    for block, weights, empty in smoother.attention(queries, exclude, width=len(key)):
        found = to_numpy(weights)
        if not rows_are_keys:
            found = (found[:, key] * share).astype(found.dtype, copy=False)
        yield block, found, empty


def _largest(weights: np.ndarray, top_k: int) -> sparse.csr_array:
    """Return each row's weights of the largest magnitude as CSR, in order, zeros left out."""
    columns = np.argpartition(np.abs(weights), -top_k, axis=1)[:, -top_k:]
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
