"""Train a DCGAN on drawn digits, MNIST, Fashion-MNIST, or a folder of images.

python examples/train_dcgan.py
python examples/train_dcgan.py --data fashion-mnist --size 32 --width 16 --lr 1e-3 --real-label 0.9

`rawgan train dcgan` has more options, and `rawgan train --resume RUN` goes on with a run of either.
examples/dcgan_in_one_file.py shows what a training step computes.
"""

import sys
from pathlib import Path
from typing import Annotated

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import typer

from rawgan.cli.common import DataOption, DeviceOption, SeedOption, run_command
from rawgan.models.recipes import RECIPES
from rawgan.training.loop import next_multiples
from rawgan.training.options import Options
from rawgan.training.train import new_run

DEFAULT = RECIPES["dcgan"].default  # as of `rawgan train dcgan`


def main(
    data: DataOption = "digits",
    steps: int = DEFAULT.steps,
    batch: Annotated[int | None, typer.Option(min=2, help="images per step")] = None,
    width: Annotated[int, typer.Option(help="feature maps next to the images")] = DEFAULT.width,
    size: Annotated[int | None, typer.Option(help="image side; the data's own by default")] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3; the data's own by default")] = None,
    lr: Annotated[float, typer.Option(help="learning rate of both players")] = DEFAULT.lr,
    real_label: Annotated[float, typer.Option(help="below 1: one-sided label smoothing")] = 1.0,
    sample_every: Annotated[int, typer.Option(help="steps between two sample grids")] = 250,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option(help="run folder; runs/dcgan-DATA-NNN")] = None,
):
    """Train a DCGAN; write sample grids, curves, metrics, weights and checkpoints to a folder."""
    options = Options.with_defaults(
        "dcgan",
        data,
        size=size,
        channels=channels,
        width=width,
        steps=steps,
        batch=batch,
        lr=lr,
        real_label=real_label,
        seed=seed,
        device=device,
        sample_every=sample_every,
    )
    # Load the images, build G and D, and choose what computes a step: NumPy, or kernels on a GPU.
    with new_run(options, out) as (session, recorder):
        while recorder.done < options.steps and not recorder.interrupted():
            # A step is gan.train_step(real, z), on the next batch of images and of latent vectors.
            # The steps up to `last` need no pause: NumPy takes one, a GPU many as a CUDA graph.
            last = min(options.steps, *next_multiples(recorder.done, sample_every, 500))
            for metrics in session.run_steps(last):
                recorder.log(metrics)  # losses and mean scores of D, each tenth to metrics.csv
            if recorder.done % sample_every == 0:
                recorder.save_samples()
            if recorder.done % 500 == 0:
                recorder.save_checkpoint()
        # after the last step, and after Ctrl-C
        recorder.save_samples()
        recorder.save_checkpoint()
        recorder.save_weights()
    if recorder.done < options.steps:
        raise typer.Exit(130)


if __name__ == "__main__":
    run_command(main)
