"""Training of an InfoGAN: the codes of each step, pictures of the codes, and what D reads."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rawgan.backend import Array, Device, to_host
from rawgan.data import Batches, Images
from rawgan.errors import UserError
from rawgan.models.infogan import CODES, Z, build
from rawgan.systems.infogan import FORMS, Code, InfoGAN
from rawgan.training.options import Check
from rawgan.training.plots import CURVES, save_grid
from rawgan.training.systems.base import SystemOptions, Training, drawn, pixels

ROWS, COLUMNS = 8, 11  # of the noise in a picture of categories; of the values of a swept code
CHUNK = 1024  # images that D classifies at once
NOTES = {
    "book": (
        "D learns the categories from the labels of the data, and its code loss is no likelihood."
    ),
    "gaussian": "No label is used; networks and optimizers are those of the book.",
}


@dataclass(frozen=True)
class InfoGANOptions(SystemOptions):
    """Options of an InfoGAN. form: "book" or "gaussian", as in FORMS. lr: of D; G has half of it.

    The defaults train on the built-in digits in a few minutes on two CPU cores.
    """

    recipe: str = "infogan"
    width: int = 8
    steps: int = 1500
    lr: float = 2e-3
    form: str = "book"

    checks: ClassVar[dict[str, Check]] = {
        "form": Check(lambda form: form in FORMS, " or ".join(FORMS)),
    }
    of_source: ClassVar[dict] = {
        "source": "mnist",
        "size": 28,
        "width": 32,
        "steps": 40_000,
        "lr": 2e-4,
    }


class InfoGANTraining(Training):
    """The steps of an InfoGAN, with pictures of its categories and of its swept codes."""

    options_type = InfoGANOptions
    panels = CURVES | {"codes, in G's step": {"class_loss": "category", "code_loss": "codes"}}
    pictures = ("step", *(f"code{i + 1}" for i in range(CODES)))

    def __init__(self, options: InfoGANOptions, images: Images, device: Device):
        super().__init__(options, images, device)
        self.form = FORMS[options.form]
        if self.form.supervised and len(images.classes) < 2:
            raise UserError(
                f"the book's InfoGAN learns from labels, which {images.name} does not have: choose "
                "the form gaussian, or pictures in a folder for each class"
            )
        _, H, _, C = images.images.shape
        self.classes = len(images.classes) or 10
        self.model: InfoGAN = build(
            self.random, options.form, H, C, options.width, self.classes, options.lr, device
        )
        self.networks = {
            "generator": self.model.generator,
            "discriminator": self.model.discriminator,
        }
        self.optimizers = {
            "generator": self.model.generator_optimizer,
            "discriminator": self.model.discriminator_optimizer,
        }
        self.orders = {"data": Batches(images, options.batch, self.random.stream("data"))}
        self.noise, self.codes = self.random.stream("z"), self.random.stream("codes")
        self.fixed_z = self.random.stream("fixed z").uniform(-1, 1, (ROWS, Z)).astype(np.float32)

    def describe(self) -> str:
        """Return the networks, and what the form departs from, in words."""
        form = self.options.form
        codes = f"Form {form}, {self.classes} categories, {CODES} codes."
        return f"{super().describe()} {codes} {NOTES[form]}"

    def entries(self):
        """Return the names of the categories: those of the classes where D learns from labels."""
        names = self.images.classes if self.form.supervised else range(self.classes)
        return {"classes": list(map(str, names))}

    def inputs(self):
        """Return real images with their code, and noise with the codes of two batches of fakes."""
        index, N = next(self.orders["data"]), self.options.batch
        x, x_code = pixels(self.images.images[index], self.device), None
        if self.form.supervised:
            x_code = self.code(self.images.labels[index], self.form.draw(self.codes, (N, CODES)))
        return x, x_code, *self.latents(N), *self.latents(N)

    def latents(self, n: int) -> tuple[Array, Code]:
        """Return noise from U(-1, 1), and a code drawn at random."""
        z = self.noise.uniform(-1, 1, (n, Z)).astype(np.float32)
        labels = self.codes.integers(self.classes, size=n)
        return self.device.asarray(z), self.code(labels, self.form.draw(self.codes, (n, CODES)))

    def code(self, labels: np.ndarray, values: np.ndarray) -> Code:
        """Return a code on the device."""
        return Code(self.device.asarray(labels), self.device.asarray(values))

    def draw(self, done):
        """Write the categories side by side, each row of one noise, and each code swept.

        A row of a swept code is one category, its columns the values from -limit to limit.
        """
        K, samples = self.classes, self.run.path / "samples"
        zeros = np.zeros((ROWS * K, CODES), np.float32)
        labels = np.tile(np.arange(K), ROWS)
        grid = self.images_of(self.fixed_z.repeat(K, 0), labels, zeros)
        save_grid(samples / f"step_{done:06}.png", grid, K)
        sweep = np.linspace(-self.form.limit, self.form.limit, COLUMNS, dtype=np.float32)
        z, labels = self.fixed_z[:1].repeat(K * COLUMNS, 0), np.arange(K).repeat(COLUMNS)
        for i in range(CODES):
            values = np.zeros((K * COLUMNS, CODES), np.float32)
            values[:, i] = np.tile(sweep, K)
            path = samples / f"code{i + 1}_{done:06}.png"
            save_grid(path, self.images_of(z, labels, values), COLUMNS)

    def images_of(self, z: np.ndarray, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return G's images of a latent on the host, uint8."""
        return drawn(self.model.generate(self.device.asarray(z), self.code(labels, values)))


def classified(training: InfoGANTraining) -> float:
    """Return the share of the training images that the category alone classifies.

    D reads a category from each image, and a category stands for the label that most of its images
    have:

        share = sum over k of max over l of #(category k, label l) / N

    Raises UserError for images without labels.
    """
    images = training.images
    if images.labels is None:
        raise UserError(f"{images.name} has no labels to compare the categories with")
    categories = [
        to_host(training.model.categories(pixels(images.images[i : i + CHUNK], training.device)))
        for i in range(0, len(images), CHUNK)
    ]
    counts = np.zeros((training.classes, len(images.classes)), np.int64)
    np.add.at(counts, (np.concatenate(categories), images.labels), 1)
    return float(counts.max(1).sum() / len(images))
