"""Forks, interrupts, the end of the interpreter: each in its own process, with a time limit."""

import os
import threading
from itertools import count

import processes
import pytest
import torch

from sknw.kernels import KERNELS
from sknw.sums.evaluators.registry import FUSED
from sknw.support.threads import shared_out

can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
has_loops = FUSED.accepts(KERNELS["gaussian"], torch.float64, torch.device("cpu"))

START = """
import multiprocessing, os, signal, sys, threading, time
import numpy as np, torch
import sknw
from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
X = np.random.default_rng(0).normal(size=(700, 2))
y = np.sin(X[:, 0])
MODELS = {
    "search": NadarayaWatsonRegressor(),
    "compact": NadarayaWatsonRegressor(0.5, kernel="biweight"),
    "network": ParametricNWRegressor("mlp", max_iter=2, n_starts=1),
}
def work(name):
    return float(MODELS[name].fit(X[:200], y[:200]).predict(X).sum())
"""


def output_of(program, *, threads=3, **how):
    """Return the last line that the program prints, in a process with several torch threads."""
    ran = processes.run(f"import torch\ntorch.set_num_threads({threads})\n{START}{program}", **how)
    assert ran.code == 0, ran.stderr
    return ran.stdout.strip().rpartition("\n")[2]


# --- forks ---------------------------------------------------------------------------------------

POOL = """
before = [work(name) for name in MODELS]
with multiprocessing.get_context({method!r}).Pool(1) as pool:
    after = pool.map_async(work, MODELS).get(timeout=90)
print(np.allclose(before, after, rtol=1e-4), torch.get_num_threads())
"""


@can_fork
def test_a_forked_child_fits_and_predicts_what_its_parent_did():
    assert output_of(POOL.format(method="fork")) == "True 3"


GRID = """
import joblib
from sklearn.model_selection import GridSearchCV
work("search")
grid = {"kernel": ["gaussian", "exponential"]}
with joblib.parallel_config(backend="multiprocessing", n_jobs=2):
    search = GridSearchCV(NadarayaWatsonRegressor(), grid, cv=2).fit(X[:200], y[:200])
print(search.best_score_ > 0.9)
"""


@can_fork
def test_grid_search_in_forked_workers():
    assert output_of(GRID) == "True"


BUSY = """
ended = False
def busy():
    while not ended:
        NadarayaWatsonRegressor().fit(X, y).predict(X)
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
try:
    for _ in range(4):
        time.sleep(0.1)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            pool.apply_async(work, ["search"]).get(timeout=90)
finally:
    ended = True
print("fine")
"""


@can_fork
def test_forks_while_other_threads_hold_locks():
    assert output_of(BUSY) == "fine"


LOCKS = """
from sknw.support import threads as _threads
from sknw.data.observations import Observations
from sknw.sums.evaluators.compiled.readiness import LOOPS
taken, over = threading.Event(), threading.Event()
def hold():
    with LOOPS._lock, _threads._blas._lock:
        taken.set()
        over.wait()
holder = threading.Thread(target=hold)
holder.start()
taken.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    work("search")
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
over.set()
holder.join()
print(code)
"""


@can_fork
def test_a_child_does_not_wait_for_locks_of_threads_that_it_has_not():
    assert output_of(LOCKS) == "0"


WITHIN = """
from sknw.support.threads import one_blas_thread, torch_threads
with one_blas_thread(), torch_threads(1):
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if pid == 0:
    signal.alarm(60)
    work("search")
    os._exit(0 if torch.get_num_threads() == 1 else 1)
print(code, torch.get_num_threads())
"""


@can_fork
def test_a_fork_within_a_search_leaves_it_in_both_processes():
    assert output_of(WITHIN) == "0 3"


# --- where no thread can be started --------------------------------------------------------------

AFTER_MAIN = """
model = NadarayaWatsonRegressor(0.3, algorithm="dense")
rows = np.random.default_rng(0).normal(size=(4000, 3))
model.fit(rows, rows[:, 0])
def serve():
    threading.main_thread().join()
    time.sleep(0.2)
    print(model.predict(rows).shape, flush=True)
threading.Thread(target=serve).start()
"""


def test_predictions_after_the_main_thread_has_ended():
    assert output_of(AFTER_MAIN, torn_down=True) == "(4000,)"


AT_EXIT = """
import atexit
rows = np.random.default_rng(0).normal(size=(4000, 3))
model = NadarayaWatsonRegressor(0.3, algorithm="dense").fit(rows, rows[:, 0])
atexit.register(lambda: print(model.predict(rows).shape, flush=True))
"""


def test_predictions_while_the_interpreter_ends():
    assert output_of(AT_EXIT, torn_down=True) == "(4000,)"


@pytest.mark.parametrize("started", [0, 1])
def test_where_no_more_threads_can_be_started_the_calling_thread_does_the_rest(
    started, monkeypatch
):
    numbers, start = count(), threading.Thread.start

    def limited(thread):
        if next(numbers) >= started:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    found = shared_out(lambda item, _: item**2, range(50), 4)
    assert found == [item**2 for item in range(50)]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_first_error_ends_the_work_of_all_threads(error, n_threads):
    done = []

    def task(item, stop):
        if item == 5:
            raise error("enough")
        if item > 5:
            stop.wait(10)
        done.append(item)

    running = threading.active_count()
    with pytest.raises(error, match="enough"):
        shared_out(task, range(1000), n_threads)
    assert len(done) < 20
    assert threading.active_count() == running


# --- Ctrl-C --------------------------------------------------------------------------------------

INTERRUPTED = """
sknw.sums.evaluators.compiled.readiness.LOOPS.installed and sknw.compile_ahead()
rng = np.random.default_rng(0)
rows, queries = rng.normal(size=(10**5, 3)), rng.normal(size=(4 * 10**6, 3))
settings = {
    "sums": {},
    "slow formula": {"kernel": "cosine"},
    "nearest": {"kernel": "tophat"},
}
models = {
    name: NadarayaWatsonRegressor(0.3, algorithm="dense", **parameters).fit(rows, rows[:, 0])
    for name, parameters in settings.items()
}
models["search"] = NadarayaWatsonRegressor(algorithm="dense").fit(rows[:20], rows[:20, 0])
calls = {  # each takes a minute and more
    "sums": lambda model: model.predict(queries),
    "slow formula": lambda model: model.predict(queries),
    "nearest": lambda model: model.predict(queries + 50),
    "search": lambda model: model.fit(np.tile(rows, (1, 5)), rows[:, 0]),
}
def interrupt(seconds):
    def send():
        global sent
        time.sleep(seconds)
        sent = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=send, daemon=True).start()
found = {}
for name, call in calls.items():
    model, before = models[name], dict(vars(models[name]))
    try:
        interrupt(1)
        call(model)
        found[name] = ["it ended before the interrupt"]
    except KeyboardInterrupt:
        late = time.perf_counter() - sent
        kept = all(vars(model).get(key) is value for key, value in before.items())
        again = model.fit(rows[:300], rows[:300, 0]).predict(rows[:5])
        is_whole = kept and len(vars(model)) >= len(before)
        found[name] = [late < 8, is_whole, bool(np.isfinite(again).all())]
print(found)
"""


@pytest.mark.skipif(not has_loops or not hasattr(os, "fork"), reason="no numba, or no signals")
@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_ends_long_sums_and_searches_within_seconds(threads):
    names = ["sums", "slow formula", "nearest", "search"]
    assert output_of(INTERRUPTED, threads=threads) == str(dict.fromkeys(names, [True] * 3))
