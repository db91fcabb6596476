"""A copy of the checkout, and changes to its files: what a contributor does."""

import os
import re
import shutil
import sys
from pathlib import Path

from tests.support.process import run_process

ROOT = Path(__file__).parents[2]
GENERATED = (".git", ".venv", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")


def fresh_clone(folder: Path) -> Path:
    """Return a copy of the checkout without the files that git ignores."""
    ignore = shutil.ignore_patterns(*GENERATED)
    return shutil.copytree(ROOT, folder / "clone", symlinks=True, ignore=ignore)


def replace_once(path: Path, old: str, new: str) -> None:
    """Replace the only occurrence of a text in a file."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new))


def insert(path: Path, before: str, text: str) -> None:
    """Insert a text in front of the only occurrence of another."""
    replace_once(path, before, text + before)


def append(path: Path, text: str) -> None:
    path.write_text(f"{path.read_text().rstrip()}\n\n\n{text.strip()}\n")


def apply_diff(clone: Path, diff: str) -> None:
    """Apply a diff without line numbers: the old lines of a hunk occur in the file once."""
    header, *hunks = re.split(r"^@@\n", diff, flags=re.MULTILINE)
    path = clone / header.removeprefix("--- ").strip()
    for hunk in hunks:
        lines = [(line[:1], line[1:]) for line in hunk.splitlines()]
        old, new = (
            "".join(f"{line}\n" for mark, line in lines if mark in kept) for kept in (" -", " +")
        )
        replace_once(path, old, new)


def run_python(clone: Path, *arguments: str) -> str:
    """Run Python in the copy, with the packages of the copy; return its output."""
    environment = os.environ | {"PYTHONPATH": str(clone)}
    done = run_process([sys.executable, *arguments], cwd=clone, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_tests(clone: Path, arguments: list[str], least: int) -> None:
    """Run pytest in the copy; assert that at least so many tests pass and none fails."""
    output = run_python(clone, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    passed = re.search(r"(\d+) passed", output)
    assert passed and int(passed[1]) >= least, output
