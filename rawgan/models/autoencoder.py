"""Autoencoders of Atienza, Advanced Deep Learning with Keras.

Plain (ch. 3.2) and variational (ch. 8.1); pixels in [0, 1].
"""

import numpy as np

from rawgan.backend import CPU, Device
from rawgan.errors import UserError
from rawgan.init import glorot_uniform
from rawgan.layers import (
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    Parameters,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
)
from rawgan.optim import Adam
from rawgan.random import Random
from rawgan.systems.vae import VAE, Autoencoder

Z = 16  # size of a code


def encoder(size: int = 28, channels: int = 1, width: int = 32, z: int = Z) -> Sequential:
    """Return the encoder: images (N, 28, 28, 1) in [0, 1] to codes (N, z); 69,008 parameters.

    3x3 "same" convolutions of stride 2, ReLU, one Linear. A variational encoder has 2 z outputs, mu
    and logvar. The book's variational encoder has a further layer of 16 ReLUs, and z = 2.
    """
    base = base_of(size)
    return Sequential(
        Conv2d(channels, width, 3, 2, "same"), ReLU(),
        Conv2d(width, 2 * width, 3, 2, "same"), ReLU(),
        Flatten(), Linear(base * base * 2 * width, z),
    )  # fmt: skip


def decoder(
    size: int = 28, channels: int = 1, width: int = 32, z: int = Z, relu: bool = False
) -> Sequential:
    """Return the decoder: codes (N, z) to logits of images (N, 28, 28, 1); 108,993 parameters.

    Linear, then 3x3 "same" transposed convolutions. relu: with a ReLU after the Linear, which in
    the book only the variational autoencoder has. The book ends in a sigmoid; here the loss starts
    from the logits.
    """
    base, K = base_of(size), 2 * width
    return Sequential(
        Linear(z, base * base * K), *([ReLU()] if relu else []), Reshape(base, base, K),
        ConvTranspose2d(K, K, 3, 2, "same"), ReLU(),
        ConvTranspose2d(K, width, 3, 2, "same"), ReLU(),
        ConvTranspose2d(width, channels, 3, 1, "same"),
    )  # fmt: skip


def generator(size: int = 28, channels: int = 1, width: int = 32, z: int = Z) -> Sequential:
    """Return the variational decoder with a sigmoid: z (N, z), normal, to images in [0, 1].

    Images (N, 28, 28, 1). The sigmoid has no parameters, so the decoder's weights fit.
    """
    return Sequential(*decoder(size, channels, width, z, relu=True).layers, Sigmoid())


def base_of(size: int) -> int:
    """Return size / 4, the side of the smallest feature map.

    Raises UserError unless size is a positive multiple of 4.
    """
    if size < 4 or size % 4:
        raise UserError(
            f"an autoencoder halves and doubles twice: a size of {size} is no multiple of 4"
        )
    return size // 4


def build(
    random: Random,
    variational: bool = True,
    size=28,
    channels=1,
    width=32,
    z=Z,
    lr=1e-3,
    device: Device = CPU,
    dtype=np.float32,
) -> VAE | Autoencoder:
    """Return an autoencoder with initial weights (Glorot) and one Adam (Keras) for each network.

    The book trains its VAE with RMSprop.
    """
    nets = (
        encoder(size, channels, width, z * (1 + variational)),
        decoder(size, channels, width, z, relu=variational),
    )
    for net, name in zip(nets, ("encoder", "decoder")):
        glorot_uniform(net, random.stream(f"{name} weights"))
    optimizers = (
        Adam(Parameters(net, device, dtype), lr, eps=1e-7, epsilon_hat=True) for net in nets
    )
    return (VAE if variational else Autoencoder)(*nets, *optimizers)
