"""Small networks for the loss and the penalties of Huang et al. 2024 (arXiv:2501.05441): R3GAN.

No normalisation and LeakyReLU 0.2 in both, as there; strided convolutions in the place of residual
blocks. For every image size that `dcgan.stages` can reach.
"""

from rawgan.layers import Conv2d, ConvTranspose2d, LeakyReLU, Linear, Reshape, Sequential, Tanh
from rawgan.models.dcgan import stages


def generator(size: int = 32, channels: int = 3, width: int = 64, z: int = 64) -> Sequential:
    """Return the generator: z (N, z) to images (N, size, size, channels) in [-1, 1].

    A linear layer to base x base and width 2^(n-1) channels, then transposed convolutions 4x4,
    stride 2, pad 1, halving the channels each time; LeakyReLU 0.2 between, Tanh at the end.
    """
    base, n = stages(size)
    K = width << (n - 1)
    layers = [Linear(z, base * base * K), LeakyReLU(0.2), Reshape(base, base, K)]
    for _ in range(n - 1):
        layers += [ConvTranspose2d(K, K // 2, 4, stride=2, pad=1), LeakyReLU(0.2)]
        K //= 2
    return Sequential(*layers, ConvTranspose2d(K, channels, 4, stride=2, pad=1), Tanh())


def discriminator(size: int = 32, channels: int = 3, width: int = 64) -> Sequential:
    """Return the discriminator: images (N, size, size, channels) to scores (N, 1, 1, 1).

    The mirror image of the generator: convolutions 4x4, stride 2, pad 1 to width, 2 width, ...
    channels, then one of base x base to a single score.
    """
    base, n = stages(size)
    layers, C = [], channels
    for i in range(n):
        K = width << i
        layers += [Conv2d(C, K, 4, stride=2, pad=1), LeakyReLU(0.2)]
        C = K
    return Sequential(*layers, Conv2d(C, 1, base))
