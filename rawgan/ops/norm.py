"""Normalisation as a projection: BatchNorm, LayerNorm and InstanceNorm over different axes.

With E the mean over the reduced axes, rstd = 1 / sqrt(var + eps) and

    xhat = (x - mean) rstd        P(v) = v - E(v) - xhat E(xhat v)

P removes the two directions that normalisation removes, the constants and xhat (it is a projection
but for eps in rstd). As a matrix it is symmetric, so it is self-adjoint. Then

    y  = gamma xhat + beta
    dx = rstd P(gamma dy)                       first order
    ddy = gamma rstd P(ddx)                     second order, for the cotangent ddx of dx:
    dgamma = sum of dy rstd P(ddx)              gradient of gamma through dx
    dx2 = -rstd^2 ( xhat E(ddx P(gamma dy)) + P( E(gamma dy xhat) ddx + E(ddx xhat) gamma dy ) )

Nothing divides by gamma, so gamma may be exactly 0.

With `ranks`, the samples of several processes are one batch: every E is the mean over the ranks of
the means per rank, all ranks having equally many samples, and the formulas do not change, to second
order too.
"""

from functools import reduce
from math import prod
from operator import mul

from rawgan.backend import Array, array_module, fuse, kernels_on, use_fast_cpu
from rawgan.cpu import elementwise, parallel_for
from rawgan.kernels import kernels
from rawgan.kernels.cpu import norm as cpu_norm
from rawgan.kernels.cpu import sum as cpu_sum
from rawgan.parallel import Ranks

Axes = tuple[int, ...]


def mean(axes: Axes, *factors: Array) -> Array:
    """E(f g ...) = 1/M sum of f g ... over consecutive `axes`, which are kept as 1.

    One or two factors of one shape. Summed in float64: one long sum in float32 loses digits as it
    grows.
    """
    if kernels_on(*factors):
        return kernels.mean(axes, *factors)
    xp = array_module(*factors)
    if not use_fast_cpu(*factors):
        return reduce(mul, factors).mean(axes, "float64", keepdims=True).astype(factors[0].dtype)
    parts = parallel_for(factors[0], lambda n: cpu_sum.over(axes, *(f[n] for f in factors)))
    total = sum(parts) if 0 in axes else xp.concatenate(parts)
    return (total / prod(factors[0].shape[axis] for axis in axes)).astype(factors[0].dtype)


def _mean_over_ranks(ranks: Ranks | None, *means: Array) -> list[Array]:
    """Return means over the samples of all ranks, from those of this process, by one all-reduce."""
    return (
        list(means)
        if ranks is None
        else list(ranks.all_reduce_mean_(array_module(*means).stack(means)))
    )


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


@fuse
def inverse_root(var: Array, eps: float) -> Array:
    """rstd = 1 / sqrt(var + eps); any shape."""
    return 1 / array_module(var).sqrt(var + eps)


@fuse
def moved(running: Array, batch: Array, momentum: float) -> Array:
    """Update statistics, of any shape: running = (1 - momentum) running + momentum batch."""
    return running + momentum * (batch - running)


def normalize(
    x: Array, axes: Axes, eps: float, ranks: Ranks | None = None
) -> tuple[Array, Array, Array, Array]:
    """Subtracts the mean over `axes` and divides by the standard deviation.

        xhat = (x - mean) rstd,  mean = E(x),  var = E((x - mean)^2),  rstd = 1 / sqrt(var + eps)

    x any shape; returns xhat of x's shape, and rstd, mean, var (biased) with the reduced axes kept
    as 1. The variance takes a second pass: E(x^2) - mean^2 loses all digits when the mean is large;
    and for that reason `ranks` merge their moments as

        mean = E_r(mean_r),  var = E_r(var_r + (mean_r - mean)^2),  E_r the mean over ranks r

    Derivatives: normalize_dx, normalize_dx2. Sources: Ioffe & Szegedy 2015 (arXiv:1502.03167); the
    merge: Chan et al. 1983.
    """
    if ranks is not None:
        xp = array_module(x)
        _, _, mu, var = normalize(x, axes, eps)
        each = ranks.all_gather(xp.stack([mu, var]))
        mu = each[:, 0].mean(0)
        var = (each[:, 1] + (each[:, 0] - mu) ** 2).mean(0)
        rstd = inverse_root(var, eps)
        return standardize(x, mu, rstd), rstd, mu, var
    if kernels_on(x):
        return kernels.normalize(x, axes, eps)
    mu = mean(axes, x)
    centred = standardize(x, mu, x.dtype.type(1))
    var = mean(axes, centred, centred)
    rstd = inverse_root(var, eps)
    centred *= rstd
    return centred, rstd, mu, var


@elementwise
def _minus(v: Array, xhat: Array, constant: Array, slope: Array, scale: Array) -> Array:
    return (v - constant - xhat * slope) * scale


def normalize_dx(
    dxhat: Array, xhat: Array, rstd: Array, axes: Axes, ranks: Ranks | None = None
) -> Array:
    """Gradient of normalize: dx = rstd P(dxhat).

    dxhat and xhat of x's shape, rstd with the reduced axes as 1; with rstd = 1 it is P itself.
    Since P is symmetric, the derivative with respect to dxhat is the same map.
    """
    if ranks is None and kernels_on(dxhat, xhat, rstd):
        return kernels.normalize_dx(dxhat, xhat, rstd, axes)
    constant, slope = _mean_over_ranks(ranks, mean(axes, dxhat), mean(axes, xhat, dxhat))
    return _minus(dxhat, xhat, constant, slope, rstd)


def normalize_dx2(
    ddx: Array, dxhat: Array, xhat: Array, rstd: Array, axes: Axes, ranks: Ranks | None = None
) -> Array:
    """Curvature: the gradient of <ddx, normalize_dx(dxhat)> with respect to x.

        dx2 = -rstd^2 ( xhat E(ddx P(dxhat)) + P( E(dxhat xhat) ddx + E(ddx xhat) dxhat ) )

    All of x's shape but rstd; M is the number of values of a mean. The first term differentiates
    rstd, whose gradient is -rstd^2 xhat / M, the second xhat. Derivation: docs/norm.md.
    """
    if ranks is None and kernels_on(ddx, dxhat, xhat, rstd):
        return kernels.normalize_dx2(ddx, dxhat, xhat, rstd, axes)
    one = xhat.dtype.type(1)
    projected = normalize_dx(dxhat, xhat, one, axes, ranks)
    mean_ddx_projected, mean_dxhat_xhat, mean_ddx_xhat = _mean_over_ranks(
        ranks, mean(axes, ddx, projected), mean(axes, dxhat, xhat), mean(axes, ddx, xhat)
    )
    through_xhat = mean_dxhat_xhat * ddx + mean_ddx_xhat * dxhat
    through_xhat = normalize_dx(through_xhat, xhat, one, axes, ranks)
    return -rstd * rstd * (xhat * mean_ddx_projected + through_xhat)


def batchnorm(
    x: Array, gamma: Array, beta: Array, eps: float, ranks: Ranks | None = None
) -> tuple[Array, Array, Array, Array, Array]:
    """Normalise each channel over the batch and the pixels, then scale and shift it.

        y = gamma xhat + beta,  xhat, rstd, mean, var = normalize(x)

    x (N, C) or (N, H, W, C), gamma and beta (C,); returns y and xhat of x's shape, and rstd, mean,
    var with the reduced axes kept as 1. Derivative: batchnorm_dx. Source: Ioffe & Szegedy 2015
    (arXiv:1502.03167).
    """
    if ranks is None and use_fast_cpu(x, gamma, beta):
        return cpu_norm.batchnorm(x, gamma, beta, eps)
    xhat, *statistics = normalize(x, tuple(range(x.ndim - 1)), eps, ranks)
    return affine(xhat, gamma, beta), xhat, *statistics


def batchnorm_dx(
    dy: Array, xhat: Array, rstd: Array, gamma: Array, ranks: Ranks | None = None
) -> tuple[Array, Array, Array]:
    """Gradients of batchnorm with respect to x, gamma and beta.

        dx = gamma rstd P(dy) = gamma rstd (dy - dbeta / M - xhat dgamma / M)
        dgamma = sum of xhat dy,  dbeta = sum of dy,  each over the M values of a channel

    dy and xhat of x's shape, rstd with the reduced axes as 1, gamma (C,); dx of x's shape, dgamma
    and dbeta (C,). gamma is constant over the axes of E, so P(gamma dy) = gamma P(dy). With ranks,
    the sums are over the samples of this process.
    """
    if ranks is None and use_fast_cpu(dy, xhat, rstd, gamma):
        return cpu_norm.batchnorm_dx(dy, xhat, rstd, gamma)
    axes, M = tuple(range(dy.ndim - 1)), dy.size // dy.shape[-1]
    means = mean(axes, dy), mean(axes, xhat, dy)
    if ranks is None and kernels_on(dy, xhat, rstd, gamma):
        dx = kernels.normalize_dx(dy, xhat, gamma * rstd, axes)
    else:
        dx = _minus(dy, xhat, *_mean_over_ranks(ranks, *means), gamma * rstd)
    dbeta, dgamma = (m.reshape(-1) * M for m in means)
    return dx, dgamma, dbeta
