"""Versions of the software that a run was computed with, for config.json."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import rawgan
from rawgan.cpu import blas_name
from rawgan.errors import printable


def software() -> dict:
    """Return the versions of libraries, and rawgan's commit where it runs from a git checkout."""
    versions = {
        "rawgan": rawgan.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas_name(),
    }
    return {"versions": versions, "commit": commit_of(Path(rawgan.__file__).parents[1])}


def commit_of(root: Path) -> str | None:
    """Return the commit of a git checkout, with "-dirty" if files have changed; else None.

    Git takes no lock for it: a process killed meanwhile would leave that lock in the repository.
    """
    if not (root / ".git").exists() or not (git := shutil.which("git")):
        return None
    status = [git, "--no-optional-locks", "-C", str(root), "status"]
    status += ["--porcelain=v2", "--branch", "--untracked-files=no"]
    text = subprocess.run(status, check=False, capture_output=True, text=True).stdout
    commit = re.search(r"^# branch\.oid ([0-9a-f]+)$", text, re.MULTILINE)
    changed = re.search(r"^[^#]", text, re.MULTILINE)
    return commit and commit[1] + ("-dirty" if changed else "")


def warn_of_other_libraries(config: dict) -> None:
    """Warn where NumPy or BLAS, on which the bits of a step depend, differ from the run's start."""
    before, now = config.get("versions"), software()["versions"]
    for name in ("numpy", "blas"):
        if isinstance(before, dict) and before.get(name, now[name]) != now[name]:
            was = printable(before[name], 80)
            print(
                f"warning: the run began with {name} {was} and goes on with {now[name]}: "
                "its bits may differ",
                file=sys.stderr,
            )
