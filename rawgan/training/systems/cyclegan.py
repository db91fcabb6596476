"""Training of a CycleGAN: between gray and colour images, or between two data sets."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from rawgan.backend import Array, Device
from rawgan.data import Batches, Images, load
from rawgan.data.images import with_channels
from rawgan.errors import UserError
from rawgan.layers import parameter_count
from rawgan.models.cyclegan import build
from rawgan.training.checkpoint import fingerprint
from rawgan.training.options import Check, absolute, integer_in, is_text, number_in
from rawgan.training.plots import Panels, evenly_spaced, save_grid
from rawgan.training.systems.base import SystemOptions, Training, drawn, pixels

HELD_OUT = 10  # images of each set excluded from training, to be translated
CURVES: Panels = {
    "loss of D": {"d_target_loss": "of the target", "d_source_loss": "of the source"},
    "loss of G against D": {"g_target_loss": "to the target", "g_source_loss": "to the source"},
    "L1 of there and back": {"cycle_source": "of the source", "cycle_target": "of the target"},
}
IDENTITY_CURVES: Panels = {
    "L1 of identity": {"identity_source": "of the source", "identity_target": "of the target"},
}


@dataclass(frozen=True)
class CycleGANOptions(SystemOptions):
    """Options of a CycleGAN.

    target    the second data set; "": the target is `source`, and the source its gray version
    kernel    side of the kernel of every convolution
    identity  weight of the L1 distance of an image from what the G to its own set makes of it
    lr        the learning rate of both D; that of both G is half of it
    """

    recipe: str = "cyclegan"
    source: str = "noto-emoji"
    size: int | None = 32
    width: int = 16
    steps: int = 3000
    batch: int = 16
    lr: float = 4e-4
    target: str = ""
    kernel: int = 3
    identity: float = 0.0

    checks = {  # noqa: RUF012
        "target": Check(lambda name: name == "" or is_text(name), "a data set, or empty"),
        "kernel": integer_in(1, 15),
        "identity": number_in(0, 1e6),
    }
    of_source = {  # noqa: RUF012
        "source": "cifar10", "size": 32, "width": 32, "steps": 100_000, "batch": 32, "lr": 2e-4,
    }  # fmt: skip

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "target", self.target and absolute(self.target))

    def two_sets(self, images: Images) -> tuple[Images, Images]:
        """Return source and target, of one size, from the images of `source`. Raises UserError."""
        _, H, _, C = images.images.shape
        if self.target:
            return images, load(self.target, H)
        if C == 1:
            raise UserError(
                f"{images.name} is gray: a CycleGAN maps gray images to colour, or one data set to "
                "another: give images in colour, or a second data set as the option target"
            )
        gray = with_channels(images.images, 1, images.name)
        return replace(images, images=gray, name=f"gray {images.name}"), images


class CycleGANTraining(Training):
    """The steps of a CycleGAN, with translations of held-out images.

    Both sets have an order of their own: no image is trained with its counterpart, where it has
    one.
    """

    options_type = CycleGANOptions
    panels = CURVES
    unlike: ClassVar[tuple[str, ...]] = (*Training.unlike, "target")

    def __init__(self, options: CycleGANOptions, images: Images, device: Device):
        super().__init__(options, images, device)
        self.panels = CURVES | (IDENTITY_CURVES if options.identity else {})
        self.sets = dict(zip(("source", "target"), options.two_sets(images), strict=True))
        self.held_out, self.seen = {}, {}
        for name, whole in self.sets.items():
            if len(whole) < HELD_OUT + options.batch:
                raise UserError(
                    f"{whole.name} has {len(whole)} pictures, too few for a batch of "
                    f"{options.batch} and {HELD_OUT} to translate"
                )
            shown = evenly_spaced(len(whole), HELD_OUT)
            self.held_out[name] = whole.images[shown]
            self.seen[name] = np.delete(whole.images, shown, 0)
            remaining = replace(whole, images=self.seen[name], labels=None, classes=())
            self.orders[name] = Batches(remaining, options.batch, self.random.stream(name))
        self.model = build(
            self.random,
            images.images.shape[1],
            tuple(whole.images.shape[3] for whole in self.sets.values()),
            options.width,
            options.kernel,
            options.lr,
            identity=options.identity,
            device=device,
        )
        self.networks, self.optimizers = self.model.networks(), self.model.optimizers

    def describe(self) -> str:
        """Return the two sets and the networks in words."""
        source, target = self.sets.values()
        counts = (f"{name} {parameter_count(net):,}" for name, net in self.networks.items())
        return (
            f"{self.options.recipe}, {len(source)} images of {source.name} to {len(target)} of "
            f"{target.name}. Parameters: {', '.join(counts)}."
        )

    def fingerprint(self) -> list[int]:
        """Return the number of images of each set and a checksum of them."""
        return [n for whole in self.sets.values() for n in fingerprint(whole)]

    def inputs(self) -> tuple[Array, ...]:
        """Return the next batch of source images and that of target images."""
        return tuple(
            pixels(self.seen[name][next(order)], self.device) for name, order in self.orders.items()
        )

    def draw(self, done):
        """Write six rows: source images, translated, and back; target images, translated, back."""
        rows = []
        for name, translate in (
            ("source", self.model.translate),
            ("target", self.model.translate_back),
        ):
            originals = self.held_out[name]
            translated = translate(pixels(originals, self.device))
            rows += [originals, *map(drawn, translated)]
        sheet = [np.broadcast_to(row, (*row.shape[:3], 3)) for row in rows]
        path = self.run.path / "samples" / f"step_{done:06}.png"
        save_grid(path, np.concatenate(sheet), HELD_OUT)
