"""Networks of StackedGAN, Atienza, Advanced Deep Learning with Keras, ch. 6.2: pixels in [0, 1].

F = 8 width features, 256 in the book; Z = 50 numbers of noise in each stack.
"""

from functools import partial

import numpy as np

from rawgan.backend import CPU, Device
from rawgan.init import glorot_uniform
from rawgan.layers import (
    BatchNorm,
    Conv2d,
    Flatten,
    Heads,
    Linear,
    MaxPool2d,
    Parameters,
    ReLU,
    Sequential,
    Tanh,
)
from rawgan.models.atienza import atienza_body, atienza_generator
from rawgan.models.limits import quarter
from rawgan.optim import Adam, RMSprop
from rawgan.random import Random
from rawgan.systems.stackedgan import Encoder, Stack, StackedGAN

Z = 50
KERAS_ADAM = partial(Adam, lr=1e-3, eps=1e-7, epsilon_hat=True)


def encoder0(size: int = 28, channels: int = 1, width: int = 32) -> Sequential:
    """Return E0: images (N, 28, 28, 1) to features (N, F); 840,640 parameters."""
    K, base = 2 * width, quarter(size)
    return Sequential(
        Conv2d(channels, K, 3, 1, "same"), ReLU(), MaxPool2d(2),
        Conv2d(K, K, 3, 1, "same"), ReLU(), MaxPool2d(2),
        Flatten(), Linear(base * base * K, 8 * width), ReLU(),
    )  # fmt: skip


def encoder1(width: int = 32, classes: int = 10) -> Sequential:
    """Return E1: features (N, F) to logits (N, classes); 2,570 parameters."""
    return Sequential(Linear(8 * width, classes))


def generator1(width: int = 32, classes: int = 10) -> Sequential:
    """Return G1: [label, z1] (N, classes + Z) to features (N, F).

    429,312 parameters, of which 427,264 are trained. BatchNorm comes after each ReLU, with the eps
    and momentum of Keras.
    """
    layers, C = [], classes + Z
    for _ in range(2):
        layers += [Linear(C, 16 * width), ReLU()]
        C = 16 * width
        layers += [BatchNorm(C, eps=1e-3, momentum=0.01)]
    return Sequential(*layers, Linear(C, 8 * width), ReLU())


def generator0(size: int = 28, channels: int = 1, width: int = 32) -> Sequential:
    """Return G0: [f, z0] (N, F + Z) to images (N, 28, 28, 1): the book's DCGAN.

    2,593,537 parameters, of which 2,592,833 are trained.
    """
    return atienza_generator(size, channels, width, 8 * width + Z)


def heads(features: int) -> Heads:
    """Return the end of a discriminator: a logit of "real", and an estimate of the noise."""
    return Heads(Linear(features, 1), Sequential(Linear(features, Z), Tanh()))


def discriminator1(width: int = 32) -> Sequential:
    """Return D1: features (N, F) to [logit, estimate of z1], (N, 1 + Z); 144,691 parameters."""
    F = 8 * width
    return Sequential(Linear(F, F), ReLU(), Linear(F, F), ReLU(), heads(F))


def discriminator0(size: int = 28, channels: int = 1, width: int = 32) -> Sequential:
    """Return D0: images (N, 28, 28, 1) to [logit, estimate of z0], (N, 1 + Z).

    1,285,427 parameters: the book's DCGAN with a second head.
    """
    body, features = atienza_body(size, channels, width)
    return Sequential(*body, heads(features))


def build(
    random: Random,
    size: int = 28,
    channels: int = 1,
    width: int = 32,
    classes: int = 10,
    lr: float = 2e-4,
    device: Device = CPU,
    dtype=np.float32,
) -> StackedGAN:
    """Return a StackedGAN with initial weights (Glorot), RMSprop, and Adam of the encoder.

    lr: that of D0 and D1; G0 and G1 have half of it, and half of the decay, as in the book. Adam
    has Keras' defaults.
    """
    shape = size, channels, width
    nets = {
        "encoder0": encoder0(*shape),
        "encoder1": encoder1(width, classes),
        "generator1": generator1(width, classes),
        "discriminator1": discriminator1(width),
        "generator0": generator0(*shape),
        "discriminator0": discriminator0(*shape),
    }
    for name, net in nets.items():
        glorot_uniform(net, random.stream(f"{name} weights"))
    theta = {name: Parameters(net, device, dtype) for name, net in nets.items()}
    parts = ("encoder0", "encoder1")
    encoder = Encoder(*(nets[part] for part in parts), *(KERAS_ADAM(theta[part]) for part in parts))

    def stack(level: int, weight: float) -> Stack:
        G, D = f"generator{level}", f"discriminator{level}"
        optimizers = RMSprop(theta[G], lr / 2, decay=3e-8), RMSprop(theta[D], lr, decay=6e-8)
        return Stack(nets[G], nets[D], *optimizers, weight)

    return StackedGAN(encoder, stack(1, 1.0), stack(0, 10.0), classes)
