"""Tables of what there is, written from the code's own registries: no name is typed twice."""

import inspect
import math
import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from sknw import NadarayaWatsonRegressor
from sknw.bandwidth import CRITERIA, SELECTORS
from sknw.kernels import KERNELS
from sknw.metrics import METRICS
from sknw.sums import ALGORITHMS
from sknw.training import SOLVERS

_SUPERSCRIPTS = {"²": "^2", "³": "^3"}


def write(folder: Path) -> None:
    """Write one Markdown file for each table, and the figure of the kernels beside the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _draw_kernels(folder.parent / "kernels.svg")
    pages = {
        "kernels": _kernels(),
        # a criterion's name stands for a search with it
        "selectors": _registry("`bandwidth`", {**SELECTORS, **CRITERIA}),
        "metrics": _registry("`metric`", METRICS),
        "solvers": _registry("`solver`", SOLVERS),
        "algorithms": _registry("`algorithm`", ALGORITHMS),
    }
    for name, text in pages.items():
        _write_if_changed(folder / f"{name}.md", text)


def _write_if_changed(path: Path, text: str) -> None:
    """Leave an unchanged file alone: Sphinx reads pages again whose includes are newer."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _registry(parameter: str, registry: dict) -> str:
    """Names, and the first sentence of what stands behind each."""
    rows = [(f'`"{name}"`', _summary(entry)) for name, entry in registry.items()]
    return _table([parameter, "what it does"], rows)


def _summary(entry) -> str:
    cls = entry if isinstance(entry, type) else type(entry)
    return inspect.getdoc(cls).split("\n\n")[0].replace("\n", " ").replace("|", r"\|")


def _kernels() -> str:
    formulas = kernel_formulas()
    header = ["`kernel`", "$K(u)$", "radius", "$R(K)$", r"$\mu_2(K)$", "canonical factor"]
    rows = [
        (
            f'`"{name}"`',
            f"${formulas[name]}$",
            r"$\infty$" if math.isinf(kernel.support) else f"{kernel.support:g}",
            f"{kernel.roughness:.4f}",
            f"{kernel.second_moment:.4f}",
            f"{kernel.canonical_factor:.4f}",
        )
        for name, kernel in KERNELS.items()
    ]
    return _table(header, rows)


def kernel_formulas() -> dict[str, str]:
    """Return every kernel's formula as LaTeX, from the docstring of its profile."""
    return {
        name: _latex(re.search("``([^`]+)``", inspect.getdoc(kernel.profile)).group(1))
        for name, kernel in KERNELS.items()
    }


def formulas_of_estimator() -> dict[str, str]:
    """Return the formulas as LaTeX that the estimator's docstring gives for users of `help`."""
    parameters = inspect.getdoc(NadarayaWatsonRegressor).split("kernel : str or callable")[1]
    pairs = re.findall(r'``"(\w+)"``\s+``([^`]+)``', parameters.split("\nalgorithm")[0])
    return {name: _latex(formula) for name, formula in pairs}


def _latex(formula: str) -> str:
    for sign, power in _SUPERSCRIPTS.items():
        formula = formula.replace(sign, power)
    formula = re.sub(r"\b(exp|cos)\b", r"\\\1", formula)
    return formula.replace("π", r"\pi ").replace("−", "-")


def _draw_kernels(path: Path) -> None:
    """Draw every kernel at the bandwidth at which it smooths as a Gaussian of bandwidth 1."""
    distance = np.linspace(0, 4, 801)
    styles = ("-", "--", ":")
    with plt.rc_context({"svg.hashsalt": "sknw", "font.size": 11}):
        figure, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
        for i, kernel in enumerate(KERNELS.values()):
            weight = kernel.profile(torch.tensor((distance / kernel.canonical_factor) ** 2))
            style = {"color": f"C{i % 7}", "ls": styles[i // 7], "lw": 1.8}
            ax.plot(distance, weight.numpy(), label=kernel.name, **style)
        ax.set(xlabel="distance, in bandwidths of the Gaussian", ylabel="K / K(0)", xlim=(0, 4))
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, ncols=2)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
