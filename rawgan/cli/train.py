"""rawgan train: one recipe, trained on the user's pictures."""

from pathlib import Path
from typing import Annotated

import typer

from rawgan.cli.common import DataOption, DeviceOption, SeedOption
from rawgan.errors import UserError
from rawgan.models.recipes import RECIPES
from rawgan.training.command import run_recipe


def command(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help=f"one of {', '.join(RECIPES)}")] = None,
    data: DataOption = "digits",
    steps: Annotated[int, typer.Option(min=1, help="training steps of the generator")] = 1500,
    batch: Annotated[int | None, typer.Option(min=2, help="images per step; the recipe's own unless given")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="how wide the networks are; the recipe says what it counts")] = None,
    size: Annotated[int | None, typer.Option(help="image side; 16 for digits, else 28, unless given")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3; the data's own unless given")] = None,
    lr: Annotated[float | None, typer.Option(help="learning rate of both players; the recipe's own unless given")] = None,
    real_label: Annotated[float, typer.Option(min=0.5, max=1, help="below 1: one-sided label smoothing")] = 1.0,
    ema: Annotated[float | None, typer.Option(min=0, max=0.99999, help="decay: draw from an average of G")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two sample grids")] = 250,
    out: Annotated[Path | None, typer.Option(help="run folder, new or empty; runs/RECIPE-DATA-NNN unless given")] = None,
):
    """Trains a recipe and leaves sample grids, curves, metrics and weights in a run folder.

    rawgan train dcgan --width 32 --lr 5e-4

    rawgan train wgan_gp --data path/to/pictures --size 64
    """
    if recipe not in RECIPES:
        raise UserError(f"{recipe!r} is no recipe; there are {', '.join(RECIPES)}" if recipe else "say which recipe to train")
    options = {"size": size, "channels": channels, "width": width, "steps": steps, "batch": batch, "lr": lr, "ema": ema}
    options |= {"real_label": real_label, "seed": seed, "device": device, "sample_every": sample_every, "out": out}
    if run_recipe(RECIPES[recipe], data, **options) < steps:
        raise typer.Exit(130)
