"""Which evaluator runs: the registry."""

import torch
from torch import Tensor

from sknw.kernels import Kernel
from sknw.sums.evaluators.compiled.driver import Fused
from sknw.sums.evaluators.compiled.readiness import LOOPS
from sknw.sums.evaluators.evaluator import Evaluator
from sknw.sums.evaluators.torch import TorchTiles
from sknw.support import tuning
from sknw.support.threads import n_threads

FUSED, TORCH = Fused(), TorchTiles()
EVALUATORS: dict[str, Evaluator] = {evaluator.name: evaluator for evaluator in (FUSED, TORCH)}
_TORCH_SECONDS_PER_PAIR = 1e-8  # of one core, about, with the gradients that follow most sums


def evaluator_for(
    kernel: Kernel,
    dtype: torch.dtype,
    device: torch.device,
    n_pairs: float,
    n_problems: int = 1,
    order: int = 0,
) -> Evaluator:
    """Return the evaluator of moments to an order, for problems of so many pairs of points each.

    What torch gets for want of compiled loops is counted: when it has become much, they are made.
    """
    evaluator = _chosen(kernel, dtype, device, n_pairs, n_problems, FUSED.does, order)
    waits = evaluator is not FUSED and FUSED.accepts(kernel, dtype, device, order)
    if waits and n_pairs >= tuning.FEWEST_COMPILED_PAIRS:
        LOOPS.count(_precision(dtype), _torch_seconds(n_pairs * n_problems))
    return evaluator


def likely_evaluator(
    kernel: Kernel,
    dtype: torch.dtype,
    device: torch.device,
    n_pairs: float,
    n_problems: int = 1,
    order: int = 0,
) -> Evaluator:
    """Return what `evaluator_for` would; nothing is loaded, compiled or counted."""
    return _chosen(kernel, dtype, device, n_pairs, n_problems, LOOPS.likely, order)


def _chosen(kernel, dtype, device, n_pairs, n_problems, ask, order: int = 0) -> Evaluator:
    """Return the first evaluator that can; compiled loops only if they are asked and say so."""
    for evaluator in EVALUATORS.values():
        if evaluator.accepts(kernel, dtype, device, order) and (
            evaluator is not FUSED or _worth_the_loops(_precision(dtype), n_pairs, n_problems, ask)
        ):
            return evaluator
    raise ValueError(f"No evaluator accepts kernel {kernel.name!r} in {dtype} on {device}.")


def _worth_the_loops(precision: str, n_pairs: float, n_problems: int, ask) -> bool:
    """Whether the pairs are many: for a call of loops that are ready, in all problems together."""
    total = n_pairs * n_problems
    many = (total if LOOPS.are_ready(precision) else n_pairs) >= tuning.FEWEST_COMPILED_PAIRS
    return many and ask(precision, _torch_seconds(total))


def _precision(dtype: torch.dtype) -> str:
    return "float64" if dtype == torch.float64 else "float32"


def _torch_seconds(n_pairs: float) -> float:
    return n_pairs * _TORCH_SECONDS_PER_PAIR / n_threads()


def has_own_threads(
    kernel: Kernel, dtype: torch.dtype, device: torch.device, n_pairs: float
) -> bool:
    """Return whether sums of so many pairs leave the cores to other threads than torch's.

    Compiled loops have their own; few pairs are not worth several.
    """
    few = n_pairs < tuning.FEWEST_COMPILED_PAIRS
    ready = few or likely_evaluator(kernel, dtype, device, n_pairs) is FUSED
    return FUSED.accepts(kernel, dtype, device) and ready


def has_squares(kernel: Kernel, keys: Tensor, n_queries: int, n_columns: int) -> bool:
    """Return whether who evaluates these pairs has sums and squares in one pass."""
    place = keys.dtype, keys.device
    n_pairs = n_queries * keys.shape[1]
    evaluator = _chosen(kernel, *place, n_pairs, len(keys), FUSED.does)
    return evaluator.has_squares(kernel, n_columns)
