"""Searches leave the cores to the sums, and the process as it was."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.kernels import KERNELS
from sknw.sums.evaluators.registry import FUSED
from sknw.support.threads import n_threads, one_blas_thread, torch_threads

has_loops = FUSED.accepts(KERNELS["gaussian"], torch.float64, torch.device("cpu"))


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_torch_has_one_thread_and_the_sums_theirs():
    with torch_threads(1):
        assert (torch.get_num_threads(), n_threads()) == (1, 4)
        with torch_threads(1):  # a search within a training
            assert (torch.get_num_threads(), n_threads()) == (1, 4)
        assert (torch.get_num_threads(), n_threads()) == (1, 4)
    assert (torch.get_num_threads(), n_threads()) == (4, 4)


@pytest.mark.usefixtures("four_threads")
def test_an_error_restores_the_number():
    with pytest.raises(ZeroDivisionError), torch_threads(1):
        raise ZeroDivisionError
    assert (torch.get_num_threads(), n_threads()) == (4, 4)


@pytest.mark.usefixtures("four_threads")
def test_other_threads_keep_theirs():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(torch.set_num_threads, 3).result()
        with torch_threads(1):
            assert pool.submit(torch.get_num_threads).result() == 3
            assert pool.submit(n_threads).result() == 3


@pytest.mark.skipif(not has_loops, reason="numba is not installed")
@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("model", [NadarayaWatsonRegressor(), ParametricNWRegressor("full")])
def test_fits_hold_torch_back_while_they_search(model, monkeypatch):
    from sknw.fitting.objective import Objective

    seen = []
    evaluate = Objective.log_value_and_gradient

    def watched(self, x):
        seen.append((torch.get_num_threads(), n_threads()))
        return evaluate(self, x)

    monkeypatch.setattr(Objective, "log_value_and_gradient", watched)
    X = np.random.default_rng(0).normal(size=(120, 2))
    model.fit(X, np.sin(X[:, 0]))
    assert set(seen) == {(1, 4)}
    assert torch.get_num_threads() == 4


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def held_by_another_thread(pool, *contexts):
    """Let another thread enter contexts; return the event that ends them, and their end."""
    entered, may_leave = Event(), Event()

    def hold():
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            entered.set()
            may_leave.wait()

    end = pool.submit(hold)
    entered.wait()
    return may_leave, end


@pytest.mark.usefixtures("four_threads")
def test_limits_that_overlap_end_in_any_order():
    with ThreadPoolExecutor(1) as pool, threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        may_leave, end = held_by_another_thread(pool, one_blas_thread)
        with torch_threads(1):
            may_leave.set()
            end.result()
        assert blas_threads() == before
        may_leave, end = held_by_another_thread(pool, partial(torch_threads, 1), one_blas_thread)
        with one_blas_thread():
            may_leave.set()
            end.result()
        assert torch.get_num_threads() == 4
        assert blas_threads() == before
