"""Categories in the distance: columns of codes, and what a mismatch of each costs.

The last columns of points may be codes: small whole numbers that name categories. Such a column
adds ``cost · min(|q − z|, cap)`` to the squared distance. With cap 1 any two categories are
equally far (unordered); with the number of steps as the cap every step counts (ordered). A code
that is farther than the cap from all others stands for what fit has not seen, or what is missing.
So a category is one column however many values it has, where a one-hot code would be as many.

The cost is the squared scale of the column, ``1/h²``, and under the Gaussian ``λ = exp(−cost/2)``
is the weight of a mismatch (Li & Racine 2004). Where λ is 0 in double precision, the cost is so
large that no distance between numbers makes up for it: an exact match. Where λ is 1, it is zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor

# The cost of an exact match, by bytes of a float. Powers of two, so that sums of whole multiples
# are exact; larger than what the squares of any two keys may differ by.
EXACT = {8: 2.0**900, 4: 2.0**110}


@dataclass(frozen=True, eq=False)
class Codes:
    """What mismatches in the last columns of points add to squared distances.

    Parameters
    ----------
    caps : ndarray of shape (c,)
        Largest mismatch of each column.
    costs : ndarray of shape (b, c)
        Cost of a mismatch of one, for each member of a batch; infinite for an exact match.
    """

    caps: np.ndarray
    costs: np.ndarray

    @classmethod
    def of(cls, caps: np.ndarray) -> "Codes":
        """Return codes at unit costs."""
        caps = np.asarray(caps, dtype=np.float64)
        return cls(caps, np.ones((1, len(caps))))

    def __len__(self) -> int:
        return len(self.caps)

    def at(self, scales: Tensor) -> "Codes":
        """Return the codes at scales (c,) or (b, c) of their columns."""
        with np.errstate(over="ignore"):
            costs = np.square(np.atleast_2d(to_numpy(scales).astype(np.float64)))
            lambdas = np.exp(-0.5 * costs)
        costs = np.where(lambdas == 0, np.inf, np.where(lambdas == 1, 0.0, costs))
        return replace(self, costs=costs)

    def of_batch(self, members: slice) -> "Codes":
        """Return the codes of some members of the batch."""
        return replace(self, costs=self.costs[members])

    def costs_in(self, itemsize: int) -> np.ndarray:
        """Return finite costs (b, c) for floats of so many bytes."""
        return np.minimum(self.costs, EXACT[itemsize])

    @property
    def without_exact(self) -> "Codes":
        """The same, with mismatches of an exact match at no cost."""
        return replace(self, costs=np.where(np.isinf(self.costs), 0.0, self.costs))

    def is_exact(self, squares: Tensor) -> Tensor | None:
        """Return which squared distances hold a mismatch of what has to match exactly, if any."""
        if not np.isinf(self.costs).any():
            return None
        return squares >= EXACT[squares.dtype.itemsize]

    @property
    def largest(self) -> np.ndarray:
        """The most that all mismatches together may add, (b,)."""
        return self.costs_in(8) @ self.caps

    def numbers(self, points: Tensor) -> Tensor:
        """Return the columns (..., d − c) of points (..., d) that are no codes."""
        return points[..., : points.shape[-1] - len(self)]

    def mismatches(self, queries: Tensor, keys: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each code column's place, mismatches (..., m, n), and cost as a tensor.

        From points (..., m, d) and (..., n, d). The cost is (b, 1, 1) for a batch, else a scalar.
        Exact matches come first: their multiples then cancel exactly in differences.
        """
        first = queries.shape[-1] - len(self)
        costs = self.costs_in(queries.dtype.itemsize)
        shape = (-1, 1, 1) if queries.ndim == 3 else ()
        for f in np.argsort(-self.costs.max(axis=0), kind="stable").tolist():
            q, z = queries[..., :, None, first + f], keys[..., None, :, first + f]
            steps = (q - z).abs_().clamp_max_(float(self.caps[f]))
            cost = to_tensor(costs[:, f], dtype=queries.dtype, device=queries.device)
            yield f, steps, cost.reshape(shape)


def numeric_part(codes: Codes | None, points: Tensor) -> Tensor:
    """Return the columns of points (..., d) that are numbers."""
    return points if codes is None else codes.numbers(points)
