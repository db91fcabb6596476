"""rawgan report: a page about a run."""

from pathlib import Path
from typing import Annotated

import typer

from rawgan.cli.common import RunArgument
from rawgan.report import page
from rawgan.training.run import write_whole


def command(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="HTML file; RUN/report.html unless given")] = None,
):
    """Writes one HTML page about a run: pictures, curves, gradients, scores and how it was made, all inside the file.

    rawgan report runs/dcgan-digits-001
    """
    html, path = page(run), out or run / "report.html"
    write_whole(path, html.encode())
    print(f"The report is {path}")
