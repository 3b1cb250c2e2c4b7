"""Metric training: gradient descent on the leave-one-out loss of an embedding.

`SOLVERS` holds the solvers by the name that the ``solver`` parameter takes; `train` goes up from
the simplest metric and runs one; `doubts` says what looks wrong with the end.
"""

from sknw.training.adam import Adam
from sknw.training.doubts import doubts
from sknw.training.problem import Settings, Solver, Trained, TrainingProblem
from sknw.training.solvers import SOLVERS
from sknw.training.stages import Request, train
from sknw.training.validation import in_blocks

Solver.__module__ = __name__  # messages name what users import

__all__ = [
    "SOLVERS",
    "Adam",
    "Request",
    "Settings",
    "Solver",
    "Trained",
    "TrainingProblem",
    "doubts",
    "in_blocks",
    "train",
]
