"""The site says what the code has: every public name, every layer, every message that it quotes."""

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path

import check_site
import pytest
import registry_tables
from sklearn.base import BaseEstimator
from test_layers import LAYERS

import sknw
from sknw.kernels import KERNELS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", *sorted(DOCS.glob("[!_]*.md")), *sorted(DOCS.glob("user_guide/*.md"))]
ROOMS = sorted(
    path.relative_to(ROOT / "sknw").parts[0].removesuffix(".py")
    for path in [*(ROOT / "sknw").glob("[!_]*.py"), *(ROOT / "sknw").glob("[!_]*/__init__.py")]
)
# What users import as a whole; from the rooms below, only parts and registries are public.
FRONT = {"datasets", "functional", "kernels", "plotting"}


def exported(module):
    """Names that a module offers: ``__all__``, or what it defines."""
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return getattr(module, "__all__", own)


def is_part(name, value):
    """Settings that a parameter takes, what a new part is derived from, or a registry."""
    if inspect.isclass(value):
        return issubclass(value, BaseEstimator) or inspect.isabstract(value)
    return name.isupper() and isinstance(value, dict)


def public_names():
    names = {name: getattr(sknw, name) for name in sknw.__all__}
    for room in ROOMS:
        module = importlib.import_module(f"sknw.{room}")
        for name in set(exported(module)) - set(names):
            value = getattr(module, name)
            if room in FRONT or is_part(name, value):
                names[f"{room}.{name}"] = value
    return dict(sorted(names.items()))


PUBLIC = public_names()


def documented():
    """Entries of the autosummary tables of the API reference."""
    entries = re.findall(r"^   ([A-Za-z_][\w.]*)$", (DOCS / "api.rst").read_text(), re.MULTILINE)
    return {entry.removeprefix("sknw.") for entry in entries}


@functools.cache
def code_that_readers_see():
    """Examples in docstrings, code blocks of the pages, the gallery."""
    shown = [page.read_text(encoding="utf-8") for page in PAGES]
    blocks = [block for text in shown for block in re.findall(r"```[^`]*```", text)]
    scripts = [path.read_text(encoding="utf-8") for path in ROOT.glob("examples/plot_*.py")]
    docstrings = [
        line
        for path in (ROOT / "sknw").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.lstrip().startswith((">>> ", "... "))
    ]
    return "\n".join([*blocks, *scripts, *docstrings])


def test_there_is_something_to_check():
    assert {"NadarayaWatsonRegressor", "functional.attention_pooling", "kernels.KERNELS"} <= set(
        PUBLIC
    )
    assert len(PAGES) > 10


def test_every_public_name_has_an_entry_and_every_entry_is_public():
    assert documented() - set(PUBLIC) <= {"bandwidth.Selection"}  # what a selector returns
    assert set(PUBLIC) - documented() == set()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert re.search(rf"\b{name.split('.')[-1]}\b", code_that_readers_see())


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.endswith("Regressor")])
def test_every_method_of_an_estimator_has_an_example(name):
    methods = [
        method
        for method, function in inspect.getmembers(PUBLIC[name], inspect.isfunction)
        if not method.startswith("_") and function.__module__.startswith("sknw")
    ]
    assert methods
    seen = code_that_readers_see()
    assert [method for method in methods if f".{method}(" not in seen] == []


@pytest.mark.parametrize("name", [name for name in PUBLIC if callable(PUBLIC[name])])
def test_every_public_name_has_a_docstring(name):
    assert len(inspect.getdoc(PUBLIC[name])) > 20


def drawn_layers():
    """The layers as the design page draws them: a number, names, and from column 35 on prose."""
    drawing = (DOCS / "design.md").read_text(encoding="utf-8").split("## Rooms")[1].split("```")[1]
    layers = {}
    for line in drawing.strip().splitlines():
        number = line[:2].strip()
        current = int(number) if number else current  # noqa: F821
        names = [name.rstrip("/") for name in line[2:35].split()]
        layers.setdefault(current, []).extend(names)
    return [sorted(layers[level]) for level in sorted(layers)]


def test_the_design_page_draws_the_layers_that_imports_are_checked_against():
    assert drawn_layers() == [sorted(layer) for layer in LAYERS if layer != ["__init__"]]


@functools.cache
def message_literals():
    """All literal text of the package, f-strings joined over their lines, values as ``\\0``."""
    texts = []
    for path in (ROOT / "sknw").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(
                        part.value if isinstance(part, ast.Constant) else "\0"
                        for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def quoted_messages():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    page = page.split("## Symptoms")[0]
    headings = [line[4:] for line in page.splitlines() if line.startswith("### ")]
    return [re.sub(r"^`\w+`: ", "", heading) for heading in headings]


@pytest.mark.parametrize("message", quoted_messages())
def test_messages_quoted_under_troubleshooting_are_in_the_code(message):
    literals = message_literals()
    pieces = [piece.strip(" ().") for piece in message.split("...")]
    pieces = [piece for piece in pieces if len(piece) > 3]
    assert pieces
    assert [piece for piece in pieces if piece not in literals] == []


def test_every_warning_class_is_explained():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    classes = [name for name, value in PUBLIC.items() if inspect.isclass(value)]
    classes = [name for name in classes if issubclass(PUBLIC[name], Warning)]
    assert classes
    assert [name for name in classes if f"### `{name}`" not in page] == []


def test_every_kernel_has_a_formula_for_the_table():
    assert set(registry_tables.kernel_formulas()) >= set(KERNELS)


def page(folder, name, body):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<html><body>{body}</body></html>", encoding="utf-8")


def problems_of(folder):
    pages = check_site.pages_of(folder)
    return check_site.broken_links(pages, folder)[0] + check_site.gallery_without_figures(
        pages, folder
    )


def test_the_check_of_the_site_accepts_what_is_right(tmp_path):
    page(tmp_path, "index.html", '<h1 id="a"></h1><a href="gallery/plot_x.html#b">x</a>')
    page(tmp_path, "gallery/plot_x.html", '<a href="../index.html#a" id="b"></a><a href="#b"></a>')
    page(
        tmp_path,
        "gallery/plot_y.html",
        '<a href="https://example.org"></a><img src="../sphx_glr_plot_y_001.png">',
    )
    (tmp_path / "sphx_glr_plot_y_001.png").write_bytes(b"")
    assert problems_of(tmp_path) == ["gallery/plot_x.html shows no figure"]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('<a href="absent.html">x</a>', "no such file"),
        ('<a href="index.html#absent">x</a>', "no such anchor"),
        ('<a href="#absent">x</a>', "no such anchor"),
        ('<img src="absent.png">', "no such file"),
        ('<script src="https://example.org/x.js"></script>', "from elsewhere"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "from elsewhere"),
    ],
)
def test_the_check_of_the_site_finds_what_is_wrong(tmp_path, body, complaint):
    page(tmp_path, "index.html", body)
    problems = problems_of(tmp_path)
    assert len(problems) == 2
    assert complaint in problems[0]
    assert problems[1] == "the gallery has no page"
