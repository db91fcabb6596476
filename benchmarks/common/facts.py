"""Result files: device, versions, commit and date of a measurement; reading and writing JSON."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from rawgan.cpu import set_up
from rawgan.errors import UserError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
NOT = "not measured"


def library(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def output(*command: str) -> str | None:
    """Return the output of a system command, or None if it cannot be run or fails."""
    try:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def checkout() -> str:
    """Return the commit, with "-dirty" appended if tracked files differ.

    Those of benchmarks/results and kernels/configs, which measurements write, do not count.
    Without git, return a digest of the sources, which distinguishes results of different versions.
    """
    commit = output("git", "rev-parse", "HEAD")
    if commit is None:
        digest = sha256()
        for path in sorted(
            path
            for folder in ("rawgan", "kernels", "benchmarks")
            for path in (ROOT / folder).rglob("*.py")
        ):
            digest.update(path.read_bytes())
        return f"no git, sources {digest.hexdigest()[:16]}"
    changed = output(
        "git",
        "--no-optional-locks",
        "status",
        "--porcelain",
        "-uno",
        "--",
        ".",
        ":!benchmarks/results",
        ":!kernels/configs",
    )
    return f"{commit}-dirty" if changed else commit


def gemm_tables() -> str | None:
    """Return a digest of the measured configurations of GEMMs; None where there are none."""
    files = sorted((ROOT / "kernels/configs").glob("*.toml"))
    digest = sha256(b"".join(path.read_bytes() for path in files))
    return digest.hexdigest()[:12] if files else None


def facts(device: dict, commit: str | None = None) -> dict:
    """Return device, versions, commit, tables of configurations and date of a result.

    `commit` replaces the commit read from git.
    """
    cupy = next(
        (name for name in ("cupy-cuda12x", "cupy-cuda13x", "cupy") if library(name)), "cupy"
    )
    return {
        "device": device
        | {"driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")},
        "versions": {"python": sys.version.split()[0]}
        | {name: library(name) for name in ("triton", cupy, "numpy", "torch")},
        "commit": commit or checkout(),
        "gemm_tables": gemm_tables(),
        "date": time.strftime("%Y-%m-%d"),
    }


def as_program(main: Callable[[], int]) -> NoReturn:
    """Run main() and exit with its status; on a UserError print one sentence and exit with 2."""
    set_up()
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def reason(error: Exception) -> dict:
    """Return the cell of a value that could not be measured, with the error's first line."""
    lines = str(error).strip().splitlines()
    return {"not_measured": f"{type(error).__name__}: {lines[0] if lines else ''}"}


def slug(name: str) -> str:
    """Return a device name in the form used in file names."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def write(result: dict, path: Path) -> None:
    """Write the JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(result, indent=1) + "\n")
    draft.replace(path)


def load(kind: str, folder: Path = RESULTS) -> list[dict]:
    """Return all results of a kind ("steps", "precision"), one per device and session folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.rglob(f"{kind}_*.json"))]


def load_plans(folder: Path = RESULTS) -> dict:
    """Return launches and arenas of all plans, from `python -m benchmarks.steps --plans`."""
    return json.loads((folder / "plans.json").read_text())


def begun(kind: str, described: dict, folder: Path) -> tuple[dict, Path]:
    """Return the result to extend, and its file: an existing one of this device, or a new one.

    Raises UserError if the existing file is from another commit or other versions.
    """
    path = folder / f"{kind}_{slug(described['device']['name'])}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    if result and any(result.get(key) != described[key] for key in ("commit", "versions")):
        raise UserError(
            f"{path} holds figures of another commit or other versions: "
            f"move it away, or name another folder with --out"
        )
    return described | {key: value for key, value in result.items() if key not in described}, path
