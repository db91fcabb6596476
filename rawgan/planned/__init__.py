"""Planned steps: GAN.train_step as a fixed list of fused kernels on fixed memory.

    step = plan_step(gan, images, batch=128)
    step.feed(index)
    step.run()

Reading order: discriminator_first, base, network, gradient, player, wgan_gp.
"""

from collections.abc import Collection

from rawgan.backend import Array
from rawgan.ema import EMA
from rawgan.gan import GAN
from rawgan.planned.base import PlannedStep, critic_steps
from rawgan.planned.discriminator_first import DiscriminatorFirstStep
from rawgan.planned.generator_first import GeneratorFirstStep
from rawgan.planned.simultaneous import SimultaneousStep
from rawgan.planned.wgan import WganStep
from rawgan.planned.wgan_gp import WganGpStep


def step_class(gan: GAN) -> type[PlannedStep]:
    """Return the planned step for the order, the penalty and the critic steps of a GAN."""
    if gan.schedule.order == "generator_first":
        return GeneratorFirstStep
    if gan.schedule.order == "simultaneous":
        return SimultaneousStep
    if gan.penalties:
        return WganGpStep
    return DiscriminatorFirstStep if critic_steps(gan) == {1} else WganStep


def plan_step(
    gan: GAN,
    images: Array,
    batch: int,
    *,
    labels: Array | None = None,
    seed: int = 0,
    precision: str = "fp32",
    batches: int = 50,
    disable: Collection[str] = (),
    average: EMA | None = None,
) -> PlannedStep:
    """Return the training step of a GAN as a plan.

    images (n, H, W, C) uint8, where the networks are; labels (n,) integers for a conditional GAN.
    seed: of z, its labels, Dropout and the penalty's points. precision: one of
    rawgan.precision.PRECISIONS. batches: rows of indices that are fed at a time. disable: names of
    fusions (`fusions` of the step) to compute without, to measure what they are worth. average: of
    G, updated by every step.
    Raises UserError, naming it, for what cannot be planned.
    """
    return step_class(gan)(
        gan,
        images,
        batch,
        labels=labels,
        seed=seed,
        precision=precision,
        batches=batches,
        disable=disable,
        average=average,
    )
