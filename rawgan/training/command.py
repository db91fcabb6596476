"""The command line that all examples share: one recipe, trained on the user's pictures."""

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rawgan.backend import Device, choose_device
from rawgan.data import load
from rawgan.errors import UserError
from rawgan.layers import parameter_count
from rawgan.losses import BCE
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.random import Random
from rawgan.training.loop import Feed, columns, curves, train
from rawgan.training.run import RunFolder, free_folder


def changed(recipe: Recipe, lr: float | None, real_label: float) -> Recipe:
    """The recipe with the user's learning rate for both players and label smoothing. Raises UserError where they make no sense."""
    if lr is not None:
        if not (math.isfinite(lr) and lr > 0):
            raise UserError(f"a learning rate is a positive number, not {lr}")
        optimizers = (recipe.generator_optimizer, recipe.discriminator_optimizer)
        g, d = (partial(optimizer, lr=lr) for optimizer in optimizers)
        recipe = replace(recipe, generator_optimizer=g, discriminator_optimizer=d)
    if real_label != 1:
        if not isinstance(recipe.objective, BCE):
            raise UserError(f"{recipe.name} has no labels to smooth: leave --real-label out")
        recipe = replace(recipe, objective=BCE(real_label, recipe.objective.minimax))
    return recipe


def natural_size(data: str) -> int:
    """The side of pictures when the user names none."""
    return 16 if data == "digits" else 28


def say_where(where: Device) -> None:
    """The first line of every run."""
    print(f"Device: {where.name}, computing with {where.path} ({where.why}); no Triton kernels in this path.", flush=True)


def run_command(command: Callable) -> None:
    """Runs a typer command; leaves with 2, and one sentence, for what the user gave and cannot be used."""
    try:
        typer.run(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def run_recipe(recipe, data, *, size, channels, width, steps, batch, lr, real_label, ema, seed, device, sample_every, out) -> int:
    """Trains, printing at once where it runs and why; returns the steps done. All arguments as on the command line."""
    where = choose_device(device)
    say_where(where)
    recipe, random = changed(recipe, lr, real_label), Random(seed)
    images = load(data, natural_size(data) if size is None else size, channels)
    _, H, _, C = images.images.shape
    print(f"Data: {len(images)} images of {H}x{H}x{C}: {images.source}.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gan = recipe.build(random, H, C, width, where)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    G, D = parameter_count(gan.generator), parameter_count(gan.discriminator)
    print(f"Recipe: {recipe.name}, {recipe.source}. G has {G:,} parameters, D {D:,}.", flush=True)
    feed = Feed(recipe, images, batch or recipe.batch, random, where)
    config = {
        "recipe": recipe.name,
        "data": images.name,
        "size": H,
        "channels": C,
        "width": width or recipe.width,
        "steps": steps,
    }
    config |= {"batch": feed.batch, "lr": lr, "real_label": real_label, "ema": ema, "seed": seed}
    config |= {"device": where.name, "path": where.path}
    run = RunFolder(out or free_folder(Path("runs") / f"{recipe.name}-{images.name}"), config, columns(curves(recipe)))
    done = train(gan, recipe, feed, run, steps=steps, sample_every=sample_every, ema=ema)
    print(f"{done} steps done; samples, curves, metrics and weights are in {run.path}/")
    return done


def main(recipe: str, about: str, *, data="digits", size=None, width=None, steps=1500, lr=None, real_label=1.0) -> None:
    """Runs the command line of one example; the arguments are its defaults. Leaves with 2 for bad input, with 130 after Ctrl-C."""

    def command(
        data: Annotated[str, typer.Option(help="digits, mnist, fashion-mnist, or a folder of IDX files or of images")] = data,
        steps: Annotated[int, typer.Option(min=1, help="training steps of the generator")] = steps,
        batch: Annotated[int | None, typer.Option(min=2, help="images per step; the recipe's own unless given")] = None,
        width: Annotated[int | None, typer.Option(min=1, help="how wide the networks are; the recipe says what it counts")] = width,
        size: Annotated[int | None, typer.Option(help="image side; 16 for digits, else 28, unless given")] = size,
        channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3; the data's own unless given")] = None,
        lr: Annotated[float | None, typer.Option(help="learning rate of both players; the recipe's own unless given")] = lr,
        real_label: Annotated[float, typer.Option(min=0.5, max=1, help="below 1: one-sided label smoothing")] = real_label,
        ema: Annotated[float | None, typer.Option(min=0, max=0.99999, help="decay: draw from an average of G")] = None,
        seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same run, bit for bit on the CPU")] = 0,
        device: Annotated[str, typer.Option(help="auto, cpu or gpu")] = "auto",
        sample_every: Annotated[int, typer.Option(min=1, help="steps between two sample grids")] = 250,
        out: Annotated[Path | None, typer.Option(help="run folder, new or empty; runs/RECIPE-DATA-NNN unless given")] = None,
    ):
        options = {"size": size, "channels": channels, "width": width, "steps": steps, "batch": batch, "lr": lr, "ema": ema}
        options |= {"real_label": real_label, "seed": seed, "device": device, "sample_every": sample_every, "out": out}
        if run_recipe(RECIPES[recipe], data, **options) < steps:
            raise typer.Exit(130)

    command.__doc__ = f"{about} Leaves sample grids, curves, metrics and weights in a run folder."
    run_command(command)
