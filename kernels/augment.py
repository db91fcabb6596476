"""Differentiable augmentation of images: colours, translation and cutout in one launch.

The mathematics is in rawgan/ops/augment.py. For a sample's draws b, s, c, u, v, p, q:

    augment       y = M S L x + constant
    augment_ddy   M S L ddx
    augment_dx    L S' M dy, the adjoint

A program computes one sample, and goes through its pixels twice: once for the mean over the sample,
which contrast needs, once for the result. A pixel that lies outside or in the hole is not read.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.epilogue import load_f32

TILE = 1024  # values of a program's step through its pixels
NUM_WARPS = 4


@triton.jit
def _in_hole(i, centre, SIZE: tl.constexpr):
    """Whether row or column i lies in the hole around centre: half of SIZE, rounded up."""
    SIDE: tl.constexpr = (SIZE + 1) // 2
    offset = i - centre + SIDE // 2
    return (offset >= 0) & (offset < SIDE)


@triton.jit
def _source(pixel, u, v, p, q, H: tl.constexpr, W: tl.constexpr, ADJOINT: tl.constexpr):
    """Return the pixel that each pixel of the result is of, and whether it is seen there.

    Forward: pixel - (u, v), unless the result lies in the hole. Adjoint: pixel + (u, v), unless
    that lies in the hole.
    """
    row = pixel // W
    column = pixel % W
    if ADJOINT:
        i = row + u
        j = column + v
        hidden = _in_hole(i, p, H) & _in_hole(j, q, W)
    else:
        i = row - u
        j = column - v
        hidden = _in_hole(row, p, H) & _in_hole(column, q, W)
    inside = (pixel < H * W) & (i >= 0) & (i < H) & (j >= 0) & (j < W)
    return i * W + j, inside & (hidden == 0)


@triton.jit
def augment_kernel(
    x_ptr, draws_ptr, out_ptr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    BRIGHTNESS: tl.constexpr, FILL: tl.constexpr, ADJOINT: tl.constexpr, BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out = M S L x + constant of sample n, with ADJOINT L S' M x. x and out (N, H, W, C).

        L x = s c x + c (1-s) E_C x + (1-c) E x

    Tile: BLOCK pixels x CHANNELS, C rounded up to a power of 2, of one sample. BRIGHTNESS: add b to
    what is seen. FILL stands elsewhere in out.
    """
    wait_for_previous_kernel(PDL)
    # Draws of sample n
    n = tl.program_id(0)
    s = tl.load(draws_ptr + n * 7 + 1).to(tl.float32)
    c = tl.load(draws_ptr + n * 7 + 2).to(tl.float32)
    u = tl.load(draws_ptr + n * 7 + 3).to(tl.int32)
    v = tl.load(draws_ptr + n * 7 + 4).to(tl.int32)
    p = tl.load(draws_ptr + n * 7 + 5).to(tl.int32)
    q = tl.load(draws_ptr + n * 7 + 6).to(tl.int32)
    lane = tl.arange(0, BLOCK)
    channel = tl.arange(0, CHANNELS)
    image_ptr = x_ptr + n * (H * W * C)

    # Mean over the sample: of x, or in the adjoint of what is seen of x
    total = tl.zeros((BLOCK, CHANNELS), tl.float32)
    for first in range(0, H * W, BLOCK):
        if ADJOINT:
            of_mean, in_mean = _source(first + lane, u, v, p, q, H, W, ADJOINT)
        else:
            of_mean = first + lane
            in_mean = of_mean < H * W
        mean_mask = in_mean[:, None] & (channel < C)[None, :]
        total += load_f32(image_ptr, of_mean[:, None] * C + channel[None, :], mean_mask)
    constant = (1.0 - c) * (tl.sum(tl.sum(total, 1), 0) * (1.0 / (H * W * C)))
    if BRIGHTNESS:
        constant += tl.load(draws_ptr + n * 7).to(tl.float32)

    # Colours of the pixels that are seen
    for start in range(0, H * W, BLOCK):
        pixel = start + lane
        source, seen = _source(pixel, u, v, p, q, H, W, ADJOINT)
        mask = seen[:, None] & (channel < C)[None, :]
        x = load_f32(image_ptr, source[:, None] * C + channel[None, :], mask)
        of_pixel = tl.sum(x, 1) * (1.0 / C)
        out = s * c * x + (c * (1.0 - s) * of_pixel + constant)[:, None]
        if not ADJOINT:
            out = tl.where(seen[:, None], out, FILL)
        stored = (pixel < H * W)[:, None] & (channel < C)[None, :]
        offs = n * (H * W * C) + pixel[:, None] * C + channel[None, :]
        tl.store(out_ptr + offs, out.to(out_ptr.dtype.element_ty), mask=stored)


def _run(x: Array, draws: Array, fill: float, brightness: bool, adjoint: bool) -> Array:
    """Launch augment_kernel and return its output, an array like x."""
    N, H, W, C = x.shape
    launch.require_shapes((N, 7), draws)
    out = launch.empty(x, x.shape)
    channels = triton.next_power_of_2(C)
    constants = {"H": H, "W": W, "C": C, "BRIGHTNESS": brightness, "FILL": float(fill)}
    constants |= {"ADJOINT": adjoint, "BLOCK": max(TILE // channels, 1), "CHANNELS": channels}
    launch.run(augment_kernel, (N,), x, draws, out, **constants, num_warps=NUM_WARPS)
    return out


def augment(x: Array, draws: Array, fill: float = 0.0) -> Array:
    """Return x (N, H, W, C) augmented by draws (N, 7); `fill` is where nothing is left of it."""
    return _run(x, draws, fill, brightness=True, adjoint=False)


def augment_dx(dy: Array, draws: Array) -> Array:
    """Return dx of augment: the adjoint of its linear part."""
    return _run(dy, draws, 0.0, brightness=False, adjoint=True)


def augment_ddy(ddx: Array, draws: Array) -> Array:
    """Return ddy of augment: its linear part."""
    return _run(ddx, draws, 0.0, brightness=False, adjoint=False)
