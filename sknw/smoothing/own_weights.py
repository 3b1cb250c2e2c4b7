"""What keys weigh in the estimates at themselves: leverage and what else follows from attention.

With the attention weights ``α_ij = K_ij w_j / S_i`` at the keys, the hat matrix is made of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class OwnWeights:
    """Sums over the rows of the attention matrix of the keys.

    Parameters
    ----------
    own : Tensor of shape (n,)
        ``α_ii``.
    square : Tensor of shape (n,)
        ``Σ_j (w_i / w_j) α_ij²``.
    concentration : Tensor of shape (n,)
        ``Σ_j α_ij²`` over the observations that the keys are made of.
    """

    own: Tensor
    square: Tensor
    concentration: Tensor

    @classmethod
    def of(cls, attention: Tensor, rows: Tensor, log_weights: Tensor) -> "OwnWeights":
        """Return those of some rows of the attention matrix (m, n), keys being observations.

        `log_weights` (n,) are the logarithms of the weights of all keys.
        """
        own = attention.gather(1, rows[:, None]).squeeze(1)
        # α_ij w_i / w_j = K_ij w_i / S_i, a number of moderate size
        swapped = (attention.abs().log() + log_weights[rows, None] - log_weights).exp()
        products = torch.where(attention != 0, attention.abs() * swapped, 0.0)
        products = torch.where(attention.isnan(), torch.nan, products)
        return cls(own, products.sum(dim=1), attention.square().sum(dim=1))

    @classmethod
    def joined(cls, parts: Sequence["OwnWeights"]) -> "OwnWeights":
        """Return those of rows that come one after the other."""
        names = [field.name for field in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
