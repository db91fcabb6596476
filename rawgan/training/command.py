"""The command line that all examples share: one recipe, trained on the user's pictures."""

import math
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

from rawgan.backend import choose_device
from rawgan.data import load
from rawgan.errors import UserError
from rawgan.layers import parameter_count
from rawgan.losses import BCE
from rawgan.models.recipes import Recipe
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


def run_recipe(recipe, data, *, size, channels, width, steps, batch, lr, real_label, ema, seed, device, sample_every, out) -> int:
    """Trains, printing at once where it runs and why; returns the steps done. All arguments as on the command line."""
    where = choose_device(device)
    print(f"Device: {where.name}, computing with {where.path} ({where.why}); no Triton kernels in this path.", flush=True)
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
