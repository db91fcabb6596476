"""CycleGAN of Atienza, Advanced Deep Learning with Keras, ch. 7: U-Net and PatchGAN.

Pixels in [0, 1]. Kernels of 3x3 for gray and colour images, 5x5 for two sets of digits.
"""

import numpy as np

from rawgan.backend import CPU, Device
from rawgan.errors import UserError
from rawgan.init import glorot_uniform
from rawgan.layers import (
    Conv2d,
    ConvTranspose2d,
    InstanceNorm,
    LeakyReLU,
    Parameters,
    ReLU,
    Sequential,
    Sigmoid,
    Skip,
)
from rawgan.optim import RMSprop
from rawgan.random import Random
from rawgan.systems.cyclegan import CycleGAN

EPS = 1e-3  # of InstanceNorm, as in keras-contrib


def generator(channels: int, out_channels: int, width: int = 32, kernel: int = 3) -> Sequential:
    """Return a U-Net: images (N, 32, 32, channels) to (N, 32, 32, out_channels) in [0, 1].

        x -> e1 -> Skip(e2 -> Skip(e3 -> Skip(e4 -> d1) -> d2) -> d3) -> ConvTranspose, sigmoid

    Encoder e1, ..., e4: InstanceNorm, LeakyReLU 0.2, convolution to width 1, 2, 4, 8, all but the
    first of stride 2. Decoder d1, d2, d3: InstanceNorm, ReLU, transposed convolution of stride 2.
    The first InstanceNorm acts on the image.

        parameters          1 -> 3       3 -> 1
        kernel 3           870,757      870,183
        kernel 5         2,414,437    2,412,839
    """

    def encode(C: int, K: int, stride: int) -> list:
        return [InstanceNorm(C, EPS), LeakyReLU(0.2), Conv2d(C, K, kernel, stride, "same")]

    def decode(C: int, K: int) -> list:
        return [InstanceNorm(C, EPS), ReLU(), ConvTranspose2d(C, K, kernel, 2, "same")]

    def level(C: int, inner: list) -> Skip:
        """Halve an image of C channels, double it again, and append the image: 2 C channels."""
        return Skip(Sequential(*encode(C, 2 * C, 2), *inner, *decode(4 * C if inner else 2 * C, C)))

    eighth = level(4 * width, [])
    quarter = level(2 * width, [eighth])
    half = level(width, [quarter])
    end = ConvTranspose2d(2 * width, out_channels, kernel, 1, "same")
    return Sequential(*encode(channels, width, 1), half, end, Sigmoid())


def discriminator(channels: int, width: int = 32, kernel: int = 3) -> Sequential:
    """Return a PatchGAN: images (N, 32, 32, channels) to scores of 2x2 patches, (N, 2, 2, 1).

    LeakyReLU 0.2 before each convolution, so the first one acts on the image; no normalisation.

        parameters        channels 1   channels 3
        kernel 3             390,145      390,721
        kernel 5           1,082,881    1,084,481
    """
    layers, C = [], channels
    for K, stride in ((width, 2), (2 * width, 2), (4 * width, 2), (8 * width, 1), (1, 2)):
        layers += [LeakyReLU(0.2), Conv2d(C, K, kernel, stride, "same")]
        C = K
    return Sequential(*layers)


def build(
    random: Random,
    size: int = 32,
    channels: tuple[int, int] = (1, 3),
    width: int = 32,
    kernel: int = 3,
    lr: float = 2e-4,
    decay: float = 6e-8,
    identity: float = 0.0,
    device: Device = CPU,
    dtype=np.float32,
) -> CycleGAN:
    """Return a CycleGAN with initial weights (Glorot) and an RMSprop (Keras) for each network.

    channels: of source and target. lr and decay are those of D; both of G are half of it. Raises
    UserError for a size that does not halve three times, and for an identity loss between images of
    unlike channels.
    """
    if size < 16 or size % 8:
        raise UserError(f"a CycleGAN halves images to 2x2 or more: {size} is no 16, 24, 32, ...")
    of_source, of_target = channels
    if identity and of_source != of_target:
        raise UserError(
            "an identity loss compares an image with its translation: it needs as many channels in "
            f"source and target, not {of_source} and {of_target}"
        )
    networks = {
        "g_target": generator(of_source, of_target, width, kernel),
        "g_source": generator(of_target, of_source, width, kernel),
        "d_target": discriminator(of_target, width, kernel),
        "d_source": discriminator(of_source, width, kernel),
    }
    optimizers = {}
    for name, net in networks.items():
        glorot_uniform(net, random.stream(f"{name} weights"))
        share = 1 if name.startswith("d_") else 0.5
        parameters = Parameters(net, device, dtype)
        optimizers[name] = RMSprop(parameters, share * lr, decay=share * decay)
    return CycleGAN(**networks, optimizers=optimizers, identity=identity)
