"""Max pooling as a layer."""

from rawgan.layers.base import Layer
from rawgan.ops.pool import max_pool, max_pool_ddy, max_pool_dx


class MaxPool2d(Layer):
    """The largest of each k x k entries: x (N, H, W, C), y (N, P, Q, C), P = H // k, Q = W // k. Piecewise linear: no curvature.

        y[n,p,q,c] = max over 0 <= r,s < k of x[n, p k + r, q k + s, c]

    Source: Weng et al. 1992 (the Cresceptron).
    """

    def __init__(self, k: int = 2):
        super().__init__()
        if k < 1:
            raise ValueError(f"a MaxPool2d takes squares of side 1 or more, got {k}")
        self.k = k

    def forward(self, x, train=True):
        self.check(x, None, None, None, None)
        if min(x.shape[1:3]) < self.k:
            raise ValueError(f"{self.label}: an image of shape {tuple(x.shape)} is smaller than a square of side {self.k}")
        y, taken = max_pool(x, self.k)
        return y, (taken, x.shape[1:3])

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        taken, size = cache
        return (max_pool_dx(dy, taken, size, self.k) if need_dx else None), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return max_pool_ddy(ddx, cache[0], self.k), None, {}

    def config(self):
        return str(self.k)
