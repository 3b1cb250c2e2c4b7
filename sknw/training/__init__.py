"""Metric training: gradient descent on the leave-one-out loss of an embedding.

`SOLVERS` holds the solvers by the name that the ``solver`` parameter takes; `train` trains the
simpler metrics and then the one asked for; `diagnose` says what looks wrong with the end.
"""

from sknw.training.adam import Adam
from sknw.training.diagnostics import diagnose
from sknw.training.ladder import Config, train
from sknw.training.problem import Result, Settings, Solver, TrainingProblem
from sknw.training.solvers import SOLVERS

Solver.__module__ = __name__  # messages name what users import

__all__ = [
    "SOLVERS",
    "Adam",
    "Config",
    "Result",
    "Settings",
    "Solver",
    "TrainingProblem",
    "diagnose",
    "train",
]
