"""Draws pictures with the generator of a trained run.

python examples/sample.py runs/dcgan-digits-001
python examples/sample.py runs/cgan-digits-001 --label 7 --count 16 --seed 3 --out sevens.png
"""

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works without installing

import typer

from rawgan.backend import choose_device
from rawgan.errors import UserError
from rawgan.random import Random
from rawgan.training.command import run_command
from rawgan.training.load import choose_labels, load_generator
from rawgan.training.loop import latent, sample
from rawgan.training.pictures import save_grid


def command(
    run: Annotated[Path, typer.Argument(help="run folder, as a training leaves it")],
    count: Annotated[int, typer.Option(min=1, max=10_000, help="how many pictures")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same pictures")] = 0,
    out: Annotated[Path | None, typer.Option(help="PNG file; RUN/sample.png unless given")] = None,
    label: Annotated[int | None, typer.Option(help="class of all pictures; a column for each unless given")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu")] = "auto",
):
    """Draws pictures with the generator of a trained run, all of one class on request, as one PNG."""
    where = choose_device(device)
    print(f"Device: {where.name}, computing with {where.path} ({where.why}).", flush=True)
    recipe, generator, _ = load_generator(run, where)
    labels = choose_labels(recipe, count, label)
    out = out or run / "sample.png"
    if out.suffix != ".png":
        raise UserError(f"the pictures are written as PNG: give --out a name that ends in .png, not {out.name!r}")
    z = latent(recipe, Random(seed).stream("z"), where, count, labels)
    try:
        save_grid(out, sample(recipe, generator, z), recipe.classes if recipe.classes and label is None else None)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from error
    print(f"{count} pictures of {recipe.name} are in {out}")


if __name__ == "__main__":
    run_command(command)
