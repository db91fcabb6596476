"""Layers whose weight is a function of the trained parameters: equalised rate, weight norm.

An inner layer that is linear in its weight w runs with weight(params) in place of w. The chain rule
of that function turns the gradient of the weight, to first and to second order, into those of the
parameters: the inner layer depends on them through the weight alone.
"""

from math import sqrt

import numpy as np

from rawgan.backend import array_module
from rawgan.layers.base import Grads, Layer
from rawgan.layers.conv import ConvTranspose2d


def fan_in(layer: Layer) -> int:
    """Return the number of inputs of an output, without stride.

    fan_in = R S C of w (K, R, S, C), C of w (K, C); R S K for ConvTranspose2d, whose outputs are
    the C channels. Source: He et al. 2015.
    """
    w = layer.params["w"]
    return w.size // w.shape[-1 if isinstance(layer, ConvTranspose2d) else 0]


class _Reparameterized(Layer):
    """Run `inner`, a Linear, Conv2d or ConvTranspose2d, with another weight.

    Raises TypeError for another layer.
    """

    def __init__(self, inner: Layer):
        super().__init__()
        if "w" not in inner.params or inner.children() or hasattr(inner, "inner"):
            raise TypeError(
                f"{type(self).__name__} takes a Linear, Conv2d or ConvTranspose2d, not {inner!r}"
            )
        self.inner = inner
        self.params = dict(inner.params)

    def weight(self):
        """Return the weight of inner, and what `through_weight` needs."""
        raise NotImplementedError

    def through_weight(self, grads: Grads, saved) -> Grads:
        """Replace the gradient of the weight by those of the parameters."""
        raise NotImplementedError

    def forward(self, x, train=True):
        w, saved = self.weight()
        self.use(w)
        y, inner_cache = self.inner.forward(x, train)
        return y, (inner_cache, w, saved)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        inner_cache, w, saved = cache
        self.use(w)
        dx, grads = self.inner.backward(dy, inner_cache, need_dx, need_grads)
        return dx, self.through_weight(grads, saved) if need_grads else {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        inner_cache, w, saved = cache
        self.use(w)
        ddy, dx, grads = self.inner.double_backward(ddx, dy, inner_cache, need_ddy)
        return ddy, dx, self.through_weight(grads, saved)

    def use(self, w) -> None:
        """Set w as the weight of inner."""
        self.inner.label, self.inner.params = self.label, self.params | {"w": w}

    def config(self):
        return repr(self.inner)


class EqualizedLR(_Reparameterized):
    """Run `inner` with scale w in place of w (N(0, 1) at the start): the equalised learning rate.

        scale = gain / sqrt(fan_in),  y = inner(x; scale w, b),  dw = scale d(scale w)

    w (K, C) or (K, R, S, C); biases are not scaled. An optimizer such as Adam, whose steps do not
    depend on the size of a gradient, then changes every weight by the same share of its scale.
    Raises TypeError for a layer other than Linear and the convolutions. Source: Karras et al. 2018
    (arXiv:1710.10196), section 4.1.
    """

    def __init__(self, inner: Layer, gain: float = sqrt(2)):
        super().__init__(inner)
        self.gain, self.scale = gain, gain / sqrt(fan_in(inner))

    def weight(self):
        w = self.params["w"]
        return w * w.dtype.type(self.scale), None

    def through_weight(self, grads, saved):
        return grads | {"w": grads["w"] * grads["w"].dtype.type(self.scale)}

    def config(self):
        return f"{self.inner!r}, gain={self.gain:.4g}"


class WeightNorm(_Reparameterized):
    """Run `inner` with a weight of length g[k] per output k: direction w, scale g.

        weight[k] = g[k] w[k] / |w[k]|,  with u[k] = w[k] / |w[k]|:
        dg[k] = <dweight[k], u[k]>,  dw[k] = g[k] / |w[k]| (dweight[k] - dg[k] u[k])

    w (K, C) or (K, R, S, C), |w[k]| over all axes but the outputs'; g (K,), which a ConvTranspose2d
    has per C. g is 1 at the start, and a constant buffer with trained_scale=False. A direction that
    is exactly 0 counts as of length 1. rawgan/init.py data_dependent_init sets g and b from a
    batch, for outputs of standard deviation first_std. Raises TypeError for a layer other than
    Linear and the convolutions. Source: Salimans & Kingma 2016 (arXiv:1602.07868).
    """

    def __init__(self, inner: Layer, trained_scale: bool = True, first_std: float = 1.0):
        super().__init__(inner)
        w = inner.params["w"]
        output = w.ndim - 1 if isinstance(inner, ConvTranspose2d) else 0
        self.axes = tuple(axis for axis in range(w.ndim) if axis != output)
        self.trained_scale, self.first_std, self.from_data = trained_scale, first_std, False
        scales = self.params if trained_scale else self.buffers
        scales["g"] = np.ones(w.shape[output], np.float32)

    @property
    def g(self):
        """The scales (K,)."""
        return self.params["g"] if self.trained_scale else self.buffers["g"]

    def weight(self):
        w = self.params["w"]
        xp = array_module(w)
        length = xp.sqrt((w * w).sum(self.axes, keepdims=True))
        length = xp.where(length == 0, w.dtype.type(1), length)
        u, g = w / length, self.g.reshape(length.shape)
        return g * u, (u, g / length)

    def through_weight(self, grads, saved):
        u, slope = saved
        dg = (grads["w"] * u).sum(self.axes, keepdims=True)
        grads = grads | {"w": slope * (grads["w"] - dg * u)}
        return grads | {"g": dg.reshape(-1)} if self.trained_scale else grads

    def forward(self, x, train=True):
        if self.from_data:
            self.set_from(x)
        return super().forward(x, train)

    def set_from(self, x) -> None:
        """Set g and b so that every output has mean 0 and standard deviation first_std over x.

        Raises ValueError, naming the layer, without a bias, and where an output is constant.
        """
        if "b" not in self.params:
            raise ValueError(f"{self.label}: values from data need a bias, which this layer lacks")
        self.g[...], self.params["b"][...] = 1, 0
        y, _ = super().forward(x)
        axes = tuple(range(y.ndim - 1))
        mean, std = y.mean(axes), y.std(axes)
        if not (std > 0).all():
            raise ValueError(
                f"{self.label}: an output is constant over the batch, no scale gives it a std"
            )
        self.g[...] = self.first_std / std
        self.params["b"][...] = -self.first_std * mean / std

    def config(self):
        scale = "" if self.trained_scale else ", trained_scale=False"
        first = "" if self.first_std == 1 else f", first_std={self.first_std}"
        return f"{self.inner!r}{scale}{first}"
