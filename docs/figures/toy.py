"""Small trainings for figures and the notebook: a GAN on a ring of Gaussians, one on digits."""

from collections.abc import Callable, Iterator

import numpy as np

from rawgan.data import load, to_float
from rawgan.gan import GAN
from rawgan.init import dcgan_init, he_uniform
from rawgan.layers import Parameters
from rawgan.losses import BCE, Objective, Wasserstein
from rawgan.models.dcgan import dcgan_discriminator, dcgan_generator
from rawgan.optim import Adam
from rawgan.penalties import WGANGP
from rawgan.random import Random
from rawgan.toys import critic, generator, ring

BATCH, STEPS = 64, 500


def ring_gan(
    random: Random,
    objective: Objective | None = None,
    penalty=WGANGP(1),  # noqa: B008
    rate: float = 1e-3,
) -> GAN:
    """Return a GAN in units of the ring's spread, by default a WGAN-GP."""
    nets = generator(32), critic(32)
    for net, name in zip(nets, ("generator", "critic")):
        he_uniform(net, random.stream(f"{name} weights"))
    optimizers = [Adam(Parameters(net), rate, (0.5, 0.9)) for net in nets]
    return GAN(
        *nets, objective or Wasserstein(), *optimizers, penalty, rng=random.stream("penalty")
    )


def real_and_z(random: Random) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch of points of the ring, and a batch of z."""
    return ring(random.stream("real"), BATCH) / ring.spread, random.stream("z").standard_normal(
        (BATCH, 2), dtype=np.float32
    )


def watched(
    watch: Callable, steps: int = STEPS, step: Callable = GAN.train_step, **options
) -> list:
    """Return [watch(gan, metrics), ...] for the steps of a training on the ring."""
    random = Random(0)
    gan = ring_gan(random, **options)
    return [watch(gan, step(gan, *real_and_z(random))) for _ in range(steps)]


def smooth(values, window: int = 15) -> np.ndarray:
    """Return a moving average of the same length."""
    padded = np.pad(np.asarray(values, float), (window - 1, 0), mode="edge")
    return np.convolve(padded, np.full(window, 1 / window), "valid")


def digits_gan(random: Random, z: int = 8, width: int = 8) -> GAN:
    """Return a small DCGAN for 16x16 digits, which trains in seconds on a CPU."""
    nets = dcgan_generator(16, 1, width, z), dcgan_discriminator(16, 1, width)
    for net, name in zip(nets, ("generator", "discriminator")):
        dcgan_init(net, random.stream(f"{name} weights"))
    return GAN(*nets, BCE(), *(Adam(Parameters(net), 2e-3, (0.5, 0.999)) for net in nets))


def digits_steps(gan: GAN, random: Random, steps: int, z: int = 8) -> Iterator[dict]:
    """Yield the metrics of each of `steps` training steps."""
    images = load("digits", 16).images
    for _ in range(steps):
        real = to_float(images[random.stream("data").integers(len(images), size=BATCH)])
        yield gan.train_step(real, random.stream("z").standard_normal((BATCH, z), dtype=np.float32))
