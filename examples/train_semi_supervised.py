"""Train a semi-supervised GAN: a classifier from a few labels and many images without.

python examples/train_semi_supervised.py
python examples/train_semi_supervised.py --supervised
python examples/train_semi_supervised.py --data mnist --width 500 --rate 1e-4 --steps 180000
python examples/train_semi_supervised.py --data cifar10 --networks convolutional --width 96

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
from rawgan.training.systems.semi_supervised import SemiSupervisedOptions


def main(
    data: DataOption = "digits",
    labels: Annotated[int, typer.Option(min=1, help="labelled images, of all classes")] = 100,
    supervised: Annotated[
        bool, typer.Option("--supervised", help="the classifier alone, on the labelled images")
    ] = False,
    steps: Annotated[int, typer.Option(min=1)] = 2000,
    batch: Annotated[int, typer.Option(min=2, help="images per step, of each kind")] = 100,
    width: Annotated[
        int, typer.Option(min=2, help="hidden units of G; D has up to twice; or D's channels")
    ] = 100,
    size: Annotated[int | None, typer.Option(help="image side; the data's own by default")] = None,
    lr: Annotated[
        float | None, typer.Option(help="learning rate; 3e-3, of convolutional networks 3e-4")
    ] = None,
    rate: Annotated[float, typer.Option(help="of the average of D's weights")] = 1e-3,
    networks: Annotated[
        str, typer.Option(metavar="linear|convolutional", help="convolutional: for color images")
    ] = "linear",
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two tests")] = 500,
    checkpoint_every: Annotated[int, typer.Option(min=1)] = 500,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None, typer.Option(help="run folder; runs/semi_supervised-DATA-NNN")
    ] = None,
):
    """Train it; print test errors, and write samples, curves, metrics and weights to a folder."""
    options = SemiSupervisedOptions(
        "supervised" if supervised else "semi_supervised",
        data,
        size,
        width=width,
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        sample_every=sample_every,
        checkpoint_every=checkpoint_every,
        labels=labels,
        rate=rate,
        networks=networks,
    )
    # Load the images, hide the labels of all but a few, and build the networks.
    with new_run(options, device_for(device), out) as (training, recorder):
        while recorder.done < steps and not recorder.interrupted():
            # images with labels; and for the GAN, images without, for D and for G, and two z
            inputs = training.next_inputs()
            metrics = training.model.train_step(*inputs)
            recorder.log(training.with_error(metrics))  # each tenth to metrics.csv
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
