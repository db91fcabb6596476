"""Networks of the semi-supervised GAN, weight normalised: linear ones and convolutional ones.

Source: Salimans et al. 2016 (arXiv:1606.03498) and its code, for MNIST, and for CIFAR-10 and SVHN.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np

from rawgan.backend import CPU, Array, Device
from rawgan.errors import UserError
from rawgan.init import data_dependent_init, glorot_uniform, normal_init
from rawgan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    GaussianNoise,
    GlobalMeanPool,
    LeakyReLU,
    Linear,
    Parameters,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Softplus,
    Tanh,
    WeightNorm,
)
from rawgan.optim import Adam
from rawgan.random import Random
from rawgan.systems.semi_supervised import (
    Classifier,
    SemiSupervisedGAN,
    absolute_feature_matching,
    feature_matching,
)

Z = 100  # size of an input of G, from U(0, 1)
FIRST_Z = 100  # inputs from which the first scale and bias of G are set, where they are
Shape = tuple[int, int, int]
MNIST: Shape = (28, 28, 1)
CIFAR10: Shape = (32, 32, 3)


def generator(shape: Shape = MNIST, width: int = 500, z: int = Z) -> Sequential:
    """Return G: z (N, z), uniform, to images (N, H, W, C) in [0, 1]; 694,568 parameters.

    Two hidden layers of Linear, BatchNorm without gamma and Softplus; a Linear with weight norm and
    a sigmoid.
    """
    hidden = (
        layer
        for C in (z, width)
        for layer in (
            Linear(C, width, bias=False),
            BatchNorm(width, eps=1e-6, trained_scale=False),
            Softplus(),
        )
    )
    end = WeightNorm(Linear(width, prod(shape)))
    return Sequential(*hidden, end, Sigmoid(), Reshape(*shape))


def discriminator(shape: Shape = MNIST, width: int = 500, classes: int = 10) -> Sequential:
    """Return D: images (N, H, W, C) to K logits; 1,538,770 parameters, and 2,250 fixed scales.

    The body is five hidden layers of 2 w, w, w/2, w/2, w/2 units for the width w; the head the
    logits. Gaussian noise is added to the image (0.3) and to the input of every later layer (0.5).
    All layers are weight normalised; only the scale of the head is trained.
    """
    widths = (prod(shape), 2 * width, width, *[max(1, width // 2)] * 3)
    body = []
    for i, (C, K) in enumerate(pairwise(widths)):
        noise = GaussianNoise(0.3 if i == 0 else 0.5)
        body += [noise, WeightNorm(Linear(C, K), trained_scale=False), ReLU()]
    head = WeightNorm(Linear(widths[-1], classes))
    return Sequential(Sequential(Flatten(), *body), GaussianNoise(0.5), head)


def convolutional_generator(shape: Shape = CIFAR10, width: int = 96, z: int = Z) -> Sequential:
    """Return G: z (N, z), uniform, to images (N, H, W, C) in [-1, 1]; 4,933,382 parameters.

    A Linear to H/8 x W/8 and 4 K channels, then transposed convolutions 5x5 of stride 2 to 2 K, K
    and C channels, for K = min(2 width, 128): the source has 128 beside D's width of 96 and of 64.
    BatchNorm without gamma and ReLU between, the first BatchNorm over all outputs of the Linear; in
    the last layer weight norm, and Tanh. Raises UserError as `check_size`.
    """
    check_size(shape)
    (H, W, C), K = shape, min(2 * width, 128)
    units = H // 8 * (W // 8) * 4 * K

    def norm(K: int) -> tuple[BatchNorm, ReLU]:
        return BatchNorm(K, eps=1e-6, trained_scale=False), ReLU()

    def doubled(K: int, C: int, bias: bool = False) -> ConvTranspose2d:
        return ConvTranspose2d(K, C, 5, stride=2, pad=2, bias=bias, output_padding=1)

    return Sequential(
        *(Linear(z, units, bias=False), *norm(units), Reshape(H // 8, W // 8, 4 * K)),
        *(doubled(4 * K, 2 * K), *norm(2 * K)),
        *(doubled(2 * K, K), *norm(K)),
        *(WeightNorm(doubled(K, C, bias=True), first_std=0.1), Tanh()),
    )


def convolutional_discriminator(
    shape: Shape = CIFAR10, width: int = 96, classes: int = 10
) -> Sequential:
    """Return D: images (N, H, W, C) to K logits; of width 96 1,406,804 parameters, of 64 626,580.

    The body is three convolutions 3x3 to w channels for the width w, three to 2 w, of which the
    third has stride 2 both times, one to 2 w without padding, two of 1x1, and the mean over the
    pixels; the head the logits. LeakyReLU 0.2; dropout of 0.2 of the image, and of 0.5 behind each
    stride. All layers are weight normalised; only the scale of the head is trained, and the 1,440
    or 960 others are fixed. Raises UserError as `check_size`.
    """
    check_size(shape)

    def conv(C: int, K: int, kernel: int = 3, stride: int = 1, pad: int = 1):
        layer = Conv2d(C, K, kernel, stride=stride, pad=pad)
        return WeightNorm(layer, trained_scale=False), LeakyReLU(0.2)

    C, w = shape[2], width
    body = Sequential(
        *(Dropout(0.2), *conv(C, w), *conv(w, w), *conv(w, w, stride=2)),
        *(Dropout(0.5), *conv(w, 2 * w), *conv(2 * w, 2 * w), *conv(2 * w, 2 * w, stride=2)),
        *(Dropout(0.5), *conv(2 * w, 2 * w, pad=0)),
        *(*conv(2 * w, 2 * w, 1, pad=0), *conv(2 * w, 2 * w, 1, pad=0), GlobalMeanPool()),
    )
    return Sequential(body, WeightNorm(Linear(2 * w, classes), first_std=0.1))


def check_size(shape: Shape) -> None:
    """Raise UserError unless the sides of an image are multiples of 8, and at least 16."""
    H, W, _ = shape
    if H % 8 or W % 8 or min(H, W) < 16:
        raise UserError(
            "the convolutional networks double an image three times: its sides must be multiples "
            f"of 8 from 16 on, not {H}x{W}"
        )


class Networks(NamedTuple):
    """What the source does differently for gray and for color images.

    generator, discriminator   functions (shape, width, z or classes) -> network
    init                       init(net, rng) of G
    std                        of the directions of D's weights
    from_z                     whether G's weight norm has its first scale and bias from images of z
    pixels                     "unit" for images in [0, 1], "tanh" for [-1, 1]
    matching                   the loss of G
    lr                         the learning rate of both players
    decay                      whether it falls to 0 over the last third of a training
    """

    generator: Callable[..., Sequential]
    discriminator: Callable[..., Sequential]
    init: Callable
    std: float
    from_z: bool
    pixels: str
    matching: Callable[[Array, Array], tuple[Array, Array]]
    lr: float
    decay: bool


NETWORKS = {
    "linear": Networks(
        *(generator, discriminator, glorot_uniform, 0.1, False, "unit"),
        *(feature_matching, 3e-3, False),
    ),
    "convolutional": Networks(
        *(convolutional_generator, convolutional_discriminator),
        *(partial(normal_init, std=0.05), 0.05, True, "tanh"),
        *(absolute_feature_matching, 3e-4, True),
    ),
}


def build(
    random: Random,
    first: Array,
    classes: int = 10,
    width: int = 500,
    z: int = Z,
    rate: float = 1e-4,
    supervised: bool = False,
    networks: Networks = NETWORKS["linear"],
    device: Device = CPU,
    dtype=np.float32,
) -> SemiSupervisedGAN | Classifier:
    """Return the GAN, or D alone, with first weights, for images of the shape of those in `first`.

    first (N, H, W, C): images (500 in the source) from which D's scales and biases are set, so that
    each unit has mean 0 and standard deviation 1 over them, or the logits of convolutional networks
    0.1. The directions of its weights, and the weights of G, are drawn as `networks` tells. Adam
    with betas (0.5, 0.999) for both, and with eps = 1e-4: the source divides by sqrt(v + 1e-8),
    which lies between sqrt(v) + 1e-4 and that divided by sqrt(2). Its gradients are often smaller
    than that.
    """
    shape = first.shape[1:]
    adam = partial(Adam, lr=networks.lr, betas=(0.5, 0.999), eps=1e-4)
    D = networks.discriminator(shape, width, classes)
    normal_init(D, random.stream("discriminator weights"), networks.std)
    D.bind(random.stream("noise"))
    d_optimizer = adam(Parameters(D, device, dtype))
    data_dependent_init(D, first)
    if supervised:
        return Classifier(D, d_optimizer, rate)
    G = networks.generator(shape, width, z)
    networks.init(G, random.stream("generator weights"))
    g_optimizer = adam(Parameters(G, device, dtype))
    if networks.from_z:
        first_z = random.stream("first z").random((FIRST_Z, z), np.float32)
        data_dependent_init(G, device.asarray(first_z.astype(dtype)))
    return SemiSupervisedGAN(D, d_optimizer, rate, G, g_optimizer, networks.matching)
