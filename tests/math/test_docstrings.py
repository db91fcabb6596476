"""Docstrings of the mathematics are complete: equation, shapes, derivatives, errors, source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    *sorted(
        path
        for folder in ("ops", "layers")
        for path in (ROOT / "rawgan" / folder).glob("*.py")
        if path.stem != "__init__"
    ),
    *(ROOT / f"rawgan/{name}.py" for name in ("losses", "penalties", "optim")),
]

# Exceptions and their reasons. A bare name is excused from equation, shapes and source.
EXCUSED = {
    "what the others share, without mathematics of its own": [
        "Layer", "Composite", "Objective", "Optimizer", "Penalty", "Sequential:shapes",
        "Upstream",
    ],
    "finds, moves or checks things, computes nothing": [
        "inside", "leaves", "parameter_count", "state", "Parameters", "array_like", "named",
        "check_labels", "as_penalties",
    ],
    "elementary: nobody's in particular": [
        "Linear:source", "linear:source", "tanh:source", "sigmoid:source", "softplus:source",
        "affine:source", "standardize:source",
        "inverse_root:source", "moved:source",
        "mean:source", "SGD:source", "OneHot:source", "Embedding:source", "Condition:source",
        "Reshape:source", "Flatten:source",
        "Planes:source", "Crop:source", "sum_pool:source", "Penalties:source",
        "Sequential:source", "unit",
    ],
}  # fmt: skip
DERIVATIVE = re.compile(r"_dd?[xywb]2?$")
EQUATION = re.compile(r"=|~|mean\(|[DG]:  |\w\[n\]|U\(0, 1\)")
SHAPES = re.compile(r"\((N|K|P|H|C|\.\.\.)[,)]|shape|broadcast")


def definitions(path: Path) -> list[ast.AST]:
    tree = ast.parse(path.read_text())
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]


CASES = {
    f"{path.relative_to(ROOT / 'rawgan').as_posix()} {node.name}": (path, node)
    for path in FILES
    for node in definitions(path)
}
EXCUSES = {entry for entries in EXCUSED.values() for entry in entries}


def docstring(node) -> str:
    return ast.get_docstring(node) or ""


def with_bases(path: Path, node) -> str:
    """Return a class's docstring with those of its bases in the same file.

    LayerNorm's docstring states the axes, that of _Norm the equation.
    """
    classes = {c.name: c for c in ast.parse(path.read_text()).body if isinstance(c, ast.ClassDef)}
    bases = [
        base.id
        for base in getattr(node, "bases", [])
        if isinstance(base, ast.Name) and base.id in classes
    ]
    return docstring(node) + "".join(with_bases(path, classes[name]) for name in bases)


def is_elementwise(node) -> bool:
    return any(
        isinstance(n, ast.Name) and n.id == "elementwise"
        for d in node.decorator_list
        for n in ast.walk(d)
    )


def operation(path: Path) -> str:
    """Return the text of ops/conv.py for layers/conv.py.

    A layer need not repeat the source of its operation.
    """
    twin = ROOT / "rawgan/ops" / path.name
    return twin.read_text() if path.parent.name == "layers" and twin.exists() else ""


def missing(path: Path, node, siblings: set[str]) -> list[str]:
    """Return the kinds of information that a docstring lacks, excused ones included."""
    text, head, everything = (
        docstring(node),
        ast.get_docstring(ast.parse(path.read_text())),
        with_bases(path, node),
    )
    facts = {"equation": EQUATION.search(everything)}
    if path.parent.name in ("ops", "layers"):
        facts["shapes"] = (
            SHAPES.search(everything)
            or re.search("any shape", text, re.IGNORECASE)
            or is_elementwise(node)
        )
    else:
        facts["shapes"] = SHAPES.search(everything + head)
    serves = (
        isinstance(node, ast.FunctionDef) and path.parent.name != "ops"
    )  # as opposed to a class, which names the source
    if not serves and not DERIVATIVE.search(node.name):
        facts["source"] = (
            re.search("Sources?: ", text + operation(path)) or "as in the paper" in text
        )
    left_out = [name for name, match in facts.items() if not match]
    sentence = text.split("\n\n")[0]
    if not re.match(r".+[.:;]", sentence, re.DOTALL):
        left_out.append("a first sentence")
    if f"{node.name}_dx" in siblings and "Derivative" not in text:
        left_out.append("derivatives")
    if (
        isinstance(node, ast.FunctionDef)
        and any(isinstance(n, ast.Raise) for n in ast.walk(node))
        and "aises" not in text
    ):
        left_out.append("errors")
    return left_out


@pytest.mark.parametrize("case", CASES)
def test_docstring(case):
    path, node = CASES[case]
    left_out = missing(path, node, {d.name for d in definitions(path)})
    left_out = [fact for fact in left_out if not {node.name, f"{node.name}:{fact}"} & EXCUSES]
    assert not left_out, f"the docstring of {node.name} lacks {', '.join(left_out)}"


@pytest.mark.parametrize("case", CASES)
def test_methods_that_raise_say_so(case):
    """Docstrings of methods that raise name the error.

    Methods without a docstring are covered by that of Layer.
    """
    _, node = CASES[case]
    for method in node.body if isinstance(node, ast.ClassDef) else ():
        raised = [
            n.exc
            for n in ast.walk(method)
            if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)
        ]
        if isinstance(method, ast.FunctionDef) and docstring(method) and raised:
            assert re.search("[Rr]aises", docstring(method)), f"{node.name}.{method.name}"


def test_excuses_are_needed():
    """Every excuse is needed: its name exists, and its docstring lacks that information."""
    left_out = {node.name: missing(path, node, set()) for path, node in CASES.values()}
    needed = {name for name, facts in left_out.items() if facts} | {
        f"{name}:{f}" for name, facts in left_out.items() for f in facts
    }
    assert sorted(EXCUSES - needed) == []


def test_silence_is_found():
    text = (
        'def conv3d(x, w):\n    """Slides."""\n    raise ValueError\n\n\n'
        'def conv3d_dx(dy, w):\n    """dx = dy."""\n'
    )
    first, second = ast.parse(text).body
    path = ROOT / "rawgan/ops/conv.py"
    assert missing(path, first, {"conv3d", "conv3d_dx"}) == [
        "equation",
        "shapes",
        "source",
        "derivatives",
        "errors",
    ]
    assert missing(path, second, set()) == ["shapes"]
