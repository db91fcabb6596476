"""Networks of the semi-supervised GAN for gray images: fully connected, weight normalised.

Source: Salimans et al. 2016 (arXiv:1606.03498) and its code for MNIST.
"""

from functools import partial
from itertools import pairwise
from math import prod

import numpy as np

from rawgan.backend import CPU, Array, Device
from rawgan.init import data_dependent_init, glorot_uniform, normal_init
from rawgan.layers import (
    BatchNorm,
    Flatten,
    GaussianNoise,
    Linear,
    Parameters,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Softplus,
    WeightNorm,
)
from rawgan.optim import Adam
from rawgan.random import Random
from rawgan.systems.semi_supervised import Classifier, SemiSupervisedGAN

Z = 100  # size of an input of G, from U(0, 1)
Shape = tuple[int, int, int]
MNIST: Shape = (28, 28, 1)


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


def build(
    random: Random,
    first: Array,
    classes: int = 10,
    width: int = 500,
    z: int = Z,
    lr: float = 3e-3,
    rate: float = 1e-4,
    supervised: bool = False,
    device: Device = CPU,
    dtype=np.float32,
) -> SemiSupervisedGAN | Classifier:
    """Return the GAN, or D alone, with first weights, for images of the shape of those in `first`.

    first (N, H, W, C): images (500 in the source) from which D's scales and biases are set, so that
    each unit has mean 0 and standard deviation 1 over them. The directions of its weights are drawn
    from N(0, 0.1^2), the weights of G by `glorot_uniform`. Adam with betas (0.5, 0.999) for both,
    and with eps = 1e-4: the source divides by sqrt(v + 1e-8), which lies between sqrt(v) + 1e-4 and
    that divided by sqrt(2). Its gradients are often smaller than that.
    """
    adam = partial(Adam, lr=lr, betas=(0.5, 0.999), eps=1e-4)
    D = discriminator(first.shape[1:], width, classes)
    normal_init(D, random.stream("discriminator weights"), 0.1)
    D.bind(random.stream("noise"))
    d_optimizer = adam(Parameters(D, device, dtype))
    data_dependent_init(D, first)
    if supervised:
        return Classifier(D, d_optimizer, rate)
    G = generator(first.shape[1:], width, z)
    glorot_uniform(G, random.stream("generator weights"))
    return SemiSupervisedGAN(D, d_optimizer, rate, G, adam(Parameters(G, device, dtype)))
