"""Adam and RMSprop over the flat parameter vector of a network, fused with all that follows a step.

One launch per step. Each program takes BLOCK parameters and, in this order,

    sums the split-K partials of their gradient      tile/reduce.py, in a fixed order
    updates the optimizer's moments and theta        rawgan/optim.py has the equations
    clips theta to [-CLIP, CLIP]                     WGAN
    stores theta in lower precision                  the copy that the next forward pass reads
    updates the moving average of theta              rawgan/ema.py

Step number and learning rate are read from device memory, so that a captured CUDA graph can be
replayed.
"""

from math import log2
from typing import NamedTuple

import numpy as np
import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.ema import ema_update
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.epilogue import load_f32
from rawgan.kernels.tile.reduce import (
    sum_partials_parallel,
    sum_partials_sequential,
)

# A program adds up to FEW partials one after another, for BLOCK parameters; more partials it adds
# BLOCK_PARTIALS at a time, for BLOCK // BLOCK_PARTIALS parameters.
CONFIG = {"BLOCK": 1024, "FEW": 8, "BLOCK_PARTIALS": 32, "num_warps": 4}
VECTOR = 4  # float32 values in an access of 16 bytes, the widest


class OptimizerArrays(NamedTuple):
    """Arrays of every optimizer: parameters and second moments (n,), step (1,), lr (1,)."""

    theta: Array
    v: Array
    step: Array
    lr: Array


@triton.jit
def _partials_row(table_ptr, ALIGNMENT: tl.constexpr):
    """Return this program's row of the table: (start in theta, count, start in g, split_k, size).

    Partial i of parameter start + j lies at g[start in g + i * size + j]. All but split_k are
    multiples of ALIGNMENT, which the last factor shows to the compiler.
    """
    row = table_ptr + tl.program_id(0) * 5
    return (
        tl.load(row) // ALIGNMENT * ALIGNMENT,
        tl.load(row + 1) // ALIGNMENT * ALIGNMENT,
        tl.load(row + 2) // ALIGNMENT * ALIGNMENT,
        tl.load(row + 3),
        tl.load(row + 4) // ALIGNMENT * ALIGNMENT,
    )


@triton.jit
def adam_update(
    g, offs, mask, arrays, m_ptr, theta_lowp_ptr, step_counter_ptr, average_ptr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, LOG2_BETA1: tl.constexpr, LOG2_BETA2: tl.constexpr,
    EPS: tl.constexpr, EPSILON_HAT: tl.constexpr, DECAY: tl.constexpr, CLIP: tl.constexpr,
    EMA_WEIGHT: tl.constexpr,
):  # fmt: skip
    """Update the parameters at offs from their gradient g.

        Adam                v = beta2 v + (1 - beta2) g^2      m = beta1 m + (1 - beta1) g
                            theta -= lr (m / c1) / (sqrt(v / c2) + eps)     c1, c2 = 1 - beta^t
        RMSprop (no m)      theta -= lr / (1 + DECAY (t - 1)) g / (sqrt(v) + eps)    rho = BETA2

    EPSILON_HAT: eps is added to sqrt(v) before the correction, as in Keras.
    """
    # Moments
    lr = tl.load(arrays.lr)
    v = BETA2 * load_f32(arrays.v, offs, mask) + (1 - BETA2) * (g * g)
    tl.store(arrays.v + offs, v, mask=mask)
    if m_ptr is not None:
        m = BETA1 * load_f32(m_ptr, offs, mask) + (1 - BETA1) * g
        tl.store(m_ptr + offs, m, mask=mask)
        # 1 - beta^t in float64: in float32 it loses half its digits while t is small
        t = tl.load(arrays.step).to(tl.float64)
        update = m / (1 - tl.exp2(t * LOG2_BETA1)).to(tl.float32)
        correction = (1 - tl.exp2(t * LOG2_BETA2)).to(tl.float32)
        v = v / correction
        eps = EPS / tl.sqrt(correction) if EPSILON_HAT else EPS
    else:
        update = g
        lr = lr / (1 + DECAY * (tl.load(arrays.step).to(tl.float32) - 1))
        eps = EPS
    # Parameters; clipped by comparisons, so that NaN stays NaN
    theta = load_f32(arrays.theta, offs, mask) - lr * update / (tl.sqrt(v) + eps)
    if CLIP is not None:
        theta = tl.where(theta > CLIP, CLIP, tl.where(theta < -CLIP, -CLIP, theta))
    tl.store(arrays.theta + offs, theta, mask=mask)
    # Copy in lower precision, moving average, number of the next training step
    if theta_lowp_ptr is not None:
        theta_lowp = theta.to(theta_lowp_ptr.dtype.element_ty)
        tl.store(theta_lowp_ptr + offs, theta_lowp, mask=mask)
    if average_ptr is not None:
        average = ema_update(load_f32(average_ptr, offs, mask), theta, EMA_WEIGHT)
        tl.store(average_ptr + offs, average, mask=mask)
    if step_counter_ptr is not None:
        if tl.program_id(0) == 0:
            tl.store(step_counter_ptr, tl.load(step_counter_ptr) + 1)


@triton.jit
def adam_kernel(
    arrays, g_ptr, m_ptr, theta_lowp_ptr, table_ptr, step_counter_ptr, average_ptr,
    SIZE: tl.constexpr, SPLIT_K: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr,
    LOG2_BETA1: tl.constexpr, LOG2_BETA2: tl.constexpr, EPS: tl.constexpr,
    EPSILON_HAT: tl.constexpr, DECAY: tl.constexpr, CLIP: tl.constexpr, EMA_WEIGHT: tl.constexpr,
    ALIGNMENT: tl.constexpr, FEW: tl.constexpr, BLOCK_PARTIALS: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Fused gradient sum + Adam or RMSprop + clipping + low-precision copy + moving average.

    Tile: BLOCK parameters; with a table the parameters of one of its rows, of which there are at
    most BLOCK, or BLOCK // BLOCK_PARTIALS where their gradient has more than FEW partials.
    """
    wait_for_previous_kernel(PDL)
    lane = tl.arange(0, BLOCK)
    if table_ptr is None:
        # g (SPLIT_K, SIZE): the same number of partials for all parameters
        offs = tl.program_id(0) * BLOCK + lane
        g = sum_partials_sequential(g_ptr, offs, offs < SIZE, SPLIT_K, SIZE)
        adam_update(
            g, offs, offs < SIZE, arrays, m_ptr, theta_lowp_ptr, step_counter_ptr, average_ptr,
            BETA1, BETA2, LOG2_BETA1, LOG2_BETA2, EPS, EPSILON_HAT, DECAY, CLIP, EMA_WEIGHT,
        )  # fmt: skip
    else:
        start, count, first, split_k, size = _partials_row(table_ptr, ALIGNMENT)
        if split_k <= FEW:
            # Few partials: one after another, for BLOCK parameters
            g = sum_partials_sequential(g_ptr, first + lane, lane < count, split_k, size)
            adam_update(
                g, start + lane, lane < count, arrays, m_ptr, theta_lowp_ptr, step_counter_ptr,
                average_ptr, BETA1, BETA2, LOG2_BETA1, LOG2_BETA2, EPS, EPSILON_HAT, DECAY, CLIP,
                EMA_WEIGHT,
            )  # fmt: skip
        else:
            # Many partials: BLOCK_PARTIALS at a time, for fewer parameters
            narrow = tl.arange(0, BLOCK // BLOCK_PARTIALS)
            sums = sum_partials_parallel(
                g_ptr, first + narrow, narrow < count, split_k, size, BLOCK_PARTIALS
            )
            adam_update(
                sums, start + narrow, narrow < count, arrays, m_ptr, theta_lowp_ptr,
                step_counter_ptr, average_ptr, BETA1, BETA2, LOG2_BETA1, LOG2_BETA2, EPS,
                EPSILON_HAT, DECAY, CLIP, EMA_WEIGHT,
            )  # fmt: skip


@triton.jit
def sum_partials_kernel(
    g_ptr, table_ptr, out_ptr, ALIGNMENT: tl.constexpr, FEW: tl.constexpr,
    BLOCK_PARTIALS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out[j] = sum over i of g[first + i size + j]: the parameters of one row of the table."""
    wait_for_previous_kernel(PDL)
    lane = tl.arange(0, BLOCK)
    start, count, first, split_k, size = _partials_row(table_ptr, ALIGNMENT)
    if split_k <= FEW:
        # Few partials: one after another, for BLOCK parameters
        sums = sum_partials_sequential(g_ptr, first + lane, lane < count, split_k, size)
        tl.store(out_ptr + start + lane, sums, mask=lane < count)
    else:
        # Many partials: BLOCK_PARTIALS at a time, for fewer parameters
        narrow = tl.arange(0, BLOCK // BLOCK_PARTIALS)
        totals = sum_partials_parallel(
            g_ptr, first + narrow, narrow < count, split_k, size, BLOCK_PARTIALS
        )
        tl.store(out_ptr + start + narrow, totals, mask=narrow < count)


def adam(
    theta: Array,
    g: Array,
    m: Array,
    v: Array,
    step: Array,
    lr: Array,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    theta_lowp: Array | None = None,
    table: Array | None = None,
    alignment: int = 1,
    step_counter: Array | None = None,
    clip: float | None = None,
    average: Array | None = None,
    average_decay: float = 0.0,
    epsilon_hat: bool = False,
) -> None:
    """Take one step of Adam: update theta, m and v (n,) float32 in place.

    g             float32, (n,), or (split_k, n), summed over the partials, or laid out as a table
                  of partials_table describes
    alignment     table_alignment of the table
    step, lr      (1,) int32, the number t of this step from 1; (1,) float32
    theta_lowp    (n,) in any floating-point dtype: gets a copy of theta
    step_counter  (1,) int64: the number of the training step, raised by 1
    clip          theta is limited to [-clip, clip] after the step
    average       (n,) float32: the moving average of theta, updated with average_decay

    Raise ValueError for sizes that disagree and for g in another dtype.
    """
    constants = {"BETA1": betas[0], "LOG2_BETA1": _log2(betas[0])}
    constants |= {"BETA2": betas[1], "LOG2_BETA2": _log2(betas[1])}
    constants |= {"EPS": eps, "EPSILON_HAT": epsilon_hat, "DECAY": 0.0}
    constants |= {"CLIP": clip, "EMA_WEIGHT": 1 - average_decay}
    arrays = OptimizerArrays(theta, v, step, lr)
    constants |= {"ALIGNMENT": alignment}
    _launch(arrays, g, m, theta_lowp, table, step_counter, average, **constants)


def rmsprop(
    theta: Array,
    g: Array,
    v: Array,
    step: Array,
    lr: Array,
    rho: float = 0.9,
    eps: float = 1e-7,
    decay: float = 0.0,
    theta_lowp: Array | None = None,
    table: Array | None = None,
    alignment: int = 1,
    step_counter: Array | None = None,
    clip: float | None = None,
    average: Array | None = None,
    average_decay: float = 0.0,
) -> None:
    """Take one step of RMSprop: update theta and v (n,) float32 in place.

    rho, eps and decay are those of optim.RMSprop; the other arguments and errors are adam's.
    """
    constants = {"BETA1": 0.0, "BETA2": rho, "LOG2_BETA1": 0.0, "LOG2_BETA2": 0.0}
    constants |= {"EPS": eps, "EPSILON_HAT": False, "DECAY": decay}
    constants |= {"CLIP": clip, "EMA_WEIGHT": 1 - average_decay}
    arrays = OptimizerArrays(theta, v, step, lr)
    constants |= {"ALIGNMENT": alignment}
    _launch(arrays, g, None, theta_lowp, table, step_counter, average, **constants)


def _launch(
    arrays: OptimizerArrays, g: Array, m: Array | None, theta_lowp: Array | None,
    table: Array | None, step_counter: Array | None, average: Array | None, **constants,
) -> None:  # fmt: skip
    """Launch adam_kernel; without m it computes RMSprop."""
    theta = arrays.theta
    grid, split_k = _grid(theta, g, table, m, arrays.v, theta_lowp, average)
    launch.require_shapes((1,), arrays.step, arrays.lr, step_counter)
    constants |= {"SIZE": theta.size, "SPLIT_K": split_k}
    pointers = arrays, g, m, theta_lowp, table, step_counter, average
    launch.run(adam_kernel, grid, *pointers, **constants, **CONFIG)


def sum_partials(theta: Array, g: Array, table: Array, alignment: int = 1) -> Array:
    """Return the gradient of theta (n,), float32, summed over its partials in adam's order.

    For data-parallel training, which averages the gradient over the ranks before the step.
    """
    grid, _ = _grid(theta, g, table)
    out = launch.empty(theta, theta.shape, "float32")
    launch.run(sum_partials_kernel, grid, g, table, out, ALIGNMENT=alignment, **CONFIG)
    return out


def partials_table(parts: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Return the table that tells each program of adam and rmsprop its parameters, (rows, 5) int32.

    parts: of each parameter array (start in theta, size, start in g, split_k); its split_k partials
    of `size` values follow one another in g. The parts have to cover theta.
    """
    rows = []
    for theta, size, g, split_k in parts:
        block = CONFIG["BLOCK"] // (1 if split_k <= CONFIG["FEW"] else CONFIG["BLOCK_PARTIALS"])
        rows += [
            (theta + start, min(size - start, block), g + start, split_k, size)
            for start in range(0, size, block)
        ]
    return np.array(rows, np.int32)


def table_alignment(table: np.ndarray) -> int:
    """Return VECTOR where a table's starts, counts and sizes are multiples of it, else 1.

    Then every access of the optimizers is VECTOR values wide.
    """
    aligned = table[:, [0, 1, 2, 4]] % VECTOR == 0
    return VECTOR if aligned.all() else 1


def _grid(
    theta: Array, g: Array, table: Array | None, *others: Array | None
) -> tuple[tuple[int], int]:
    """Return the grid, and split_k where no table gives it.

    Raise ValueError for g not in float32.
    """
    if g.dtype != "float32":
        raise ValueError(f"the optimizers take gradients in float32, got {g.dtype}")
    launch.require_equal(*((theta.size, a.size) for a in others if a is not None))
    if table is not None:
        launch.require_shapes((len(table), 5), table)
        return (len(table),), 1
    launch.require_equal((g.size % theta.size, 0))
    return (launch.cdiv(theta.size, CONFIG["BLOCK"]),), g.size // theta.size


def _log2(beta: float) -> float:
    """Return log2(beta), and for beta = 0 an exponent so low that beta^t is 0."""
    return log2(beta) if beta else -1e4
