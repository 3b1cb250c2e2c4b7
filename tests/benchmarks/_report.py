"""What every benchmark shares: a header that says where it ran, interleaved timing, tables."""

import datetime
import os
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path

import torch

_VERSIONS = ("scikit-nw", "scikit-learn", "torch", "numpy", "scipy", "statsmodels")


def print_header(title):
    """Print the title, the machine, the versions and the date."""
    print(f"# {title}")
    print(f"machine:  {_cpu_model()}, {_cores()} cores, {torch.get_num_threads()} torch threads")
    versions = ", ".join(f"{name} {_version(name)}" for name in _VERSIONS)
    print(f"versions: Python {platform.python_version()}, {versions}")
    print(f"date:     {datetime.date.today().isoformat()}", flush=True)


def print_table(header, rows):
    """Print rows of strings and numbers under a header, columns right-aligned."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print()
    for line in cells:
        padded = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded), flush=True)


def median_seconds(functions, repeats):
    """Time each function `repeats` times and return the median seconds by name.

    The candidates take turns, in an order that is reversed every other round, so that drift of
    the machine hits all of them alike. A first, untimed round warms up caches and threads.

    Parameters
    ----------
    functions : dict of str to callable
        Called without arguments.
    repeats : int
        Number of timed rounds.

    Returns
    -------
    medians : dict of str to float
        In the order of `functions`.
    """
    for function in functions.values():
        function()
    seconds = {name: [] for name in functions}
    names = list(functions)
    for _ in range(repeats):
        for name in names:
            seconds[name].append(timed(functions[name])[1])
        names.reverse()
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(function):
    """Call the function; return its result and the seconds it took."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def _cell(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu_model():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores():
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
