"""Training of the semi-supervised GAN, and of the same classifier on the labelled images alone."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from rawgan.backend import Array, Device, to_host
from rawgan.data import Batches, Images, NoTestSplit, load, to_float, to_uint8, with_classes
from rawgan.errors import UserError
from rawgan.layers import parameter_count
from rawgan.models.semi_supervised import NETWORKS, Z, build
from rawgan.optim import LinearDecay
from rawgan.systems.semi_supervised import Classifier
from rawgan.training.options import Check, integer_in, number_in
from rawgan.training.plots import save_grid
from rawgan.training.systems.base import SystemOptions, Training, drawn, pixels

FIRST = 500  # images that D's first scales and biases are computed from
HELD_OUT = 5  # of images without a test split, one in so many is held out to be classified
SAMPLES = 64
DECAY_PARTS = 3  # the learning rates of convolutional networks fall in the last third of the steps


@dataclass(frozen=True)
class SemiSupervisedOptions(SystemOptions):
    """Options of a semi-supervised training.

    lr        the networks' own unless given: 3e-3, of convolutional ones 3e-4
    labels    number of labelled images, equally many of each class
    rate      of the average of D's weights that classifies; 1e-4 in the source
    networks  a name of NETWORKS: "linear" or "convolutional"; --source is of linear ones
    """

    recipe: str = "semi_supervised"
    width: int = 100
    batch: int = 100
    lr: float | None = None
    labels: int = 100
    rate: float = 1e-3
    networks: str = "linear"

    checks: ClassVar = {
        "labels": integer_in(1, 10**9),
        "rate": number_in(1e-9, 1),
        "networks": Check(lambda name: name in NETWORKS, " or ".join(NETWORKS)),
    }
    of_source: ClassVar = {"source": "mnist", "width": 500, "steps": 180_000, "rate": 1e-4}

    def __post_init__(self):
        super().__post_init__()
        if self.lr is None:
            object.__setattr__(self, "lr", NETWORKS[self.networks].lr)


class SupervisedTraining(Training):
    """The steps of D alone, on the labelled images.

    Its errors are those on the test split of the data set, or on a fifth of the images, which no
    training sees, where it has none.
    """

    options_type = SemiSupervisedOptions
    panels = {  # noqa: RUF012
        "cross-entropy of the labelled images": {"labelled": "labelled"},
        "share of the test images": {"test_error": "classified wrong"},
    }
    pictures = ()
    supervised = True

    def __init__(self, options: SemiSupervisedOptions, images: Images, device: Device):
        super().__init__(options, images, device)
        if images.labels is None or len(images.classes) < 2:
            raise UserError(f"{options.recipe} learns classes: {images.name} has no labels")
        seen, self.test = split(options, images)
        self.labelled = choose(seen, options.labels, self.random.stream("labels"))
        self.unlabelled = replace(seen, labels=None, classes=())
        if len(seen) < options.batch:
            raise UserError(f"{images.name} has {len(seen)} pictures, too few for a batch")
        self.kind = NETWORKS[options.networks]._replace(lr=options.lr)
        order = self.random.stream("first").permutation(len(seen))[:FIRST]
        self.model: Classifier = build(
            self.random, self.pixels(seen.images[order]), len(images.classes), options.width,
            rate=options.rate, supervised=self.supervised, networks=self.kind, device=device,
        )  # fmt: skip
        self.networks = {
            "discriminator": self.model.discriminator,
            "classifier": self.model.averaged,
        }
        self.frozen = {"classifier": self.model.averaged_parameters}
        self.optimizers = {"discriminator": self.model.discriminator_optimizer}
        self.decay = LinearDecay(options.steps, *self.optimizers.values(), parts=DECAY_PARTS)
        self.averages = {"average": self.model.average}
        batch = min(options.batch, len(self.labelled))
        self.orders = {"labelled": Batches(self.labelled, batch, self.random.stream("labelled"))}
        self.test_error = 1.0
        self.tested: tuple[int, int] | None = None  # the step of the last test, and its errors

    def pixels(self, images: np.ndarray) -> Array:
        """Convert uint8 images to float32 in the range of the networks, on the device."""
        if self.kind.pixels == "unit":
            return pixels(images, self.device)
        return self.device.asarray(to_float(images))

    def next_inputs(self):
        """Count a step, set its learning rates, and return what its `train_step` takes."""
        if self.kind.decay:
            self.decay.set_rates(self.done)
        return super().next_inputs()

    def describe(self):
        """Return the networks, and the images that are labelled and tested, in words."""
        counts = {name: parameter_count(net) for name, net in self.networks.items()}
        of_generator = f", the generator {counts['generator']:,}" if "generator" in counts else ""
        return (
            f"{self.options.recipe}, {len(self.labelled)} of {len(self.unlabelled)} images with "
            f"labels, {len(self.test)} to test. The discriminator has "
            f"{counts['discriminator']:,} parameters{of_generator}."
        )

    def inputs(self) -> tuple[Array, ...]:
        """Return the next labelled images, and their labels."""
        order = next(self.orders["labelled"])
        labels = self.device.asarray(self.labelled.labels[order])
        return self.pixels(self.labelled.images[order]), labels

    def weights(self):
        """Return the weights of all networks, the classifier's those of the average so far."""
        self.model.set_averaged()
        return super().weights()

    def with_error(self, metrics: dict[str, Array]) -> dict[str, Array]:
        """Return the metrics of a step with the last test error.

        It is measured every sample_every steps, and after the last step. The latter is not kept, so
        that a run of more steps has the same metrics in one part as in two.
        """
        if self.done % self.options.sample_every == 0:
            self.test_error = self.wrong() / len(self.test)
        elif self.done == self.options.steps:
            return metrics | {"test_error": self.wrong() / len(self.test)}
        return metrics | {"test_error": self.test_error}

    def run_steps(self, last):
        """Train one step and return its metrics, with the test error."""
        return [self.with_error(metrics) for metrics in super().run_steps(last)]

    def wrong(self) -> int:
        """Return how many of the test images are classified wrong; a step is tested once."""
        if self.tested is None or self.tested[0] != self.done:
            classes = to_host(self.model.classify(self.pixels(self.test.images)))
            self.tested = self.done, int((classes != self.test.labels).sum())
        return self.tested[1]

    def draw(self, done):
        """Print how many of the test images are classified wrong."""
        wrong, count = self.wrong(), len(self.test)
        if not done:
            self.test_error = wrong / count
        tqdm.write(f"step {done}: {wrong} of {count} test images wrong, {wrong / count:.2%}")

    def numbers(self):
        """Return the last test error, and the number of steps that the rates are of."""
        return {"test_error": self.test_error, "steps": self.options.steps}

    def load_numbers(self, saved):
        """Load the last test error; print where learning rates are no longer those of the start."""
        self.test_error = float(saved["test_error"])
        before, steps = saved.get("steps", self.options.steps), self.options.steps
        if self.kind.decay and before != steps:
            print(
                f"Learning rate: falls to 0 at step {steps}, in the place of {before}: the run is "
                "no longer that of its seed alone."
            )


class SemiSupervisedTraining(SupervisedTraining):
    """The steps of the GAN, with samples of G besides."""

    panels = {  # noqa: RUF012
        "loss": {
            "labelled": "D, labelled images",
            "unlabelled": "D, real or fake",
        },
        "distance of mean features": {"matching": "generator"},
        "share of the test images": {"test_error": "classified wrong"},
    }
    pictures = ("step",)
    supervised = False

    def __init__(self, options: SemiSupervisedOptions, images: Images, device: Device):
        super().__init__(options, images, device)
        self.networks = {"generator": self.model.generator} | self.networks
        self.optimizers = {"generator": self.model.generator_optimizer} | self.optimizers
        self.decay = LinearDecay(options.steps, *self.optimizers.values(), parts=DECAY_PARTS)
        for name in ("unlabelled", "matched"):
            stream = self.random.stream(name)
            self.orders[name] = Batches(self.unlabelled, options.batch, stream)
        self.noise = self.random.stream("z")
        self.fixed_z = self.draw_z(self.random.stream("fixed z"), SAMPLES)

    def draw_z(self, stream: np.random.Generator, count: int) -> Array:
        """Return inputs of G from U(0, 1), (count, Z)."""
        return self.device.asarray(stream.random((count, Z), np.float32))

    def inputs(self):
        """Return labelled images and labels, other images for D and for G, and two z."""
        u, v = (
            self.pixels(self.unlabelled.images[next(self.orders[name])])
            for name in ("unlabelled", "matched")
        )
        z, z2 = (self.draw_z(self.noise, self.options.batch) for _ in range(2))
        return *super().inputs(), u, z, v, z2

    def draw(self, done):
        """Print the errors, and write samples of G."""
        super().draw(done)
        fakes, _ = self.model.generator.forward(self.fixed_z, train=False)
        grid = drawn(fakes) if self.kind.pixels == "unit" else to_uint8(to_host(fakes))
        save_grid(self.run.path / "samples" / f"step_{done:06}.png", grid)


def split(options: SystemOptions, images: Images) -> tuple[Images, Images]:
    """Return the images to train on, and those to test: the same ones whatever the seed."""
    try:
        size, channels = images.images.shape[2:]
        test = load(options.source, size, channels, split="test")
        return images, with_classes(test, images.classes)
    except NoTestSplit:
        order = np.random.default_rng(0).permutation(len(images))
        held_out = len(images) // HELD_OUT
        parts = order[held_out:], order[:held_out]
        return tuple(
            replace(images, images=images.images[part], labels=images.labels[part])
            for part in parts
        )


def choose(images: Images, count: int, rng: np.random.Generator) -> Images:
    """Return `count` images, equally many of each class.

    Raises UserError where the classes do not divide them, or one has too few.
    """
    each, rest = divmod(count, len(images.classes))
    order = rng.permutation(len(images))
    parts = [order[images.labels[order] == k][:each] for k in range(len(images.classes))]
    if rest or not each or any(len(part) < each for part in parts):
        raise UserError(
            f"{count} labelled images cannot be equally many of the {len(images.classes)} classes "
            f"of {images.name}"
        )
    chosen = np.concatenate(parts)
    return replace(images, images=images.images[chosen], labels=images.labels[chosen])
