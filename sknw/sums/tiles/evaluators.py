"""Which evaluator runs: the registry."""

import torch

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
