"""What `import sknw` gives, and what it does not load."""

import subprocess
import sys

import pytest

import sknw

SUBMODULES = [
    "bandwidth",
    "datasets",
    "functional",
    "kernels",
    "metrics",
    "plotting",
    "sums",
    "training",
]


def in_a_new_process(code):
    """Run code in an interpreter that has imported nothing yet, with warnings as errors."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_submodules_are_attributes():
    in_a_new_process(
        "import sknw\n"
        f"for name in {SUBMODULES}:\n"
        "    assert getattr(sknw, name).__name__ == f'sknw.{name}'"
    )


def test_a_plain_import_loads_neither_matplotlib_nor_numba():
    in_a_new_process(
        "import sys, sknw\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'matplotlib', 'numba', 'finufft'}, loaded"
    )


def test_attention_pooling_does_not_load_torchs_compiler():
    in_a_new_process(
        "import sys, sknw.functional\n"
        "assert 'torch._dynamo' not in sys.modules, 'its import takes seconds'"
    )


def test_dir_shows_what_is_public():
    shown = dir(sknw)
    assert shown == sorted([*sknw.__all__, *SUBMODULES, "__version__"])
    assert all(getattr(sknw, name) is not None for name in shown)


def test_an_unknown_attribute_is_named():
    with pytest.raises(AttributeError, match="module 'sknw' has no attribute 'regression'"):
        _ = sknw.regression
