"""The documentation is true: its code blocks run, the tests it names exist, its notebook draws."""

import re
import shutil
import subprocess
import sys
import tomllib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from rawgan.training.load import load_player
from rawgan.training.options import Options
from rawgan.training.train import start
from tests.support.process import run_process

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"])
TOOLS = Path(sys.executable).parent


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def pages_with(language: str):
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


@pages_with("python")
def test_python_blocks(page, monkeypatch, tmp_path):
    """All Python blocks of a page run in order in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for i, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, python block {i}", "exec"), namespace)


# a server that does not end; another line exports what it serves
SERVES = ".venv/bin/marimo run docs/explore.py"
SLOW = (
    "tests/training/test_faults.py tests/training/test_kills.py "
    "tests/training/test_fuzz_readers.py tests/training/test_run_files.py "
    "tests/data/test_fuzz_data.py"
)
ELSEWHERE = {  # commands that other tests and CI run
    "python3 -m venv .venv": "CI, from README.md",
    ".venv/bin/python -m pytest -n auto --dist loadfile": "CI, from README.md",
    ".venv/bin/ruff check . && .venv/bin/ruff format .": "CI, from README.md",
    ".venv/bin/python -m docs.build --serve": "tests/docs/test_docs_site.py",
    f".venv/bin/python -m pytest -m slow {SLOW}": "on request: they take an hour",
    SERVES: "the export beside it",
    f"{SERVES} -- --run runs/explored": "test_explore_draws_a_run",
}


def reduced(line: str) -> str:
    """Return the command with 2 training steps and this Python interpreter."""
    line = re.sub(r"--steps \d+", "--steps 2", line)
    if re.search(r"examples/(train|toy)_\w+\.py|rawgan train", line) and "--steps" not in line:
        line += " --steps 2"
    if "marimo export" in line:
        line += " -- --steps 4"
    # one pass: the path of this Python may itself contain ".venv/bin/"
    programs = {".venv/bin/rawgan": f"{sys.executable} -m rawgan", ".venv/bin/": f"{TOOLS}/"}
    programs["python "] = f"{sys.executable} "
    return re.sub(
        r"(?<![\w/])(\.venv/bin/rawgan|\.venv/bin/|python )", lambda m: programs[m[0]], line
    )


def test_commands_in_a_checkouts_own_environment(monkeypatch):
    """The path of this Python is inserted once, although it contains `.venv/bin/` itself."""
    tools = Path("/home/reader/rawgan/.venv/bin")
    monkeypatch.setattr(sys, "executable", f"{tools}/python")
    monkeypatch.setattr(sys.modules[__name__], "TOOLS", tools)
    assert reduced(".venv/bin/rawgan info dcgan") == f"{tools}/python -m rawgan info dcgan"
    assert reduced(".venv/bin/mpirun -n 2 .venv/bin/rawgan train dcgan") == (
        f"{tools}/mpirun -n 2 {tools}/python -m rawgan train dcgan --steps 2"
    )
    assert reduced("TRITON_INTERPRET=1 python -m benchmarks") == (
        f"TRITON_INTERPRET=1 {tools}/python -m benchmarks"
    )


@pages_with("sh")
def test_shell_blocks(page, tmp_path):
    """Shell blocks run line by line in a copy of the checkout.

    Installations are only checked to name an existing extra.
    """
    for name in ("docs", "examples", "rawgan", "kernels"):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    (tmp_path / "runs").mkdir()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for block in blocks(page, "sh"):
        if (
            block.count('"') % 2 == 0 and '"\n' in block
        ):  # a quoted program of several lines is one command
            lines = [block]
        else:
            lines = block.strip().splitlines()
        for line in lines:
            if line in ELSEWHERE:
                continue
            if line.startswith(".venv/bin/pip install -e "):
                assert set(re.findall(r"\[(\w+)\]", line)) <= extras.keys(), line
                continue
            done = subprocess.run(
                reduced(line),
                check=False,
                shell=True,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_named_tests_exist():
    """Every {test}`...` reference is a test that pytest collects, with its case."""
    named = {name for page in PAGES for name in re.findall(r"\{test\}`([^`]+)`", page.read_text())}
    named -= {
        name for name in named if not re.search(r"::test_", name)
    }  # fixtures, whose file and name the build checks
    assert len(named) > 60
    files = sorted({name.partition("::")[0] for name in named})
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "",
        *files,
    ]
    done = run_process(command, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    collected = set(done.stdout.splitlines())
    cases = {name.partition("[")[0] for name in collected}

    def exists(name):
        test, _, case = name.partition("[")
        return (
            any(c.startswith(test + "[") and case[:-1] in c for c in collected)
            if case
            else test in cases
        )

    assert [name for name in sorted(named) if not exists(name)] == []


def test_explore_draws():
    """The notebook runs headless and draws images that are not empty and all cotangents."""
    from docs.explore import app

    outputs, made = app.run(defs={"steps": 20})
    assert any(output is not None for output in outputs)
    for name in ("digit", "flow", "surface"):
        made[name].savefig(buffer := BytesIO(), format="rgba", dpi=30)
        assert len(np.unique(np.frombuffer(buffer.getvalue(), np.uint8))) > 10, name
    rows = made["cotangents"]()
    assert len(rows) == len(made["gan"].discriminator.layers) + len(made["gan"].generator.layers)
    assert all(0 < value < np.inf for value in rows.values())
    assert len(made["frames"]) == 2 and not np.array_equal(
        made["frames"][0][1], made["frames"][1][1]
    )


@pytest.mark.parametrize("recipe", ["dcgan", "raschka_mlp_gan"])
def test_explore_draws_a_run(recipe, tmp_path):
    """The notebook draws with the networks of a run folder, whatever the size of z."""
    from docs.explore import app

    size = 28 if recipe.startswith("raschka") else 16
    start(
        Options(recipe, width=8, batch=8, steps=20, lr=0.01, device="cpu", size=size),
        tmp_path / "run",
    )
    outputs, made = app.run(defs={"steps": 4, "run": tmp_path / "run"})
    assert any(output is not None for output in outputs)
    for name in ("digit", "flow"):
        made[name].savefig(buffer := BytesIO(), format="rgba", dpi=30)
        assert len(np.unique(np.frombuffer(buffer.getvalue(), np.uint8))) > 10, name
    want, _, _ = load_player(tmp_path / "run")
    assert len(made["fixed"]) == want.z
    assert len(made["cotangents"]()) == sum(
        len(load_player(tmp_path / "run", who)[1].layers) for who in ("generator", "discriminator")
    )


def test_no_page_is_long():
    """Pages and scripts have at most 400 lines, as code does; recipes.md is generated."""
    files = [*PAGES, *(ROOT / "docs").rglob("*.py")]
    assert [
        f.name for f in files if len(f.read_text().splitlines()) > 400 and f.name != "recipes.md"
    ] == []
