"""Fixtures that the contract tests share."""

import numpy as np
import pytest
from contract import make_data


@pytest.fixture
def data():
    return make_data()


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).normal(size=(17, 3))
