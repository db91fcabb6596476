"""The convolutions through tensor descriptors: the copy engine of Hopper and later gathers, and fills in the padding's zeros.

A tile of the output is TILE_N images x TILE_P rows x TILE_Q columns of pixels. With the image seen as

    x[n, h / stride, h % stride, v / stride, (v % stride, c)]

the pixels that a tap (r, s) reaches from it are a box of the same size with a shifted corner, for p * stride + r - pad =
stride (p + (r - pad) div stride) + (r - pad) mod stride: no pointers, no masks, no im2col, nothing zero-inserted. Boxes that
stick out are zero there. The GEMMs are those of conv_pointer.py, with the weights as rows: then the tile of pixels, the larger
traffic, goes from shared memory into the tensor cores and never through registers.

For conv2d_dx the pixels with h mod stride = a are a dense convolution of dy with the taps r = (a + pad) mod stride + j stride: the
transposed convolution as stride^2 small ones.
"""

from math import prod

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.moments import store_tile

Sizes = dict[str, int]


@triton.jit
def _pixels(tile, P: tl.constexpr, Q: tl.constexpr, TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr):
    """The first image, row and column of a tile."""
    TILES_P: tl.constexpr = (P + TILE_P - 1) // TILE_P
    TILES_Q: tl.constexpr = (Q + TILE_Q - 1) // TILE_Q
    return tile // (TILES_P * TILES_Q) * TILE_N, tile // TILES_Q % TILES_P * TILE_P, tile % TILES_Q * TILE_Q


@triton.jit
def _rows(n0, p0, q0, TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr):
    """Image, row and column of every pixel of a tile."""
    offs = tl.arange(0, TILE_N * TILE_P * TILE_Q)
    return n0 + offs // (TILE_P * TILE_Q), p0 + offs // TILE_Q % TILE_P, q0 + offs % TILE_Q


@triton.jit
def _shift(tap, STRIDE: tl.constexpr, PAD: tl.constexpr):
    """(tap - PAD) div STRIDE and mod STRIDE, rounded down: Triton's own division rounds to zero."""
    SHIFT: tl.constexpr = (PAD + STRIDE - 1) // STRIDE
    up = tap + (SHIFT * STRIDE - PAD)
    return up // STRIDE - SHIFT, up % STRIDE


@triton.jit
def conv2d_box_kernel(
    x_desc, w_desc, bias_ptr, v_ptr, y_ptr, norm,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr, MOMENTUM: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    STEPS: tl.constexpr = C // BLOCK_K  # of one tap
    TILES_N: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    TILES: tl.constexpr = ((N + TILE_N - 1) // TILE_N) * ((P + TILE_P - 1) // TILE_P) * ((Q + TILE_Q - 1) // TILE_Q)
    tile = tl.program_id(0) // TILES_N
    column = tl.program_id(0) % TILES_N
    k0 = column * BLOCK_N
    n0, p0, q0 = _pixels(tile, P, Q, TILE_N, TILE_P, TILE_Q)
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for step in range(R * S * STEPS):
        tap = step // STEPS
        down, row = _shift(tap // S, STRIDE_H, TOP)
        right, column = _shift(tap % S, STRIDE_W, LEFT)
        x = x_desc.load([n0, p0 + down, row, q0 + right, column * C + step % STEPS * BLOCK_K])
        w = w_desc.load([k0, step * BLOCK_K])
        acc = tl.dot(w, tl.trans(tl.reshape(x, (BLOCK_M, BLOCK_K))), acc, input_precision=PRECISION)
    n, p, q = _rows(n0, p0, q0, TILE_N, TILE_P, TILE_Q)
    offs_n = k0 + tl.arange(0, BLOCK_N)
    mask_m = (n < N) & (p < P) & (q < Q)
    mask_n = offs_n < K
    offs = (((n * P + p) * Q + q) * K)[:, None] + offs_n[None, :]
    store_tile(
        y_ptr, tl.trans(acc), bias_ptr, v_ptr, norm, offs, mask_m, offs_n, mask_n, tile, column, TILES, K, ACT, SLOPE,
        NORM, GROUPS, COUNT, EPS, MOMENTUM,
    )  # fmt: skip


@triton.jit
def conv2d_dx_box_kernel(
    dy_desc, w_desc, bias_ptr, v_ptr, dx_ptr, norm,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr, MOMENTUM: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    CLASS_H: tl.constexpr = (H + STRIDE_H - 1) // STRIDE_H
    CLASS_W: tl.constexpr = (W + STRIDE_W - 1) // STRIDE_W
    TAPS_H: tl.constexpr = (R + STRIDE_H - 1) // STRIDE_H  # the last may lie outside w: a box of zeros
    TAPS_W: tl.constexpr = (S + STRIDE_W - 1) // STRIDE_W
    STEPS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    TILES_N: tl.constexpr = (C + BLOCK_N - 1) // BLOCK_N
    TILES_P: tl.constexpr = (CLASS_H + TILE_P - 1) // TILE_P
    TILES_Q: tl.constexpr = (CLASS_W + TILE_Q - 1) // TILE_Q
    TILES: tl.constexpr = (N + TILE_N - 1) // TILE_N * TILES_P * TILES_Q * STRIDE_H * STRIDE_W
    column = tl.program_id(0) % TILES_N
    c0 = column * BLOCK_N
    n0, i0, j0 = _pixels(tl.program_id(0) // TILES_N, CLASS_H, CLASS_W, TILE_N, TILE_P, TILE_Q)
    residue_h = tl.program_id(1) // STRIDE_W
    residue_w = tl.program_id(1) % STRIDE_W
    p0 = i0 + (residue_h + TOP) // STRIDE_H
    q0 = j0 + (residue_w + LEFT) // STRIDE_W
    first_r = (residue_h + TOP) % STRIDE_H
    first_s = (residue_w + LEFT) % STRIDE_W
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for step in range(TAPS_H * TAPS_W * STEPS):
        i = step // STEPS // TAPS_W
        j = step // STEPS % TAPS_W
        k = step % STEPS * BLOCK_K
        dy = dy_desc.load([n0, p0 - i, q0 - j, k])
        r = first_r + i * STRIDE_H
        s = first_s + j * STRIDE_W
        at = (r * S + s) * C + c0
        if R % STRIDE_H + S % STRIDE_W > 0:
            at = tl.where((r < R) & (s < S), at, R * S * C)
        w = tl.trans(w_desc.load([k, at]))
        acc = tl.dot(w, tl.trans(tl.reshape(dy, (BLOCK_M, BLOCK_K))), acc, input_precision=PRECISION)
    n, i, j = _rows(n0, i0, j0, TILE_N, TILE_P, TILE_Q)
    h = i * STRIDE_H + residue_h
    v = j * STRIDE_W + residue_w
    offs_n = c0 + tl.arange(0, BLOCK_N)
    mask_m = (n < N) & (h < H) & (v < W)
    mask_n = offs_n < C
    offs = (((n * H + h) * W + v) * C)[:, None] + offs_n[None, :]
    tile = tl.program_id(0) // TILES_N * STRIDE_H * STRIDE_W + tl.program_id(1)
    store_tile(
        dx_ptr, tl.trans(acc), bias_ptr, v_ptr, norm, offs, mask_m, offs_n, mask_n, tile, column, TILES, C, ACT, SLOPE,
        NORM, GROUPS, COUNT, EPS, MOMENTUM,
    )  # fmt: skip


@triton.jit
def conv2d_dw_box_kernel(
    x_desc, dy_desc, slices_ptr,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    STEPS: tl.constexpr, PRECISION: tl.constexpr, CONNECTED: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = R * S * C
    TILES_C: tl.constexpr = C // BLOCK_N
    TILES_N: tl.constexpr = R * S * TILES_C
    k0 = tl.program_id(0) // TILES_N * BLOCK_M
    column0 = tl.program_id(0) % TILES_N * BLOCK_N
    tap = tl.program_id(0) % TILES_N // TILES_C
    c0 = tl.program_id(0) % TILES_C * BLOCK_N
    down, row = _shift(tap // S, STRIDE_H, TOP)
    right, column = _shift(tap % S, STRIDE_W, LEFT)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        tile = tl.program_id(1) * STEPS + step
        n0, p0, q0 = _pixels(tile, P, Q, TILE_N, TILE_P, TILE_Q)
        if CONNECTED:  # a matrix, which the tensor cores take transposed from shared memory
            dy = dy_desc.load([tile * BLOCK_K, k0])
        else:
            dy = tl.reshape(dy_desc.load([n0, p0, q0, k0]), (BLOCK_K, BLOCK_M))
        x = x_desc.load([n0, p0 + down, row, q0 + right, column * C + c0])
        acc = tl.dot(tl.trans(dy), tl.reshape(x, (BLOCK_K, BLOCK_N)), acc, input_precision=PRECISION)
    offs_m = k0 + tl.arange(0, BLOCK_M)
    offs_n = column0 + tl.arange(0, BLOCK_N)
    offs = tl.program_id(1) * K * COLUMNS + offs_m[:, None] * COLUMNS + offs_n[None, :]
    tl.store(slices_ptr + offs, acc.to(slices_ptr.dtype.element_ty), mask=(offs_m < K)[:, None])


def tile_of(pixels: int, P: int, Q: int) -> Sizes:
    """So many pixels as images x rows x columns, all powers of 2."""
    q = min(triton.next_power_of_2(Q), pixels)
    p = min(triton.next_power_of_2(P), pixels // q)
    return {"TILE_N": pixels // (p * q), "TILE_P": p, "TILE_Q": q}


def tiles_of(tile: Sizes, N: int, P: int, Q: int) -> int:
    """How many tiles cover N images of P x Q pixels."""
    return prod(launch.cdiv(n, size) for n, size in zip((N, P, Q), tile.values()))


def connected(tile: Sizes, P: int, Q: int) -> bool:
    """Whether the pixels of a tile lie one after another in memory, and those of the next after them."""
    n, p, q = tile.values()
    return q == Q and (p == P or (n == 1 and P % p == 0))


def image_box(x: Array, sizes: Sizes, tile: Sizes, channels: int) -> launch.Box:
    """x in which what a tap meets of a tile is a box."""
    N, H, W, C, sh, sw = (sizes[name] for name in ("N", "H", "W", "C", "STRIDE_H", "STRIDE_W"))
    n, p, q = tile.values()
    return launch.Box(x, (N, H // sh, sh, W // sw, sw * C), (H * W * C, sh * W * C, W * C, sw * C, 1), (n, p, 1, q, channels))


def box(a: Array, *block: int) -> launch.Box:
    """An array in boxes of that many entries along each of its axes."""
    return launch.Box(a, a.shape, tuple(prod(a.shape[i + 1 :]) for i in range(a.ndim)), block)
