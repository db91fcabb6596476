"""Quote code from the repository and link into it; a name that does not exist fails the build.

```{source} rawgan/ops/conv.py conv2d           the function, without its docstring
:from: xp = array_module                        from the only line that contains this text
:to: K, R, S, C                                 to the next line that contains this one
:docstring:                                     with the docstring
```
{file}`rawgan/ops/conv.py`                      a link to the file's listing on the site
{file}`rawgan/ops/conv.py conv2d`               a link to the line where a function begins
{test}`tests/math/test_conv.py::test_both[one pixel]`  a link to a test, by class, name and case
"""

import ast
from html import escape
from pathlib import Path
from textwrap import dedent

from docutils import nodes
from docutils.parsers.rst import directives
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import guess_lexer_for_filename
from sphinx.util.docutils import SphinxDirective, SphinxRole

ROOT = Path(__file__).parents[2]
listed: set[str] = set()  # files that pages link to


class SourceError(ValueError):
    """A name in a page that does not exist in the repository; the message names it."""


def find(path: str, name: str) -> tuple[ast.AST, list[str]]:
    """Return the definition "Class.function" or "constant" in a file, and the file's lines.

    Raises SourceError if it does not exist.
    """
    file = ROOT / path
    if not file.is_file():
        raise SourceError(f"there is no file {path}")
    text = file.read_text()
    node = ast.parse(text)
    for part in name.split("."):
        named = [child for child in node.body if part in names(child)]
        if not named:
            raise SourceError(f"there is no {name} in {path}")
        node = named[0]
    return node, text.splitlines()


def names(node) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.name] if hasattr(node, "name") else []


def quote(
    path: str, name: str, start: str | None = None, end: str | None = None, docstring: bool = False
) -> tuple[str, int, int]:
    """Return the lines of a definition, and the numbers of the first and the last."""
    node, lines = find(path, name)
    numbers = list(
        range(
            min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]),
            node.end_lineno + 1,
        )
    )
    if not docstring and hasattr(node, "body") and ast.get_docstring(node):
        first = node.body[0]
        after = (
            first.end_lineno + 1
            if not lines[first.end_lineno :][:1] == [""]
            else first.end_lineno + 2
        )
        numbers = [n for n in numbers if not first.lineno <= n < after]
    if start is not None:
        hits = [n for n in numbers if start in lines[n - 1]]
        if len(hits) != 1:
            raise SourceError(
                f"{start!r} stands in {len(hits)} lines of {name} in {path}, not in one"
            )
        numbers = numbers[numbers.index(hits[0]) :]
    if end is not None:
        hits = [n for n in numbers if end in lines[n - 1]]
        if not hits:
            raise SourceError(f"{end!r} does not stand in {name} in {path}, or not after {start!r}")
        numbers = numbers[: numbers.index(hits[0]) + 1]
    return dedent("\n".join(lines[n - 1] for n in numbers)), numbers[0], numbers[-1]


def reference(path: str, text: str, line: int | None = None) -> nodes.reference:
    """Return a link to a line of a file's listing."""
    if not (ROOT / path).is_file():
        raise SourceError(f"there is no file {path}")
    listed.add(path)
    anchor = f"#L-{line}" if line else ""
    return nodes.reference(
        "", "", nodes.literal("", text), internal=True, refuri=f"code/{path}.html{anchor}"
    )


class Source(SphinxDirective):
    required_arguments, optional_arguments = 1, 1
    final_argument_whitespace = False
    option_spec = {  # noqa: RUF012
        "from": directives.unchanged,
        "to": directives.unchanged,
        "docstring": directives.flag,
    }

    def run(self):
        path, name = self.arguments
        start, end, docstring = (
            self.options.get("from"),
            self.options.get("to"),
            "docstring" in self.options,
        )
        try:
            code, first, last = quote(path, name, start, end, docstring)
        except SourceError as error:
            raise self.error(str(error)) from error
        place = f"{path}, lines {first} to {last}" if last > first else f"{path}, line {first}"
        where = nodes.paragraph("", "", reference(path, place, first))
        return [
            nodes.container(
                "", where, nodes.literal_block(code, code, language="python"), classes=["quoted"]
            )
        ]


class Link(SphinxRole):
    """Role that makes one reference, or reports an error of the page."""

    def target(self) -> nodes.reference:
        raise NotImplementedError

    def run(self):
        try:
            return [self.target()], []
        except SourceError as error:
            message = self.inliner.reporter.error(str(error), line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]


class File(Link):
    def target(self):
        path, _, name = self.text.partition(" ")
        line = find(path, name)[0].lineno if name else None
        return reference(path, f"{name} in {path}" if name else path, line)


def find_test(name: str) -> tuple[str, int]:
    """Return the file and line of tests/FILE.py::Class::function[case].

    Raises SourceError if it does not exist.
    """
    name, _, case = name.partition("[")
    path, *rest = name.split("::")
    line = find(path, ".".join(rest))[0].lineno
    if case.removesuffix("]") not in (ROOT / path).read_text():
        raise SourceError(f"{path} has no case {case.removesuffix(']')!r}")
    return path, line


class Test(Link):
    def target(self):
        path, line = find_test(self.text)
        return reference(path, self.text.removeprefix("tests/"), line)


def listings(app):
    """Yield a page with line numbers for every file that pages link to."""
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True, wrapcode=True)
    for path in sorted(listed):
        text = (ROOT / path).read_text()
        body = highlight(text, guess_lexer_for_filename(path, text), formatter)
        yield (
            f"code/{path}",
            {"title": path, "body": f"<h1>{escape(path)}</h1><div class='listing'>{body}</div>"},
            "page.html",
        )


def setup(app):
    app.add_directive("source", Source)
    app.add_role("file", File(), override=True)
    app.add_role("test", Test())
    app.connect("html-collect-pages", listings)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
