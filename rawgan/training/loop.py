"""The training loop: batches in, metrics, pictures and weights out."""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from rawgan.backend import Array, Device, to_host
from rawgan.data import Images, batches, to_float, to_uint8
from rawgan.ema import EMA
from rawgan.errors import UserError
from rawgan.gan import GAN, Samples
from rawgan.layers import Sequential, state
from rawgan.models.recipes import Recipe
from rawgan.random import Random
from rawgan.training.pictures import save_curves, save_grid
from rawgan.training.run import RunFolder

CURVES = {
    "loss": {"d_loss": "discriminator", "g_loss": "generator"},
    "mean score of D": {"d_real": "D(x), real", "d_fake": "D(G(z)), generated"},
}
PENALTY_CURVES = {
    "penalty": {"penalty": "penalty in D's loss"},
    "mean |dD/dx| where it is penalised": {"gradient_norm": "gradient norm"},
}


def curves(recipe: Recipe) -> dict[str, dict[str, str]]:
    """The metrics of a recipe, as pictures.save_curves takes them."""
    return CURVES | (PENALTY_CURVES if recipe.penalty else {})


def columns(panels: dict[str, dict[str, str]]) -> tuple[str, ...]:
    """The columns of metrics.csv that belong to these curves."""
    return ("step", *(name for lines in panels.values() for name in lines))


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


def train(gan: GAN, recipe: Recipe, feed: Feed, run: RunFolder, *, steps: int, sample_every: int, ema: float | None = None) -> int:
    """Trains for `steps` generator steps, as `follow` does, and returns the steps done.

    Grids are drawn from the same fixed z, a column per class where the recipe has classes; with `ema`, a decay, from an average of
    the generator.
    """
    average = EMA(gan.generator_optimizer.parameters, ema) if ema else None
    players = {"generator": gan.generator, "discriminator": gan.discriminator} | ({"average": average.net} if average else {})
    wide = recipe.classes or 8
    labels = np.arange(8 * wide) % wide if recipe.classes else None
    fixed_z = latent(recipe, feed.random.stream("fixed z"), feed.device, 8 * wide, labels)

    def step(done: int) -> dict[str, Array]:
        metrics = gan.train_step(*feed.step(done))
        if average:
            average.update()
        return metrics

    def draw(done: int) -> None:
        images = sample(recipe, average.net if average else gan.generator, fixed_z)
        save_grid(run.path / "samples" / f"step_{done:06}.png", images, wide)

    return follow(run, players, step, draw, curves(recipe), progress, steps=steps, batch=feed.batch, sample_every=sample_every)


def follow(
    run: RunFolder,
    players: dict[str, Sequential],
    step: Callable[[int], dict[str, Array]],
    draw: Callable[[int], None],
    panels: dict[str, dict[str, str]],
    say: Callable[[dict[str, float]], str],
    *,
    steps: int,
    batch: int,
    sample_every: int,
    log_every: int = 10,
) -> int:
    """The loop that every training shares; leaves a whole run folder, also when stopped by Ctrl-C. Returns the steps done.

    step(done) trains once and returns metrics, draw(done) writes pictures, say(metrics) is shown beside the progress bar.
    Raises UserError when a metric is no longer finite; the folder keeps what was made.
    """
    done, start = 0, time.perf_counter()
    draw(0)
    try:
        with stop_requested() as stop, progress_bar(steps) as bar, np.errstate(over="ignore", invalid="ignore"):
            while done < steps and not stop():
                metrics = step(done)
                done += 1
                bar.update()
                if done % log_every == 0 or done == steps:
                    row = {name: float(value) for name, value in metrics.items()}
                    run.log({"step": done} | row)
                    speed = done * batch / (time.perf_counter() - start)
                    bar.set_postfix_str(f"{say(row)}, {speed:.0f} images/s", refresh=False)
                    if not all(map(math.isfinite, row.values())):
                        raise UserError(f"the loss is no longer finite at step {done}; a smaller learning rate may help")
                if done % sample_every == 0 and done < steps:
                    draw(done)
    finally:
        run.save_weights({f"{who}.{name}": a for who, net in players.items() for name, a in state(net).items()})
        with np.errstate(invalid="ignore"):
            draw(done)
        if run.metrics:
            save_curves(run.path / "losses.png", run.metrics, panels)
        run.close()
    return done


def progress_bar(steps: int) -> tqdm:
    """A bar that moves all the time in a terminal and speaks every ten seconds in a log."""
    return tqdm(total=steps, unit="step", dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 10)


def progress(row: dict[str, float]) -> str:
    """What stands beside the progress bar of a GAN."""
    return f"loss D {row['d_loss']:.3f}, G {row['g_loss']:.3f}, D(x) {row['d_real']:.2f}, D(G(z)) {row['d_fake']:.2f}"
