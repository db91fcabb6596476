"""rawgan report: a page about a run."""

from pathlib import Path
from typing import Annotated

import typer

from rawgan.cli.common import RunArgument
from rawgan.cli.outputs import ForceOption, record_outputs, require_outputs
from rawgan.files import write_whole


def command(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file, new; RUN/report.html unless given"),
    ] = None,
    force: ForceOption = False,
):
    """Write one self-contained HTML page about a run: images, curves, gradients, scores, options.

    An --out that is there is replaced with --force only; RUN/report.html also without it, as long
    as it is as rawgan wrote it.

    rawgan report runs/dcgan-digits-001
    """
    path = out or run / "report.html"
    require_outputs(run, [path], out is not None, force)
    from rawgan.report import page  # not at the top: it imports matplotlib, which is slow

    write_whole(path, page(run).encode("utf-8", "backslashreplace"))
    if out is None:
        record_outputs(run, [path.name])
    print(f"The report is {path}")
