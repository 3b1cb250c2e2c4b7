"""Which evaluator runs: the registry."""

import torch
from torch import Tensor

from sknw.kernels import Kernel
from sknw.sums.tiles.evaluator import Evaluator
from sknw.sums.tiles.fused import Fused
from sknw.sums.tiles.torch_tiles import TorchTiles

FUSED, TORCH = Fused(), TorchTiles()
EVALUATORS: dict[str, Evaluator] = {evaluator.name: evaluator for evaluator in (FUSED, TORCH)}
# Fewer pairs than this are not worth loading compiled code for.
_FEWEST_FUSED_PAIRS = 2**17


def evaluator_for(
    kernel: Kernel, dtype: torch.dtype, device: torch.device, n_pairs: float
) -> Evaluator:
    """Return the evaluator for so many pairs of points."""
    for evaluator in EVALUATORS.values():
        fewest = _FEWEST_FUSED_PAIRS if evaluator is FUSED else 0
        if n_pairs >= fewest and evaluator.accepts(kernel, dtype, device):
            return evaluator
    raise ValueError(f"No evaluator accepts kernel {kernel.name!r} in {dtype} on {device}.")


def has_own_threads(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether sums of many pairs run in other threads than torch's."""
    return FUSED.accepts(kernel, dtype, device)


def has_squares(kernel: Kernel, keys: Tensor, n_queries: int, n_columns: int) -> bool:
    """Return whether who evaluates these pairs has sums and squares in one pass."""
    n_pairs = len(keys) * n_queries * keys.shape[1]
    evaluator = evaluator_for(kernel, keys.dtype, keys.device, n_pairs)
    return evaluator.has_squares(kernel, n_columns)
