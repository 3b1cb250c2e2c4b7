"""The registry of solvers, by the name that the ``solver`` parameter takes."""

from sknw.training.adam import Adam
from sknw.training.lbfgs import Lbfgs
from sknw.training.problem import Solver
from sknw.training.sgd import Sgd

SOLVERS: dict[str, Solver] = {solver.name: solver for solver in (Lbfgs(), Adam(), Sgd())}
