"""Training of a StackedGAN: the encoder first, then both stacks; pictures by label and noise."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from rawgan.backend import Device, to_host
from rawgan.data import Batches, Images
from rawgan.errors import UserError
from rawgan.models.stackedgan import Z, build
from rawgan.random import Random
from rawgan.systems.infogan import normal_codes
from rawgan.systems.stackedgan import StackedGAN
from rawgan.training.options import integer_in
from rawgan.training.plots import save_grid
from rawgan.training.systems.base import SystemOptions, Training, drawn, pixels

ROWS, COLUMNS = 8, 11  # of the noise in a picture of labels; of the values of swept noise
LIMITS = {"z1": 1.0, "z0": 4.0}  # of the noise that a picture sweeps, as in the book
CHUNK = 1024  # images that the encoder reads at once


@dataclass(frozen=True)
class StackedGANOptions(SystemOptions):
    """Options of a StackedGAN. lr: of D0 and D1; G0 and G1 have half of it.

    encoder_epochs: passes over the images in which the encoder learns, before the first step. The
    defaults train on the built-in digits in a few minutes on two CPU cores.
    """

    recipe: str = "stackedgan"
    width: int = 8
    steps: int = 1500
    lr: float = 2e-3
    encoder_epochs: int = 2

    checks = {"encoder_epochs": integer_in(1, 10**6)}  # noqa: RUF012
    of_source: ClassVar[dict] = {
        "source": "mnist",
        "size": 28,
        "width": 32,
        "steps": 10_000,
        "lr": 2e-4,
        "encoder_epochs": 10,
    }


class StackedGANTraining(Training):
    """The steps of a StackedGAN, with pictures of its labels and of swept noise."""

    options_type = StackedGANOptions
    panels = {  # noqa: RUF012
        "loss of D": {"d1_loss": "D1, features", "d0_loss": "D0, images"},
        "loss of G": {"g1_loss": "G1, features", "g0_loss": "G0, images"},
    }
    pictures = ("step", *LIMITS)

    def __init__(self, options: StackedGANOptions, images: Images, device: Device):
        super().__init__(options, images, device)
        if len(images.classes) < 2:
            raise UserError(
                f"a StackedGAN needs labels, which {images.name} does not have: choose pictures in "
                "a folder for each class"
            )
        _, H, _, C = images.images.shape
        self.classes = len(images.classes)
        self.model: StackedGAN = build(
            self.random, H, C, options.width, self.classes, options.lr, device
        )
        encoder, stacks = self.model.encoder, {1: self.model.features, 0: self.model.images}
        self.networks = {"encoder0": encoder.features, "encoder1": encoder.logits}
        self.frozen = {
            "encoder0": encoder.features_optimizer.parameters,
            "encoder1": encoder.logits_optimizer.parameters,
        }
        for level, stack in stacks.items():
            self.networks |= {
                f"generator{level}": stack.generator,
                f"discriminator{level}": stack.discriminator,
            }
            self.optimizers |= {
                f"generator{level}": stack.generator_optimizer,
                f"discriminator{level}": stack.discriminator_optimizer,
            }
        self.orders = {"data": Batches(images, options.batch, self.random.stream("data"))}
        self.noise = self.random.stream("z")
        self.of_encoder = self.random.stream("encoder data")
        self.fixed = normal_codes(self.random.stream("fixed z"), (2 * ROWS, Z)).reshape(2, ROWS, Z)

    def train_encoder(self) -> None:
        """Train the encoder, the classifier that both stacks invert, and print what it reads."""
        batch, encoder = self.options.batch, self.model.encoder
        order, epochs = Batches(self.images, batch, self.of_encoder), self.options.encoder_epochs
        tqdm.write(f"encoder: trains first, for {epochs} epochs of {len(self.images):,} images")
        for _ in range(epochs * (len(self.images) // batch)):
            encoder.train_step(*self.batch(next(order)))
        predicted = [
            to_host(encoder.read(self.batch(slice(i, i + CHUNK))[0]))
            for i in range(0, len(self.images), CHUNK)
        ]
        share = (np.concatenate(predicted) == self.images.labels).mean()
        tqdm.write(f"encoder: reads the label of {share:.1%} of the images; frozen from here on")

    def batch(self, index) -> tuple:
        """Return images and labels on the device."""
        images, labels = self.images.images[index], self.images.labels[index]
        return pixels(images, self.device), self.device.asarray(labels)

    def run_steps(self, last):
        """Train one step, before the first the encoder; return its metrics."""
        if not self.done:
            self.train_encoder()
        return super().run_steps(last)

    def inputs(self):
        """Return real images with their labels, and the noise of four batches of fakes."""
        shape = self.options.batch, Z
        noise = (self.device.asarray(normal_codes(self.noise, shape)) for _ in range(4))
        return *self.batch(next(self.orders["data"])), *noise

    def draw(self, done):
        """Write the labels side by side, each row of one noise, and the noise of a stack swept.

        A row of swept noise is one label. All Z numbers of z1, or of z0, have the value of the
        column, from -limit to limit; the other noise is the same in all images.
        """
        K, samples = self.classes, self.run.path / "samples"
        z1, z0 = (z.repeat(K, 0) for z in self.fixed)
        grid = self.images_of(np.tile(np.arange(K), ROWS), z1, z0)
        save_grid(samples / f"step_{done:06}.png", grid, K)
        labels = np.arange(K).repeat(COLUMNS)
        for name, limit in LIMITS.items():
            noise = {which: z[:1].repeat(K * COLUMNS, 0) for which, z in zip(LIMITS, self.fixed)}
            sweep = np.linspace(-limit, limit, COLUMNS, dtype=np.float32)
            noise[name] = np.tile(sweep, K)[:, None].repeat(Z, 1)
            save_grid(samples / f"{name}_{done:06}.png", self.images_of(labels, **noise), COLUMNS)

    def images_of(self, labels: np.ndarray, z1: np.ndarray, z0: np.ndarray) -> np.ndarray:
        """Return G's images of labels and noise on the host, uint8."""
        return drawn(self.model.generate(*map(self.device.asarray, (labels, z1, z0))))


def agreement(training: StackedGANTraining, count: int = 1000) -> float:
    """Return the share of `count` generated images whose label the encoder reads from them.

    The labels take turns, and the noise is that of a stream of its own. The encoder also took part
    in the training, by G1's loss.
    """
    labels = np.arange(count) % training.classes
    rng = Random(training.options.seed).stream("agreement")
    z1, z0 = normal_codes(rng, (2 * count, Z)).reshape(2, count, Z)
    images = training.model.generate(*map(training.device.asarray, (labels, z1, z0)))
    return float((to_host(training.model.encoder.read(images)) == labels).mean())
