"""What follows each step of a solver: the user is told, and the validation rows judge it."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from sknw.training.problem import Settings, TrainingProblem
from sknw.training.rescaling import rescaled


@dataclass
class EarlyStopping:
    """Keeps the parameters that the validation rows like best, and stops when they stop improving.

    Parameters
    ----------
    problem : TrainingProblem
        With validation rows, or without: then nothing is kept and nothing stops.
    settings : Settings
        Patience and tolerance.
    quiet_steps : int, default=0
        Steps after which patience begins.
    best : ndarray of shape (p,) or None, default=None
        The parameters kept so far, with their buffers and their loss.
    waited : int, default=0
        Steps without a gain.
    """

    problem: TrainingProblem
    settings: Settings
    quiet_steps: int = 0
    best: np.ndarray | None = None
    best_buffers: dict[str, np.ndarray] = field(default_factory=dict)
    best_loss: float = np.inf
    waited: int = 0
    latest: int = 0
    curve: list[float] = field(default_factory=list)

    def __call__(self, step: int, w: np.ndarray) -> bool:
        """Judge the parameters w (p,) after a step; return whether to stop.

        `step` counts from 1; one that is no higher than the last belongs to a new descent, which
        has patience of its own.
        """
        problem = self.problem
        if problem.validation is None:
            return False
        if problem.is_scale:
            loss = problem.validation.mean(problem.validation_errors(w)) * problem.task.unit
        else:
            w, loss = rescaled(problem, w)
        self.curve.append(loss)
        gained = loss < self.best_loss * (1 - self.settings.tol)
        if loss < self.best_loss:
            self.best, self.best_loss = w.copy(), loss
            self.best_buffers = problem.model.buffers
        is_early = step <= max(self.quiet_steps, self.latest)
        self.waited, self.latest = 0 if gained or is_early else self.waited + 1, step
        return self.waited >= self.settings.n_iter_no_change

    @property
    def state(self) -> dict:
        """What a training that goes on begins with: arguments by name."""
        return {
            "best": self.best,
            "best_buffers": self.best_buffers,
            "best_loss": self.best_loss,
            "waited": self.waited,
        }


@dataclass
class Steps:
    """The steps of one training: each is told to the user and judged by the validation rows.

    Parameters
    ----------
    problem : TrainingProblem
        What is trained.
    settings : Settings
        Whom to tell.
    stopping : EarlyStopping
        Judges the steps.
    """

    problem: TrainingProblem
    settings: Settings
    stopping: EarlyStopping
    stopped: bool = False
    _user_stopped: bool = False

    @classmethod
    def of(
        cls,
        problem: TrainingProblem,
        settings: Settings,
        state: dict | None = None,
        quiet_steps: int = 0,
    ) -> "Steps":
        """Begin, or go on from the state of an earlier training's `EarlyStopping`."""
        stopping = EarlyStopping(problem, settings, quiet_steps, **(state or {}))
        return cls(problem, settings, stopping)

    def __call__(self, step: int, loss: float, w: np.ndarray) -> bool:
        """Note a step: parameters w (p,) after it, the loss before it. Return whether to stop.

        A user who has said stop is not asked again: the descents from other starts end, too.
        """
        tell = self.settings.on_step
        if tell is not None and not self._user_stopped:
            loss_in_units = loss * self.problem.task.unit
            module_then = partial(_module_at, self.problem, w)
            self._user_stopped = bool(tell(step, loss_in_units, module_then))
        self.stopped = self.stopping(step, w) or self._user_stopped
        return self.stopped


def _module_at(problem: TrainingProblem, w: np.ndarray) -> torch.nn.Module:
    return problem.model.at(w).eval()
