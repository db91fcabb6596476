"""Normalisation: sums over the reduced axes, then an elementwise pass.

The mathematics is in rawgan/ops/norm.py.

An array is seen as (A, M, B) with the reduced axes M in the middle: BatchNorm has A = 1, B =
channels; LayerNorm A = samples, B = 1; InstanceNorm A = samples, B = channels. The sum over M is
split: a program stores float32 partial sums of BLOCK_B columns, and a second kernel adds them in a
fixed order. Mean and variance are computed as count, mean and sum of squared distances, by
Welford's recursion in each lane, merged as in Chan et al. 1983: unlike E(x^2) - mean^2 that keeps
its digits when the mean is large, and it is one pass over x. Statistics are float32 whatever the
arrays hold. (The statistics of a GEMM's output need no pass at all: tile/batch_stats.py.)
"""

from math import prod

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.gemm_config import split
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.epilogue import in_bounds, load_f32
from rawgan.kernels.tile.reduce import merge_batch_stats, sum_partials_parallel

Axes = tuple[int, ...]
TILE = 2048  # values that a program reads in a step
SUMS = {"mean": 1, "product": 1, "moments": 3, "dx": 2, "dx2": 5}
MERGE = {"BLOCK": 32, "num_warps": 4}
ELEMENTWISE = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def norm_sums_kernel(
    u_ptr, v_ptr, w_ptr, partials_ptr,
    KIND: tl.constexpr, M: tl.constexpr, B: tl.constexpr, SUMS: tl.constexpr,
    PARTIALS: tl.constexpr, STEPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Partial sums over M of u, v and w, each (A, M, B): partials (A, PARTIALS, SUMS, B).

        "mean"      u                          "moments"   count, mean, squared distances of u
        "product"   u v                        "dx"        u, u v
        "dx2"       u, v, u v, w v, w u

    Program (a, tile of BLOCK_B columns; partial i) goes through STEPS x BLOCK_M rows. Each lane
    sums rows of its own; the lanes are added at the end.
    """
    wait_for_previous_kernel(PDL)
    # Offsets
    TILES_B: tl.constexpr = (B + BLOCK_B - 1) // BLOCK_B
    ROWS: tl.constexpr = STEPS * BLOCK_M
    a = tl.program_id(0) // TILES_B
    i = tl.program_id(1)
    offs_b = tl.program_id(0) % TILES_B * BLOCK_B + tl.arange(0, BLOCK_B)
    mask_b = in_bounds(offs_b, B, BLOCK_B)

    # Main loop over the rows
    s0 = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
    s1 = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
    s2 = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
    s3 = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
    s4 = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
    for step in range(STEPS):
        offs_m = i * ROWS + step * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = in_bounds(offs_m, M, ROWS)[:, None] & mask_b[None, :]
        offs = (a * M + offs_m)[:, None] * B + offs_b[None, :]
        u = load_f32(u_ptr, offs, mask)
        if KIND == "mean":
            s0 += u
        elif KIND == "product":
            s0 += u * load_f32(v_ptr, offs, mask)
        elif KIND == "moments":  # Welford: count, mean, squared distances from it
            d = tl.where(mask, u - s1, 0.0)
            s0 += mask.to(tl.float32)
            s1 += d * (1.0 / (step + 1))  # a lane inside was inside in all steps before
            s2 += d * tl.where(mask, u - s1, 0.0)
        elif KIND == "dx":
            s0 += u
            s1 += u * load_f32(v_ptr, offs, mask)
        else:
            tl.static_assert(KIND == "dx2", "KIND must be mean, product, moments, dx or dx2")
            v = load_f32(v_ptr, offs, mask)
            w = load_f32(w_ptr, offs, mask)
            s0 += u
            s1 += v
            s2 += u * v
            s3 += w * v
            s4 += w * u

    # The lanes together
    out_ptr = partials_ptr + ((a * PARTIALS + i) * SUMS) * B + offs_b
    if KIND == "moments":
        count = tl.sum(s0, 0)
        mean = tl.sum(s0 * s1, 0) / tl.maximum(count, 1.0)
        distance = s1 - mean[None, :]
        tl.store(out_ptr, count, mask=mask_b)
        tl.store(out_ptr + B, mean, mask=mask_b)
        tl.store(out_ptr + 2 * B, tl.sum(s2 + s0 * distance * distance, 0), mask=mask_b)
    else:
        tl.store(out_ptr, tl.sum(s0, 0), mask=mask_b)
        if SUMS > 1:
            tl.store(out_ptr + B, tl.sum(s1, 0), mask=mask_b)
        if SUMS > 2:
            tl.store(out_ptr + 2 * B, tl.sum(s2, 0), mask=mask_b)
            tl.store(out_ptr + 3 * B, tl.sum(s3, 0), mask=mask_b)
            tl.store(out_ptr + 4 * B, tl.sum(s4, 0), mask=mask_b)


@triton.jit
def norm_means_kernel(
    partials_ptr, out_ptr, DIVISOR: tl.constexpr, B: tl.constexpr, AB: tl.constexpr,
    SUMS: tl.constexpr, PARTIALS: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out[sum, a, b] = sum of the partials / DIVISOR, BLOCK of SUMS AB values."""
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SUMS * AB
    first = (offs % AB // B * PARTIALS * SUMS + offs // AB) * B + offs % B
    total = sum_partials_parallel(partials_ptr, first, mask, PARTIALS, SUMS * B)
    tl.store(out_ptr + offs, (total / DIVISOR).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def norm_moments_kernel(
    partials_ptr, out_ptr, B: tl.constexpr, AB: tl.constexpr, PARTIALS: tl.constexpr,
    EPS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (3, AB) = mean, variance, rstd, merged from the partials of norm_sums_kernel."""
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < AB
    n, mean, m2 = merge_batch_stats(
        partials_ptr, offs // B * PARTIALS * 3 * B + offs % B, mask, PARTIALS, B
    )
    var = m2 / tl.maximum(n, 1.0)
    tl.store(out_ptr + offs, mean, mask=mask)
    tl.store(out_ptr + AB + offs, var, mask=mask)
    tl.store(out_ptr + 2 * AB + offs, 1.0 / tl.sqrt(var + EPS), mask=mask)


@triton.jit
def norm_apply_kernel(
    u_ptr, v_ptr, w_ptr, p_ptr, q_ptr, out_ptr, KIND: tl.constexpr,
    SIZE: tl.constexpr, M: tl.constexpr, B: tl.constexpr, AB: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """out from u, v, w (A, M, B) and statistics p, q (A, B), BLOCK of SIZE values.

    "affine"        u p + q                  "dx"    (u - p_0 - v p_1) q
    "standardize"   (u - p) q                "dx2"   normalize_dx2 of ops/norm.py
    """
    wait_for_previous_kernel(PDL)
    # Values, and the statistics of their (a, b)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = in_bounds(offs, SIZE, BLOCK)
    stat = offs // (M * B) * B + offs % B  # index of (a, b)
    u = load_f32(u_ptr, offs, mask)
    p = load_f32(p_ptr, stat, mask)
    q = load_f32(q_ptr, stat, mask)

    # The formula of this kind
    if KIND == "affine":
        out = u * p + q
    elif KIND == "standardize":
        out = (u - p) * q
    elif KIND == "dx":
        out = (u - p - load_f32(v_ptr, offs, mask) * load_f32(p_ptr, stat + AB, mask)) * q
    else:  # u, v, w = ddx, dxhat, xhat; p: means in the order of norm_sums_kernel
        tl.static_assert(KIND == "dx2", "KIND must be affine, standardize, dx or dx2")
        v = load_f32(v_ptr, offs, mask)
        w = load_f32(w_ptr, offs, mask)
        mean_v = load_f32(p_ptr, stat + AB, mask)
        mean_wv = load_f32(p_ptr, stat + 3 * AB, mask)
        mean_wu = load_f32(p_ptr, stat + 4 * AB, mask)
        mean_u_projected_v = load_f32(p_ptr, stat + 2 * AB, mask) - p * mean_v - mean_wu * mean_wv
        # P(mean_wv u + mean_wu v): the derivative through xhat
        through_xhat = mean_wv * (u - p) + mean_wu * (v - mean_v) - 2.0 * mean_wu * mean_wv * w
        out = -q * q * (w * mean_u_projected_v + through_xhat)
    tl.store(out_ptr + offs, out.to(out_ptr.dtype.element_ty), mask=mask)


def _view(shape: tuple[int, ...], kept: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (A, M, B) for statistics of shape `kept`, which broadcasts against `shape`.

    Raises ValueError unless the reduced axes follow one another.
    """
    kept = (1,) * (len(shape) - len(kept)) + tuple(kept)
    reduced = [i for i, (n, m) in enumerate(zip(shape, kept)) if n != m] or [0, -1]
    A, B = prod(shape[: reduced[0]]), prod(shape[reduced[-1] + 1 :])
    if A * B != prod(kept) or A * B == 0:
        raise ValueError(f"statistics of shape {kept} do not fit an array of shape {shape}")
    return A, prod(shape) // (A * B), B


def kept_shape(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
    """Return the shape with each of the axes 1."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _partial_sums(
    kind: str, axes: Axes, u: Array, v: Array | None = None, w: Array | None = None
) -> tuple[Array, tuple[int, ...]]:
    """Return partial sums, float32 (A, partials, sums, B), and the shape of the statistics."""
    launch.require_equal(*((u.shape, a.shape) for a in (v, w) if a is not None))
    kept = kept_shape(u.shape, axes)
    A, M, B = _view(u.shape, kept)
    block_b = min(64, triton.next_power_of_2(B))
    block_m = min(TILE // block_b, triton.next_power_of_2(M))
    tiles = A * launch.cdiv(B, block_b)
    steps, partials = split(launch.cdiv(M, block_m), tiles, launch.multiprocessors(u))
    sums = SUMS[kind]
    partial_sums = launch.empty(u, (A, partials, sums, B), "float32")
    launch.run(
        norm_sums_kernel, (tiles, partials), u, v, w, partial_sums, KIND=kind, M=M, B=B, SUMS=sums,
        PARTIALS=partials, STEPS=steps, BLOCK_M=block_m, BLOCK_B=block_b, num_warps=4,
    )  # fmt: skip
    return partial_sums, kept


def _mean_of_partials(partials: Array, out: Array, divisor: int) -> Array:
    """Compute out (sums, *kept) = sum of partials (A, n, sums, B) / divisor."""
    A, count, sums, B = partials.shape
    launch.require_equal((out.size, sums * A * B))
    sizes = {"DIVISOR": divisor, "B": B, "AB": A * B, "SUMS": sums, "PARTIALS": count}
    launch.run(
        norm_means_kernel, (launch.cdiv(out.size, MERGE["BLOCK"]),), partials, out, **sizes, **MERGE
    )
    return out


def _means(kind: str, axes: Axes, *arrays: Array) -> Array:
    """Return the means (sums, *kept), float32, that norm_sums_kernel lists for `kind`."""
    partials, kept = _partial_sums(kind, axes, *arrays)
    means = launch.empty(partials, (partials.shape[2], *kept))
    return _mean_of_partials(partials, means, arrays[0].size // prod(kept))


def _apply(
    kind: str, p: Array, q: Array, u: Array, v: Array | None = None, w: Array | None = None
) -> Array:
    A, M, B = _view(u.shape, q.shape)
    several = (len(p),) if p.ndim > q.ndim else ()  # the means of several sums
    launch.require_shapes((*several, *q.shape), p)
    out = launch.empty(u, u.shape)
    sizes = {"SIZE": u.size, "M": M, "B": B, "AB": A * B}
    launch.run(
        norm_apply_kernel,
        (launch.cdiv(u.size, 1024),),
        u,
        v,
        w,
        p,
        q,
        out,
        KIND=kind,
        **sizes,
        **ELEMENTWISE,
    )
    return out


def mean(axes: Axes, *factors: Array) -> Array:
    """Return the mean over axes of one array, or of the product of two, float32."""
    return _means("mean" if len(factors) == 1 else "product", axes, *factors)[0]


def bias_db(dy: Array, out: Array | None = None) -> Array:
    """Return the sums over all axes but the last, in dy's dtype or that of `out`."""
    partials, _ = _partial_sums("mean", (0,), dy.reshape(-1, dy.shape[-1]))
    out = launch.empty(dy, (dy.shape[-1],)) if out is None else out
    return _mean_of_partials(partials, out, 1)


def affine(x: Array, scale: Array, shift: Array) -> Array:
    """Return x scale + shift."""
    return _apply("affine", scale, shift, x)


def standardize(x: Array, mu: Array, rstd: Array) -> Array:
    """Return (x - mu) rstd."""
    return _apply("standardize", mu, rstd, x)


def normalize(x: Array, axes: Axes, eps: float) -> tuple[Array, Array, Array, Array]:
    """Return (xhat, rstd, mean, variance) over axes."""
    partials, kept = _partial_sums("moments", axes, x)
    A, count, _, B = partials.shape
    moments = launch.empty(partials, (3, *kept))
    grid = (launch.cdiv(A * B, MERGE["BLOCK"]),)
    launch.run(
        norm_moments_kernel,
        grid,
        partials,
        moments,
        B=B,
        AB=A * B,
        PARTIALS=count,
        EPS=eps,
        **MERGE,
    )
    mu, var, rstd = moments
    return standardize(x, mu, rstd), rstd, mu, var


def normalize_dx(dxhat: Array, xhat: Array, rstd: Array, axes: Axes) -> Array:
    """Return dx = (dxhat - E(dxhat) - xhat E(xhat dxhat)) rstd."""
    return _apply("dx", _means("dx", axes, dxhat, xhat), rstd, dxhat, xhat)


def normalize_dx2(ddx: Array, dxhat: Array, xhat: Array, rstd: Array, axes: Axes) -> Array:
    """Return the gradient of <ddx, normalize_dx(dxhat, x)> by x."""
    return _apply("dx2", _means("dx2", axes, ddx, dxhat, xhat), rstd, ddx, dxhat, xhat)
