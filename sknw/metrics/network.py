"""A neural embedding: a linear part plus a residual network on standardised features.

The linear part starts at the best simpler metric; the network adds to it. Numeric features enter
the network as they are and in a piecewise-linear encoding over their quantiles, which lets it treat
ranges of a feature differently (Gorishniy, Rubachev & Babenko 2022, "On embeddings for numerical
features in tabular deep learning"). The embedding with a softmax over neighbours is that of
ModernNCA (Ye, Yin & Zhan 2025, "Revisiting nearest neighbor for tabular data").
"""

from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor, nn

from sknw.metrics.matrix import FullMetric
from sknw.metrics.metric import Metric
from sknw.support import tuning
from sknw.support.random import OwnDraws

_PLAIN = {"dtype": torch.float32, "device": "cpu"}  # whatever the user's defaults are


class Block(nn.Module):
    """``h + A₂ dropout(relu(A₁ norm(h)))``."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, **_PLAIN)
        self.first = nn.Linear(width, hidden, **_PLAIN)
        self.second = nn.Linear(hidden, width, **_PLAIN)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Add the block's part to h (n, width)."""
        return h + self.second(self.dropout(torch.relu(self.first(self.norm(h)))))


class ResidualEmbedding(nn.Module):
    """``z = W u + network(standardised u)``."""

    def __init__(self, n_columns: int, n_components: int, settings: "MlpMetric"):
        super().__init__()
        width, bins = settings.width, settings.n_bins
        self.w = nn.Parameter(torch.zeros(n_components, n_columns, **_PLAIN))
        self.register_buffer("centre", torch.zeros(n_columns, **_PLAIN))
        self.register_buffer("spread", torch.ones(n_columns, **_PLAIN))
        self.register_buffer("edges", torch.zeros(n_columns, bins, **_PLAIN))
        self.register_buffer("steps", torch.ones(n_columns, bins, **_PLAIN))
        self.enter = nn.Linear(n_columns * (1 + bins), width, **_PLAIN)
        self.blocks = nn.Sequential(
            *(Block(width, settings.hidden, settings.dropout) for _ in range(settings.n_blocks))
        )
        self.norm = nn.LayerNorm(width, **_PLAIN)
        self.leave = nn.Linear(width, n_components, **_PLAIN)

    def encoded(self, u: Tensor) -> Tensor:
        """Return standardised columns and how far each has come in each of its bins."""
        x = (u - self.centre) / self.spread
        parts = ((x[:, :, None] - self.edges) / self.steps).clamp(0, 1)  # (n, d, bins)
        return torch.cat([x.clamp(-5, 5), 2 * parts.flatten(1) - 1], dim=1)

    def forward(self, u: Tensor) -> Tensor:
        """Embed the rows of u, (n, d) -> (n, q)."""
        inside = self.blocks(self.enter(self.encoded(u)))
        return u @ self.w.mT + self.leave(self.norm(inside))


class MlpMetric(Metric):
    """A learned embedding ``W u + network(u)`` with a residual network.

    Parameters
    ----------
    width : int, default=128
        Width of the residual stream.
    hidden : int, default=256
        Units of each block's hidden layer.
    n_blocks : int, default=1
        Number of residual blocks.
    dropout : float, default=0.2
        Share of a block's hidden units that a training step leaves out.
    n_bins : int, default=24
        Quantile bins of each feature's piecewise-linear encoding; 0 for none.
    """

    simpler = FullMetric
    is_linear = False
    default_solver = "adam"
    learning_rate = 3e-3

    def __init__(self, width=128, hidden=256, n_blocks=1, dropout=0.2, n_bins=24):
        self.width = width
        self.hidden = hidden
        self.n_blocks = n_blocks
        self.dropout = dropout
        self.n_bins = n_bins

    def check(self) -> None:
        """Refuse settings that no network can have.

        Raises
        ------
        ValueError
        """
        for name, least in (("width", 1), ("hidden", 1), ("n_blocks", 0), ("n_bins", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}.")
        if not isinstance(self.dropout, Real) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1; got {self.dropout!r}.")

    def components(self, n_columns: int, n_components: int | None) -> int:
        """Return the number asked for; by default 32 more than there are columns."""
        self.check()
        return n_columns + tuning.EXTRA_COMPONENTS if n_components is None else n_components

    def build(self, n_columns: int, n_components: int) -> ResidualEmbedding:
        """Return the network at a random start."""
        return ResidualEmbedding(n_columns, n_components, self)

    def calibrate(self, module: ResidualEmbedding, rows: Tensor) -> None:
        """Take the columns' means, spreads and quantiles from the rows (n, d)."""
        rows = rows[:: max(1, len(rows) // tuning.ROWS_OF_QUANTILES)].double()
        centre, spread = rows.mean(dim=0), rows.std(dim=0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        levels = torch.linspace(0, 1, self.n_bins + 1, dtype=rows.dtype, device=rows.device)
        edges = torch.quantile((rows - centre) / spread, levels, dim=0).mT  # (d, bins + 1)
        steps = edges[:, 1:] - edges[:, :-1]
        module.centre.copy_(centre)
        module.spread.copy_(spread)
        module.edges.copy_(edges[:, :-1])
        module.steps.copy_(torch.where(steps > 1e-6, steps, torch.inf))  # a bin that holds no more

    def embed_matrix(self, module: ResidualEmbedding, simpler: Tensor) -> None:
        """Take the simpler metric's matrix as the linear part, and let the network give 0."""
        with torch.no_grad():
            rows = min(len(module.w), len(simpler))
            module.w.zero_()
            module.w[:rows] = simpler[:rows].to(module.w.dtype)
            module.leave.weight.zero_()
            module.leave.bias.zero_()

    def perturb(self, module: ResidualEmbedding) -> None:
        """Let the network give a little in every component."""
        with OwnDraws(seed=0), torch.no_grad():
            module.leave.reset_parameters()
            module.leave.weight.mul_(tuning.OUTPUT_OF_A_NEW_NETWORK)
            module.leave.bias.zero_()

    def rescale(self, module: ResidualEmbedding, factor: float) -> None:
        """Multiply what leaves the linear part and the network."""
        with torch.no_grad():
            for parameter in (module.w, module.leave.weight, module.leave.bias):
                parameter.mul_(factor)

    def initial(self, w_init, n_columns: int, n_components: int) -> np.ndarray:
        """Refuse: a network starts at the simpler metric."""
        raise ValueError(f"w_init must be None for {type(self).__name__}; got {w_init!r}.")

    def describe(self, module: ResidualEmbedding) -> None:
        """Return None: a network has no scales."""
        return None


METRICS: dict[str, type[Metric]] = {"mlp": MlpMetric}
