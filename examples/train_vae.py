"""Trains a variational autoencoder, or a plain one, on pictures: digits at hand, MNIST, Fashion-MNIST, or a folder of your own.

python examples/train_vae.py
python examples/train_vae.py --data fashion-mnist --steps 2000
python examples/train_vae.py --autoencoder
"""

import io
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works without installing

import numpy as np
import typer
from matplotlib.figure import Figure

from rawgan.backend import Device, choose_device, to_host
from rawgan.data import Images, batches, load
from rawgan.errors import UserError
from rawgan.layers import parameter_count, state
from rawgan.models.autoencoder import Z, build
from rawgan.random import Random
from rawgan.training.loop import progress_bar, stop_requested
from rawgan.training.pictures import save_grid
from rawgan.training.run import RunFolder, free_folder, write_whole
from rawgan.vae import Autoencoder

HELD_OUT = 32  # pictures that are never trained on, to be reconstructed


def train(model, images: Images, run: RunFolder, device: Device, random: Random, *, steps: int, batch: int, sample_every: int) -> int:
    """Trains for `steps` steps and leaves a whole run folder, also when stopped by Ctrl-C. Returns the steps done.

    Raises UserError when the loss is no longer finite; the folder keeps what was made.
    """
    variational = not isinstance(model, Autoencoder)
    seen = replace(images, images=images.images[HELD_OUT:], labels=None)
    order, noise = batches(seen, batch, random.stream("data")), random.stream("z")
    fixed_z = device.asarray(random.stream("fixed z").standard_normal((64, Z), np.float32))
    done = 0

    def draw(step: int) -> None:
        originals = images.images[:HELD_OUT]
        copies = to_uint8(model.decode(model.encode(pixels(originals, device))))
        pairs = np.stack([a.reshape(-1, 8, *a.shape[1:]) for a in (originals, copies)], 1)
        save_grid(run.path / "samples" / f"reconstruction_{step:06}.png", pairs.reshape(-1, *originals.shape[1:]), 8)
        if variational:
            save_grid(run.path / "samples" / f"step_{step:06}.png", to_uint8(model.decode(fixed_z)))

    draw(0)
    try:
        with stop_requested() as stop, progress_bar(steps) as bar:
            while done < steps and not stop():
                x = pixels(seen.images[next(order)], device)
                eps = [device.asarray(noise.standard_normal((batch, Z), np.float32))] if variational else []
                row = {name: float(value) for name, value in model.train_step(x, *eps).items()}
                done += 1
                bar.update()
                if done % 10 == 0 or done == steps:
                    run.log({"step": done} | row)
                    bar.set_postfix_str(", ".join(f"{name} {value:.4g}" for name, value in row.items()), refresh=False)
                    if not all(map(math.isfinite, row.values())):
                        raise UserError(f"the loss is no longer finite at step {done}; a smaller learning rate may help")
                if done % sample_every == 0 and done < steps:
                    draw(done)
    finally:
        draw(done)
        save_losses(run)
        nets = {"encoder": model.encoder, "decoder": model.decoder}
        run.save_weights({f"{who}.{name}": a for who, net in nets.items() for name, a in state(net).items()})
        run.close()
    return done


def pixels(images: np.ndarray, device: Device):
    """uint8 images as float32 in [0, 1] on the device."""
    return device.asarray(images.astype(np.float32) / 255)


def to_uint8(x) -> np.ndarray:
    """Images in [0, 1] as uint8 on the host."""
    return np.rint(to_host(x) * 255).astype(np.uint8)


def save_losses(run: RunFolder) -> None:
    """The curves of all losses in losses.png; the variational loss is the negative ELBO, reconstruction + kl."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for name in (run.metrics or [{}])[0]:
        if name != "step":
            axes.plot(*zip(*((row["step"], row[name]) for row in run.metrics)), label=name, linewidth=1)
    axes.set(xlabel="step", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    write_whole(run.path / "losses.png", png.getvalue())


def command(
    data: Annotated[str, typer.Option(help="digits, mnist, fashion-mnist, or a folder of IDX files or of images")] = "digits",
    autoencoder: Annotated[bool, typer.Option("--autoencoder", help="the plain one: mean squared error, no samples")] = False,
    steps: Annotated[int, typer.Option(min=1, help="training steps")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="images per step")] = 64,
    width: Annotated[int, typer.Option(min=1, help="filters of the first convolution")] = 32,
    size: Annotated[int | None, typer.Option(help="image side, a multiple of 4; 16 for digits, else 28, unless given")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3; the data's own unless given")] = None,
    lr: Annotated[float, typer.Option(help="learning rate")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same run, bit for bit on the CPU")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu")] = "auto",
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two pictures")] = 250,
    out: Annotated[Path | None, typer.Option(help="run folder, new or empty; runs/vae-DATA-NNN unless given")] = None,
):
    """Trains a VAE. Leaves reconstructions, samples, loss curves, metrics and weights in a run folder."""
    if not (math.isfinite(lr) and lr > 0):
        raise UserError(f"a learning rate is a positive number, not {lr}")
    where, random = choose_device(device), Random(seed)
    print(f"Device: {where.name}, computing with {where.path} ({where.why}); no Triton kernels in this path.", flush=True)
    images = load(data, size or (16 if data == "digits" else 28), channels)
    _, H, _, C = images.images.shape
    print(f"Data: {len(images)} images of {H}x{H}x{C}: {images.source}.")
    if len(images) < HELD_OUT + batch:
        raise UserError(f"{images.name} has {len(images)} pictures, too few for a batch of {batch} and {HELD_OUT} to reconstruct")
    model = build(random, not autoencoder, H, C, width, lr=lr, device=where)
    E, D = parameter_count(model.encoder), parameter_count(model.decoder)
    name = "autoencoder" if autoencoder else "vae"
    print(f"Model: {name}, codes of {Z} numbers. The encoder has {E:,} parameters, the decoder {D:,}.", flush=True)
    config = {"recipe": name, "data": images.name, "size": H, "channels": C, "width": width, "steps": steps, "batch": batch, "lr": lr}
    config |= {"seed": seed, "device": where.name, "path": where.path}
    metrics = ("step", "loss") if autoencoder else ("step", "loss", "reconstruction", "kl")
    run = RunFolder(out or free_folder(Path("runs") / f"{name}-{images.name}"), config, metrics)
    done = train(model, images, run, where, random, steps=steps, batch=batch, sample_every=sample_every)
    print(f"{done} steps done; reconstructions, samples, curves, metrics and weights are in {run.path}/")
    if done < steps:
        raise typer.Exit(130)


def main() -> None:
    try:
        typer.run(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
