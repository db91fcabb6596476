"""The convolutions as implicit GEMMs with pointers: any size, stride, kernel and padding. Their wrappers are in conv.py.

    GEMM        rows M                    columns N    sum over K            a                     b
    conv2d      pixels n,p,q of y         filters k    r,s,c                 x, gathered           w
    conv2d_dx   pixels n,h,v of x, one    channels c   the r,s that meet     dy, gathered          w
                residue class at a time                the class, and k
    conv2d_dw   filters k                 r,s,c        pixels n,p,q of y     dy, transposed        x, gathered
    thin dx     pixels n,p,q of y         the pixels   the i,j around p,q    dy, gathered          w, gathered
                                          h,v,c there  that meet, and k

Nothing is unfolded in memory, and no zeros are inserted: pixel h of x meets only the taps r with h + top - r divisible by the
stride, so the pixels of x with one h mod stride and one v mod stride share their taps, and each such class is a dense product.

Where the channels fill a BLOCK_K (in conv2d_dw a BLOCK_N), a step lies within one tap and is addressed with scalars; else each of
its elements finds its own tap. conv2d_dw splits its long sum into slices, each stored in float32, to be added in their order.
"""

import triton
import triton.language as tl

from rawgan.kernels.gemm import below, finish
from rawgan.kernels.moments import store_tile


@triton.jit
def _taps(k, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(row, column, channels) of the taps at k, k+1, ...: row and column are scalars where a block lies within one tap."""
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
    x_ptr, w_ptr, bias_ptr, v_ptr, y_ptr, norm,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr, MOMENTUM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = N * P * Q
    TERMS: tl.constexpr = R * S * C
    TILES_N: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    TILES: tl.constexpr = (M + BLOCK_M - 1) // BLOCK_M
    tile = tl.program_id(0) // TILES_N
    column = tl.program_id(0) % TILES_N
    offs_m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = column * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = below(offs_m, M, BLOCK_M)
    mask_n = below(offs_n, K, BLOCK_N)
    h0 = offs_m // Q % P * STRIDE_H - TOP
    v0 = offs_m % Q * STRIDE_W - LEFT
    corner = ((offs_m // (P * Q) * H + h0) * W + v0) * C
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, TERMS, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        mask_k = below(offs_k, TERMS, BLOCK_K)
        r, s, offs_c = _taps(k, C, S, BLOCK_K)
        reach = (r * W + s) * C + offs_c
        if C % BLOCK_K == 0:
            inside = (mask_m & (h0 + r >= 0) & (h0 + r < H) & (v0 + s >= 0) & (v0 + s < W))[:, None]
        else:
            h = h0[:, None] + r[None, :]
            v = v0[:, None] + s[None, :]
            inside = mask_m[:, None] & mask_k[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        a = tl.load(x_ptr + corner[:, None] + reach[None, :], mask=inside, other=0.0)
        b = tl.load(w_ptr + offs_n[None, :] * TERMS + offs_k[:, None], mask=mask_k[:, None] & mask_n[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    offs = offs_m[:, None] * K + offs_n[None, :]
    store_tile(
        y_ptr, acc, bias_ptr, v_ptr, norm, offs, mask_m, offs_n, mask_n, tile, column, TILES, K, ACT, SLOPE,
        NORM, GROUPS, COUNT, EPS, MOMENTUM,
    )  # fmt: skip


@triton.jit
def conv2d_dx_kernel(
    dy_ptr, w_ptr, bias_ptr, v_ptr, dx_ptr, norm,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr, MOMENTUM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    CLASS_H: tl.constexpr = (H + STRIDE_H - 1) // STRIDE_H  # pixels of a class; the last may lie outside
    CLASS_W: tl.constexpr = (W + STRIDE_W - 1) // STRIDE_W
    TAPS_H: tl.constexpr = (R + STRIDE_H - 1) // STRIDE_H  # taps of a class; the last may lie outside
    TAPS_W: tl.constexpr = (S + STRIDE_W - 1) // STRIDE_W
    TERMS: tl.constexpr = TAPS_H * TAPS_W * K
    TILES_N: tl.constexpr = (C + BLOCK_N - 1) // BLOCK_N
    TILES: tl.constexpr = (N * CLASS_H * CLASS_W + BLOCK_M - 1) // BLOCK_M * STRIDE_H * STRIDE_W
    column = tl.program_id(0) % TILES_N
    offs_m = tl.program_id(0) // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = column * BLOCK_N + tl.arange(0, BLOCK_N)
    # h = residue + STRIDE_H * i meets r = first_r + STRIDE_H * j at p = p0 - j
    residue_h = tl.program_id(1) // STRIDE_W
    residue_w = tl.program_id(1) % STRIDE_W
    first_r = (residue_h + TOP) % STRIDE_H
    first_s = (residue_w + LEFT) % STRIDE_W
    n = offs_m // (CLASS_H * CLASS_W)
    h = offs_m // CLASS_W % CLASS_H * STRIDE_H + residue_h
    v = offs_m % CLASS_W * STRIDE_W + residue_w
    mask_m = (n < N) & (h < H) & (v < W)
    mask_n = below(offs_n, C, BLOCK_N)
    p0 = (h + TOP) // STRIDE_H
    q0 = (v + LEFT) // STRIDE_W
    corner = ((n * P + p0) * Q + q0) * K
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, TERMS, BLOCK_K):
        mask_k = below(k + tl.arange(0, BLOCK_K), TERMS, BLOCK_K)
        i, j, offs_k = _taps(k, K, TAPS_W, BLOCK_K)
        r = first_r + i * STRIDE_H
        s = first_s + j * STRIDE_W
        if R % STRIDE_H + S % STRIDE_W > 0:
            mask_k = mask_k & (r < R) & (s < S)
        reach = offs_k - (i * Q + j) * K
        if K % BLOCK_K == 0:
            inside = (mask_m & (p0 - i >= 0) & (p0 - i < P) & (q0 - j >= 0) & (q0 - j < Q))[:, None] & mask_k[None, :]
        else:
            p = p0[:, None] - i[None, :]
            q = q0[:, None] - j[None, :]
            inside = mask_m[:, None] & mask_k[None, :] & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
        a = tl.load(dy_ptr + corner[:, None] + reach[None, :], mask=inside, other=0.0)
        w_offs = ((offs_k * R + r) * S + s) * C
        b = tl.load(w_ptr + w_offs[:, None] + offs_n[None, :], mask=mask_k[:, None] & mask_n[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    offs = (((n * H + h) * W + v) * C)[:, None] + offs_n[None, :]
    tile = tl.program_id(0) // TILES_N * STRIDE_H * STRIDE_W + tl.program_id(1)
    store_tile(
        dx_ptr, acc, bias_ptr, v_ptr, norm, offs, mask_m, offs_n, mask_n, tile, column, TILES, C, ACT, SLOPE,
        NORM, GROUPS, COUNT, EPS, MOMENTUM,
    )  # fmt: skip


@triton.jit
def conv2d_dx_thin_kernel(
    dy_ptr, w_ptr, bias_ptr, v_ptr, dx_ptr,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One row is a block of STRIDE_H x STRIDE_W pixels, its C channels with them the columns: all classes in one product.

    Pixel h = STRIDE_H i + a of block i meets p = i + d at the tap r = a + TOP - STRIDE_H d.
    """
    BLOCKS_H: tl.constexpr = (H + STRIDE_H - 1) // STRIDE_H
    BLOCKS_W: tl.constexpr = (W + STRIDE_W - 1) // STRIDE_W
    FIRST_H: tl.constexpr = -((R - 1 - TOP) // STRIDE_H)  # the first and last d that any tap reaches
    FIRST_W: tl.constexpr = -((S - 1 - LEFT) // STRIDE_W)
    REACH_H: tl.constexpr = (STRIDE_H - 1 + TOP) // STRIDE_H - FIRST_H + 1
    REACH_W: tl.constexpr = (STRIDE_W - 1 + LEFT) // STRIDE_W - FIRST_W + 1
    STEPS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = offs_m // (BLOCKS_H * BLOCKS_W)
    i = offs_m // BLOCKS_W % BLOCKS_H
    j = offs_m % BLOCKS_W
    offs_n = tl.arange(0, BLOCK_N)  # a, b, c
    a = offs_n // (STRIDE_W * C)
    b = offs_n // C % STRIDE_W
    c = offs_n % C
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(REACH_H * REACH_W * STEPS):
        d = step // STEPS // REACH_W + FIRST_H
        e = step // STEPS % REACH_W + FIRST_W
        offs_k = step % STEPS * BLOCK_K + tl.arange(0, BLOCK_K)
        mask_k = below(offs_k, K, BLOCK_K)
        inside = (n < N) & (i + d >= 0) & (i + d < P) & (j + e >= 0) & (j + e < Q)
        dy_offs = (((n * P + i + d) * Q + j + e) * K)[:, None] + offs_k[None, :]
        r = a + TOP - STRIDE_H * d
        s = b + LEFT - STRIDE_W * e
        meets = (a < STRIDE_H) & (r >= 0) & (r < R) & (s >= 0) & (s < S)
        w_offs = (offs_k * (R * S * C))[:, None] + ((r * S + s) * C + c)[None, :]
        dy = tl.load(dy_ptr + dy_offs, mask=inside[:, None] & mask_k[None, :], other=0.0)
        w = tl.load(w_ptr + w_offs, mask=mask_k[:, None] & meets[None, :], other=0.0)
        acc = tl.dot(dy, w, acc, input_precision=PRECISION)
    h = i[:, None] * STRIDE_H + a[None, :]
    v = j[:, None] * STRIDE_W + b[None, :]
    mask = (n < N)[:, None] & (a < STRIDE_H)[None, :] & (h < H) & (v < W)
    offs = ((n[:, None] * H + h) * W + v) * C + c[None, :]
    acc = finish(acc, bias_ptr, v_ptr, c, a < STRIDE_H, offs, mask, ACT, SLOPE)
    tl.store(dx_ptr + offs, acc.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def conv2d_dw_kernel(
    x_ptr, dy_ptr, slices_ptr,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    STEPS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = R * S * C
    TILES_N: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    n0 = pid % TILES_N * BLOCK_N
    offs_m = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = n0 + tl.arange(0, BLOCK_N)
    mask_m = below(offs_m, K, BLOCK_M)
    mask_n = below(offs_n, COLUMNS, BLOCK_N)
    r, s, offs_c = _taps(n0, C, S, BLOCK_N)
    reach = (r * W + s) * C + offs_c
    first = tl.program_id(1) * STEPS * BLOCK_K
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        offs_k = first + step * BLOCK_K + tl.arange(0, BLOCK_K)
        mask_k = below(offs_k, N * P * Q, STEPS * BLOCK_K)
        h0 = offs_k // Q % P * STRIDE_H - TOP
        v0 = offs_k % Q * STRIDE_W - LEFT
        corner = ((offs_k // (P * Q) * H + h0) * W + v0) * C
        if C % BLOCK_N == 0:
            inside = (mask_k & (h0 + r >= 0) & (h0 + r < H) & (v0 + s >= 0) & (v0 + s < W))[:, None]
        else:
            h = h0[:, None] + r[None, :]
            v = v0[:, None] + s[None, :]
            inside = mask_k[:, None] & mask_n[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        a = tl.load(dy_ptr + offs_k[None, :] * K + offs_m[:, None], mask=mask_m[:, None] & mask_k[None, :], other=0.0)
        b = tl.load(x_ptr + corner[:, None] + reach[None, :], mask=inside, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    slice_ptr = slices_ptr + tl.program_id(1) * K * COLUMNS
    mask = mask_m[:, None] & mask_n[None, :]
    tl.store(slice_ptr + offs_m[:, None] * COLUMNS + offs_n[None, :], acc.to(slices_ptr.dtype.element_ty), mask=mask)
