"""The squared leave-one-out error of common scales, with its gradient in closed form.

Searches over bandwidths and diagonal metrics do nothing but evaluate it. With one output and a
kernel whose gradient comes with the sums (`Run.by_log_scales`), the chain of derivatives is short:
with ``m_i = S_i1 / S_i0`` and ``g_i = dL/dm_i``,

    dL/dlog c = 2 Σ_i g_i / S_i0 (Q_i1 − m_i Q_i0),    Q_i = Σ_j K'_ij v_j (q_i − z_j)²

So the loss is one node for torch instead of some forty, which on a few hundred rows is most of the
time. Gradients out of the ordinary (rows without mass, rows done again, other kernels) are left to
`sknw.smoothing.smoother`; values of every kernel are computed here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sknw.kernels import Kernel
from sknw.smoothing.cells import OwnCells
from sknw.smoothing.smoother import fill_empty
from sknw.sums import KernelSums, PreparedSums, choose_for


@dataclass(frozen=True, eq=False)
class ScaleLoss:
    """The weighted mean squared error of one output, as a function of scales (q,).

    Parameters
    ----------
    kernel : Kernel
        The window.
    keys : Tensor of shape (n, q)
        Keys before scaling.
    columns : Tensor of shape (2, n)
        Weights of the keys, and weights times values.
    values, weights : Tensor of shape (m,)
        Targets and weights of the rows that are predicted.
    queried : Tensor of shape (n_queries,) or None
        Which keys leave themselves out; None: all.
    own : OwnCells or None
        Where the keys are cells of equal rows: which of the queries each predicted row stands at.
    rtol : float
        Largest error of a prediction, relative to the range of the values.
    empty_neighborhood : str
        Policy for rows without a key in reach.
    """

    kernel: Kernel
    keys: Tensor
    columns: Tensor
    values: Tensor
    weights: Tensor
    queried: Tensor | None
    own: OwnCells | None
    rtol: float
    empty_neighborhood: str

    def at(self, scales: Tensor, algorithm: str) -> Tensor | None:
        """Return the loss, differentiable in the scales; None if not this way."""
        plain = scales.detach()
        if not (torch.is_grad_enabled() and scales.requires_grad):
            return self._losses(plain[None], algorithm)[0]
        known = self.with_slope(plain, algorithm)
        return None if known is None else _Known.apply(scales, known[0], known[1] / plain)

    def with_slope(self, scales: Tensor, algorithm: str) -> tuple[Tensor, Tensor] | None:
        """Return the loss and its derivatives (q,) by the logarithms of the scales, or None."""
        prepared, queries = self._prepared(scales[None], algorithm, needs_grad=True)
        if not prepared.has_squares(queries):
            return None
        run = prepared.run(queries, self.queried, by_log_scales=True)
        mass, total = self._of_rows(run.sums).sums[0].mT
        if bool((mass <= 0).any()) or bool(run.redone.rows.any()):
            return None
        means = total / mass
        errors = means - self.values
        share = self._share(errors)
        slope = 2 * share * errors / mass  # of the loss by the sums of values
        by_sums = torch.stack([-slope * means, slope])
        if self.own is not None:
            by_sums = self.own.summed(by_sums, run.sums.mass.shape[1])
        by_logs = torch.einsum("dkm,km->d", run.by_log_scales[0], by_sums)
        return share @ errors.square(), by_logs

    def at_several(self, scales: Tensor) -> Tensor:
        """Return the losses (b,) of several scales (b, q) at once, for scans over few rows.

        Every pair is evaluated, so there is nothing to prepare for each of them.
        """
        return self._losses(scales, "dense")

    def _losses(self, scales: Tensor, algorithm: str) -> Tensor:
        prepared, queries = self._prepared(scales, algorithm, needs_grad=False)
        sums = self._of_rows(prepared.sums(queries, self.queried)).sums  # (b, m, 2)
        means, empty = sums[..., 1:] / sums[..., :1], sums[..., 0] <= 0
        if empty.any():
            means = fill_empty(
                prepared.kernel, means, empty, queries, prepared.keys, prepared.columns,
                self.queried, self.own, self.empty_neighborhood,
            )  # fmt: skip
        errors = means[..., 0] - self.values
        return errors.square() @ self._share(errors)

    def _of_rows(self, sums: KernelSums) -> KernelSums:
        """Return the sums of the predicted rows, from those of the queries."""
        return sums if self.own is None else self.own.added(sums, self.kernel)

    def _share(self, like: Tensor) -> Tensor:
        """Return each row's share of the weight (m,)."""
        return (self.weights / self.weights.sum()).to(like.dtype)

    def _prepared(
        self, scales: Tensor, algorithm: str, *, needs_grad: bool
    ) -> tuple[PreparedSums, Tensor | None]:
        """Return the keys at scales (b, q), ready for the queries, which are returned too."""
        kernel, factors = self.kernel.scaled_by(scales)
        keys = self.keys.detach() * factors[:, None].to(self.keys.dtype)
        queries = None if self.queried is None else keys[:, self.queried]
        chosen = choose_for(
            algorithm,
            kernel,
            queries,
            keys,
            n_columns=len(self.columns),
            leave_one_out=True,
            needs_grad=needs_grad,
            rtol=self.rtol,
        )
        columns = self.columns.expand(len(keys), -1, -1)
        return PreparedSums.of(kernel, keys, columns, chosen), queries


class _Known(torch.autograd.Function):
    """A loss whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, scales: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient.to(scales.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None
