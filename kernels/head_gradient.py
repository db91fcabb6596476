"""Gradients of a discriminator's last layer above a BatchNorm, in one launch.

    score[n] = sum over i, k of x[n, i, k] w[i, k] + b       x = m act(p),  p = BatchNorm(z)
    dp[n, i, k] = act'(p[n, i, k]) m[n, i, k] dscore[n] w[i, k]
    dw[i, k] = sum over n of dscore[n] x[n, i, k]            db = sum over n of dscore[n]

n are samples, i pixels, k channels, m the mask of a Dropout. The input gradient of a dot product is
an outer product: as a GEMM, or as a convolution of an image of one pixel, it would multiply by
zeros for the most part. The weight gradient reads the same tile of samples, pixels and channels,
and so do the sums that the gradient of BatchNorm needs (tile/batch_stats.py); batchnorm_apply_dx
is next. Above a layer without BatchNorm discriminator_head.py computes dx.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.batch_stats import BatchGradStats, norm_epilogue
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.dropout import DropoutMask, drop, mask_constants
from rawgan.kernels.tile.epilogue import in_bounds, load_f32
from rawgan.kernels.tile.merge_stats import merge_stats

TILE = {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8}  # samples, channels


@triton.jit
def head_gradient_kernel(
    dscore_ptr, w_ptr, z_ptr, x_ptr, state_ptr, bn, dp_ptr, dw_ptr, db_ptr,
    SAMPLES: tl.constexpr, PIXELS: tl.constexpr, WIDTH: tl.constexpr, TILES_M: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, P: tl.constexpr, STREAM: tl.constexpr,
    FIRST: tl.constexpr, NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr,
    EPS: tl.constexpr, MOMENTUM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """dp = act'(p) m dscore w with BatchGradStats; with x_ptr partial sums of dw, and of db.

    Tile: BLOCK_M of the SAMPLES samples of a group at one of PIXELS pixels, BLOCK_N of WIDTH
    channels: TILES_M = GROUPS x PIXELS x tiles of samples. A tile of samples, of a group, has one
    partial sum of dw and of db.
    """
    wait_for_previous_kernel(PDL)
    # Offsets; the samples of a tile are PIXELS rows of channels apart
    TILES_N: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    SAMPLE_TILES: tl.constexpr = (SAMPLES + BLOCK_M - 1) // BLOCK_M
    tile_m = tl.program_id(0) // TILES_N
    tile_n = tl.program_id(0) % TILES_N
    group = tile_m // (PIXELS * SAMPLE_TILES)
    pixel = tile_m // SAMPLE_TILES % PIXELS
    offs_m = tile_m % SAMPLE_TILES * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = offs_m < SAMPLES
    mask_n = in_bounds(offs_n, WIDTH, BLOCK_N)
    sample = group * SAMPLES + offs_m
    offs = (sample * PIXELS + pixel)[:, None] * WIDTH + offs_n[None, :]
    mask = mask_m[:, None] & mask_n[None, :]

    # Input gradient, through Dropout, activation and the sums of BatchNorm
    dscore = load_f32(dscore_ptr, sample, mask_m)
    w = load_f32(w_ptr, pixel * WIDTH + offs_n, mask_n)
    dx = dscore[:, None] * w[None, :]
    if state_ptr is not None:
        dx = drop(dx, state_ptr, FIRST + offs, P, STREAM)
    z = load_f32(z_ptr, offs, mask)
    dp = norm_epilogue(
        dx, None, z, bn, mask_m, offs_n, mask_n, tile_m, TILES_M, WIDTH, ACT, SLOPE, NORM, GROUPS
    )
    tl.store(dp_ptr + offs, dp.to(dp_ptr.dtype.element_ty), mask=mask)

    # Weight gradient: one partial sum for each tile of samples
    if x_ptr is not None:
        part = group * SAMPLE_TILES + tile_m % SAMPLE_TILES
        dw = tl.sum(dscore[:, None] * load_f32(x_ptr, offs, mask), 0)
        tl.store(dw_ptr + (part * PIXELS + pixel) * WIDTH + offs_n, dw, mask=mask_n)
        if db_ptr is not None:
            if (pixel == 0) & (tile_n == 0):
                tl.store(db_ptr + part, tl.sum(dscore, 0))

    # Statistics, by the last programs
    merge_stats(
        bn, offs_n, mask_n, tile_m, tile_n, TILES_M, WIDTH, NORM, GROUPS, COUNT, EPS, MOMENTUM,
    )  # fmt: skip


def head_gradient(
    dscore: Array, w: Array, norm: BatchGradStats, act: str | None = "leaky_relu",
    slope: float = 0.2, mask: DropoutMask | None = None, state: Array | None = None,
    x: Array | None = None, dw: Array | None = None, db: Array | None = None, bias: bool = False,
) -> tuple[Array, Array | None, Array | None]:  # fmt: skip
    """Return (dp, dw, db) and fill in dgamma, dbeta and means of norm.

    dscore       (N,), with further axes of size 1
    w            as many values as a sample of norm.z (N, ..., K), in its order
    act, slope   of the activation between BatchNorm and the last layer
    mask, state  of the Dropout after that activation; (2,) int64: the seed and the step
    x            the input of the last layer, like norm.z: for the weight gradient
    bias         whether the layer has a bias: for db
    dw, db       arrays for partial sums, or new ones: float32 (parts, *w.shape) and (parts, 1);
                 both None without x
    """
    z, K, groups = norm.z, norm.width, norm.groups
    launch.require_equal((dscore.size, len(z)), (w.size * len(z), z.size), (z.shape[-1], K))
    launch.require_equal((len(z) % groups, 0), (mask is None, state is None))
    launch.require_shapes(z.shape, z if x is None else x)
    launch.require_shapes((2,), state)
    samples, pixels = len(z) // groups, z.size // (len(z) * K)
    parts = groups * launch.cdiv(samples, TILE["BLOCK_M"])
    tiles_m, tiles_n = parts * pixels, launch.cdiv(K, TILE["BLOCK_N"])
    if x is not None and dw is None:
        dw = launch.empty(z, (parts, *w.shape), "float32")
    if x is not None and bias and db is None:
        db = launch.empty(z, (parts, 1), "float32")
    for partials, shape in ((dw, (parts, *w.shape)), (db, (parts, 1))):
        if partials is not None:
            launch.require_equal((partials.shape, shape), (partials.dtype, "float32"))
    dp = launch.empty(z, z.shape)
    arrays, constants = norm.arguments(tiles_m, tiles_n, z.size // K)
    constants |= {"SAMPLES": samples, "PIXELS": pixels, "WIDTH": K, "TILES_M": tiles_m}
    constants |= {"ACT": act, "SLOPE": slope, **mask_constants(mask), **TILE}
    pointers = dscore, w, z, x, state, arrays, dp, dw, db
    launch.run(head_gradient_kernel, (tiles_m * tiles_n,), *pointers, **constants)
    return dp, dw, db
