"""Rules of style that ruff does not have: the length of files, and names that say too little."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMITS = {  # lines of a file
    "rawgan": 400,
    "kernels": 400,
    "benchmarks": 450,
    "docs": 450,
    "examples": 450,
    "tests": 450,
}
FILES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for folder in LIMITS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "rawgan/kernels" not in path.as_posix()  # the link to kernels/
}
# A local has the noun that it holds: metrics, options, message, rows, ...
TOO_GENERAL = {"said", "how", "given", "found", "what", "own", "more"}


def test_no_file_is_too_long():
    assert len(FILES) > 300
    lines = {path: text.count("\n") for path, text in FILES.items()}
    assert {path: n for path, n in lines.items() if n > LIMITS[path.partition("/")[0]]} == {}, (
        "split them where they tell two stories"
    )


def too_general(text: str) -> list[str]:
    """Return the names of TOO_GENERAL that a file binds, with the lines."""
    bound = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                bound.append((node.lineno, name))
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                bound.append((node.lineno, name))
            case ast.alias(asname=str(name)):
                bound.append((node.lineno, name))
    return [f"line {line}: {name}" for line, name in bound if name in TOO_GENERAL]


def test_names_are_nouns_of_what_they_hold():
    assert {path: names for path, text in FILES.items() if (names := too_general(text))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "found = f()",
        "a, *more = f()",
        "[how for how in f()]",
        "def f(x, **how): pass",
        "def said(): pass",
        "self.own = 1",
        "lambda given: 1",
        "if (what := f()): pass",
        "import numpy as own",
    ],
)
def test_such_a_name_is_found(line):
    assert len(too_general(line)) == 1
    assert too_general("from hypothesis import given\n@given(x=what.own)\ndef f(): pass") == []
