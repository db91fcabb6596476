"""Convolution and transposed convolution: three contractions of one trilinear form.

    T(x, w, y) = sum over n,p,q,k,r,s,c of
                 x[n, p*stride + r - pad, q*stride + s - pad, c] * w[k,r,s,c] * y[n,p,q,k]

with x zero outside the image. conv2d = dT/dy, conv2d_dx = dT/dx (the transposed convolution),
conv2d_dw = dT/dw. Nothing is flipped, dilated or zero-inserted.

x is (N, H, W, C), w (K, R, S, C), y (N, P, Q, K). `stride` is a number or (height, width). `pad` is
a number, (height, width) or ((top, bottom), (left, right)): only top and left enter the form,
bottom and right only the size of the output.
"""

import numpy as np

from rawgan.backend import Array, array_module, kernels_on, reference_forms
from rawgan.cpu import over_batch
from rawgan.geometry import Pad, Pair, output_size, pads, pair
from rawgan.kernels import array_conv, kernels
from rawgan.kernels.cpu import conv as cpu_conv


def conv2d(x: Array, w: Array, b: Array | None = None, stride: Pair = 1, pad: Pad = 0) -> Array:
    """Slides K filters over an image: dT/dy, plus the bias.

        y[n,p,q,k] = sum over r,s,c of
                     x[n, p*stride + r - pad, q*stride + s - pad, c] w[k,r,s,c] + b[k]
        P = (H + top + bottom - R) // stride + 1

    x (N, H, W, C), w (K, R, S, C), b (K,) or None; y (N, P, Q, K). Derivatives: conv2d_dx,
    conv2d_dw, bias_db. Source: Dumoulin & Visin 2016 (arXiv:1603.07285).
    """
    if kernels_on(x, w, b):
        return kernels.conv2d(x, w, b, stride, pad)
    xp = array_module(x, w, b)
    K, R, S, C = w.shape
    (sh, sw), (ph, pw) = pair(stride), pads(pad)
    P, Q = output_size(x.shape[1], R, sh, ph), output_size(x.shape[2], S, sw, pw)
    y = xp.empty((len(x), P, Q, K), x.dtype)

    def part(n: slice) -> None:
        patches = _patches(x[n], (R, S), (P, Q), (sh, sw), (ph[0], pw[0]))
        xp.matmul(patches.reshape(-1, R * S * C), w.reshape(K, -1).T, out=y[n].reshape(-1, K))
        if b is not None:
            y[n] += b

    over_batch(xp, len(x), part, P * Q * R * S * C * x.itemsize)
    return y


def conv2d_dx(dy: Array, w: Array, size: tuple[int, int], stride: Pair = 1, pad: Pad = 0) -> Array:
    """Gradient with respect to x, and transposed convolution: dT/dx, the adjoint of conv2d.

        dx[n,h,v,c] = sum of dy[n,p,q,k] w[k,r,s,c] over the k,r,s,p,q with
                      p*stride + r - pad = h, q*stride + s - pad = v

    dy (N, P, Q, K), w (K, R, S, C); dx (N, H, W, C) with (H, W) = size. The size is an argument
    because with a stride above 1 several H give the same P. One product per tap, added where the
    tap reaches: pixels that no tap reaches stay exactly 0. Derivatives: conv2d(., w) in dy,
    conv2d_dw(., dy) in w.
    """
    if kernels_on(dy, w):
        return kernels.conv2d_dx(dy, w, size, stride, pad)
    xp = array_module(dy, w)
    if not reference_forms():
        return (cpu_conv if xp is np else array_conv).conv2d_dx(
            dy, w, tuple(size), pair(stride), pads(pad)
        )
    N, P, Q, K = dy.shape
    _, R, S, C = w.shape
    (H, W), (sh, sw), ((top, _), (left, _)) = size, pair(stride), pads(pad)
    dx = xp.empty((N, H, W, C), dy.dtype)

    def part(n: slice) -> None:
        padded = xp.zeros(
            (n.stop - n.start, max(top + H, (P - 1) * sh + R), max(left + W, (Q - 1) * sw + S), C),
            dy.dtype,
        )
        for r in range(R):
            for s in range(S):
                tap = (dy[n].reshape(-1, K) @ w[:, r, s]).reshape(-1, P, Q, C)
                padded[:, r : r + P * sh : sh, s : s + Q * sw : sw] += tap
        dx[n] = padded[:, top : top + H, left : left + W]

    over_batch(xp, N, part, 2 * H * W * C * dy.itemsize)
    return dx


def conv2d_dw(x: Array, dy: Array, kernel: Pair, stride: Pair = 1, pad: Pad = 0) -> Array:
    """Gradient with respect to w: dT/dw.

        dw[k,r,s,c] = sum over n,p,q of dy[n,p,q,k] x[n, p*stride + r - pad, q*stride + s - pad, c]

    x (N, H, W, C), dy (N, P, Q, K); dw (K, R, S, C) with (R, S) = kernel. Summed over the batch,
    not averaged.
    """
    if kernels_on(x, dy):
        return kernels.conv2d_dw(x, dy, kernel, stride, pad)
    xp = array_module(x, dy)
    (R, S), ((top, _), (left, _)) = pair(kernel), pads(pad)
    (N, P, Q, K), C = dy.shape, x.shape[3]

    def part(n: slice) -> Array:
        patches = _patches(x[n], (R, S), (P, Q), pair(stride), (top, left))
        return dy[n].reshape(-1, K).T @ patches.reshape(-1, R * S * C)

    dw, *others = over_batch(xp, N, part, P * Q * R * S * C * x.itemsize)
    for one in others:
        dw += one
    return dw.reshape(K, R, S, C)


def _patches(x: Array, kernel, output, stride, start) -> Array:
    """View of the zero-padded image as patches (N, P, Q, R, S, C).

    patches[n,p,q,r,s,c] = x[n, p*stride + r - top, q*stride + s - left, c]
    """
    xp = array_module(x)
    (R, S), (P, Q), (sh, sw), (top, left) = kernel, output, stride, start
    N, H, W, C = x.shape
    # the rows and columns that the kernel reads, without those that the stride drops
    height, width = (P - 1) * sh + R, (Q - 1) * sw + S
    if top or left or height > H or width > W:
        inside = x[:, : max(0, height - top), : max(0, width - left)]
        x = xp.zeros((N, height, width, C), x.dtype)
        x[:, top : top + inside.shape[1], left : left + inside.shape[2]] = inside
    n, h, v, c = x.strides
    return xp.lib.stride_tricks.as_strided(x, (N, P, Q, R, S, C), (n, h * sh, v * sw, h, v, c))
