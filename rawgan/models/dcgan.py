"""DCGANs: the all-convolutional pattern of Radford et al., and the smaller one of Atienza's book."""

from rawgan.errors import UserError
from rawgan.layers import BatchNorm, Conv2d, ConvTranspose2d, Flatten, LeakyReLU, Linear, ReLU, Reshape, Sequential, Sigmoid, Tanh


def stages(size: int) -> tuple[int, int]:
    """(base, n) with size = base 2^n and base from 4 to 7: the generator starts from base x base pixels and doubles n times.

    Raises UserError, naming sizes that can be reached, for any other size.
    """
    base, n = size, 0
    while base >= 8 and base % 2 == 0:
        base, n = base // 2, n + 1
    if not (4 <= base <= 7 and n >= 1):
        near = sorted((b << k for b in (4, 5, 6, 7) for k in range(1, 7)), key=lambda s: abs(s - size))[:3]
        raise UserError(
            f"a DCGAN doubles 4 to 7 pixels until it has the image: size {size} cannot be reached, {sorted(near)} can"
        )
    return base, n


def dcgan_generator(size: int = 64, channels: int = 3, width: int = 64, z: int = 100) -> Sequential:
    """z (N, 1, 1, z) to images (N, size, size, channels) in [-1, 1].

    Transposed convolutions: base x base to width 2^(n-1) channels, then 4x4, stride 2, pad 1, halving the channels each time;
    BatchNorm and ReLU between, Tanh at the end, no biases. 64x64x3 at width 64: 3,576,704 parameters.
    Source: Radford et al. 2016 (arXiv:1511.06434), as in pytorch/examples.
    """
    base, n = stages(size)
    K = width << (n - 1)
    layers = [ConvTranspose2d(z, K, base, bias=False), BatchNorm(K), ReLU()]
    for _ in range(n - 1):
        layers += [ConvTranspose2d(K, K // 2, 4, stride=2, pad=1, bias=False), BatchNorm(K // 2), ReLU()]
        K //= 2
    return Sequential(*layers, ConvTranspose2d(K, channels, 4, stride=2, pad=1, bias=False), Tanh())


def dcgan_discriminator(size: int = 64, channels: int = 3, width: int = 64) -> Sequential:
    """Images (N, size, size, channels) in [-1, 1] to logits (N, 1, 1, 1): the mirror image of the generator.

    Convolutions 4x4, stride 2, pad 1 to width, 2 width, ... channels, BatchNorm on all but the first, LeakyReLU 0.2, then one of
    base x base to a single logit; no biases. 64x64x3 at width 64: 2,765,568 parameters.
    """
    base, n = stages(size)
    layers = [Conv2d(channels, width, 4, stride=2, pad=1, bias=False), LeakyReLU(0.2)]
    K = width
    for _ in range(n - 1):
        layers += [Conv2d(K, 2 * K, 4, stride=2, pad=1, bias=False), BatchNorm(2 * K), LeakyReLU(0.2)]
        K *= 2
    return Sequential(*layers, Conv2d(K, 1, base, bias=False))


def atienza_generator(size: int = 28, channels: int = 1, width: int = 32, z: int = 100) -> Sequential:
    """z (N, 100), uniform in (-1, 1), to images (N, 28, 28, 1) in [0, 1]; 1,301,505 parameters, running statistics counted.

    BatchNorm and ReLU come before each 5x5 "same" transposed convolution; Keras' eps and momentum.
    Source: Atienza, Advanced Deep Learning with Keras, ch. 4.
    """
    if size % 4:
        raise UserError(f"this generator doubles twice: a size of {size} is no multiple of 4")
    base, K = size // 4, 4 * width
    layers = [Linear(z, base * base * K), Reshape(base, base, K)]
    for K_next, stride in ((4 * width, 2), (2 * width, 2), (width, 1), (channels, 1)):
        layers += [BatchNorm(K, eps=1e-3, momentum=0.01), ReLU(), ConvTranspose2d(K, K_next, 5, stride, "same")]
        K = K_next
    return Sequential(*layers, Sigmoid())


def atienza_discriminator(size: int = 28, channels: int = 1, width: int = 32) -> Sequential:
    """Images (N, 28, 28, 1) in [0, 1] to logits (N, 1); 1,080,577 parameters.

    LeakyReLU comes before each 5x5 "same" convolution, so the first one acts on the image. No BatchNorm. The book ends in a
    sigmoid; here the loss starts from the logit.
    """
    layers, C = [], channels
    for K, stride in ((width, 2), (2 * width, 2), (4 * width, 2), (8 * width, 1)):
        layers += [LeakyReLU(0.2), Conv2d(C, K, 5, stride, "same")]
        C, size = K, -(-size // stride)
    return Sequential(*layers, Flatten(), Linear(size * size * C, 1))
