"""scikit-learn's callbacks (1.9 onward): each training step is a task of the fit.

On older versions there are none, and nothing else changes.
"""

from collections.abc import Callable
from typing import Any

from sknw._compat import HAS_CALLBACKS


class FitCallbacks:
    """The callbacks of one fit.

    Parameters
    ----------
    estimator : object
        Whose fit it is.
    data : dict
        ``X``, ``y`` and ``metadata`` as the callbacks get them.
    max_steps : int or None
        Largest number of steps, if known.
    """

    def __init__(self, estimator: Any, data: dict, max_steps: int | None):
        self.estimator, self.data = estimator, data
        self.context = None
        if HAS_CALLBACKS:
            self.context = estimator._init_callback_context(max_subtasks=max_steps)
            self.context.call_on_fit_task_begin(estimator=estimator, **data)

    @property
    def wanted(self) -> bool:
        """Whether anyone listens."""
        return bool(getattr(self.estimator, "_skl_callbacks", None))

    def step(self, fitted: Callable[[], dict]) -> bool:
        """Tell of a step; `fitted` makes the attributes of the estimator as it is now.

        Returns
        -------
        stop : bool
            Whether a callback wants training to end.
        """
        if self.context is None or not self.wanted:
            return False
        task = self.context.subcontext(task_name="step")
        task.call_on_fit_task_begin(estimator=self.estimator, **self.data)
        return task.call_on_fit_task_end(
            estimator=self.estimator, reconstruction_attributes=fitted, **self.data
        )

    def end(self) -> None:
        """Tell that the estimator is fitted."""
        if self.context is not None:
            self.context.call_on_fit_task_end(
                estimator=self.estimator, reconstruction_attributes=dict, **self.data
            )
