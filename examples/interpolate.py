"""Walks through the latent space of a trained run, along straight lines and along great circles.

python examples/interpolate.py runs/dcgan-digits-001
python examples/interpolate.py runs/cgan-digits-001 --label 7 --seed 3 --out .
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
from rawgan.training.interpolate import linear, save_gif, save_strip, spherical, walk
from rawgan.training.load import choose_labels, load_generator


def command(
    run: Annotated[Path, typer.Argument(help="run folder, as a training leaves it")],
    pairs: Annotated[int, typer.Option(min=1, max=64, help="how many walks, a row each")] = 8,
    frames: Annotated[int, typer.Option(min=2, max=240, help="pictures on each walk, both ends counted")] = 31,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same walks")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for the pictures; RUN unless given")] = None,
    label: Annotated[int | None, typer.Option(help="class of all walks; one after another unless given")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu")] = "auto",
):
    """Writes interpolation-linear and interpolation-spherical, each as a strip (.png) and as an animation (.gif)."""
    where = choose_device(device)
    print(f"Device: {where.name}, computing with {where.path} ({where.why}).", flush=True)
    recipe, generator, _ = load_generator(run, where)
    labels = choose_labels(recipe, pairs, label)
    rng, out = Random(seed).stream("z"), out or run
    z0, z1 = (recipe.draw_z(rng, pairs) for _ in range(2))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for between in (linear, spherical):
            images = walk(recipe, generator, where, z0, z1, frames, between, labels)
            save_strip(out / f"interpolation-{between.__name__}.png", images)
            save_gif(out / f"interpolation-{between.__name__}.gif", images)
    except OSError as error:
        raise UserError(f"the pictures cannot be written into {out}: {error.strerror}") from error
    print(f"{pairs} walks through {recipe.name} are in {out}/interpolation-linear and interpolation-spherical, .png and .gif")


if __name__ == "__main__":
    run_command(command)
