"""Train a Wasserstein GAN with gradient penalty.

python examples/train_wgan_gp.py
python examples/train_wgan_gp.py --data fashion-mnist --size 32 --steps 2000

The loop is all there is: no checkpoints, plots or diagnostics. `rawgan train wgan_gp` has
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

DEFAULT = RECIPES["wgan_gp"].default  # as of `rawgan train wgan_gp`


def main(
    data: DataOption = "digits",
    steps: int = DEFAULT.steps,
    width: Annotated[int, typer.Option(help="feature maps next to the images")] = DEFAULT.width,
    size: Annotated[int | None, typer.Option(help="image side; the data's own by default")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
):
    """Train it; write sample grids, metrics and weights to runs/wgan_gp-DATA-NNN."""
    values = {"size": size, "width": width, "steps": steps, "seed": seed, "device": device}
    run = ShortRun(Options.with_defaults("wgan_gp", data, **values))
    gan, feed = run.session.gan, run.session.feed
    for step in range(1, steps + 1):
        # five updates of the critic, with the penalty on its gradient between real and generated
        # images, and one of the generator, each on another z
        metrics = gan.train_step(*feed.step(step - 1))
        run.log(step, metrics)
        if step % 100 == 0 or step == steps:
            run.save_samples(step, metrics)
    run.save_weights()


if __name__ == "__main__":
    run_command(main)
