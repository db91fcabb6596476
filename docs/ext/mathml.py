"""Formulas as MathML, made while the pages are built: every current browser draws it with the fonts it has."""

import re

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.errors import SphinxError

THIN = '<mspace width="0.17em"/>'


class FormulaError(SphinxError):
    category = "formula"


def mathml(latex: str, display: str, where: str) -> str:
    """The <math> element of a formula. Raises FormulaError for one in which a command was not understood."""
    try:
        made = convert(latex, display=display)
    except Exception as error:  # latex2mathml has a dozen kinds, none with a place
        raise FormulaError(f"{where}: {latex!r}: {type(error).__name__} {error}") from error
    if "\\" in made or "&amp;" in made or ">&<" in made:
        raise FormulaError(f"{where}: a command was not understood in {latex!r}")
    made = re.sub(
        r"<msup>(<mi>.</mi>)<mi>(&#x0203[23];)</mi></msup>", r"<mrow>\1<mo>\2</mo></mrow>", made
    )  # a prime is raised by itself
    made = re.sub(r"(<mi>(?:log|tanh)</mi>)(?!<mo|</)", rf"\1{THIN}", made)
    return re.sub(r"(?<=</mi>|msub>)(<mi>(?:log|tanh)</mi>)", rf"{THIN}\1", made)


def inline(writer, node):
    """For $...$ in a line."""
    writer.body.append(mathml(node.astext(), "inline", f"{node.source}:{node.line}"))
    raise SkipNode


def block(writer, node):
    """For $$...$$ on lines of its own."""
    writer.body.append(f'<div class="formula">{mathml(node.astext(), "block", f"{node.source}:{node.line}")}</div>\n')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
