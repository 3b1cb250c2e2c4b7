"""Any torch module as a metric."""

import copy
import hashlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sknw.data.arrays import to_numpy
from sknw.metrics.metric import Metric
from sknw.support.random import OwnDraws

_PREFIX = "module."  # of the names of the user's module in ours


class Scaled(nn.Module):
    """``z = exp(s) module(u)`` with a learned common scale."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float32, device="cpu"))
        self.module = module
        held = [part for part in module.modules() if not part.training]
        self.held_in_eval = held if module.training else []

    def forward(self, u: Tensor) -> Tensor:
        """Embed the rows of u, (n, d) -> (n, q)."""
        return torch.exp(self.log_scale) * self.module(u)

    def train(self, mode: bool = True) -> "Scaled":
        """Set the mode, but for parts that the user put into evaluation mode in a training whole.

        Those are meant to stay as they are, such as the statistics of a frozen normalisation.
        """
        super().train(mode)
        for part in self.held_in_eval:
            part.training = False
        return self


class ModuleMetric(Metric):
    """A user's module, (n, n_columns) to (n, n_components), times one learned scale.

    The module is copied; training starts at its present parameters and buffers, the scale at the
    best of a scan. Parameters that do not require a gradient are neither trained nor penalised;
    with all of them frozen only the scale is learned.

    ``solver="adam"`` trains it in training mode: dropout draws (from a generator of the fit's own),
    and buffers such as the statistics of a batch normalisation move; predictions and `best_loss_`
    use those that training left. The other solvers minimise the loss of the module in evaluation
    mode, so its buffers stay. Parts that are in evaluation mode while the whole module is in
    training mode stay in it.

    Parameters
    ----------
    module : torch.nn.Module
        It sees ``(x − centre)/bandwidth``, the rows in units of the starting bandwidth. All that it
        learns or keeps must be parameters and buffers, of real numbers.
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
            If the module cannot be trained, or does not map (n, n_columns) to (n, n_components).
        """
        _check_tensors(self.module)
        module = _copied(self.module).to(dtype=torch.float64, device="cpu").eval()
        rows = torch.zeros(2, n_columns, dtype=torch.float64, device="cpu")
        try:
            with torch.no_grad(), OwnDraws(0):
                output = module(rows)
        except Exception as error:
            raise ValueError(
                f"The metric's module must take rows of {n_columns} columns in float64; it raised: "
                f"{error}"
            ) from error
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"The metric's module must return one tensor of real numbers; got {kind}. Wrap it "
                "in a module that returns the embedding alone."
            )
        shape = tuple(output.shape)
        if len(shape) != 2 or shape[0] != 2 or shape[1] == 0:
            raise ValueError(
                "The metric's module must map (n, n_columns) to (n, n_components); it mapped "
                f"(2, {n_columns}) to {shape}."
            )
        return shape[1]

    def build(self, n_columns: int, n_components: int) -> Scaled:
        """Return a copy of the module, scaled by 1."""
        return Scaled(_copied(self.module))

    def embed_matrix(self, module: Scaled, simpler: Tensor) -> None:
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

    @property
    def buffers_for_next(self) -> dict[str, np.ndarray]:
        """The module's buffers."""
        names = [_PREFIX + name for name, _ in self.module.named_buffers()]
        return {name: self.parameters_[name] for name in names}

    def code(self) -> bytes:
        """Return a code of the module: what it is, its values, and which are frozen."""
        code = hashlib.blake2b(digest_size=16)
        code.update(repr([self.module, [part.training for part in self.module.modules()]]).encode())
        for name, value in _tensors(self.module).items():
            code.update(repr([name, value.requires_grad, value.dtype]).encode())
            code.update(np.ascontiguousarray(to_numpy(value.detach().double())).tobytes())
        return code.digest()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _check_tensors(module: nn.Module) -> None:
    """Refuse values that a copy cannot be trained with.

    Raises
    ------
    ValueError
    """
    for name, value in _tensors(module).items():
        if is_lazy(value):
            raise ValueError(
                f"The metric's module must know its sizes; {name} has none yet. Give the module a "
                "batch of rows once, before fit."
            )
        if value.is_complex():
            raise ValueError(f"The metric's module must be of real numbers; {name} is complex.")
        if value.is_meta:
            raise ValueError(f"The metric's module must have values; {name} is on device 'meta'.")
    for name, value in module.named_parameters():
        if not torch.isfinite(value).all():
            raise ValueError(
                f"The parameters of the metric's module must be finite; {name} has values that are "
                "not."
            )


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        raise ValueError(
            "The metric's module must be one that copy.deepcopy can copy; it raised: "
            f"{error} Use torch.nn.utils.parametrizations in place of hooks that set weights."
        ) from error
