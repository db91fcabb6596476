"""Recipes and sizes of the runs whose planned steps are tested."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from rawgan.layers import (
    BatchNorm,
    Condition,
    Conv2d,
    ConvTranspose2d,
    Crop,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    OneHot,
    Planes,
    ReLU,
    Reshape,
    Sequential,
    Softplus,
    Tanh,
)
from rawgan.losses import ACGAN, BCE, Hinge, LeastSquares
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.raschka import mlp_discriminator, mlp_generator
from rawgan.models.recipe import Recipe
from rawgan.models.recipes import RECIPES
from rawgan.optim import RMSprop
from rawgan.penalties import WGANGP

STEPS = 2


class Run(NamedTuple):
    recipe: Recipe
    size: int
    channels: int
    width: int
    batch: int = 4
    steps: int = STEPS
    ema: float | None = None  # decay of an average of G


def one_layer(size, channels, width):
    """D with one convolution of the image and the one-hot label planes."""
    return Sequential(
        Condition(Sequential(OneHot(10), Planes(size, size))),
        Flatten(),
        Linear(size * size * (channels + 10), 1),
    )


def perceptron(size, channels, width):
    """D that flattens the image and a learnt label plane."""
    P = size * size
    plane = Condition(Sequential(OneHot(10), Linear(10, P), Reshape(size, size, 1)))
    return Sequential(
        plane, Flatten(), Linear(P * (channels + 1), width), LeakyReLU(0.2), Linear(width, 1)
    )


# Layers of a critic for images (size, size, C), K filters wide, by the arrangement that they test
CRITICS = {
    "transposed": lambda size, C, K: [
        Conv2d(C, K, 4, 2, 1), LeakyReLU(0.2), ConvTranspose2d(K, K, 3, 1, 1), LeakyReLU(0.2),
        Flatten(), Linear(K * size * size // 4, 1),
    ],
    "transposed, stride 2": lambda size, C, K: [
        Conv2d(C, K, 4, 2, 1), LeakyReLU(0.2), ConvTranspose2d(K, K, 4, 2, 1), LeakyReLU(0.2),
        Flatten(), Linear(K * size * size, 1),
    ],
    "transposed, cropped": lambda size, C, K: [
        Conv2d(C, K, 4, 2, 1), LeakyReLU(0.2), ConvTranspose2d(K, K, 4, 2), Crop(size, size),
        LeakyReLU(0.2), Flatten(), Linear(K * size * size, 1),
    ],
    "transposed first": lambda size, C, K: [
        ConvTranspose2d(C, K, 3, 1, 1), ReLU(), Flatten(), Linear(K * size * size, 1),
    ],
    "transposed last": lambda size, C, K: [
        Conv2d(C, K, size), LeakyReLU(0.2), ConvTranspose2d(K, 1, 1),
    ],
    "activation after Flatten": lambda size, C, K: [
        Conv2d(C, K, 4, 2, 1), Flatten(), LeakyReLU(0.2), Linear(K * size * size // 4, 1),
    ],
    "activation after Reshape": lambda size, C, K: [
        Flatten(), Linear(size * size * C, 4 * K), Reshape(2, 2, K), LeakyReLU(0.2),
        Conv2d(K, 1, 2),
    ],
    "perceptron": lambda size, C, K: [
        Flatten(), Linear(size * size * C, K), LeakyReLU(0.2), Linear(K, 1),
    ],
    "one Linear": lambda size, C, K: [Flatten(), Linear(size * size * C, 1)],
}  # fmt: skip


# of a penalty in inference mode
NORMALISED_CRITICS = {
    "BatchNorm and transposed": lambda size, C, K: [
        Conv2d(C, K, 4, 2, 1), BatchNorm(K), LeakyReLU(0.2),
        ConvTranspose2d(K, K, 4, 2, 1), BatchNorm(K), LeakyReLU(0.2),
        Flatten(), Linear(K * size * size, 1),
    ],
    "BatchNorm after Flatten": lambda size, C, K: [
        Conv2d(C, K, 3, 1, 1), Flatten(), BatchNorm(K * size * size), LeakyReLU(0.2),
        Linear(K * size * size, 1),
    ],
    "activation and Dropout after Flatten": lambda size, C, K: [
        Conv2d(C, K, 3, 1, 1), Flatten(), LeakyReLU(0.2), Dropout(0.3),
        Linear(K * size * size, 1),
    ],
}  # fmt: skip


def network(layers):
    """Return a constructor of the network of these layers."""
    return lambda size, channels, width: Sequential(*layers(size, channels, width))


WGAN = RECIPES["wgan"].with_schedule(critic_steps=lambda step: 4 if step == 0 else 2)


WGAN = replace(WGAN, steps=10)


DCGAN = RECIPES["dcgan"]


WGAN_GP = RECIPES["wgan_gp"].with_schedule(critic_steps=lambda step: 2)


RASCHKA = RECIPES["raschka_wgan_gp"]


def softplus_generator(size, channels, width, z):
    """G with an activation whose derivative needs its input."""
    return Sequential(
        Linear(z, size * size * width), Reshape(size, size, width), BatchNorm(width), Softplus(),
        Conv2d(width, channels, 3, 1, 1), Tanh(),
    )  # fmt: skip


RUNS = {
    "dcgan": Run(DCGAN, 16, 3, 4),
    "dcgan, Softplus": Run(replace(DCGAN, generator=softplus_generator), 8, 1, 4),
    "dcgan, width 64": Run(DCGAN, 8, 1, 64),
    "dcgan, batch 3": Run(DCGAN, 16, 1, 4, 3),  # no tile fits into half of the batch
    "least squares": Run(
        replace(
            DCGAN,
            objective=LeastSquares(),
            generator_optimizer=partial(RMSprop, lr=1e-3),
            draw="uniform",
            pixels="unit",
        ),
        16,
        1,
        4,
    ),
    "hinge, no norm in D": Run(
        replace(DCGAN, objective=Hinge(), discriminator=partial(dcgan_discriminator, norm="none")),
        16,
        1,
        4,
    ),
    "cgan": Run(RECIPES["cgan"], 8, 1, 4),
    "atienza_dcgan": Run(RECIPES["atienza_dcgan"], 4, 1, 2),
    "atienza_cgan": Run(RECIPES["atienza_cgan"], 4, 1, 2),
    "cgan, one layer": Run(replace(RECIPES["cgan"], discriminator=one_layer), 8, 1, 4),
    "atienza_cgan, perceptron": Run(
        replace(RECIPES["atienza_cgan"], discriminator=perceptron), 4, 1, 2
    ),
    "raschka_mlp_gan": Run(RECIPES["raschka_mlp_gan"], 8, 1, 8),
    "raschka_dcgan": Run(RECIPES["raschka_dcgan"], 8, 1, 8),
    "wgan_gp": Run(WGAN_GP, 16, 3, 4),
    "wgan_gp, one-sided": Run(replace(WGAN_GP, penalty=WGANGP(0.5, one_sided=True)), 8, 1, 8),
    "dcgan, width 64, size 16": Run(
        DCGAN, 16, 1, 64, 4, 1
    ),  # BatchNorm in several columns of TMA tiles
    "dcgan, width 32, size 32": Run(DCGAN, 32, 1, 32, 4, 1),
    "dcgan, width 64, size 32": Run(DCGAN, 32, 1, 64, 4, 1),
    "wgan_gp, width 64": Run(WGAN_GP.with_schedule(critic_steps=lambda step: 1), 16, 1, 64, 8, 1),
    "dcgan, average": Run(DCGAN, 16, 1, 4, ema=0.9),
    "raschka_mlp_gan, average": Run(
        RECIPES["raschka_mlp_gan"], 8, 1, 8, ema=0.9
    ),  # without running statistics
    "wgan": Run(WGAN, 16, 1, 4, ema=0.9),
    "wgan, batch 3": Run(WGAN.with_schedule(critic_steps=lambda step: 3 - step), 16, 1, 4, 3),
    "acgan": Run(RECIPES["acgan"], 4, 1, 2),
    "acgan, smoothed, real and fake apart": Run(
        replace(
            RECIPES["acgan"].with_schedule(joint_batch=False, resample_z=False),
            objective=ACGAN(BCE(0.9)),
        ),
        4,
        1,
        2,
    ),
    "wgan_gp_mnist": Run(
        RECIPES["wgan_gp_mnist"].with_schedule(critic_steps=lambda step: 2), 12, 1, 4
    ),
    "raschka_wgan_gp": Run(RASCHKA, 8, 1, 8),
    "raschka_wgan_gp, perceptron": Run(
        replace(
            RASCHKA.with_schedule(generator_mode="inference"),
            discriminator=mlp_discriminator,
            penalty=WGANGP(0.5),
        ),
        8,
        3,
        8,
        2,
    ),
}


ONE_CRITIC_STEP = WGAN_GP.with_schedule(critic_steps=lambda step: 1)


for recipe, critics in (
    (ONE_CRITIC_STEP, CRITICS),
    (RASCHKA, CRITICS | NORMALISED_CRITICS),
):
    for name, layers in critics.items():
        networks = {"generator": mlp_generator, "discriminator": network(layers)}
        RUNS[f"{recipe.name}, {name}"] = Run(replace(recipe, **networks), 4, 1, 2, steps=1)
