"""The local fit: from the sums of a query to its estimate, and back.

Every estimate of the library is made of the same sums, ``S_i = Σ_j K_ij w_j [1, y_j]``: the local
constant is their ratio ``m_i = S_i1 / S_i0``. Its gradient is a gradient of the sums,

    dL/dS_i1 = g_i / S_i0        dL/dS_i0 = −g_i m_i / S_i0        for g_i = dL/dm_i

and that of the leverage, ``h_i = K(0) w_i / S_i0``, is ``dL/dS_i0 = −g_i h_i / S_i0``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LocalFit:
    """Locally weighted means.

    Parameters
    ----------
    means : Tensor of shape (..., m, k)
        The estimates; without meaning where empty.
    mass : Tensor of shape (..., m)
        Total weight that each query gives; 1 where empty.
    empty : Tensor of shape (..., m)
        Which queries have no key in reach.
    """

    means: Tensor
    mass: Tensor
    empty: Tensor

    @classmethod
    def of(cls, sums: Tensor) -> "LocalFit":
        """Return the fit of sums (..., m, 1 + k), the first of which is the mass."""
        mass = sums[..., 0]
        empty = mass <= 0
        if empty.any():
            mass = torch.where(empty, 1.0, mass)
        return cls(sums[..., 1:] / mass[..., None], mass, empty)

    def leverage(self, own_weight: Tensor) -> Tensor:
        """Return each row's share (..., m) in its own estimate, for its weight ``K(0) w_i``."""
        return own_weight / self.mass

    def pullback(self, by_means: Tensor, by_mass: Tensor | None = None) -> Tensor:
        """Return the gradient (..., m, 1 + k) with respect to the sums.

        Parameters
        ----------
        by_means : Tensor of shape (..., m, k)
            Gradient with respect to the means.
        by_mass : Tensor of shape (..., m) or None, default=None
            Gradient with respect to the mass itself, beside that through the means.
        """
        by_total = by_means / self.mass[..., None]
        through = -(by_total * self.means).sum(dim=-1)
        through = through if by_mass is None else through + by_mass
        grad = torch.cat([through[..., None], by_total], dim=-1)
        return grad.masked_fill(self.empty[..., None], 0.0) if self.empty.any() else grad
