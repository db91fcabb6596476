"""Train a progressive GAN, which grows from 4x4 to the size of the images.

python examples/train_progressive.py
python examples/train_progressive.py --stable 12000 --fade 12000
python examples/train_progressive.py --data path/to/pictures --size 64 --width 128 --base 2048

`rawgan train --resume RUN` goes on with it; `rawgan sample RUN` draws from it.
"""

import sys
from pathlib import Path
from typing import Annotated

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import typer

from rawgan.cli.common import DataOption, DeviceOption, SeedOption, device_for, run_command
from rawgan.training.systems.progressive import ProgressiveOptions
from rawgan.training.systems.run import new_run


def main(
    data: DataOption = "digits",
    size: Annotated[int, typer.Option(min=4, help="image side, a power of 2")] = 32,
    channels: Annotated[int | None, typer.Option(help="1 or 3; the data's own by default")] = None,
    width: Annotated[int, typer.Option(min=1, help="most channels of a layer, size of z")] = 64,
    base: Annotated[
        int, typer.Option(min=1, help="layers at r x r have 2 base / r channels")
    ] = 512,
    stable: Annotated[int, typer.Option(min=1, help="images between two fades")] = 20_000,
    fade: Annotated[int, typer.Option(min=0, help="images of a fade")] = 20_000,
    group: Annotated[int, typer.Option(min=1, help="samples that D compares")] = 4,
    steps: Annotated[int | None, typer.Option(min=1, help="the schedule's by default")] = None,
    batch: Annotated[int, typer.Option(min=1, help="images per step")] = 16,
    lr: Annotated[float, typer.Option(help="learning rate")] = 1e-3,
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two pictures")] = 1250,
    checkpoint_every: Annotated[int, typer.Option(min=1)] = 625,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option(help="run folder; runs/progressive-DATA-NNN")] = None,
):
    """Train a progressive GAN; write samples, curves, metrics and weights to a folder."""
    options = ProgressiveOptions(
        source=data,
        size=size,
        channels=channels,
        width=width,
        base=base,
        stable=stable,
        fade=fade,
        group=group,
        steps=steps,
        batch=batch,
        lr=lr,
        sample_every=sample_every,
        checkpoint_every=checkpoint_every,
        seed=seed,
    )
    # Load the images and build G and D with the layers of all resolutions.
    with new_run(options, device_for(device), out) as (training, recorder):
        while recorder.done < options.steps and not recorder.interrupted():
            # real images of the full size, z for the fakes of D's step, z for G's step
            real, z_d, z_g = training.next_inputs()
            # one step of each, at the resolution and the fade of the images seen so far
            recorder.log(training.model.train_step(real, z_d, z_g))
            if recorder.done % sample_every == 0:
                recorder.save_samples()
            if recorder.done % checkpoint_every == 0:
                recorder.save_checkpoint()
        # after the last step, and after Ctrl-C
        recorder.save_samples()
        recorder.save_checkpoint()
        recorder.save_weights()
    if recorder.done < options.steps:
        raise typer.Exit(130)


if __name__ == "__main__":
    run_command(main)
