"""What a fit has found, ready for queries: observations under windows in an embedding.

A model is made from the attributes of an estimator whenever it is asked something. What it prepares
for the keys is kept beside the observations (`sknw._prepared`), for as long as nothing changes.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sknw._prepared import prepared_smoother
from sknw.data.arrays import accumulator_dtype, to_numpy, to_tensor, torch_dtype, weights_tensor
from sknw.data.features import Features
from sknw.data.observations import Observations
from sknw.kernels import Kernel, as_kernel
from sknw.kernels.codes import Codes
from sknw.metrics import Metric
from sknw.metrics.embedding import Embedding
from sknw.smoothing.cells import Cells, OwnCells
from sknw.smoothing.local_polynomial import check_degree
from sknw.smoothing.method import Method
from sknw.smoothing.neighbors import NeighborSmoother
from sknw.smoothing.smoother import Smoother, value_columns
from sknw.smoothing.windows import KeyWeights, Windows

AnySmoother = Smoother | NeighborSmoother


def kernel_of(kernel: str | Callable, features: Features) -> Kernel:
    """Return the kernel, told which columns of the rows are codes of categories."""
    found = as_kernel(kernel)
    return replace(found, codes=Codes.of(features.caps)) if len(features.coded) else found


@dataclass(frozen=True)
class SumParameters:
    """The estimator's parameters that say how sums are done; their docstring is the estimator's."""

    kernel: str | Callable
    algorithm: str
    rtol: float
    empty_neighborhood: str
    degree: int

    @classmethod
    def of(cls, estimator: BaseEstimator) -> "SumParameters":
        """Return those of an estimator."""
        return cls(*(getattr(estimator, field.name) for field in fields(cls)))

    def dtype(self, device: str, *dtypes: np.dtype) -> torch.dtype:
        """Return the precision of sums of rows of these dtypes.

        Moments are sums of products of steps, whose differences matter: they need the widest.
        """
        check_degree(self.degree)
        return accumulator_dtype(torch.device(device)) if self.degree else torch_dtype(*dtypes)

    def method(self, features: Features) -> Method:
        """Return the method for rows of these features."""
        check_degree(self.degree)
        kernel, degree = kernel_of(self.kernel, features), int(self.degree)
        return Method(kernel, self.algorithm, self.rtol, self.empty_neighborhood, degree)


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted regression function.

    Parameters
    ----------
    observations : Observations
        The training set.
    parameters : SumParameters
        How sums are done.
    windows : Windows
        How wide the windows are.
    metric : Metric or None
        What maps rows in units of the windows' widths; None: nothing.
    device : str
        Where to compute.
    """

    observations: Observations
    parameters: SumParameters
    windows: Windows
    metric: Metric | None
    device: str

    def dtype(self, *dtypes: np.dtype) -> torch.dtype:
        """Return the precision of sums with queries of these dtypes."""
        return self.parameters.dtype(self.device, self.observations.X.dtype, *dtypes)

    def smoother(self, *dtypes: np.dtype) -> AnySmoother:
        """Return the keys, ready for queries of these dtypes."""
        eps = self._eps(*dtypes)
        metric = () if self.metric is None else _bytes(self.metric.parameters_)
        code = self.dtype(*dtypes), self.device, eps, self.parameters, self.windows.code, metric
        return prepared_smoother(self.observations, code, lambda: self._smoother(dtypes, eps))

    def smoother_of_observations(self) -> AnySmoother:
        """Return a smoother whose keys are the observations, so that each can leave itself out."""
        if self.windows.has_own_radii or self.observations.are_distinct:
            return self.smoother()
        return self._smoother((), self._eps(), share_cells=False)

    def points(self, X: np.ndarray, smoother: AnySmoother) -> Tensor:
        """Return the points (m, q) of queries (m, n_columns), among the smoother's keys."""
        return self._points(self._embedding(smoother.keys), X, smoother.keys)

    def gradients(
        self, X: np.ndarray, by_points: Tensor, smoother: AnySmoother
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return gradients (m, n_numbers, k) by the features that are numbers, and which they are.

        From those by the points of queries (m, n_columns).
        """
        features, like = self.observations.features, smoother.keys
        rows = to_tensor(self._centred(X, like), dtype=like.dtype, device=like.device)
        found = to_numpy(self._embedding(like).pulled_back(rows, by_points))
        are_numbers = ~features.is_categorical
        columns = np.flatnonzero(are_numbers[features.of_column])
        return found[:, columns], are_numbers

    def embedded(self, X: np.ndarray) -> np.ndarray:
        """Return the points (m, q) of queries (m, n_columns) in an absolute place.

        A linear metric maps the origin of X to the origin.
        """
        like = torch.empty(0, dtype=self.dtype(X.dtype), device=self.device)
        embedding = self._embedding(like)
        if not self.is_linear:
            return to_numpy(self._points(embedding, X, like))
        # without the centre: subtracting and adding it would cost digits
        points, origin = (
            embedding.points(to_tensor(rows, dtype=like.dtype, device=like.device))
            for rows in (X, np.zeros_like(X[:1]))
        )
        return to_numpy(points - origin)

    def attention_queries(
        self, X: np.ndarray | None
    ) -> tuple[AnySmoother, Tensor, Tensor | None, tuple[np.ndarray, np.ndarray]]:
        """Return the smoother, the queries, each query's excluded key, and the rows' keys.

        The latter are the key that each training row belongs to and its share of that key. Without
        X the queries are the training rows.
        """
        observations = self.observations
        group = observations.group.clip(0)  # a weightless row has no key, and no share
        if X is not None:
            smoother = self.smoother(X.dtype)
            rows = group, observations.share
            if len(smoother.keys) < len(observations):
                rows = observations.cell[group], observations.row_share
            return smoother, self.points(X, smoother), None, rows
        smoother = self.smoother_of_observations()
        exclude = to_tensor(observations.group, dtype=torch.int64, device=self.device)
        queries, is_weightless = smoother.keys[exclude], exclude < 0
        if is_weightless.any():
            queries[is_weightless] = self.points(observations.weightless, smoother)
        return smoother, queries, exclude, (group, observations.share)

    @property
    def is_linear(self) -> bool:
        """Whether the embedding keeps differences of rows, and so has a zero where X has one."""
        return self.metric is None or self.metric.is_linear

    @property
    def column_widths(self) -> np.ndarray:
        """The width of every column, (n_columns,)."""
        features, widths = self.observations.features, self.windows.widths
        widths = widths[features.of_column] if np.ndim(widths) else widths
        return np.broadcast_to(np.asarray(widths, dtype=np.float64), (features.n_columns,))

    @cached_property
    def _method(self) -> Method:
        return self.parameters.method(self.observations.features)

    def _eps(self, *dtypes: np.dtype) -> float:
        """Return the relative precision of training rows and of queries of these dtypes."""
        of_all = (self.observations.X.dtype, *dtypes)
        return max(float(np.finfo(dtype).eps) for dtype in of_all)

    def _embedding(self, like: Tensor) -> Embedding:
        """Return the embedding of centred rows, with the dtype and the device of a tensor."""
        module, observations = None, self.observations
        if self.metric is not None:
            n_columns = observations.features.n_columns
            module = self.metric.load(n_columns, dtype=like.dtype, device=like.device)
        return Embedding.of(
            module,
            self._method.kernel,
            self.column_widths,
            like=like,
            farthest=observations.farthest,
        )

    def _points(self, embedding: Embedding, X: np.ndarray, like: Tensor) -> Tensor:
        """Return the points of rows as given."""
        centred = self._centred(X, like)
        return embedding.points(to_tensor(centred, dtype=like.dtype, device=like.device))

    def _centred(self, X: np.ndarray, like: Tensor) -> np.ndarray:
        """Return rows as given, centred in the precision of the sums."""
        precision = np.float32 if like.dtype == torch.float32 else np.float64
        return self.observations.centred(X.astype(precision, copy=False))

    def _smoother(self, dtypes: tuple, eps: float, share_cells: bool = True) -> AnySmoother:
        """Return a smoother whose keys are the cells, or the observations one by one."""
        observations, dtype, device = self.observations, self.dtype(*dtypes), self.device
        like = torch.empty(0, dtype=dtype, device=device)
        embedding = self._embedding(like)
        keys = self._points(embedding, observations.X, like)
        zero = torch.zeros_like(keys[:1])
        if self.is_linear:
            # where a column is constant its differences are zero, whatever its size
            origin = (observations.centre - observations.informative_centre)[None]
            zero = self._points(embedding, origin, like)
        method = replace(self._method, kernel=embedding.kernel.seeing(zero, eps))
        if share_cells and not self.windows.has_own_radii:
            y, weights = observations.cell_y, self._weights_of_cells(dtype)
        else:
            keys = keys[to_tensor(observations.cell, dtype=torch.int64, device=device)]
            y, weights = observations.y, self._weights_of_observations(dtype)
        return self.windows.smoother(
            method, keys, to_tensor(y, dtype=dtype, device=device), weights
        )

    def _weights_of_cells(self, dtype: torch.dtype) -> KeyWeights:
        observations = self.observations
        return KeyWeights(
            weights_tensor(observations.cell_weights, dtype=dtype, device=self.device),
            self._wide(observations.cell_log_weights),
            self._wide(observations.cell_concentration),
            self._own_cells(),
        )

    def _own_cells(self) -> OwnCells | None:
        """Return what leave-one-out needs of cells of several observations; None without such."""
        observations = self.observations
        if observations.are_distinct:
            return None
        y, weights = self._wide(observations.y), self._wide(observations.weights)
        labels = to_tensor(observations.cell, dtype=torch.int64, device=self.device)
        cells = Cells.of(labels, value_columns(y[None], weights[None])[0])
        return OwnCells(cells.of_row, cells.others)

    def _weights_of_observations(self, dtype: torch.dtype) -> KeyWeights:
        weights = weights_tensor(self.observations.weights, dtype=dtype, device=self.device)
        return KeyWeights(weights, self._wide(self.observations.log_weights))

    def _wide(self, values: np.ndarray) -> Tensor:
        """Return values in the precision in which sums are accumulated."""
        dtype = accumulator_dtype(torch.device(self.device))
        return to_tensor(values, dtype=dtype, device=self.device)


def _bytes(parameters: dict[str, np.ndarray]) -> bytes:
    return b"".join(np.asarray(parameters[name]).tobytes() for name in sorted(parameters))
