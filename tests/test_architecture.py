"""The picture in docs/architecture.md, held to what the files import; and who may import CuPy, Triton and PyTorch."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("rawgan", "kernels", "examples", "docs", "benchmarks")


def picture() -> dict[str, int]:
    """{"rawgan/layers/": 6, ...}: what stands in the picture, and in which of its lines."""
    text = (ROOT / "docs/architecture.md").read_text()
    block = re.search(r"\n\n((?:    .*\n)+)", text)[1]
    return {
        name: i
        for i, line in enumerate(block.splitlines())
        for name in re.findall(r"(?:^| )([a-z_]+/(?:[a-z_]+(?:\.py|/))?)(?= |$)", line)
    }


PICTURE = picture()


def place(path: str) -> str | None:
    """The longest entry of the picture that a file lies under, given as rawgan/layers/conv.py."""
    return max(
        (entry for entry in PICTURE if path == entry or (entry[-1] == "/" and path.startswith(entry))), key=len, default=None
    )


def row(path: str) -> int:
    """The line of the picture that a file stands in; the outermost for one that is not drawn."""
    return PICTURE.get(place(path), 0)


def files() -> dict[str, Path]:
    """Every source file by the path it is imported under: kernels/conv.py as rawgan/kernels/conv.py."""
    found = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {re.sub(r"^kernels/", "rawgan/kernels/", path): ROOT / path for path in found}


FILES = files()


@cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it, by their full names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_file(name: str) -> str | None:
    """The file of a module of ours, or None: rawgan.layers is rawgan/layers/__init__.py, rawgan.layers.Conv2d is none."""
    stem = name.replace(".", "/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in FILES), None)


def wrong(path: str, imported: set[str]) -> list[str]:
    """What a file at `path` imports from lines above its own; a kernel's reference, which dispatches to it, is not above it."""
    here = row(path)
    targets = {module_file(name) for name in imported} - {None, "rawgan/__init__.py"}
    if place(path) == "rawgan/kernels/":
        targets -= set(users("rawgan.kernels"))
    return sorted(f"{path} imports {target}" for target in targets if row(target) < here)


def test_the_picture_was_read():
    assert {"rawgan/layers/", "rawgan/ops/", "rawgan/kernels/", "rawgan/backend.py", "rawgan/errors.py", "docs/"} <= PICTURE.keys()
    assert PICTURE["examples/"] == 0 < PICTURE["rawgan/layers/"] < PICTURE["rawgan/ops/"] < PICTURE["rawgan/backend.py"]


def test_every_file_is_in_the_picture():
    missing = [path for path in FILES if place(path) is None and path != "rawgan/__init__.py"]
    assert missing == [], "draw them in docs/architecture.md, on the line above which nothing needs them"
    assert [entry for entry in PICTURE if not any(place(path) == entry for path in FILES)] == [], "these are gone"


def test_imports_point_inwards():
    assert [found for path in FILES if path != "rawgan/__init__.py" for found in wrong(path, imports(FILES[path]))] == []


OUTWARDS = {
    "rawgan/ops/conv.py": "rawgan.layers.conv",
    "rawgan/backend.py": "rawgan.ops",
    "rawgan/layers/base.py": "rawgan.gan",
    "rawgan/losses.py": "rawgan.training.loop",
    "rawgan/kernels/conv.py": "rawgan.layers",
    "rawgan/models/dcgan.py": "docs.build",
}


@pytest.mark.parametrize("path, module", OUTWARDS.items())
def test_an_import_outwards_is_found(path, module):
    assert wrong(path, {module}) != []


def users(module: str) -> list[str]:
    return [path for path in FILES if any(name == module or name.startswith(f"{module}.") for name in imports(FILES[path]))]


def test_only_the_backend_imports_cupy():
    assert users("cupy") == ["rawgan/backend.py"]


def test_torch_is_the_judge_alone():
    assert [path for path in users("torch") if not path.startswith("benchmarks/")] == []


ALLOWED = {"jit", "language", "next_power_of_2"}  # of triton, outside launch.py: how a kernel is written, not how it is started


def calling_convention(text: str) -> list[str]:
    """What a file of kernels uses of Triton beyond writing kernels: other modules, other names, kernel[grid](...)."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "triton":
            found += [f"triton.{node.attr}"] if node.attr not in ALLOWED else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
            found.append(f"{ast.unparse(node.func)}(...)")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("triton.") and alias.name != "triton.language"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "triton":
            found.append(f"from {node.module}")
    return found


def test_only_launch_knows_how_kernels_are_started():
    assert [path for path in users("triton") if not path.startswith("rawgan/kernels/")] == []
    for path in users("triton"):
        if path != "rawgan/kernels/launch.py":
            assert calling_convention(FILES[path].read_text()) == [], path
    assert calling_convention(FILES["rawgan/kernels/launch.py"].read_text()) != []


@pytest.mark.parametrize(
    "line", ["kernel[grid](x)", "triton.runtime.driver.set_active(d)", "from triton.backends import x", "import triton.compiler"]
)
def test_another_who_starts_kernels_is_found(line):
    assert calling_convention(line) != []
