"""Any torch module as a metric."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from sknw.metrics._base import Metric


class Scaled(nn.Module):
    """``z = exp(s) module(u)`` with a learned common scale."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.module = module

    def forward(self, u: Tensor) -> Tensor:
        """Embed the rows of u, (n, d) -> (n, q)."""
        return torch.exp(self.log_scale) * self.module(u)


class ModuleMetric(Metric):
    """A user's module, (n, n_columns) to (n, n_components), times one learned scale.

    The module is copied; training starts at its present parameters, the scale at the best of a
    scan.

    Parameters
    ----------
    module : torch.nn.Module
        It sees ``(x − centre)/bandwidth``, the rows in units of the starting bandwidth.
    """

    is_linear = False
    default_solver = "adam"
    learning_rate = 3e-3

    def __init__(self, module):
        self.module = module

    def components(self, n_columns: int, n_components: int | None) -> int:
        """Return how many columns the module gives; a number asked for is not used.

        Raises
        ------
        ValueError
            If the module does not map (n, n_columns) to (n, n_components).
        """
        module = copy.deepcopy(self.module).to("cpu").eval()
        like = next(module.parameters(), torch.zeros(()))
        try:
            with torch.no_grad():
                shape = tuple(module(like.new_zeros(2, n_columns)).shape)
        except RuntimeError as error:
            raise ValueError(
                f"The metric's module must take rows of {n_columns} columns; it raised: {error}"
            ) from error
        if len(shape) != 2 or shape[0] != 2:
            raise ValueError(
                "The metric's module must map (n, n_columns) to (n, n_components); it mapped "
                f"(2, {n_columns}) to {shape}."
            )
        return shape[1]

    def build(self, n_columns: int, n_components: int) -> Scaled:
        """Return a copy of the module, scaled by 1."""
        return Scaled(copy.deepcopy(self.module))

    def lift(self, module: Scaled, simpler: Tensor) -> None:
        """Stand for no simpler metric; there is none to start from."""

    def rescale(self, module: Scaled, factor: float) -> None:
        """Multiply the scale."""
        with torch.no_grad():
            module.log_scale.add_(float(np.log(factor)))

    def initial(self, w_init, n_columns: int, n_components: int) -> np.ndarray:
        """Refuse: training starts at the module's own parameters."""
        raise ValueError(f"w_init must be None for {type(self).__name__}; got {w_init!r}.")

    def describe(self, module: Scaled) -> None:
        """Return None: a module has no scales."""
        return None
