"""rawgan COMMAND: the list of commands.

A command is a module with a function `command`, whose docstring and annotations are its help text,
and an entry in COMMANDS.
"""

import sys
from typing import Annotated

import typer

import rawgan
from rawgan.cli import evaluate, export, import_, info, interpolate, report, sample, train
from rawgan.cli.common import with_errors_printed

COMMANDS = {
    "train": train,
    "sample": sample,
    "interpolate": interpolate,
    "evaluate": evaluate,
    "report": report,
    "export": export,
    "import": import_,
    "info": info,
}

app = typer.Typer(
    name="rawgan",
    help="GANs from scratch: train one, stop and resume it, draw from it. "
    "'rawgan COMMAND --help' explains each command.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Print the version and leave, where --version is given."""
    if wanted:
        print(f"rawgan {rawgan.__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=print_version, help="print the version and leave"
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


for name, module in COMMANDS.items():
    app.command(name)(with_errors_printed(module.command))


def main() -> None:
    """Run the command line `rawgan`."""
    app()


def run(name: str, **defaults) -> None:
    """Run the command line of one command, with other defaults, for scripts."""
    command = typer.main.get_command(app).commands[name]
    command.main(sys.argv[1:], prog_name=f"rawgan {name}", default_map=defaults)
