"""Mini-batch training by Adam (Kingma & Ba 2015): rows held out some at a time.

Each step predicts a batch of rows from all other rows, or from a fresh random share of them, or
from the batch itself, made of rows that are near each other now (`sknw.training.neighborhoods`). A
share makes steps cheap and regularises: no row can rely on one particular neighbour (ModernNCA's
stochastic neighbourhoods). Its windows end too wide for all rows, so validation and the end look
for the best common scale (`sknw.training.rescaling`).

The steps run in float32. Their length rises over the first epoch, falls along half a cosine until
`decay_epochs`, and stays at a hundredth; it depends on the epoch alone, so a training that stops
and goes on takes the same steps as one that does not stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.fitting.subsets import among
from sknw.metrics.embedding import in_blocks
from sknw.support import tuning
from sknw.support.random import OwnDraws
from sknw.training.coordinates import Coordinates
from sknw.training.neighborhoods import random_leaves
from sknw.training.problem import Result, Settings, Solver, TrainingProblem
from sknw.training.steps import Steps


class Adam(Solver, BaseEstimator):
    """Adam on the loss of batches of held-out rows.

    Parameters
    ----------
    decay_epochs : int, default=60
        Epochs in which the steps shrink to a hundredth; patience begins after them.
    keys : {"auto", "all", "near"} or float, default="auto"
        What a batch is predicted from: all other rows; the batch itself, made of groups of near
        rows; or a share in (0, 1) of the rows, drawn anew for each step. ``"auto"``: all up to 4096
        rows, else near ones.
    """

    name = "adam"
    n_starts = 1

    def __init__(self, decay_epochs=60, keys="auto"):
        self.decay_epochs = decay_epochs
        self.keys = keys

    def check(self) -> None:
        """Refuse settings that mean nothing.

        Raises
        ------
        ValueError
        """
        if not isinstance(self.decay_epochs, Real) or self.decay_epochs <= 0:
            raise ValueError(f"decay_epochs must be positive; got {self.decay_epochs!r}.")
        is_share = isinstance(self.keys, Real) and 0 < self.keys < 1
        if not is_share and self.keys not in ("auto", "all", "near"):
            raise ValueError(
                f"keys must be 'auto', 'all', 'near' or a share between 0 and 1; got {self.keys!r}."
            )

    def train(
        self,
        problem: TrainingProblem,
        starts: Sequence[np.ndarray],
        settings: Settings,
        screened: TrainingProblem | None,
        random_state: np.random.RandomState,
    ) -> Result:
        """Return the end from the first start; more starts train one after the other."""
        ends = []
        for start in starts:
            state = {"origin": start, "seed": int(random_state.randint(2**31))}
            ends.append(self.resume(problem, settings, state))
        if len(ends) == 1:
            return ends[0]
        return min(ends, key=lambda end: _total(problem, end))

    def resume(self, problem: TrainingProblem, settings: Settings, state: dict) -> Result:
        """Train on from a state; one without an optimiser begins."""
        self.check()
        walk = _Walk.of(problem, settings, self, state)
        steps = Steps.of(walk.problem, settings, state.get("stopping", {}), self.decay_epochs)
        losses, curve, message = list(state.get("losses", [])), [], ""
        last_good = walk.w, walk.problem.model.buffers
        with problem.task.progress.stage("epochs", settings.max_iter):
            for _ in range(settings.max_iter):
                loss = walk.epoch()
                if not np.isfinite(loss):
                    break
                losses.append(loss)
                curve.append(loss * problem.task.unit)
                last_good = walk.w, walk.problem.model.buffers
                if steps(walk.epochs, loss, walk.w) or self._has_stalled(losses, settings):
                    break
        diverged = not np.isfinite(loss)
        converged = not diverged and (steps.stopped or self._has_stalled(losses, settings))
        message = f"max_iter={settings.max_iter} epochs ended it before the loss settled"
        if diverged:
            message = "the loss diverged; the best state seen is kept. Lower learning_rate_init"
        stopping = steps.stopping
        kept = last_good if stopping.best is None else (stopping.best, stopping.best_buffers)
        keeps_state = settings.keeps_state and not diverged
        state = walk.state(stopping.state, losses) if keeps_state else None
        return Result(
            w=kept[0],
            buffers=kept[1],
            loss_curve=curve or [np.nan],
            loss=None,
            n_iter=max(len(curve), 1),
            converged=converged,
            message=message,
            validation_curve=stopping.curve,
            state=state,
        )

    def _has_stalled(self, losses: list[float], settings: Settings) -> bool:
        """Whether, after the decay, `n_iter_no_change` epochs brought no relative gain of `tol`."""
        patience = settings.n_iter_no_change
        if len(losses) <= max(self.decay_epochs, patience):
            return False
        return min(losses[-patience:]) >= min(losses[:-patience]) * (1 - settings.tol)

    def step_length(self, epoch: float) -> float:
        """Return the length of steps after so many epochs, relative to the largest."""
        warming = min(1.0, epoch + 0.05)
        falling = 0.5 + 0.5 * np.cos(np.pi * min(1.0, epoch / self.decay_epochs))
        return warming * max(falling, tuning.LEAST_STEP)

    def chosen_keys(self, n_rows: int) -> str | float:
        """Return what a batch of so many rows is predicted from."""
        if self.keys == "auto":
            return "all" if n_rows <= tuning.MOST_ROWS_AS_ALL_KEYS else "near"
        return self.keys


def _total(problem: TrainingProblem, end: Result) -> float:
    """Return the objective at an end, with the buffers that belong to it."""
    problem.model.restore(end.buffers)
    return problem.total(end.w, problem.final_loss(end.w))


@dataclass
class _Walk:
    """Adam's walk in coordinates x (p,), an epoch at a time."""

    problem: TrainingProblem
    coordinates: Coordinates
    solver: Adam
    keys: str | float
    x: Tensor
    optimizer: torch.optim.Adam
    learning_rate: float
    batch_size: int
    seed: int
    epochs: int
    origin: np.ndarray

    @classmethod
    def of(cls, problem: TrainingProblem, settings: Settings, solver: Adam, state: dict) -> "_Walk":
        """Begin, or take up a state again."""
        coordinates = problem.coordinates(state["origin"])
        single, device = problem.single(), problem.task.rows.device
        single.model.restore(state.get("buffers", {}))
        x = to_tensor(
            state.get("x", coordinates.of(state["origin"])), dtype=torch.float32, device=device
        ).clone()
        rate = settings.learning_rate_init or problem.model.metric.learning_rate
        optimizer = torch.optim.Adam([x.requires_grad_()], lr=rate)
        if "moments" in state:
            moments = {
                name: to_tensor(value, dtype=torch.float32, device=device).clone()
                for name, value in state["moments"].items()
            }
            optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: moments}})
        keys = solver.chosen_keys(len(single.task))
        batch = settings.batch_size
        if batch == "auto":
            batch = tuning.BATCHES.get(keys, tuning.BATCH_OF_SHARE)
        epochs = state.get("epoch", 0)
        return cls(
            single, coordinates, solver, keys, x, optimizer, rate, min(batch, len(single.task)),
            state["seed"], epochs, state["origin"],
        )  # fmt: skip

    @property
    def w(self) -> np.ndarray:
        """The parameters (p,) now."""
        return self.coordinates.values(to_numpy(self.x).astype(np.float64))

    def epoch(self) -> float:
        """Hold every row out once; return the mean loss of the batches."""
        drawn = np.random.RandomState([self.seed, self.epochs])
        batches = self._near_batches(drawn) if self.keys == "near" else self._batches(drawn)
        total, draws = 0.0, OwnDraws(int(drawn.randint(2**31)))
        self.problem.model.module.train()
        for number, batch in enumerate(batches):
            length = self.solver.step_length(self.epochs + number / len(batches))
            loss = self._step(self._with_keys(batch, drawn), len(batch), length, draws)
            if not np.isfinite(loss):
                return loss
            total += loss * len(batch)
        self.epochs += 1
        return total / len(self.problem.task)

    def _batches(self, drawn: np.random.RandomState) -> list[np.ndarray]:
        order = drawn.permutation(len(self.problem.task))
        return np.array_split(order, -(-len(order) // self.batch_size))

    def _near_batches(self, drawn: np.random.RandomState) -> list[np.ndarray]:
        """Return batches of a few groups of near rows each."""
        module = self.problem.model.at(self.w).eval()
        with torch.no_grad():
            embedded = in_blocks(module, self.problem.scaled)
        leaves = random_leaves(embedded, max(2, self.batch_size // tuning.GROUPS_OF_A_BATCH), drawn)
        return [
            np.concatenate(leaves[first : first + tuning.GROUPS_OF_A_BATCH])
            for first in range(0, len(leaves), tuning.GROUPS_OF_A_BATCH)
        ]

    def _with_keys(self, batch: np.ndarray, drawn: np.random.RandomState) -> Tensor:
        """Return the batch's rows, followed by the other rows that predict it."""
        n = len(self.problem.task)
        is_key = np.zeros(n, dtype=bool)
        if self.keys == "all":
            is_key[:] = True
        elif self.keys != "near":
            is_key[drawn.permutation(n)[: max(2, round(self.keys * n))]] = True
        is_key[batch] = False
        keys = np.concatenate([batch, np.flatnonzero(is_key)])
        return to_tensor(keys, dtype=torch.int64, device=self.problem.task.rows.device)

    def _step(self, keys: Tensor, n_held_out: int, length: float, draws: OwnDraws) -> float:
        """Take one step; return the batch's loss before it."""
        part = replace(self.problem, task=among(self.problem.task, keys, n_held_out), draws=draws)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * length
        self.optimizer.zero_grad()
        x, w = to_numpy(self.x).astype(np.float64), self.w
        loss, gradient = part.loss_and_gradient(w)
        gradient = self.coordinates.by_coordinates(x, gradient + part.penalty(w)[1])
        self.x.grad = to_tensor(gradient, dtype=self.x.dtype, device=self.x.device)
        torch.nn.utils.clip_grad_norm_([self.x], tuning.LARGEST_GRADIENT)
        self.optimizer.step()
        with torch.no_grad():
            low, high = (
                to_tensor(bound, dtype=self.x.dtype, device=self.x.device)
                for bound in np.transpose(self.coordinates.bounds)
            )
            self.x.clamp_(low, high)
        part.task.progress.evaluated()
        return loss

    def state(self, stopping: dict, losses: list[float]) -> dict:
        """Return what going on needs."""
        moments = self.optimizer.state_dict()["state"][0]
        return {
            "origin": self.origin,
            "seed": self.seed,
            "epoch": self.epochs,
            "x": to_numpy(self.x).copy(),
            "buffers": self.problem.model.buffers,
            "moments": {name: to_numpy(value).copy() for name, value in moments.items()},
            "losses": losses,
            "stopping": stopping,
        }
