"""rawgan interpolate: walks through the latent space of a run."""

from pathlib import Path
from typing import Annotated

import typer

from rawgan.cli.common import DeviceOption, LabelOption, RunArgument, SeedOption, device_for
from rawgan.errors import UserError
from rawgan.random import Random
from rawgan.training.interpolate import linear, save_gif, save_strip, spherical, walk
from rawgan.training.load import choose_labels, load_generator


def command(
    run: RunArgument,
    pairs: Annotated[int, typer.Option(min=1, max=64, help="how many walks, a row each")] = 8,
    frames: Annotated[int, typer.Option(min=2, max=240, help="pictures on each walk, both ends counted")] = 31,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="folder for the pictures; RUN unless given")] = None,
    label: LabelOption = None,
    device: DeviceOption = "auto",
):
    """Walks through latent space from one picture to another, along the straight line and along the great circle.

    Writes interpolation-linear and interpolation-spherical, each as a strip (.png) and as an animation (.gif).

    `rawgan interpolate runs/dcgan-digits-001 --pairs 4`
    """
    where = device_for(device)
    recipe, generator, _ = load_generator(run, where)
    labels = choose_labels(recipe, pairs, label)
    rng, out = Random(seed).stream("z"), out or run
    z0, z1 = (recipe.draw_z(rng, pairs) for _ in range(2))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the pictures cannot be written into {out}: {error.strerror}") from error
    for between in (linear, spherical):
        images = walk(recipe, generator, where, z0, z1, frames, between, labels)
        save_strip(out / f"interpolation-{between.__name__}.png", images)
        save_gif(out / f"interpolation-{between.__name__}.gif", images)
    print(f"{pairs} walks through {recipe.name} are in {out}/interpolation-linear and interpolation-spherical, .png and .gif")
