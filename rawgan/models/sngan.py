"""Networks with spectral normalisation in D: SN-GAN.

Miyato et al. 2018 (arXiv:1802.05957), plain and residual; with labels, those of Miyato & Koyama
2018 (arXiv:1802.05637). For every image size that `dcgan.stages` can reach, the residual ones for
the multiples of 4 among them.
"""

from rawgan.errors import UserError
from rawgan.layers import (
    AvgPool2d,
    BatchNorm,
    ConditionalBatchNorm,
    ConditionalSequential,
    Conv2d,
    ConvTranspose2d,
    Embedding,
    Flatten,
    GlobalSumPool,
    Layer,
    LeakyReLU,
    Linear,
    Projection,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    SpectralNorm,
    Tanh,
    Upsample2d,
)
from rawgan.models.dcgan import stages
from rawgan.models.limits import at_least


def plain_generator(size: int = 32, channels: int = 3, width: int = 64, z: int = 128) -> Sequential:
    """Return the plain generator: z (N, z) to images (N, size, size, channels) in [-1, 1].

    A linear layer to base x base and width 2^n channels, n transposed convolutions 4x4, stride 2,
    pad 1, halving the channels each time, and one of 3x3 to the image; BatchNorm and ReLU between,
    the first BatchNorm over all outputs of the linear layer; Tanh at the end. 32x32x3 at width 64:
    3,828,739 parameters.
    """
    base, n = stages(size)
    K = width << n
    layers = [Linear(z, base * base * K), BatchNorm(base * base * K), ReLU()]
    layers.append(Reshape(base, base, K))
    for _ in range(n):
        layers += [ConvTranspose2d(K, K // 2, 4, stride=2, pad=1), BatchNorm(K // 2), ReLU()]
        K //= 2
    return Sequential(*layers, ConvTranspose2d(K, channels, 3, pad=1), Tanh())


def plain_discriminator(size: int = 32, channels: int = 3, width: int = 64) -> Sequential:
    """Return the plain discriminator: images (N, size, size, channels) to scores (N, 1).

    A convolution 3x3 to width channels, then n times one of 4x4, stride 2, that doubles them, and
    one of 3x3; LeakyReLU 0.2 between, a linear layer at the end, spectral normalisation of all.
    32x32x3 at width 64: 5,860,865 parameters.
    """
    base, n = stages(size)
    C, layers = width, [spectral_conv(channels, width, 3), LeakyReLU(0.2)]
    for _ in range(n):
        layers += [spectral_conv(C, 2 * C, 4, stride=2), LeakyReLU(0.2)]
        layers += [spectral_conv(2 * C, 2 * C, 3), LeakyReLU(0.2)]
        C *= 2
    return Sequential(*layers, Flatten(), SpectralNorm(Linear(base * base * C, 1)))


def generator(
    size: int = 32, channels: int = 3, width: int = 256, z: int = 128, classes: int = 0
) -> Sequential:
    """Return the residual generator: z (N, z) to images (N, size, size, channels) in [-1, 1].

    A linear layer to base x base and width channels, n blocks that double the image, BatchNorm,
    ReLU, a convolution 3x3, Tanh. With classes, the input is the pair (z, labels), and the
    BatchNorms of the blocks have a scale and a shift for each class. 32x32x3 at width 256:
    4,276,739 parameters, with 10 classes 4,304,387.
    """
    base, n = stages(size)
    network = ConditionalSequential if classes else Sequential
    return network(
        Linear(z, base * base * width),
        Reshape(base, base, width),
        *(upsampling_block(width, classes) for _ in range(n)),
        BatchNorm(width),
        ReLU(),
        Conv2d(width, channels, 3, pad=1),
        Tanh(),
    )


def discriminator(
    size: int = 32, channels: int = 3, width: int = 256, classes: int = 0
) -> Sequential:
    """Return the residual discriminator: images (N, size, size, channels) to scores (N, 1).

    Four blocks of width / 2 channels, of which the first two halve the image, ReLU, the sum over
    the pixels, a linear layer; spectral normalisation of all. With classes, the input is the pair
    (images, labels), and the projection on an embedding of the labels is added to the score. Raises
    UserError unless size is a multiple of 4. 32x32x3 at width 256: 1,053,825 parameters, with 10
    classes 1,055,105.
    """
    if size % 4:
        raise UserError(
            "this discriminator halves an image twice: its size must be a multiple of 4, "
            f"not {size}"
        )
    at_least(width, 2)
    C = width // 2
    score = SpectralNorm(Linear(C, 1))
    network = ConditionalSequential if classes else Sequential
    return network(
        discriminator_block(channels, C, pool=True, first=True),
        discriminator_block(C, C, pool=True),
        discriminator_block(C, C),
        discriminator_block(C, C),
        ReLU(),
        GlobalSumPool(),
        Projection(score, SpectralNorm(Embedding(classes, C))) if classes else score,
    )


# In both blocks the 1x1 convolution of the shortcut is computed on the smaller image: with the mean
# over a square, and with nearest upsampling, it commutes.


def upsampling_block(C: int, classes: int = 0) -> Residual:
    """Return the generator's block: x (N, H, W, C) to y (N, 2H, 2W, C).

    y = conv(relu(norm(conv(up(relu(norm(x))))))) + up(conv1x1(x)),  up: nearest upsampling
    """

    def norm() -> Layer:
        return ConditionalBatchNorm(C, classes) if classes else BatchNorm(C)

    inner = Sequential(
        *(norm(), ReLU(), Upsample2d(), Conv2d(C, C, 3, pad=1)),
        *(norm(), ReLU(), Conv2d(C, C, 3, pad=1)),
    )
    return Residual(inner, Sequential(Conv2d(C, C, 1), Upsample2d()))


def discriminator_block(C: int, K: int, pool: bool = False, first: bool = False) -> Residual:
    """Return the discriminator's block: x (N, H, W, C) to y (N, H, W, K), half as large with pool.

        y = pool(conv(relu(conv(relu(x))))) + conv1x1(pool(x)),  pool: the mean over 2x2 pixels

    The first block has no ReLU before its first convolution. Without pool C = K, and the shortcut
    is x.
    """
    inner = [] if first else [ReLU()]
    inner += [spectral_conv(C, K, 3), ReLU(), spectral_conv(K, K, 3)]
    if not pool:
        return Residual(Sequential(*inner))
    return Residual(
        Sequential(*inner, AvgPool2d()), Sequential(AvgPool2d(), spectral_conv(C, K, 1))
    )


def spectral_conv(C: int, K: int, kernel: int, stride: int = 1) -> SpectralNorm:
    """Return a convolution with spectral normalisation that keeps H / stride and W / stride."""
    return SpectralNorm(Conv2d(C, K, kernel, stride=stride, pad=(kernel - stride + 1) // 2))
