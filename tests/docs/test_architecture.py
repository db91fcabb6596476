"""The layer picture in docs/architecture.md agrees with the imports, and restricts libraries.

Only certain files may import CuPy, Triton and PyTorch.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("rawgan", "kernels", "examples", "docs", "benchmarks")


def picture() -> dict[str, int]:
    """Return {"rawgan/layers/": 6, ...}: each entry of the picture and its line number."""
    text = (ROOT / "docs/architecture.md").read_text()
    block = re.search(r"\n\n((?:    .*\n)+)", text)[1]
    return {
        name: i
        for i, line in enumerate(block.splitlines())
        for name in re.findall(r"(?:^| )((?:[a-z_]+/)+(?:[a-z_]+\.py)?)(?= |$)", line)
    }


PICTURE = picture()


def place(path: str) -> str | None:
    """Return the longest entry of the picture that contains a file as rawgan/layers/conv.py."""
    return max(
        (
            entry
            for entry in PICTURE
            if path == entry or (entry[-1] == "/" and path.startswith(entry))
        ),
        key=len,
        default=None,
    )


def row(path: str) -> int:
    """Return the picture's line of a file, the outermost line if it has no entry."""
    return PICTURE.get(place(path), 0)


def files() -> dict[str, Path]:
    """Return every source file by its import path: kernels/conv.py as rawgan/kernels/conv.py."""
    paths = [
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    return {re.sub(r"^kernels/", "rawgan/kernels/", path): ROOT / path for path in paths}


FILES = files()


@cache
def imports(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_file(name: str) -> str | None:
    """Return the file of a module of this project, or None.

    rawgan.layers is rawgan/layers/__init__.py; rawgan.layers.Conv2d is no module.
    """
    stem = name.replace(".", "/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in FILES), None)


def wrong(path: str, imported: set[str]) -> list[str]:
    """Return the imports of a file at `path` from higher lines of the picture than its own.

    A kernel's reference, which dispatches to the kernel, does not count as higher.
    """
    here = row(path)
    targets = {module_file(name) for name in imported} - {None, "rawgan/__init__.py"}
    if place(path) == "rawgan/kernels/":
        targets -= set(users("rawgan.kernels"))
    return sorted(f"{path} imports {target}" for target in targets if row(target) < here)


def test_the_picture_was_read():
    assert {
        "rawgan/layers/",
        "rawgan/ops/",
        "rawgan/kernels/",
        "rawgan/backend.py",
        "rawgan/errors.py",
        "docs/",
    } <= PICTURE.keys()
    assert (
        PICTURE["examples/"]
        == 0
        < PICTURE["rawgan/layers/"]
        < PICTURE["rawgan/ops/"]
        < PICTURE["rawgan/backend.py"]
    )


def test_every_file_is_in_the_picture():
    missing = [path for path in FILES if place(path) is None and path != "rawgan/__init__.py"]
    assert missing == [], (
        "draw them in docs/architecture.md, on the line above which nothing needs them"
    )
    assert [entry for entry in PICTURE if not any(place(path) == entry for path in FILES)] == [], (
        "these are gone"
    )


def test_imports_point_inwards():
    assert [
        imported
        for path in FILES
        if path != "rawgan/__init__.py"
        for imported in wrong(path, imports(FILES[path]))
    ] == []


OUTWARDS = {
    "rawgan/ops/conv.py": "rawgan.layers.conv",
    "rawgan/backend.py": "rawgan.ops",
    "rawgan/layers/base.py": "rawgan.gan",
    "rawgan/losses.py": "rawgan.training.train",
    "rawgan/kernels/conv.py": "rawgan.layers",
    "rawgan/models/dcgan.py": "docs.build",
}


@pytest.mark.parametrize("path, module", OUTWARDS.items())
def test_an_import_outwards_is_found(path, module):
    assert wrong(path, {module}) != []


def users(module: str) -> list[str]:
    return [
        path
        for path in FILES
        if any(name == module or name.startswith(f"{module}.") for name in imports(FILES[path]))
    ]


def test_only_the_backend_imports_cupy():
    """Only the backend imports CuPy, and the self-contained DCGAN example."""
    assert sorted(users("cupy")) == ["examples/dcgan_in_one_file.py", "rawgan/backend.py"]


def test_torch_is_the_judge_alone():
    assert [path for path in users("torch") if not path.startswith("benchmarks/")] == []


ALLOWED = {
    "jit",
    "language",
    "next_power_of_2",
}  # names of triton for writing kernels, not for launching them


def calling_convention(text: str) -> list[str]:
    """Return a kernel file's use of Triton beyond writing kernels.

    It covers other modules, other names, and kernel[grid](...).
    """
    uses = []
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "triton"
        ):
            uses += [f"triton.{node.attr}"] if node.attr not in ALLOWED else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
            uses.append(f"{ast.unparse(node.func)}(...)")
        elif isinstance(node, ast.Import):
            uses += [
                alias.name
                for alias in node.names
                if alias.name.startswith("triton.") and alias.name != "triton.language"
            ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "triton":
            uses.append(f"from {node.module}")
    return uses


def test_only_the_runtime_knows_how_kernels_are_started_and_compiled():
    assert [path for path in users("triton") if not path.startswith("rawgan/kernels/")] == []
    mends = "rawgan/kernels/specs/testing.py"  # patches functions of Triton's interpreter
    for path in users("triton"):
        if not path.startswith("rawgan/kernels/runtime/") and path != mends:
            assert calling_convention(FILES[path].read_text()) == [], path
    assert calling_convention(FILES["rawgan/kernels/runtime/launch.py"].read_text()) != []


@pytest.mark.parametrize(
    "line",
    [
        "kernel[grid](x)",
        "triton.runtime.driver.set_active(d)",
        "from triton.backends import x",
        "import triton.compiler",
    ],
)
def test_another_who_starts_kernels_is_found(line):
    assert calling_convention(line) != []


def loads_tests(text: str) -> list[str]:
    """Return the imports of `tests`, and the paths into tests/ outside docstrings, in a file."""
    tree = ast.parse(text)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    loaded = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            loaded += [alias.name for alias in node.names if alias.name.split(".")[0] == "tests"]
        elif isinstance(node, ast.ImportFrom):
            loaded += [node.module] if (node.module or "").split(".")[0] == "tests" else []
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            path = "tests/" in node.value and id(node) not in prose
            loaded += [node.value] if path else []
    return loaded


def test_benchmarks_load_no_file_of_tests():
    """Benchmarks load no file of tests/; common tolerances and fixes are in kernels/specs."""
    paths = [path for path in FILES if path.startswith("benchmarks/")]
    assert len(paths) > 20
    assert {
        path: loaded for path in paths if (loaded := loads_tests(FILES[path].read_text()))
    } == {}


@pytest.mark.parametrize(
    "line",
    [
        "import tests.support.tolerance",
        "from tests.support import tolerance",
        "def f():\n    from tests import conftest",
        'run_path(str(ROOT / "tests/support/kernel_worker.py"))',
    ],
)
def test_a_benchmark_that_loads_tests_is_noticed(line):
    assert loads_tests(line) != []
    assert loads_tests('"""As tests/support/tolerance.py."""') == []


REFERENCES = ("rawgan.kernels.specs", "rawgan.ops", "rawgan.losses", "rawgan.penalties")
REFERENCES += ("rawgan.optim", "rawgan.ema")


def references(imported: set[str]) -> list[str]:
    """Return the imports of references and Specs among the imports of a kernel file."""
    return sorted(
        name
        for name in imported
        if any(name == module or name.startswith(f"{module}.") for module in REFERENCES)
    )


def test_kernels_do_not_import_their_references():
    """Files of kernels/ import no NumPy references and no Specs; kernels/specs imports both."""
    files = [path for path in FILES if path.startswith("rawgan/kernels/")]
    files = [path for path in files if not path.startswith("rawgan/kernels/specs/")]
    assert len(files) >= 35
    assert {path: bad for path in files if (bad := references(imports(FILES[path])))} == {}
    assert references({"rawgan.kernels.runtime", "rawgan.ops.act"}) == ["rawgan.ops.act"]
    assert references({"rawgan.ops.conv.conv2d"}) == ["rawgan.ops.conv.conv2d"]
