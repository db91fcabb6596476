"""Directive ```{drawing} NAME``` that inserts build/figures/NAME.svg into the page as inline SVG.

Inline, its lines take the colour of the page's text.
"""

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from docs.figures import FOLDER


class Drawing(SphinxDirective):
    required_arguments, has_content = 1, True
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012

    def run(self):
        path = FOLDER / f"{self.arguments[0]}.svg"
        if not path.is_file():
            raise self.error(f"no script of docs/figures draws {self.arguments[0]}")
        if "alt" not in self.options or not self.content:
            raise self.error(f"the figure {path.stem} needs :alt: and a caption")
        label = nodes.Text(self.options["alt"]).astext().replace('"', "&quot;")
        svg = path.read_text().replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
        caption = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, caption)
        words = caption.children[0].children if caption.children else []
        opening = nodes.raw("", f'<figure class="drawing">{svg}<figcaption>', format="html")
        return [
            opening,
            nodes.paragraph("", "", *words),
            nodes.raw("", "</figcaption></figure>", format="html"),
        ]


def setup(app):
    app.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
