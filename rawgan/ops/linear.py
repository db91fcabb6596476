"""The linear map: three contractions of T(x, w, y) = sum over n,k,c of x[n,c] w[k,c] y[n,k]."""

from rawgan.backend import Array, array_module, kernels_on, use_fast_cpu
from rawgan.kernels import kernels
from rawgan.kernels.cpu import sum as cpu_sum


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """Apply one matrix to every row: dT/dy, plus the bias.

        y[n,k] = sum over c of x[n,c] w[k,c] + b[k]

    x (N, C), w (K, C), b (K,) or None; y (N, K). Derivatives: linear_dx, linear_dw, bias_db.
    """
    if kernels_on(x, w, b):
        return kernels.linear(x, w, b)
    array_module(x, w, b)
    y = x @ w.T
    if b is not None:
        y += b
    return y


def linear_dx(dy: Array, w: Array) -> Array:
    """Gradient with respect to x: dT/dx.

        dx[n,c] = sum over k of dy[n,k] w[k,c]

    dy (N, K), w (K, C); dx (N, C). Derivatives: linear(., w) in dy, linear_dw(., dy) in w.
    """
    if kernels_on(dy, w):
        return kernels.linear_dx(dy, w)
    array_module(dy, w)
    return dy @ w


def linear_dw(x: Array, dy: Array) -> Array:
    """Gradient with respect to w: dT/dw.

        dw[k,c] = sum over n of dy[n,k] x[n,c]

    x (N, C), dy (N, K); dw (K, C). Summed over the batch, not averaged: the 1/N is in the loss.
    """
    if kernels_on(x, dy):
        return kernels.linear_dw(x, dy)
    array_module(x, dy)
    return dy.T @ x


def bias_db(dy: Array) -> Array:
    """Gradient with respect to a bias that is added along the last axis.

        db[k] = sum over all other axes of dy[..., k]

    dy (..., K); db (K,). Summed in float64: one long sum in float32 loses digits as it grows.
    """
    if kernels_on(dy):
        return kernels.bias_db(dy)
    rows = dy.reshape(-1, dy.shape[-1])
    return (cpu_sum.column_sums(rows) if use_fast_cpu(dy) else rows.sum(0, "float64")).astype(
        dy.dtype
    )
