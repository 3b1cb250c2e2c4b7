"""What the compiled loops take, and the kernels that they know; this module needs no numba."""

from typing import NamedTuple

import numpy as np

FAMILIES = (
    "gaussian",
    "exponential",
    "cosine",
    "epanechnikov",
    "tophat",
    "linear",
    "biweight",
    "triweight",
    "tricube",
    "power",  # 2^−s, the Gaussian of points that are scaled for it
    "near power",  # the same where no s is larger than `powers.LARGEST`
    "nearest",
)
FORMS = ("profile", "derivative", "square")


class Points(NamedTuple):
    """Queries and keys feature-first; their last features may be codes of categories.

    Parameters
    ----------
    queries, keys : ndarray of shape (d, m), (d, n)
        A coordinate of neighbouring points is one contiguous slice.
    costs, caps : ndarray of shape (c,)
        Cost of a mismatch of one in each column of codes, and largest mismatch.
    """

    queries: np.ndarray
    keys: np.ndarray
    costs: np.ndarray
    caps: np.ndarray


class Weighing(NamedTuple):
    """How a pair is weighed.

    Parameters
    ----------
    exclude : ndarray of shape (m,) or (0,), int64
        Key that a query leaves out, or -1.
    nearest : ndarray of shape (m,) or (0,)
        Squared distance that the weights are relative to; none for plain weights.
    anchors : ndarray of shape (d, m) or (d, 0)
        The keys at that distance.
    query_edges, key_edges : ndarray of shape (m,), (n,), or (0,) both
        What rounding may do to a squared distance of 1; none where the kernel has no edge.
    family, form : int
        Places in `FAMILIES` and `FORMS`.
    """

    exclude: np.ndarray
    nearest: np.ndarray
    anchors: np.ndarray
    query_edges: np.ndarray
    key_edges: np.ndarray
    family: int
    form: int


class Tiles(NamedTuple):
    """Which pairs count: boxes of queries and of keys, and how far they need each other.

    Parameters
    ----------
    starts, low, high, cutoffs : ndarray of shape (n + 1,), (d, n), (d, n), (n,)
        Boxes of queries (see `Boxes` in `sknw.sums.geometry.interactions`), with squared distances.
    key_starts, key_low, key_high, key_cutoffs : ndarray
        The same of the keys.
    query_cutoffs : ndarray of shape (m,)
        Squared cutoff radius of each query.
    """

    starts: np.ndarray
    low: np.ndarray
    high: np.ndarray
    cutoffs: np.ndarray
    key_starts: np.ndarray
    key_low: np.ndarray
    key_high: np.ndarray
    key_cutoffs: np.ndarray
    query_cutoffs: np.ndarray
