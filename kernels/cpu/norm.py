"""BatchNorm on the CPU: functions of ops/norm.py, each in two passes over the batch on all cores.

Each pass is few and long NumPy operations: a row of the image is W C numbers, the statistics are
repeated W times to match it, and sums over rows are those of sum.py. Statistics are computed in
float64.
"""

import numpy as np

from rawgan.backend import Array
from rawgan.cpu import parallel_for
from rawgan.kernels.cpu import sum as cpu_sum

EACH = 8  # every 8th row is enough for a number near the mean
ALIVE = 2  # parts are cut until this many arrays of one fit the cache


def batchnorm(
    x: Array, gamma: Array, beta: Array, eps: float
) -> tuple[Array, Array, Array, Array, Array]:
    """Return (y, xhat, rstd, mean, var): ops/norm.py's batchnorm.

    The first pass centres each part by a number near its mean; the mean of the centred values
    corrects it. The moments merge as in Chan, Golub & LeVeque 1979:

        mean_i = centre_i + E(x - centre_i),   var_i = E((x - centre_i)^2) - (mean_i - centre_i)^2
        mean = sum over parts of M_i mean_i / M
        var = sum over parts of M_i (var_i + (mean_i - mean)^2) / M
    """
    C, kept = x.shape[-1], (1,) * (x.ndim - 1) + x.shape[-1:]
    xhat, y = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)

    def centre(n: slice):
        rows, centred = as_rows(x[n]), as_rows(xhat[n])
        M, some = rows.size // C, rows[::EACH]
        near = (total(some, C) / (some.size // C)).astype(x.dtype)
        np.subtract(rows, along(near, rows), out=centred)
        rest = total(centred, C) / M
        return n, M, near, rest, np.maximum(dots(centred, centred, C) / M - rest * rest, 0)

    parts = parallel_for(x, centre, ALIVE * x[:1].nbytes)
    M = x.size // C
    mean = sum(m * (near + rest) for _, m, near, rest, _ in parts) / M
    var = sum(m * (v + (near + rest - mean) ** 2) for _, m, near, rest, v in parts) / M
    rstd = (1 / np.sqrt(var + eps)).astype(x.dtype)
    shifts = {n.start: (near - mean).astype(x.dtype) for n, _, near, _, _ in parts}

    def scale(n: slice) -> None:
        hat, out = as_rows(xhat[n]), as_rows(y[n])
        hat += along(shifts[n.start], hat)
        hat *= along(rstd, hat)
        np.multiply(hat, along(gamma, hat), out=out)
        out += along(beta, out)

    parallel_for(x, scale, ALIVE * x[:1].nbytes)
    return y, xhat, *(v.astype(x.dtype).reshape(kept) for v in (rstd, mean, var))


def batchnorm_dx(dy: Array, xhat: Array, rstd: Array, gamma: Array) -> tuple[Array, Array, Array]:
    """Return (dx, dgamma, dbeta): ops/norm.py's batchnorm_dx."""
    C, dx = dy.shape[-1], np.empty(dy.shape, dy.dtype)

    def sums(n: slice):
        rows = as_rows(dy[n])
        return dots(as_rows(xhat[n]), rows, C), total(rows, C)

    dgamma, dbeta = (
        sum(of_parts) for of_parts in zip(*parallel_for(dy, sums, ALIVE * dy[:1].nbytes))
    )
    M, factor = dy.size // C, gamma * rstd.reshape(-1)
    slope, constant = (-dgamma / M).astype(dy.dtype), (dbeta / M).astype(dy.dtype)

    def project(n: slice) -> None:
        rows, out = as_rows(dy[n]), as_rows(dx[n])
        np.multiply(as_rows(xhat[n]), along(slope, out), out=out)
        out += rows
        out -= along(constant, out)
        out *= along(factor, out)

    parallel_for(dy, project, ALIVE * dy[:1].nbytes)
    return dx, dgamma.astype(dy.dtype), dbeta.astype(dy.dtype)


def as_rows(x: Array) -> Array:
    """Return (N, H, W, C) as (N H, W C), and (N, C) as it is."""
    return x.reshape(-1, x.shape[-1] * (x.shape[-2] if x.ndim > 2 else 1))


def along(v: Array, rows: Array) -> Array:
    """Return v (C,) repeated along a row."""
    return v[None].repeat(rows.shape[1] // len(v), 0).reshape(-1)


def total(rows: Array, C: int) -> Array:
    """Return the sum of each channel, float64."""
    return cpu_sum.column_sums(rows).reshape(-1, C).sum(0)


def dots(a: Array, b: Array, C: int) -> Array:
    """Return the sum of a b for each channel, float64."""
    return cpu_sum.column_dots(a, b).reshape(-1, C).sum(0)
