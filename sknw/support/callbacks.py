"""scikit-learn's callbacks (1.9 onward): a fit is a tree of tasks, each with a begin and an end.

On older versions there are none, and nothing else changes.
"""

from collections.abc import Callable
from typing import Any

from sknw.support.compat import HAS_CALLBACKS


class FitTasks:
    """The tasks of one fit: the root, which has begun, and those that run below it.

    Parameters
    ----------
    estimator : object
        Whose fit it is.
    data : dict
        ``X``, ``y`` and ``metadata`` as the callbacks get them.
    """

    def __init__(self, estimator: Any, data: dict):
        self._estimator, self._data = estimator, data
        # how many stages there will be follows from the data, which nobody has validated yet
        self._open = [estimator._init_callback_context(max_subtasks=None)]
        self._open[0].call_on_fit_task_begin(estimator=estimator, **data)

    @classmethod
    def of(cls, estimator: Any, data: dict) -> "FitTasks | None":
        """Return the tasks of a fit that begins; None if nobody listens to them."""
        is_heard = HAS_CALLBACKS and bool(getattr(estimator, "_skl_callbacks", None))
        return cls(estimator, data) if is_heard else None

    def begin(self, name: str, max_subtasks: int | None) -> None:
        """Begin a task within the latest one that has not ended.

        Parameters
        ----------
        name : str
            What the callbacks see.
        max_subtasks : int or None
            Largest number of tasks in it; None: unknown.
        """
        task = self._open[-1].subcontext(task_name=name, max_subtasks=max_subtasks)
        self._open.append(task)
        task.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def end(self, fitted: Callable[[], dict] | None = None) -> bool:
        """End the latest task.

        Parameters
        ----------
        fitted : callable or None, default=None
            Makes the attributes of the estimator as it is now.

        Returns
        -------
        stop : bool
            Whether a callback wants the tasks of this kind to end.
        """
        return self._open.pop().call_on_fit_task_end(
            estimator=self._estimator, reconstruction_attributes=fitted, **self._data
        )
