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
from rawgan.errors import UserError
from rawgan.gan import GAN
from rawgan.layers import state
from rawgan.random import Random
from rawgan.training.pictures import save_curves, save_grid
from rawgan.training.run import RunFolder


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


def sample(gan: GAN, z: Array, batch: int = 256) -> np.ndarray:
    """G(z) in inference mode as uint8 images (N, H, W, C): no picture depends on its neighbours."""
    images = [to_host(gan.generator.forward(z[i : i + batch], train=False)[0]) for i in range(0, len(z), batch)]
    return to_uint8(np.concatenate(images))


def train(
    gan: GAN,
    data: Images,
    draw_z: Callable[[np.random.Generator, int], np.ndarray],
    run: RunFolder,
    random: Random,
    device: Device,
    *,
    steps: int,
    batch: int,
    sample_every: int,
    log_every: int = 10,
    columns: int = 8,
) -> int:
    """Trains for `steps` steps and leaves a whole run folder, also when stopped by Ctrl-C. Returns the steps done.

    draw_z(rng, n) gives n latent vectors as a host array. A grid is drawn from the same fixed z every `sample_every` steps.
    Raises UserError when a loss is no longer finite; the folder keeps what was made until then.
    """
    fixed_z = device.asarray(draw_z(random.stream("fixed z"), columns * columns))
    order = batches(data, batch, random.stream("data"))
    done, start = 0, time.perf_counter()

    def draw(step: int) -> None:
        save_grid(run.path / "samples" / f"step_{step:06}.png", sample(gan, fixed_z), columns)

    draw(0)
    try:
        with stop_requested() as stop, progress_bar(steps) as bar:
            while done < steps and not stop():
                real = device.asarray(to_float(data.images[next(order)]))
                z = device.asarray(draw_z(random.stream("z"), batch))
                metrics = gan.train_step(real, z)
                done += 1
                bar.update()
                if done % log_every == 0 or done == steps:
                    row = {name: float(value) for name, value in metrics.items()}
                    run.log({"step": done} | row)
                    bar.set_postfix_str(progress(row, done * batch / (time.perf_counter() - start)), refresh=False)
                    if not all(map(math.isfinite, row.values())):
                        raise UserError(f"the loss is no longer finite at step {done}; a smaller learning rate may help")
                if done % sample_every == 0 and done < steps:
                    draw(done)
    finally:
        draw(done)
        if run.metrics:
            save_curves(run.path / "losses.png", run.metrics)
        players = {"generator": gan.generator, "discriminator": gan.discriminator}
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
