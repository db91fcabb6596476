"""Convert formulas to MathML at build time; browsers render it with their own fonts."""

import re

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.util.logging import getLogger

THIN = '<mspace width="0.17em"/>'


class FormulaError(ValueError):
    """A formula that cannot be converted; the message names it."""


def mathml(latex: str, display: str) -> str:
    """Return the <math> element of a formula. Raises FormulaError if a command is not supported."""
    try:
        made = convert(latex, display=display)
    except Exception as error:  # latex2mathml raises many types, none with a position
        raise FormulaError(f"{latex!r} is no formula: {type(error).__name__} {error}") from error
    if "\\" in made or "&amp;" in made or ">&<" in made:
        raise FormulaError(f"a command was not understood in {latex!r}")
    made = re.sub(
        r"<msup>(<mi>.</mi>)<mi>(&#x0203[23];)</mi></msup>", r"<mrow>\1<mo>\2</mo></mrow>", made
    )  # a prime is a superscript already
    made = re.sub(r"(<mi>(?:log|tanh)</mi>)(?!<mo|</)", rf"\1{THIN}", made)
    return re.sub(r"(?<=</mi>|msub>)(<mi>(?:log|tanh)</mi>)", rf"{THIN}\1", made)


def drawn(node, display: str) -> str:
    """Return the formula of a node; a failed conversion is a warning, which fails the build."""
    try:
        return mathml(node.astext(), display)
    except FormulaError as error:
        getLogger(__name__).warning(str(error), location=node)
        return ""


def inline(writer, node):
    """Visit inline math, $...$."""
    writer.body.append(drawn(node, "inline"))
    raise SkipNode


def block(writer, node):
    """Visit display math, $$...$$."""
    writer.body.append(f'<div class="formula">{drawn(node, "block")}</div>\n')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
