"""Networks of Raschka & Mirjalili, Python Machine Learning, 3rd ed., ch. 17.

Images 28x28x1 in [-1, 1], z uniform.
"""

from rawgan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    Reshape,
    Sequential,
    Tanh,
)
from rawgan.models.limits import at_least, quarter

KERAS_SLOPE = 0.3  # Keras' default of LeakyReLU


def norm(C: int) -> BatchNorm:
    """Return BatchNorm with Keras' defaults."""
    return BatchNorm(C, eps=1e-3, momentum=0.01)


def mlp_generator(size: int = 28, channels: int = 1, width: int = 100, z: int = 20) -> Sequential:
    """Return the MLP generator: z (N, 20) to images (N, 28, 28, 1) in [-1, 1].

    One hidden layer; 81,184 parameters.
    """
    pixels = size * size * channels
    return Sequential(
        Linear(z, width, bias=False), LeakyReLU(KERAS_SLOPE),
        Linear(width, pixels), Tanh(), Reshape(size, size, channels),
    )  # fmt: skip


def mlp_discriminator(size: int = 28, channels: int = 1, width: int = 100) -> Sequential:
    """Return the MLP discriminator: images (N, 28, 28, 1) in [-1, 1] to logits (N, 1).

    One hidden layer; 78,601 parameters.
    """
    return Sequential(
        Flatten(), Linear(size * size * channels, width), LeakyReLU(KERAS_SLOPE),
        Dropout(0.5), Linear(width, 1),
    )  # fmt: skip


def dcgan_generator(size: int = 28, channels: int = 1, width: int = 64, z: int = 20) -> Sequential:
    """Return the DCGAN generator: z (N, 20) to images (N, 28, 28, 1) in [-1, 1].

    3x3 "same" transposed convolutions, each with Dropout but the last; no biases.
    """
    at_least(width, 8)
    base, slope = quarter(size), 1e-4
    C = base * base * width
    layers = [Linear(z, C, bias=False), norm(C), LeakyReLU(slope), Reshape(base, base, width)]
    for K, stride in ((width // 2, 2), (width // 4, 2), (width // 8, 1)):
        layers += [
            ConvTranspose2d(width, K, 3, stride, "same", bias=False),
            norm(K),
            LeakyReLU(slope),
            Dropout(0.5),
        ]
        width = K
    return Sequential(*layers, ConvTranspose2d(width, channels, 3, 1, "same", bias=False), Tanh())


def dcgan_discriminator(size: int = 28, channels: int = 1, width: int = 64) -> Sequential:
    """Return the DCGAN discriminator: images (N, 28, 28, 1) to logits (N, 1).

    Two 3x3 "same" convolutions of stride 2, BatchNorm, Dropout; no biases.
    """
    at_least(width, 8)
    layers, C = [], channels
    for K in (width // 8, width // 2):
        layers += [Conv2d(C, K, 3, 2, "same", bias=False), norm(K), LeakyReLU(1e-4), Dropout(0.5)]
        C, size = K, -(-size // 2)
    return Sequential(*layers, Flatten(), Linear(size * size * C, 1, bias=False))


def wgan_gp_generator(
    size: int = 28, channels: int = 1, width: int = 128, z: int = 20
) -> Sequential:
    """Return the WGAN-GP generator: z (N, 20) to images (N, 28, 28, 1) in [-1, 1]; no biases.

    817,824 parameters with the running statistics, 804,832 trained.
    """
    at_least(width, 4)
    base = quarter(size)
    C = base * base * width
    layers = [Linear(z, C, bias=False), norm(C), LeakyReLU(KERAS_SLOPE), Reshape(base, base, width)]
    for K, stride in ((width, 1), (width // 2, 2), (width // 4, 2)):
        layers += [
            ConvTranspose2d(width, K, 5, stride, "same", bias=False),
            norm(K),
            LeakyReLU(KERAS_SLOPE),
        ]
        width = K
    return Sequential(*layers, ConvTranspose2d(width, channels, 5, 1, "same", bias=False), Tanh())


def wgan_gp_critic(size: int = 28, channels: int = 1, width: int = 64) -> Sequential:
    """Return the WGAN-GP critic: images (N, 28, 28, 1) to scores (N, 1, 1, 1).

    1,040,385 parameters with the running statistics, 1,039,489 trained. The book uses BatchNorm and
    Dropout in a critic with a gradient penalty; BatchNorm couples the samples of a batch.
    """
    layers, C = [], channels
    for K, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        layers += [Conv2d(C, K, 5, stride, "same"), norm(K), LeakyReLU(KERAS_SLOPE)]
        layers += [Dropout(0.3)] if stride == 2 else []
        C, size = K, -(-size // stride)
    return Sequential(*layers, Conv2d(C, 1, size))
