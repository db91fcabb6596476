"""Networks of Radford et al. 2016 (arXiv:1511.06434), plain and conditional: DCGAN.

For every image size that `stages` can reach.
"""

from rawgan.errors import UserError
from rawgan.layers import (
    BatchNorm,
    Condition,
    Conv2d,
    ConvTranspose2d,
    InstanceNorm,
    LayerNorm,
    LeakyReLU,
    OneHot,
    Planes,
    ReLU,
    Reshape,
    Sequential,
    Tanh,
)


def stages(size: int) -> tuple[int, int]:
    """Return (base, n) with size = base 2^n and base from 4 to 7.

    The generator starts from base x base pixels and doubles n times. Raises UserError, naming sizes
    that can be reached, for any other size.
    """
    base, n = size, 0
    while base >= 8 and base % 2 == 0:
        base, n = base // 2, n + 1
    if not (4 <= base <= 7 and n >= 1):
        near = sorted(
            (b << k for b in (4, 5, 6, 7) for k in range(1, 9)), key=lambda s: abs(s - size)
        )[:3]
        raise UserError(
            f"a DCGAN doubles 4 to 7 pixels until it has the image: size {size} cannot be "
            f"reached, {sorted(near)} can"
        )
    return base, n


def dcgan_generator(
    size: int = 64, channels: int = 3, width: int = 64, z: int = 100, classes: int = 0
) -> Sequential:
    """Return the generator: z (N, z) to images (N, size, size, channels) in [-1, 1].

    With classes, the input is the pair (z, labels), and the one-hot labels are concatenated to z.
    Transposed convolutions: base x base to width 2^(n-1) channels, then 4x4, stride 2, pad 1,
    halving the channels each time; BatchNorm and ReLU between, Tanh at the end, no biases. 64x64x3
    at width 64: 3,576,704 parameters.
    """
    base, n = stages(size)
    K = width << (n - 1)
    layers = [Condition(OneHot(classes))] if classes else []
    layers += [
        Reshape(1, 1, z + classes),
        ConvTranspose2d(z + classes, K, base, bias=False),
        BatchNorm(K),
        ReLU(),
    ]
    for _ in range(n - 1):
        layers += [
            ConvTranspose2d(K, K // 2, 4, stride=2, pad=1, bias=False),
            BatchNorm(K // 2),
            ReLU(),
        ]
        K //= 2
    return Sequential(*layers, ConvTranspose2d(K, channels, 4, stride=2, pad=1, bias=False), Tanh())


NORMS = {"batch": BatchNorm, "layer": LayerNorm, "instance": InstanceNorm, "none": None}


def dcgan_discriminator(
    size: int = 64, channels: int = 3, width: int = 64, classes: int = 0, norm: str = "batch"
) -> Sequential:
    """Return the discriminator: images (N, size, size, channels) in [-1, 1] to scores (N, 1, 1, 1).

    The mirror image of the generator. Convolutions 4x4, stride 2, pad 1 to width, 2 width, ...
    channels, normalisation on all but the first, LeakyReLU 0.2, then one of base x base to a single
    score; no biases. With classes, the input is the pair (images, labels), and the one-hot labels
    are concatenated to the image as constant planes. norm: "batch", or for a critic with gradient
    penalty "layer" (gamma per channel), "instance" or "none". 64x64x3 at width 64: 2,765,568
    parameters.
    """
    base, n = stages(size)
    layers = [Condition(Sequential(OneHot(classes), Planes(size, size)))] if classes else []
    layers += [Conv2d(channels + classes, width, 4, stride=2, pad=1, bias=False), LeakyReLU(0.2)]
    K = width
    for _ in range(n - 1):
        layers.append(Conv2d(K, 2 * K, 4, stride=2, pad=1, bias=False))
        layers += [NORMS[norm](2 * K)] if NORMS[norm] else []
        layers.append(LeakyReLU(0.2))
        K *= 2
    return Sequential(*layers, Conv2d(K, 1, base, bias=False))
