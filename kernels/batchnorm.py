"""BatchNorm and the activation after it, between two GEMMs that do most of the work.

The mathematics is in rawgan/ops/norm.py. In training mode, for a layer between two convolutions:

    forward    z = conv2d(x, w, norm=BatchStats(gamma, beta, ...))
                                                    the epilogue takes the statistics
               y = batchnorm_apply_act(z, stats, act)
                                                    y = act(scale z + shift)
    backward   dp = conv2d_dx(dy_above, w_above, norm=BatchGradStats(z, stats), act=act)
                                                    through act, with dgamma, dbeta and means
               dz = batchnorm_apply_dx(dp, z, stats, means)
                                                    dz = scale (dp - E(dp) - zhat E(zhat dp))

So a BatchNorm costs one elementwise launch in each direction. Of the forward pass only z is kept:
zhat and the activation are computed again, which is cheaper than loading them. Where a GEMM cannot
take the statistics (a Linear whose outputs are the pixels of an image, Dropout in between),
`compute_batch_stats` and `compute_batch_grad_stats` do it in a pass over the array. In inference
mode the statistics are the running ones, which do not depend on z:

    forward    y = act(p),  p = scale z + shift                           batchnorm_infer_act
    Jacobian   dy/dz = diag(act'(p) scale)                                batchnorm_infer_dx

It is diagonal and its own transpose: the same kernel is the gradient and the JVP of a gradient
penalty.

stats (5, groups, K) are mean, variance, rstd, scale = gamma rstd and shift = beta - mean scale of
each group of samples: see tile/batch_stats.py.
"""

import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.activation import activate, activate_dx_from_input
from rawgan.kernels.tile.batch_stats import BatchGradStats, BatchStats, norm_epilogue
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.epilogue import in_bounds, load_f32
from rawgan.kernels.tile.merge_stats import MEAN, RSTD, SCALE, SHIFT, VARIANCE, merge_stats
from rawgan.kernels.tile.reduce import is_last_program, sum_partials_parallel

ELEMENTWISE = {"BLOCK": 1024, "num_warps": 4}
TILE = {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8}


@triton.jit
def batchnorm_apply_act_kernel(
    z_ptr, stats_ptr, y_ptr,
    SIZE: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y = act(scale z + shift) for BLOCK of SIZE values, GROUP in each group, K channels last."""
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = in_bounds(offs, SIZE, BLOCK)
    channel = offs // GROUP * K + offs % K  # in a row of stats
    scale = load_f32(stats_ptr + SCALE * GROUPS * K, channel, mask)
    shift = load_f32(stats_ptr + SHIFT * GROUPS * K, channel, mask)
    y = activate(scale * load_f32(z_ptr, offs, mask) + shift, ACT, SLOPE)
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def batchnorm_apply_dx_kernel(
    dp_ptr, z_ptr, stats_ptr, means_ptr, dz_ptr,
    SIZE: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """dz = scale (dp - means[0] - zhat means[1]); without means dz = scale dp. Sizes as forward."""
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = in_bounds(offs, SIZE, BLOCK)
    channel = offs // GROUP * K + offs % K
    dp = load_f32(dp_ptr, offs, mask)
    if means_ptr is not None:  # batch statistics depend on z
        rstd = load_f32(stats_ptr + RSTD * GROUPS * K, channel, mask)
        zhat = (
            load_f32(z_ptr, offs, mask) - load_f32(stats_ptr + MEAN * GROUPS * K, channel, mask)
        ) * rstd
        dp = (
            dp
            - load_f32(means_ptr, channel, mask)
            - zhat * load_f32(means_ptr + GROUPS * K, channel, mask)
        )
    dz = load_f32(stats_ptr + SCALE * GROUPS * K, channel, mask) * dp
    tl.store(dz_ptr + offs, dz.to(dz_ptr.dtype.element_ty), mask=mask)


@triton.jit
def batch_stats_kernel(
    x_ptr, z_ptr, bn,
    WIDTH: tl.constexpr, TILES_M: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr,
    MOMENTUM: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BatchStats of x (GROUPS COUNT, WIDTH), or in its place the gradient and BatchGradStats.

    A program takes BLOCK_M rows x BLOCK_N columns of one group of COUNT rows; there are TILES_M
    tiles of rows. NORM as in norm_epilogue: "batch_stats" reads x, "batch_grad_stats" replaces x
    by act'(scale z + shift) x.
    """
    wait_for_previous_kernel(PDL)
    # Offsets of the tile, within its group
    TILES_N: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    GROUP_TILES: tl.constexpr = TILES_M // GROUPS
    tile_m = tl.program_id(0) // TILES_N
    tile_n = tl.program_id(0) % TILES_N
    offs_m = tile_m % GROUP_TILES * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = offs_m < COUNT
    mask_n = offs_n < WIDTH
    offs = (tile_m // GROUP_TILES * COUNT + offs_m)[:, None] * WIDTH + offs_n[None, :]
    mask = mask_m[:, None] & mask_n[None, :]

    # Statistics, as in a GEMM's epilogue
    x = load_f32(x_ptr, offs, mask)
    if z_ptr is None:
        z = None
    else:
        z = load_f32(z_ptr, offs, mask)
    dp = norm_epilogue(
        x, None, z, bn, mask_m, offs_n, mask_n, tile_m, TILES_M, WIDTH, ACT, SLOPE, NORM, GROUPS
    )
    if z_ptr is not None:
        tl.store(x_ptr + offs, dp.to(x_ptr.dtype.element_ty), mask=mask)
    merge_stats(
        bn, offs_n, mask_n, tile_m, tile_n, TILES_M, WIDTH, NORM, GROUPS, COUNT, EPS, MOMENTUM,
    )  # fmt: skip


@triton.jit
def batchnorm_infer_act_kernel(
    z_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, y_ptr, stats_ptr,
    SIZE: tl.constexpr, K: tl.constexpr, EPS: tl.constexpr, ACT: tl.constexpr,
    SLOPE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y = act(scale z + shift) by the running statistics, and stats (5, K)."""
    wait_for_previous_kernel(PDL)
    # Scale and shift of each value's channel
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = in_bounds(offs, SIZE, BLOCK)
    channel = offs % K
    mean = load_f32(mean_ptr, channel, mask)
    var = load_f32(var_ptr, channel, mask)
    rstd = 1.0 / tl.sqrt(var + EPS)
    scale = load_f32(gamma_ptr, channel, mask) * rstd
    shift = load_f32(beta_ptr, channel, mask) - mean * scale
    y = activate(scale * load_f32(z_ptr, offs, mask) + shift, ACT, SLOPE)
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)

    # The first K values write the statistics, one channel each
    first = offs < K
    tl.store(stats_ptr + MEAN * K + offs, mean, mask=first)
    tl.store(stats_ptr + VARIANCE * K + offs, var, mask=first)
    tl.store(stats_ptr + RSTD * K + offs, rstd, mask=first)
    tl.store(stats_ptr + SCALE * K + offs, scale, mask=first)
    tl.store(stats_ptr + SHIFT * K + offs, shift, mask=first)


@triton.jit
def batchnorm_infer_dx_kernel(
    dy_ptr, z_ptr, stats_ptr, upstream_ptr, dz_ptr, partials_ptr, counter_ptr, dgamma_ptr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, TILES_M: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """dz = scale act'(scale z + shift) dy, all (ROWS, WIDTH) row-major, stats (5, WIDTH).

    A program takes a tile of BLOCK_M rows and BLOCK_N columns; TILES_M tiles have the same columns.
    With upstream also dgamma[k] = rstd[k] sum over m of act'(p[m, k]) dy[m, k] upstream[m, k].
    """
    wait_for_previous_kernel(PDL)
    # Offsets of the tile
    TILES_N: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    tile_m = tl.program_id(0) // TILES_N
    tile_n = tl.program_id(0) % TILES_N
    offs_m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_n = offs_n < WIDTH
    offs = offs_m[:, None] * WIDTH + offs_n[None, :]
    mask = (offs_m < ROWS)[:, None] & mask_n[None, :]

    # Gradient before the activation, whose input p is computed again from z
    scale = load_f32(stats_ptr + SCALE * WIDTH, offs_n, mask_n)
    shift = load_f32(stats_ptr + SHIFT * WIDTH, offs_n, mask_n)
    p = load_f32(z_ptr, offs, mask) * scale[None, :] + shift[None, :]
    dp = activate_dx_from_input(load_f32(dy_ptr, offs, mask), p, ACT, SLOPE)
    dz = dp * scale[None, :]
    tl.store(dz_ptr + offs, dz.to(dz_ptr.dtype.element_ty), mask=mask)

    # dgamma: a partial sum for each tile; the last program of the column adds them
    if upstream_ptr is not None:
        partial = tl.sum(dp * load_f32(upstream_ptr, offs, mask), 0)  # masked rows load dy = 0
        tl.store(partials_ptr + tile_m * WIDTH + offs_n, partial, mask=mask_n)
        if is_last_program(counter_ptr + tile_n, TILES_M):
            rstd = load_f32(stats_ptr + RSTD * WIDTH, offs_n, mask_n)
            total = sum_partials_parallel(partials_ptr, offs_n, mask_n, TILES_M, WIDTH)
            tl.store(dgamma_ptr + offs_n, rstd * total, mask=mask_n)


def batchnorm_apply_act(
    z: Array, stats: Array, act: str | None = "relu", slope: float = 0.2, out: Array | None = None
) -> Array:
    """Return y = act(scale z + shift): z (N, ..., K), stats (5, groups, K)."""
    y = launch.empty(z, z.shape) if out is None else out
    launch.require_equal((y.shape, z.shape))
    grid = (launch.cdiv(z.size, ELEMENTWISE["BLOCK"]),)
    constants = {**_sizes(z, stats), "ACT": act, "SLOPE": slope, **ELEMENTWISE}
    launch.run(batchnorm_apply_act_kernel, grid, z, stats, y, **constants)
    return y


def batchnorm_apply_dx(dp: Array, z: Array, stats: Array, means: Array | None) -> Array:
    """Return dz = scale (dp - means[0] - zhat means[1]), zhat = (z - mean) rstd.

    dp, the gradient of p = scale z + shift, and z (N, ..., K), means (2, groups, K). Without means
    dz = scale dp: the statistics are the running ones, which do not depend on z.
    """
    shape = (2, *stats.shape[1:])
    launch.require_equal((dp.shape, z.shape), (shape, shape if means is None else means.shape))
    dz = launch.empty(z, z.shape)
    grid = (launch.cdiv(z.size, ELEMENTWISE["BLOCK"]),)
    constants = {**_sizes(z, stats), **ELEMENTWISE}
    launch.run(batchnorm_apply_dx_kernel, grid, dp, z, stats, means, dz, **constants)
    return dz


def compute_batch_stats(z: Array, norm: BatchStats) -> None:
    """Fill in norm.stats from z (N, ..., K) and update its running statistics."""
    _launch_stats(z, None, norm)


def compute_batch_grad_stats(
    dy: Array, norm: BatchGradStats, act: str | None = "relu", slope: float = 0.2
) -> Array:
    """Replace dy, the gradient of act(p), by that of p = scale z + shift, and return it.

    Fills in dgamma, dbeta and means of norm. dy has the shape of norm.z.
    """
    launch.require_equal((dy.shape, norm.z.shape))
    _launch_stats(dy, norm.z, norm, act, slope)
    return dy


def batchnorm_infer_act(
    z: Array, gamma: Array, beta: Array, mean: Array, var: Array, act: str | None = "relu",
    slope: float = 0.2, eps: float = 1e-5, out: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return (act(scale z + shift), stats (5, 1, K)) by the running statistics.

    z (N, ..., K); gamma, beta, mean and var (K,).
    """
    K = z.shape[-1]
    y = launch.empty(z, z.shape) if out is None else out
    launch.require_equal((y.shape, z.shape), *((a.shape, (K,)) for a in (gamma, beta, mean, var)))
    stats = launch.empty(z, (5, 1, K), "float32")
    grid = (launch.cdiv(z.size, ELEMENTWISE["BLOCK"]),)
    arrays = z, gamma, beta, mean, var, y, stats
    constants = {"SIZE": z.size, "K": K, "EPS": eps, "ACT": act, "SLOPE": slope, **ELEMENTWISE}
    launch.run(batchnorm_infer_act_kernel, grid, *arrays, **constants)
    return y, stats


def batchnorm_infer_dx(
    dy: Array, z: Array, stats: Array, act: str | None = "relu", slope: float = 0.2,
    upstream: Array | None = None, dgamma: Array | None = None,
) -> Array:  # fmt: skip
    """Return dz = scale act'(scale z + shift) dy, for statistics that do not depend on z.

    dy and z (N, ..., K), stats (5, 1, K) of batchnorm_infer_act. dy may be a tangent of z; then
    dz is that of y = act(scale z + shift). With `upstream`, a gradient of y like dy, the derivative
    of <upstream, dz> with respect to gamma is written to dgamma (K,) float32:

        dgamma[k] = rstd[k] sum over n, ... of act'(p) dy upstream

    which divides by no gamma, so that gamma may be 0. act: without curvature, or None.
    """
    K, rows = z.shape[-1], z.size // z.shape[-1]
    launch.require_equal((dy.shape, z.shape), (stats.shape, (5, 1, K)))
    dz = launch.empty(z, z.shape)
    tiles_m, tiles_n = launch.cdiv(rows, TILE["BLOCK_M"]), launch.cdiv(K, TILE["BLOCK_N"])
    partials = counter = None
    if upstream is not None:
        launch.require_equal((upstream.shape, z.shape))
        partials = launch.empty(z, (tiles_m, K), "float32")
        counter = array_module(z).zeros(tiles_n, "int32")
        dgamma = launch.empty(z, (K,), "float32") if dgamma is None else dgamma
        launch.require_equal((dgamma.shape, (K,)))
    arrays = dy, z, stats, upstream, dz, partials, counter, dgamma
    sizes = {"ROWS": rows, "WIDTH": K, "TILES_M": tiles_m, "ACT": act, "SLOPE": slope}
    launch.run(batchnorm_infer_dx_kernel, (tiles_m * tiles_n,), *arrays, **sizes, **TILE)
    return dz


def _sizes(z: Array, stats: Array) -> dict[str, int]:
    _, groups, K = stats.shape
    launch.require_equal((z.shape[-1], K), (len(z) % groups, 0))
    return {"SIZE": z.size, "GROUP": z.size // groups, "K": K, "GROUPS": groups}


def _launch_stats(
    x: Array, z: Array | None, norm: BatchStats | BatchGradStats,
    act: str | None = None, slope: float = 0.0,
) -> None:  # fmt: skip
    K, rows = x.shape[-1], x.size // x.shape[-1]
    launch.require_equal((norm.width, K), (len(x) % norm.groups, 0))
    tiles_m = norm.groups * launch.cdiv(rows // norm.groups, TILE["BLOCK_M"])
    tiles_n = launch.cdiv(K, TILE["BLOCK_N"])
    arrays, constants = norm.arguments(tiles_m, tiles_n, rows)
    sizes = {"WIDTH": K, "TILES_M": tiles_m, "ACT": act, "SLOPE": slope}
    launch.run(batch_stats_kernel, (tiles_m * tiles_n,), x, z, arrays, **sizes, **constants, **TILE)
