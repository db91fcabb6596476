"""rawgan COMMAND: the list of commands, and how they are run.

A command is a module with a function `command`, whose docstring and annotations are its help; a line in COMMANDS makes it known.
"""

import sys

import typer

from rawgan.cli import evaluate, export, import_, info, interpolate, report, sample, train
from rawgan.cli.common import speaking

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
    help="GANs from scratch: train one, stop and resume it, draw from it. 'rawgan COMMAND --help' explains each command.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, module in COMMANDS.items():
    app.command(name)(speaking(module.command))


def main() -> None:
    """The command line `rawgan`."""
    app()


def run(name: str, **defaults) -> None:
    """The command line of one command alone, for scripts, with defaults of their own."""
    command = typer.main.get_command(app).commands[name]
    command.main(sys.argv[1:], prog_name=f"rawgan {name}", default_map=defaults)
