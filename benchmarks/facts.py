"""What every result says of itself: device, versions, commit, date; and how it is kept."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from rawgan.errors import UserError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
NOT = "not measured"


def library(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def output(*command: str) -> str | None:
    """What a program of the system says, or None where it does not run."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def checkout() -> str:
    """The commit, "-dirty" where tracked files differ from it; results may, they do not change what is measured. Where there is no
    git, a digest of the sources, so that figures of two versions are told apart."""
    commit = output("git", "rev-parse", "HEAD")
    if commit is None:
        digest = sha256()
        for path in sorted(path for folder in ("rawgan", "kernels", "benchmarks") for path in (ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
        return f"no git, sources {digest.hexdigest()[:16]}"
    changed = output("git", "--no-optional-locks", "status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results")
    return f"{commit}-dirty" if changed else commit


def facts(device: dict, commit: str | None = None) -> dict:
    """What figures belong to. `commit`: what to say where there is no git."""
    cupy = next((name for name in ("cupy-cuda12x", "cupy-cuda13x", "cupy") if library(name)), "cupy")
    return {
        "device": device | {"driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")},
        "versions": {"python": sys.version.split()[0]} | {name: library(name) for name in ("triton", cupy, "numpy", "torch")},
        "commit": commit or checkout(),
        "date": time.strftime("%Y-%m-%d"),
    }


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_program(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends with its status; bad input is one sentence, and 2."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def reason(error: Exception) -> dict:
    """The cell of what could not be measured."""
    said = str(error).strip().splitlines()
    return {"not_measured": f"{type(error).__name__}: {said[0] if said else ''}"}


def slug(name: str) -> str:
    """A device's name as part of a file's."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def write(result: dict, path: Path) -> None:
    """The JSON file; complete at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(result, indent=1) + "\n")
    draft.replace(path)


def load(kind: str, folder: Path = RESULTS) -> list[dict]:
    """All results of a kind, `steps` or `precision`, one for each device."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{kind}_*.json"))]


def begun(kind: str, own: dict, folder: Path) -> tuple[dict, Path]:
    """The result that a device has in a folder, to be added to, and its file. Raises UserError for one of other code."""
    path = folder / f"{kind}_{slug(own['device']['name'])}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    if result and any(result.get(key) != own[key] for key in ("commit", "versions")):
        raise UserError(
            f"{path} holds figures of another commit or other versions: move it away, or name another folder with --out"
        )
    return own | {key: value for key, value in result.items() if key not in own}, path
