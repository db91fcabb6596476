"""PixelNorm: the channels of each pixel divided by their root mean square.

With E the mean over the channels and r = 1 / sqrt(E(x^2) + eps),

    y   = r x
    dx  = r (dy - y E(y dy))                                            first order
    ddy = r (ddx - y E(y ddx))                                          second order, for ddx
    dx2 = -r^2 ( y (E(ddx dy) - 3 m1 m2) + m2 ddx + m1 dy ),  m1 = E(y ddx), m2 = E(y dy)

As a matrix the map dy -> dx is symmetric, so it is self-adjoint. Derivation: docs/blocks.md.
"""

from rawgan.backend import Array
from rawgan.ops.norm import inverse_root, mean


def pixel_norm(x: Array, eps: float) -> tuple[Array, Array]:
    """Divide the channels of each pixel by their root mean square: y of x's shape, r (..., 1).

        y[...,c] = r x[...,c],  r = 1 / sqrt( 1/C sum over k of x[...,k]^2 + eps )

    x (N, C) or (N, H, W, C). Derivatives: pixel_norm_dx, pixel_norm_dx2. Source: Karras et al. 2018
    (arXiv:1710.10196), section 4.2.
    """
    r = inverse_root(mean((x.ndim - 1,), x, x), eps)
    return x * r, r


def pixel_norm_dx(dy: Array, y: Array, r: Array) -> Array:
    """dx = r (dy - y E(y dy)): all of x's shape but r, which has one channel.

    Symmetric, so the derivative with respect to dy is the same map.
    """
    return r * (dy - y * mean((y.ndim - 1,), y, dy))


def pixel_norm_dx2(ddx: Array, dy: Array, y: Array, r: Array) -> Array:
    """Curvature: the gradient of <ddx, pixel_norm_dx(dy)> with respect to x.

        dx2 = -r^2 ( y (E(ddx dy) - 3 m1 m2) + m2 ddx + m1 dy ),  m1 = E(y ddx), m2 = E(y dy)

    All of x's shape but r, which has one channel.
    """
    axes = (y.ndim - 1,)
    m1, m2, m3 = mean(axes, y, ddx), mean(axes, y, dy), mean(axes, ddx, dy)
    return -r * r * (y * (m3 - 3 * m1 * m2) + m2 * ddx + m1 * dy)
