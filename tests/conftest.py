"""Fixtures that the contract tests share, and one thread for each of several processes of tests."""

import os

import pytest

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1, ...
if WORKER:  # before torch is imported; its threads spin as they wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def compiled_loops():
    """Let the compiled loops do what they do on a machine that is no longer fresh.

    Of two processes of tests each compiles one precision, and loads the other from the disk.
    """
    import sknw
    from sknw.sums.evaluators.compiled.readiness import LOOPS, PRECISIONS

    if LOOPS.installed:
        if LOOPS.module() is not None and WORKER:
            LOOPS.compile(PRECISIONS[int(WORKER.removeprefix("gw")) % 2])
        sknw.compile_ahead()


@pytest.fixture
def data():
    from contract import make_data

    return make_data()


@pytest.fixture(scope="module")
def queries():
    import numpy as np

    return np.random.default_rng(1).normal(size=(17, 3))
