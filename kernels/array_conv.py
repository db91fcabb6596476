"""The transposed convolution in few array operations: with CuPy, each of them is a launch.

The formula of ops/conv.py has a GEMM, a strided sum and their copies for each tap. Here each
residue class of pixels, which depend on the same taps, has one GEMM: s^2 of them with stride s.
"""

from rawgan.backend import Array, array_module
from rawgan.kernels.cpu.conv import phases


def conv2d_dx(dy: Array, w: Array, size, stride, pad) -> Array:
    """Return ops/conv.py's conv2d_dx; stride (height, width), pad ((top, bottom), (left, right)).

    dx[n, i*sh + a, j*sw + b, c] = sum over u,v,k of dy[n, i+first_a+u, j+first_b+v, k] w[k,
    rows_a[u], columns_b[v], c]
    """
    xp, (N, P, Q, K), (_, R, S, C) = array_module(dy, w), dy.shape, w.shape
    (H, W), (sh, sw), ((top, bottom), (left, right)) = size, stride, pad
    if (
        (P, Q) == (1, 1) and size == (R, S) and not any((top, bottom, left, right))
    ):  # one pixel that grows to a whole kernel
        return (dy.reshape(N, -1) @ w.reshape(K, -1)).reshape(N, R, S, C)
    rows, columns = phases(H, R, sh, top), phases(W, S, sw, left)
    (above, below), (before, after) = margins(rows, P), margins(columns, Q)
    padded = dy
    if any((above, below, before, after)):
        padded = xp.zeros((N, above + P + below, before + Q + after, K), dy.dtype)
        padded[:, above : above + P, before : before + Q] = dy
    dx = (xp.empty if len(rows) == min(sh, H) and len(columns) == min(sw, W) else xp.zeros)(
        (N, H, W, C), dy.dtype
    )
    n, h, v, k = padded.strides
    for a, height, taps_r, first_r in rows:
        for b, width, taps_s, first_s in columns:
            start = padded[:, above + first_r :, before + first_s :]
            shape = (N, height, width, len(taps_r), len(taps_s), K)
            patches = xp.lib.stride_tricks.as_strided(start, shape, (n, h, v, h, v, k)).reshape(
                N * height * width, -1
            )
            weight = (
                w[:, descending(taps_r, sh), descending(taps_s, sw)]
                .transpose(1, 2, 0, 3)
                .reshape(-1, C)
            )
            dx[:, a::sh, b::sw] = (patches @ weight).reshape(N, height, width, C)
    return dx


def margins(classes, P: int) -> tuple[int, int]:
    """Return the zeros that the classes of pixels need before and after the P rows of dy."""
    before = max([0, *(-first for *_, first in classes)])
    return before, max([0, *(first + m + len(taps) - 1 - P for _, m, taps, first in classes)])


def descending(taps: list[int], step: int) -> slice:
    """Return the taps, from the last to the first in steps of `step`, as a slice: no copy."""
    stop = taps[-1] - step
    return slice(taps[0], stop if stop >= 0 else None, -step)
