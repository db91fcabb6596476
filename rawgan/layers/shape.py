"""Layers that move numbers without changing them."""

from math import prod

from rawgan.layers.base import Layer


class Reshape(Layer):
    """y = x with each sample in another shape: x (N, ...), y (N, *shape). Its own adjoint, backwards."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape

    def forward(self, x, train=True):
        if prod(x.shape[1:]) != prod(self.shape):
            raise ValueError(f"{self.label}: a sample of shape {tuple(x.shape[1:])} does not fill one of {self.shape}")
        return x.reshape(len(x), *self.shape), x.shape

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return dy.reshape(cache), {}

    def double_backward(self, ddx, dy, cache):
        return ddx.reshape(dy.shape), None, {}

    def config(self):
        return ", ".join(map(str, self.shape))


class Flatten(Layer):
    """y = x with each sample as one row: x (N, ...), y (N, C). Images flatten in the order H, W, C."""

    def forward(self, x, train=True):
        return x.reshape(len(x), -1), x.shape

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return dy.reshape(cache), {}

    def double_backward(self, ddx, dy, cache):
        return ddx.reshape(dy.shape), None, {}
