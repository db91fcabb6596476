"""A recipe, a complete GAN as data, and the setting of a training of it.

recipe = RECIPES["dcgan"]       of recipes.py
gan = recipe.build(Random(0))
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from warnings import warn

import numpy as np

from rawgan.ada import ADA, AdaptiveGAN, Augmentation
from rawgan.backend import CPU, Device
from rawgan.errors import UserError
from rawgan.gan import GAN, Schedule
from rawgan.init import glorot_uniform
from rawgan.layers import Parameters, Sequential
from rawgan.losses import Objective
from rawgan.optim import Optimizer
from rawgan.penalties import Penalty, as_penalties, couples_samples
from rawgan.random import Random

Make = Callable[..., Sequential]


@dataclass(frozen=True)
class Setting:
    """Images, width, learning rate and length of a training, as options of `rawgan train`.

    width            as in the functions of the networks
    steps            training steps of the generator
    lr               learning rate of both players; None: the rates of the source's optimizers
    data             a name of --data; None where the images are none that rawgan can load by name
    size, channels   of an image
    """

    width: int
    steps: int
    lr: float | None = None
    data: str | None = "digits"
    size: int = 16
    channels: int = 1

    @property
    def image(self) -> str:
        """Return the shape of an image in words."""
        return f"{self.size}x{self.size}x{self.channels}"

    def below(self, source: "Setting") -> list[str]:
        """Return in words what is smaller, shorter or of other images than in the source's."""
        parts = []
        if self.steps < source.steps:
            parts.append(f"{self.steps:,} of {source.steps:,} steps")
        if self.width < source.width:
            parts.append(f"width {self.width} of {source.width}")
        if self.size**2 * self.channels < source.size**2 * source.channels:
            parts.append(f"images of {self.image}, not {source.image}")
        if source.data not in (None, self.data):
            parts.append(f"of {self.data}, not {source.data}")
        return parts


DIGITS = Setting(width=32, steps=1500)


class RecipeFile(NamedTuple):
    """The Python file that a recipe was read from: its path, and its content."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the content, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def entry(self) -> dict[str, str]:
        """Return the entry of config.json and of checkpoints."""
        return {"recipe_sha256": self.sha256}


@dataclass(frozen=True)
class Recipe:
    """A GAN at any size, number of channels and width that its networks can take.

    generator, discriminator   functions (size, channels, width) -> network
    default                    the setting of `rawgan train`, on the built-in digits
    data, size, channels, width, steps
                               the source's, see `of_source`; data: a name of --data, or None;
                               width as in the functions of the networks; steps: 40,000 where the
                               source gives no number, or one of epochs of other images
    z, draw                    size and distribution of z, "normal" N(0, 1) or "uniform" U(-1, 1)
    pixels                     "tanh" for images in [-1, 1], "unit" for [0, 1]
    classes                    labels are 0 ... classes - 1, of G and, unless the objective takes
                               them, of D; 0: unconditional; the networks of a conditional recipe
                               take another number as `classes`
    optimizers                 functions of Parameters, for G and for D
    lr_decay                   whether both rates fall linearly to 0 over the steps of a run
    schedule                   order of the updates, number of D steps, mode of each pass
    batch                      of the source, and of the default
    bf16                       whether --precision auto may take bfloat16; False for a recipe whose
                               distance in bf16 is outside the spread of its fp32 seeds
    augmentation               of the images that D sees in training; None: none
    file                       where read_recipe_file read it; None for a recipe of the library
    """

    name: str
    source: str
    generator: Make
    discriminator: Make
    objective: Objective
    generator_optimizer: Callable[[Parameters], Optimizer]
    discriminator_optimizer: Callable[[Parameters], Optimizer]
    default: Setting = DIGITS
    init: Callable = glorot_uniform
    data: str | None = "mnist"
    size: int = 28
    channels: int = 1
    width: int = 64
    z: int = 100
    draw: str = "normal"
    pixels: str = "tanh"
    classes: int = 0
    penalty: Penalty | Sequence[Penalty] | None = None
    clip: float | None = None
    schedule: Schedule = field(default_factory=Schedule)
    batch: int = 64
    steps: int = 40_000
    lr_decay: bool = False
    bf16: bool = True
    departures: tuple[str, ...] = ()
    augmentation: Augmentation | None = None
    file: RecipeFile | None = field(default=None, repr=False)

    @property
    def of_source(self) -> Setting:
        """Return the setting of the source, which `rawgan train --source` takes."""
        return Setting(self.width, self.steps, None, self.data, self.size, self.channels)

    def describe(self, setting: Setting, batch: int | None = None) -> str:
        """Return a setting in words, with the batch, the recipe's own unless given."""
        rates = (self.generator_optimizer, self.discriminator_optimizer)
        G, D = (rate.keywords["lr"] if setting.lr is None else setting.lr for rate in rates)
        lr = f"lr {G:g}" if G == D else f"lr {G:g} of G and {D:g} of D"
        lr += " falling to 0" if self.lr_decay else ""
        return (
            f"{setting.data or 'images'} of {setting.image}, width {setting.width}, {lr}, "
            f"batch {batch or self.batch}, {setting.steps:,} steps"
        )

    def shortfall(self, setting: Setting) -> str:
        """Return a sentence on what a setting has less than the source's; "" where nothing is."""
        if not (parts := setting.below(self.of_source)):
            return ""
        return (
            f"this run has less ({', '.join(parts)}) and will not reach its images; "
            f"to train as the source does: {self.source_command}"
        )

    @property
    def source_command(self) -> str:
        """Return the command that trains with the setting of the source."""
        return f"rawgan train {self.command_name} --source" + (
            "" if self.data else " --data FOLDER"
        )

    @property
    def command_name(self) -> str:
        """Return what `rawgan train` calls the recipe: its file, or its name."""
        return str(self.file.path) if self.file else self.name

    def build(
        self,
        random: Random,
        size=None,
        channels=None,
        width=None,
        device: Device = CPU,
        dtype=np.float32,
        steps=None,
    ) -> GAN:
        """Return the GAN with initial weights. Warns where D couples the samples of a penalty.

        steps: of the run, over which the learning rates decay; the source's unless given.
        """
        shape = (size or self.size, channels or self.channels, width or self.width)
        G, D = self.generator(*shape, z=self.z), self.discriminator(*shape)
        of_gradient = any(penalty.of_gradient for penalty in as_penalties(self.penalty))
        if of_gradient and (why := couples_samples(D)):
            warn(f"{self.name}: {why}", stacklevel=2)
        for net, name in ((G, "generator"), (D, "discriminator")):
            self.init(net, random.stream(f"{name} weights"))
            net.bind(random.stream(f"{name} dropout"))
        make = GAN
        if self.augmentation:
            augment = self.augmentation.layer(self.pixels)
            augment.bind(random.stream("augment"))
            D.prepend("augment", augment)
            if self.augmentation.adaptive:
                images, boundary = self.augmentation.ada_images, self.objective.boundary
                make = partial(AdaptiveGAN, ada=ADA(augment, images, boundary))
        return make(
            G,
            D,
            self.objective,
            self.generator_optimizer(Parameters(G, device, dtype)),
            self.discriminator_optimizer(Parameters(D, device, dtype)),
            self.penalty,
            self.clip,
            self.schedule,
            random.stream("penalty"),
            name=self.name,
            z_size=self.z,
            draw=self.draw,
            pixels=self.pixels,
            classes=self.classes,
            steps=self.steps,
            decay_steps=(steps or self.steps) if self.lr_decay else None,
        )

    def with_classes(self, classes: int) -> "Recipe":
        """Return the conditional recipe for another number of classes."""
        if classes == self.classes:
            return self
        nets = {name: getattr(self, name) for name in ("generator", "discriminator")}
        nets = {name: partial(make, classes=classes) for name, make in nets.items()}
        return replace(self, classes=classes, **nets)

    def with_augmentation(self, augmentation: Augmentation) -> "Recipe":
        """Return the recipe with augmentation as the first layer of D.

        Raises UserError for ADA with an objective whose scores have no boundary, and for a penalty
        in inference mode, in which nothing is augmented.
        """
        augmentation.check(self.objective)
        if self.penalty is not None and self.schedule.penalty_mode == "inference":
            raise UserError(
                f"the penalty of {self.name} is taken in inference mode, in which nothing is "
                "augmented, so that it would be that of another D: leave --augment out"
            )
        return replace(self, augmentation=augmentation)

    def with_lr(self, lr: float) -> "Recipe":
        """Return the recipe with one learning rate for both players."""
        players = ("generator_optimizer", "discriminator_optimizer")
        return replace(self, **{name: partial(getattr(self, name), lr=lr) for name in players})

    def with_schedule(self, **changes) -> "Recipe":
        """Return the recipe with other values of fields of its schedule."""
        return replace(self, schedule=replace(self.schedule, **changes))

    def draw_z(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return n latent vectors as a host array, float32 (n, z)."""
        if self.draw == "normal":
            return rng.standard_normal((n, self.z), dtype=np.float32)
        return rng.uniform(-1, 1, (n, self.z)).astype(np.float32)
