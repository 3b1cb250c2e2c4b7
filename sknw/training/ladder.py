"""From the simplest metric up: each starts where simpler ones ended, and never ends above them.

Without validation rows a metric that ends above the simpler one's objective gives way to the
simpler one, in the richer one's form (with fewer components: to the simpler one's most important
directions). With validation rows it does so unless it is better there by more than one standard
error (`sknw.training.validation`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from sknw.fitting.leave_one_out import LeaveOneOut
from sknw.fitting.schedule import screening_rows
from sknw.fitting.subsets import split, subsample
from sknw.metrics import Metric, fill, learned
from sknw.metrics.learned_module import LearnedModule
from sknw.support import tuning
from sknw.support.random import OwnDraws
from sknw.training.directions import important_directions
from sknw.training.problem import Result, Settings, Solver, TrainingProblem
from sknw.training.rescaling import rescaled
from sknw.training.solvers import SOLVERS
from sknw.training.starts import starts
from sknw.training.validation import Validation


@dataclass(frozen=True, eq=False)
class Config:
    """What is to be trained, and how.

    Parameters
    ----------
    metric : Metric
        The metric wanted.
    solver : Solver
        What minimises; simpler metrics are trained by their default one.
    n_components : int or None
        The user's number of components.
    alpha : float
        Strength of the penalty.
    w_init : ndarray of shape (p,) or None
        The user's start; simpler metrics are then not trained.
    n_starts : int or "auto"
        How many starts each metric tries.
    validation_fraction : float or None
        Share of the rows to judge by; None: train on all.
    state : dict or None
        Where an earlier training of the same rows stopped.
    buffers : dict of str to ndarray
        Buffers to start from, where an earlier fit left some.
    """

    metric: Metric
    solver: Solver
    n_components: int | None
    alpha: float
    w_init: np.ndarray | None
    n_starts: int | str
    validation_fraction: float | None
    state: dict | None = None
    buffers: dict[str, np.ndarray] = field(default_factory=dict)

    def stages(self, n_rows: int) -> list["Config"]:
        """Return the configs of the simpler metrics to go through, and this one."""
        chain = [self]
        simpler = None if self.w_init is not None else self.metric.simpler
        while simpler is not None:
            if n_rows <= simpler.most_rows_as_start:
                solver = SOLVERS[simpler.default_solver]
                metric = simpler().see(self.metric.feature_of_column_)
                chain.insert(0, replace(self, metric=metric, solver=solver, n_components=None))
            simpler = simpler.simpler
        return chain

    @property
    def starts(self) -> int:
        """Number of starts to try."""
        if self.n_starts != "auto":
            return self.n_starts
        return 1 if self.w_init is not None else self.solver.n_starts


def train(
    config: Config,
    task: LeaveOneOut,
    bandwidth: np.ndarray,
    settings: Settings,
    random_state: np.random.RandomState,
) -> tuple[torch.nn.Module, Result]:
    """Return the trained module and how it was reached.

    Parameters
    ----------
    config : Config
        What is to be trained.
    task : LeaveOneOut
        The rows.
    bandwidth : ndarray of shape (n_columns,)
        The starting scale.
    settings : Settings
        When to stop, and how far to step.
    random_state : RandomState
        Draws validation rows, the subsample that compares starts, restarts and batches.
    """
    seed = int(random_state.randint(2**31)) if config.state is None else config.state["seed"]
    part, validation = task, None
    if config.validation_fraction is not None and len(task) > 1:
        draws = np.random.RandomState(seed)
        part, rest = split(task, config.validation_fraction, draws)
        validation = Validation(rest)
    base = _Base(part, bandwidth, validation, seed)
    if config.state is not None:
        problem, trained, simpler = _resumed(config, base, settings)
    else:
        problem, trained, simpler = _climbed(config, base, settings, random_state)
    state = trained.state
    if state is not None:
        state = {"solver": state, "simpler": simpler, "seed": seed, "w": trained.w}
    trained = replace(trained, state=state)
    if simpler is not None:
        trained = _better(problem, trained, simpler)
    whole = problem.on(task)
    if validation is not None or trained.loss is None:
        trained = replace(trained, loss=whole.final_loss(trained.w))
    return problem.model.at(trained.w).eval(), trained


@dataclass(frozen=True, eq=False)
class _Base:
    """What the stages share."""

    task: LeaveOneOut
    bandwidth: np.ndarray
    validation: Validation | None
    seed: int

    def problem(self, stage: Config) -> TrainingProblem:
        """Return a stage's problem, its module at a neutral or random start."""
        task = self.task
        n_components = stage.metric.components(task.rows.shape[1], stage.n_components)
        with OwnDraws(self.seed):
            module = stage.metric.build(task.rows.shape[1], n_components)
        if not learned(module):
            raise ValueError(
                f"The module of {type(stage.metric).__name__} must have parameters to learn; got "
                "none that require a gradient."
            )
        fill(module, stage.buffers)
        module = module.to(device=task.rows.device, dtype=_dtype(module, task))
        model = LearnedModule(stage.metric, module, n_components)
        problem = TrainingProblem(model, task, self.bandwidth, stage.alpha, self.validation)
        stage.metric.calibrate(module, problem.scaled)
        return problem


def _dtype(module: torch.nn.Module, task: LeaveOneOut) -> torch.dtype:
    """Return the dtype of parameters: float64, or that of the rows where they are in float32."""
    is_double = all(parameter.dtype == torch.float64 for parameter in module.parameters())
    return torch.float64 if is_double else task.rows.dtype


@dataclass(frozen=True, eq=False)
class _Simpler:
    """A simpler metric in the form of a richer one: parameters, buffers, and the loss there."""

    w: np.ndarray
    loss: float
    buffers: dict[str, np.ndarray]


def _climbed(
    config: Config, base: _Base, settings: Settings, random_state: np.random.RandomState
) -> tuple[TrainingProblem, Result, _Simpler | None]:
    """Train the stages; return the last one's problem and end, and the simpler metric in its form.

    None in its place where there is no simpler one.
    """
    reached, matrices = None, []
    tol = (
        settings.tol
        if len(base.task) <= tuning.MANY_ROWS
        else max(settings.tol, tuning.TOL_OF_SIMPLER_METRICS_OF_MANY)
    )
    quiet = replace(
        settings,
        max_iter=tuning.STEPS_OF_SIMPLER_METRICS,
        tol=tol,
        on_step=_told(base.task),
        keeps_state=False,
    )
    stages = config.stages(len(base.task))
    for stage in stages:
        problem, simpler = base.problem(stage), None
        if reached is not None:
            simpler = _as_richer(problem, matrices[-1], reached.loss)
        first = _known_starts(stage, problem, matrices)
        how = settings if stage is stages[-1] else quiet
        with base.task.progress.stage(f"training of {type(stage.metric).__name__}", None):
            trained = _train_stage(stage, problem, first, how, random_state)
        if stage is not stages[-1]:
            reached = trained if simpler is None else _better(problem, trained, simpler)
            module, n_columns = problem.model.at(reached.w), base.task.rows.shape[1]
            matrices.append(stage.metric.matrix(module, n_columns))
    return problem, trained, simpler


def _told(task: LeaveOneOut) -> Callable[[int, float, Callable], bool]:
    """Return what tells of the steps of a simpler metric."""
    return lambda step, loss, module: task.progress.step(loss)


def _resumed(
    config: Config, base: _Base, settings: Settings
) -> tuple[TrainingProblem, Result, _Simpler | None]:
    """Go on with the last stage; return what `_climbed` does."""
    problem, state = base.problem(config), config.state
    with base.task.progress.stage(f"training of {type(config.metric).__name__}", None):
        trained = config.solver.resume(problem, settings, state["solver"])
    problem.model.restore(trained.buffers)
    return problem, _at_best_scale(problem, trained), state["simpler"]


def _as_richer(problem: TrainingProblem, matrix: Tensor, loss: float) -> _Simpler:
    """Return the parameters at which the metric is a simpler one's matrix, and the loss there.

    With fewer components than the matrix they stand for its most important directions only, and
    the loss is another one than the simpler metric's.
    """
    is_part = _stand_for(problem, matrix)
    w = problem.model.values
    return _Simpler(w, problem.final_loss(w) if is_part else loss, problem.model.buffers)


def _stand_for(problem: TrainingProblem, matrix: Tensor) -> bool:
    """Let the module stand for a matrix; return whether for its most important part only."""
    is_part = problem.model.n_components < len(matrix)
    if is_part:
        matrix = important_directions(problem, matrix) @ matrix
    problem.model.metric.embed_matrix(problem.model.module, matrix)
    return is_part


def _known_starts(
    stage: Config, problem: TrainingProblem, matrices: Sequence[Tensor]
) -> list[np.ndarray]:
    """Return the user's start, or those at the simpler metrics, or where the module is.

    Where rows are few for the weights, only the latest of the simpler metrics: what lies lower on
    the way from the others then fits noise.
    """
    if stage.w_init is not None:
        return [stage.w_init]
    if not matrices:
        return [] if problem.is_scale else [rescaled(problem, problem.model.values, wide=True)[0]]
    if len(problem.task) < tuning.ROWS_PER_WEIGHT * len(problem.model.values):
        matrices = matrices[-1:]
    found = []
    for matrix in matrices[::-1][: stage.starts]:
        _stand_for(problem, matrix)
        stage.metric.perturb(problem.model.module)
        found.append(problem.model.values)
    return found


def _train_stage(
    stage: Config,
    problem: TrainingProblem,
    first: list[np.ndarray],
    settings: Settings,
    random_state: np.random.RandomState,
) -> Result:
    task = problem.task
    if len(task) < 2:
        w = first[0] if first else problem.model.values
        return Result(w, [np.nan], np.nan, n_iter=1, converged=True)
    size = screening_rows(task.n_features, is_single=task.n_features == 1)
    screened = problem.on(subsample(task, size, random_state))
    with task.progress.stage(f"scan of {len(screened.task)} observations"):
        found = starts(screened, first, stage.starts, random_state)
    if first and stage.starts == 1:
        screened = None
    trained = stage.solver.train(problem, found, settings, screened, random_state)
    problem.model.restore(trained.buffers)
    return _at_best_scale(problem, trained)


def _at_best_scale(problem: TrainingProblem, trained: Result) -> Result:
    """Return the end with the common scale that suits all rows, where only parts were seen.

    Validation rows have seen to that already.
    """
    if trained.loss is not None or len(problem.task) < 2:
        return trained
    w = trained.w
    if problem.validation is None and not problem.is_scale:
        w, _ = rescaled(problem, w)
    return replace(trained, w=w, loss=problem.final_loss(w))


def _better(problem: TrainingProblem, trained: Result, simpler: _Simpler) -> Result:
    """Return what was trained, or the simpler metric; the module's buffers are then of that."""
    buffers = problem.model.buffers
    if problem.validation is None:
        keep = problem.total(trained.w, trained.loss) <= problem.total(simpler.w, simpler.loss)
    else:
        errors = problem.validation_errors(trained.w)
        problem.model.restore(simpler.buffers)
        keep = problem.validation.is_better(errors, problem.validation_errors(simpler.w))
    problem.model.restore(buffers if keep else simpler.buffers)
    return trained if keep else replace(trained, w=simpler.w, loss=simpler.loss)
