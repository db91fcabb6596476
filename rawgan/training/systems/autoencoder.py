"""Training of a variational autoencoder, or of a plain one."""

from dataclasses import dataclass, replace

import numpy as np

from rawgan.backend import Array, Device
from rawgan.data import Batches, Images
from rawgan.errors import UserError
from rawgan.layers import parameter_count
from rawgan.models.autoencoder import Z, build
from rawgan.systems.vae import Coder
from rawgan.training.plots import save_grid
from rawgan.training.systems.base import SystemOptions, Training, drawn, pixels

HELD_OUT = 32  # images excluded from training, to be reconstructed


@dataclass(frozen=True)
class CoderOptions(SystemOptions):
    """Options of an autoencoder, the variational one by default."""

    recipe: str = "vae"
    lr: float = 2e-3


class AutoencoderTraining(Training):
    """The steps of an autoencoder, with reconstructions of held-out images."""

    options_type = CoderOptions
    panels = {"mean squared error": {"loss": "loss"}}  # noqa: RUF012
    pictures = ("reconstruction", "step")
    variational = False

    def __init__(self, options: CoderOptions, images: Images, device: Device):
        super().__init__(options, images, device)
        if len(images) < HELD_OUT + options.batch:
            raise UserError(
                f"{images.name} has {len(images)} pictures, "
                f"too few for a batch of {options.batch} and {HELD_OUT} to reconstruct"
            )
        _, H, _, C = images.images.shape
        self.model: Coder = build(
            self.random, self.variational, H, C, options.width, lr=options.lr, device=device
        )
        self.networks = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        self.optimizers = {
            "encoder": self.model.encoder_optimizer,
            "decoder": self.model.decoder_optimizer,
        }
        self.noise = self.random.stream("z")
        self.seen = replace(images, images=images.images[HELD_OUT:], labels=None, classes=())
        self.orders = {"data": Batches(self.seen, options.batch, self.random.stream("data"))}
        fixed = self.random.stream("fixed z").standard_normal((64, Z), np.float32)
        self.fixed_z = device.asarray(fixed)

    def describe(self) -> str:
        """Return the networks in words."""
        E, D = (parameter_count(net) for net in self.networks.values())
        return (
            f"{self.options.recipe}, codes of {Z} numbers. "
            f"The encoder has {E:,} parameters, the decoder {D:,}."
        )

    def inputs(self) -> tuple[Array, ...]:
        """Return the next batch of images."""
        return (pixels(self.seen.images[next(self.orders["data"])], self.device),)

    def draw(self, done):
        """Write the images held out, and below each row their reconstructions."""
        model, originals = self.model, self.images.images[:HELD_OUT]
        copies = drawn(model.decode(model.encode(pixels(originals, self.device))))
        pairs = np.stack([a.reshape(-1, 8, *a.shape[1:]) for a in (originals, copies)], 1)
        path = self.run.path / "samples" / f"reconstruction_{done:06}.png"
        save_grid(path, pairs.reshape(-1, *originals.shape[1:]), 8)


class VAETraining(AutoencoderTraining):
    """The steps of a variational autoencoder, with samples besides."""

    panels = {  # noqa: RUF012
        "negative ELBO": {
            "loss": "loss",
            "reconstruction": "reconstruction",
            "kl": "KL divergence to N(0, 1)",
        }
    }
    variational = True

    def inputs(self):
        """Return the next batch of images, and the noise from N(0, 1) of their codes."""
        eps = self.noise.standard_normal((self.options.batch, Z), np.float32)
        return *super().inputs(), self.device.asarray(eps)

    def draw(self, done):
        """Write reconstructions of the images held out, and samples."""
        super().draw(done)
        path = self.run.path / "samples" / f"step_{done:06}.png"
        save_grid(path, drawn(self.model.decode(self.fixed_z)))
