"""The site says what the code has: every public name, every layer, every message that it quotes."""

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path
from xml.etree import ElementTree

import check_site
import formulas
import pytest
import registry_tables
import sklearn.utils.validation
from sklearn.base import BaseEstimator
from test_layers import LAYERS

import sknw
from sknw.kernels import KERNELS

ROOT = Path(__file__).parents[2]
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
    results = {"bandwidth.Selection", "bandwidth.FixedWindows", "bandwidth.NeighborWindows"}
    assert documented() - set(PUBLIC) <= {*results, "bandwidth.aitchison_aitken"}
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


EXAMPLES = sorted(ROOT.glob("examples/plot_*.py"))
_WIDEST = 79


_BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


def code_lines(path):
    """Lines that a page shows as code: of the blocks of a page, all of a script."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text.splitlines()
    shown = [block for kind, block in _BLOCK.findall(text) if not kind.startswith("{")]
    return [line for block in shown for line in block.splitlines()]


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=lambda path: path.name)
def test_code_is_narrow_enough_for_a_page(path):
    assert [line for line in code_lines(path) if len(line) > _WIDEST] == []


def test_code_in_docstrings_is_narrow_enough_for_a_page():
    shown = [
        line.strip()
        for path in (ROOT / "sknw").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.lstrip().startswith((">>> ", "... "))
    ]
    assert len(shown) > 50
    assert [line for line in shown if len(line) > _WIDEST] == []


def formulas_of(path):
    """Formulae of a page or an example: whether each is displayed, and its LaTeX."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        blocks = re.findall(r"^# \.\. math::(.*(?:\n#(?:   .*)?)*)", text, re.MULTILINE)
        return [(True, block.replace("\n#", "\n").strip()) for block in blocks]
    blocks = [body.split("\n\n")[-1] for kind, body in _BLOCK.findall(text) if kind == "{math}"]
    text = _BLOCK.sub("", text)
    displayed = re.compile(r"^\$\$\n((?:.*\n)*?)\$\$$", re.MULTILINE)
    blocks += displayed.findall(text)
    inline = re.findall(r"\$([^$`]+)\$", displayed.sub("", text))
    return [(True, block.strip()) for block in blocks] + [(False, latex) for latex in inline]


FORMULAS = {
    (latex, is_block): path.name
    for path in [*PAGES, *EXAMPLES]
    for is_block, latex in formulas_of(path)
} | {(latex, False): "kernels" for latex in registry_tables.kernel_formulas().values()}


def test_the_estimator_and_the_kernels_give_the_same_formulas():
    of_estimator, of_kernels = (
        registry_tables.formulas_of_estimator(),
        registry_tables.kernel_formulas(),
    )
    assert len(of_estimator) > 5
    assert of_estimator == {name: of_kernels[name] for name in of_estimator}


def test_formulas_are_found_on_the_pages():
    assert len(FORMULAS) > 100
    assert sum(is_block for _, is_block in FORMULAS) > 15
    assert {"kernels", "estimator.md", "plot_attention_step_by_step.py"} <= set(FORMULAS.values())


def test_formulas_of_the_pages_have_only_commands_that_were_looked_at():
    for latex, _ in FORMULAS:
        formulas.check(latex)


def test_formulas_of_the_pages_can_be_drawn():
    pytest.importorskip("latex2mathml")
    for latex, is_block in FORMULAS:
        assert formulas.to_mathml(latex, is_block=is_block).startswith("<math ")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_tables_write_norms_without_bars(path):
    r"""In a table of Markdown ``\|`` is a single bar, in a formula too."""
    rows = re.findall(r"^\|.*$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert [row for row in rows if re.search(r"\$[^$]*\\\|[^$]*\$", row)] == []


def drawn(latex, *, is_block=True):
    """A formula as elements, without what only groups them."""
    pytest.importorskip("latex2mathml")
    return ElementTree.fromstring(formulas.to_mathml(latex, is_block=is_block))


def texts(element):
    return "".join(element.itertext())


@pytest.mark.parametrize("command", [r"\frac", r"\tfrac", r"\dfrac"])
def test_fractions_take_one_digit_each(command):
    fraction = drawn(command + "12 (x").find(".//mfrac")
    assert [texts(part) for part in fraction] == ["1", "2"]


@pytest.mark.parametrize("is_block", [True, False])
@pytest.mark.parametrize("command", [r"\hat", r"\bar", r"\tilde"])
def test_an_index_stands_beside_a_letter_with_an_accent(command, is_block):
    root = drawn(command + " f_{-i}(x)", is_block=is_block)
    accented, index = root.find(".//msub")
    assert accented.tag == "mover"
    assert texts(index) == "−i"


@pytest.mark.parametrize(
    "latex",
    [
        r"\langle a, \sum_i \frac{1}{2} \rangle",
        r"\lvert \sum_i \frac{1}{2} \rvert",
        r"| \sum_i \frac{1}{2} |",
        r"\| \sum_i \frac{1}{2} \|",
        r"( \sum_i \frac{1}{2} )",
    ],
)
def test_plain_fences_are_as_high_as_a_letter(latex):
    signs = [element for element in drawn(latex).iter() if texts(element) in tuple("⟨⟩|‖()")]
    assert len(signs) == 2
    assert all(sign.tag == "mo" and sign.get("stretchy") == "false" for sign in signs)


def test_fences_that_should_grow_do():
    signs = [e for e in drawn(r"\left( \frac{1}{2} \right)").iter() if texts(e) in ("(", ")")]
    assert [sign.get("stretchy") for sign in signs] == ["true", "true"]


@pytest.mark.parametrize(
    ("latex", "form"), [("-u", "prefix"), ("(-u)", "prefix"), ("a - u", None), ("(a)-u", None)]
)
def test_a_sign_belongs_to_its_number(latex, form):
    (sign,) = (element for element in drawn(latex).iter() if element.text == "−")
    assert sign.get("form") == form


@pytest.mark.parametrize("latex", [r"\log \sigma", r"a \operatorname{tr} H", r"\max_i y_i"])
def test_names_of_functions_stand_apart_from_letters(latex):
    assert drawn(latex).find(".//mspace") is not None


@pytest.mark.parametrize(
    "latex",
    [r"\unknown x", r"\mathtt{rtol}", r"\mathbf{1}", r"\begin{matrix} a \end{matrix}", r"a \\ b"],
)
def test_commands_that_nobody_looked_at_are_refused(latex):
    with pytest.raises(ValueError, match="Only commands whose drawing was looked at"):
        formulas.check(latex)


@pytest.mark.parametrize(
    ("latex", "complaint"),
    [
        (r"\bigl\| x", r"left \\\| as it is"),
        (r"\bigl\langle x", r"left \\langle as it is"),
        (r"\left( x", "no LaTeX"),
        ("x_a_b", "no LaTeX"),
        (r"\frac{1}", "has 1 part"),
        ("{x", "braces"),
        ("x}", "braces"),
    ],
)
def test_formulas_that_cannot_be_drawn_are_refused(latex, complaint):
    pytest.importorskip("latex2mathml")
    with pytest.raises(ValueError, match=complaint):
        formulas.to_mathml(latex, is_block=True)


@functools.cache
def message_literals():
    """All literal text of the package, f-strings joined over their lines, values as ``\\0``."""
    texts = []
    # some messages are scikit-learn's own, with a hint of ours
    paths = [*(ROOT / "sknw").rglob("*.py"), Path(sklearn.utils.validation.__file__)]
    for path in paths:
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


def test_the_check_of_the_site_finds_the_place_where_it_was_built(tmp_path):
    page(tmp_path, "index.html", f"saved to {ROOT}/figure.png")
    page(tmp_path, "other.html", "saved to figure.png")
    problems = check_site.places_of_the_build(check_site.pages_of(tmp_path), tmp_path)
    assert problems == [f"index.html shows {ROOT}"]


def test_the_sheet_of_formulas_has_each_of_them_once(tmp_path):
    page(tmp_path, "a.html", "<math display='block'>x</math> <math>y</math>")
    page(tmp_path, "b.html", "<p><math>y</math></p>")
    found = check_site.formulas_of(check_site.pages_of(tmp_path))
    assert found == ["<math display='block'>x</math>", "<math>y</math>"]
