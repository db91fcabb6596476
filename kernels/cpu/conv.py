"""The transposed convolution on the CPU: conv2d_dx of ops/conv.py, fast in NumPy.

The GEMM takes most of the time in any case; the copies around it differ. The formula of ops/conv.py
has one GEMM and one strided sum over the whole image for each tap. Here one GEMM computes all taps
of a column of the kernel (`by_columns`), or, where the image has few channels, all taps
(`by_planes`).
"""

import numpy as np

from rawgan.backend import Array
from rawgan.cpu import over_batch

SMALL_C = 8  # with fewer channels a pixel is too short a run of memory to be added by itself


def conv2d_dx(dy: Array, w: Array, size, stride, pad) -> Array:
    """Return ops/conv.py's conv2d_dx; stride (sh, sw), pad ((top, bottom), (left, right))."""
    if (
        dy.shape[1:3] == (1, 1) and size == w.shape[1:3] and not any(map(any, pad))
    ):  # one pixel that grows to a whole kernel
        return (dy.reshape(len(dy), -1) @ w.reshape(len(w), -1)).reshape(len(dy), *w.shape[1:])
    return (by_planes if w.shape[3] < SMALL_C else by_columns)(
        dy, w, size, stride, (pad[0][0], pad[1][0])
    )


def phases(width: int, S: int, sw: int, left: int) -> list[tuple[int, int, list[int], int]]:
    """Return (b, m, taps, first) for each residue class of columns v = j sw + b, j < m.

    The columns of a class depend on the same taps, which are listed from the last to the first:
    taps[i] reaches column j from column q = j + first + i of dy.
    """
    classes = []
    for b in range(min(sw, width)):
        taps = [s for s in range(S) if (b + left - s) % sw == 0][::-1]
        if taps:
            classes.append((b, len(range(b, width, sw)), taps, (b + left - taps[0]) // sw))
    return classes


def by_columns(dy: Array, w: Array, size, stride, start) -> Array:
    """conv2d_dx by one GEMM for each residue class of columns; rows of the kernel are added then.

    t[n,p,j,r,c] = sum over s,k of dy[n,p,j+first+i,k] w[k,r,s,c],  s = taps[i]
    dx[n,h,j*sw+b,c] = sum over the r,p with p*sh + r - top = h of t[n,p,j,r,c]
    """
    (N, P, Q, K), (_, R, S, C), (H, W), (sh, sw), (top, left) = (
        dy.shape,
        w.shape,
        size,
        stride,
        start,
    )
    classes = phases(W, S, sw, left)
    weights = [w[:, :, taps].transpose(2, 0, 1, 3).reshape(-1, R * C) for _, _, taps, _ in classes]
    before = max([0, *(-first for *_, first in classes)])
    after = max([0, *(first + m + len(taps) - 1 - Q for _, m, taps, first in classes)])
    reach = [(r, *reached(H, P, r - top, sh)) for r in range(R)]
    dx = np.empty((N, H, W, C), dy.dtype)

    def part(n: slice) -> None:
        padded = np.zeros((n.stop - n.start, P, before + Q + after, K), dy.dtype)
        padded[:, :, before : before + Q] = dy[n]
        image = dx[n]
        image[...] = 0
        for (b, m, taps, first), weight in zip(classes, weights):
            # Neighbours in a row are contiguous in memory: one run for all taps of a column
            shape = (len(padded), P, m, len(taps) * K)
            runs = np.lib.stride_tricks.as_strided(
                padded[:, :, before + first :], shape, padded.strides
            )
            t = (runs.reshape(-1, len(taps) * K) @ weight).reshape(-1, P, m, R, C)
            for r, rows, ps in reach:
                image[:, rows, b::sw] += t[:, ps, :, r]

    widest = max((m * (len(taps) * K + R * C) for _, m, taps, _ in classes), default=0)
    over_batch(np, N, part, P * widest * dy.itemsize)
    return dx


def reached(H: int, P: int, shift: int, sh: int) -> tuple[slice, slice]:
    """Return the rows h = p sh + shift inside the image, as a slice of h and one of p."""
    first = max(0, -(shift // sh))
    stop = max(first, min(P, (H - 1 - shift) // sh + 1))
    h = first * sh + shift
    return slice(h, h + (stop - first) * sh, sh) if stop > first else slice(0, 0), slice(
        first, stop
    )


def by_planes(dy: Array, w: Array, size, stride, start) -> Array:
    """conv2d_dx by one GEMM for all taps, whose output is a plane for each channel of each tap.

    The planes of a residue class of pixels are added, and the classes interleaved at the end:

        t[r,s,c,n,p,q] = sum over k of w[k,r,s,c] dy[n,p,q,k]
        sums[r % sh, s % sw, c, n, p + r // sh, q + s // sw] += t[r,s,c,n,p,q]
    """
    (N, P, Q, K), (_, R, S, C), (H, W), (sh, sw), (top, left) = (
        dy.shape,
        w.shape,
        size,
        stride,
        start,
    )
    height, width = (
        -(-max(p + n, (m - 1) * s + k) // s)
        for p, n, m, s, k in ((top, H, P, sh, R), (left, W, Q, sw, S))
    )
    dx = np.empty((N, H, W, C), dy.dtype)

    def part(n: slice) -> None:
        M = n.stop - n.start
        t = (w.reshape(K, -1).T @ dy[n].reshape(-1, K).T).reshape(R, S, C, M, P, Q)
        sums = np.zeros((sh, sw, C, M, height, width), dy.dtype)
        for r, s in np.ndindex(R, S):
            sums[r % sh, s % sw, :, :, r // sh : r // sh + P, s // sw : s // sw + Q] += t[r, s]
        image = sums.transpose(3, 4, 0, 5, 1, 2).reshape(M, height * sh, width * sw, C)
        dx[n] = image[:, top : top + H, left : left + W]

    over_batch(np, N, part, (R * S * C * P * Q + 2 * height * sh * width * sw * C) * dy.itemsize)
    return dx
