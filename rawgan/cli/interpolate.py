"""rawgan interpolate: images along lines through the latent space of a run."""

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from rawgan.cli.common import (
    DeviceOption,
    LabelOption,
    RecipeFileOption,
    RunArgument,
    SeedOption,
    StepOption,
    device_for,
)
from rawgan.cli.outputs import ForceOption, record_outputs, require_outputs
from rawgan.errors import UserError, counted
from rawgan.random import Random
from rawgan.training.interpolate import interpolate, linear, save_gif, save_strip, spherical
from rawgan.training.load import choose_labels, load_generator


def command(
    run: RunArgument,
    pairs: Annotated[
        int, typer.Option(min=1, max=64, help="how many interpolations, a row each")
    ] = 8,
    frames: Annotated[
        int, typer.Option(min=2, max=240, help="images of each, both ends counted")
    ] = 31,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(help="folder for the pictures; RUN unless given")
    ] = None,
    label: LabelOption = None,
    step: StepOption = None,
    recipe_file: RecipeFileOption = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
):
    """Interpolate between images through latent space, along a straight line and a great circle.

    Writes interpolation-linear and interpolation-spherical, each as a strip (.png) and as an
    animation (.gif). Files that are there are replaced with --force only; those in RUN also without
    it, as long as they are as rawgan wrote them.

    `rawgan interpolate runs/dcgan-digits-001 --pairs 4`
    """
    named, out = out is not None, out or run
    names = [
        f"interpolation-{between.__name__}.{suffix}"
        for between, suffix in product((linear, spherical), ("png", "gif"))
    ]
    require_outputs(run, [out / name for name in names], named, force)
    where = device_for(device)
    recipe, generator, config = load_generator(run, where, step, recipe_file)
    labels = choose_labels(recipe, pairs, label, config.get("classes") or ())
    rng = Random(seed).stream("z")
    z0, z1 = (recipe.draw_z(rng, pairs) for _ in range(2))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the pictures cannot be written into {out}: {error.strerror}") from error
    for interpolation in (linear, spherical):
        images = interpolate(recipe, generator, where, z0, z1, frames, interpolation, labels)
        save_strip(out / f"interpolation-{interpolation.__name__}.png", images)
        save_gif(out / f"interpolation-{interpolation.__name__}.gif", images)
    if not named:
        record_outputs(run, names)
    print(
        f"{counted(pairs, 'interpolation')} of {recipe.name} written to "
        f"{out}/interpolation-linear and interpolation-spherical, .png and .gif"
    )
