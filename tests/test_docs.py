"""What the documentation says is so: its code blocks run, the tests it names exist, its notebook draws."""

import re
import shutil
import subprocess
import sys
import tomllib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"])
TOOLS = Path(sys.executable).parent


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def pages_with(language: str):
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


@pages_with("python")
def test_python_blocks(page, monkeypatch, tmp_path):
    """All of a page run one after another, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for i, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, python block {i}", "exec"), namespace)


SERVES = ".venv/bin/marimo run docs/explore.py"  # a server that does not end; what it serves is exported by another line
ELSEWHERE = {  # what other tests and CI run
    "python3 -m venv .venv": "CI, from README.md",
    ".venv/bin/python -m pytest -n auto --dist loadfile": "CI, from README.md",
    ".venv/bin/ruff check . && .venv/bin/ruff format .": "CI, from README.md",
    ".venv/bin/python -m docs.build": "tests/test_docs_site.py",
    SERVES: "the export beside it",
}


def reduced(line: str) -> str:
    """The same command with 2 training steps, by this Python."""
    line = re.sub(r"--steps \d+", "--steps 2", line)
    if re.search(r"examples/(train|toy)_\w+\.py", line) and "--steps" not in line:
        line += " --steps 2"
    if "marimo export" in line:
        line += " -- --steps 4"
    line = line.replace(".venv/bin/", f"{TOOLS}/")
    return re.sub(r"(?<![\w/])python ", f"{sys.executable} ", line)


@pages_with("sh")
def test_shell_blocks(page, tmp_path):
    """Line by line in a copy of the checkout. Installations are checked to name an extra that there is."""
    for name in ("docs", "examples", "rawgan", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "runs").mkdir()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for block in blocks(page, "sh"):
        if block.count('"') % 2 == 0 and '"\n' in block:  # a quoted program of several lines is one command
            lines = [block]
        else:
            lines = block.strip().splitlines()
        for line in lines:
            if line in ELSEWHERE:
                continue
            if line.startswith(".venv/bin/pip install -e "):
                assert set(re.findall(r"\[(\w+)\]", line)) <= extras.keys(), line
                continue
            done = subprocess.run(reduced(line), shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_named_tests_exist():
    """Every {test}`...` is collected by pytest, with its case."""
    named = {name for page in PAGES for name in re.findall(r"\{test\}`([^`]+)`", page.read_text())}
    named -= {name for name in named if not re.search(r"::test_", name)}  # fixtures, whose file and name the build checks
    assert len(named) > 60
    files = sorted({name.partition("::")[0] for name in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    collected = set(done.stdout.splitlines())
    cases = {name.partition("[")[0] for name in collected}

    def exists(name):
        test, _, case = name.partition("[")
        return any(c.startswith(test + "[") and case[:-1] in c for c in collected) if case else test in cases

    assert [name for name in sorted(named) if not exists(name)] == []


def test_explore_draws():
    """The notebook, headless, with few steps: pictures that are not empty, cotangents of every layer."""
    from docs.explore import app

    outputs, made = app.run(defs={"steps": 20})
    assert any(output is not None for output in outputs)
    for name in ("digit", "flow", "surface"):
        made[name].savefig(buffer := BytesIO(), format="rgba", dpi=30)
        assert len(np.unique(np.frombuffer(buffer.getvalue(), np.uint8))) > 10, name
    rows = made["cotangents"]()
    assert len(rows) == len(made["gan"].discriminator.layers) + len(made["gan"].generator.layers)
    assert all(0 < value < np.inf for value in rows.values())
    assert len(made["frames"]) == 2 and not np.array_equal(made["frames"][0][1], made["frames"][1][1])


def test_no_page_is_long():
    """Pages and scripts keep to 400 lines, as the code does; recipes.md is generated."""
    files = [*PAGES, *(ROOT / "docs").rglob("*.py")]
    assert [f.name for f in files if len(f.read_text().splitlines()) > 400 and f.name != "recipes.md"] == []
