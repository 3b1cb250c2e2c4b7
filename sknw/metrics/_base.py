"""What a metric is: settings from which a torch module X -> Z is built."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sknw._arrays import to_numpy, to_tensor

_LARGEST_KEY = 1 / 3  # of the logarithm of the dtype's largest number: room for squares and scales
# Coordinates beyond this are pulled in: their squares must not overflow.
_LARGEST_COORDINATE = {torch.float64: 1e150, torch.float32: 1e18}


class Metric(ABC, BaseEstimator):
    """An embedding to learn; the Euclidean distance in it is the metric.

    The input ``u = (x − centre)/bandwidth`` has one column per feature. Settings are constructor
    parameters; a trained metric keeps its module's parameters as numpy arrays in `parameters_`.
    """

    @abstractmethod
    def build(self, n_features: int) -> torch.nn.Module:
        """Return the module, (n, n_features) to (n, n_components), in its neutral state."""

    @abstractmethod
    def describe(self, module: torch.nn.Module) -> float | np.ndarray:
        """Return the learned weights as the estimator's ``w_``."""

    def store(self, module: torch.nn.Module) -> "Metric":
        """Keep the module's parameters."""
        self.parameters_ = {
            name: to_numpy(value).copy() for name, value in module.state_dict().items()
        }
        return self

    def load(
        self, n_features: int, *, dtype: torch.dtype, device: str | torch.device
    ) -> torch.nn.Module:
        """Return the trained module."""
        module = self.build(n_features).to(dtype=dtype, device=device)
        state = {
            name: to_tensor(value, dtype=dtype, device=device)
            for name, value in self.parameters_.items()
        }
        module.load_state_dict(state)
        return module


def representable_bandwidth(
    bandwidth: float | np.ndarray, farthest: np.ndarray, largest: float
) -> np.ndarray:
    """Return the bandwidth, widened by one factor where scaled keys would not fit the dtype.

    `farthest` (d,) is how far keys are from the origin in each feature. Keys that far apart in
    bandwidths are alone either way, and keep their geometry.
    """
    bandwidth = np.asarray(bandwidth, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_reach = np.log(farthest) - np.log(bandwidth)
    excess = np.max(log_reach) - _LARGEST_KEY * np.log(largest)
    return bandwidth * np.exp(max(excess, 0.0))


def pulled_in(scaled: Tensor, rows: Tensor, bandwidth: Tensor) -> Tensor:
    """Return ``scaled = rows / bandwidth`` (m, d), too remote rows moved in along their ray."""
    limit = _LARGEST_COORDINATE[scaled.dtype]
    remote = scaled.abs().amax(dim=1, keepdim=True) > limit
    if not remote.any():
        return scaled
    direction = rows / rows.abs().amax(dim=1, keepdim=True) / bandwidth
    moved = direction * (limit / direction.abs().amax(dim=1, keepdim=True))
    return torch.where(remote, moved, scaled)
