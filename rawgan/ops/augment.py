"""Differentiable augmentation of images: colours, translation, cutout, and their linear maps.

A sample has seven draws: b, s, c for its colours, a shift (u, v), and the centre (p, q) of a hole.
For these draws the augmentation is affine in x, and its linear part A = M S L has three factors:

    L   x -> s c x + c (1-s) E_C x + (1-c) E x     saturation s, then contrast c: self-adjoint
    S   shift by u rows and v columns, 0 comes in  adjoint: the shift by -u and -v
    M   0 in the hole around (p, q)                self-adjoint

    dx  = L S' M dy     first order; S' shifts back
    ddy = M S L ddx     second order: A once more, and no curvature

E_C is the mean over the channels of a pixel, E the mean over a sample. Brightness b, and the value
`fill` where nothing is left of the image, are constants: they are in no derivative.
"""

import numpy as np

from rawgan.backend import Array, array_module, kernels_on
from rawgan.kernels import kernels

UNIFORMS, DRAWS = 12, 7  # random numbers that a sample takes, and draws that they make
TRANSFORMS = ("color", "translation", "cutout")


def _hole(size: int) -> int:
    """Return the side of the hole in an axis of `size` pixels: half of it, rounded."""
    return (size + 1) // 2


def draw(
    uniforms: np.ndarray,
    size: tuple[int, int],
    transforms: tuple[str, ...] = TRANSFORMS,
    p: float = 1.0,
    brightness: float = 0.5,
) -> np.ndarray:
    """Return the draws b, s, c, u, v, p, q of each sample, (N, 7), from uniforms (N, 12) in [0, 1).

        b ~ brightness U(-1, 1)    s ~ U(0, 2)    c ~ U(0.5, 1.5)
        u, v whole, from -r to r, with r an eighth of size = (H, W)
        p, q whole, from 0 to H and to W, of a hole of half the side of the image

    Brightness, saturation, contrast, translation and cutout each act with probability `p`, and only
    if `transforms` has them. A draw that does not act changes no bit of an image: b = 0, s = c = 1,
    u = v = 0, and a hole outside. Sources: Zhao et al. 2020 (DiffAugment, arXiv:2006.10738) and its
    code for the ranges; Karras et al. 2020 (ADA, arXiv:2006.06676) for the probability.
    """
    of_transform = ("color", "color", "color", "translation", "cutout")
    acts = uniforms[:, :5] < np.array([p if name in transforms else 0 for name in of_transform])
    b, s, c, *places = uniforms[:, 5:].T
    draws = np.empty((len(uniforms), DRAWS))
    draws[:, 0] = np.where(acts[:, 0], brightness * (2 * b - 1), 0)
    draws[:, 1] = np.where(acts[:, 1], 2 * s, 1)
    draws[:, 2] = np.where(acts[:, 2], 0.5 + c, 1)
    for i, n in enumerate(size):
        reach, side = (n + 4) // 8, _hole(n)
        draws[:, 3 + i] = np.where(acts[:, 3], np.floor(places[i] * (2 * reach + 1)) - reach, 0)
        centres = n + 1 - side % 2  # the middle of an even hole is between two pixels
        draws[:, 5 + i] = np.where(acts[:, 4], np.floor(places[2 + i] * centres), -n)
    return draws


def color(x: Array, b: Array, s: Array, c: Array) -> Array:
    """Change brightness, then saturation, then contrast of each sample n of x (N, H, W, C).

        x1 = x + b[n]    x2 = E_C x1 + s[n] (x1 - E_C x1)    y = E x2 + c[n] (x2 - E x2)
        y  = s c x + c (1-s) E_C x + (1-c) E x + b           since E x2 = E x + b

    b, s, c (N,). With b = 0 the map is linear and self-adjoint: dx = color(dy, 0, s, c).
    Source: Zhao et al. 2020 (arXiv:2006.10738).
    """
    b, s, c = (a.reshape(-1, 1, 1, 1) for a in (b, s, c))
    of_pixel, of_image = x.mean(3, keepdims=True), x.mean((1, 2, 3), keepdims=True)
    return s * c * x + c * (1 - s) * of_pixel + ((1 - c) * of_image + b)


def translate(x: Array, u: Array, v: Array, fill: float = 0.0) -> Array:
    """Shift sample n of x (N, H, W, C) by u[n] rows and v[n] columns; u and v (N,) of integers.

        y[n,i,j] = x[n, i - u[n], j - v[n]],  `fill` where that lies outside

    The adjoint of its linear part is the shift back: dx = translate(dy, -u, -v). Source: Zhao et
    al. 2020 (arXiv:2006.10738).
    """
    xp = array_module(x, u, v)
    N, H, W, _ = x.shape
    rows = (xp.arange(H) - u[:, None])[:, :, None]
    columns = (xp.arange(W) - v[:, None])[:, None, :]
    inside = (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
    samples = xp.arange(N)[:, None, None]
    y = x[samples, rows.clip(0, H - 1), columns.clip(0, W - 1)]
    return xp.where(inside[..., None], y, x.dtype.type(fill))


def cutout(x: Array, p: Array, q: Array, fill: float = 0.0) -> Array:
    """Cut a hole into each sample of x (N, H, W, C), with its centre (p[n], q[n]); p and q (N,).

        y[n,i,j] = fill where -a <= i - p[n] < h - a,  h = (H + 1) // 2, a = h // 2, and as well
                   in j;  x[n,i,j] elsewhere

    The linear part multiplies by 0 or 1: dx = cutout(dy, p, q). Sources: DeVries & Taylor 2017
    (arXiv:1708.04552); Zhao et al. 2020 (arXiv:2006.10738).
    """
    xp = array_module(x, p, q)

    def within(size: int, centre: Array) -> Array:
        side = _hole(size)
        offset = xp.arange(size) - centre[:, None] + side // 2
        return (offset >= 0) & (offset < side)

    _, H, W, _ = x.shape
    in_hole = within(H, p)[:, :, None] & within(W, q)[:, None, :]
    return xp.where(in_hole[..., None], x.dtype.type(fill), x)


def augment(x: Array, draws: Array, fill: float = 0.0) -> Array:
    """Colour, then translation, then cutout, by draws (N, 7): x and y (N, H, W, C).

        y = A x + constant,  A = M S L;  `fill` is what comes in, and what is in the hole

    Derivatives: augment_dx, augment_ddy. Source: Zhao et al. 2020 (arXiv:2006.10738).
    """
    if kernels_on(x, draws):
        return kernels.augment(x, draws, fill)
    u, v, p, q = _whole(draws)
    return cutout(translate(color(x, *draws[:, :3].T), u, v, fill), p, q, fill)


def augment_dx(dy: Array, draws: Array) -> Array:
    """dx = L S' M dy, the adjoint of augment's linear part: dy and dx (N, H, W, C)."""
    if kernels_on(dy, draws):
        return kernels.augment_dx(dy, draws)
    u, v, p, q = _whole(draws)
    b, s, c = draws[:, :3].T
    return color(translate(cutout(dy, p, q), -u, -v), 0 * b, s, c)


def augment_ddy(ddx: Array, draws: Array) -> Array:
    """ddy = M S L ddx, augment's linear part and the adjoint of augment_dx: both (N, H, W, C)."""
    if kernels_on(ddx, draws):
        return kernels.augment_ddy(ddx, draws)
    u, v, p, q = _whole(draws)
    b, s, c = draws[:, :3].T
    return cutout(translate(color(ddx, 0 * b, s, c), u, v), p, q)


def _whole(draws: Array) -> Array:
    """Return the shift and the centre of the hole, u, v, p, q = (4, N) integers of draws (N, 7)."""
    return draws[:, 3:].T.astype("int64")
