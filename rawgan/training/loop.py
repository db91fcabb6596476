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
from rawgan.data import to_uint8
from rawgan.errors import UserError
from rawgan.gan import Samples
from rawgan.layers import Sequential
from rawgan.models.recipes import Recipe
from rawgan.training.pictures import save_curves
from rawgan.training.run import RunFolder

LOG_EVERY = 10  # steps between two lines of metrics
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
    """Turns the first Ctrl-C, or SIGTERM, into a question that the loop asks between two steps; the second interrupts at once."""
    asked = False

    def handler(*_):
        nonlocal asked
        asked = True
        for number in before:
            signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Follower:
    """What a training does around its steps; `follow` says when. `done` is always the number of steps done."""

    def step(self, done: int) -> dict[str, Array]:
        """Trains once and returns metrics, as arrays of no dimension."""
        raise NotImplementedError

    def stretch(self, done: int, last: int) -> list[dict[str, Array]]:
        """Trains at least once, and not beyond step `last`; returns the metrics of each step."""
        return [self.step(done)]

    def draw(self, done: int) -> None:
        """Writes pictures."""
        raise NotImplementedError

    def weights(self) -> dict[str, np.ndarray]:
        """What is saved when the training ends well."""
        raise NotImplementedError

    def stopped(self, asked: bool) -> bool:
        """Whether to stop, where this process was asked to or not."""
        return asked

    def numbers(self, metrics: dict[str, Array]) -> dict[str, float]:
        """Metrics as numbers."""
        return {name: float(value) for name, value in metrics.items()}

    def say(self, row: dict[str, float]) -> str:
        """What stands beside the progress bar."""
        return ", ".join(f"{name} {value:.4g}" for name, value in row.items())

    def logged(self, done: int, row: dict[str, float]) -> None:
        """Called after a line of metrics was written."""

    def sound(self) -> bool:
        """Whether all parameters, running statistics and slots of optimizers are finite."""
        return True

    def save(self, done: int) -> None:
        """Makes a checkpoint."""

    def explain(self, done: int) -> str:
        """Where the numbers stopped being finite."""
        return ""

    def finish(self) -> None:
        """Called when the training has ended well, before the weights are written."""


def follow(
    run: RunFolder,
    follower: Follower,
    panels: dict[str, dict[str, str]],
    *,
    steps: int,
    batch: int,
    sample_every: int,
    checkpoint_every: int | None = None,
    first: int = 0,
) -> int:
    """The loop that every training shares, from `first` steps to `steps`; leaves a whole run folder, also when stopped by Ctrl-C.

    Returns the steps done. Raises UserError, keeping the last good checkpoint, when a metric or a parameter is no longer finite.
    """
    done, start = first, time.perf_counter()
    if not done:
        follower.draw(0)
    drawn = done
    try:
        with stop_requested() as stop, progress_bar(steps, first) as bar, np.errstate(over="ignore", invalid="ignore"):
            while done < steps and not follower.stopped(stop()):
                last = min(steps, *(done - done % every + every for every in (sample_every, checkpoint_every) if every))
                for metrics in follower.stretch(done, last):
                    done += 1
                    bar.update()
                    if done % LOG_EVERY == 0 or done == steps:
                        row = follower.numbers(metrics)
                        run.log("metrics", {"step": done} | row)
                        speed = (done - first) * batch / (time.perf_counter() - start)
                        bar.set_postfix_str(f"{follower.say(row)}, {speed:.0f} images/s", refresh=False)
                        if not all(map(math.isfinite, row.values())):
                            draw_curves(run, panels)
                            raise not_finite(follower, done)
                        follower.logged(done, row)
                if done % sample_every == 0 and done < steps:
                    follower.draw(done)
                    drawn = done
                if checkpoint_every and done % checkpoint_every == 0 and done < steps:
                    checked_save(follower, done, metrics)
            if drawn != done:
                follower.draw(done)
            if checkpoint_every and done > first:
                checked_save(follower, done, metrics)
        draw_curves(run, panels)
        follower.finish()
        run.save_weights(follower.weights())  # the last: a run that has them has everything
    finally:
        run.close()
    return done


def draw_curves(run: RunFolder, panels: dict[str, dict[str, str]]) -> None:
    """losses.png, once there is something to draw."""
    if run.metrics:
        save_curves(run.path / "losses.png", run.metrics, panels)


def checked_save(follower: Follower, done: int, metrics: dict[str, Array]) -> None:
    """A checkpoint, unless a metric or a parameter is no longer finite: then UserError."""
    if not (all(map(math.isfinite, follower.numbers(metrics).values())) and follower.sound()):
        raise not_finite(follower, done)
    follower.save(done)


def not_finite(follower: Follower, done: int) -> UserError:
    """What is said when the numbers have overflowed."""
    reason = follower.explain(done)
    return UserError(f"the loss is no longer finite at step {done}; {reason and reason + '; '}a smaller learning rate may help")


def progress_bar(steps: int, first: int = 0) -> tqdm:
    """A bar that moves all the time in a terminal and speaks every ten seconds in a log."""
    return tqdm(total=steps, initial=first, unit="step", dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 10)


def progress(row: dict[str, float]) -> str:
    """What stands beside the progress bar of a GAN."""
    return f"loss D {row['d_loss']:.3f}, G {row['g_loss']:.3f}, D(x) {row['d_real']:.2f}, D(G(z)) {row['d_fake']:.2f}"
