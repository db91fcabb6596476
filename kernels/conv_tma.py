"""Convolutions as implicit GEMMs whose operands are copied by TMA: Hopper and later GPUs.

    GEMM        rows M                    columns N     sum over K    A                  B
    conv2d      pixels n,p,q of y         filters k     r,s,c         x, tiles           w
    conv2d_dx   pixels n,h,v of x, one    channels c    taps, k       dy, tiles          w
                residue class at a time
    conv2d_dw   filters k                 r,s,c         pixels        dy                 x, tiles

The GEMMs are those of conv_pointer.py; the wrappers and the choice between the two are in conv.py.

BLOCK_M pixels (of conv2d_dw BLOCK_K) are TILE_N images x TILE_P rows x TILE_Q columns. The x of
conv2d and conv2d_dw is viewed as

    x[n, h // stride, h % stride, v // stride, (v % stride, c)]

In this view each filter tap (r, s) reads one TMA tile of that size, with a shifted corner:
p stride + r - pad = stride (p + (r - pad) div stride) + (r - pad) mod stride. The residue of the
column is folded into the channels because a tensor descriptor has at most five axes. TMA fills what
lies outside the image with 0, the padding: there are no pointers, masks or im2col in the main loop.
What the sizes have to be:

    conv2d      stride divides H and W    C a multiple of BLOCK_K
                                          K values a multiple of 16 bytes
    conv2d_dx   stride divides H and W    K a multiple of BLOCK_K, C of BLOCK_N
    conv2d_dw   stride divides H and W    C a multiple of BLOCK_N, K values a multiple of 16 bytes

BLOCK_K is 64 in bfloat16 and 32 in float32: 128 bytes, the widest swizzle of a TMA tile in shared
memory.

The accumulator of conv2d and conv2d_dx is transposed, (BLOCK_N, BLOCK_M), but for three products
(tf32x3, bf16x3) on sm_90: so the tile of pixels is the B operand of wgmma, which is read from
shared memory. As the A operand Triton 3.9 loads it into registers in every step: 106 registers and
112 instructions, where the transposed one has 90 and 86 (conv2d in 128 x 128 tiles, bfloat16,
sm_90). Of three products the pixels go through registers in both layouts, to be split. As the
output, a 128 x 64 tile of conv2d has 329 instructions a step instead of 539 in tf32x3 and 217
instead of 335 in bf16x3 (of two stages), of conv2d_dx 345 instead of 553 and 221 instead of 343;
compiled for sm_100 tf32x3 would have more, 375 and 357 instead of 296 and 298. No GPU has timed the
difference.

The epilogue stays in the accumulator's layout, in which a thread has 32 pixels of 2 channels: sums
over pixels are additions in registers and two shuffles, and a vector by channel is 2 registers. The
output and the array that the epilogue reads (v, or BatchNorm's z) are TMA tiles, too: TMA does not
store what lies outside, and no address is computed. conv2d_dx stores the pixels of one residue
class in the view above, in which channel c of column v is (v % stride, c): a tile of channels must
not reach into the next residue.

conv2d_dx: the pixels with h mod stride = a are a dense convolution of dy with the taps
r = (a + pad) mod stride + j stride, so that a transposed convolution is stride^2 small convolutions
and no zeros are inserted.
"""

from math import prod

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.gemm_config import THREE_PRODUCTS
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.batch_stats import BatchGradStats, BatchStats, norm_epilogue
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.dot import dot
from rawgan.kernels.tile.epilogue import in_bounds
from rawgan.kernels.tile.merge_stats import merge_stats

Sizes = dict[str, int]


@triton.jit
def _tile_origin(
    tile,
    P: tl.constexpr,
    Q: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_P: tl.constexpr,
    TILE_Q: tl.constexpr,
):
    """Return the first image, row and column of a tile of N images of P x Q pixels."""
    TILES_P: tl.constexpr = (P + TILE_P - 1) // TILE_P
    TILES_Q: tl.constexpr = (Q + TILE_Q - 1) // TILE_Q
    return (
        tile // (TILES_P * TILES_Q) * TILE_N,
        tile // TILES_Q % TILES_P * TILE_P,
        tile % TILES_Q * TILE_Q,
    )


@triton.jit
def _tile_pixels(n0, p0, q0, TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr):
    """Return image, row and column of each pixel of the tile at n0, p0, q0, (BLOCK_M,) each."""
    offs = tl.arange(0, TILE_N * TILE_P * TILE_Q)
    return n0 + offs // (TILE_P * TILE_Q), p0 + offs // TILE_Q % TILE_P, q0 + offs % TILE_Q


@triton.jit
def _tap_shift(tap, STRIDE: tl.constexpr, PAD: tl.constexpr):
    """Return (tap - PAD) div STRIDE and (tap - PAD) mod STRIDE, rounded down.

    Triton's // rounds to zero, so a multiple of STRIDE is added that makes the dividend positive.
    """
    SHIFT: tl.constexpr = (PAD + STRIDE - 1) // STRIDE
    shifted = tap + (SHIFT * STRIDE - PAD)
    return shifted // STRIDE - SHIFT, shifted % STRIDE


@triton.jit
def conv2d_tma_kernel(
    x_desc, w_desc, bias_ptr, saved_desc, y_desc, bn,
    N: tl.constexpr, C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr,
    EPS: tl.constexpr, MOMENTUM: tl.constexpr, PARTS: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TRANSPOSED: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """y = act(conv2d(x, w) + bias): M = N P Q pixels, N = K filters, K = R S C terms.

    x_desc: image_tiles of x, (TILE_N, TILE_P, 1, TILE_Q, BLOCK_K). w_desc: w as (K, R S C), tiles
    (BLOCK_N, BLOCK_K). A program computes BLOCK_M pixels x BLOCK_N filters; a step of the main loop
    is BLOCK_K channels of one tap. TRANSPOSED: the accumulator is. Epilogue: norm_epilogue.
    """
    wait_for_previous_kernel(PDL)
    STEPS: tl.constexpr = C // BLOCK_K  # of one tap
    TILES_N: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    TILES_M: tl.constexpr = (
        ((N + TILE_N - 1) // TILE_N) * ((P + TILE_P - 1) // TILE_P) * ((Q + TILE_Q - 1) // TILE_Q)
    )

    # Corner of the tile: columns of tiles vary fastest, so that neighbours share their pixels
    tile_m = tl.program_id(0) // TILES_N
    tile_n = tl.program_id(0) % TILES_N
    k0 = tile_n * BLOCK_N
    n0, p0, q0 = _tile_origin(tile_m, P, Q, TILE_N, TILE_P, TILE_Q)

    # Main loop over taps and blocks of channels
    acc = tl.zeros((BLOCK_N, BLOCK_M) if TRANSPOSED else (BLOCK_M, BLOCK_N), tl.float32)
    for step in range(R * S * STEPS):
        tap = step // STEPS
        down, residue_h = _tap_shift(tap // S, STRIDE_H, TOP)
        right, residue_w = _tap_shift(tap % S, STRIDE_W, LEFT)
        x = x_desc.load(
            [n0, p0 + down, residue_h, q0 + right, residue_w * C + step % STEPS * BLOCK_K]
        )
        w = w_desc.load([k0, step * BLOCK_K])  # C is a multiple of BLOCK_K: no step has two taps
        pixels = tl.reshape(x, (BLOCK_M, BLOCK_K))
        if TRANSPOSED:
            acc = dot(w, tl.trans(pixels), acc, PRECISION)
        else:
            acc = dot(pixels, tl.trans(w), acc, PRECISION)

    # Epilogue, in the layout of the accumulator
    offs_n = k0 + tl.arange(0, BLOCK_N)
    mask_n = in_bounds(offs_n, K, BLOCK_N)
    if N % TILE_N + P % TILE_P + Q % TILE_Q == 0:
        mask_m = None
    else:
        n, p, q = _tile_pixels(n0, p0, q0, TILE_N, TILE_P, TILE_Q)
        mask_m = (n < N) & (p < P) & (q < Q)
    if saved_desc is None:
        saved = None
    else:
        saved = tl.reshape(saved_desc.load([n0, p0, q0, k0]), (BLOCK_M, BLOCK_N))
    y = norm_epilogue(
        tl.trans(acc) if TRANSPOSED else acc, bias_ptr, saved, bn, mask_m, offs_n, mask_n, tile_m,
        TILES_M, K, ACT, SLOPE, NORM, GROUPS, PARTS,
    )  # fmt: skip
    # TMA does not store what lies outside y
    y_tile = tl.reshape(y.to(y_desc.dtype), (TILE_N, TILE_P, TILE_Q, BLOCK_N))
    y_desc.store([n0, p0, q0, k0], y_tile)
    if NORM is not None:
        merge_stats(
            bn, offs_n, mask_n, tile_m, tile_n, TILES_M, K, NORM, GROUPS, COUNT, EPS, MOMENTUM,
        )  # fmt: skip


@triton.jit
def conv2d_dx_tma_kernel(
    dy_desc, w_desc, bias_ptr, saved_desc, dx_desc, bn,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr,
    EPS: tl.constexpr, MOMENTUM: tl.constexpr, PARTS: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TRANSPOSED: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """dx = act(conv2d_dx(dy, w) + bias), each tile for one residue class of pixels.

    GEMM of a class: M = N CLASS_H CLASS_W pixels h = i STRIDE_H + residue_h, v likewise; N = C
    channels; K = TAPS_H TAPS_W K terms. dy_desc: dy in tiles (TILE_N, TILE_P, TILE_Q, BLOCK_K).
    w_desc: w as (K, R S C), tiles (BLOCK_K, BLOCK_N). A step of the main loop is BLOCK_K filters of
    one tap. TRANSPOSED: the accumulator is. Epilogue: norm_epilogue.
    """
    wait_for_previous_kernel(PDL)
    CLASS_H: tl.constexpr = H // STRIDE_H
    CLASS_W: tl.constexpr = W // STRIDE_W
    CLASSES: tl.constexpr = STRIDE_H * STRIDE_W
    # Taps of a class; the last one may lie outside w in some classes: a tile of zeros
    TAPS_H: tl.constexpr = (R + STRIDE_H - 1) // STRIDE_H
    TAPS_W: tl.constexpr = (S + STRIDE_W - 1) // STRIDE_W
    STEPS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K  # of one tap
    TILES_N: tl.constexpr = C // BLOCK_N
    TILES_P: tl.constexpr = (CLASS_H + TILE_P - 1) // TILE_P
    TILES_Q: tl.constexpr = (CLASS_W + TILE_Q - 1) // TILE_Q
    TILES_M: tl.constexpr = (N + TILE_N - 1) // TILE_N * TILES_P * TILES_Q * CLASSES

    # Corner of the tile in the pixels of a class. Columns of tiles vary fastest, then classes, so
    # that neighbours share their pixels of dy
    tile_m = tl.program_id(0) // TILES_N
    tile_n = tl.program_id(0) % TILES_N
    c0 = tile_n * BLOCK_N
    n0, i0, j0 = _tile_origin(tile_m // CLASSES, CLASS_H, CLASS_W, TILE_N, TILE_P, TILE_Q)
    residue_h = tile_m % CLASSES // STRIDE_W
    residue_w = tile_m % STRIDE_W

    # Tap first_r + STRIDE_H tap_h reads dy at row p0 - tap_h
    p0 = i0 + (residue_h + TOP) // STRIDE_H
    q0 = j0 + (residue_w + LEFT) // STRIDE_W
    first_r = (residue_h + TOP) % STRIDE_H
    first_s = (residue_w + LEFT) % STRIDE_W

    # Main loop over the taps of the class and blocks of filters
    acc = tl.zeros((BLOCK_N, BLOCK_M) if TRANSPOSED else (BLOCK_M, BLOCK_N), tl.float32)
    for step in range(TAPS_H * TAPS_W * STEPS):
        tap_h = step // STEPS // TAPS_W
        tap_w = step // STEPS % TAPS_W
        k = step % STEPS * BLOCK_K
        dy = dy_desc.load([n0, p0 - tap_h, q0 - tap_w, k])
        r = first_r + tap_h * STRIDE_H
        s = first_s + tap_w * STRIDE_W
        w_column = (r * S + s) * C + c0
        if R % STRIDE_H + S % STRIDE_W > 0:  # some classes have fewer taps: read past w, zeros
            w_column = tl.where((r < R) & (s < S), w_column, R * S * C)
        w = w_desc.load([k, w_column])
        pixels = tl.reshape(dy, (BLOCK_M, BLOCK_K))
        if TRANSPOSED:
            acc = dot(tl.trans(w), tl.trans(pixels), acc, PRECISION)
        else:
            acc = dot(pixels, w, acc, PRECISION)

    # Epilogue, in the layout of the accumulator; all classes' tiles count as tiles of one output
    offs_n = c0 + tl.arange(0, BLOCK_N)
    mask_n = in_bounds(offs_n, C, BLOCK_N)
    if N % TILE_N + CLASS_H % TILE_P + CLASS_W % TILE_Q == 0:
        mask_m = None
    else:
        n, i, j = _tile_pixels(n0, i0, j0, TILE_N, TILE_P, TILE_Q)
        mask_m = (n < N) & (i < CLASS_H) & (j < CLASS_W)
    column = residue_w * C + c0
    if saved_desc is None:
        saved = None
    else:
        saved_tile = saved_desc.load([n0, i0, residue_h, j0, column])
        saved = tl.reshape(saved_tile, (BLOCK_M, BLOCK_N))
    dx = norm_epilogue(
        tl.trans(acc) if TRANSPOSED else acc, bias_ptr, saved, bn, mask_m, offs_n, mask_n, tile_m,
        TILES_M, C, ACT, SLOPE, NORM, GROUPS, PARTS,
    )  # fmt: skip
    dx_tile = tl.reshape(dx.to(dx_desc.dtype), (TILE_N, TILE_P, 1, TILE_Q, BLOCK_N))
    dx_desc.store([n0, i0, residue_h, j0, column], dx_tile)
    if NORM is not None:
        merge_stats(
            bn, offs_n, mask_n, tile_m, tile_n, TILES_M, C, NORM, GROUPS, COUNT, EPS, MOMENTUM,
        )  # fmt: skip


@triton.jit
def conv2d_dw_tma_kernel(
    x_desc, dy_desc, partials_ptr,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    STEPS: tl.constexpr, PRECISION: tl.constexpr, CONTIGUOUS: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """dw = dy' x, split over K: M = K filters, N = R S C columns, K = N P Q pixels.

    x_desc: image_tiles of x with BLOCK_N channels. dy_desc: with CONTIGUOUS dy as (N P Q, K), tiles
    (BLOCK_K, BLOCK_M); else dy in tiles (TILE_N, TILE_P, TILE_Q, BLOCK_M). A program computes
    BLOCK_M filters x BLOCK_N channels of one tap, over STEPS tiles of BLOCK_K pixels. Epilogue:
    partial sum program_id(1) of (split-K, K, R S C) is stored, in float32 unless it is the only
    one.
    """
    wait_for_previous_kernel(PDL)
    COLUMNS: tl.constexpr = R * S * C
    TILES_C: tl.constexpr = C // BLOCK_N
    TILES_N: tl.constexpr = R * S * TILES_C

    # Corner of the tile: filters k0, channels c0 of one tap
    k0 = tl.program_id(0) // TILES_N * BLOCK_M
    column0 = tl.program_id(0) % TILES_N * BLOCK_N
    tap = tl.program_id(0) % TILES_N // TILES_C
    c0 = tl.program_id(0) % TILES_C * BLOCK_N
    down, residue_h = _tap_shift(tap // S, STRIDE_H, TOP)
    right, residue_w = _tap_shift(tap % S, STRIDE_W, LEFT)

    # Main loop over tiles of pixels
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        tile = tl.program_id(1) * STEPS + step  # past the last tile TMA loads zeros
        n0, p0, q0 = _tile_origin(tile, P, Q, TILE_N, TILE_P, TILE_Q)
        if CONTIGUOUS:  # a matrix, which the tensor cores read transposed from shared memory
            dy = dy_desc.load([tile * BLOCK_K, k0])
        else:
            dy = tl.reshape(dy_desc.load([n0, p0, q0, k0]), (BLOCK_K, BLOCK_M))
        x = x_desc.load([n0, p0 + down, residue_h, q0 + right, residue_w * C + c0])
        acc = dot(tl.trans(dy), tl.reshape(x, (BLOCK_K, BLOCK_N)), acc, PRECISION)

    # Epilogue: the partial sum
    offs_m = k0 + tl.arange(0, BLOCK_M)
    offs_n = column0 + tl.arange(0, BLOCK_N)
    offs = tl.program_id(1) * K * COLUMNS + offs_m[:, None] * COLUMNS + offs_n[None, :]
    tl.store(partials_ptr + offs, acc.to(partials_ptr.dtype.element_ty), mask=(offs_m < K)[:, None])


def pixel_tile(pixels: int, P: int, Q: int) -> Sizes:
    """Return TILE_N, TILE_P, TILE_Q, powers of 2 whose product is `pixels`, for images of P x Q.

    Columns first, then rows, then images: the pixels of a tile lie as close as they can.
    """
    q = min(triton.next_power_of_2(Q), pixels)
    p = min(triton.next_power_of_2(P), pixels // q)
    return {"TILE_N": pixels // (p * q), "TILE_P": p, "TILE_Q": q}


def count_tiles(tile: Sizes, N: int, P: int, Q: int) -> int:
    """Return the number of tiles that cover N images of P x Q pixels."""
    return prod(launch.cdiv(n, size) for n, size in zip((N, P, Q), tile.values()))


def accumulator(x: Array, precision: str) -> dict[str, int]:
    """Return whether the accumulator of a TMA kernel is transposed.

    And PARTS of its epilogue (norm_epilogue). wgmma leaves the pixels of a channel of a transposed
    accumulator in one thread's registers, so that halves cost nothing; in other layouts they would
    be exchanged between threads.
    """
    capability = launch.capability(x)
    transposed = x.itemsize == 2 or precision not in THREE_PRODUCTS or capability >= 100
    return {"TRANSPOSED": transposed, "PARTS": 2 if transposed and capability < 100 else 1}


def fits_128_registers(norm: BatchStats | BatchGradStats | None, dtype, capability: int) -> bool:
    """Return whether the epilogue of a 128 x 128 tile with 8 warps spills no register of 128.

    Compiled by Triton 3.9: all of them fit in half precision on sm_90; on sm_100, and in float32,
    those of BatchGradStats do not.
    """
    half = dtype.itemsize == 2
    return norm is None or (half and (isinstance(norm, BatchStats) or capability < 100))


def divides(sizes: Sizes) -> bool:
    """Return whether the strides divide the image, which image_tiles requires."""
    return sizes["H"] % sizes["STRIDE_H"] == 0 == sizes["W"] % sizes["STRIDE_W"]


def contiguous(tile: Sizes, P: int, Q: int) -> bool:
    """Return whether the tiles of pixels are contiguous in memory, one after another."""
    n, p, q = tile.values()
    return q == Q and (p == P or (n == 1 and P % p == 0))


def image_tiles(x: Array, sizes: Sizes, tile: Sizes, channels: int) -> launch.TmaTile:
    """Return a view of x in which each filter tap reads one TMA tile, of `channels` channels.

    x (N, H, W, C) as (N, H / stride, stride, W / stride, stride C).
    """
    N, H, W, C, sh, sw = (sizes[name] for name in ("N", "H", "W", "C", "STRIDE_H", "STRIDE_W"))
    n, p, q = tile.values()
    return launch.TmaTile(
        x,
        (N, H // sh, sh, W // sw, sw * C),
        (H * W * C, sh * W * C, W * C, sw * C, 1),
        (n, p, 1, q, channels),
    )


def array_tiles(a: Array, *block: int) -> launch.TmaTile:
    """Return an array in TMA tiles of `block` entries along its axes."""
    return launch.TmaTile(a, a.shape, tuple(prod(a.shape[i + 1 :]) for i in range(a.ndim)), block)
