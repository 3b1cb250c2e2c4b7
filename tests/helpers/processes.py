"""Programs in processes of their own, forked from one that has imported sknw and done nothing else.

The import of torch, scikit-learn and sknw takes longer than most programs of the tests. So one
process does it once, and each program runs in a fork of it, as `__main__`, with an environment, an
output and an end of its own. numba and finufft are not imported before: a program may break them
first.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HOST = """
import atexit, os, sys
def _leave():
    if _ends_here:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status)
_ends_here = False
atexit.register(_leave)  # before all others, so that it is called after them
import gc, json, signal
import numpy as np, torch
import sknw
assert not {"numba", "llvmlite", "finufft"} & set(sys.modules), "imported too early"
gc.freeze()
for line in sys.stdin:
    _source, _environment, _folder, _limit, _is_torn_down = json.loads(line)
    _pid = os.fork() if hasattr(os, "fork") else 0
    if _pid == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(_pid, 0)[1]), flush=True)
else:
    sys.exit()
_ends_here, _status = not _is_torn_down, 1
os.environ.clear()
os.environ.update(_environment)
for _number, _name in ((1, "stdout"), (2, "stderr")):
    _file = os.open(os.path.join(_folder, _name), os.O_WRONLY | os.O_CREAT)
    os.dup2(_file, _number)
    os.close(_file)
if hasattr(signal, "alarm"):
    signal.alarm(_limit)
exec(compile(_source, "<program>", "exec"))
_status = 0
"""


@dataclass(frozen=True)
class Ran:
    """What a program printed, and how it ended."""

    stdout: str
    stderr: str
    code: int


def run(program: str, *, torn_down: bool = False, limit: int = 180, **environment: object) -> Ran:
    """Run a program in a process of its own, which is killed after `limit` seconds.

    Variables of the environment are added to those of this process. RuntimeWarnings are shown each
    time. The process ends when its threads have ended and what is registered for the end has been
    called; `torn_down` has the interpreter destroy all modules and objects, too, which takes a
    second or more.
    """
    variables = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    with tempfile.TemporaryDirectory() as folder:
        request = json.dumps([program, variables, folder, limit, torn_down]) + "\n"
        if hasattr(os, "fork"):
            host = _host()
            host.stdin.write(request)
            host.stdin.flush()
            code = int(host.stdout.readline())
        else:
            code = subprocess.run(_COMMAND, input=request, text=True, check=False).returncode
        printed = (Path(folder, name) for name in ("stdout", "stderr"))
        return Ran(*(path.read_text() if path.exists() else "" for path in printed), code)


_COMMAND = [sys.executable, "-W", "always::RuntimeWarning", "-c", HOST]


@cache
def _host() -> subprocess.Popen:
    """Start the process that imports sknw; it ends with this one."""
    host = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end() -> None:
        host.stdin.close()
        host.wait()
        host.stdout.close()

    atexit.register(end)
    return host
