"""Set-up shared by the benchmark commands: options, device, deadline and result file.

A dry run computes at toy size on NumPy arrays with the kernels in Triton's interpreter. It checks
that a command, its parser, tables and report work, and measures nothing.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.facts import RESULTS, begun, facts, write
from rawgan.backend import Device, choose_device
from rawgan.errors import UserError

DRY = {"name": "dry run, no GPU", "capability": 90}


def parser(description: str, minutes: float = 5) -> argparse.ArgumentParser:
    """Return an argument parser with the options that these commands share."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--out", type=Path, help="folder of the result (default: benchmarks/results)"
    )
    options.add_argument("--commit", help="commit to record where there is no git")
    options.add_argument(
        "--minutes", type=float, default=minutes, help="begin nothing after them (%(default)s)"
    )
    options.add_argument(
        "--dry-run", action="store_true", help="toy size without a GPU; measures nothing"
    )
    return options


def add_choices(
    options: argparse.ArgumentParser, name: str, choices: Iterable[str], metavar: str
) -> None:
    """Add an option that takes one or more of the choices; all of them are its default."""
    options.add_argument(
        name,
        nargs="+",
        choices=choices,
        default=list(choices),
        metavar=metavar,
        help=", ".join(choices),
    )


class Command(NamedTuple):
    """A running command: device, result, result file, and its deadline for starting new work."""

    device: Device
    result: dict
    path: Path
    deadline: float

    def save(self) -> None:
        """Write the current result to its file."""
        write(self.result, self.path)

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline - time.monotonic()


def out_folder(out: Path | None, dry: bool) -> Path:
    """Return the folder for results.

    Raises UserError if a dry run would write into benchmarks/results.
    """
    if not dry:
        return (out or RESULTS).resolve()
    folder = (out or Path(tempfile.mkdtemp(prefix="rawgan-dry-run-"))).resolve()
    if folder == RESULTS or RESULTS in folder.parents:
        raise UserError(
            "a dry run measures nothing: give it a folder outside benchmarks/results with --out"
        )
    return folder


def toy_device() -> Device:
    """Return a NumPy device with Triton's interpreter.

    Matrix products in the interpreter are set to round as tensor cores do. Raises UserError unless
    TRITON_INTERPRET is set.
    """
    device = choose_device("cpu", kernels=True)
    from rawgan.kernels.specs.testing import mend_interpreter  # imports Triton

    mend_interpreter()
    return device


def begin(kind: str, args: argparse.Namespace) -> Command:
    """Choose the device and open the result file of this kind.

    Raises UserError without a GPU, except in a dry run.
    """
    deadline = time.monotonic() + 60 * args.minutes
    device = toy_device() if args.dry_run else choose_device("gpu")
    result, path = begun(
        kind, facts(describe(device), args.commit), out_folder(args.out, args.dry_run)
    )
    return Command(device, result, path, deadline)


def describe(device: Device) -> dict:
    """Return the device description that results record."""
    if device.name == "cpu":
        return DRY
    from benchmarks.common.timing import gpu

    return gpu(device.xp.cuda)
