"""The renderer of formulae for Sphinx, whose own need MathJax from a server, or LaTeX."""

import formulas
from docutils import nodes
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

_LOGGER = logging.getLogger(__name__)


def visit_inline(translator, node) -> None:
    """Write a formula in a line of text."""
    translator.body.append(_markup(node, is_block=False))
    raise nodes.SkipNode


def visit_block(translator, node) -> None:
    """Write a displayed formula, with its number if it has a label."""
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(_markup(node, is_block=True))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def _markup(node, *, is_block: bool) -> str:
    try:
        return formulas.to_mathml(node.astext(), is_block=is_block)
    except ValueError as error:  # the build turns warnings into errors
        _LOGGER.warning("%s, in the formula %r", error, node.astext(), location=node, type="math")
        return f"<code>{node.astext()}</code>"


def setup(app) -> dict:
    """Register the renderer as ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
