"""Train a conditional GAN, whose sample grids have a column per class.

python examples/train_cgan.py
python examples/train_cgan.py --data fashion-mnist --size 32

The loop is all there is: no checkpoints, plots or diagnostics. `rawgan train cgan` has
them, and on a GPU it computes the steps with fused kernels.
"""

import sys
from pathlib import Path
from typing import Annotated

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import typer

from rawgan.cli.common import DataOption, DeviceOption, SeedOption, run_command
from rawgan.models.recipes import RECIPES
from rawgan.training.options import Options
from rawgan.training.short_run import ShortRun

DEFAULT = RECIPES["cgan"].default  # as of `rawgan train cgan`


def main(
    data: DataOption = "digits",
    steps: int = DEFAULT.steps,
    width: Annotated[int, typer.Option(help="feature maps next to the images")] = DEFAULT.width,
    size: Annotated[int | None, typer.Option(help="image side; the data's own by default")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
):
    """Train it; write sample grids, metrics and weights to runs/cgan-DATA-NNN."""
    values = {"size": size, "width": width, "steps": steps, "seed": seed, "device": device}
    run = ShortRun(Options.with_defaults("cgan", data, **values))
    gan, feed = run.session.gan, run.session.feed
    for step in range(1, steps + 1):
        # a batch of images and one of latent vectors, each with its labels: D learns to tell real
        # pairs of image and label from generated ones
        metrics = gan.train_step(*feed.step(step - 1))
        run.log(step, metrics)
        if step % 250 == 0 or step == steps:
            run.save_samples(step, metrics)
    run.save_weights()


if __name__ == "__main__":
    run_command(main)
