"""Formulae as MathML, which browsers draw themselves: no script, no font and no network.

Sphinx's own renderers need MathJax from a server, or LaTeX. The converter here is docutils' own.
"""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

_LOGGER = logging.getLogger(__name__)
_REPLACED = {
    ' xmlns="http://www.w3.org/1998/Math/MathML"': "",  # HTML knows what <math> is
    "<mo>‖</mo>": '<mo stretchy="false">‖</mo>',  # which would take the height of its line
}


def visit_inline(translator, node) -> None:
    """Write a formula in a line of text."""
    translator.body.append(_markup(node, as_block=False))
    raise nodes.SkipNode


def visit_block(translator, node) -> None:
    """Write a displayed formula, with its number if it has a label."""
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(_markup(node, as_block=True))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def _markup(node, *, as_block: bool) -> str:
    try:
        markup = tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        _LOGGER.warning("%s in %r", error, node.astext(), location=node, type="math")
        return f"<code>{node.astext()}</code>"
    for given, wanted in _REPLACED.items():
        markup = markup.replace(given, wanted)
    return markup


def setup(app) -> dict:
    """Register the renderer as ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
