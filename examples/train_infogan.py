"""Train an InfoGAN on digits, MNIST, Fashion-MNIST or a folder of pictures.

python examples/train_infogan.py
python examples/train_infogan.py --form gaussian
python examples/train_infogan.py --data mnist --width 32 --lr 2e-4 --steps 40000

`rawgan train --resume RUN` goes on with it.
"""

import sys
from pathlib import Path
from typing import Annotated

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import typer

from rawgan.cli.common import DataOption, DeviceOption, SeedOption, device_for, run_command
from rawgan.training.systems.infogan import InfoGANOptions, classified
from rawgan.training.systems.run import new_run


def main(
    data: DataOption = "digits",
    form: Annotated[
        str, typer.Option(help="book: supervised; gaussian: the paper's loss, without labels")
    ] = "book",
    steps: Annotated[int, typer.Option(min=1)] = 1500,
    batch: Annotated[int, typer.Option(min=1, help="images per step")] = 64,
    width: Annotated[int, typer.Option(min=1, help="filters of D's first convolution")] = 8,
    size: Annotated[int | None, typer.Option(help="image side, a multiple of 4")] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3; the data's own by default")] = None,
    lr: Annotated[float, typer.Option(help="learning rate of D; G has half of it")] = 2e-3,
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two pictures")] = 500,
    checkpoint_every: Annotated[int, typer.Option(min=1)] = 500,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option(help="run folder; runs/infogan-DATA-NNN")] = None,
):
    """Train an InfoGAN; write pictures of its codes, curves, metrics and weights to a folder."""
    options = InfoGANOptions(
        source=data,
        form=form,
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
    # Load the images and build the networks: G, and D with heads that read the codes.
    with new_run(options, device_for(device), out) as (training, recorder):
        while recorder.done < steps and not recorder.interrupted():
            # real images, in the book's form with labels; noise and codes of two batches of fakes
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
    if training.images.labels is not None:
        share, count = classified(training), len(training.images)
        print(f"The category that D reads classifies {share:.1%} of the {count:,} images.")
    if recorder.done < steps:
        raise typer.Exit(130)


if __name__ == "__main__":
    run_command(main)
