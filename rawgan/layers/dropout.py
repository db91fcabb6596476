"""Dropout."""

from rawgan.backend import array_module
from rawgan.layers.base import Layer


class Dropout(Layer):
    """Sets each number to 0 with probability p in training and scales the others so that the mean stays; inference: y = x.

        y = m x,  m = 0 with probability p, 1 / (1 - p) otherwise

    Any shape. The masks come from the stream given by `bind`; training without one raises. Linear in x for a drawn mask, so
    backward and double_backward multiply by the same m. Source: Srivastava et al. 2014.
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"the probability of Dropout lies in [0, 1), got {p}")
        self.p, self.rng = p, None

    def bind(self, rng):
        self.rng = rng

    def forward(self, x, train=True):
        if not train or self.p == 0:
            return x, None
        if self.rng is None:
            raise ValueError(f"{self.label} has no random stream: call bind(rng) on the network before training")
        keep = array_module(x).asarray(self.rng.random(x.shape, dtype="float32") >= self.p)
        m = keep * x.dtype.type(1 / (1 - self.p))
        return x * m, m

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return (dy if cache is None else dy * cache), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return (ddx if cache is None else ddx * cache), None, {}

    def config(self):
        return str(self.p)
