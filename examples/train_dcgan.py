"""Trains a DCGAN on pictures: hand-written digits at hand, MNIST, Fashion-MNIST, or a folder of your own.

python examples/train_dcgan.py
python examples/train_dcgan.py --data fashion-mnist --width 16 --lr 1e-3 --real-label 0.9
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works without installing

from rawgan.backend import choose_device
from rawgan.data import load
from rawgan.errors import UserError
from rawgan.gan import GAN
from rawgan.init import dcgan_init
from rawgan.layers import Parameters, parameter_count
from rawgan.losses import BCE
from rawgan.models.dcgan import dcgan_discriminator, dcgan_generator
from rawgan.optim import Adam
from rawgan.random import Random
from rawgan.training.loop import train
from rawgan.training.run import RunFolder, free_folder

Z = 100


def main(
    data: Annotated[str, typer.Option(help="digits, mnist, fashion-mnist, or a folder of IDX files or of images")] = "digits",
    steps: Annotated[int, typer.Option(min=1, help="training steps of both players")] = 1500,
    batch: Annotated[int, typer.Option(min=2, help="images per step")] = 64,
    width: Annotated[int, typer.Option(min=1, help="channels of D's first convolution; all others follow")] = 32,
    size: Annotated[
        int | None, typer.Option(help="image side: 16 for digits, else 32, unless given (28, 32, 64, 128 ...)")
    ] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3; the data's own unless given")] = None,
    lr: Annotated[float, typer.Option(help="Adam's learning rate; 2e-4 is the paper's, for long runs")] = 5e-4,
    real_label: Annotated[float, typer.Option(min=0.5, max=1.0, help="below 1: one-sided label smoothing")] = 1.0,
    seed: Annotated[int, typer.Option(help="the same seed gives the same run, bit for bit on the CPU")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu")] = "auto",
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two sample grids")] = 250,
    out: Annotated[Path | None, typer.Option(help="run folder, new or empty; runs/dcgan-DATA-NNN unless given")] = None,
):
    """Train a DCGAN and leave sample grids, curves, metrics and weights in a run folder."""
    where = choose_device(device)
    print(f"Device: {where.name}, computing with {where.path} ({where.why}); no Triton kernels in this path.", flush=True)
    random = Random(seed)
    images = load(data, size or (16 if data == "digits" else 32), channels)
    _, H, _, C = images.images.shape
    generator, discriminator = dcgan_generator(H, C, width, Z), dcgan_discriminator(H, C, width)
    for net, stream in ((generator, "generator weights"), (discriminator, "discriminator weights")):
        dcgan_init(net, random.stream(stream))
    print(f"Data: {len(images.images)} images of {H}x{H}x{C}: {images.source}.")
    print(f"G has {parameter_count(generator):,} parameters, D {parameter_count(discriminator):,}.", flush=True)
    gan = GAN(
        generator,
        discriminator,
        BCE(real_label),
        Adam(Parameters(generator, where), lr, betas=(0.5, 0.999)),
        Adam(Parameters(discriminator, where), lr, betas=(0.5, 0.999)),
    )
    config = {
        "recipe": "dcgan",
        "data": images.name,
        "size": H,
        "channels": C,
        "width": width,
        "z": Z,
        "steps": steps,
        "batch": batch,
    }
    config |= {"lr": lr, "betas": [0.5, 0.999], "real_label": real_label, "seed": seed, "device": where.name, "path": where.path}
    run = RunFolder(out or free_folder(Path("runs") / f"dcgan-{images.name}"), config)

    def draw_z(rng, n):
        return rng.standard_normal((n, 1, 1, Z), dtype="float32")

    done = train(gan, images, draw_z, run, random, where, steps=steps, batch=batch, sample_every=sample_every)
    print(f"{done} steps done; samples, curves, metrics and weights are in {run.path}/")
    if done < steps:
        raise typer.Exit(130)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
