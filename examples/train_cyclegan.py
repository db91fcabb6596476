"""Train a CycleGAN: gray images to colour and back, or the images of one data set to another.

python examples/train_cyclegan.py
python examples/train_cyclegan.py --data path/to/photographs --size 64
python examples/train_cyclegan.py --data mnist-5k --target digits --kernel 5

`rawgan train --resume RUN` goes on with it.
"""

import sys
from pathlib import Path
from typing import Annotated

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import typer

from rawgan.cli.common import DataOption, DeviceOption, SeedOption, device_for, run_command
from rawgan.training.systems.cyclegan import CycleGANOptions
from rawgan.training.systems.run import new_run


def main(
    data: DataOption = "noto-emoji",
    target: Annotated[
        str, typer.Option(help="the second data set; that of --data in gray is the first if empty")
    ] = "",
    steps: Annotated[int, typer.Option(min=1)] = 3000,
    batch: Annotated[int, typer.Option(min=1, help="images of each set per step")] = 16,
    width: Annotated[int, typer.Option(min=1, help="filters of the first convolution")] = 16,
    kernel: Annotated[int, typer.Option(min=1, help="side of the kernels")] = 3,
    size: Annotated[int, typer.Option(help="image side, a multiple of 8")] = 32,
    lr: Annotated[float, typer.Option(help="learning rate of D, twice that of G")] = 4e-4,
    identity: Annotated[float, typer.Option(help="weight of the identity loss")] = 0.0,
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two pictures")] = 500,
    checkpoint_every: Annotated[int, typer.Option(min=1)] = 500,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option(help="run folder; runs/cyclegan-DATA-NNN")] = None,
):
    """Train a CycleGAN; write translations, curves, metrics and weights to a folder."""
    options = CycleGANOptions(
        source=data,
        size=size,
        width=width,
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        sample_every=sample_every,
        checkpoint_every=checkpoint_every,
        target=target,
        kernel=kernel,
        identity=identity,
    )
    # Load both sets of images; build a generator and a discriminator for each.
    with new_run(options, device_for(device), out) as (training, recorder):
        while recorder.done < steps and not recorder.interrupted():
            # a batch of each set, in orders of their own: no image meets its counterpart
            source, target_images = training.next_inputs()
            recorder.log(training.model.train_step(source, target_images))  # each tenth is kept
            if recorder.done % sample_every == 0:
                recorder.save_samples()
            if recorder.done % checkpoint_every == 0:
                recorder.save_checkpoint()
        # after the last step, and after Ctrl-C
        recorder.save_samples()
        recorder.save_checkpoint()
        recorder.save_weights()
    if recorder.done < steps:
        raise typer.Exit(130)


if __name__ == "__main__":
    run_command(main)
