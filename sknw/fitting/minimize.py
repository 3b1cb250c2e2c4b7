"""Minimise a leave-one-out loss over bounded parameters, from several starts.

The search runs on the logarithm of the objective, so tolerances are relative and steps do not
depend on the units of y. SciPy's L-BFGS-B does the steps where gradients inform; where they do not
(compact kernels, whose loss has kinks and flat stretches), dividing rectangles (DIRECT) look around
its end and Powell's method polishes. On larger
data a subsample rehearses the descents from every start, and only the best are played in full.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from sknw.data.arrays import to_numpy, to_tensor
from sknw.support.progress import SILENT, Progress
from sknw.support.threads import one_blas_thread

_FLOOR = 1e-30  # loss of an exact fit, in units of variance
_ROUGH_TOL, _ROUGH_MAX_ITER = 1e-5, 40
_NEARLY, _HOPELESS = 0.02, 0.5  # in the logarithm of the objective
_NEAR = 1.5  # in the logarithm of a width
_WINDOW, _WINDOWS, _LINE_TOL = 0.7, 8, 1e-4  # in the logarithm of a width
_MOST_CORRECTIONS = 40  # that a quasi-Newton step knows; an evaluation is dearer than they are
_UNUSABLE = 1e3  # log objective where it is not finite


@dataclass(frozen=True)
class Minimum:
    """Where a search ended.

    Parameters
    ----------
    x : ndarray of shape (p,)
        Parameters.
    objective : float
        Objective there, penalty included.
    curve : list of float
        Loss without penalty at the start and after every step.
    converged : bool
        False if the number of steps ended the search.
    start : ndarray of shape (p,) or None, default=None
        Where the descent began, after the steps in `began`.
    began : int, default=0
        Steps taken before `start`.
    """

    x: np.ndarray
    objective: float
    curve: list[float]
    converged: bool
    start: np.ndarray | None = None
    began: int = 0

    @property
    def n_iter(self) -> int:
        """Number of steps."""
        return len(self.curve) - 1


@dataclass(frozen=True)
class Objective:
    """A loss of parameters (p,), with an optional penalty.

    Parameters
    ----------
    loss : callable
        Parameters (p,) to a scalar tensor.
    penalty : callable or None, default=None
        Added to the loss in what is minimised, not in what is reported.
    device : torch.device or str, default="cpu"
        Where the loss is computed.
    losses : callable or None, default=None
        Several parameters (b, p) to their losses (b,), without gradients; None: one by one.
    slope : callable or None, default=None
        Parameters (p,) to the loss and its gradient as arrays, or None where it has no short way
        to them; None: by torch.
    memory : dict or None, default=None
        Filled with values and gradients by parameters, and asked first; None: do not keep them.
    progress : Progress, default=SILENT
        Whom to tell of evaluations, and of the stages of a descent.
    in_units : callable, default=float
        A loss to what is told.
    """

    loss: Callable[[Tensor], Tensor]
    penalty: Callable[[Tensor], Tensor] | None = None
    device: torch.device | str = "cpu"
    losses: Callable[[Tensor], Tensor] | None = None
    slope: Callable[[np.ndarray], tuple[float, np.ndarray] | None] | None = None
    memory: dict[bytes, tuple[float, np.ndarray]] | None = None
    progress: Progress = SILENT
    in_units: Callable[[float], float] = float
    _seen: dict[bytes, float] = field(default_factory=dict)

    def _note(self, x: np.ndarray, loss: float) -> None:
        self._seen[x.tobytes()] = loss
        self.progress.evaluated(self.in_units(loss))

    @property
    def n_evaluations(self) -> int:
        """Number of distinct parameters at which the loss was computed."""
        return len(self._seen)

    @property
    def path(self) -> tuple[list[np.ndarray], list[float]]:
        """The parameters at which the loss was computed, and the losses, in their order."""
        return [np.frombuffer(x) for x in self._seen], list(self._seen.values())

    def no_higher(self, found: Minimum) -> Minimum:
        """Return the lowest parameters of all evaluated so far, if they are lower than a minimum.

        A line search that stops at a kink forgets where it has been. Without a penalty only.
        """
        x, loss = min(self._seen.items(), key=lambda seen: seen[1])
        value = _finite(float(np.log(loss + _FLOOR)))
        if value >= found.objective:
            return found
        return replace(found, x=np.frombuffer(x), objective=value, curve=[*found.curve[:-1], loss])

    def _total(self, x: np.ndarray, requires_grad: bool) -> tuple[Tensor, Tensor]:
        parameters = to_tensor(x, dtype=torch.float64, device=self.device).clone()
        parameters.requires_grad_(requires_grad)
        loss = self.loss(parameters)
        total = loss if self.penalty is None else loss + self.penalty(parameters)
        self._note(x, loss.item())
        return parameters, total

    def reported(self, x: np.ndarray) -> float:
        """Return the loss at parameters, without penalty."""
        if x.tobytes() not in self._seen:
            self.log_value(x)
        return self._seen[x.tobytes()]

    def log_value(self, x: np.ndarray) -> float:
        """Return the logarithm of the objective."""
        with torch.no_grad():
            _, total = self._total(x, requires_grad=False)
        return _finite(float(np.log(total.item() + _FLOOR)))

    def log_values(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logarithms of the objective (b,) at several parameters."""
        if self.losses is None or self.penalty is not None or not len(points):
            return np.array([self.log_value(point) for point in points])
        parameters = to_tensor(np.array(points), dtype=torch.float64, device=self.device)
        losses = to_numpy(self.losses(parameters)).astype(np.float64)
        for point, loss in zip(points, losses.tolist(), strict=True):
            self._note(point, loss)
        return np.array([_finite(float(np.log(loss + _FLOOR))) for loss in losses])

    def log_value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the logarithm of the objective and its gradient (p,)."""
        if self.memory is None:
            return self._log_value_and_gradient(x)
        if x.tobytes() not in self.memory:
            self.memory[x.tobytes()] = self._log_value_and_gradient(x)
        value, gradient = self.memory[x.tobytes()]
        return value, gradient.copy()

    def _log_value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        known = None if self.slope is None or self.penalty is not None else self.slope(x)
        value, gradient = self._by_torch(x) if known is None else self._logarithm(x, *known)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return _UNUSABLE, np.zeros_like(x)
        return value, gradient

    def _logarithm(
        self, x: np.ndarray, loss: float, gradient: np.ndarray
    ) -> tuple[float, np.ndarray]:
        self._note(x, loss)
        return float(np.log(loss + _FLOOR)), gradient / (loss + _FLOOR)

    def _by_torch(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.inference_mode(False), torch.enable_grad():
            parameters, total = self._total(x, requires_grad=True)
            log_total = torch.log(total + _FLOOR)
            (gradient,) = torch.autograd.grad(log_total, parameters)
        return log_total.item(), to_numpy(gradient)


def _finite(value: float) -> float:
    return value if np.isfinite(value) else _UNUSABLE


@dataclass(frozen=True)
class Descent:
    """How to go down from a start.

    Parameters
    ----------
    bounds : sequence of (float, float)
        Smallest and largest value of each parameter.
    max_iter : int
        Largest number of quasi-Newton steps.
    tol : float
        A step that gains less, relatively, is the last.
    polish_evaluations : int, default=0
        Evaluations that a search without gradients may add to the best minimum.
    line_steps : int, default=20
        Largest number of evaluations of one line search. At a kink none of them helps.
    """

    bounds: Sequence[tuple[float, float]]
    max_iter: int
    tol: float
    polish_evaluations: int = 0
    line_steps: int = 20


def descend(
    objective: Objective,
    starts: Sequence[np.ndarray],
    descent: Descent,
    *,
    rehearsal: Objective | None = None,
    carry_over: Callable[[np.ndarray], np.ndarray] = np.array,
    on_step: Callable[[int, float, np.ndarray], bool | None] | None = None,
) -> Minimum:
    """Return the lowest minimum reached from the starts.

    Several starts descend roughly at first, on the rehearsal (the same loss on a subsample) if
    there is one. The objective itself then ranks the distinct minima where `carry_over` puts them;
    it descends to the end from the lowest, from any that is nearly as low, and from the one that
    the rehearsal found lowest: another may lie lower only where it is carried to, on a plateau.
    """
    with one_blas_thread():
        return _descend(objective, starts, descent, rehearsal, carry_over, on_step)


def _descend(objective, starts, descent, rehearsal, carry_over, on_step) -> Minimum:
    began: list[list[float]] = [[] for _ in starts]
    if len(starts) > 1 or rehearsal is not None:
        steps = _ROUGH_MAX_ITER  # on a rehearsal whatever the number asked for, which is of others
        if rehearsal is None:
            steps = min(steps, descent.max_iter)
        rough = replace(descent, tol=max(descent.tol, _ROUGH_TOL), max_iter=steps)
        on_rough = on_step if rehearsal is None else None
        where = "" if rehearsal is None else " on a subsample"
        ends = [
            _lbfgs(
                rehearsal or objective,
                start,
                rough,
                on_rough,
                stage=f"start {index + 1} of {len(starts)}{where}",
            )
            for index, start in enumerate(starts)
        ]
        ends = _lowest(ends, keep=4)
        promising = _promising(objective, [carry_over(end.x) for end in ends])
        if rehearsal is not None and 0 not in promising:
            promising.append(0)
        starts = [carry_over(ends[index].x) for index in promising]
        began = [ends[index].curve[:-1] if rehearsal is None else [] for index in promising]
        if rehearsal is None and ends[promising[0]].n_iter >= descent.max_iter:
            return ends[0]  # there are no steps left
    found = [
        _lbfgs(objective, start, descent, on_step, curve, f"descent {index + 1} of {len(starts)}")
        for index, (start, curve) in enumerate(zip(starts, began, strict=True))
    ]
    best = _lowest(found, keep=1)[0]
    return _polish(objective, best, descent) if descent.polish_evaluations else best


def _promising(objective: Objective, points: Sequence[np.ndarray]) -> list[int]:
    """Return the indices of the lowest point and of those that are nearly as low."""
    if len(points) == 1:
        return [0]
    values = [objective.log_value(point) for point in points]
    return [index for index, value in enumerate(values) if value < min(values) + _NEARLY]


@dataclass(frozen=True)
class Walk:
    """A descent from a start of its own, in coordinates of its own.

    Parameters
    ----------
    objective : Objective
        What to minimise. With a memory, steps of a trial are not computed again.
    start : ndarray of shape (p,)
        Parameters.
    descent : Descent
        How to go down.
    on_step : callable or None, default=None
        Gets each step's number, the loss before it and the parameters after it; true ends the walk.
    """

    objective: Objective
    start: np.ndarray
    descent: Descent
    on_step: Callable[[int, float, np.ndarray], bool | None] | None = None

    def end(self, max_iter: int | None = None, stage: str = "descent") -> Minimum:
        """Return where the walk ends; where it is after `max_iter` steps, nobody watching."""
        if max_iter is None:
            return _lbfgs(self.objective, self.start, self.descent, self.on_step, stage=stage)
        descent = replace(self.descent, max_iter=max_iter)
        return _lbfgs(self.objective, self.start, descent, None, stage=stage)


def race(walks: Sequence[Walk], trial_steps: int | None) -> tuple[int, Minimum]:
    """Return which of several walks ends lowest, and where it does.

    After a trial of so many steps only the lowest walks on, and what the others remember is
    forgotten; with None all go to the end.
    """
    with one_blas_thread():
        running = list(range(len(walks)))
        if trial_steps is not None and len(walks) > 1:
            trials = [
                walk.end(trial_steps, f"trial {index + 1} of {len(walks)}")
                for index, walk in enumerate(walks)
            ]
            running = [min(running, key=lambda index: trials[index].objective)]
            for index, walk in enumerate(walks):
                if index not in running and walk.objective.memory is not None:
                    walk.objective.memory.clear()
        ends = {
            index: walks[index].end(stage=f"descent {place + 1} of {len(running)}")
            for place, index in enumerate(running)
        }
        return min(ends.items(), key=lambda item: item[1].objective)


def go_on(
    objective: Objective,
    start: np.ndarray,
    descent: Descent,
    began: Sequence[float],
    on_step: Callable[[int, float, np.ndarray], bool | None] | None = None,
) -> Minimum:
    """Return where one descent ends that took the steps in `began` before its start."""
    with one_blas_thread():
        found = _lbfgs(objective, start, descent, on_step, began)
        return _polish(objective, found, descent) if descent.polish_evaluations else found


def _lbfgs(
    objective: Objective,
    start: np.ndarray,
    descent: Descent,
    on_step: Callable[[int, float, np.ndarray], bool | None] | None,
    began: Sequence[float] = (),
    stage: str = "descent",
) -> Minimum:
    """Minimise by bounded L-BFGS, going on after steps whose losses `began` holds."""
    bounds = descent.bounds
    max_iter = max(1, descent.max_iter - len(began))
    start = np.clip(np.asarray(start, dtype=np.float64), *np.transpose(bounds))
    curve = list(began)  # the loss before each step
    latest = start

    def record(x: np.ndarray) -> None:
        nonlocal latest
        curve.append(objective.reported(latest))
        latest = x.copy()
        if on_step is None:
            stop = objective.progress.step(objective.in_units(curve[-1]))
        else:
            stop = on_step(len(curve), curve[-1], latest)
        if stop:
            raise StopIteration

    options = {
        "maxiter": max_iter,
        "maxfun": 20 * max_iter,
        "maxls": descent.line_steps,
        "ftol": descent.tol,
        "gtol": 1e-10,
        "maxcor": int(np.clip(len(start), 10, _MOST_CORRECTIONS)),
    }
    with objective.progress.stage(stage, max_iter):
        result = optimize.minimize(
            objective.log_value_and_gradient,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            callback=record,
            options=options,
        )
    curve.append(objective.reported(result.x))
    stopped = result.get("status") == 1  # by the number of steps; SciPy omits it if none is free
    return Minimum(result.x, float(result.fun), curve, not stopped, start, len(began))


def _polish(objective: Objective, found: Minimum, descent: Descent) -> Minimum:
    """Improve a minimum without gradients; never worse than what was found."""
    with objective.progress.stage("refinement without gradients"):
        return _polished(objective, found, descent)


def _polished(objective: Objective, found: Minimum, descent: Descent) -> Minimum:
    bounds = descent.bounds
    free = [low < high for low, high in bounds]
    if not any(free):
        return found

    def value(free_x: np.ndarray) -> float:
        return objective.log_value(_placed(found.x, free, free_x))

    start = found.x[free]
    low, high = np.transpose(
        [bound for bound, is_free in zip(bounds, free, strict=True) if is_free]
    )
    # line searches alone would stay in the kink or on the step they start in
    around = optimize.direct(
        value,
        list(zip(np.maximum(low, start - _NEAR), np.minimum(high, start + _NEAR), strict=True)),
        maxfun=descent.polish_evaluations // 2,
        vol_tol=0,
        len_tol=1e-4,
    )
    start = min([start, around.x], key=value)
    result = optimize.minimize(
        value,
        start,
        method="Powell",
        bounds=list(zip(low, high, strict=True)),
        options={"maxfev": descent.polish_evaluations // 2, "xtol": 1e-6, "ftol": 1e-10},
    )
    x = _placed(found.x, free, min([start, result.x], key=value))
    reached = objective.log_value(x)
    if reached >= found.objective:
        return found
    steps = found.curve[:-1] or found.curve  # part of the last step, or the first
    return replace(found, x=x, objective=reached, curve=[*steps, objective.reported(x)])


def line_search(objective: Objective, start: float, bounds: tuple[float, float]) -> Minimum:
    """Minimise over one parameter without gradients, from a start near the minimum.

    Brent's method within a window around the start, which moves and widens as long as its end is
    the lowest.
    """
    with objective.progress.stage("line search"):
        return _line_search(objective, start, bounds)


def _line_search(objective: Objective, start: float, bounds: tuple[float, float]) -> Minimum:
    low, high = bounds
    centre, curve = float(np.clip(start, low, high)), []
    for width in _WINDOW * 2.0 ** np.arange(_WINDOWS):
        window = max(low, centre - width), min(high, centre + width)
        result = optimize.minimize_scalar(
            lambda x: objective.log_value(np.array([x])),
            bounds=window,
            method="bounded",
            options={"xatol": _LINE_TOL},
        )
        best = np.array([result.x])
        curve.append(objective.reported(best))
        moved = abs(result.x - centre)
        at_bound = min(result.x - low, high - result.x) < 2 * _LINE_TOL
        centre = result.x
        if at_bound or moved < width - 4 * _LINE_TOL:
            return Minimum(best, float(result.fun), curve, converged=True)
    return Minimum(best, float(result.fun), curve, converged=False)


def _placed(x: np.ndarray, free: Sequence[bool], values: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[np.asarray(free)] = values
    return x


def _lowest(minima: Iterable[Minimum], keep: int, apart: float = 0.05) -> list[Minimum]:
    """Return the `keep` lowest minima that lie at least `apart` from each other."""
    kept: list[Minimum] = []
    for minimum in sorted(minima, key=lambda found: found.objective):
        if all(np.abs(minimum.x - other.x).max() > apart for other in kept):
            kept.append(minimum)
    return kept[:keep]


def scan_minima(objective: Objective, points: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the local minima of the objective along a line of points, the lowest first.

    Minima much higher than the lowest are left out, among them the plateau of saturated windows.
    """
    values = objective.log_values(points)
    padded = np.concatenate([[np.inf], values, [np.inf]])
    found = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]))
    found = found[values[found] <= values.min() + _HOPELESS]
    return [points[index] for index in sorted(found, key=lambda index: values[index])]


def coordinate_scan(
    objective: Objective, start: np.ndarray, choices: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the start improved one parameter at a time, each over the values in `choices`."""
    x, value = start.copy(), objective.log_value(start)
    for index in range(len(start)):
        moved = np.repeat(x[None], len(choices), axis=0)
        moved[:, index] = [choice[index] for choice in choices]
        values = objective.log_values(moved)
        if values.min() < value:
            x, value = moved[values.argmin()], float(values.min())
    return x
