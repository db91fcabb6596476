"""BatchNorm on the CPU: the maps of ops/norm.py in two passes over the batch each, shared out over the cores.

Each pass asks NumPy for as few and as long operations as it can: a row of the image is W C numbers, statistics are repeated W times
to meet it, and sums over rows are products with a row of ones, which BLAS computes faster than a reduction.
"""

import numpy as np

from rawgan.backend import Array, shared

ALIVE = 2  # parts are cut until this many arrays of one fit the cache


def batchnorm(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array, Array, Array]:
    """ops/norm.py's batchnorm of NumPy arrays: (y, xhat, rstd, mean, var).

    The first pass centres each part by its own mean; the moments merge as Chan, Golub & LeVeque's (1979):

        mean = sum over parts of M_i mean_i / M,   var = sum over parts of (M2_i + M_i (mean_i - mean)^2) / M
    """
    C, kept = x.shape[-1], (1,) * (x.ndim - 1) + x.shape[-1:]
    xhat, y = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)

    def centre(n: slice):
        rows, centred = as_rows(x[n]), as_rows(xhat[n])
        M = rows.size // C
        mean = total(rows, C) / M
        np.subtract(rows, along(mean, rows), out=centred)
        return n, M, mean, squares(centred, centred, C)

    parts = shared(x, centre, ALIVE * x[:1].nbytes)
    M = x.size // C
    mean = sum(m * mean for _, m, mean, _ in parts) / x.dtype.type(M)
    var = sum(m2 + m * (own - mean) ** 2 for _, m, own, m2 in parts) / x.dtype.type(M)
    rstd = 1 / np.sqrt(var + x.dtype.type(eps))
    means = {n.start: own for n, _, own, _ in parts}

    def scale(n: slice) -> None:
        hat, out = as_rows(xhat[n]), as_rows(y[n])
        hat += along(means[n.start] - mean, hat)
        hat *= along(rstd, hat)
        np.multiply(hat, along(gamma, hat), out=out)
        out += along(beta, out)

    shared(x, scale, ALIVE * x[:1].nbytes)
    return y, xhat, rstd.reshape(kept), mean.reshape(kept), var.reshape(kept)


def batchnorm_dx(dy: Array, xhat: Array, rstd: Array, gamma: Array) -> tuple[Array, Array, Array]:
    """ops/norm.py's batchnorm_dx of NumPy arrays: (dx, dgamma, dbeta)."""
    C, dx = dy.shape[-1], np.empty(dy.shape, dy.dtype)

    def sums(n: slice):
        rows = as_rows(dy[n])
        return squares(as_rows(xhat[n]), rows, C), total(rows, C)

    dgamma, dbeta = (sum(of_parts) for of_parts in zip(*shared(dy, sums, ALIVE * dy[:1].nbytes)))
    M, factor = dy.dtype.type(dy.size // C), gamma * rstd.reshape(-1)

    def project(n: slice) -> None:
        rows, out = as_rows(dy[n]), as_rows(dx[n])
        np.multiply(as_rows(xhat[n]), along(-dgamma / M, out), out=out)
        out += rows
        out -= along(dbeta / M, out)
        out *= along(factor, out)

    shared(dy, project, ALIVE * dy[:1].nbytes)
    return dx, dgamma, dbeta


def as_rows(x: Array) -> Array:
    """(N, H, W, C) as (N H, W C); (N, C) as it is."""
    return x.reshape(-1, x.shape[-1] * (x.shape[-2] if x.ndim > 2 else 1))


def along(v: Array, rows: Array) -> Array:
    """A number for each channel, repeated along a row."""
    return v[None].repeat(rows.shape[1] // len(v), 0).reshape(-1)


def total(rows: Array, C: int) -> Array:
    """The sum of each channel."""
    return (np.ones(len(rows), rows.dtype) @ rows).reshape(-1, C).sum(0)


def squares(a: Array, b: Array, C: int) -> Array:
    """The sum of a b for each channel."""
    return np.einsum("rc,rc->c", a, b).reshape(-1, C).sum(0)
