"""First values of the parameters, drawn from a stream; running statistics and biases keep their 0 and 1."""

from math import prod, sqrt

from rawgan.layers.base import Layer, leaves


def dcgan_init(net: Layer, rng) -> None:
    """w ~ N(0, 0.02^2), gamma ~ N(1, 0.02^2), biases and beta 0. Source: Radford et al. 2016 (arXiv:1511.06434), section 4."""
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
    """w ~ U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), taps counted into the fans; the rest stays: Keras' default.

    w (K, C) or (K, R, S, C): fan_in = R S C, fan_out = R S K. Source: Glorot & Bengio 2010.
    """
    _uniform(net, rng, lambda C, K: C + K)


def he_uniform(net: Layer, rng) -> None:
    """w ~ U(-a, a) with a = sqrt(6 / fan_in), fan_in = R S C for w (K, R, S, C); the rest stays. Source: He et al. 2015."""
    _uniform(net, rng, lambda C, K: C)
