"""Initialisation of weights from a random stream.

Parameters that an initialiser does not name, and running statistics, keep their 0 or 1.
"""

from math import prod, sqrt

from rawgan.layers.base import Layer, inside, leaves
from rawgan.layers.blocks import Residual
from rawgan.layers.reparameterize import WeightNorm


def dcgan_init(net: Layer, rng) -> None:
    """Initialise w ~ N(0, 0.02^2), gamma ~ N(1, 0.02^2); biases and beta stay 0.

    Source: Radford et al. 2016 (arXiv:1511.06434), section 4.
    """
    for _, layer in leaves(net):
        for name, mean in (("w", 0.0), ("gamma", 1.0)):
            if name in layer.params:
                layer.params[name][...] = rng.normal(mean, 0.02, layer.params[name].shape)


def _uniform(net: Layer, rng, fans) -> None:
    for _, layer in leaves(net):
        if "w" in layer.params:
            K, *taps, C = layer.params["w"].shape
            bound = sqrt(6 / (prod(taps) * fans(C, K)))
            layer.params["w"][...] = rng.uniform(-bound, bound, layer.params["w"].shape)


def glorot_uniform(net: Layer, rng) -> None:
    """Initialise w ~ U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), the default of Keras.

    w (K, C) or (K, R, S, C): fan_in = R S C, fan_out = R S K. Other parameters are unchanged.
    Source: Glorot & Bengio 2010.
    """
    _uniform(net, rng, lambda C, K: C + K)


def gulrajani_uniform(net: Layer, rng) -> None:
    """Initialise w ~ U(-a, a) with a = sqrt(3) std, as in the code of Gulrajani et al. 2017.

        Linear             std = sqrt(2 / (C + K))
        Conv2d             std = sqrt(4 / (R S C + R S K / stride^2))
        ConvTranspose2d    std = sqrt(4 / (R S K / stride^2 + R S C))

    w (K, C) or (K, R, S, C). K is the number of input channels of a transposed convolution, so one
    formula serves both convolutions. Other parameters are unchanged. Source: arXiv:1704.00028.
    """
    for _, layer in leaves(net):
        if "w" in layer.params:
            K, *taps, C = layer.params["w"].shape
            gain = 4 if taps else 2
            bound = sqrt(3 * gain / (prod(taps) * (C + K / prod(getattr(layer, "stride", (1,))))))
            layer.params["w"][...] = rng.uniform(-bound, bound, layer.params["w"].shape)


def he_uniform(net: Layer, rng) -> None:
    """Initialise w ~ U(-a, a) with a = sqrt(6 / fan_in), fan_in = R S C for w (K, R, S, C).

    Other parameters are unchanged. Source: He et al. 2015.
    """
    _uniform(net, rng, lambda C, K: C)


def residual_glorot_uniform(net: Layer, rng) -> None:
    """Initialise as `glorot_uniform`, times sqrt(2) in the inner layers of each Residual.

    A shortcut has no activation, and keeps the gain of 1. Source: the code of Miyato et al. 2018
    (arXiv:1802.05957).
    """
    glorot_uniform(net, rng)
    for _, block in inside(net):
        if isinstance(block, Residual):
            for _, layer in leaves(block.children()["inner"]):
                if "w" in layer.params:
                    layer.params["w"] *= sqrt(2)


def normal_init(net: Layer, rng, std: float = 1.0) -> None:
    """Initialise w ~ N(0, std^2); biases stay 0. std 1 is for layers that EqualizedLR scales.

    Source: Karras et al. 2018 (arXiv:1710.10196), section 4.1.
    """
    for _, layer in leaves(net):
        if "w" in layer.params:
            layer.params["w"][...] = rng.normal(0.0, std, layer.params["w"].shape)


def data_dependent_init(net: Layer, x) -> None:
    """Set g and b of every WeightNorm so that its outputs have mean 0 and std first_std over x.

        g = first_std / std(t),  b = -g mean(t),  t = <w, x> / |w|

    first_std is the layer's own, 1 by default. One training forward pass of the batch x, in which
    each layer takes the outputs of those before it. Raises ValueError as WeightNorm.set_from.
    Source: Salimans & Kingma 2016 (arXiv:1602.07868), section 3.
    """
    normed = [layer for _, layer in leaves(net) if isinstance(layer, WeightNorm)]
    for layer in normed:
        layer.from_data = True
    try:
        net.forward(x)
    finally:
        for layer in normed:
            layer.from_data = False
