"""What a metric is: settings from which a torch module X -> Z is built."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.support.random import NoDraws


class Metric(ABC, BaseEstimator):
    """An embedding to learn; the Euclidean distance in it is the metric.

    The input ``u = (x − centre)/bandwidth`` has one column per numeric feature, and a block of
    columns for a categorical one: `feature_of_column_` says which is whose. Settings are
    constructor parameters; a trained metric keeps its module's parameters and buffers as numpy
    arrays in `parameters_`, the names of those learned in `parameter_names_`, and the number of its
    components in `n_components_`. A parameter that does not require a gradient is not learned.
    """

    simpler: ClassVar[type["Metric"] | None] = None  # training starts from its end
    is_linear: ClassVar[bool] = True
    default_solver: ClassVar[str] = "lbfgs"
    learning_rate: ClassVar[float] = 0.03  # of Adam, in units of a parameter's magnitude
    most_rows_as_start: ClassVar[float] = np.inf  # above, richer metrics start from a simpler one

    def see(self, feature_of_column: np.ndarray) -> "Metric":
        """Take which feature each column (n_columns,) belongs to."""
        self.feature_of_column_ = feature_of_column
        return self

    @abstractmethod
    def build(self, n_columns: int, n_components: int) -> torch.nn.Module:
        """Return the module, (n, n_columns) to (n, n_components), in its neutral state."""

    @abstractmethod
    def components(self, n_columns: int, n_components: int | None) -> int:
        """Return the number of components that a user's `n_components` stands for, checked."""

    @abstractmethod
    def embed_matrix(self, module: torch.nn.Module, simpler: Tensor) -> None:
        """Let the module stand for the simpler metric's matrix (q, n_columns)."""

    def perturb(self, module: torch.nn.Module) -> None:
        """Leave the simpler metric by a little, where gradients alone would not."""

    @abstractmethod
    def rescale(self, module: torch.nn.Module, factor: float) -> None:
        """Multiply the embedding by a factor."""

    def calibrate(self, module: torch.nn.Module, rows: Tensor) -> None:
        """Take from the rows (n, n_columns) what the module keeps of them."""

    @abstractmethod
    def initial(self, w_init, n_columns: int, n_components: int) -> np.ndarray:
        """Return a user's starting weights as the module's parameters in one vector, checked."""

    @abstractmethod
    def describe(self, module: torch.nn.Module) -> float | np.ndarray | None:
        """Return the learned weights as the estimator's ``w_``; None where there are no such."""

    def matrix(self, module: torch.nn.Module, n_columns: int) -> Tensor | None:
        """Return the module as a matrix (n_components, n_columns); None if it is not linear."""
        return None

    def scale_of_column(self, n_columns: int) -> np.ndarray | None:
        """Return which parameter is the scale of each column, (n_columns,); None: they are none."""
        return None

    def magnitudes(self, module: torch.nn.Module, spread: np.ndarray) -> np.ndarray:
        """Return how large a change of each parameter is ordinary, for columns of this spread."""
        return np.ones(sum(parameter.numel() for parameter in learned(module).values()))

    def store(self, module: torch.nn.Module, n_components: int) -> "Metric":
        """Keep the module's parameters and buffers."""
        self.n_components_ = n_components
        self.parameter_names_ = list(learned(module))
        values = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.parameters_ = {name: to_numpy(value).copy() for name, value in values.items()}
        return self

    def code(self) -> bytes:
        """Return a code of all that a module is built from."""
        return repr(self).encode()

    @property
    def parameter_vector(self) -> np.ndarray:
        """The learned parameters in one vector (p,)."""
        values = [np.ravel(self.parameters_[name]) for name in self.parameter_names_]
        return np.concatenate(values).astype(np.float64)

    @property
    def buffers_for_next(self) -> dict[str, np.ndarray]:
        """Buffers with which the training of another such metric begins, where it goes on."""
        return {}

    def load(
        self, n_columns: int, *, dtype: torch.dtype, device: str | torch.device
    ) -> torch.nn.Module:
        """Return the trained module."""
        with NoDraws():
            module = self.build(n_columns, self.n_components_).to(dtype=dtype, device=device)
        fill(module, self.parameters_)
        return module.eval()


def learned(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that training may change: those that are not frozen."""
    return {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }


def fill(module: torch.nn.Module, values: dict[str, np.ndarray]) -> None:
    """Give parameters and buffers of a module new values, by name."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, value in values.items():
            like = tensors[name]
            like.copy_(to_tensor(value, dtype=like.dtype, device=like.device))


def numeric(w_init) -> np.ndarray:
    """Return a user's starting weights in float64; ValueError if they are no numbers."""
    values = np.asarray(w_init)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"w_init must be numeric; got {w_init!r}.")
    return values.astype(np.float64)
