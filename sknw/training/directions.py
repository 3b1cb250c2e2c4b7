"""Which directions of an embedding matter: the eigenvectors of the gradients' outer product.

`Σ_i ∇f(z_i) ∇f(z_i)ᵀ` of the leave-one-out predictions f weighs every direction by how much the
predictions change along it (Trivedi, Wang, Kpotufe & Shakhnarovich 2014, "A consistent estimator
of the expected gradient outerproduct"). A metric of low rank starts from the leading ones.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sknw.smoothing.smooth import smooth
from sknw.support import tuning
from sknw.training.problem import TrainingProblem


def important_directions(problem: TrainingProblem, matrix: Tensor) -> Tensor:
    """Return orthonormal directions (q, q) of the embedding by a matrix (q, d), best first."""
    task = problem.task
    embedded = (problem.scaled @ matrix.to(problem.scaled.dtype).mT).detach()
    rows = _spread_out(len(task), embedded.device)
    weights = task.weights[rows].double()
    product = torch.zeros(len(matrix), len(matrix), dtype=torch.float64, device=embedded.device)
    for output, variance in enumerate(task.variance.double()):
        gradients = _gradients(problem, embedded, rows, output).double()
        product += (gradients.mT * weights) @ gradients / variance  # (q, m) @ (m, q) -> (q, q)
    return torch.linalg.eigh(product).eigenvectors.flip(1).mT.to(matrix.dtype)


def _spread_out(n: int, device: torch.device) -> Tensor:
    """Return at most `tuning.ROWS_OF_DIRECTIONS` row numbers, evenly spaced."""
    step = max(1, -(-n // tuning.ROWS_OF_DIRECTIONS))
    return torch.arange(0, n, step, device=device)


def _gradients(problem: TrainingProblem, embedded: Tensor, rows: Tensor, output: int) -> Tensor:
    """Return the gradients (m, q) of one output's leave-one-out predictions at their queries."""
    task = problem.task
    with torch.inference_mode(False), torch.enable_grad():
        queries = embedded[rows].requires_grad_()
        predictions = smooth(
            replace(task.method, algorithm="auto"),
            queries[None],
            embedded[None],
            task.values[None],
            task.weights[None],
            exclude=rows,
        )
        if not predictions.requires_grad:
            return torch.zeros_like(queries)
        (gradients,) = torch.autograd.grad(predictions[0, :, output].sum(), queries)
    return torch.nan_to_num(gradients)
