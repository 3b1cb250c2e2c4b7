"""Fixtures that the contract tests share, and one thread for each of several processes of tests."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported; its threads spin as they wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def data():
    from contract import make_data

    return make_data()


@pytest.fixture(scope="module")
def queries():
    import numpy as np

    return np.random.default_rng(1).normal(size=(17, 3))
