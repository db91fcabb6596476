"""The transposed convolution on the CPU: the map of ops/conv.py in the forms that are fast in NumPy.

The product of matrices takes most of the time in any form; what differs is how much is copied around it. Tap by tap, every tap is a
product of its own and a strided sum over the whole image. Here one product has all taps of a column of the kernel (`by_columns`),
or, where the image has few channels, all taps at once (`by_planes`).
"""

import numpy as np

from rawgan.backend import Array, over_batch

THIN = 8  # channels below which a pixel is too short a run to add up by itself


def conv2d_dx(dy: Array, w: Array, size, stride, pad) -> Array:
    """ops/conv.py's conv2d_dx of NumPy arrays; stride (height, width), pad ((top, bottom), (left, right))."""
    if dy.shape[1:3] == (1, 1) and size == w.shape[1:3] and not any(map(any, pad)):  # one pixel that grows to a whole kernel
        return (dy.reshape(len(dy), -1) @ w.reshape(len(w), -1)).reshape(len(dy), *w.shape[1:])
    return (by_planes if w.shape[3] < THIN else by_columns)(dy, w, size, stride, (pad[0][0], pad[1][0]))


def phases(width: int, S: int, sw: int, left: int) -> list[tuple[int, int, list[int], int]]:
    """(b, m, taps, first) for each class of columns v = j sw + b, j < m, that are reached by the same taps of the kernel.

    The taps come from the last to the first: taps[i] reaches column j from column q = j + first + i of dy.
    """
    found = []
    for b in range(min(sw, width)):
        taps = [s for s in range(S) if (b + left - s) % sw == 0][::-1]
        if taps:
            found.append((b, len(range(b, width, sw)), taps, (b + left - taps[0]) // sw))
    return found


def by_columns(dy: Array, w: Array, size, stride, start) -> Array:
    """Gathers dy along its width alone, multiplies once per class of columns, and adds the rows of the kernel up:

    t[n,p,j,r,c] = sum over s,k of dy[n,p,j+first+i,k] w[k,r,s,c],  s = taps[i]
    dx[n,h,j*sw+b,c] = sum over the r,p with p*sh + r - top = h of t[n,p,j,r,c]
    """
    (N, P, Q, K), (_, R, S, C), (H, W), (sh, sw), (top, left) = dy.shape, w.shape, size, stride, start
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
            shape = (len(padded), P, m, len(taps) * K)  # neighbours of one row lie side by side in memory: a run each
            runs = np.lib.stride_tricks.as_strided(padded[:, :, before + first :], shape, padded.strides)
            t = (runs.reshape(-1, len(taps) * K) @ weight).reshape(-1, P, m, R, C)
            for r, rows, ps in reach:
                image[:, rows, b::sw] += t[:, ps, :, r]

    widest = max((m * (len(taps) * K + R * C) for _, m, taps, _ in classes), default=0)
    over_batch(np, N, part, P * widest * dy.itemsize)
    return dx


def reached(H: int, P: int, shift: int, sh: int) -> tuple[slice, slice]:
    """The rows h = p sh + shift that lie in the image, as one slice of h and one of p."""
    first = max(0, -(shift // sh))
    stop = max(first, min(P, (H - 1 - shift) // sh + 1))
    h = first * sh + shift
    return slice(h, h + (stop - first) * sh, sh) if stop > first else slice(0, 0), slice(first, stop)


def by_planes(dy: Array, w: Array, size, stride, start) -> Array:
    """One product for all taps, each channel of each tap a plane of its own; planes of one class of pixels are added where they
    lie, and the classes interleaved at the end:

        t[r,s,c,n,p,q] = sum over k of w[k,r,s,c] dy[n,p,q,k]
        sums[r % sh, s % sw, c, n, p + r // sh, q + s // sw] += t[r,s,c,n,p,q]
    """
    (N, P, Q, K), (_, R, S, C), (H, W), (sh, sw), (top, left) = dy.shape, w.shape, size, stride, start
    height, width = (-(-max(p + n, (m - 1) * s + k) // s) for p, n, m, s, k in ((top, H, P, sh, R), (left, W, Q, sw, S)))
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
