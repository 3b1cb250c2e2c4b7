"""A fresh machine, a broken cache, a broken package: each in a process of its own."""

import os
import shutil
import textwrap
from pathlib import Path

import processes
import pytest
import torch

import sknw
from sknw.kernels import KERNELS
from sknw.sums.evaluators.compiled import readiness as loops
from sknw.sums.evaluators.registry import FUSED, TORCH, evaluator_for, likely_evaluator

CPU = torch.device("cpu")
GAUSSIAN = KERNELS["gaussian"]

if not FUSED.accepts(GAUSSIAN, torch.float64, CPU):
    pytest.skip("numba is not installed", allow_module_level=True)

START = """
import os, sys, warnings
import numpy as np
import sknw
from sknw import NadarayaWatsonRegressor
from sknw.sums.evaluators import registry as evaluators
from sknw.sums.evaluators.compiled import readiness as loops
def fit(n, d=1, **parameters):
    X = np.random.default_rng(n).uniform(size=(n, d))
    model = NadarayaWatsonRegressor(**parameters).fit(X, np.sin(X).sum(axis=1))
    model.predict(X)
    return model
def fused(n=900):
    return fit(n, bandwidth=0.1, algorithm="dense").sums_report_["evaluator"]
"""


def ran(program, *, before="", **environment):
    """Run a program in a process of its own, with warnings shown each time."""
    source = textwrap.dedent(before) + START + textwrap.dedent(program)
    done = processes.run(source, **environment)
    assert done.code == 0, done.stderr
    return done


# --- a fresh machine -----------------------------------------------------------------------------


def test_small_problems_neither_import_numba_nor_compile(tmp_path):
    program = """
        fit(50), fit(50, kernel="biweight"), fit(500, 3), fit(30, bandwidth="aicc")
        print("numba" in sys.modules, "llvmlite" in sys.modules, loops.LOOPS._compilers)
    """
    done = ran(program, NUMBA_CACHE_DIR=tmp_path)
    assert done.stdout.split() == ["False", "False", "{}"]
    assert not list(tmp_path.iterdir())


def test_training_by_lbfgs_and_sgd_does_not_import_the_compiler_of_torch():
    program = """
        X = np.random.default_rng(0).uniform(size=(40, 2))
        for parameters in ({}, {"metric": "full"}, {"solver": "sgd"}):
            model = sknw.ParametricNWRegressor(max_iter=3, n_starts=1, **parameters)
            warnings.simplefilter("ignore")
            model.fit(X, X[:, 0]).predict(X)
        print("torch._dynamo" in sys.modules)
    """
    assert ran(program).stdout.split() == ["False"]


@pytest.fixture
def fresh(monkeypatch):
    """Loops that nobody has compiled or looked for."""
    new = loops.Loops()
    monkeypatch.setattr("sknw.sums.evaluators.compiled.driver.LOOPS", new)
    monkeypatch.setattr(loops, "_may_be_on_disk", lambda: False)
    started = []
    monkeypatch.setattr(new, "_start", started.append)
    compiled = []
    monkeypatch.setattr(new, "compile", lambda name: compiled.append(name) or new._ready.add(name))
    return new, started, compiled


def choose(n_pairs, n_problems=1, dtype=torch.float64):
    return evaluator_for(GAUSSIAN, dtype, CPU, n_pairs, n_problems)


def test_a_batch_of_small_problems_is_not_a_large_one(fresh):
    loops_, started, compiled = fresh
    assert choose(2500, 10**7) is TORCH
    assert loops_._torch_seconds["float64"] == 0
    assert (started, compiled) == ([], [])
    loops_._ready.add("float64")
    assert choose(2500, 10**7) is FUSED
    assert choose(2500, 10) is TORCH


def test_after_some_work_of_torch_the_background_compiles_one_precision(fresh):
    _, started, compiled = fresh
    threads = torch.get_num_threads()
    for _ in range(5 * threads):
        assert choose(1e8) is TORCH
    assert (started, compiled) == (["float64"] * len(started), [])
    assert started


def test_work_that_pays_for_it_waits(fresh):
    _, started, compiled = fresh
    assert likely_evaluator(GAUSSIAN, torch.float32, CPU, 1e12) is FUSED
    assert not compiled
    assert choose(1e12, dtype=torch.float32) is FUSED
    assert (started, compiled) == ([], ["float32"])


@pytest.fixture
def cache(tmp_path):
    """A cache that holds the loops, copied from where the session compiled them."""
    from numba.core.caching import UserProvidedCacheLocator

    source = Path(sknw.compile_ahead()["cache_folder"])
    folder = tmp_path / UserProvidedCacheLocator.get_suitable_cache_subpath(loops.__file__)
    folder.mkdir()
    for path in source.glob("*.nb?"):
        shutil.copy(path, folder)
    return tmp_path


def test_loops_on_disk_do_the_first_problem_of_some_hundred_rows(cache):
    assert ran("print(fused())", NUMBA_CACHE_DIR=cache).stdout.split() == ["fused"]


def test_the_background_fills_the_cache_and_the_loops_take_over(cache):
    for path in cache.rglob("loops.find_nearest-*"):  # the quickest to compile
        path.unlink()
    program = """
        import time
        first = fused()
        loops.LOOPS.count("float64", 1e9)
        loops.LOOPS._torch_seconds["float64"] = 0.0
        loops.LOOPS._compilers["float64"].wait()
        print(first, fused(), *loops.LOOPS._module.add_sums.stats.cache_hits.values())
    """
    assert ran(program, NUMBA_CACHE_DIR=cache).stdout.split() == ["torch", "fused", "1"]
    assert len(list(cache.rglob("loops.find_nearest-*.nbc"))) == 1
    assert not list(cache.rglob("*.tmp.*"))


def test_torch_leaves_a_core_to_each_compiler():
    """OpenMP's threads wait for each other: with one too many, sums took fifteen times longer."""
    program = """
        class Compiler:
            is_running = True
            def stop(self):
                pass
        seen = []
        def kernel(u):
            seen.append((u.numel(), torch.get_num_threads()))
            return np.exp(-u)
        import torch
        torch.set_num_threads(3)
        loops.LOOPS._compilers["float64"] = compiler = Compiler()
        for compiler.is_running in (True, False):
            seen.clear()
            fit(20, kernel=kernel, bandwidth=1.0).predict([[0.5]])
            print(*{n for size, n in seen if size == 20}, torch.get_num_threads())
    """
    assert ran(program).stdout.split() == ["2", "3", "3", "3"]


def test_the_background_ends_with_its_parent(tmp_path):
    program = """
        loops.LOOPS.count("float64", 1e9)
        print(loops.LOOPS._compilers["float64"]._process.pid)
    """
    pid = int(ran(program, NUMBA_CACHE_DIR=tmp_path).stdout)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not list(tmp_path.rglob("*.tmp.*"))


# --- trouble with the cache ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 30])
def test_truncated_files_count_as_absent(cache, suffix, left):
    indices = list(cache.rglob("loops.add_sums-*.nbi"))  # perhaps of several versions
    files = list(cache.rglob(f"loops.add_sums-*.{suffix}"))
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:left])
    done = ran("print(fused(), fused(1000))", NUMBA_CACHE_DIR=cache)
    assert done.stdout.split() == ["torch", "torch"]
    assert done.stderr.count("RuntimeWarning") == 1
    assert "cannot be read" in done.stderr
    assert sum(path.exists() for path in indices) == len(indices) - 1  # so the next is written


FULL = """
import builtins, errno
from sknw.sums.evaluators.compiled import disk_cache
from numba import njit
def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")
disk_cache.FunctionCache.save_overload = full
for _ in range(2):
    function = njit(lambda x: x + 1)
    function._cache = disk_cache.TolerantCache(test_function)
    print(function(1))
"""


def test_a_full_disk_costs_a_warning_and_no_result(tmp_path):
    program = FULL.replace("test_function", "evaluators.has_squares")
    done = ran(program, NUMBA_CACHE_DIR=tmp_path)
    assert done.stdout.split() == ["2", "2"]
    assert done.stderr.count("RuntimeWarning") == 1
    assert "No space left on device" in done.stderr


class Ended:
    """A process that could not keep what it compiled."""

    is_running = False

    def trouble(self):
        return "No space left on device"

    def stop(self):
        pass


def test_where_the_background_cannot_keep_its_work_torch_goes_on(fresh):
    new, started, compiled = fresh
    new._compilers["float64"] = Ended()
    new._load = lambda precision: False
    with pytest.warns(RuntimeWarning, match="could not be kept on disk.*No space left"):
        assert choose(1e6) is TORCH
    for _ in range(3):  # one warning is enough, and one attempt
        assert choose(1e9) is TORCH
    assert (started, compiled) == ([], [])


# --- packages that are installed but cannot be imported ------------------------------------------


@pytest.mark.parametrize("error", ["OSError", "AttributeError"])
def test_a_broken_numba_counts_as_absent(tmp_path, error):
    (tmp_path / "numba.py").write_text(f"raise {error}('llvmlite is broken')", encoding="utf-8")
    program = """
        print(fused(), fused())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            print(sorted(set(sknw.compile_ahead().values()), key=str)[-1])
    """
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    done = ran(program.replace("fused()", "fused()", 1), before=before)
    assert done.stdout.split() == ["torch", "torch", "unavailable"]
    assert done.stderr.count("RuntimeWarning") == 1
    assert "llvmlite is broken" in done.stderr


def test_a_broken_finufft_counts_as_absent(tmp_path):
    (tmp_path / "finufft.py").write_text("raise OSError('libfftw3 is not there')", encoding="utf-8")
    program = """
        fit(300, bandwidth=0.1), fit(300, bandwidth=0.2)
        try:
            fit(300, bandwidth=0.1, algorithm="nufft")
        except ValueError as error:
            print("libfftw3 is not there" in str(error))
    """
    done = ran(program, before=f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    assert done.stdout.split() == ["True"]
    assert done.stderr.count("RuntimeWarning") == 1


def test_without_the_compiler_the_loops_do_not_run_as_python():
    done = ran("print(fused(), fused())", NUMBA_DISABLE_JIT="1")
    assert done.stdout.split() == ["torch", "torch"]
    assert done.stderr.count("RuntimeWarning") == 1
    assert "NUMBA_DISABLE_JIT" in done.stderr


def test_compiling_ahead_says_where_there_is_nothing_to_compile():
    before = """
        import sys
        sys.modules["numba"] = None
    """
    done = ran("print(sknw.compile_ahead()['float64'], fused())", before=before)
    assert done.stdout.split() == ["unavailable", "torch"]
    assert "numba is not installed" in done.stderr


def test_compiling_ahead_reports():
    report = sknw.compile_ahead()
    assert report["float64"] == report["float32"] == "loaded"
    assert report["seconds"] >= 0
    assert list(Path(report["cache_folder"]).glob("loops.add_sums-*.nbi"))
