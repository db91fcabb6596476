"""Dropout and additive Gaussian noise: layers that draw random numbers in training."""

import numpy as np

from rawgan.backend import array_module
from rawgan.layers.base import Layer


class _Random(Layer):
    """A layer that draws from the stream `rng`, set by `bind`."""

    def __init__(self):
        super().__init__()
        self.rng = None

    def bind(self, rng):
        self.rng = rng

    def require_stream(self) -> None:
        """Raise ValueError, naming the layer, before a stream is set."""
        if self.rng is None:
            raise ValueError(
                f"{self.label} has no random stream: call bind(rng) on the network before training"
            )


class Dropout(_Random):
    """Set each number to 0 with probability p in training, and scale the others to keep the mean.

        y = m x,  m = 0 with probability p, 1 / (1 - p) otherwise;  in inference y = x

    Any shape. The masks are drawn from the stream set by `bind`; training without one raises.
    Linear in x for a drawn mask, so backward and double_backward multiply by the same m.
    Source: Srivastava et al. 2014.
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"the probability of Dropout lies in [0, 1), got {p}")
        self.p = p

    def forward(self, x, train=True):
        if not train or self.p == 0:
            return x, None
        self.require_stream()
        keep = array_module(x).asarray(self.rng.random(x.shape, dtype="float32") >= self.p)
        m = keep * x.dtype.type(1 / (1 - self.p))
        return x * m, m

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return (dy if cache is None else dy * cache), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return (ddx if cache is None else ddx * cache), None, {}

    def config(self):
        return str(self.p)


class GaussianNoise(_Random):
    """Add noise of standard deviation `std` in training: x and y of any shape.

        y = x + std n,  n ~ N(0, 1);  in inference y = x
        n = sqrt(-2 log(1 - u)) cos(2 pi v),  u, v ~ U(0, 1), in the precision of x

    dx = dy and ddy = ddx: the draw is a constant, and no derivative depends on it. The uniform
    numbers come from the stream set by `bind`, as those of Dropout do, since the processes of a
    data-parallel training share them; training without one raises ValueError, and so does a
    negative std. Sources: Salimans et al. 2016 (arXiv:1606.03498); Box & Muller 1958.
    """

    def __init__(self, std: float):
        super().__init__()
        if not std >= 0:
            raise ValueError(f"the standard deviation of GaussianNoise is 0 or more, got {std}")
        self.std = std

    def forward(self, x, train=True):
        if not train or self.std == 0:
            return x, None
        self.require_stream()
        # pairs by sample, so that the parts of a batch draw what the whole does
        u, v = self.rng.random((len(x), 2, *x.shape[1:]), dtype=x.dtype).swapaxes(0, 1)
        n = np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * np.pi * v)  # 1 - u is exact, and never 0
        return x + array_module(x).asarray(self.std * n), None

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return dy, {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return ddx, None, {}

    def config(self):
        return str(self.std)
