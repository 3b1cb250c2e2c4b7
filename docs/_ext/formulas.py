r"""From LaTeX to MathML, which browsers draw themselves: no script, no font and no network.

latex2mathml reads the LaTeX. It copies what it does not know into the formula as it stands, and
writes some things that browsers draw otherwise than LaTeX does; so `to_mathml` takes only commands
whose drawing was looked at, checks what came out, and refuses the rest. A command that is missing
here is added after a look at it in a browser: ``docs/check_site.py --formulas PICTURE`` draws every
formula of the site on one sheet.
"""

import re
from xml.etree import ElementTree

# commands whose drawing was looked at
_STRUCTURE = r"\frac \tfrac \dfrac \sqrt \hat \bar \tilde \text \operatorname \mathbb \left \right"
_SIZES = r"\bigl \bigr \Bigl \Bigr"
_FENCES = r"\langle \rangle \lvert \rvert \lVert \rVert \|"
_LETTERS = (
    r"\alpha \beta \gamma \delta \epsilon \eta \theta \kappa \lambda \mu \nu \pi \rho \sigma \tau"
    r" \phi \varphi \chi \psi \omega \Gamma \Delta \Theta \Lambda \Pi \Sigma \Phi \Psi \Omega"
    r" \infty \partial \ell \nabla"
)
_OPERATORS = (
    r"\sum \prod \int \max \min \exp \log \cos \sin \cdot \circ \times \to \le \ge \ne \neq"
    r" \in \approx \propto \sim \dots \ldots \cdots"
)
_SPACES = r"\, \; \quad \qquad"
_KNOWN = frozenset(" ".join([_STRUCTURE, _SIZES, _FENCES, _LETTERS, _OPERATORS, _SPACES]).split())
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)", re.DOTALL)
_STRETCHING = set("()[]{}|‖⟨⟩/^~¯")  # as wide or as high as they can, unless one says otherwise
_PARTS = {"mfrac": 2, "msub": 2, "msup": 2, "mover": 2, "munder": 2, "msubsup": 3, "munderover": 3}
_TIGHT = set("/|")
_LETTER_SIGNS = set("∞∂∇")
_SIGNS, _CLOSING = set("−+±"), set(")]}|‖⟩")
_FUNCTION_SPACE = "0.167em"


def to_mathml(latex: str, *, is_block: bool) -> str:
    r"""Return a formula as a ``<math>`` element.

    Parameters
    ----------
    latex : str
        The formula, without dollar signs.
    is_block : bool
        Whether it stands on a line of its own, where ``\sum_i`` has its index below.

    Raises
    ------
    ValueError
        If it is no LaTeX, or holds what would be drawn wrongly.
    """
    from latex2mathml.converter import convert  # the tests of what is refused need no converter

    check(latex)
    if latex.count("{") != latex.count("}"):
        raise ValueError("The braces are not balanced")
    try:
        markup = convert(latex, display="block" if is_block else "inline")
    except Exception as error:  # its errors have no text and no class in common
        raise ValueError(f"This is no LaTeX ({type(error).__name__})") from error
    root = ElementTree.fromstring(markup)
    _refuse_what_is_not_drawn(root)
    _set_as_latex_does(root)
    markup = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r'\bns0:| xmlns(:ns0)?="[^"]*"', "", markup)  # HTML knows what <math> is


def check(latex: str) -> None:
    """Refuse commands that nobody has looked at.

    Raises
    ------
    ValueError
        With the commands.
    """
    unknown = sorted(set(_COMMAND.findall(latex)) - _KNOWN)
    if unknown:
        raise ValueError(
            f"Only commands whose drawing was looked at may stand in a formula; got "
            f"{', '.join(unknown)}. Write it with others, or look at it and add it to "
            "docs/_ext/formulas.py"
        )


def _refuse_what_is_not_drawn(root: ElementTree.Element) -> None:
    for element in root.iter():
        n_parts = _PARTS.get(_name(element), len(element))
        if len(element) != n_parts:
            raise ValueError(f"A {_name(element)} has {len(element)} parts instead of {n_parts}")
        if "\\" in (element.text or ""):
            raise ValueError(f"The converter left {element.text} as it is")
        variant = element.get("mathvariant", "normal")
        if variant != "normal":
            raise ValueError(f"Browsers draw no {variant} letters in formulae")
        if _name(element) in ("merror", "mphantom"):
            raise ValueError("The converter marked an error")


def _set_as_latex_does(root: ElementTree.Element) -> None:
    r"""Give operators the height and the space that they have in LaTeX.

    Only ``\left``, ``\right`` and ``\big`` fences are higher than a letter; a slash, a bar
    and a sign before a number have no space about them, and the name of a function has a thin one.
    """
    for element in root.iter():
        if element.text and element.text in _STRETCHING and element.get("stretchy") != "true":
            element.tag = _tag("mo", element)  # ⟨ and ⟩ come as letters
            element.set("stretchy", "false")
        if element.text in _TIGHT:
            element.attrib.update(lspace="0", rspace="0")
        if _name(element) == "mo" and (
            len(element.text or "") > 1 or element.text in _LETTER_SIGNS
        ):
            element.tag = _tag("mi", element)
    for row in root.iter():
        if _name(row) == "mrow":
            _set_row(row)


def _set_row(row: ElementTree.Element) -> None:
    children = list(row)
    for before, after in zip([None, *children], children, strict=False):
        if after.text in _SIGNS and (before is None or _opens(before)):
            after.set("form", "prefix")
    for place in range(len(children) - 1, 0, -1):
        pair = children[place - 1 : place + 1]
        is_beside = any(_name(one) in ("mo", "mspace") for one in pair)
        if not is_beside and any(_is_function(one) for one in pair):
            space = ElementTree.Element(_tag("mspace", row), width=_FUNCTION_SPACE)
            row.insert(place, space)


def _opens(element: ElementTree.Element) -> bool:
    """Whether a sign after the element belongs to the number that follows it."""
    return _name(element) == "mo" and element.text not in _CLOSING


def _is_function(element: ElementTree.Element) -> bool:
    while len(element):  # the base of an index
        element = element[0]
    return _name(element) == "mi" and len(element.text or "") > 1


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _tag(name: str, like: ElementTree.Element) -> str:
    """Return a name in the namespace of another element."""
    return like.tag.replace(_name(like), name)
