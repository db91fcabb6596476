"""A recipe file: a GAN of one's own, without a change of the library.

rawgan train examples/my_recipe.py
rawgan sample runs/my_gan-digits-001 --recipe examples/my_recipe.py
"""

from functools import partial

from rawgan.layers import Flatten, LeakyReLU, Linear, Reshape, Sequential, Tanh
from rawgan.losses import Hinge
from rawgan.models.recipe import Recipe, Setting
from rawgan.optim import Adam


def generator(size, channels, width, z):
    """Return G: z to images of [-1, 1]."""
    return Sequential(
        Linear(z, width),
        LeakyReLU(0.2),
        Linear(width, 2 * width),
        LeakyReLU(0.2),
        Linear(2 * width, size * size * channels),
        Tanh(),
        Reshape(size, size, channels),
    )


def discriminator(size, channels, width):
    """Return D: images to scores."""
    return Sequential(
        Flatten(),
        Linear(size * size * channels, 2 * width),
        LeakyReLU(0.2),
        Linear(2 * width, width),
        LeakyReLU(0.2),
        Linear(width, 1),
    )


RECIPE = Recipe(
    name="my_gan",
    source="an example of the documentation",
    generator=generator,
    discriminator=discriminator,
    objective=Hinge(),
    generator_optimizer=partial(Adam, lr=2e-4, betas=(0.5, 0.9)),
    discriminator_optimizer=partial(Adam, lr=2e-4, betas=(0.5, 0.9)),
    default=Setting(width=128, steps=6000),
    z=32,
)
