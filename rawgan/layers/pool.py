"""Max and average pooling, global pooling and nearest upsampling as layers."""

from rawgan.backend import array_module
from rawgan.layers.base import Layer
from rawgan.ops.norm import mean
from rawgan.ops.pool import max_pool, max_pool_ddy, max_pool_dx, sum_pool, sum_pool_dx


class _Squares(Layer):
    """A layer of k x k squares: checks of k and of the image."""

    def __init__(self, k: int):
        super().__init__()
        if k < 1:
            raise ValueError(f"a {type(self).__name__} takes squares of side 1 or more, got {k}")
        self.k = k

    def checked(self, x) -> None:
        self.check(x, None, None, None, None)
        if min(x.shape[1:3]) < self.k:
            raise ValueError(
                f"{self.label}: an image of shape {tuple(x.shape)} is smaller than a square "
                f"of side {self.k}"
            )

    def config(self):
        return str(self.k)


class MaxPool2d(_Squares):
    """The largest of each k x k entries: x (N, H, W, C), y (N, P, Q, C), P = H // k, Q = W // k.

        y[n,p,q,c] = max over 0 <= r,s < k of x[n, p k + r, q k + s, c]

    Piecewise linear: no curvature. Source: Weng et al. 1992 (the Cresceptron).
    """

    def __init__(self, k: int = 2):
        super().__init__(k)

    def forward(self, x, train=True):
        self.checked(x)
        y, taken = max_pool(x, self.k)
        return y, (taken, x.shape[1:3])

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        taken, size = cache
        return (max_pool_dx(dy, taken, size, self.k) if need_dx else None), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return max_pool_ddy(ddx, cache[0], self.k), None, {}


class AvgPool2d(_Squares):
    """The mean of each k x k square: x (N, H, W, C), y (N, P, Q, C), P = H // k, Q = W // k.

        y[n,p,q,c] = 1/k^2 sum over 0 <= r,s < k of x[n, p k + r, q k + s, c]
        dx[n, p k + r, q k + s, c] = dy[n,p,q,c] / k^2

    Rows and columns that fill no square are left out, and have gradient 0. Linear: no curvature.
    Raises ValueError for k < 1 and for an image smaller than a square.
    """

    def __init__(self, k: int = 2):
        super().__init__(k)

    def forward(self, x, train=True):
        self.checked(x)
        return sum_pool(x, self.k) / self.k**2, x.shape[1:3]

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return (sum_pool_dx(dy / self.k**2, cache, self.k) if need_dx else None), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return sum_pool(ddx, self.k) / self.k**2, None, {}


class Upsample2d(_Squares):
    """Nearest upsampling: each entry fills a k x k square; x (N, H, W, C), y (N, k H, k W, C).

        y[n, h k + r, v k + s, c] = x[n,h,v,c] for 0 <= r,s < k
        dx[n,h,v,c] = sum over 0 <= r,s < k of dy[n, h k + r, v k + s, c]

    Linear: no curvature. Raises ValueError for k < 1.
    """

    def __init__(self, k: int = 2):
        super().__init__(k)

    def forward(self, x, train=True):
        self.check(x, None, None, None, None)
        return self.repeat(x), None

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return (sum_pool(dy, self.k) if need_dx else None), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return self.repeat(ddx), None, {}

    def repeat(self, x):
        """Return the map itself, y of x."""
        _, H, W, _ = x.shape
        return sum_pool_dx(x, (H * self.k, W * self.k), self.k)


class GlobalMeanPool(Layer):
    """The mean over the pixels of each channel: x (N, H, W, C), y (N, C).

        y[n,c] = 1 / (H W) sum over h,v of x[n,h,v,c]
        dx[n,h,v,c] = dy[n,c] / (H W)

    Linear: no curvature. Source: Lin et al. 2014 (arXiv:1312.4400).
    """

    def forward(self, x, train=True):
        self.check(x, None, None, None, None)
        return self.pool(x), x.shape

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return self.spread(dy, cache), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return self.pool(ddx), None, {}

    def pool(self, x):
        """Return y of x, summed in float64."""
        return mean((1, 2), x).reshape(len(x), -1)

    def spread(self, dy, shape):
        """Return dx of `shape`: dy / (H W) at every pixel, which has weight 1 / (H W) in y."""
        _, H, W, _ = shape
        return _planes(dy / (H * W), shape)


class GlobalSumPool(GlobalMeanPool):
    """The sum over the pixels of each channel: x (N, H, W, C), y (N, C).

        y[n,c] = sum over h,v of x[n,h,v,c]
        dx[n,h,v,c] = dy[n,c]

    The adjoint of Planes. Linear: no curvature. Source: Miyato et al. 2018 (arXiv:1802.05957).
    """

    def pool(self, x):
        _, H, W, _ = x.shape
        return super().pool(x) * (H * W)

    def spread(self, dy, shape):
        return _planes(dy, shape)


def _planes(dy, shape):
    """Return dy (N, C) at every pixel of images of `shape`, contiguous."""
    xp = array_module(dy)
    return xp.ascontiguousarray(xp.broadcast_to(dy[:, None, None, :], shape))
