"""Train a variational autoencoder, or a plain one, on digits, MNIST, Fashion-MNIST or a folder.

python examples/train_vae.py
python examples/train_vae.py --data fashion-mnist
python examples/train_vae.py --autoencoder

`rawgan train --resume RUN` goes on with it; `rawgan sample RUN` draws from it.
"""

import sys
from pathlib import Path
from typing import Annotated

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import typer

from rawgan.cli.common import DataOption, DeviceOption, SeedOption, device_for, run_command
from rawgan.training.systems.autoencoder import CoderOptions
from rawgan.training.systems.run import new_run


def main(
    data: DataOption = "digits",
    autoencoder: Annotated[
        bool, typer.Option("--autoencoder", help="the plain one: mean squared error, no samples")
    ] = False,
    steps: Annotated[int, typer.Option(min=1)] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="images per step")] = 64,
    width: Annotated[int, typer.Option(min=1, help="filters of the first convolution")] = 32,
    size: Annotated[int | None, typer.Option(help="image side, a multiple of 4")] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3; the data's own by default")] = None,
    lr: Annotated[float, typer.Option(help="learning rate")] = 2e-3,
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two pictures")] = 500,
    checkpoint_every: Annotated[int, typer.Option(min=1)] = 500,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option(help="run folder; runs/vae-DATA-NNN")] = None,
):
    """Train a VAE; write reconstructions, samples, curves, metrics and weights to a folder."""
    options = CoderOptions(
        "autoencoder" if autoencoder else "vae",
        data,
        size,
        channels,
        width=width,
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        sample_every=sample_every,
        checkpoint_every=checkpoint_every,
    )
    # Load the images and build the networks: an encoder, images to codes, and a decoder.
    with new_run(options, device_for(device), out) as (training, recorder):
        while recorder.done < steps and not recorder.interrupted():
            # the next batch of images and, for a VAE, the noise that it adds to their codes
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
    if recorder.done < steps:
        raise typer.Exit(130)


if __name__ == "__main__":
    run_command(main)
