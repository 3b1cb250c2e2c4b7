"""Attention pooling of one block as plain torch operations, differentiable to any order.

Everything is in units of the bandwidth. Nothing depends on values that torch may not look at, so
the function also works inside `torch.func` transforms and `torch.compile`; where values can be
looked at, what no row needs is left out. It holds several tensors of b · m · n · d numbers.

Weights are relative to each row's nearest key, as everywhere (`sknw.sums.tails`). Rows far from all
keys use the excess of the squared distance over the nearest key's, ``(z − a)(z + a − 2q)`` with a
that key, which does not cancel. The nearest key is a constant: whatever depends on the row alone
cancels from the ratio.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sknw.kernels import Kernel
from sknw.kernels.differentiable import differentiable_log_weights, differentiable_weights
from sknw.smoothing.empty import refuse_if_raising
from sknw.sums.geometry.distances import edge_allowance
from sknw.sums.tails import underflowing_rows
from sknw.support import tuning


@dataclass(frozen=True)
class Attention:
    """Who attends to whom, and how.

    Parameters
    ----------
    kernel : Kernel
        The window.
    eps : float
        Relative precision of the coordinates as given.
    policy : str
        What rows without a key in reach get.
    leave_one_out : bool, default=False
        Whether row i leaves out key i.
    is_causal : bool, default=False
        Whether row i leaves out the keys after key i.
    """

    kernel: Kernel
    eps: float
    policy: str
    leave_one_out: bool = False
    is_causal: bool = False

    @property
    def depends_on_places(self) -> bool:
        """Whether the place of a query among all queries matters."""
        return self.leave_one_out or self.is_causal

    def allowed(self, keys: Tensor, rows: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Return who may attend to whom (b or 1, m, n); None: everybody to everything."""
        if not self.depends_on_places:
            return mask
        places = torch.arange(keys.shape[1], device=keys.device)
        if self.leave_one_out:
            others = rows[..., None] != places
            mask = others if mask is None else mask & others
        if self.is_causal:
            earlier = rows[..., None] >= places
            mask = earlier if mask is None else mask & earlier
        return mask


def attend(
    attention: Attention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: Tensor | None,
    zero: Tensor | None,
    rows: Tensor | None,
    mask: Tensor | None,
    *,
    bandwidth: float | Tensor = 1.0,
) -> Tensor:
    """Return the pooled values (b, m, k).

    Parameters
    ----------
    attention : Attention
        Who attends to whom, and how.
    queries, keys, values : Tensor of shape (b, m, d), (b, n, d), (b, n, k)
        As in `sknw.smoothing.smoother.smooth`.
    weights : Tensor of shape (b, n) or None
        Weights of the keys; None: all equal.
    zero : Tensor of shape (b, d) or None
        Where the zero of the coordinates as given lies; only kernels with an edge look at it.
    rows : Tensor of shape (b, m) or None
        Place of each query among all queries; None where no place matters.
    mask : Tensor of shape (b, m, n) or None
        Which keys a query may attend to; None: all.
    bandwidth : float or Tensor of shape () or (d,), default=1.0
        Width of the window where the points are not in its units, for kernels without an edge:
        differences of points as given lose nothing.
    """
    allowed = attention.allowed(keys, rows, mask)
    usable = allowed if weights is None else _both(allowed, (weights > 0)[:, None])
    kernel = attention.kernel
    if kernel.has_edge:
        strengths = _edged_weights(kernel.seeing(zero, attention.eps), queries, keys)
        strengths = strengths if allowed is None else strengths.masked_fill(~allowed, 0.0)
    else:
        exponents = _exponents(kernel, _Points.of(queries, keys, bandwidth), usable)
        if weights is not None:  # a key of weight zero may be nearer than those that count
            exponents = exponents.clamp_max(tuning.LARGEST_LOG_WEIGHT[exponents.dtype.itemsize])
        if usable is None:  # the mass is never 0
            return torch.softmax(exponents, dim=-1) @ values
        if allowed is not None:
            exponents = exponents.masked_fill(~allowed, -torch.inf)
        strengths = exponents.exp()
    if weights is not None:
        strengths = strengths * weights[:, None]
    mass = strengths.sum(dim=-1, keepdim=True)
    empty = mass <= 0
    means = strengths @ values / torch.where(empty, 1.0, mass)
    if not holds_somewhere(empty, if_hidden=True):
        return means
    weights = torch.ones_like(keys[..., 0]) if weights is None else weights
    usable = torch.ones_like(strengths, dtype=torch.bool) if usable is None else usable
    fallback = _fallback(attention, queries, keys, values, weights, usable, rows, empty)
    return torch.where(empty, fallback, means)


def holds_somewhere(condition: Tensor, *, if_hidden: bool) -> bool:
    """Return whether a condition holds anywhere, or `if_hidden` where torch hides values.

    `torch.compile` does, and `torch.vmap`, which refuses to look by a RuntimeError.
    """
    if torch.compiler.is_compiling():
        return if_hidden
    try:
        return bool(condition.any())
    except RuntimeError:
        return if_hidden


def leave_graph(reason: str) -> None:
    """Leave a graph that torch.compile traces; with fullgraph=True, its error gives the reason."""
    if torch.compiler.is_compiling():
        torch._dynamo.graph_break(msg=reason)


def _both(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first & second


@dataclass(frozen=True)
class _Points:
    """Queries (d, b, m) and keys (d, b, n), features first, with the bandwidth as their unit."""

    queries: Tensor
    keys: Tensor
    bandwidth: float | Tensor = 1.0

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor, bandwidth: float | Tensor = 1.0) -> "_Points":
        """Return points given as (b, m, d) and (b, n, d).

        Sums over the features add whole matrices of pairs where those are worth another layout.
        """
        is_worth_it = queries.shape[1] >= tuning.FEWEST_ROWS_FOR_A_LAYOUT
        queries, keys = queries.movedim(-1, 0), keys.movedim(-1, 0)
        if is_worth_it:
            queries, keys = queries.contiguous(), keys.contiguous()
        return cls(queries, keys, bandwidth)

    def detach(self) -> "_Points":
        width = self.bandwidth
        width = width.detach() if isinstance(width, Tensor) else width
        return _Points(self.queries.detach(), self.keys.detach(), width)

    def squared_distances(self) -> Tensor:
        """Return the squared distances of all pairs, (b, m, n)."""
        steps = self.queries[..., None] - self.keys[:, :, None]
        return self._in_bandwidths(steps, steps)

    def squared_distances_to(self, anchors: Tensor) -> Tensor:
        """Return those of each query to its anchor (d, b, m), (b, m, 1)."""
        steps = (self.queries - anchors)[..., None]
        return self._in_bandwidths(steps, steps)

    def excesses(self, anchors: Tensor) -> Tensor:
        """Return the squared distances less those of each query's anchor (d, b, m), (b, m, n)."""
        keys, anchors = self.keys[:, :, None], anchors[..., None]
        return self._in_bandwidths(keys - anchors, keys + anchors - 2 * self.queries[..., None])

    def rounding(self, anchors: Tensor) -> Tensor:
        """Return what rounding of the points may add to each excess, (b, m, n)."""
        queries, keys, anchors = self.queries[..., None], self.keys[:, :, None], anchors[..., None]
        sizes = keys.abs() + anchors.abs()
        steps = (keys - anchors).abs() * (sizes + queries.abs()) + (queries - anchors).abs() * sizes
        return 2 * torch.finfo(keys.dtype).eps * steps.sum(dim=0)

    def nearest_keys(self, usable: Tensor | None) -> Tensor:
        """Return each query's nearest usable key (d, b, m): by distances, then by excesses."""

        def smallest(measure: Tensor) -> tuple[Tensor, Tensor]:
            measure = measure if usable is None else measure.masked_fill(~usable, torch.inf)
            value, place = measure.min(dim=-1)
            return value, torch.take_along_dim(self.keys, place[None], dim=-1)

        _, anchors = smallest(self.squared_distances())
        excess, nearer = smallest(self.excesses(anchors))
        return torch.where(excess < 0, nearer, anchors)

    def _in_bandwidths(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the inner products of steps (d, b, m, n) in bandwidths."""
        width = self.bandwidth
        if isinstance(width, Tensor) and width.ndim:
            width = width[:, None, None, None]
            return (left / width * (right / width)).sum(dim=0)
        product = (left.square() if left is right else left * right).sum(dim=0)
        return product / width**2 if isinstance(width, Tensor) or width != 1.0 else product


def _exponents(kernel: Kernel, points: _Points, usable: Tensor | None) -> Tensor:
    """Return the logarithms of weights (b, m, n), up to a constant of each row."""
    sq = points.squared_distances()
    plain = sq.detach() if usable is None else sq.detach().masked_fill(~usable, torch.inf)
    nearest = plain.amin(dim=-1, keepdim=True)
    nearest = nearest if usable is None else torch.where(usable.any(-1, True), nearest, 0.0)
    top = kernel.log_profile(nearest)
    # NaN counts as far: comparisons with it are false
    is_near = ~(underflowing_rows(kernel, top.exp(), sq.dtype)) & (nearest < torch.inf)
    if holds_somewhere(~is_near, if_hidden=True):
        return _exponents_far_away(kernel, points, usable)
    logs = differentiable_log_weights(kernel, sq)
    return logs if usable is None else logs - top  # softmax subtracts the largest itself


def _exponents_far_away(kernel: Kernel, points: _Points, usable: Tensor | None) -> Tensor:
    anchors = points.detach().nearest_keys(usable)
    excesses = points.excesses(anchors)
    if kernel.derivative_factor is not None:
        return kernel.derivative_factor * excesses
    # the value by the tail's own formula, the derivative by that of the logarithm
    largest = torch.finfo(excesses.dtype).max / 4
    nearest = points.squared_distances_to(anchors)
    logs = differentiable_log_weights(kernel, (excesses + nearest).clamp(0.0, largest))
    excess, nearest = excesses.detach(), nearest.detach().clamp_max(largest)
    tail = kernel.tail(excess.clamp_min(0.0), nearest.expand_as(excess)).log()
    nearer = logs.detach() - kernel.log_profile(nearest)
    return torch.where(excess < 0, nearer, tail) + (logs - logs.detach())


def _edged_weights(kernel: Kernel, queries: Tensor, keys: Tensor) -> Tensor:
    """Return the weights (b, m, n); pairs at the edge up to rounding are at distance 1."""
    sq = _Points.of(queries, keys).squared_distances()
    with torch.no_grad():
        of_queries, of_keys = edge_allowance(kernel, queries), edge_allowance(kernel, keys)
        at_edge = (sq - 1).abs() <= of_queries[..., None] + of_keys[..., None, :]
    sq = torch.where(at_edge, 1 + (sq - sq.detach()), sq)
    return differentiable_weights(kernel, sq)


def _fallback(
    attention: Attention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: Tensor,
    usable: Tensor,
    rows: Tensor | None,
    empty: Tensor,
) -> Tensor:
    """Return what rows without a key in reach get, (b, m, k)."""
    if attention.policy == "raise":
        _refuse(empty)
    if attention.policy in ("nan", "raise"):
        return torch.full_like(queries[..., :1], torch.nan)
    if attention.policy == "mean":
        # rows that may attend to nothing: the mean of all keys but their own
        alone = ~usable.any(dim=-1, keepdim=True)
        everyone = Attention(attention.kernel, attention.eps, "mean", attention.leave_one_out)
        others = everyone.allowed(keys, rows, torch.ones_like(usable))
        shares = torch.where(alone, others, usable) * weights[:, None]
    else:
        points = _Points.of(queries, keys).detach()
        anchors = points.nearest_keys(usable)
        nearest = points.excesses(anchors) <= points.rounding(anchors)
        shares = (nearest & usable) * weights[:, None]
    total = shares.sum(dim=-1, keepdim=True)
    means = shares @ values / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, means, torch.nan)


def _refuse(empty: Tensor) -> None:
    leave_graph("empty_neighborhood='raise' has to look at values; use 'nan'")
    try:
        refuse_if_raising("raise", int(empty.sum()), empty.numel())
    except RuntimeError:  # see `holds_somewhere`
        raise RuntimeError(
            "empty_neighborhood='raise' has to look at values, which torch.vmap hides; use 'nan'."
        ) from None
