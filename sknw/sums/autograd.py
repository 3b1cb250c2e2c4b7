"""Kernel sums with gradients, in memory linear in the number of points.

The backward pass is kernel sums again. With ``S_i = Σ_j K(s_ij) v_j``, ``s_ij = |q_i − z_j|²`` and
``G = dL/dS``,

    dL/dq_i = 2 Σ_c G_ic (q_i Σ_j K'(s_ij) v_jc − Σ_j K'(s_ij) v_jc z_j)
    dL/dz_j = 2 Σ_c v_jc (z_j Σ_i K'(s_ij) G_ic − Σ_i K'(s_ij) G_ic q_i)
    dL/dv_j = Σ_i K(s_ij) G_i

that is, sums of the extra columns ``v ⊗ z``, and sums with the roles of queries and keys swapped,
under the kernel's slope. So every algorithm has gradients without a line of its own. The Gaussian's
slope is proportional to itself: its extra columns ride along in the forward pass, and one swapped
pass gives the rest.

Rows that were done again (`sknw.sums.exact`) keep their shift: a row's log-scale is a constant that
cancels from every ratio, so it is not differentiated.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sknw.kernels import Kernel
from sknw.sums.engine import PreparedSums, choose_for, full_precision, identified
from sknw.sums.exact import shifted_groups
from sknw.sums.problem import Algorithm, KernelSums


def kernel_sums(
    kernel: Kernel,
    queries: Tensor | None,
    keys: Tensor,
    columns: Tensor,
    *,
    exclude: Tensor | None = None,
    algorithm: str = "auto",
) -> KernelSums:
    """Return kernel sums, differentiable in queries, keys and value columns.

    Parameters
    ----------
    kernel : Kernel
        The window.
    queries : Tensor of shape (b, m, d) or None
        None means the keys themselves, each leaving itself out.
    keys : Tensor of shape (b, n, d)
        Keys in bandwidth units.
    columns : Tensor of shape (b, k, n)
        Value columns; column 0 holds the keys' weights (>= 0).
    exclude : Tensor of shape (m,) or None, default=None
        Index of the key that a query leaves out, or -1. No key is left out twice.
    algorithm : str, default="auto"
        Name in `ALGORITHMS`, or ``"auto"``.
    """
    inputs = [tensor for tensor in (queries, keys, columns) if tensor is not None]
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    chosen = choose_for(
        algorithm,
        kernel,
        queries,
        keys,
        leave_one_out=queries is None or exclude is not None,
        needs_grad=needs_grad,
    )
    if not needs_grad:
        return PreparedSums.of(kernel, keys, columns, chosen).sums(queries, exclude)
    log_scale, sums = _KernelSums.apply(queries, keys, columns, kernel, chosen, exclude)
    return KernelSums(log_scale, sums)


def _with_moments(columns: Tensor, points: Tensor) -> Tensor:
    """Append the columns ``v ⊗ z``: (b, k, n) and (b, n, d) to (b, k (1 + d), n)."""
    moments = columns[:, :, None, :] * points.mT[:, None]  # (b, k, d, n)
    return torch.cat([columns, moments.flatten(1, 2)], dim=1)


def _pull(points: Tensor, weights: Tensor, sums: Tensor) -> Tensor:
    """Contract sums of columns and moments to a gradient.

    ``2 Σ_c weights_c (points Σ K' column_c − Σ K' column_c ⊗ others)``, from points (b, n, d),
    weights (b, k, n) and sums (b, k (1 + d), n), to (b, n, d).
    """
    k, weights = weights.shape[1], weights.to(sums.dtype)
    moments = sums[:, k:].unflatten(1, (k, -1))  # (b, k, d, n)
    own = (weights * sums[:, :k]).sum(dim=1)[..., None] * points
    return 2 * (own - torch.einsum("bkn,bkdn->bnd", weights, moments))


class _KernelSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries, keys, columns, kernel: Kernel, algorithm: Algorithm, exclude):
        moves = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        ctx.reuses_forward = moves and kernel.slope_factor is not None
        wide = _with_moments(columns, keys) if ctx.reuses_forward else columns
        prepared = PreparedSums.of(kernel, keys, wide, algorithm)
        result = prepared.sums(queries, exclude)
        kept = result.sums.mT if ctx.reuses_forward else None
        ctx.save_for_backward(queries, keys, columns, exclude, result.log_scale, kept)
        ctx.kernel, ctx.algorithm, ctx.state = kernel, algorithm, prepared.state
        ctx.mark_non_differentiable(result.log_scale)
        return result.log_scale, result.sums[..., : columns.shape[1]].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, _log_scale_grad, sums_grad):
        passes = _Backward(ctx, sums_grad.mT)
        queries_grad, keys_grad, columns_grad = None, None, None
        with full_precision(passes.keys):
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
                queries_grad, keys_grad = passes.points()
            if ctx.needs_input_grad[2]:
                columns_grad = passes.columns()
        return queries_grad, keys_grad, columns_grad, None, None, None


class _Backward:
    """The swapped sums of one backward pass, for the gradient G (b, k, m) of the sums."""

    def __init__(self, ctx, grad: Tensor):
        self.queries, self.keys, self.values, self.exclude, log_scale, self.forward = (
            ctx.saved_tensors
        )
        self.kernel, self.algorithm, self.state = ctx.kernel, ctx.algorithm, ctx.state
        self.grad = grad.to(self.keys.dtype)
        self.weak = log_scale != 0
        self.points_from, self.points_exclude = identified(self.queries, self.exclude, self.keys)
        # dK/ds = factor · slope_kernel
        self.factor = self.kernel.slope_factor if ctx.reuses_forward else 1.0
        self.slope_kernel = self.kernel if ctx.reuses_forward else self.kernel.derivative()

    def points(self) -> tuple[Tensor | None, Tensor]:
        """Gradients with respect to queries and keys; both in the second where they are one."""
        pulls = _pull(self.points_from, self.grad, self.factor * self._forward_sums())
        wide = _with_moments(self.grad, self.points_from)
        swapped = self.factor * self._swapped(self.slope_kernel, wide)
        keys_grad = _pull(self.keys, self.values, swapped)
        if self.queries is None:
            return None, (pulls + keys_grad).to(self.keys.dtype)
        return pulls.to(self.keys.dtype), keys_grad.to(self.keys.dtype)

    def columns(self) -> Tensor:
        """Gradient with respect to the value columns (b, k, n)."""
        return self._swapped(self.kernel, self.grad).to(self.values.dtype)

    def _forward_sums(self) -> Tensor:
        """Sum ``[v, v ⊗ z]`` under the slope (b, k (1 + d), m), in the forward's scale."""
        if self.forward is not None:
            return self.forward
        wide = _with_moments(self.values, self.keys)
        prepared = PreparedSums.of(
            self.slope_kernel, self.keys, wide, self.algorithm, like=self.state
        )
        sums = prepared.plain(self.queries, self.exclude)
        scratch = torch.zeros_like(sums[:, 0])
        prepared.redo(sums, scratch, self.weak, self.queries, self.exclude)
        return sums

    def _swapped(self, kernel: Kernel, columns: Tensor) -> Tensor:
        """Sum over the queries (b, k', n) the columns (b, k', m), weak rows in their own scale."""
        strong = columns.masked_fill(self.weak[:, None], 0.0)
        prepared = PreparedSums.of(
            kernel, self.points_from, strong, self.algorithm, like=self.state
        )
        if self.queries is None:
            total = prepared.plain(None, None)
        else:
            total = prepared.plain(self.keys, self._swapped_exclude())
        for b in self.weak.any(dim=1).nonzero().squeeze(1).tolist():
            rows = self.weak[b].nonzero().squeeze(1)
            usable = self.values[b, 0] > 0
            for group, shifted in shifted_groups(
                self.points_from[b], self.keys[b], usable, self.points_exclude, rows
            ):
                total[b] += shifted.transposed(kernel, columns[b][:, group])
        return total

    def _swapped_exclude(self) -> Tensor | None:
        """For every key the query that leaves it out, or -1."""
        if self.exclude is None:
            return None
        swapped = self.exclude.new_full((self.keys.shape[1],), -1)
        has_one = self.exclude >= 0
        swapped[self.exclude[has_one]] = has_one.nonzero().squeeze(1)
        return swapped
