"""rawgan sample: draw images with the generator of a run."""

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
from rawgan.errors import counted
from rawgan.random import Random
from rawgan.training.load import choose_labels, load_generator
from rawgan.training.plots import check_pictures, save_pictures
from rawgan.training.sampling import COLUMNS, latent, sample


def command(
    run: RunArgument,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="how many pictures")] = 64,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="a grid (.png), an array (.npy), or a folder of PNG files; "
            "RUN/sample.png unless given"
        ),
    ] = None,
    label: LabelOption = None,
    step: StepOption = None,
    recipe_file: RecipeFileOption = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
):
    """Draw images with the generator of a run, or with its average where --ema kept one.

    The suffix of --out chooses the format: a grid of all images (.png), an array uint8 (N, H, W, C)
    for other programs (.npy), or without a suffix a folder with a file for each. An --out that
    is there is replaced with --force only, of a folder the pictures that this command wrote;
    RUN/sample.png also without it, as long as it is as rawgan wrote it.

    `rawgan sample runs/dcgan-digits-001 --count 100 --out grid.png`

    `rawgan sample runs/cgan-digits-001 --label 7 --count 1000 --out sevens.npy`
    """
    named, out = out is not None, out or run / "sample.png"
    check_pictures(out)
    require_outputs(run, [out], named, force)
    where = device_for(device)
    recipe, generator, config = load_generator(run, where, step, recipe_file)
    labels = choose_labels(recipe, count, label, config.get("classes") or ())
    z = latent(recipe, Random(seed).stream("z"), where, count, labels)
    save_pictures(
        out,
        sample(recipe, generator, z),
        min(recipe.classes, COLUMNS) if recipe.classes and label is None else None,
    )
    if not named:
        record_outputs(run, [out.name])
    print(f"{counted(count, 'picture')} of {recipe.name} written to {out}")
