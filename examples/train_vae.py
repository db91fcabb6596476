"""Trains a variational autoencoder, or a plain one, on pictures: digits at hand, MNIST, Fashion-MNIST, or a folder of your own.

python examples/train_vae.py
python examples/train_vae.py --data fashion-mnist
python examples/train_vae.py --autoencoder
"""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works without installing

import numpy as np
import typer

from rawgan.backend import Device, to_host
from rawgan.cli.common import DataOption, DeviceOption, SeedOption, device_for, run_command
from rawgan.data import Batches, Images, load, to_uint8
from rawgan.errors import UserError
from rawgan.layers import parameter_count, state
from rawgan.models.autoencoder import Z, build
from rawgan.random import Random
from rawgan.training.loop import Follower, columns, follow
from rawgan.training.options import natural_size
from rawgan.training.pictures import save_grid
from rawgan.training.run import RunFolder, free_folder
from rawgan.vae import VAE, Coder

HELD_OUT = 32  # pictures that are never trained on, to be reconstructed


CURVES = {
    "vae": {"negative ELBO": {"loss": "loss", "reconstruction": "reconstruction", "kl": "KL divergence to N(0, 1)"}},
    "autoencoder": {"mean squared error": {"loss": "loss"}},
}


class Trainer(Follower):
    """What happens around the steps: reconstructions of pictures that are held out, and of a variational one, samples."""

    def __init__(self, model: Coder, images: Images, run: RunFolder, device: Device, random: Random, batch: int):
        self.model, self.images, self.run, self.device, self.batch = model, images, run, device, batch
        self.variational, self.noise = isinstance(model, VAE), random.stream("z")
        self.seen = replace(images, images=images.images[HELD_OUT:], labels=None)
        self.order = Batches(self.seen, batch, random.stream("data"))
        self.fixed_z = device.asarray(random.stream("fixed z").standard_normal((64, Z), np.float32))

    def step(self, done):
        x = pixels(self.seen.images[next(self.order)], self.device)
        eps = [self.device.asarray(self.noise.standard_normal((self.batch, Z), np.float32))] if self.variational else []
        return self.model.train_step(x, *eps)

    def draw(self, done):
        model, originals = self.model, self.images.images[:HELD_OUT]
        copies = drawn(model.decode(model.encode(pixels(originals, self.device))))
        pairs = np.stack([a.reshape(-1, 8, *a.shape[1:]) for a in (originals, copies)], 1)
        save_grid(self.run.path / "samples" / f"reconstruction_{done:06}.png", pairs.reshape(-1, *originals.shape[1:]), 8)
        if self.variational:
            save_grid(self.run.path / "samples" / f"step_{done:06}.png", drawn(model.decode(self.fixed_z)))

    def weights(self):
        nets = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        return {f"{who}.{name}": a for who, net in nets.items() for name, a in state(net).items()}


def pixels(images: np.ndarray, device: Device):
    """uint8 images as float32 in [0, 1] on the device."""
    return device.asarray(images.astype(np.float32) / 255)


def drawn(x) -> np.ndarray:
    """Images in [0, 1] as uint8 on the host."""
    return to_uint8(to_host(2 * x - 1))


def command(
    data: DataOption = "digits",
    autoencoder: Annotated[bool, typer.Option("--autoencoder", help="the plain one: mean squared error, no samples")] = False,
    steps: Annotated[int, typer.Option(min=1, help="training steps")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="images per step")] = 64,
    width: Annotated[int, typer.Option(min=1, help="filters of the first convolution")] = 32,
    size: Annotated[int | None, typer.Option(help="image side, a multiple of 4; 16 for digits, else 28, unless given")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3; the data's own unless given")] = None,
    lr: Annotated[float, typer.Option(help="learning rate")] = 2e-3,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two pictures")] = 500,
    out: Annotated[Path | None, typer.Option(help="run folder, new or empty; runs/vae-DATA-NNN unless given")] = None,
):
    """Trains a VAE. Leaves reconstructions, samples, loss curves, metrics and weights in a run folder."""
    if not (math.isfinite(lr) and lr > 0):
        raise UserError(f"a learning rate is a positive number, not {lr}")
    where, random = device_for(device), Random(seed)
    images = load(data, natural_size(data) if size is None else size, channels)
    _, H, _, C = images.images.shape
    print(f"Data: {len(images)} images of {H}x{H}x{C}: {images.source}.")
    if len(images) < HELD_OUT + batch:
        raise UserError(f"{images.name} has {len(images)} pictures, too few for a batch of {batch} and {HELD_OUT} to reconstruct")
    model = build(random, not autoencoder, H, C, width, lr=lr, device=where)
    E, D = parameter_count(model.encoder), parameter_count(model.decoder)
    name = "autoencoder" if autoencoder else "vae"
    print(f"Model: {name}, codes of {Z} numbers. The encoder has {E:,} parameters, the decoder {D:,}.", flush=True)
    config = {"recipe": name, "data": images.name, "size": H, "channels": C, "width": width, "steps": steps, "batch": batch}
    config |= {"lr": lr, "seed": seed, "device": where.name, "path": where.path}
    folder = out or free_folder(Path("runs") / f"{name}-{images.name}")
    run = RunFolder.new(folder, config, {"metrics": columns(CURVES[name])})
    trainer = Trainer(model, images, run, where, random, batch)
    done = follow(run, trainer, CURVES[name], steps=steps, batch=batch, sample_every=sample_every)
    print(f"{done} steps done; pictures, curves, metrics and weights are in {run.path}/")
    if done < steps:
        raise typer.Exit(130)


if __name__ == "__main__":
    run_command(command)
