"""Train a variational autoencoder, or a plain one, in a run folder; resume it."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rawgan.backend import Array, Device, to_host
from rawgan.data import Batches, Images, load, to_uint8
from rawgan.errors import UserError
from rawgan.files import kind, locked
from rawgan.layers import parameter_count, state
from rawgan.models.autoencoder import Z, build
from rawgan.random import Random
from rawgan.training.callbacks import Callbacks
from rawgan.training.checkpoint import (
    checkpoints,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from rawgan.training.loop import LOG_EVERY, Recorder, train_loop
from rawgan.training.options import FIELDS, natural_size, read_config
from rawgan.training.plots import columns, save_grid
from rawgan.training.prefetch import restore_streams
from rawgan.training.run_folder import (
    RunFolder,
    check_folder,
    check_free,
    free_folder,
    write_config,
)
from rawgan.training.train import absolute
from rawgan.vae import Coder

HELD_OUT = 32  # images excluded from training, to be reconstructed
NAMES = ("vae", "autoencoder")
CURVES = {
    "vae": {
        "negative ELBO": {
            "loss": "loss",
            "reconstruction": "reconstruction",
            "kl": "KL divergence to N(0, 1)",
        }
    },
    "autoencoder": {"mean squared error": {"loss": "loss"}},
}


@dataclass(frozen=True)
class CoderOptions:
    """Options of a training; `source` is the data set, None stands for the data's own value."""

    recipe: str = "vae"
    source: str = "digits"
    size: int | None = None
    channels: int | None = None
    width: int = 32
    steps: int = 2000
    batch: int = 64
    lr: float = 2e-3
    seed: int = 0
    sample_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2


class Training(Callbacks):
    """The steps of an autoencoder, with reconstructions of held-out images and samples of a VAE.

    `arrays()` and `state_dict()` hold all that changes from step to step.
    """

    def __init__(self, options: CoderOptions, images: Images, device: Device):
        self.options, self.images, self.device, self.done = options, images, device, 0
        self.random, self.run = Random(options.seed), None
        _, H, _, C = images.images.shape
        self.variational = options.recipe == "vae"
        self.model: Coder = build(
            self.random, self.variational, H, C, options.width, lr=options.lr, device=device
        )
        self.noise = self.random.stream("z")
        self.seen = replace(images, images=images.images[HELD_OUT:], labels=None, classes=())
        self.order = Batches(self.seen, options.batch, self.random.stream("data"))
        fixed = self.random.stream("fixed z").standard_normal((64, Z), np.float32)
        self.fixed_z = device.asarray(fixed)
        self.optimizers = {
            "encoder": self.model.encoder_optimizer,
            "decoder": self.model.decoder_optimizer,
        }

    def next_inputs(self) -> list[Array]:
        """Return what the next train_step takes: images and, for a VAE, noise from N(0, 1)."""
        inputs = [pixels(self.seen.images[next(self.order)], self.device)]
        if self.variational:
            eps = self.noise.standard_normal((self.options.batch, Z), np.float32)
            inputs.append(self.device.asarray(eps))
        self.done += 1
        return inputs

    def run_steps(self, last):
        """Train one step and return its metrics."""
        return [self.model.train_step(*self.next_inputs())]

    def draw(self, done):
        """Write reconstructions of the images held out and, of a VAE, samples."""
        model, originals = self.model, self.images.images[:HELD_OUT]
        copies = drawn(model.decode(model.encode(pixels(originals, self.device))))
        pairs = np.stack([a.reshape(-1, 8, *a.shape[1:]) for a in (originals, copies)], 1)
        samples = self.run.path / "samples"
        images = pairs.reshape(-1, *originals.shape[1:])
        save_grid(samples / f"reconstruction_{done:06}.png", images, 8)
        if self.variational:
            save_grid(samples / f"step_{done:06}.png", drawn(model.decode(self.fixed_z)))

    def weights(self):
        """Return the arrays of both networks."""
        nets = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        return {f"{who}.{name}": a for who, net in nets.items() for name, a in state(net).items()}

    def all_finite(self):
        """Return whether all weights and optimizer slots are finite."""
        return all(np.isfinite(a).all() for a in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights and the optimizers' slots."""
        slots = {
            f"{who}_optimizer.{name}": to_host(a).copy()
            for who, optimizer in self.optimizers.items()
            for name, a in optimizer.slots.items()
        }
        return self.weights() | slots

    def identity(self) -> dict:
        """Return the options and data that a checkpoint must share with this run."""
        names = ("recipe", "width", "batch", "lr", "seed")
        options = {name: getattr(self.options, name) for name in names}
        return options | {"pictures": fingerprint(self.images)}

    def state_dict(self) -> dict:
        """Return everything of a checkpoint that is no array, as JSON-able values."""
        return {
            "step": self.done,
            "identity": self.identity(),
            "t": {who: optimizer.t for who, optimizer in self.optimizers.items()},
            "random": self.random.state(),
            "position": self.order.position(),
        }

    def save(self, done):
        """Write a checkpoint."""
        self.run.sync()
        save_checkpoint(self.run.path, done, self.arrays(), self.state_dict(), self.options.keep)
        tqdm.write(f"checkpoint: step {done}")

    def restore(self, path: Path) -> None:
        """Load a checkpoint. Raises UserError, naming the file, unless it is one of this run."""
        arrays, saved = load_checkpoint(path)
        if saved.get("identity") != self.identity():
            raise UserError(f"{path} is of another run, or of other pictures")
        expected = self.arrays()
        if {n: (a.shape, a.dtype) for n, a in expected.items()} != {
            n: (a.shape, a.dtype) for n, a in arrays.items()
        }:
            raise UserError(f"{path} does not fit this run: its arrays are others")
        try:
            restore_streams(self.random, saved["random"])
            self.order.seek(saved["position"])
            self.done = saved["step"]
            for who, optimizer in self.optimizers.items():
                optimizer.t = saved["t"][who]
            if not all(map(FIELDS["steps"], (self.done, *saved["t"].values()))):
                raise ValueError("a count out of range")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{path} has no usable step and random streams: it is of another version"
            ) from error
        for who, optimizer in self.optimizers.items():
            prefix = f"{who}."
            optimizer.parameters.load(
                {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            )
            for name, slot in optimizer.slots.items():
                slot[...] = self.device.asarray(arrays[f"{who}_optimizer.{name}"])


def pixels(images: np.ndarray, device: Device):
    """Convert uint8 images to float32 in [0, 1] on the device."""
    return device.asarray(images.astype(np.float32) / 255)


def drawn(x) -> np.ndarray:
    """Convert images in [0, 1] to uint8 on the host."""
    return to_uint8(to_host(2 * x - 1))


def open_training(options: CoderOptions, device: Device) -> Training:
    """Load the images and return the training; print data and model. Raises UserError."""
    if not (math.isfinite(options.lr) and options.lr > 0):
        raise UserError(f"a learning rate is a positive number, not {options.lr}")
    size = natural_size(options.source) if options.size is None else options.size
    images = load(options.source, size, options.channels)
    _, H, _, C = images.images.shape
    print(f"Data: {len(images)} images of {H}x{H}x{C}: {images.source}.")
    if len(images) < HELD_OUT + options.batch:
        raise UserError(
            f"{images.name} has {len(images)} pictures, "
            f"too few for a batch of {options.batch} and {HELD_OUT} to reconstruct"
        )
    training = Training(options, images, device)
    E, D = (parameter_count(net) for net in (training.model.encoder, training.model.decoder))
    print(
        f"Model: {options.recipe}, codes of {Z} numbers. "
        f"The encoder has {E:,} parameters, the decoder {D:,}.",
        flush=True,
    )
    return training


def start(options: CoderOptions, device: Device, out: Path | None = None) -> tuple[int, int]:
    """Train from the first step in a new run folder; return the steps done and those requested.

    Raises UserError.
    """
    with new_run(options, device, out) as (training, recorder):
        return train_all(training, recorder, options), options.steps


def train_all(training: Training, recorder: Recorder, options: CoderOptions) -> int:
    """Train to the last step of the options; return the steps done."""
    periods = options.sample_every, options.checkpoint_every
    return train_loop(training.run_steps, recorder, *periods)


@contextmanager
def new_run(
    options: CoderOptions, device: Device, out: Path | None = None
) -> Iterator[tuple[Training, Recorder]]:
    """Yield the training and the recorder of a new run folder; print the outcome at the end.

    out: the folder, new or empty; the next free runs/RECIPE-DATA-NNN by default. Raises UserError.
    """
    if out is not None:
        check_free(out)
    training = open_training(options, device)
    images, name = training.images, options.recipe
    _, H, _, C = images.images.shape
    options = replace(options, source=absolute(options.source), size=H, channels=C)
    config = {"recipe": name, "data": images.name} | asdict(options)
    config |= {"device": device.name, "backend": device.library, "pictures": fingerprint(images)}
    folder = out or free_folder(Path("runs") / f"{name}-{images.name}")
    tables = {"metrics": columns(CURVES[name])}
    training.run = RunFolder.new(folder, config, tables, created=out is None)
    with recorded(training, options) as recorder:
        yield training, recorder


def is_autoencoder(folder: Path) -> bool:
    """Return whether a run folder is of an autoencoder."""
    try:
        return read_config(Path(folder) / "config.json").get("recipe") in NAMES
    except UserError:
        return False


def resume(folder: Path, device: Device, **changes) -> tuple[int, int]:
    """Train on from the last checkpoint of a run; return as `start`. Raises UserError.

    changes: steps, sample_every, checkpoint_every, keep, and source, where the pictures have moved.
    """
    folder = Path(folder)
    check_folder(folder)
    config = read_config(folder / "config.json")
    options = replace(from_config(config, folder / "config.json"), **changes)
    with ExitStack() as locks:
        training = open_training(options, device)
        locks.enter_context(locked(folder))
        if config.get("pictures") != fingerprint(training.images):
            raise UserError(
                f"{folder} was trained on other pictures than those in {options.source}"
            )
        saved = checkpoints(folder)
        if saved:
            training.restore([*saved.values()][-1])
        complete = training.done >= options.steps
        if complete and kind(folder / "weights.safetensors"):
            raise UserError(
                f"{folder} has done its {training.done} steps: ask for more, --steps N, to go on"
            )
        period = 1 if complete else options.sample_every
        kept = (period, *((config["sample_every"],) if "sample_every" in changes else ()))
        every = {"metrics": (1 if complete else LOG_EVERY,), "samples": kept}
        training.run = RunFolder.reopen(
            folder,
            {"metrics": columns(CURVES[options.recipe])},
            training.done,
            every,
            config,
            training.weights(),
        )
        write_config(folder, config | asdict(replace(options, source=absolute(options.source))))
        print(f"Resuming {folder} after step {training.done} of {options.steps}.", flush=True)
        with recorded(training, options) as recorder:
            return train_all(training, recorder, options), options.steps


def from_config(config: dict, path: Path) -> CoderOptions:
    """Return the options in the config.json at `path`. Raises UserError for an invalid one."""
    values = {}
    for name in asdict(CoderOptions()):
        check = FIELDS["data" if name == "source" else name]
        if name not in config or config[name] is None or not check(config[name]):
            raise UserError(f"{path} has no usable {name}: the run cannot go on from it")
        values[name] = config[name]
    return CoderOptions(**values)


@contextmanager
def recorded(training: Training, options: CoderOptions) -> Iterator[Recorder]:
    """Yield the recorder of a training; print the outcome at the end."""
    panels, first = CURVES[options.recipe], training.done
    sizes = {"steps": options.steps, "batch": options.batch, "first": first}
    with Recorder(training.run, training, panels, **sizes) as recorder:
        yield recorder
    done, path = recorder.done, training.run.path
    print(f"{done} steps done; pictures, curves, metrics and weights are in {path}/")
    if done < options.steps:
        print(f"To go on with it: rawgan train --resume {path}")
