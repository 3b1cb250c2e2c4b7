"""What a fit tells while it runs: lines for the user, tasks for scikit-learn's callbacks.

A fit is made of stages (a scan, a descent from one start, the training of one metric), and a stage
of steps and of evaluations of what is minimised. Whoever begins a stage or takes a step says so
here, once; who listens is not its business.

With ``verbose=1`` a stage prints a line at its end and about every second until then. Where one
evaluation or anything else takes longer, a second thread says that the fit still runs.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sknw.support import tuning
from sknw.support.callbacks import FitTasks


@dataclass
class _Stage:
    """How far a stage is."""

    name: str
    steps: int = 0
    evaluations: int = 0
    lowest: float = float("inf")

    def note(self, value: float | None) -> None:
        """Note a value of what is minimised; None is that of a batch."""
        if value is not None:
            self.lowest = min(self.lowest, value)

    @property
    def parts(self) -> list[str]:
        """What there is to say of it."""
        counts = {"step": self.steps, "evaluation": self.evaluations}
        found = [f"{n} {what}{'s' * (n > 1)}" for what, n in counts.items() if n]
        if self.lowest < float("inf"):
            found.append(f"lowest {self.lowest:.6g}")
        return found


class Progress:
    """The progress of one fit.

    Parameters
    ----------
    verbose : int, default=0
        Above 0, print lines to stdout.
    tasks : FitTasks or None, default=None
        The callbacks to tell.
    """

    def __init__(self, verbose: int = 0, tasks: FitTasks | None = None):
        self.verbose, self._tasks = verbose, tasks
        self._stages = [_Stage("fit")]
        self._began = self._told = time.monotonic()
        self._lock = threading.RLock()

    @property
    def is_heard(self) -> bool:
        """Whether anyone listens."""
        return bool(self.verbose) or self._tasks is not None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let no more than a few seconds of the block pass without a line."""
        if not self.verbose:
            yield
            return
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(ended,), name="sknw-progress", daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()

    def _beat(self, ended: threading.Event) -> None:
        wait = tuning.LONGEST_SILENCE
        while not ended.wait(wait):
            with self._lock:
                wait = self._told + tuning.LONGEST_SILENCE - time.monotonic()
                if wait <= 0:
                    self.say(self._line())
                    wait = tuning.LONGEST_SILENCE

    @contextmanager
    def stage(self, name: str, max_steps: int | None = 0) -> Iterator[None]:
        """Tell of a stage while the block runs.

        Parameters
        ----------
        name : str
            What is done.
        max_steps : int or None, default=0
            Largest number of steps; None: unknown, or made of stages. 0: none, only evaluations.
        """
        if not self.is_heard:
            yield
            return
        stage = _Stage(name)
        if self._tasks is not None:
            self._tasks.begin(name, max_steps)
        with self._lock:
            self._stages.append(stage)
        try:
            yield
        except BaseException:
            with self._lock:
                self._stages.remove(stage)
            raise
        with self._lock:
            if self.verbose and stage.parts:
                self.say(self._line())
            self._stages.remove(stage)
        if self._tasks is not None:
            self._tasks.end()

    def evaluated(self, value: float | None = None) -> None:
        """Tell that what is minimised was computed.

        The value is in the user's units; None for that of a batch, which cannot be compared.
        """
        if not self.verbose:
            return
        stage = self._stages[-1]
        stage.evaluations += 1
        stage.note(value)
        self._say_sometimes()

    def step(
        self, value: float, *, line: str | None = None, fitted: Callable[[], dict] | None = None
    ) -> bool:
        """Tell of a step of the present stage.

        Parameters
        ----------
        value : float
            What is minimised, in the user's units.
        line : str or None, default=None
            What to print; None: how far the stage is, now and then.
        fitted : callable or None, default=None
            Makes the attributes of the estimator as it is now, for callbacks that want them. A
            step without is an "intermediate step" to callbacks, one with is a "step".

        Returns
        -------
        stop : bool
            Whether a callback wants the steps to end.
        """
        if self.verbose:
            stage = self._stages[-1]
            stage.steps += 1
            stage.note(value)
            if line is None:
                self._say_sometimes()
            else:
                self.say(line)
        if self._tasks is None:
            return False
        self._tasks.begin("intermediate step" if fitted is None else "step", 0)
        return self._tasks.end(fitted)

    def say(self, line: str) -> None:
        """Print a line, if the user wants any."""
        if self.verbose:
            with self._lock:
                print(line, flush=True)
                self._told = time.monotonic()

    def _say_sometimes(self) -> None:
        if time.monotonic() - self._told >= tuning.SECONDS_BETWEEN_LINES:
            self.say(self._line())

    def _line(self) -> str:
        """Return what the fit is at."""
        with self._lock:
            stages = list(self._stages)
            where = ": ".join(stage.name for stage in stages[1:]) or stages[0].name
            parts = [*stages[-1].parts, f"{time.monotonic() - self._began:.1f} s"]
        return f"{where}: {', '.join(parts)}"


SILENT = Progress()


@contextmanager
def progress_of(estimator, **data) -> Iterator[Progress]:
    """Tell of a fit while the block runs: to the user if `verbose`, and to the callbacks.

    Parameters
    ----------
    estimator : BaseEstimator
        Whose fit it is.
    **data
        ``X``, ``y`` and ``metadata`` as the callbacks get them.
    """
    tasks = FitTasks.of(estimator, data)
    progress = Progress(estimator.verbose, tasks)
    with progress.running():
        yield progress
    if tasks is not None:
        tasks.end(dict)
