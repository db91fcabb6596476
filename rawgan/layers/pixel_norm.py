"""PixelNorm, the normalisation of a progressive generator."""

from rawgan.layers.base import Layer
from rawgan.ops.pixel_norm import pixel_norm, pixel_norm_dx, pixel_norm_dx2


class PixelNorm(Layer):
    """Divide the channels of each pixel by their root mean square: x (N, C) or (N, H, W, C).

        y[...,c] = x[...,c] / sqrt( 1/C sum over k of x[...,k]^2 + eps )

    No parameters, and no sample depends on another. Derivatives: pixel_norm_dx, pixel_norm_dx2.
    Raises ValueError for other shapes. Source: Karras et al. 2018 (arXiv:1710.10196).
    """

    def __init__(self, eps: float = 1e-8):
        super().__init__()
        self.eps = eps

    def forward(self, x, train=True):
        self.check(x, *(None,) * (4 if x.ndim == 4 else 2))
        y, r = pixel_norm(x, self.eps)
        return y, (y, r)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return (pixel_norm_dx(dy, *cache) if need_dx else None), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return pixel_norm_dx(ddx, *cache), pixel_norm_dx2(ddx, dy, *cache), {}

    def config(self):
        return f"eps={self.eps}"
