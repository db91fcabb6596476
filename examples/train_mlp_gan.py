"""Train the MLP GAN of Raschka & Mirjalili, ch. 17.

python examples/train_mlp_gan.py
python examples/train_mlp_gan.py --data fashion-mnist --steps 10000

The loop is all there is: no checkpoints, plots or diagnostics. `rawgan train raschka_mlp_gan` has
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

DEFAULT = RECIPES["raschka_mlp_gan"].default  # as of `rawgan train raschka_mlp_gan`


def main(
    data: DataOption = "digits",
    steps: int = DEFAULT.steps,
    width: Annotated[int, typer.Option(help="units of the hidden layer")] = DEFAULT.width,
    size: Annotated[int | None, typer.Option(help="image side; the data's own by default")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
):
    """Train it; write sample grids, metrics and weights to runs/raschka_mlp_gan-DATA-NNN."""
    values = {"size": size, "width": width, "steps": steps, "seed": seed, "device": device}
    run = ShortRun(Options.with_defaults("raschka_mlp_gan", data, **values))
    gan, feed = run.session.gan, run.session.feed
    for step in range(1, steps + 1):
        # G first, then D on the images that G made before its update
        metrics = gan.train_step(*feed.step(step - 1))
        run.log(step, metrics)
        if step % 500 == 0 or step == steps:
            run.save_samples(step, metrics)
    run.save_weights()


if __name__ == "__main__":
    run_command(main)
