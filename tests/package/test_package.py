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


IMPORTS = f"""
import sys
import sknw
loaded = {{name.split(".")[0] for name in sys.modules}}
assert not loaded & {{"matplotlib", "numba", "finufft"}}, loaded
import sknw.functional
assert "torch._dynamo" not in sys.modules, "its import takes seconds"
for name in {SUBMODULES}:
    assert getattr(sknw, name).__name__ == f"sknw.{{name}}"
"""


def test_imports_load_what_they_need_and_submodules_are_attributes():
    """In an interpreter that has imported nothing yet, with warnings as errors."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTS], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_dir_shows_what_is_public():
    shown = dir(sknw)
    assert shown == sorted([*sknw.__all__, *SUBMODULES, "__version__"])
    assert all(getattr(sknw, name) is not None for name in shown)


def test_an_unknown_attribute_is_named():
    with pytest.raises(AttributeError, match="module 'sknw' has no attribute 'regression'"):
        _ = sknw.regression
