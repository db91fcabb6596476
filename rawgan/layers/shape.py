"""Layers that reshape, replicate or crop without arithmetic."""

from math import prod

from rawgan.backend import array_module
from rawgan.layers.base import Layer


class Reshape(Layer):
    """y = x with each sample in another shape: x (N, ...), y (N, *shape).

    The adjoint is the reshape back.
    """

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape

    def forward(self, x, train=True):
        if prod(x.shape[1:]) != prod(self.shape):
            raise ValueError(
                f"{self.label}: a sample of shape {tuple(x.shape[1:])} does not fill one of "
                f"{self.shape}"
            )
        return x.reshape(len(x), *self.shape), x.shape

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return dy.reshape(cache), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return ddx.reshape(dy.shape), None, {}

    def config(self):
        return ", ".join(map(str, self.shape))


class Flatten(Layer):
    """y = x with each sample as one row: x (N, ...), y (N, C).

    Images flatten in the order H, W, C.
    """

    def forward(self, x, train=True):
        return x.reshape(len(x), -1), x.shape

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return dy.reshape(cache), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return ddx.reshape(dy.shape), None, {}


class Planes(Layer):
    """y[n,h,v,c] = x[n,c]: each number as a constant plane; x (N, C), y (N, H, W, C).

    dx is the sum over the plane.
    """

    def __init__(self, H: int, W: int):
        super().__init__()
        self.H, self.W = H, W

    def forward(self, x, train=True):
        self.check(x, None, None)
        N, C = x.shape
        return array_module(x).broadcast_to(x[:, None, None, :], (N, self.H, self.W, C)), None

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return dy.sum((1, 2)), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return self.forward(ddx)[0], None, {}

    def config(self):
        return f"{self.H}, {self.W}"


class Crop(Layer):
    """y[n,h,v,c] = x[n,h,v,c] for h < H, v < W: crops (N, ., ., C) to (N, H, W, C).

    dx is exactly 0 for the pixels that are cropped.
    """

    def __init__(self, H: int, W: int):
        super().__init__()
        self.H, self.W = H, W

    def forward(self, x, train=True):
        if x.ndim != 4 or x.shape[1] < self.H or x.shape[2] < self.W:
            raise ValueError(
                f"{self.label}: an image of shape {tuple(x.shape)} is smaller than what is to "
                "be kept"
            )
        return array_module(x).ascontiguousarray(x[:, : self.H, : self.W]), x.shape

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        dx = array_module(dy).zeros(cache, dy.dtype)
        dx[:, : self.H, : self.W] = dy
        return dx, {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return array_module(ddx).ascontiguousarray(ddx[:, : self.H, : self.W]), None, {}

    def config(self):
        return f"{self.H}, {self.W}"
