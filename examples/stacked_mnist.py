"""Stacked MNIST: how many of 1,000 modes a GAN covers, with three losses and one small network.

python examples/stacked_mnist.py
python examples/stacked_mnist.py --method plain --steps 3000

A picture has a digit in each of its three channels. The digits are MNIST where its files are in
the cache (`rawgan train dcgan --data mnist` downloads it), else digits drawn from fonts. The mode
of a sample is what a classifier, trained on the same digits, sees in its channels.
"""

import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import typer

from rawgan.backend import CPU
from rawgan.cli.common import run_command
from rawgan.cpu import set_up
from rawgan.data import Images
from rawgan.data.stacked import MODES, base_digits, mode_of, read_stacked
from rawgan.errors import UserError
from rawgan.gan import GAN, Schedule
from rawgan.losses import BCE, Wasserstein
from rawgan.metrics.classes import kl_to_uniform, modes_covered
from rawgan.metrics.classifier import Classifier, load_or_train_classifier
from rawgan.models.recipe import Recipe
from rawgan.models.recipes import RECIPES
from rawgan.optim import Adam
from rawgan.penalties import R1, R2, WGANGP
from rawgan.random import Random
from rawgan.training.loop import progress_bar
from rawgan.training.plots import save_grid
from rawgan.training.prefetch import Feed
from rawgan.training.run_folder import free_folder, prepare_picture
from rawgan.training.sampling import sample

SIZE, WIDTH, BATCH, STEPS, RATE = 16, 16, 64, 1500, 1e-3
SAMPLES, SAMPLE_BATCH = 25_600, 512


def method(name: str, betas: tuple[float, float], **changes) -> Recipe:
    """Return the recipe r3gan with another loss, and with RATE for both players."""
    adam = partial(Adam, lr=RATE, betas=betas)
    players = {"generator_optimizer": adam, "discriminator_optimizer": adam}
    return replace(RECIPES["r3gan"], name=name, departures=(), **players, **changes)


METHODS = {
    "plain": method("plain", (0.5, 0.999), objective=BCE(), penalty=None),
    "wgan_gp": method(
        "wgan_gp",
        (0.0, 0.9),
        objective=Wasserstein(),
        penalty=WGANGP(10),
        schedule=Schedule(resample_z=True, critic_steps=lambda step: 5),
    ),
    "r3gan": method("r3gan", (0.0, 0.99), penalty=(R1(1.0), R2(1.0))),
}


@dataclass
class Counter:
    """Counts the modes of a generator's samples, by a classifier of single digits."""

    classifier: Classifier
    samples: int = SAMPLES

    def predicted(self, images: np.ndarray) -> np.ndarray:
        """Return the modes (N,) of pictures uint8 (N, H, W, 3)."""
        digits = [self.classifier.classify(images[..., i : i + 1])[1] for i in range(3)]
        return mode_of(np.stack(digits, 1))

    def __call__(self, recipe: Recipe, gan: GAN) -> tuple[int, float, np.ndarray]:
        """Return the number of modes, the KL to the uniform distribution, and the samples."""
        z = recipe.draw_z(np.random.default_rng(1), self.samples)
        images = sample(recipe, gan.generator, z, SAMPLE_BATCH)
        modes = self.predicted(images)
        return modes_covered(modes), kl_to_uniform(modes, MODES), images


def build(name: str, seed: int, images: Images, width: int = WIDTH) -> tuple[GAN, Feed]:
    """Return the GAN of a method with initial weights, and the inputs of its steps."""
    recipe, random = METHODS[name], Random(seed)
    gan = recipe.build(random, images.images.shape[1], 3, width)
    return gan, Feed(recipe, images, BATCH, random, CPU)


def train(name: str, seed: int, steps: int, size: int = SIZE, width: int = WIDTH) -> GAN:
    """Return the GAN of a method after `steps` steps of its generator."""
    gan, feed = build(name, seed, read_stacked(size), width)
    with progress_bar(steps) as bar:
        bar.set_description(f"{name:7}")
        for step in range(steps):
            gan.train_step(*feed.step(step))
            bar.update()
    return gan


def command(
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}, or all of them")] = "all",
    steps: Annotated[int, typer.Option(min=1, help="training steps of the generator")] = STEPS,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same pictures")] = 0,
    samples: Annotated[int, typer.Option(min=64, help="samples that are classified")] = SAMPLES,
    out: Annotated[
        Path | None,
        typer.Option(help="the folder of the pictures; runs/stacked-mnist-NNN unless given"),
    ] = None,
):
    """Trains a small GAN on stacked MNIST and counts the modes it covers, of 1,000."""
    if method not in ("all", *METHODS):
        raise UserError(f"there is no method {method!r}: choose all, {', '.join(METHODS)}")
    set_up()
    out = out or free_folder(Path("runs") / "stacked-mnist")
    digits = base_digits(SIZE)
    print(f"Data: {digits.name}, {digits.source}, three to a picture.", flush=True)
    count = Counter(load_or_train_classifier(digits), samples)
    for name in METHODS if method == "all" else (method,):
        prepare_picture(out / f"{name}.png")
        start = time.perf_counter()
        gan = train(name, seed, steps)
        seconds = time.perf_counter() - start
        modes, kl, images = count(METHODS[name], gan)
        save_grid(out / f"{name}.png", images[:64], 8)
        print(f"{name}: {modes} of {MODES} modes, KL {kl:.3f}, {seconds:.0f} s", flush=True)
    print(f"The pictures are in {out}/")


if __name__ == "__main__":
    run_command(command)
