"""The differentiable estimate: what training minimises over, and attention pooling returns.

Everything here is in embedded space, where the bandwidth is 1. A query without a key in reach
follows the policy of `sknw.smoothing.empty`.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from sknw.data.arrays import accumulator_dtype
from sknw.kernels.codes import numeric_part
from sknw.smoothing.cells import OwnCells, log_or_nothing
from sknw.smoothing.empty import fill_empty
from sknw.smoothing.local_fit import LocalFit
from sknw.smoothing.local_polynomial import LocalPolynomial, Terms
from sknw.smoothing.method import Method
from sknw.smoothing.smoother import value_columns
from sknw.sums import KernelSums, kernel_moments, kernel_sums


def smooth(
    method: Method,
    queries: Tensor | None,
    keys: Tensor,
    values: Tensor,
    weights: Tensor,
    *,
    exclude: Tensor | None = None,
    own: OwnCells | None = None,
) -> Tensor:
    """Return local fits at queries, differentiable in every tensor.

    Parameters
    ----------
    method : Method
        How to smooth.
    queries : Tensor of shape (b, m, d) or None
        None means the keys themselves, each leaving itself out.
    keys : Tensor of shape (b, n, d)
        Keys in bandwidth units.
    values : Tensor of shape (b, n, k)
        Values to average.
    weights : Tensor of shape (b, n)
        Weights of the keys, >= 0.
    exclude : Tensor of shape (m,) or None, default=None
        Index of the key that a query leaves out, or -1.
    own : OwnCells or None, default=None
        Where the keys are cells of equal rows: which rows to predict, with the rest of their cells.

    Returns
    -------
    Tensor of shape (b, m, k)
    """
    columns = value_columns(values, weights)
    if method.degree:
        means, empty = _polynomials(method, queries, keys, columns, exclude, own)
    else:
        sums = kernel_sums(
            method.kernel, queries, keys, columns,
            exclude=exclude, algorithm=method.algorithm, rtol=method.rtol,
        )  # fmt: skip
        fit = LocalFit.of((sums if own is None else own.added(sums, method.kernel)).sums)
        means, empty = fit.means, fit.empty
    if not empty.any():
        return means
    return fill_empty(method, means, empty, queries, keys, columns, exclude, own)


def _polynomials(
    method: Method,
    queries: Tensor | None,
    keys: Tensor,
    columns: Tensor,
    exclude: Tensor | None,
    own: OwnCells | None,
) -> tuple[Tensor, Tensor]:
    """Return the estimates (b, m, k) of local polynomials, and which rows (b, m) are empty.

    In the widest precision, since the differences of moments matter.
    """
    wide, given = accumulator_dtype(keys.device), columns.dtype
    keys, columns = keys.to(wide), columns.to(wide)
    queries = None if queries is None else queries.to(wide)
    found = kernel_moments(
        method.kernel, queries, keys, columns,
        order=2 * method.degree, exclude=exclude, algorithm=method.algorithm, rtol=method.rtol,
    )  # fmt: skip
    squares = SquaredWeights(method, queries, keys, columns[:, 0], exclude)
    means, empty = [], []
    for b in range(len(keys)):
        numbers = numeric_part(method.kernel.codes, keys[b]).detach()
        terms = Terms.of(numbers, columns[b, 0].detach(), method.degree)
        moments, log_scale = found.moments[b], found.log_scale[b]
        kernel = method.kernel.member(b)
        if own is not None:
            moments, log_scale = own.added_to_moments(moments, log_scale, kernel)
        neighbors = partial(squares.neighbors, b, moments, log_scale, own)
        fit = LocalPolynomial.of(terms, moments, neighbors)
        means.append(fit.means)
        empty.append(fit.empty)
    return torch.stack(means).to(given), torch.stack(empty)


@dataclass(frozen=True, eq=False)
class SquaredWeights:
    """Sums of the squared weights that queries give to keys of distinct X, when they are asked for.

    Parameters
    ----------
    method, queries, keys, exclude
        As in `smooth`.
    weights : Tensor of shape (b, n)
        Weights of the keys.
    """

    method: Method
    queries: Tensor | None
    keys: Tensor
    weights: Tensor
    exclude: Tensor | None

    @cached_property
    def sums(self) -> KernelSums:
        """The sums of the queries, differentiable."""
        # Fourier transforms may have no room for the square, which is narrower
        algorithm = "auto" if self.method.algorithm == "nufft" else self.method.algorithm
        return kernel_sums(
            self.method.kernel.squared(), self.queries, self.keys, self.weights.square()[:, None],
            exclude=self.exclude, algorithm=algorithm, rtol=self.method.rtol,
        )  # fmt: skip

    def neighbors(
        self, b: int, moments: Tensor, log_scale: Tensor, own: OwnCells | None, rows: Tensor
    ) -> Tensor:
        """Return Kish's number of neighbours of some rows (index), for the moments of all."""
        logs = log_or_nothing(self.sums.mass[b]) + self.sums.log_scale[b]
        if own is not None:
            logs = own.log_squares(logs, self.method.kernel.member(b))
        mass = moments[rows, 0, 0].log() + log_scale[rows]
        return (2 * mass - logs[rows]).exp()
