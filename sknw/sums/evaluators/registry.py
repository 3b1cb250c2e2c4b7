"""Which evaluator runs: the registry."""

import torch
from torch import Tensor

from sknw.kernels import Kernel
from sknw.sums.evaluators.compiled.driver import Fused
from sknw.sums.evaluators.evaluator import Evaluator
from sknw.sums.evaluators.torch import TorchTiles
from sknw.support import tuning

FUSED, TORCH = Fused(), TorchTiles()
# The first that accepts a problem and pays for it is chosen.
EVALUATORS: dict[str, Evaluator] = {evaluator.name: evaluator for evaluator in (FUSED, TORCH)}


def evaluator_for(
    kernel: Kernel,
    dtype: torch.dtype,
    device: torch.device,
    n_pairs: float,
    n_problems: int = 1,
    order: int = 0,
) -> Evaluator:
    """Return the evaluator of moments to an order, for problems of so many pairs of points each."""
    for evaluator in _accepting(kernel, dtype, device, order):
        if evaluator.pays(dtype, n_pairs, n_problems):
            return evaluator
        evaluator.was_passed_over(dtype, n_pairs, n_problems)
    raise _nobody(kernel, dtype, device)


def likely_evaluator(
    kernel: Kernel,
    dtype: torch.dtype,
    device: torch.device,
    n_pairs: float,
    n_problems: int = 1,
    order: int = 0,
) -> Evaluator:
    """Return what `evaluator_for` would; nothing is loaded, compiled or counted."""
    for evaluator in _accepting(kernel, dtype, device, order):
        if evaluator.pays(dtype, n_pairs, n_problems, may_load=False):
            return evaluator
    raise _nobody(kernel, dtype, device)


def pullback_evaluator(
    kernel: Kernel, dtype: torch.dtype, device: torch.device, order: int
) -> Evaluator:
    """Return the first evaluator that has the pullback of moments to an order."""
    for evaluator in _accepting(kernel, dtype, device, order):
        if evaluator.has_pullback:
            return evaluator
    raise _nobody(kernel, dtype, device)


def _accepting(kernel: Kernel, dtype: torch.dtype, device: torch.device, order: int) -> list:
    return [at for at in EVALUATORS.values() if at.accepts(kernel, dtype, device, order)]


def _nobody(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> ValueError:
    return ValueError(f"No evaluator accepts kernel {kernel.name!r} in {dtype} on {device}.")


def has_own_threads(
    kernel: Kernel, dtype: torch.dtype, device: torch.device, n_pairs: float
) -> bool:
    """Return whether sums of so many pairs leave the cores to other threads than torch's.

    Few pairs are not worth several threads, so those of torch are not missed.
    """
    if n_pairs < tuning.FEWEST_COMPILED_PAIRS:
        return any(at.has_own_threads for at in _accepting(kernel, dtype, device, 0))
    return likely_evaluator(kernel, dtype, device, n_pairs).has_own_threads


def has_squares(kernel: Kernel, keys: Tensor, n_queries: int, n_columns: int) -> bool:
    """Return whether who evaluates these pairs has sums and squares in one pass."""
    n_pairs = n_queries * keys.shape[1]
    for evaluator in _accepting(kernel, keys.dtype, keys.device, 0):
        if evaluator.pays(keys.dtype, n_pairs, len(keys)):
            return evaluator.has_squares(kernel, n_columns)
    return False
