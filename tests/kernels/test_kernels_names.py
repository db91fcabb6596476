"""Every name in a kernel has one meaning: an AST check over every @triton.jit function of kernels/.

    In a @triton.jit function a name is bound once. It may be bound again
      - in another arm of the same `if`,
      - by an update: `x += ...`, or `x = ...` where the right side reads x; never for a grid
        coordinate, a name whose value calls tl.program_id.
    Tuple unpacking is never an update. `_` is exempt.

Without the rule a loop may silently rebind the tile's column index that the epilogue reads later.
"""

import ast
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
Place = tuple[
    tuple[int, str], ...
]  # the arms of `if` statements around a binding: (line of the if, arm)


def is_kernel(node: ast.AST) -> bool:
    """Return whether a function is decorated with triton.jit, with or without arguments."""
    decorators = getattr(node, "decorator_list", [])
    return any(ast.unparse(decorator).split("(")[0] == "triton.jit" for decorator in decorators)


def reads(node: ast.AST) -> set[str]:
    """Return the names that an expression reads."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def stored(node: ast.AST) -> list[str]:
    """Return the names that an assignment's target binds, in order; `x[i] = ...` binds none."""
    names = [
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]
    return [name for name in names if name != "_"]


def exclusive(a: Place, b: Place) -> bool:
    """Return whether two places lie in different arms of one `if`."""
    arms = dict(a)
    return any(line in arms and arms[line] != arm for line, arm in b)


class Names:
    """The bindings of one kernel in source order, and the rebindings that the rule forbids."""

    def __init__(self, kernel: ast.FunctionDef):
        self.kernel, self.bound, self.coordinates, self.errors = kernel, {}, set(), []
        arguments = kernel.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            self.bound[argument.arg] = [()]
        self.block(kernel.body, ())

    def block(self, statements: list[ast.stmt], place: Place) -> None:
        for statement in statements:
            self.statement(statement, place)

    def statement(self, node: ast.stmt, place: Place) -> None:
        match node:
            case ast.If():
                self.expression(node.test, place)
                self.block(node.body, (*place, (node.lineno, "then")))
                self.block(node.orelse, (*place, (node.lineno, "else")))
            case ast.For():
                self.expression(node.iter, place)
                self.bind(node.target, None, place, node.lineno)
                self.block(node.body, place)
                self.block(node.orelse, place)
            case ast.While():
                self.expression(node.test, place)
                self.block(node.body, place)
            case ast.Assign():
                self.expression(node.value, place)
                for target in node.targets:
                    self.bind(target, node.value, place, node.lineno)
            case ast.AugAssign():  # x += v is x = x + v
                self.expression(node.value, place)
                both = ast.Tuple(
                    [ast.Name(name, ast.Load()) for name in stored(node.target)] + [node.value]
                )
                self.bind(node.target, both, place, node.lineno)
            case ast.AnnAssign(value=ast.expr()):
                self.expression(node.value, place)
                self.bind(node.target, node.value, place, node.lineno)
            case ast.Expr() | ast.Return():
                if node.value is not None:
                    self.expression(node.value, place)
            case ast.Pass() | ast.Assert():
                pass
            case _:
                self.error(node.lineno, f"a kernel has no {type(node).__name__} statement here")

    def expression(self, node: ast.AST, place: Place) -> None:
        """Record the names that := binds within an expression."""
        for walrus in (n for n in ast.walk(node) if isinstance(n, ast.NamedExpr)):
            self.bind(walrus.target, walrus.value, place, walrus.lineno)

    def bind(self, target: ast.AST, value: ast.AST | None, place: Place, line: int) -> None:
        for name in stored(target):
            before = [old for old in self.bound.get(name, []) if not exclusive(old, place)]
            update = value is not None and isinstance(target, ast.Name) and name in reads(value)
            if before and (not update or name in self.coordinates):
                kind = "a grid coordinate" if name in self.coordinates else "bound before"
                self.error(line, f"{name}, {kind}, is rebound")
            self.bound.setdefault(name, []).append(place)
            if value is not None and "tl.program_id" in ast.unparse(value):
                self.coordinates.add(name)

    def error(self, line: int, words: str) -> None:
        self.errors.append(f"{self.kernel.name}, line {line}: {words}")


def rebindings(source: str) -> list[str]:
    """Return the violations in the kernels of a file; raise ValueError if it has no kernel."""
    kernels = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and is_kernel(node)
    ]
    return [error for kernel in kernels for error in Names(kernel).errors]


FILES = sorted(path for path in KERNELS.glob("**/*.py") if "@triton.jit" in path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_name_has_one_meaning(path):
    assert rebindings(path.read_text()) == []


def unread(source: str) -> list[str]:
    """Return the parameters of kernels that their body does not read."""
    return [
        f"{node.name}: {argument.arg}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and is_kernel(node)
        for argument in node.args.args
        if argument.arg not in {name for statement in node.body for name in reads(statement)}
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_parameter_is_read(path):
    """A constant that a kernel does not read makes it compile again for every value."""
    assert unread(path.read_text()) == []


def test_a_parameter_that_is_not_read_is_found():
    assert unread(kernel("tl.store(x_ptr, n)")) == ["f: SIZE"]


def undocumented(source: str) -> list[str]:
    """Return the @triton.jit functions without a docstring, and the long kernels without comments.

    A kernel of more than 12 statements needs a comment for each of its phases, 2 at least.
    """
    lines, names = source.split("\n"), []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.FunctionDef) and is_kernel(node)):
            continue
        statements = sum(isinstance(n, ast.stmt) for n in ast.walk(node)) - 1
        body = lines[node.body[0].lineno - 1 : node.end_lineno]
        comments = sum(line.lstrip().startswith("#") for line in body)
        if not ast.get_docstring(node):
            names.append(f"{node.name}: no docstring")
        if node.name.endswith("_kernel") and statements > 12 and comments < 2:
            names.append(f"{node.name}: {comments} comments")
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_kernels_are_documented(path):
    assert undocumented(path.read_text()) == []


def test_a_kernel_without_documentation_is_found():
    bare = kernel("x = 1")
    assert undocumented(bare) == ["f: no docstring"]
    long = kernel('"""Documented."""', *["x = 1"] * 13).replace("def f(", "def f_kernel(")
    assert undocumented(long) == ["f_kernel: 0 comments"]


def kernel(*lines: str) -> str:
    """Return the source of a kernel f(x_ptr, n, SIZE) with these lines as its body."""
    return "\n    ".join(["@triton.jit\ndef f(x_ptr, n, SIZE: tl.constexpr):", *lines])


WRONG = {
    "a coordinate in a loop": (
        ("column = tl.program_id(0) % 2", "for i in range(SIZE):", "    right, column = g(i)",
            "h(column)"),
        "line 5: column, a grid coordinate, is rebound",
    ),
    "a coordinate updated": (("i = tl.program_id(0)", "i = i // 2"),
        "line 4: i, a grid coordinate, is rebound"),
    "a coordinate augmented": (("i = 4 * tl.program_id(0)", "i += 1"),
        "line 4: i, a grid coordinate, is rebound"),
    "a parameter": (("n = SIZE // 2",), "line 3: n, bound before, is rebound"),
    "a parameter by tuple unpacking": (("n, m = g(n)",), "line 3: n, bound before, is rebound"),
    "a loop variable": (("for n in range(SIZE):", "    h(n)"),
        "line 3: n, bound before, is rebound"),
    "an offset in a loop": (
        ("a = 4 * n", "while n < 3:", "    a = 5 * SIZE", "    n += 1"),
        "line 5: a, bound before, is rebound"
    ),
    "a name of a loop after it": (
        ("for i in range(SIZE):", "    a = i", "a = 3"), "line 5: a, bound before, is rebound"
    ),
    "in an if and after it": (("if SIZE:", "    a = 1", "a = 2"),
        "line 5: a, bound before, is rebound"),
    "in one arm twice": (("if SIZE:", "    a = 1", "    a = 2"),
        "line 5: a, bound before, is rebound"),
    "in an expression": (("a = 1", "h((a := 2))"), "line 4: a, bound before, is rebound"),
    "a chain": (("a = 1", "b = a = 2"), "line 4: a, bound before, is rebound"),
    "a list": (("a = 1", "[a, b] = g(n)"), "line 4: a, bound before, is rebound"),
    "another statement": (("with g() as n:", "    pass"),
        "line 3: a kernel has no With statement here"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_shows(name):
    lines, error = WRONG[name]
    assert rebindings(kernel(*lines)) == [f"f, {error}"]


def test_right_kernels_pass():
    """Accumulators, updates, names bound in separate arms of one if, and `_` are allowed."""
    lines = (
        "acc = tl.zeros((4, 4), tl.float32)",
        "n = tl.where(n > 0, n, 0)",
        "M: tl.constexpr = SIZE // 2",
        "for k in range(SIZE):",
        "    a, _, _ = g(k)",
        "    _, b = h(k)",
        "    acc = tl.dot(a, b, acc)",
        "    n += 1",
        "if SIZE > 2:",
        "    x = 1",
        "elif SIZE > 1:",
        "    x = 2",
        "else:",
        "    x, y = g(n)",
        "x = x + 1",
        "tl.store(x_ptr + n, acc)",
    )
    assert rebindings(kernel(*lines)) == []
    assert rebindings("def plain(n):\n    n = 3") == []  # not a kernel


def test_each_kernel_is_read():
    """The check reads as many kernels as there are triton.jit decorators, in every spelling."""
    for path in FILES:
        kernels = [node for node in ast.walk(ast.parse(path.read_text())) if is_kernel(node)]
        assert len(kernels) == path.read_text().count("@triton.jit"), path
    assert len(FILES) > 12
    assert rebindings(kernel("n = 1").replace("@triton.jit", "@triton.jit(noinline=True)")) != []
