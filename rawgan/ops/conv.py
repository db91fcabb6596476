"""Convolution and transposed convolution: three contractions of one trilinear form.

    T(x, w, y) = sum over n,p,q,k,r,s,c of  x[n, p*stride + r - pad, q*stride + s - pad, c] * w[k,r,s,c] * y[n,p,q,k]

with x zero outside the image. conv2d = dT/dy, conv2d_dx = dT/dx (the transposed convolution), conv2d_dw = dT/dw.
Nothing is flipped, dilated or zero-inserted.

x is (N, H, W, C), w (K, R, S, C), y (N, P, Q, K). `stride` is a number or (height, width). `pad` is a number, (height, width)
or ((top, bottom), (left, right)): only top and left enter the form, bottom and right only the size of the output.
"""

from rawgan.backend import Array, array_module, fast_on, kernels_on, over_batch
from rawgan.kernels import cpu_conv, kernels

Pair = int | tuple[int, int]
Pad = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]


def pair(v: Pair) -> tuple[int, int]:
    """(v, v) for a number, else the two numbers given."""
    return (v, v) if isinstance(v, int) else tuple(v)


def pads(pad: Pad) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) from any of the three ways to write a padding."""
    vertical, horizontal = pair(pad)
    return pair(vertical), pair(horizontal)


def output_size(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    """How often the kernel fits along one axis: P = floor((H + before + after - R) / stride) + 1."""
    return (size + sum(pad) - kernel) // stride + 1


def same_pad(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The padding along one axis for which P = ceil(H / stride): the "same" of Keras.

        total = max((P - 1) stride + R - H, 0),  before = floor(total / 2),  after = total - before

    Asymmetric when the total is odd: 5 taps at stride 2 on 28 pixels pad 1 before and 2 after.
    Source: the TensorFlow guide's notes on padding.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv2d(x: Array, w: Array, b: Array | None = None, stride: Pair = 1, pad: Pad = 0) -> Array:
    """Slides K filters over an image: dT/dy, plus the bias.

        y[n,p,q,k] = sum over r,s,c of x[n, p*stride + r - pad, q*stride + s - pad, c] w[k,r,s,c] + b[k]

    x (N, H, W, C), w (K, R, S, C), b (K,) or None; y (N, P, Q, K), P = (H + top + bottom - R) // stride + 1.
    Derivatives: conv2d_dx, conv2d_dw, bias_db. Source: Dumoulin & Visin 2016 (arXiv:1603.07285).
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
    """The gradient with respect to x, and the transposed convolution: dT/dx, the adjoint of conv2d.

        dx[n,h,v,c] = sum over the k,r,s,p,q with p*stride + r - pad = h, q*stride + s - pad = v of dy[n,p,q,k] w[k,r,s,c]

    dy (N, P, Q, K), w (K, R, S, C); dx (N, H, W, C) with (H, W) = size. The size is asked for, because a stride above 1 drops
    rows and several H give the same P. One product per tap, added where the tap reaches: pixels no tap reaches stay exactly 0.
    Derivatives: conv2d(., w) in dy, conv2d_dw(., dy) in w.
    """
    if kernels_on(dy, w):
        return kernels.conv2d_dx(dy, w, size, stride, pad)
    if fast_on(dy, w):
        return cpu_conv.conv2d_dx(dy, w, size, pair(stride), pads(pad))
    xp = array_module(dy, w)
    N, P, Q, K = dy.shape
    _, R, S, C = w.shape
    (H, W), (sh, sw), ((top, _), (left, _)) = size, pair(stride), pads(pad)
    dx = xp.empty((N, H, W, C), dy.dtype)

    def part(n: slice) -> None:
        padded = xp.zeros((n.stop - n.start, max(top + H, (P - 1) * sh + R), max(left + W, (Q - 1) * sw + S), C), dy.dtype)
        for r in range(R):
            for s in range(S):
                tap = (dy[n].reshape(-1, K) @ w[:, r, s]).reshape(-1, P, Q, C)
                padded[:, r : r + P * sh : sh, s : s + Q * sw : sw] += tap
        dx[n] = padded[:, top : top + H, left : left + W]

    over_batch(xp, N, part, 2 * H * W * C * dy.itemsize)
    return dx


def conv2d_dw(x: Array, dy: Array, kernel: Pair, stride: Pair = 1, pad: Pad = 0) -> Array:
    """The gradient with respect to w: dT/dw.

        dw[k,r,s,c] = sum over n,p,q of dy[n,p,q,k] x[n, p*stride + r - pad, q*stride + s - pad, c]

    x (N, H, W, C), dy (N, P, Q, K); dw (K, R, S, C) with (R, S) = kernel. Summed over the batch, not averaged.
    """
    if kernels_on(x, dy):
        return kernels.conv2d_dw(x, dy, kernel, stride, pad)
    xp = array_module(x, dy)
    (R, S), ((top, _), (left, _)) = pair(kernel), pads(pad)
    (N, P, Q, K), C = dy.shape, x.shape[3]

    def part(n: slice) -> Array:
        patches = _patches(x[n], (R, S), (P, Q), pair(stride), (top, left))
        return dy[n].reshape(-1, K).T @ patches.reshape(-1, R * S * C)

    dw, *more = over_batch(xp, N, part, P * Q * R * S * C * x.itemsize)
    for one in more:
        dw += one
    return dw.reshape(K, R, S, C)


def _patches(x: Array, kernel, output, stride, start) -> Array:
    """A view of the zero-padded image in which patches[n,p,q,r,s,c] = x[n, p*stride + r - top, q*stride + s - left, c]."""
    xp = array_module(x)
    (R, S), (P, Q), (sh, sw), (top, left) = kernel, output, stride, start
    N, H, W, C = x.shape
    height, width = (P - 1) * sh + R, (Q - 1) * sw + S  # what the kernel touches: rows a stride drops lie outside it
    if top or left or height > H or width > W:
        inside = x[:, : max(0, height - top), : max(0, width - left)]
        x = xp.zeros((N, height, width, C), x.dtype)
        x[:, top : top + inside.shape[1], left : left + inside.shape[2]] = inside
    n, h, v, c = x.strides
    return xp.lib.stride_tricks.as_strided(x, (N, P, Q, R, S, C), (n, h * sh, v * sw, h, v, c))
