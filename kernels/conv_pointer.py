"""Convolutions as implicit GEMMs with pointers: any size, stride, kernel and padding.

    GEMM        rows M                   columns N    sum over K         A              B
    conv2d      pixels n,p,q of y        filters k    r,s,c              x, gathered    w
    conv2d_dx   pixels n,h,v of x, one   channels c   taps of the class, dy, gathered   w
                residue class at a time               and k
    conv2d_dw   filters k                r,s,c        pixels n,p,q of y  dy, transposed x, gathered
    small C dx  square blocks of         h,v of the   dy around the      dy, gathered   w, gathered
                pixels of x              block, c     block, and k

The wrappers, and the choice between these and conv_tma.py, are in conv.py. Nothing is unfolded in
memory. For conv2d_dx no zeros are inserted: pixel h of x depends on the taps r with h + TOP - r
divisible by the stride alone, so that the pixels with one h mod stride and one v mod stride, a
residue class, share their taps, and each class is a dense GEMM.

Where the channels are a multiple of BLOCK_K (in conv2d_dw of BLOCK_N), a step of the main loop lies
within one tap, whose row and column are scalars; else each element computes its own. The sum of
conv2d_dw, over all pixels, is split into float32 partials, which are added in a fixed order.
"""

import triton
import triton.language as tl

from rawgan.kernels.tile.batch_stats import store_epilogue
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.dot import dot
from rawgan.kernels.tile.epilogue import epilogue, in_bounds, load_f32


@triton.jit
def _taps(k, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Return (row, column, channel) of the terms k, k + 1, ..., k + BLOCK - 1.

    A term is (row, column, channel) flattened, WIDTH columns and CHANNELS channels. Where CHANNELS
    is a multiple of BLOCK, all terms are of one tap, and row and column are scalars.
    """
    offs = k + tl.arange(0, BLOCK)
    if CHANNELS % BLOCK == 0:
        tap = k // CHANNELS
        offs_c = k % CHANNELS + tl.arange(0, BLOCK)
    else:
        tap = offs // CHANNELS
        offs_c = offs % CHANNELS
    return tap // WIDTH, tap % WIDTH, offs_c


@triton.jit
def conv2d_kernel(
    x_ptr, w_ptr, bias_ptr, saved_ptr, y_ptr, bn,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr,
    EPS: tl.constexpr, MOMENTUM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y = act(conv2d(x, w) + bias): M = N P Q pixels, N = K filters, K = R S C terms.

    A program computes BLOCK_M pixels x BLOCK_N filters; a step of the main loop is BLOCK_K terms
    (r, s, c). Epilogue: store_epilogue.
    """
    wait_for_previous_kernel(PDL)
    M: tl.constexpr = N * P * Q
    TERMS: tl.constexpr = R * S * C
    TILES_N: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    TILES_M: tl.constexpr = (M + BLOCK_M - 1) // BLOCK_M

    # Offsets: the tile's pixels and filters, and for each pixel the corner of its window in x
    tile_m = tl.program_id(0) // TILES_N
    tile_n = tl.program_id(0) % TILES_N
    offs_m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = in_bounds(offs_m, M, BLOCK_M)
    mask_n = in_bounds(offs_n, K, BLOCK_N)
    h0 = offs_m // Q % P * STRIDE_H - TOP
    v0 = offs_m % Q * STRIDE_W - LEFT
    corner = ((offs_m // (P * Q) * H + h0) * W + v0) * C

    # Main loop over the terms
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, TERMS, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        mask_k = in_bounds(offs_k, TERMS, BLOCK_K)
        r, s, offs_c = _taps(k, C, S, BLOCK_K)
        term_offs = (r * W + s) * C + offs_c
        if C % BLOCK_K == 0:  # one tap: one test of the padding for each pixel
            inside = (mask_m & (h0 + r >= 0) & (h0 + r < H) & (v0 + s >= 0) & (v0 + s < W))[:, None]
        else:
            h = h0[:, None] + r[None, :]
            v = v0[:, None] + s[None, :]
            inside = mask_m[:, None] & mask_k[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        a = tl.load(x_ptr + corner[:, None] + term_offs[None, :], mask=inside, other=0.0)
        b = tl.load(
            w_ptr + offs_n[None, :] * TERMS + offs_k[:, None],
            mask=mask_k[:, None] & mask_n[None, :],
            other=0.0,
        )
        acc = dot(a, b, acc, PRECISION)

    # Epilogue
    offs = offs_m[:, None] * K + offs_n[None, :]
    store_epilogue(
        y_ptr, acc, bias_ptr, saved_ptr, bn, offs, mask_m, offs_n, mask_n, tile_m, tile_n, TILES_M,
        K, ACT, SLOPE, NORM, GROUPS, COUNT, EPS, MOMENTUM,
    )  # fmt: skip


@triton.jit
def conv2d_dx_kernel(
    dy_ptr, w_ptr, bias_ptr, saved_ptr, dx_ptr, bn,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr,
    EPS: tl.constexpr, MOMENTUM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """dx = act(conv2d_dx(dy, w) + bias) for one residue class of pixels (program_id 1).

    GEMM of a class: M = N CLASS_H CLASS_W pixels h = i STRIDE_H + residue_h, v likewise; N = C
    channels; K = TAPS_H TAPS_W K terms. A program computes BLOCK_M pixels x BLOCK_N channels.
    Epilogue: store_epilogue.
    """
    wait_for_previous_kernel(PDL)
    # Pixels and taps of a class; the last of each may lie outside
    CLASS_H: tl.constexpr = (H + STRIDE_H - 1) // STRIDE_H
    CLASS_W: tl.constexpr = (W + STRIDE_W - 1) // STRIDE_W
    TAPS_H: tl.constexpr = (R + STRIDE_H - 1) // STRIDE_H
    TAPS_W: tl.constexpr = (S + STRIDE_W - 1) // STRIDE_W
    TERMS: tl.constexpr = TAPS_H * TAPS_W * K
    TILES_N: tl.constexpr = (C + BLOCK_N - 1) // BLOCK_N
    TILES_M: tl.constexpr = (N * CLASS_H * CLASS_W + BLOCK_M - 1) // BLOCK_M * STRIDE_H * STRIDE_W

    # Offsets: h = residue_h + STRIDE_H i meets the taps r = first_r + STRIDE_H j at row p0 - j
    tile_n = tl.program_id(0) % TILES_N
    offs_m = tl.program_id(0) // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    residue_h = tl.program_id(1) // STRIDE_W
    residue_w = tl.program_id(1) % STRIDE_W
    first_r = (residue_h + TOP) % STRIDE_H
    first_s = (residue_w + LEFT) % STRIDE_W
    n = offs_m // (CLASS_H * CLASS_W)
    h = offs_m // CLASS_W % CLASS_H * STRIDE_H + residue_h
    v = offs_m % CLASS_W * STRIDE_W + residue_w
    mask_m = (n < N) & (h < H) & (v < W)
    mask_n = in_bounds(offs_n, C, BLOCK_N)
    p0 = (h + TOP) // STRIDE_H
    q0 = (v + LEFT) // STRIDE_W
    corner = ((n * P + p0) * Q + q0) * K

    # Main loop over the terms (tap, filter)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, TERMS, BLOCK_K):
        mask_k = in_bounds(k + tl.arange(0, BLOCK_K), TERMS, BLOCK_K)
        i, j, offs_k = _taps(k, K, TAPS_W, BLOCK_K)
        r = first_r + i * STRIDE_H
        s = first_s + j * STRIDE_W
        if R % STRIDE_H + S % STRIDE_W > 0:  # some classes have fewer taps
            mask_k = mask_k & (r < R) & (s < S)
        term_offs = offs_k - (i * Q + j) * K
        if K % BLOCK_K == 0:  # one tap: one test of the padding for each pixel
            inside_m = mask_m & (p0 - i >= 0) & (p0 - i < P) & (q0 - j >= 0) & (q0 - j < Q)
            inside = inside_m[:, None] & mask_k[None, :]
        else:
            p = p0[:, None] - i[None, :]
            q = q0[:, None] - j[None, :]
            inside = mask_m[:, None] & mask_k[None, :] & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
        a = tl.load(dy_ptr + corner[:, None] + term_offs[None, :], mask=inside, other=0.0)
        w_offs = ((offs_k * R + r) * S + s) * C
        b = tl.load(
            w_ptr + w_offs[:, None] + offs_n[None, :],
            mask=mask_k[:, None] & mask_n[None, :],
            other=0.0,
        )
        acc = dot(a, b, acc, PRECISION)

    # Epilogue; the tiles of all classes count as tiles of one output
    offs = (((n * H + h) * W + v) * C)[:, None] + offs_n[None, :]
    tile_m = tl.program_id(0) // TILES_N * STRIDE_H * STRIDE_W + tl.program_id(1)
    store_epilogue(
        dx_ptr, acc, bias_ptr, saved_ptr, bn, offs, mask_m, offs_n, mask_n, tile_m, tile_n, TILES_M,
        C, ACT, SLOPE, NORM, GROUPS, COUNT, EPS, MOMENTUM,
    )  # fmt: skip


@triton.jit
def conv2d_dx_small_c_kernel(
    dy_ptr, w_ptr, bias_ptr, saved_ptr, dx_ptr,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    FACTOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """dx = act(conv2d_dx(dy, w) + bias) for few channels: all residue classes in one GEMM.

    M = N BLOCKS_H BLOCKS_W blocks of EDGE_H x EDGE_W pixels, FACTOR strides each; N = EDGE_H EDGE_W
    C, the pixels (a, b) of a block and their channels, at most BLOCK_N; K = REACH_H REACH_W K. A
    class alone would leave most of a tile's columns empty, and the larger a block is, the less
    often dy is read: 4x4 filters of stride 2 read it 9 times for FACTOR = 1 and 4 times for 2.
    Epilogue: act and bias, or act'(saved).

    Pixel h = EDGE_H i + a of block i depends on dy at p = FACTOR i + d, by tap
    r = a + TOP - STRIDE_H d.
    """
    wait_for_previous_kernel(PDL)
    EDGE_H: tl.constexpr = FACTOR * STRIDE_H
    EDGE_W: tl.constexpr = FACTOR * STRIDE_W
    BLOCKS_H: tl.constexpr = (H + EDGE_H - 1) // EDGE_H
    BLOCKS_W: tl.constexpr = (W + EDGE_W - 1) // EDGE_W
    # First d that any tap reaches, and the number of them
    FIRST_H: tl.constexpr = -((R - 1 - TOP) // STRIDE_H)
    FIRST_W: tl.constexpr = -((S - 1 - LEFT) // STRIDE_W)
    REACH_H: tl.constexpr = (EDGE_H - 1 + TOP) // STRIDE_H - FIRST_H + 1
    REACH_W: tl.constexpr = (EDGE_W - 1 + LEFT) // STRIDE_W - FIRST_W + 1
    STEPS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K

    # Offsets: block (n, i, j) of a row; pixel (a, b) of the block and channel c of a column
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = offs_m // (BLOCKS_H * BLOCKS_W)
    i = offs_m // BLOCKS_W % BLOCKS_H
    j = offs_m % BLOCKS_W
    offs_n = tl.arange(0, BLOCK_N)
    a = offs_n // (EDGE_W * C)
    b = offs_n // C % EDGE_W
    c = offs_n % C

    # Main loop over the shifts (d, e) of dy and blocks of filters
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(REACH_H * REACH_W * STEPS):
        d = step // STEPS // REACH_W + FIRST_H
        e = step // STEPS % REACH_W + FIRST_W
        offs_k = step % STEPS * BLOCK_K + tl.arange(0, BLOCK_K)
        mask_k = in_bounds(offs_k, K, BLOCK_K)
        p = FACTOR * i + d
        q = FACTOR * j + e
        inside = (n < N) & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
        dy_offs = (((n * P + p) * Q + q) * K)[:, None] + offs_k[None, :]
        r = a + TOP - STRIDE_H * d
        s = b + LEFT - STRIDE_W * e
        mask_tap = (a < EDGE_H) & (r >= 0) & (r < R) & (s >= 0) & (s < S)
        w_offs = (offs_k * (R * S * C))[:, None] + ((r * S + s) * C + c)[None, :]
        dy = tl.load(dy_ptr + dy_offs, mask=inside[:, None] & mask_k[None, :], other=0.0)
        w = tl.load(w_ptr + w_offs, mask=mask_k[:, None] & mask_tap[None, :], other=0.0)
        acc = dot(dy, w, acc, PRECISION)

    # Epilogue
    h = i[:, None] * EDGE_H + a[None, :]
    v = j[:, None] * EDGE_W + b[None, :]
    mask = (n < N)[:, None] & (a < EDGE_H)[None, :] & (h < H) & (v < W)
    offs = ((n[:, None] * H + h) * W + v) * C + c[None, :]
    if saved_ptr is None:
        saved = None
    else:
        saved = load_f32(saved_ptr, offs, mask)
    acc = epilogue(acc, bias_ptr, saved, c, a < EDGE_H, ACT, SLOPE)
    tl.store(dx_ptr + offs, acc.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def conv2d_dw_kernel(
    x_ptr, dy_ptr, partials_ptr,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    STEPS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """dw = dy' x, split over K: M = K filters, N = R S C columns, K = N P Q pixels.

    A program computes BLOCK_M filters x BLOCK_N columns (r, s, c) over STEPS blocks of BLOCK_K
    pixels. Epilogue: partial sum program_id(1) of (split-K, K, R S C) is stored, in float32 unless
    it is the only one.
    """
    wait_for_previous_kernel(PDL)
    COLUMNS: tl.constexpr = R * S * C
    TILES_N: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N

    # Offsets: filters and columns of the tile; the columns' taps do not change in the loop
    pid = tl.program_id(0)
    n0 = pid % TILES_N * BLOCK_N
    offs_m = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = n0 + tl.arange(0, BLOCK_N)
    mask_m = in_bounds(offs_m, K, BLOCK_M)
    mask_n = in_bounds(offs_n, COLUMNS, BLOCK_N)
    r, s, offs_c = _taps(n0, C, S, BLOCK_N)
    term_offs = (r * W + s) * C + offs_c
    first = tl.program_id(1) * STEPS * BLOCK_K

    # Main loop over blocks of pixels
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        offs_k = first + step * BLOCK_K + tl.arange(0, BLOCK_K)
        mask_k = in_bounds(offs_k, N * P * Q, STEPS * BLOCK_K)
        h0 = offs_k // Q % P * STRIDE_H - TOP
        v0 = offs_k % Q * STRIDE_W - LEFT
        corner = ((offs_k // (P * Q) * H + h0) * W + v0) * C
        if C % BLOCK_N == 0:  # one tap: one test of the padding for each pixel
            inside = (mask_k & (h0 + r >= 0) & (h0 + r < H) & (v0 + s >= 0) & (v0 + s < W))[:, None]
        else:
            h = h0[:, None] + r[None, :]
            v = v0[:, None] + s[None, :]
            inside = mask_k[:, None] & mask_n[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        a = tl.load(
            dy_ptr + offs_k[None, :] * K + offs_m[:, None],
            mask=mask_m[:, None] & mask_k[None, :],
            other=0.0,
        )
        b = tl.load(x_ptr + corner[:, None] + term_offs[None, :], mask=inside, other=0.0)
        acc = dot(a, b, acc, PRECISION)

    # Epilogue: the partial sum
    partial_ptr = partials_ptr + tl.program_id(1) * K * COLUMNS
    tl.store(
        partial_ptr + offs_m[:, None] * COLUMNS + offs_n[None, :],
        acc.to(partials_ptr.dtype.element_ty),
        mask=mask_m[:, None] & mask_n[None, :],
    )
