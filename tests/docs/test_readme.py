"""The two blocks of README.md that are pasted into a fresh clone: either order, and twice."""

import json
import re
import shlex
import sys
import tomllib
from itertools import permutations
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import Image

from tests.support.clone import ROOT, fresh_clone
from tests.support.process import run_process

TOOLS = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()
TRAIN, TEST = re.findall(r"^```sh\n(python3 -m venv.*?)^```", README,
                         re.DOTALL | re.MULTILINE)  # fmt: skip
INSTALLATION = ("python3 -m venv", ".venv/bin/pip install")
SUITE = ".venv/bin/python -m pytest -n auto --dist loadfile"
ORDERS = [pytest.param(order * 2, id=name) for order, name in
          zip(permutations((TRAIN, TEST)), ("train first", "test first"))]  # fmt: skip


def run(line: str, clone: Path, timeout: int) -> str:
    """Return what a command line prints; assert that it succeeds."""
    done = run_process(["bash", "-c", line], cwd=clone, timeout=timeout)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_python_block(tmp_path, monkeypatch):
    """The Python example runs, with two steps, and writes its picture."""
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(block.split("\n\n")[1].splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace("range(1500)", "range(2)"), "README.md", "exec"), {})
    with Image.open("digits.png") as picture:
        assert picture.size == (548, 548)


def test_the_animation_is_a_picture_as_a_still():
    """Its first frame, shown while it loads and where nothing moves, is that of the last step."""
    (name,) = re.findall(r"^!\[.+\]\((.+\.gif)\)$", README, re.MULTILINE)
    with Image.open(ROOT / name) as animation:
        first = animation.convert("L")
        animation.seek(animation.n_frames - 1)
        assert first.tobytes() == animation.convert("L").tobytes()
    assert min(first.getextrema()) < 50 and max(first.getextrema()) > 200


SMALL = re.findall(r"^    \.venv/bin/(pip install .*)$", README, re.MULTILINE)


def test_small_installation_names_all_but_cupy_and_triton():
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", line)[0] for line in requirements}
    assert SMALL[-1] == "pip install --no-deps -e ."  # last: pip then misses nothing
    assert {name for command in SMALL[:-1] for name in command.split()[2:]} == names - {
        "cupy-cuda12x",
        "triton",
    }


CUDA13 = re.search(r"`\.venv/bin/(pip install 'cupy-cuda13x[^`]+)`", README)[1]


def requirements_of(command: str) -> dict[str, SpecifierSet]:
    parsed = map(Requirement, shlex.split(command)[2:])
    return {requirement.name: requirement.specifier for requirement in parsed}


def test_cuda13_has_the_versions_of_the_default():
    """CuPy for CUDA 13 and Triton are bounded as CuPy for CUDA 12 and Triton in pyproject.toml."""
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    default = {r.name.replace("12x", "13x"): r.specifier for r in map(Requirement, lines)}
    wanted = requirements_of(CUDA13)
    assert list(wanted) == ["cupy-cuda13x", "triton"]
    assert wanted == {name: default[name] for name in wanted}


@pytest.mark.slow
def test_cuda13_resolves(tmp_path):
    """The package index has both, as wheels for this machine, whose versions are those named."""
    run("python3 -m venv .venv", tmp_path, 600)
    options = "--dry-run --no-deps --only-binary :all: --quiet --report report.json"
    run(f".venv/bin/{CUDA13} {options}", tmp_path, 600)
    report = json.loads((tmp_path / "report.json").read_text())
    wanted = requirements_of(CUDA13)
    chosen = {one["metadata"]["name"]: one["metadata"]["version"] for one in report["install"]}
    assert chosen.keys() == wanted.keys()
    assert all(wanted[name].contains(version) for name, version in chosen.items()), chosen


WITHOUT = """
import sys
sys.modules |= {"cupy": None, "triton": None}
from rawgan.cli.main import app
app(sys.argv[1:])
"""


@pytest.mark.parametrize("command", ["info", "train dcgan --steps 2 --width 4", "info dcgan"])
def test_without_cupy_and_triton(command, tmp_path):
    run(f"{sys.executable} -c '{WITHOUT}' {command}", tmp_path, 120)


@pytest.mark.slow
def test_small_installation(tmp_path):
    """The commands of the small installation; it trains, and has less than 300 MB."""
    clone = fresh_clone(tmp_path)
    run("python3 -m venv .venv", clone, 600)
    for command in SMALL:
        assert "ERROR" not in run(f".venv/bin/{command}", clone, 3600)
    run(".venv/bin/python examples/train_dcgan.py --steps 2", clone, 600)
    files = (clone / ".venv").glob("lib/python*/site-packages/**/*")
    assert sum(path.stat().st_size for path in files if path.is_file()) < 300e6


def test_blocks_are_the_two_that_are_run():
    assert TRAIN.splitlines()[-1] == ".venv/bin/python examples/train_dcgan.py"
    assert TEST.splitlines()[-2:] == [".venv/bin/ruff check .", SUITE]


def test_blocks_without_installation(tmp_path):
    """In either order and twice: neither run folders nor an installation change the style check.

    The commands run with this Python interpreter and two training steps; the tests are left out.
    """
    clone = fresh_clone(tmp_path)
    for name in ("rawgan.egg-info/PKG-INFO", ".venv/lib/module.py"):
        (clone / name).parent.mkdir(parents=True)
        (clone / name).write_text("import sys\nimport os\n")
    for line in (TEST + TRAIN + TEST + TRAIN + TEST).splitlines():
        if line != SUITE and not line.startswith(INSTALLATION):
            command = line.replace(".venv/bin/", f"{TOOLS}/")
            run(f"{command} --steps 2" if "examples/" in line else command, clone, 120)
    names = [path.name for path in sorted((clone / "runs").iterdir())]
    assert names == ["dcgan-digits-001", "dcgan-digits-002"]


@pytest.mark.slow
@pytest.mark.parametrize("blocks", ORDERS)
def test_blocks_as_they_are(blocks, tmp_path):
    """Every line runs as it is written; the suite runs the tests of one folder.

    The packages are installed from the package index.
    """
    clone = fresh_clone(tmp_path)
    for line in "".join(blocks).splitlines():
        run(f"{line} tests/cli" if line == SUITE else line, clone, 3600)
