"""Train a StackedGAN on digits, MNIST, Fashion-MNIST or pictures in a folder for each class.

python examples/train_stackedgan.py
python examples/train_stackedgan.py --data mnist --width 32 --lr 2e-4 --steps 10000

`rawgan train --resume RUN` goes on with it.
"""

import sys
from pathlib import Path
from typing import Annotated

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import typer

from rawgan.cli.common import DataOption, DeviceOption, SeedOption, device_for, run_command
from rawgan.training.systems.run import new_run
from rawgan.training.systems.stackedgan import StackedGANOptions, agreement


def main(
    data: DataOption = "digits",
    encoder_epochs: Annotated[int, typer.Option(min=1, help="epochs of the encoder")] = 2,
    steps: Annotated[int, typer.Option(min=1)] = 1500,
    batch: Annotated[int, typer.Option(min=1, help="images per step")] = 64,
    width: Annotated[int, typer.Option(min=1, help="filters of D0's first convolution")] = 8,
    size: Annotated[int | None, typer.Option(help="image side, a multiple of 4")] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3; the data's own by default")] = None,
    lr: Annotated[float, typer.Option(help="learning rate of D0, D1; G0, G1 have half")] = 2e-3,
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two pictures")] = 500,
    checkpoint_every: Annotated[int, typer.Option(min=1)] = 500,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option(help="run folder; runs/stackedgan-DATA-NNN")] = None,
):
    """Train a StackedGAN; write pictures, curves, metrics and weights to a folder."""
    options = StackedGANOptions(
        source=data,
        encoder_epochs=encoder_epochs,
        size=size,
        channels=channels,
        width=width,
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        sample_every=sample_every,
        checkpoint_every=checkpoint_every,
    )
    # Load the images and build the networks: an encoder, and G and D for each of its two parts.
    with new_run(options, device_for(device), out) as (training, recorder):
        training.train_encoder()
        while recorder.done < steps and not recorder.interrupted():
            # real images and labels, and the noise of D1's, D0's, G1's and G0's fakes
            inputs = training.next_inputs()
            recorder.log(training.model.train_step(*inputs))  # each tenth to metrics.csv
            if recorder.done % sample_every == 0:
                recorder.save_samples()
            if recorder.done % checkpoint_every == 0:
                recorder.save_checkpoint()
        # after the last step, and after Ctrl-C
        recorder.save_samples()
        recorder.save_checkpoint()
        recorder.save_weights()
    share = agreement(training)
    print(f"The encoder reads the wanted label from {share:.1%} of 1,000 generated images.")
    if recorder.done < steps:
        raise typer.Exit(130)


if __name__ == "__main__":
    run_command(main)
