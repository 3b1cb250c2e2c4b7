"""A module's learned parameters as one vector, and its buffers."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from sknw.data.arrays import to_numpy, to_tensor
from sknw.metrics.metric import Metric, fill, learned


@dataclass(frozen=True, eq=False)
class LearnedModule:
    """The module of a metric, whose learned parameters are one vector w (p,).

    Parameters
    ----------
    metric : Metric
        What the module is.
    module : torch.nn.Module
        Embedding of rows in units of the bandwidth. Frozen parameters and buffers count as they
        are.
    n_components : int
        Columns of the embedding.
    """

    metric: Metric
    module: nn.Module
    n_components: int

    @property
    def values(self) -> np.ndarray:
        """The values that the learned parameters have now, (p,)."""
        return np.concatenate(
            [to_numpy(parameter).reshape(-1) for parameter in learned(self.module).values()]
        ).astype(np.float64)

    def named(self, w: Tensor) -> dict[str, Tensor]:
        """Return the vector w (p,) as the module's learned parameters, differentiable."""
        like = learned(self.module)
        parts = w.split([parameter.numel() for parameter in like.values()])
        return {
            name: part.reshape(parameter.shape).to(parameter.dtype)
            for (name, parameter), part in zip(like.items(), parts, strict=True)
        }

    def at(self, w: np.ndarray) -> nn.Module:
        """Return the module after setting its learned parameters to w (p,)."""
        parameters = learned(self.module)
        device = next(iter(parameters.values())).device
        with torch.no_grad():
            values = self.named(to_tensor(w, dtype=torch.float64, device=device))
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
        return self.module

    @property
    def buffers(self) -> dict[str, np.ndarray]:
        """A copy of the module's buffers, such as the statistics of a batch normalisation."""
        return {name: to_numpy(value).copy() for name, value in self.module.named_buffers()}

    def restore(self, buffers: dict[str, np.ndarray]) -> None:
        """Give the module's buffers the values that they had."""
        fill(self.module, buffers)

    def single(self) -> "LearnedModule":
        """Return a copy in float32."""
        return replace(self, module=copy.deepcopy(self.module).float())
