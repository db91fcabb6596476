"""rawgan sample: pictures from the generator of a run."""

from pathlib import Path
from typing import Annotated

import typer

from rawgan.cli.common import DeviceOption, LabelOption, RunArgument, SeedOption, device_for
from rawgan.random import Random
from rawgan.training.load import choose_labels, load_generator
from rawgan.training.loop import latent, sample
from rawgan.training.pictures import check_pictures, save_pictures


def command(
    run: RunArgument,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="how many pictures")] = 64,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(help="a grid (.png), an array (.npy), or a folder of PNG files; RUN/sample.png unless given")
    ] = None,
    label: LabelOption = None,
    device: DeviceOption = "auto",
):
    """Draws pictures with the generator of a run, or with its average where --ema kept one.

    The suffix of --out says what is written: a grid of all pictures (.png), the bytes as uint8 (N, H, W, C) for other programs
    (.npy), or without a suffix a folder with a file for each.

    `rawgan sample runs/dcgan-digits-001 --count 100 --out grid.png`

    `rawgan sample runs/cgan-digits-001 --label 7 --count 1000 --out sevens.npy`
    """
    where = device_for(device)
    recipe, generator, _ = load_generator(run, where)
    labels = choose_labels(recipe, count, label)
    out = out or run / "sample.png"
    check_pictures(out)
    z = latent(recipe, Random(seed).stream("z"), where, count, labels)
    save_pictures(out, sample(recipe, generator, z), recipe.classes if recipe.classes and label is None else None)
    print(f"{count} pictures of {recipe.name} are in {out}")
