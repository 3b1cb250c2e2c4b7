"""Rows with equal X share their kernel sums, and each of them still leaves itself out.

The keys of the sums are the cells of equal rows, so a million rows in twenty cells have four
hundred pairs. A row's leave-one-out sums are those of its cell over all *other* cells, and the rest
of its own cell at distance zero, ``K(0) Σ_{j ≠ i in the cell} w_j [1, y_j]``. That rest is a sum of
the others, never a difference from the whole, so a light row beside a heavy one keeps its digits.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sknw.data.arrays import accumulator_dtype, to_numpy, to_tensor
from sknw.kernels import Kernel
from sknw.sums import KernelSums


@dataclass(frozen=True, eq=False)
class Cells:
    """Rows in cells of equal X.

    Parameters
    ----------
    of_row : Tensor of shape (n,)
        The cell of each row.
    columns : Tensor of shape (1 + k, n)
        Weights of the rows, and weights times values.
    """

    of_row: Tensor
    columns: Tensor

    @classmethod
    def of(cls, labels: Tensor, columns: Tensor) -> "Cells | None":
        """Return the cells of rows with labels (n,), equal in a cell; None if all are distinct."""
        _, of_row = torch.unique(labels, return_inverse=True)
        if len(of_row) == 0 or int(of_row.max()) + 1 == len(of_row):
            return None
        return cls(of_row, columns)

    def take(self, rows: Tensor) -> "Cells | None":
        """Return the cells of some of the rows (index)."""
        return Cells.of(self.of_row[rows], self.columns[:, rows])

    def single(self) -> "Cells":
        """Return the cells with columns in float32."""
        return replace(self, columns=self.columns.float())

    @cached_property
    def first(self) -> Tensor:
        """The first row of each cell, (n_cells,)."""
        n_cells = int(self.of_row.max()) + 1
        rows = torch.arange(len(self.of_row), device=self.of_row.device)
        found = torch.full((n_cells,), len(rows), device=rows.device)
        return found.scatter_reduce(0, self.of_row, rows, "amin")

    @cached_property
    def totals(self) -> Tensor:
        """The columns summed over each cell, (1 + k, n_cells)."""
        return self.summed(self.columns).to(self.columns.dtype)

    def summed(self, of_rows: Tensor) -> Tensor:
        """Return the sums (..., n_cells) over each cell of what rows (..., n) have."""
        dtype = accumulator_dtype(of_rows.device)
        total = of_rows.new_zeros((*of_rows.shape[:-1], len(self.first)), dtype=dtype)
        return total.index_add(-1, self.of_row, of_rows.to(total.dtype))

    @cached_property
    def others(self) -> Tensor:
        """The columns summed over the *other* rows of each row's cell, (1 + k, n)."""
        columns = to_numpy(self.columns).astype(np.float64)
        order = np.argsort(to_numpy(self.of_row), kind="stable")
        cell, ordered = to_numpy(self.of_row)[order], columns[:, order]
        before = _sums_before(ordered, cell)
        after = _sums_before(ordered[:, ::-1], cell[::-1])[:, ::-1]
        others = np.empty_like(columns)
        others[:, order] = before + after
        device = self.columns.device
        return to_tensor(others, dtype=accumulator_dtype(device), device=device)


def _sums_before(columns: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return for each place the sum (k, n) over the places before it that are of the same cell.

    Each pass adds sums over twice as many places, so no sum is ever subtracted from another.
    """
    within = np.zeros_like(columns)
    within[:, 1:] = np.where(cell[1:] == cell[:-1], columns[:, :-1], 0.0)
    step, total = 1, within
    while step < len(cell) and (cell[step:] == cell[:-step]).any():
        carried = np.where(cell[step:] == cell[:-step], total[:, :-step], 0.0)
        total = total.copy()
        total[:, step:] += carried
        step *= 2
    return total


@dataclass(frozen=True, eq=False)
class OwnCells:
    """From the sums of cells, each leaving itself out, to those of the rows that are predicted.

    Parameters
    ----------
    of_row : Tensor of shape (m,)
        Which of the queries is each row's cell.
    others : Tensor of shape (1 + k, m)
        Columns summed over the other rows of its cell.
    """

    of_row: Tensor
    others: Tensor

    def added(self, sums: KernelSums, kernel: Kernel) -> KernelSums:
        """Return the sums of the rows under the kernel.

        Where the cell has other rows, they are the nearest keys, so nothing needs to be scaled.
        """
        log_scale, of_cell = sums.log_scale[:, self.of_row], sums.sums[:, self.of_row]
        has_others = self.others[0] > 0
        of_others = (weight_at_zero(kernel, self.others) * self.others).mT.to(of_cell.dtype)
        return replace(
            sums,
            log_scale=torch.where(has_others, 0.0, log_scale),
            sums=torch.where(
                has_others[:, None], of_cell * log_scale.exp()[..., None] + of_others, of_cell
            ),
        )

    def added_to_moments(
        self, moments: Tensor, log_scale: Tensor, kernel: Kernel
    ) -> tuple[Tensor, Tensor]:
        """Return moments (m, p, 1 + k) of the rows, and the logarithms of their units, (m,).

        From those of the queries. The rest of a cell is no step away, so it adds to sums alone.
        """
        sums = self.added(KernelSums(log_scale[None], moments[None, :, 0]), kernel)
        moments, before = moments[self.of_row], log_scale[self.of_row]
        moments = moments * (before - sums.log_scale[0]).exp()[:, None, None]
        rest = moments[:, 1:].to(sums.sums.dtype)
        return torch.cat([sums.sums[0][:, None], rest], dim=1), sums.log_scale[0]

    def log_squares(self, of_queries: Tensor, kernel: Kernel) -> Tensor:
        """Return logarithms (m,) of sums of squared weights of cells, from those of the queries.

        The rest of its own cell counts as one key of a row.
        """
        rest = (weight_at_zero(kernel, self.others) * self.others[0]).to(of_queries.dtype)
        return torch.logaddexp(of_queries[self.of_row], 2 * log_or_nothing(rest))

    def summed(self, of_rows: Tensor, n_queries: int) -> Tensor:
        """Return the sums (k, n_queries) over the rows at each query of what they have (k, m)."""
        return of_rows.new_zeros((len(of_rows), n_queries)).index_add(1, self.of_row, of_rows)


def log_or_nothing(sums: Tensor) -> Tensor:
    """Return logarithms of sums, −∞ without a gradient where there is nothing."""
    return torch.where(sums > 0, torch.where(sums > 0, sums, 1.0).log(), -torch.inf)


def weight_at_zero(kernel: Kernel, like: Tensor) -> Tensor:
    """Return the kernel's weight at distance zero, (1,)."""
    return kernel.profile(like.new_zeros(1))
