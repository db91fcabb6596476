"""Which files a command may replace: nothing that is the user's, except with --force.

A file that --out or --json names is replaced with --force only. A file in the run folder whose
name the command chose is also replaced without it, as long as it is as rawgan wrote it: its
checksum is in RUN/outputs.json.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer

from rawgan.errors import UserError
from rawgan.files import ARRAYS, Unreadable, kind, open_file, read_json, write_whole

RECORD = "outputs.json"  # the SHA-256 of each output by its name

ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="replace the output where it is there already; without it only a file in RUN whose "
        "name this command chose is replaced, and only as rawgan wrote it",
    ),
]


def require_free(path: Path, force: bool, option: str = "--out") -> None:
    """Raise UserError where a command would overwrite a file, or write into a folder with content.

    With `force` a file is replaced. Anything that is neither file nor folder is refused always.
    """
    held = kind(path)
    if held == "a link" and path.exists():
        held = "a folder" if path.is_dir() else "a file"
    if held is None or (held == "a folder" and not any(path.iterdir())):
        return
    if not force:
        raise UserError(
            f"{path} is there already: give {option} another name, or --force to replace it"
        )
    if held not in ("a file", "a folder"):
        raise UserError(f"{path} is {held}, which is not replaced: give {option} another name")


def require_outputs(
    run: Path, paths: list[Path], named: bool, force: bool, option: str = "--out"
) -> None:
    """Raise UserError where a command may not write one of these files without, or with, --force.

    named: whether `option` named them; else the command chose their names in the run folder.
    """
    if not named:
        return require_replaceable(run, [path.name for path in paths], force, option)
    for path in paths:
        require_free(path, force, option)


def require_replaceable(run: Path, names: list[str], force: bool, option: str = "--out") -> None:
    """Raise UserError where a file of the run folder is not as rawgan wrote it, unless `force`.

    Anything that is no file is refused always.
    """
    for path in (run / name for name in names):
        if (held := kind(path)) is None:
            continue
        if held != "a file":
            raise UserError(f"{path} is {held}, which is not replaced: give {option} another name")
        if not force and checksum(path) != recorded(run).get(path.name):
            raise UserError(
                f"{path} is there already, and may be yours, for {run / RECORD} does not have its "
                f"checksum: give {option} another name, or --force to replace it"
            )


def record_outputs(run: Path, names: list[str]) -> None:
    """Write the checksums of files that were just written into a run folder to RUN/outputs.json."""
    checksums = recorded(run) | {name: checksum(run / name) for name in names}
    write_whole(run / RECORD, json.dumps(checksums, indent=1).encode() + b"\n")


def recorded(run: Path) -> dict:
    """Return the checksums of a run's outputs by name; {} where they cannot be read."""
    try:
        return read_json(run / RECORD)
    except Unreadable:
        return {}


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file. Raises UserError where it cannot be read."""
    try:
        with open_file(path, ARRAYS) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (Unreadable, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
