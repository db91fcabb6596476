"""Normalisation as a projection: BatchNorm, LayerNorm and InstanceNorm differ only in the axes they reduce over.

With E the mean over the reduced axes, M their number of elements, rstd = 1 / sqrt(var + eps) and

    xhat = (x - mean) rstd        P(v) = v - E(v) - xhat E(xhat v)

P removes the two directions that normalisation removes, the constants and xhat (it is a projection but for eps in rstd). As a
matrix it is symmetric, so it is its own adjoint. Then

    y  = gamma xhat + beta
    dx = rstd P(gamma dy)                                                           first order
    ddy = gamma rstd P(ddx)                                                         second order, for the cotangent ddx of dx:
    dgamma = sum of dy rstd P(ddx)                                                  what reached gamma through dx
    dx2 = -(rstd^2 / M) xhat sum(ddx P(gamma dy)) - rstd^2 P(E(gamma dy xhat) ddx + E(ddx xhat) gamma dy)

Nothing divides by gamma, so gamma may be exactly 0.
"""

from rawgan.backend import Array, array_module


def normalize(x: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array, Array, Array]:
    """Subtracts the mean over `axes` and divides by the standard deviation.

        xhat = (x - mean) rstd,  mean = E(x),  var = E((x - mean)^2) (biased, two passes),  rstd = 1 / sqrt(var + eps)

    x any shape; returns xhat of x's shape, and rstd, mean, var with the reduced axes kept as 1. Derivatives: normalize_dx,
    normalize_dx2. Source: Ioffe & Szegedy 2015 (arXiv:1502.03167).
    """
    xp = array_module(x)
    mean = x.mean(axes, keepdims=True)
    xhat = x - mean
    var = (xhat * xhat).mean(axes, keepdims=True)
    rstd = 1 / xp.sqrt(var + x.dtype.type(eps))
    xhat *= rstd
    return xhat, rstd, mean, var


def project(v: Array, xhat: Array, axes: tuple[int, ...]) -> Array:
    """P(v) = v - E(v) - xhat E(xhat v), E the mean over `axes`; v, xhat and the result of one shape."""
    array_module(v, xhat)
    return v - v.mean(axes, keepdims=True) - xhat * (xhat * v).mean(axes, keepdims=True)


def normalize_dx(dxhat: Array, xhat: Array, rstd: Array, axes: tuple[int, ...]) -> Array:
    """The gradient of normalize, and (P being self-adjoint) the gradient of itself with respect to dxhat.

    dx = rstd P(dxhat)
    """
    return rstd * project(dxhat, xhat, axes)


def normalize_dx2(ddx: Array, dxhat: Array, xhat: Array, rstd: Array, axes: tuple[int, ...]) -> Array:
    """The curvature: the gradient of <ddx, normalize_dx(dxhat)> with respect to x.

        dx2 = -rstd^2 ( xhat E(ddx P(dxhat)) + P( E(dxhat xhat) ddx + E(ddx xhat) dxhat ) )

    All of x's shape but rstd. The first term differentiates rstd (whose gradient is -rstd^2 xhat / M), the second xhat.
    """
    array_module(ddx, dxhat, xhat, rstd)
    scale = (ddx * project(dxhat, xhat, axes)).mean(axes, keepdims=True)
    mixed = (dxhat * xhat).mean(axes, keepdims=True) * ddx + (ddx * xhat).mean(axes, keepdims=True) * dxhat
    return -rstd * rstd * (xhat * scale + project(mixed, xhat, axes))
