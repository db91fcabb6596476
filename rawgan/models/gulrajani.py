"""MNIST networks of Gulrajani et al. 2017 (arXiv:1704.00028).

No normalisation; pixels in [0, 1].
"""

from rawgan.layers import (
    Conv2d,
    ConvTranspose2d,
    Crop,
    Flatten,
    LeakyReLU,
    Linear,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
)
from rawgan.models.limits import quarter


def generator(size: int = 28, channels: int = 1, width: int = 64, z: int = 128) -> Sequential:
    """Return the generator: z (N, 128), normal, to images (N, 28, 28, 1) in [0, 1].

    4x4 is upsampled to 8x8, cropped to 7x7, and upsampled twice more.
    """
    side = quarter(size, largest=32)
    return Sequential(
        Linear(z, 4 * 4 * 4 * width), ReLU(), Reshape(4, 4, 4 * width),
        ConvTranspose2d(4 * width, 2 * width, 5, 2, "same"), ReLU(), Crop(side, side),
        ConvTranspose2d(2 * width, width, 5, 2, "same"), ReLU(),
        ConvTranspose2d(width, channels, 5, 2, "same"), Sigmoid(),
    )  # fmt: skip


def critic(size: int = 28, channels: int = 1, width: int = 64) -> Sequential:
    """Return the critic: images (N, 28, 28, 1) in [0, 1] to scores (N, 1)."""
    layers, C = [], channels
    for K in (width, 2 * width, 4 * width):
        layers += [Conv2d(C, K, 5, 2, "same"), LeakyReLU(0.2)]
        C, size = K, -(-size // 2)
    return Sequential(*layers, Flatten(), Linear(size * size * C, 1))
