"""The training loop: batches in, metrics, pictures and weights out."""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from rawgan.backend import Device, to_host
from rawgan.data import Images, batches, to_float, to_uint8
from rawgan.ema import EMA
from rawgan.errors import UserError
from rawgan.gan import GAN, Samples
from rawgan.layers import Sequential, state
from rawgan.models.recipes import Recipe
from rawgan.random import Random
from rawgan.training.pictures import save_curves, save_grid
from rawgan.training.run import RunFolder

METRICS = ("step", "d_loss", "g_loss", "d_real", "d_fake")
PENALTY_METRICS = ("penalty", "gradient_norm")


class Feed:
    """What a recipe's networks are fed: real batches and latent vectors, on the device, labels beside them where it is conditional.

    Real images carry their own labels, latent vectors uniform random ones.
    """

    def __init__(self, recipe: Recipe, data: Images, batch: int, random: Random, device: Device):
        self.recipe, self.data, self.batch, self.random, self.device = recipe, data, batch, random, device
        self.order = batches(data, batch, random.stream("data"))
        if recipe.classes and (data.labels is None or data.labels.max() >= recipe.classes):
            raise UserError(f"{recipe.name} needs labels from 0 to {recipe.classes - 1}, which {data.name} does not have")

    def real(self) -> Samples:
        """The next batch, in the recipe's range of pixels."""
        index = next(self.order)
        x = to_float(self.data.images[index])
        if self.recipe.pixels == "unit":
            x = (x + 1) / 2
        return self.device.asarray(x) if not self.recipe.classes else tuple(map(self.device.asarray, (x, self.data.labels[index])))

    def z(self) -> Samples:
        """A batch of latent vectors."""
        labels = self.random.stream("labels").integers(self.recipe.classes, size=self.batch) if self.recipe.classes else None
        return latent(self.recipe, self.random.stream("z"), self.device, self.batch, labels)

    def step(self, step: int) -> tuple[list[Samples], list[Samples]]:
        """Everything that generator step `step`, from 0, needs: real batches and latent vectors, as GAN.train_step takes them."""
        n = self.recipe.critic_steps(step)
        return [self.real() for _ in range(n)], [self.z() for _ in range(n + self.recipe.fresh_z)]


def latent(recipe: Recipe, rng: np.random.Generator, device: Device, n: int, labels=None) -> Samples:
    """n latent vectors on the device, with their labels where the recipe is conditional."""
    z = device.asarray(recipe.draw_z(rng, n))
    return z if labels is None else (z, device.asarray(labels))


def sample(recipe: Recipe, generator: Sequential, z: Samples, batch: int = 256) -> np.ndarray:
    """G(z) in inference mode as uint8 images (N, H, W, C): no picture depends on its neighbours."""
    n = len(z[0] if isinstance(z, tuple) else z)
    images = []
    for i in range(0, n, batch):
        part = tuple(a[i : i + batch] for a in z) if isinstance(z, tuple) else z[i : i + batch]
        images.append(to_host(generator.forward(part, train=False)[0]))
    x = np.concatenate(images)
    return to_uint8(2 * x - 1 if recipe.pixels == "unit" else x)


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a question that the loop asks between two steps; the second one interrupts at once."""
    asked = False

    def handler(*_):
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def train(
    gan: GAN, recipe: Recipe, feed: Feed, run: RunFolder, *, steps: int, sample_every: int, log_every: int = 10, ema=None
) -> int:
    """Trains for `steps` generator steps and leaves a whole run folder, also when stopped by Ctrl-C. Returns the steps done.

    A grid is drawn from the same fixed z every `sample_every` steps, a column per class where the recipe has classes; with `ema`,
    a decay, from an average of the generator. Raises UserError when a loss is no longer finite; the folder keeps what was made.
    """
    average = EMA(gan.generator_optimizer.parameters, ema) if ema else None
    shown = average.net if average else gan.generator
    columns = recipe.classes or 8
    labels = np.arange(8 * columns) % columns if recipe.classes else None
    fixed_z = latent(recipe, feed.random.stream("fixed z"), feed.device, 8 * columns, labels)
    done, start = 0, time.perf_counter()

    def draw(step: int) -> None:
        save_grid(run.path / "samples" / f"step_{step:06}.png", sample(recipe, shown, fixed_z), columns)

    draw(0)
    try:
        with stop_requested() as stop, progress_bar(steps) as bar:
            while done < steps and not stop():
                metrics = gan.train_step(*feed.step(done))
                if average:
                    average.update()
                done += 1
                bar.update()
                if done % log_every == 0 or done == steps:
                    row = {name: float(value) for name, value in metrics.items()}
                    run.log({"step": done} | row)
                    bar.set_postfix_str(progress(row, done * feed.batch / (time.perf_counter() - start)), refresh=False)
                    if not all(map(math.isfinite, row.values())):
                        raise UserError(f"the loss is no longer finite at step {done}; a smaller learning rate may help")
                if done % sample_every == 0 and done < steps:
                    draw(done)
    finally:
        draw(done)
        if run.metrics:
            save_curves(run.path / "losses.png", run.metrics)
        players = {"generator": gan.generator, "discriminator": gan.discriminator} | ({"average": average.net} if average else {})
        run.save_weights({f"{who}.{name}": a for who, net in players.items() for name, a in state(net).items()})
        run.close()
    return done


def progress_bar(steps: int) -> tqdm:
    """A bar that moves all the time in a terminal and speaks every ten seconds in a log."""
    return tqdm(total=steps, unit="step", dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 10)


def progress(row: dict[str, float], images_per_second: float) -> str:
    """The end of the progress bar."""
    scores = f"D(x) {row['d_real']:.2f}, D(G(z)) {row['d_fake']:.2f}"
    return f"loss D {row['d_loss']:.3f}, G {row['g_loss']:.3f}, {scores}, {images_per_second:.0f} images/s"
