"""What the commands share: options that mean the same everywhere, the first line of output, and how an error is said."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from rawgan.backend import Device, choose_device
from rawgan.data import NAMES
from rawgan.errors import UserError

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="run folder, as a training leaves it")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or gpu; auto takes a GPU where there is one, and says so")]
SeedOption = Annotated[int, typer.Option(min=0, help="the same seed gives the same result, bit for bit on the CPU")]
LabelOption = Annotated[int | None, typer.Option(help="class of all pictures, for conditional recipes; all in turn unless given")]
DataOption = Annotated[str, typer.Option(help=f"{', '.join(NAMES)}, a folder of images or of IDX files, or a .npy file")]


def device_for(wish: str) -> Device:
    """The device, and the line that says which it is and why."""
    device = choose_device(wish)
    print(f"Device: {device.name}, computing with {device.path} ({device.why}).", flush=True)
    return device


def speaking(command: Callable) -> Callable:
    """The command, leaving with 2 and one sentence where the user gave what cannot be used, or what no memory can hold."""

    @wraps(command)
    def run(*args, **options):
        try:
            return command(*args, **options)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except MemoryError as error:
            print(f"error: there is not enough memory for networks and batches of this size ({error})", file=sys.stderr)
            raise typer.Exit(2) from error

    return run


def run_command(command: Callable) -> None:
    """Runs a function as the command line of a script of its own."""
    typer.run(speaking(command))
