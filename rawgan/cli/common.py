"""Shared by all commands: common options, the line about the device, errors as one sentence."""

import io
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from rawgan.backend import Device, choose_device
from rawgan.cpu import set_up
from rawgan.data import NAMES
from rawgan.errors import UserError, printable
from rawgan.models.recipe_file import located

RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="run folder, as a training leaves it")
]
DeviceOption = Annotated[
    str, typer.Option(help="auto, cpu or gpu; auto takes a GPU where there is one, and says so")
]
SeedOption = Annotated[
    int,
    typer.Option(
        min=0, help="the same seed gives the same result: the same bits on CPUs of one kind"
    ),
]
LabelOption = Annotated[
    str | None,
    typer.Option(
        help="class of all pictures, by its name, for conditional recipes; all in turn unless given"
    ),
]
IMAGES = (
    f"{', '.join(NAMES)}, a folder of images (one for each class gives labels) or of IDX files, or "
    "a .zip of images, .npy or .npz file"
)
DataOption = Annotated[str, typer.Option(help=IMAGES)]
OptionalDataOption = Annotated[
    str | None, typer.Option(help=f"{IMAGES}; digits unless given, or the source's with --source")
]


RecipeFileOption = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        metavar="FILE.py",
        help="of a run that was trained with a recipe file: that file, or RUN/recipe.py if you "
        "trust it, for it is a program and is executed",
    ),
]
StepOption = Annotated[
    int | None,
    typer.Option(min=0, help="take the checkpoint of this step; the last weights unless given"),
]


def device_for(device: str) -> Device:
    """Return the device for --device, and print it with the reason for the choice."""
    device = choose_device(device)
    print(f"Device: {device.name}, computing with {device.library} ({device.reason}).", flush=True)
    return device


def with_errors_printed(command: Callable) -> Callable:
    """Return the command, set up for the CPU, with UserError and MemoryError as one sentence.

    So are errors in the code of a recipe file, with the line. The exit status is then 2.
    """

    @wraps(command)
    def run(*args, **options):
        for stream in (sys.stdout, sys.stderr):  # file names need not be valid text
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        set_up()
        try:
            with warnings.catch_warnings():
                warnings.showwarning = print_warning
                return command(*args, **options)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except MemoryError as error:
            message = "there is not enough memory for networks and batches of this size"
            print(f"error: {message} ({error})", file=sys.stderr)
            raise typer.Exit(2) from error
        except Exception as error:
            if not (message := located(error)):  # None of the code of a recipe file
                raise
            print(f"error: {printable(message)}", file=sys.stderr)
            raise typer.Exit(2) from error

    return run


def print_warning(message, *_) -> None:
    """Print a warning of any library on one line, without the path of the source that warns."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def run_command(command: Callable) -> None:
    """Run a function as the command line of a script."""
    typer.run(with_errors_printed(command))
