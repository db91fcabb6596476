"""Normalisation as a projection: BatchNorm, LayerNorm and InstanceNorm differ only in the axes they reduce over.

With E the mean over the reduced axes, rstd = 1 / sqrt(var + eps) and

    xhat = (x - mean) rstd        P(v) = v - E(v) - xhat E(xhat v)

P removes the two directions that normalisation removes, the constants and xhat (it is a projection but for eps in rstd). As a
matrix it is symmetric, so it is its own adjoint. Then

    y  = gamma xhat + beta
    dx = rstd P(gamma dy)                       first order
    ddy = gamma rstd P(ddx)                     second order, for the cotangent ddx of dx:
    dgamma = sum of dy rstd P(ddx)              what reached gamma through dx
    dx2 = -rstd^2 ( xhat E(ddx P(gamma dy)) + P( E(gamma dy xhat) ddx + E(ddx xhat) gamma dy ) )

Nothing divides by gamma, so gamma may be exactly 0.

With `ranks`, the samples of several processes are one batch: every E is the mean over the ranks of their own, all ranks having
equally many samples, and the formulas stay as they are, the second order too.
"""

from math import prod

from rawgan.backend import Array, array_module, elementwise, fast_on, kernels_on, shared
from rawgan.kernels import cpu_norm, kernels
from rawgan.parallel import Ranks

Axes = tuple[int, ...]


def mean(axes: Axes, *factors: Array) -> Array:
    """E(f g ...) = 1/M sum of f g ... over `axes`, for arrays of one shape, the axes kept as 1; the product itself is never stored.

    Summed within each sample first, then over the samples: one long sum in float32 would lose digits as it grows.
    """
    if kernels_on(*factors):
        return kernels.mean(axes, *factors)
    xp = array_module(*factors)
    shape, letters = factors[0].shape, "nhwc"[: factors[0].ndim]
    kept = "".join(letter for axis, letter in enumerate(letters) if axis == 0 or axis not in axes)
    terms = ",".join([letters] * len(factors)) + "->" + kept

    def part(n: slice) -> Array:
        return xp.einsum(terms, *(f[n] for f in factors))

    first, *more = shared(factors[0], part)
    total = xp.concatenate([first, *more]) if more else first
    if 0 in axes:
        total = total.sum(0)
    return total.reshape([1 if axis in axes else n for axis, n in enumerate(shape)]) / prod(shape[axis] for axis in axes)


def _over(ranks: Ranks | None, *means: Array) -> list[Array]:
    """Means over the samples of this process to means over those of all ranks, by one all-reduce."""
    return list(means) if ranks is None else list(ranks.mean_(array_module(*means).stack(means)))


@elementwise
def affine(x: Array, scale: Array, shift: Array) -> Array:
    """y = scale x + shift; scale and shift broadcast over x."""
    if kernels_on(x, scale, shift):
        return kernels.affine(x, scale, shift)
    return x * scale + shift


@elementwise
def standardize(x: Array, mu: Array, rstd: Array) -> Array:
    """xhat = (x - mean) rstd; mean and rstd broadcast over x."""
    if kernels_on(x, mu, rstd):
        return kernels.standardize(x, mu, rstd)
    return (x - mu) * rstd


def normalize(x: Array, axes: Axes, eps: float, ranks: Ranks | None = None) -> tuple[Array, Array, Array, Array]:
    """Subtracts the mean over `axes` and divides by the standard deviation.

        xhat = (x - mean) rstd,  mean = E(x),  var = E((x - mean)^2),  rstd = 1 / sqrt(var + eps)

    x any shape; returns xhat of x's shape, and rstd, mean, var (biased) with the reduced axes kept as 1. The variance takes a
    second pass: E(x^2) - mean^2 loses all digits when the mean is large; and for that reason `ranks` merge their moments as

        mean = E_r(mean_r),  var = E_r(var_r + (mean_r - mean)^2),  E_r the mean over ranks r

    Derivatives: normalize_dx, normalize_dx2. Sources: Ioffe & Szegedy 2015 (arXiv:1502.03167); the merge: Chan et al. 1983.
    """
    if ranks is not None:
        xp = array_module(x)
        _, _, mu, var = normalize(x, axes, eps)
        each = ranks.gather(xp.stack([mu, var]))
        mu = each[:, 0].mean(0)
        var = (each[:, 1] + (each[:, 0] - mu) ** 2).mean(0)
        rstd = 1 / xp.sqrt(var + x.dtype.type(eps))
        return standardize(x, mu, rstd), rstd, mu, var
    if kernels_on(x):
        return kernels.normalize(x, axes, eps)
    xp = array_module(x)
    mu = mean(axes, x)
    centred = standardize(x, mu, x.dtype.type(1))
    var = mean(axes, centred, centred)
    rstd = 1 / xp.sqrt(var + x.dtype.type(eps))
    centred *= rstd
    return centred, rstd, mu, var


@elementwise
def _minus(v: Array, xhat: Array, constant: Array, slope: Array, scale: Array) -> Array:
    return (v - constant - xhat * slope) * scale


def normalize_dx(dxhat: Array, xhat: Array, rstd: Array, axes: Axes, ranks: Ranks | None = None) -> Array:
    """The gradient of normalize: dx = rstd P(dxhat). P being symmetric, it is also its own derivative with respect to dxhat.

    dxhat and xhat of x's shape, rstd with the reduced axes as 1; with rstd = 1 it is P itself.
    """
    if ranks is None and kernels_on(dxhat, xhat, rstd):
        return kernels.normalize_dx(dxhat, xhat, rstd, axes)
    constant, slope = _over(ranks, mean(axes, dxhat), mean(axes, xhat, dxhat))
    return _minus(dxhat, xhat, constant, slope, rstd)


def normalize_dx2(ddx: Array, dxhat: Array, xhat: Array, rstd: Array, axes: Axes, ranks: Ranks | None = None) -> Array:
    """The curvature: the gradient of <ddx, normalize_dx(dxhat)> with respect to x.

        dx2 = -rstd^2 ( xhat E(ddx P(dxhat)) + P( E(dxhat xhat) ddx + E(ddx xhat) dxhat ) )

    All of x's shape but rstd. The first term differentiates rstd (its gradient is -rstd^2 xhat / M), the second xhat.
    """
    if ranks is None and kernels_on(ddx, dxhat, xhat, rstd):
        return kernels.normalize_dx2(ddx, dxhat, xhat, rstd, axes)
    one = xhat.dtype.type(1)
    projected = normalize_dx(dxhat, xhat, one, axes, ranks)
    scale, vx, ux = _over(ranks, mean(axes, ddx, projected), mean(axes, dxhat, xhat), mean(axes, ddx, xhat))
    return -rstd * rstd * (xhat * scale + normalize_dx(vx * ddx + ux * dxhat, xhat, one, axes, ranks))


def batchnorm(
    x: Array, gamma: Array, beta: Array, eps: float, ranks: Ranks | None = None
) -> tuple[Array, Array, Array, Array, Array]:
    """Normalises each channel over the batch and the pixels, and gives it a scale and a mean of its own.

        y = gamma xhat + beta,  xhat, rstd, mean, var = normalize(x)

    x (N, C) or (N, H, W, C), gamma and beta (C,); returns y and xhat of x's shape, and rstd, mean, var with the reduced axes kept
    as 1. Derivative: batchnorm_dx. Source: Ioffe & Szegedy 2015 (arXiv:1502.03167).
    """
    if ranks is None and fast_on(x, gamma, beta):
        return cpu_norm.batchnorm(x, gamma, beta, eps)
    xhat, *statistics = normalize(x, tuple(range(x.ndim - 1)), eps, ranks)
    return affine(xhat, gamma, beta), xhat, *statistics


def batchnorm_dx(dy: Array, xhat: Array, rstd: Array, gamma: Array, ranks: Ranks | None = None) -> tuple[Array, Array, Array]:
    """The gradients of batchnorm with respect to x, gamma and beta.

        dx = gamma rstd P(dy) = gamma rstd (dy - dbeta / M - xhat dgamma / M)
        dgamma = sum of xhat dy,  dbeta = sum of dy,  each over the M values of a channel

    dy and xhat of x's shape, rstd with the reduced axes as 1, gamma (C,); dx of x's shape, dgamma and dbeta (C,). gamma does not
    depend on what E runs over, so P(gamma dy) = gamma P(dy). With ranks, the sums are over the samples of this process.
    """
    if ranks is None and fast_on(dy, xhat, rstd, gamma):
        return cpu_norm.batchnorm_dx(dy, xhat, rstd, gamma)
    axes, M = tuple(range(dy.ndim - 1)), dy.size // dy.shape[-1]
    dx = normalize_dx(dy, xhat, gamma * rstd, axes, ranks)
    return dx, mean(axes, xhat, dy).reshape(-1) * M, mean(axes, dy).reshape(-1) * M
