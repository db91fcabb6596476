"""Train a system in a run folder, resume it: what every system shares.

A system is a model of networks other than one G and one D of a Recipe: an autoencoder, a GAN of
several generators or of further losses. Its training is a subclass of Training.

    System's options    SystemOptions, or a subclass with fields of its own
    System's training   Training: networks, optimizers, inputs of a step, pictures
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from rawgan.backend import Array, Device, to_host
from rawgan.data import Batches, Images, load, to_uint8
from rawgan.errors import UserError
from rawgan.layers import Parameters, Sequential, parameter_count, state
from rawgan.optim import Optimizer
from rawgan.random import Random
from rawgan.training.callbacks import Callbacks
from rawgan.training.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from rawgan.training.loop import Recorder
from rawgan.training.options import FIELDS, Check, natural_size
from rawgan.training.plots import Panels
from rawgan.training.prefetch import restore_streams


@dataclass(frozen=True)
class SystemOptions:
    """Options of a training; `source` is the data set, None stands for the data's own value.

    checks     of the fields that a subclass adds, as in options.FIELDS, by name
    of_source  the options of the book or paper, which --source takes
    """

    recipe: str
    source: str = "digits"
    size: int | None = None
    channels: int | None = None
    width: int = 32
    steps: int = 2000
    batch: int = 64
    lr: float = 1e-3
    seed: int = 0
    sample_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2

    checks: ClassVar[dict[str, Check]] = {}
    of_source: ClassVar[dict] = {}

    def __post_init__(self):
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"a learning rate is a positive number, not {self.lr}")
        for name, check in self.checks.items():
            if not check(value := getattr(self, name)):
                raise UserError(
                    f"{name} {value!r:.80} of {self.recipe} cannot be used: "
                    f"it must be {check.description}"
                )

    def __str__(self) -> str:
        """Return the options in words: those of every system, and its own."""
        size = f" of {self.size}x{self.size}" if self.size else ""
        added = (f"{name}={getattr(self, name)}" for name in self.checks)
        shared = f"{self.source}{size}, width {self.width}, lr {self.lr:g}, batch {self.batch}, "
        return "; ".join(filter(None, (f"{shared}{self.steps:,} steps", ", ".join(added))))

    @classmethod
    def from_config(cls, config: dict, path: Path) -> "SystemOptions":
        """Return the options in the config.json at `path`. Raises UserError for an invalid one."""
        values = {}
        for name in (field.name for field in fields(cls)):
            check = (FIELDS | cls.checks)["data" if name == "source" else name]
            if config.get(name) is None or not check(config[name]):
                raise UserError(f"{path} has no usable {name}: the run cannot go on from it")
            values[name] = config[name]
        return cls(**values)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> dict:
        """Return fields that a subclass adds from texts such as "labels=100". Raises UserError."""
        kinds = {field.name: type(field.default) for field in fields(cls)}
        values = {}
        for text in texts:
            name, _, value = text.partition("=")
            if name not in cls.checks:
                names = f"it has {', '.join(cls.checks)}" if cls.checks else "it has none"
                raise UserError(f"--set {text!r:.80} is no option of {cls.recipe}; {names}")
            try:
                values[name] = kinds[name](value)
            except ValueError as error:
                raise UserError(
                    f"--set {text!r:.80}: {name} must be {cls.checks[name].description}"
                ) from error
        return values

    def load_images(self) -> Images:
        """Return the images of the data set at the size of the options. Raises UserError."""
        size = natural_size(self.source) if self.size is None else self.size
        return load(self.source, size, self.channels)


class Training(Callbacks):
    """The steps of a system: its networks, the data of each step, pictures, checkpoints.

    A subclass sets in __init__, after super().__init__:

    model       has train_step(*inputs) -> metrics
    networks    by name: the weights of a run are those of "network.parameter"
    optimizers  by the name of the network that they train
    orders      the order of the images by name, Batches, whose positions a checkpoint keeps
    frozen      the parameters of the networks that no optimizer trains, such as a moving average
    averages    further arrays of a checkpoint by name

    and defines `inputs` and `draw`. `arrays()` and `state_dict()` hold all that changes from step
    to step.

    options_type  class of the options
    panels        curves of losses.png, by panel; their names are the columns of metrics.csv
    pictures      names of the pictures that `draw` writes, samples/NAME_NNNNNN.png
    unlike        options that may differ between a checkpoint and the run that it is loaded into
    """

    options_type: ClassVar[type[SystemOptions]] = SystemOptions
    panels: ClassVar[Panels]
    pictures: ClassVar[tuple[str, ...]] = ("step",)
    unlike: ClassVar[tuple[str, ...]] = (
        "source",
        "size",
        "channels",
        "steps",
        "sample_every",
        "checkpoint_every",
        "keep",
    )

    def __init__(self, options: SystemOptions, images: Images, device: Device):
        self.options, self.images, self.device, self.done = options, images, device, 0
        self.random, self.run = Random(options.seed), None
        self.networks: dict[str, Sequential] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.frozen: dict[str, Parameters] = {}
        self.orders: dict[str, Batches] = {}
        self.averages: dict[str, Array] = {}

    @abstractmethod
    def inputs(self) -> tuple[Array, ...]:
        """Return the inputs of the next training step: batches of images, noise, labels."""

    def describe(self) -> str:
        """Return the networks in words, for the line "Model:"."""
        counts = (f"{name} {parameter_count(net):,}" for name, net in self.networks.items())
        return f"{self.options.recipe}. Parameters: {', '.join(counts)}."

    def entries(self) -> dict:
        """Return further entries of config.json, as JSON-able values."""
        return {}

    def next_inputs(self) -> tuple[Array, ...]:
        """Count a step, and return what its `model.train_step` takes."""
        self.done += 1
        return self.inputs()

    def run_steps(self, last: int) -> list[dict[str, Array]]:
        """Train one step and return its metrics."""
        return [self.model.train_step(*self.next_inputs())]

    def weights(self) -> dict[str, np.ndarray]:
        """Return the parameters and running statistics of all networks by "network.parameter"."""
        nets = self.networks.items()
        return {f"{who}.{name}": a for who, net in nets for name, a in state(net).items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights, the optimizers' slots and the averages."""
        slots = {
            f"{who}_optimizer.{name}": to_host(a).copy()
            for who, optimizer in self.optimizers.items()
            for name, a in optimizer.slots.items()
        }
        return self.weights() | slots | {n: to_host(a).copy() for n, a in self.averages.items()}

    def all_finite(self) -> bool:
        """Return whether all weights and optimizer slots are finite."""
        return all(np.isfinite(a).all() for a in self.arrays().values())

    def identity(self) -> dict:
        """Return the options and data that a checkpoint must share with this run."""
        options = asdict(self.options).items()
        return {name: value for name, value in options if name not in self.unlike} | {
            "pictures": self.fingerprint()
        }

    def fingerprint(self) -> list[int]:
        """Return the number of images and a checksum of them."""
        return fingerprint(self.images)

    def numbers(self) -> dict:
        """Return further numbers of a checkpoint, as JSON-able values."""
        return {}

    def load_numbers(self, saved: dict) -> None:
        """Load what `numbers` returned. Raises ValueError, TypeError, KeyError."""

    def state_dict(self) -> dict:
        """Return everything of a checkpoint that is no array, as JSON-able values."""
        return {
            "step": self.done,
            "identity": self.identity(),
            "t": {who: optimizer.t for who, optimizer in self.optimizers.items()},
            "random": self.random.state(),
            "positions": {name: order.position() for name, order in self.orders.items()},
        } | self.numbers()

    def save(self, done: int) -> None:
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
            # checkpoints of earlier versions have one position, that of the data
            positions = saved.get("positions", {"data": saved.get("position")})
            for name, order in self.orders.items():
                order.seek(positions[name])
            self.done = saved["step"]
            for who, optimizer in self.optimizers.items():
                optimizer.t = saved["t"][who]
            # t counts from the last reset of an optimizer
            if not all(map(FIELDS["steps"], (self.done, *(t + 1 for t in saved["t"].values())))):
                raise ValueError("a count out of range")
            self.load_numbers(saved)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{path} has no usable step and random streams: it is of another version"
            ) from error
        trained = {who: optimizer.parameters for who, optimizer in self.optimizers.items()}
        for who, parameters in (trained | self.frozen).items():
            prefix = f"{who}."
            parameters.load(
                {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            )
        for who, optimizer in self.optimizers.items():
            for name, slot in optimizer.slots.items():
                slot[...] = self.device.asarray(arrays[f"{who}_optimizer.{name}"])
        for name, a in self.averages.items():
            a[...] = self.device.asarray(arrays[name])


@contextmanager
def recorded(training: Training) -> Iterator[Recorder]:
    """Yield the recorder of a training; print the outcome at the end."""
    options, first = training.options, training.done
    sizes = {"steps": options.steps, "batch": options.batch, "first": first}
    with Recorder(training.run, training, training.panels, **sizes) as recorder:
        yield recorder
    done, path = recorder.done, training.run.path
    print(f"{done} steps done; pictures, curves, metrics and weights are in {path}/")


def pixels(images: np.ndarray, device: Device) -> Array:
    """Convert uint8 images to float32 in [0, 1] on the device."""
    return device.asarray(images.astype(np.float32) / 255)


def drawn(x: Array) -> np.ndarray:
    """Convert images in [0, 1] to uint8 on the host."""
    return to_uint8(to_host(2 * x - 1))
