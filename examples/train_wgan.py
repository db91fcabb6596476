"""Train a Wasserstein GAN with clipped weights.

python examples/train_wgan.py
python examples/train_wgan.py --data mnist --size 32

The loop is all there is: no checkpoints, plots or diagnostics. `rawgan train wgan` has
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

DEFAULT = RECIPES["wgan"].default  # as of `rawgan train wgan`


def main(
    data: DataOption = "digits",
    steps: int = DEFAULT.steps,
    width: Annotated[int, typer.Option(help="feature maps next to the images")] = DEFAULT.width,
    size: Annotated[int | None, typer.Option(help="image side; the data's own by default")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
):
    """Train it; write sample grids, metrics and weights to runs/wgan-DATA-NNN."""
    values = {"size": size, "width": width, "steps": steps, "seed": seed, "device": device}
    run = ShortRun(Options.with_defaults("wgan", data, **values))
    gan, feed = run.session.gan, run.session.feed
    for step in range(1, steps + 1):
        # 100 updates of the critic in the first 25 steps, later 5, and one of the generator, each
        # on another z; after each of its updates the critic's weights are clipped
        metrics = gan.train_step(*feed.step(step - 1))
        run.log(step, metrics)
        if step % 100 == 0 or step == steps:
            run.save_samples(step, metrics)
    run.save_weights()


if __name__ == "__main__":
    run_command(main)
