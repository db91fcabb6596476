"""The linear map and its gradients: three GEMMs of one kernel.

The mathematics is in rawgan/ops/linear.py.

    GEMM        rows M    columns N   sum over K   A                B
    linear      batch     outputs     inputs       x                w, transposed
    linear_dx   batch     inputs      outputs      dy               w
    linear_dw   outputs   inputs      batch        dy, transposed   x

A program computes one BLOCK_M x BLOCK_N tile in a float32 accumulator, in steps of BLOCK_K; bias,
activation and Dropout are applied before it is stored. Where there are fewer tiles than fill the
GPU, the sum over K is split over several programs (split-K): each stores its float32 partial sum,
and the last program of a tile to finish adds them. linear_dw computes the bias's gradient too.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels.gemm_config import pick, split, table, without_split
from rawgan.kernels.gemm_table import GemmKey, epilogue_name, gemm_key, measured
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.dot import dot
from rawgan.kernels.tile.dropout import DropoutMask, drop, mask_constants
from rawgan.kernels.tile.epilogue import epilogue, in_bounds, load_f32
from rawgan.kernels.tile.reduce import (
    is_last_program,
    sum_partials_parallel,
    sum_partials_sequential,
)

TILE = 1024  # partials that a program of add_partials_kernel reads at a time


@triton.jit
def _store_tile(
    y_ptr, acc, bias_ptr, saved_ptr, state_ptr, offs, mask, offs_n, mask_n, ACT: tl.constexpr,
    SLOPE: tl.constexpr, P: tl.constexpr, STREAM: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Store act(acc + bias), or act'(saved) acc, at offs; with state_ptr under a Dropout mask."""
    if saved_ptr is None:
        saved = None
    else:
        saved = load_f32(saved_ptr, offs, mask)
    acc = epilogue(acc, bias_ptr, saved, offs_n, mask_n, ACT, SLOPE)
    if state_ptr is not None:
        acc = drop(acc, state_ptr, FIRST + offs, P, STREAM)
    tl.store(y_ptr + offs, acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _sum_rows(
    dy_ptr, part, offs_m, mask_m, M: tl.constexpr, BIAS_ROWS: tl.constexpr, STEPS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return the sums of the first BIAS_ROWS rows of dy (K, M) over the STEPS blocks of a part.

    The rows are read a second time, from L1 or L2: a sum in the main loop would take registers and
    time of every program, while a part has few blocks, as K is the batch.
    """
    total = tl.zeros((offs_m.shape[0],), tl.float32)
    for step in range(STEPS):
        offs_k = (part * STEPS + step) * BLOCK_K + tl.arange(0, BLOCK_K)
        mask = mask_m[:, None] & (offs_k < BIAS_ROWS)[None, :]
        total += tl.sum(load_f32(dy_ptr, offs_k[None, :] * M + offs_m[:, None], mask), 1)
    return total


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, bias_ptr, saved_ptr, state_ptr, y_ptr, db_ptr, partials_ptr, db_partials_ptr,
    counter_ptr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    A_TRANSPOSED: tl.constexpr, B_TRANSPOSED: tl.constexpr,
    STEPS: tl.constexpr, PARTS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    P: tl.constexpr, STREAM: tl.constexpr, FIRST: tl.constexpr, BIAS_ROWS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """y = act(a b + bias), or with v (a b + bias) act'(v): a (M, K), b (K, N), row-major.

    A_TRANSPOSED: a is stored as (K, M); B_TRANSPOSED: b as (N, K). Program (tile, part) computes a
    BLOCK_M x BLOCK_N tile over STEPS blocks of K: partial sum `part` of PARTS (split-K). With
    partials_ptr (PARTS, M, N) the last program of a tile adds them, in their order; without it they
    are the output, y (PARTS, M, N). Epilogue of the whole sum: bias and act, or act'(v); Dropout.
    With db_ptr, for a = dy transposed, db[m] = sum over k < BIAS_ROWS of a[m, k], in parts as y.
    """
    wait_for_previous_kernel(PDL)
    # Offsets
    TILES_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    part = tl.program_id(1)
    offs_m = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = in_bounds(offs_m, M, BLOCK_M)
    mask_n = in_bounds(offs_n, N, BLOCK_N)

    # Main loop over blocks of K
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        offs_k = (part * STEPS + step) * BLOCK_K + tl.arange(0, BLOCK_K)
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

    # Bias gradient, by the programs of the first columns
    first_columns = pid % TILES_N == 0
    if db_ptr is not None:
        if first_columns:
            row_sums = _sum_rows(a_ptr, part, offs_m, mask_m, M, BIAS_ROWS, STEPS, BLOCK_K)
            if partials_ptr is None:
                db_offs = part * M + offs_m
                tl.store(db_ptr + db_offs, row_sums.to(db_ptr.dtype.element_ty), mask=mask_m)
            else:
                tl.store(db_partials_ptr + part * M + offs_m, row_sums, mask=mask_m)

    # Epilogue
    mask = mask_m[:, None] & mask_n[None, :]
    offs = offs_m[:, None] * N + offs_n[None, :]
    if partials_ptr is None:
        _store_tile(
            y_ptr + part * M * N, acc, bias_ptr, saved_ptr, state_ptr, offs, mask, offs_n, mask_n,
            ACT, SLOPE, P, STREAM, FIRST,
        )  # fmt: skip
    else:
        tl.store(partials_ptr + part * M * N + offs, acc, mask=mask)
        if is_last_program(counter_ptr + pid, PARTS):
            # Two at a time: a tile is many loads, and takes as many registers as acc
            total = sum_partials_sequential(partials_ptr, offs, mask, PARTS, M * N, 2)
            _store_tile(
                y_ptr, total, bias_ptr, saved_ptr, state_ptr, offs, mask, offs_n, mask_n, ACT,
                SLOPE, P, STREAM, FIRST,
            )  # fmt: skip
            if db_ptr is not None:
                if first_columns:
                    db = sum_partials_sequential(db_partials_ptr, offs_m, mask_m, PARTS, M)
                    tl.store(db_ptr + offs_m, db.to(db_ptr.dtype.element_ty), mask=mask_m)


@triton.jit
def add_partials_kernel(
    partials_ptr, out_ptr, SIZE: tl.constexpr, PARTIALS: tl.constexpr,
    BLOCK_PARTIALS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out = sum of PARTIALS partials, BLOCK of SIZE values."""
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SIZE
    total = sum_partials_parallel(partials_ptr, offs, mask, PARTIALS, SIZE, BLOCK_PARTIALS)
    tl.store(out_ptr + offs, total.to(out_ptr.dtype.element_ty), mask=mask)


def linear(
    x: Array, w: Array, b: Array | None = None, *, act: str | None = None, slope: float = 0.2,
    v: Array | None = None, mask: DropoutMask | None = None, state: Array | None = None,
    out: Array | None = None, precision: str = "tf32x3", config: launch.Config | None = None,
) -> Array:  # fmt: skip
    """Return y = act(x w' + b), or with v, an array like y, (x w' + b) act'(v).

    x (N, C), w (K, C), b (K,). mask: of Dropout after that; state (2,) int64: its seed and
    step. out: an array for y. precision and config: see gemm_config.py.
    """
    K, C = w.shape
    launch.require_shapes((len(x), C), x)
    launch.require_shapes((K,), b)
    sizes = {"N": len(x), "C": C, "K": K}
    key = gemm_key("linear", sizes, x, precision, epilogue_name(b, act, v))
    fused = Epilogue(b, v, act, slope, mask, state)
    y, _ = _matmul(
        key, x, w, len(x), K, C, fused, out=out, precision=precision, config=config,
        transposed=(False, True),
    )  # fmt: skip
    return y


def linear_dx(
    dy: Array, w: Array, *, act: str | None = None, slope: float = 0.2, v: Array | None = None,
    mask: DropoutMask | None = None, state: Array | None = None, out: Array | None = None,
    precision: str = "tf32x3", config: launch.Config | None = None,
) -> Array:  # fmt: skip
    """Return dx = dy w; with act and v, an array like dx, dx act'(v). Options: as for linear."""
    K, C = w.shape
    launch.require_shapes((len(dy), K), dy)
    sizes = {"N": len(dy), "C": C, "K": K}
    key = gemm_key("linear_dx", sizes, dy, precision, epilogue_name(None, act, v))
    fused = Epilogue(None, v, act, slope, mask, state)
    dx, _ = _matmul(key, dy, w, len(dy), C, K, fused, out=out, precision=precision, config=config)
    return dx


def linear_dw(
    x: Array, dy: Array, *, out: Array | None = None, partials: Array | bool | None = None,
    bias_rows: int | None = None, db: Array | None = None, precision: str = "tf32x3",
    config: launch.Config | None = None,
) -> Array | tuple[Array, Array]:  # fmt: skip
    """Return dw (K, C); with partials=True, or an array for them, its partial sums: see outputs.

    bias_rows: return (dw, db), db (K,) the sum of the first rows of dy; with partials it is
    partial sums too, float32 (count, K). db: an array for it.
    """
    (N, C), K = x.shape, dy.shape[1]
    launch.require_shapes((N, K), dy)
    epilogue = "none" if partials is None else "partials"
    key = gemm_key("linear_dw", {"N": N, "C": C, "K": K}, dy, precision, epilogue)
    dw, db = _matmul(
        key, dy, x, K, C, N, out=out, partials=partials, bias_rows=bias_rows, db=db,
        precision=precision, config=config, transposed=(True, False),
    )  # fmt: skip
    return dw if bias_rows is None else (dw, db)


class Epilogue(NamedTuple):
    """What a GEMM computes from its sum: act(sum + bias), or with v (sum + bias) act'(v).

    mask: of Dropout after that; state (2,) int64: its seed and step.
    """

    bias: Array | None = None
    v: Array | None = None
    act: str | None = None
    slope: float = 0.0
    mask: DropoutMask | None = None
    state: Array | None = None


PLAIN = Epilogue()


def _matmul(
    key: GemmKey, a: Array, b: Array, M: int, N: int, K: int, fused: Epilogue = PLAIN, *,
    out: Array | None = None, partials: Array | bool | None = None, bias_rows: int | None = None,
    db: Array | None = None, precision: str = "tf32x3", config: launch.Config | None = None,
    transposed: tuple[bool, bool] = (False, False),
) -> tuple[Array, Array | None]:  # fmt: skip
    """Return (the epilogue of a b, db), split over K where there are few tiles."""
    multiprocessors = launch.multiprocessors(a)
    if config is None:
        rule = pick(table(a.dtype, precision), (M, N), multiprocessors)
        _, config = measured(key, a, b) or ("pointer", rule)
    config, parts = without_split(config)
    tiles = launch.cdiv(M, config["BLOCK_M"]) * launch.cdiv(N, config["BLOCK_N"])
    steps, count = split(launch.cdiv(K, config["BLOCK_K"]), tiles, multiprocessors, parts)
    y, target = outputs(a, (M, N), count, out, partials)
    launch.require_equal((y.shape, y.shape if fused.v is None else fused.v.shape))
    launch.require_equal((fused.mask is None, fused.state is None))
    launch.require_shapes((2,), fused.state)
    counter = db_target = None
    if bias_rows is not None:
        shape, dtype = ((M,), a.dtype) if partials is None else ((count, M), "float32")
        db = launch.empty(a, shape, dtype) if db is None else db
        launch.require_equal((db.shape, shape), (db.dtype, dtype))
    if target is not y:  # the last program of each tile adds the partial sums
        counter = array_module(a).zeros(tiles, "int32")
        db_target = None if db is None else launch.empty(a, (count, M), "float32")
    launch.run(
        matmul_kernel, (tiles, count), a, b, fused.bias, fused.v, fused.state, y, db,
        None if target is y else target, db_target, counter,
        M=M, N=N, K=K, A_TRANSPOSED=transposed[0], B_TRANSPOSED=transposed[1], STEPS=steps,
        PARTS=count, ACT=fused.act, SLOPE=fused.slope, **mask_constants(fused.mask),
        BIAS_ROWS=bias_rows or 0, PRECISION=precision, key=key, **config,
    )  # fmt: skip
    return y, db


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


def sum_partials(partials: Array, out: Array) -> Array:
    """Compute out = sum of the partials (n, *out.shape) float32, in a fixed order."""
    # Partials are read side by side: one after another, a long sum would wait for each load
    block_partials = min(32, triton.next_power_of_2(len(partials)))
    block = TILE // block_partials
    grid = (launch.cdiv(out.size, block),)
    launch.run(
        add_partials_kernel, grid, partials, out, SIZE=out.size, PARTIALS=len(partials),
        BLOCK_PARTIALS=block_partials, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return out
