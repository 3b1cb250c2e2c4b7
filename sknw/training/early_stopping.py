"""What every solver tells of its steps: to the user, and to the validation rows."""

from dataclasses import dataclass, field

import numpy as np

from sknw.training.problem import Settings, TrainingProblem
from sknw.training.rescaling import rescaled


@dataclass
class EarlyStopping:
    """Reports steps, keeps the parameters that the validation rows like best, and says stop.

    Parameters
    ----------
    problem : TrainingProblem
        With validation rows, or without.
    settings : Settings
        Patience, and whom to tell.
    quiet_steps : int, default=0
        Steps after which patience begins.
    """

    problem: TrainingProblem
    settings: Settings
    quiet_steps: int = 0
    curve: list[float] = field(default_factory=list)
    best: np.ndarray | None = None
    best_buffers: dict[str, np.ndarray] = field(default_factory=dict)
    best_loss: float = np.inf
    waited: int = 0
    latest: int = 0
    stopped: bool = False
    ended: bool = False

    def __call__(self, step: int, loss: float, w: np.ndarray) -> bool:
        """Note a step: parameters w after it, the loss before it. Return whether to stop.

        `step` counts from 1; one that is no higher than the last belongs to a new descent, which
        has patience of its own, but ends at once if the user has said stop.
        """
        settings, unit = self.settings, self.problem.task.unit
        if settings.on_step is not None and not self.ended:
            self.ended = bool(
                settings.on_step(step, loss * unit, lambda: self.problem.model.at(w).eval())
            )
        self.stopped = self.ended
        if self.problem.validation is not None:
            self.stopped |= self._validate(step, w)
        return self.stopped

    def _validate(self, step: int, w: np.ndarray) -> bool:
        problem = self.problem
        if problem.is_scale:
            loss = problem.validation.mean(problem.validation_errors(w)) * problem.task.unit
        else:
            w, loss = rescaled(problem, w)
        self.curve.append(loss)
        lower = loss < self.best_loss * (1 - self.settings.tol)
        if loss < self.best_loss:
            self.best, self.best_loss = w.copy(), loss
            self.best_buffers = problem.model.buffers
        fresh = lower or step <= max(self.quiet_steps, self.latest)
        self.waited, self.latest = 0 if fresh else self.waited + 1, step
        return self.waited >= self.settings.n_iter_no_change
