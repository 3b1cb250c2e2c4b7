"""From rows to points at bandwidth 1: the one map behind every distance.

Rows are centred and divided by the bandwidth; where a metric is learned, its module maps them on.
Codes of categories are no coordinates: they stay as they are, and the kernel of the points says
what a mismatch costs.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sknw.data.arrays import to_tensor
from sknw.kernels import Kernel
from sknw.sums.engine import full_precision
from sknw.support import tuning
from sknw.support.random import OwnDraws

# Logarithm of the largest scaled key, in that of the dtype's largest number: the rest is room for
# squares and for the scales of a metric.
_SHARE_OF_EXPONENTS = 1 / 3
# Coordinates beyond this are pulled in: their squares must not overflow.
_LARGEST_COORDINATE = {torch.float64: 1e150, torch.float32: 1e18}


@dataclass(frozen=True, eq=False)
class Embedding:
    """A map of centred rows to points, and the kernel of the points.

    Parameters
    ----------
    module : torch.nn.Module or None
        What maps rows in units of the bandwidth; None: they are the points.
    bandwidth : Tensor of shape (n_columns,)
        The starting scale.
    kernel : Kernel
        The kernel of the points.
    """

    module: nn.Module | None
    bandwidth: Tensor
    kernel: Kernel

    @classmethod
    def of(
        cls,
        module: nn.Module | None,
        kernel: Kernel,
        bandwidth: np.ndarray,
        *,
        like: Tensor,
        farthest: np.ndarray | None = None,
    ) -> "Embedding":
        """Return the embedding of rows with the dtype and the device of `like`.

        Parameters
        ----------
        module : torch.nn.Module or None
            What maps rows in units of the bandwidth.
        kernel : Kernel
            The kernel of rows in the units of X.
        bandwidth : ndarray of shape (n_columns,)
            The starting scale; of codes the width that a mismatch is divided by.
        like : Tensor
            Has the dtype and the device of the points.
        farthest : ndarray of shape (n_columns,) or None, default=None
            Largest coordinates of the keys, for which the bandwidth may have to be widened.
        """
        widened = bandwidth
        if farthest is not None:
            largest = torch.finfo(like.dtype).max
            widened = representable_bandwidth(bandwidth, farthest, largest)
        as_tensor = {"dtype": like.dtype, "device": like.device}
        embedding = cls(module, to_tensor(widened, **as_tensor), kernel)
        if kernel.codes is None:
            return embedding
        # numbers so far apart that all is brought closer do not make a match less exact
        costs = np.where(np.exp(-0.5 * bandwidth**-2.0) > 0, widened, bandwidth)
        scales = to_tensor(1 / costs[None], dtype=torch.float64, device=like.device)
        return replace(embedding, kernel=kernel.scaled_by(embedding._mapped(scales)[0])[0])

    def points(self, rows: Tensor) -> Tensor:
        """Return the points (m, q) of centred rows (m, n_columns)."""
        rows = rows.to(self.bandwidth.dtype)
        codes = rows[:, rows.shape[1] - self.kernel.n_codes :]
        if self.kernel.n_codes:
            rows = rows.clone()
            rows[:, -self.kernel.n_codes :] = 0
        points = self._mapped(_pulled_in(rows / self.bandwidth, rows, self.bandwidth))
        points = _pulled_in(points, points, torch.ones_like(points[:1, :1]))
        if self.kernel.n_codes:
            points[:, -self.kernel.n_codes :] = codes
        return points

    def pulled_back(self, rows: Tensor, by_points: Tensor) -> Tensor:
        """Return gradients (m, n_numbers, k) by the numbers of centred rows (m, n_columns).

        From those by the numbers of their points, `by_points` (m, q, k): the chain rule. What
        brings rows beyond all numbers closer counts as a constant.
        """
        n_numbers = rows.shape[1] - self.kernel.n_codes
        widths = self.bandwidth[:n_numbers, None].to(by_points.dtype)
        if self.module is None:
            return by_points / widths
        scaled = rows.to(self.bandwidth.dtype) / self.bandwidth
        if self.kernel.n_codes:
            scaled[:, n_numbers:] = 0
            by_points = F.pad(by_points, (0, 0, 0, self.kernel.n_codes))
        found = []
        with full_precision(rows), OwnDraws(0), torch.inference_mode(False), torch.enable_grad():
            blocks = (rows.split(tuning.ROWS_OF_A_MODULE) for rows in (scaled, by_points))
            pairs = zip(*blocks, strict=True)
            for block, grads in pairs:
                block = block.clone().requires_grad_()
                points = self.module(block)
                of_outputs = [
                    torch.autograd.grad(points, block, grad.to(points.dtype), retain_graph=True)[0]
                    for grad in grads.clone().unbind(dim=2)
                ]
                found.append(torch.stack(of_outputs, dim=2).detach())
        return torch.cat(found)[:, :n_numbers].to(by_points.dtype) / widths

    def _mapped(self, scaled: Tensor) -> Tensor:
        with torch.no_grad():
            return scaled if self.module is None else in_blocks(self.module, scaled)


def in_blocks(module: nn.Module, rows: Tensor) -> Tensor:
    """Return the module's points of rows, some at a time so that memory stays small."""
    with full_precision(rows), OwnDraws(0):
        return torch.cat([module(block) for block in rows.split(tuning.ROWS_OF_A_MODULE)])


def representable_bandwidth(
    bandwidth: float | np.ndarray, farthest: np.ndarray, largest: float
) -> np.ndarray:
    """Return the bandwidth, widened by one factor where scaled keys would not fit the dtype.

    `farthest` (d,) are the keys' largest coordinates. Keys that far apart in bandwidths are alone
    either way, and keep their geometry.
    """
    bandwidth = np.asarray(bandwidth, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_reach = np.log(farthest.astype(np.float64)) - np.log(bandwidth)
    excess = np.max(log_reach) - _SHARE_OF_EXPONENTS * np.log(largest)
    return bandwidth * np.exp(max(excess, 0.0))


def _pulled_in(scaled: Tensor, rows: Tensor, bandwidth: Tensor) -> Tensor:
    """Return ``scaled = rows / bandwidth`` (m, d), too remote rows moved in along their ray."""
    limit = _LARGEST_COORDINATE[scaled.dtype]
    if scaled.numel() == 0 or max(-scaled.min(), scaled.max()) <= limit:
        return scaled
    remote = scaled.abs().amax(dim=1, keepdim=True) > limit
    direction = rows / rows.abs().amax(dim=1, keepdim=True) / bandwidth
    moved = direction * (limit / direction.abs().amax(dim=1, keepdim=True))
    return torch.where(remote, moved, scaled)
