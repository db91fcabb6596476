"""The linear map and its gradients: three GEMMs of one kernel.

The mathematics is in rawgan/ops/linear.py.

    GEMM        rows M    columns N   sum over K   A                B
    linear      batch     outputs     inputs       x                w, transposed
    linear_dx   batch     inputs      outputs      dy               w
    linear_dw   outputs   inputs      batch        dy, transposed   x

A program computes one BLOCK_M x BLOCK_N tile in a float32 accumulator, in steps of BLOCK_K; bias
and activation are applied before it is stored. Where there are fewer tiles than fill the GPU, the
sum over K is split over several programs (split-K), whose float32 partial sums a second kernel
adds.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.gemm_config import pick, split, table, without_split
from rawgan.kernels.gemm_table import GemmKey, epilogue_name, gemm_key, measured
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.dot import dot
from rawgan.kernels.tile.epilogue import epilogue, in_bounds, load_f32
from rawgan.kernels.tile.reduce import sum_partials_parallel

TILE = 1024  # partials that a program of sum_partials reads at a time


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, bias_ptr, saved_ptr, y_ptr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    A_TRANSPOSED: tl.constexpr, B_TRANSPOSED: tl.constexpr,
    STEPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y = act(a b + bias), or with v (a b + bias) act'(v): a (M, K), b (K, N), row-major.

    A_TRANSPOSED: a is stored as (K, M); B_TRANSPOSED: b as (N, K). Program (tile, part) computes a
    BLOCK_M x BLOCK_N tile over STEPS blocks of K, and stores partial sum `part` of y (split-K, M,
    N). Epilogue: act and bias, or act'(v).
    """
    # Offsets
    TILES_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    offs_m = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = in_bounds(offs_m, M, BLOCK_M)
    mask_n = in_bounds(offs_n, N, BLOCK_N)

    # Main loop over blocks of K
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        offs_k = (tl.program_id(1) * STEPS + step) * BLOCK_K + tl.arange(0, BLOCK_K)
        mask_k = in_bounds(offs_k, K, STEPS * BLOCK_K)
        if A_TRANSPOSED:
            a_offs = offs_k[None, :] * M + offs_m[:, None]
        else:
            a_offs = offs_m[:, None] * K + offs_k[None, :]
        if B_TRANSPOSED:
            b_offs = offs_n[None, :] * K + offs_k[:, None]
        else:
            b_offs = offs_k[:, None] * N + offs_n[None, :]
        a = tl.load(a_ptr + a_offs, mask=mask_m[:, None] & mask_k[None, :], other=0.0)
        b = tl.load(b_ptr + b_offs, mask=mask_k[:, None] & mask_n[None, :], other=0.0)
        acc = dot(a, b, acc, PRECISION)

    # Epilogue
    mask = mask_m[:, None] & mask_n[None, :]
    offs = offs_m[:, None] * N + offs_n[None, :]
    if saved_ptr is None:
        saved = None
    else:
        saved = load_f32(saved_ptr, offs, mask)
    acc = epilogue(acc, bias_ptr, saved, offs_n, mask_n, ACT, SLOPE)
    tl.store(y_ptr + tl.program_id(1) * M * N + offs, acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def sum_partials_epilogue_kernel(
    partials_ptr, bias_ptr, saved_ptr, out_ptr,
    SIZE: tl.constexpr, PARTIALS: tl.constexpr, N: tl.constexpr, ACT: tl.constexpr,
    SLOPE: tl.constexpr, BLOCK_PARTIALS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = act(sum of PARTIALS partials + bias) for BLOCK of SIZE values, N columns."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SIZE
    total = sum_partials_parallel(partials_ptr, offs, mask, PARTIALS, SIZE, BLOCK_PARTIALS)
    # The epilogue takes a tile: one row of BLOCK values
    if saved_ptr is None:
        saved = None
    else:
        saved = load_f32(saved_ptr, offs[None, :], mask[None, :])
    out = epilogue(total[None, :], bias_ptr, saved, offs % N, mask, ACT, SLOPE)
    tl.store(out_ptr + offs[None, :], out.to(out_ptr.dtype.element_ty), mask=mask[None, :])


def linear(
    x: Array, w: Array, b: Array | None = None, *, act: str | None = None, slope: float = 0.2,
    v: Array | None = None, out: Array | None = None, precision: str = "tf32x3",
    config: launch.Config | None = None,
) -> Array:  # fmt: skip
    """Return y = act(x w' + b), or with v, an array like y, (x w' + b) act'(v).

    x (N, C), w (K, C), b (K,). out: an array for y. precision and config: see gemm_config.py.
    """
    K, C = w.shape
    launch.require_shapes((len(x), C), x)
    launch.require_shapes((K,), b)
    key = gemm_key("linear", {"N": len(x), "C": C, "K": K}, x, precision, epilogue_name(b, act, v))
    return _matmul(
        key, x, w, len(x), K, C, bias=b, act=act, slope=slope, v=v, out=out, precision=precision,
        config=config, transposed=(False, True),
    )  # fmt: skip


def linear_dx(
    dy: Array, w: Array, *, act: str | None = None, slope: float = 0.2, v: Array | None = None,
    out: Array | None = None, precision: str = "tf32x3", config: launch.Config | None = None,
) -> Array:  # fmt: skip
    """Return dx = dy w; with act and v, an array like dx, dx act'(v)."""
    K, C = w.shape
    launch.require_shapes((len(dy), K), dy)
    key = gemm_key(
        "linear_dx", {"N": len(dy), "C": C, "K": K}, dy, precision, epilogue_name(None, act, v)
    )
    return _matmul(
        key, dy, w, len(dy), C, K, act=act, slope=slope, v=v, out=out, precision=precision,
        config=config,
    )  # fmt: skip


def linear_dw(
    x: Array, dy: Array, *, out: Array | None = None, partials: Array | bool | None = None,
    precision: str = "tf32x3", config: launch.Config | None = None,
) -> Array:  # fmt: skip
    """Return dw (K, C); with partials=True, or an array for them, its partial sums: see outputs."""
    (N, C), K = x.shape, dy.shape[1]
    launch.require_shapes((N, K), dy)
    epilogue = "none" if partials is None else "partials"
    key = gemm_key("linear_dw", {"N": N, "C": C, "K": K}, dy, precision, epilogue)
    return _matmul(
        key, dy, x, K, C, N, out=out, partials=partials, precision=precision,
        config=config, transposed=(True, False),
    )  # fmt: skip


def _matmul(
    key: GemmKey, a: Array, b: Array, M: int, N: int, K: int, *, bias: Array | None = None,
    act: str | None = None, slope: float = 0.0, v: Array | None = None, out: Array | None = None,
    partials: Array | bool | None = None, precision: str = "tf32x3",
    config: launch.Config | None = None, transposed: tuple[bool, bool] = (False, False),
) -> Array:  # fmt: skip
    """Return act(a b + bias), split over K where there are few tiles; then sum_partials ends it."""
    multiprocessors = launch.multiprocessors(a)
    if config is None:
        rule = pick(table(a.dtype, precision), (M, N), multiprocessors)
        _, config = measured(key, a, b) or ("pointer", rule)
    config, parts = without_split(config)
    tiles = launch.cdiv(M, config["BLOCK_M"]) * launch.cdiv(N, config["BLOCK_N"])
    steps, count = split(launch.cdiv(K, config["BLOCK_K"]), tiles, multiprocessors, parts)
    y, target = outputs(a, (M, N), count, out, partials)
    launch.require_equal((y.shape, y.shape if v is None else v.shape))
    whole = target is y  # partial sums are stored as they are
    launch.run(
        matmul_kernel, (tiles, count), a, b, bias if whole else None, v if whole else None, target,
        M=M, N=N, K=K, A_TRANSPOSED=transposed[0], B_TRANSPOSED=transposed[1], STEPS=steps,
        ACT=act if whole else None, SLOPE=slope if whole else 0.0, PRECISION=precision, key=key,
        **config,
    )  # fmt: skip
    return y if whole or partials is not None else sum_partials(target, y, bias, v, act, slope)


def outputs(
    like: Array, shape: tuple[int, ...], count: int, out: Array | None,
    partials: Array | bool | None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return (the result, the kernel's output) of a GEMM that is split into `count` partial sums.

    Both are the same array unless the partial sums have to be added into the result, which is `out`
    or a new array. With partials=True, or an array for them, the partial sums are the result:
    float32 (count, *shape), for the optimizer to add. Raises ValueError for arrays that do not fit.
    """
    if partials is not None:
        if partials is True:
            partials = launch.empty(like, (count, *shape), "float32")
        launch.require_equal((partials.shape, (count, *shape)), (partials.dtype, "float32"))
        return partials, partials
    y = launch.empty(like, shape) if out is None else out
    launch.require_equal((y.shape, shape))
    return y, y if count == 1 else launch.empty(like, (count, *shape), "float32")


def sum_partials(
    partials: Array, out: Array, b: Array | None = None, v: Array | None = None,
    act: str | None = None, slope: float = 0.0,
) -> Array:  # fmt: skip
    """Compute out = act(sum of the partials + b) in a fixed order, or with v (sum + b) act'(v).

    partials (n, *out.shape) float32, b along the last axis, v like out.
    """
    # Partials are read side by side: one after another, a long sum would wait for each load
    block_partials = min(32, triton.next_power_of_2(len(partials)))
    block = TILE // block_partials
    grid = (launch.cdiv(out.size, block),)
    launch.run(
        sum_partials_epilogue_kernel, grid, partials, b, v, out, SIZE=out.size,
        PARTIALS=len(partials), N=out.shape[-1], ACT=act, SLOPE=slope,
        BLOCK_PARTIALS=block_partials, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return out
