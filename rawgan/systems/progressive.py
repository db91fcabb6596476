"""The progressive GAN: both networks and the real images grow from 4x4 to their full size.

The step as one listing, of `ProgressiveGAN.train_step`, with G and D the layers of the stage:

    # the real images as G can make them: smaller, in a fade blended with half the resolution
    x    = shrink(real, resolution)
    x    = (1 - alpha) up(down(x)) + alpha x

    # D: WGAN-GP and the drift term
    fake = G(z_d)
    loss = mean D(fake) - mean D(x) + 10 mean( (|g| - 1)^2 ) + 0.001 mean( D(x)^2 )

    # the average of G's parameters
    ema  = 0.999 ema + 0.001 theta_G

    # G: through the updated D, on a new z
    loss = -mean D(G(z_g))

`GrowthSchedule` tells the stage from the number of real images that D has seen.
"""

from dataclasses import dataclass
from math import log2
from typing import Protocol

import numpy as np

from rawgan.backend import Array
from rawgan.ema import EMA
from rawgan.gan import GAN, Metrics
from rawgan.layers import Sequential
from rawgan.losses import Wasserstein
from rawgan.ops.pool import sum_pool, sum_pool_dx
from rawgan.optim import Optimizer
from rawgan.penalties import WGANGP, Drift

EMA_DECAY = 0.999


@dataclass(frozen=True)
class Stage:
    """A resolution, and the weight alpha of its new layers: in (0, 1) in a fade, 1 after it."""

    resolution: int
    alpha: float = 1.0

    @property
    def phase(self) -> tuple[int, bool]:
        """Return the resolution, and whether it is being faded in."""
        return self.resolution, self.alpha < 1

    @property
    def log2_resolution(self) -> float:
        """Return log2 of the resolution, in a fade between that of the one below and its own."""
        return log2(self.resolution) - 1 + self.alpha


@dataclass(frozen=True)
class GrowthSchedule:
    """The stage of growth by the number n of images that D has seen.

    4x4 for `stable` images; then, for each resolution 8, 16, ..., size, a fade in which alpha grows
    linearly from 0 to 1 over `fade` images, and `stable` images at alpha = 1; the last for ever.
    """

    size: int
    stable: int = 12_000
    fade: int = 12_000

    def stage(self, n: int) -> Stage:
        """Return the stage after n images. At alpha = 0 it is the resolution below."""
        if n >= self.images() - self.stable:
            return Stage(self.size)
        period, since = divmod(n, self.stable + self.fade)
        resolution = 4 << period
        if since <= self.stable:
            return Stage(resolution)
        return Stage(2 * resolution, (since - self.stable) / self.fade)

    def images(self) -> int:
        """Return the images up to the end of the first stable phase at full size."""
        doublings = (self.size // 4).bit_length() - 1
        return doublings * (self.stable + self.fade) + self.stable


def shrink(x: Array, resolution: int) -> Array:
    """Return images (N, H, H, C) as (N, resolution, resolution, C): means over squares."""
    k = x.shape[1] // resolution
    return sum_pool(x, k) / k**2 if k > 1 else x


def enlarge(x: Array, size: int) -> Array:
    """Return images (N, H, H, C) as (N, size, size, C) by nearest upsampling."""
    return sum_pool_dx(x, (size, size), size // x.shape[1])


def real_images(x: Array, stage: Stage) -> Array:
    """Return real images as D sees them at a stage: (N, H, H, C) to (N, r, r, C).

    y = shrink(x, r), in a fade (1 - alpha) enlarge(shrink(y, r/2), r) + alpha y
    """
    y, r = shrink(x, stage.resolution), stage.resolution
    if stage.alpha == 1:
        return y
    return (1 - stage.alpha) * enlarge(shrink(y, r // 2), r) + stage.alpha * y


class GrowingNetwork(Protocol):
    """A network with layers for every stage of growth."""

    def at(self, stage: Stage) -> Sequential:
        """Return the layers of a stage."""

    def full_size(self, stage: Stage) -> Sequential:
        """Return the layers of a stage, for images of the full size."""


@dataclass
class ProgressiveGAN:
    """G and D with the layers of all resolutions, their optimizers, and the schedule.

    rng      stream of the points of the gradient penalty
    images   real images that D has seen; they alone determine the stage
    average  exponential moving average of G, from which one samples

    A parameter that no layer of a stage has gets the gradient 0. With beta1 = 0 Adam does not move
    it. Source: Karras et al. 2018 (arXiv:1710.10196).
    """

    generator: GrowingNetwork
    discriminator: GrowingNetwork
    generator_optimizer: Optimizer
    discriminator_optimizer: Optimizer
    schedule: GrowthSchedule
    rng: np.random.Generator
    images: int = 0

    def __post_init__(self):
        self.average = EMA(self.generator_optimizer.parameters, EMA_DECAY)
        self.stage: Stage | None = None
        self.continue_after(self.images)

    def train_step(self, real: Array, z_d: Array, z_g: Array) -> Metrics:
        """Take one step of D and one of G at the present stage; return the metrics.

        real (N, size, size, C) in [-1, 1], z_d and z_g (N, Z) from N(0, 1).
        """
        gan, stage = self.gan, self.stage
        fake, _ = gan.generate(z_d)
        metrics = gan.discriminator_step(real_images(real, stage), fake)
        self.average.update()
        fake, cache = gan.generate(z_g)
        metrics |= gan.generator_step(fake, cache)
        self.advance(len(real))
        return metrics | {"log2_resolution": np.asarray(stage.log2_resolution)}

    def advance(self, n: int) -> None:
        """Count n images; where a fade begins or ends, change layers and reset both optimizers."""
        before = self.stage.phase
        self.continue_after(self.images + n)
        if self.stage.phase != before:
            self.generator_optimizer.reset()
            self.discriminator_optimizer.reset()

    def continue_after(self, images: int) -> None:
        """Set the number of images seen, with the layers of its stage."""
        self.images, stage = images, self.schedule.stage(images)
        if stage == self.stage:
            return
        self.stage = stage
        self.gan = GAN(
            self.generator.at(self.stage),
            self.discriminator.at(self.stage),
            Wasserstein(),
            self.generator_optimizer,
            self.discriminator_optimizer,
            penalty=(WGANGP(10), Drift(1e-3)),
            rng=self.rng,
        )

    def sample(self, z: Array, stage: Stage | None = None) -> Array:
        """Return images of the averaged G at full size, (N, size, size, C) about [-1, 1].

        stage: the present one by default.
        """
        return self.average.net.full_size(stage or self.stage).forward(z, train=False)[0]
