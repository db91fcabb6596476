"""The elementwise parts of a gradient penalty. The mathematics is in rawgan/penalties.py.

squared_norms                  |g[n]|^2 of each sample
wgan_gp_value, r1_value        the penalty and its derivatives, from the squared norms
scale_samples, interpolate     elementwise, with a factor per sample
penalty_step                   norms, penalty and its gradient in one launch, in a planned step
critic_inputs, critic_pairs    the inputs of all critic steps of a planned step in one launch
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.reduce_terms import mean_terms, sum_rows
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.epilogue import in_bounds, load_f32
from rawgan.kernels.tile.loss_terms import loss_term
from rawgan.kernels.tile.metrics import metrics_arrays, metrics_row_ptr
from rawgan.kernels.tile.philox import bits_to_uniform, philox_bits
from rawgan.kernels.tile.reduce import is_last_program

CONFIG = {"BLOCK": 1024, "num_warps": 4}
PARTIAL_SIZE = 2**16  # values of a sample per partial sum of its squared norm


@triton.jit
def blend_kernel(
    x_ptr,
    y_ptr,
    factor_ptr,
    out_ptr,
    SIZE: tl.constexpr,
    ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """out[n] = factor[n] x[n], and with y + (1 - factor[n]) y[n].

    Tile: BLOCK values of all samples, ROW to a sample.
    """
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = in_bounds(offs, SIZE, BLOCK)
    factor = load_f32(factor_ptr, offs // ROW, mask)
    out = factor * load_f32(x_ptr, offs, mask)
    if y_ptr is not None:
        out += (1.0 - factor) * load_f32(y_ptr, offs, mask)
    tl.store(out_ptr + offs, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def penalty_step_kernel(
    g_ptr, ddx_ptr, arrays, step_counter_ptr, N: tl.constexpr, SIZE: tl.constexpr,
    ONE_SIDED: tl.constexpr, WEIGHT: tl.constexpr, METRICS_ROWS: tl.constexpr,
    METRICS_COLUMNS: tl.constexpr, COLUMN: tl.constexpr, SAMPLES: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """P = WEIGHT mean (|g[n]| - 1)^2 and ddx[n] = dP/dg[n] = WEIGHT / N 2 (|g| - 1) g / |g|.

    Tile: one sample of SIZE values, BLOCK at a time. The last program adds the penalties and the
    norms of all samples, in their order, and writes the metrics.
    """
    wait_for_previous_kernel(PDL)
    # Squared norm of sample n
    n = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, SIZE, BLOCK):
        g = load_f32(g_ptr, n * SIZE + first + lane, first + lane < SIZE)
        total += g * g
    squared = tl.sum(total, 0)
    # Its penalty, and the gradient of that
    value, factor = loss_term(squared, "grad_norm", ONE_SIDED)
    for start in range(0, SIZE, BLOCK):
        inside = start + lane < SIZE
        ddx = load_f32(g_ptr, n * SIZE + start + lane, inside) * (factor * (WEIGHT / N))
        tl.store(ddx_ptr + n * SIZE + start + lane, ddx.to(ddx_ptr.dtype.element_ty), mask=inside)
    tl.store(arrays.per_sample + n, value * (WEIGHT / N))
    tl.store(arrays.per_sample + N + n, tl.sqrt(squared))
    # Last program: metrics, sums over all samples
    if is_last_program(arrays.counter, N):
        samples = tl.arange(0, SAMPLES)
        out_ptr = metrics_row_ptr(arrays, METRICS_ROWS, METRICS_COLUMNS, COLUMN)
        tl.store(out_ptr, tl.sum(load_f32(arrays.per_sample, samples, samples < N), 0))
        sum_norms = tl.sum(load_f32(arrays.per_sample, N + samples, samples < N), 0)
        tl.store(out_ptr + 1, sum_norms * (1.0 / N))
        tl.store(step_counter_ptr, tl.load(step_counter_ptr) + 1)


@triton.jit
def critic_inputs_kernel(
    real_ptr, fake_ptr, state_ptr, alpha_ptr, out_ptr, BATCH: tl.constexpr, SIZE: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out[i] = [real[i], fake[i]] of critic step i, and with alpha [real, fake, interpolated].

    interpolated = alpha real + (1 - alpha) fake, alpha uniform, one per sample.
    Tile: BLOCK values of one sample j = i BATCH + b.
    """
    wait_for_previous_kernel(PDL)
    PARTS: tl.constexpr = 2 if alpha_ptr is None else 3
    # Offsets: sample b of part 0 of step i
    j = tl.program_id(1)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = in_bounds(offs, SIZE, BLOCK)
    out_offs = ((j // BATCH * PARTS) * BATCH + j % BATCH) * SIZE + offs
    # Real and fake
    real = load_f32(real_ptr, j * SIZE + offs, mask)
    fake = load_f32(fake_ptr, j * SIZE + offs, mask)
    dtype = out_ptr.dtype.element_ty
    tl.store(out_ptr + out_offs, real.to(dtype), mask=mask)
    tl.store(out_ptr + out_offs + BATCH * SIZE, fake.to(dtype), mask=mask)
    # Interpolated; alpha j of stream 1
    if alpha_ptr is not None:
        word, _, _, _ = philox_bits(state_ptr, tl.zeros((1,), tl.int32) + j, 1)
        alpha = bits_to_uniform(word, 0.0, 1.0)
        interpolated = alpha * real + (1.0 - alpha) * fake
        tl.store(out_ptr + out_offs + 2 * BATCH * SIZE, interpolated.to(dtype), mask=mask)
        if tl.program_id(0) == 0:
            tl.store(alpha_ptr + j + tl.arange(0, 1), alpha)


def squared_norms(g: Array) -> Array:
    """Return |g[n]|^2 (N,) float32 of g (N, ...) in any dtype."""
    N = len(g)
    partials = launch.cdiv(g.size // N, PARTIAL_SIZE)
    if partials == 1:
        return sum_rows(g, launch.empty(g, (N,), "float32"), square=True)
    sums = launch.empty(g, (N, partials), "float32")
    return sum_rows(
        sum_rows(g, sums, square=True, partials=partials), launch.empty(g, (N,), "float32")
    )


def wgan_gp_value(squared: Array, weight: float, one_sided: bool = False) -> tuple[Array, Array]:
    """Return P = weight mean (|g| - 1)^2 and the factors f with dP/dg = f g, from |g|^2 (N,)."""
    launch.require_shapes((squared.size,), squared)
    return mean_terms((squared, "grad_norm", float(one_sided), weight))


def r1_value(squared: Array, weight: float) -> tuple[Array, Array]:
    """Return P = weight / 2 mean |g|^2 and the factors f with dP/dg = f g, from |g|^2 (N,)."""
    launch.require_shapes((squared.size,), squared)
    return mean_terms((squared, "r1", 0.0, weight))


def scale_samples(g: Array, factor: Array) -> Array:
    """Return factor[n] g[n]; factor has one number per sample, in any floating-point dtype."""
    return _blend(g, None, factor)


def interpolate(real: Array, fake: Array, alpha: Array) -> Array:
    """Return alpha[n] real[n] + (1 - alpha[n]) fake[n]; alpha in any floating-point dtype."""
    launch.require_equal((real.shape, fake.shape), (real.dtype, fake.dtype))
    return _blend(real, fake, alpha)


def _blend(x: Array, y: Array | None, factor: Array) -> Array:
    launch.require_equal((factor.size, len(x)))
    out = launch.empty(x, x.shape)
    grid = (launch.cdiv(x.size, CONFIG["BLOCK"]),)
    launch.run(blend_kernel, grid, x, y, factor, out, SIZE=x.size, ROW=x.size // len(x), **CONFIG)
    return out


def penalty_step(
    g: Array, ddx: Array, metrics: Array, state: Array, step_counter: Array, weight: float,
    one_sided: bool = False, column: int = 0,
) -> None:  # fmt: skip
    """Write ddx = dP/dg of WGAN-GP's penalty P of g (N, ...), and the metrics.

    Row `step mod rows` of metrics (rows, columns) gets P and the mean of |g| from `column` on;
    state (2,) int64: the seed and the step. step_counter (1,) int32 is raised by 1.
    """
    N, (rows, columns) = len(g), metrics.shape
    launch.require_equal((g.shape, ddx.shape))
    arrays = metrics_arrays(g, metrics, state, step_counter, range(column, column + 2))
    constants = {"N": N, "SIZE": g.size // N, "ONE_SIDED": float(one_sided), "WEIGHT": weight}
    constants |= {"METRICS_ROWS": rows, "METRICS_COLUMNS": columns, "COLUMN": column}
    constants |= {"SAMPLES": triton.next_power_of_2(N)}
    launch.run(penalty_step_kernel, (N,), g, ddx, arrays, step_counter, **constants, **CONFIG)


def critic_inputs(real: Array, fake: Array, state: Array, alpha: Array, out: Array) -> None:
    """Fill out (n, 3, B, ...) with the inputs of n critic steps: real, fake and interpolated.

        interpolated = alpha real + (1 - alpha) fake,  alpha ~ U(0, 1), one per sample

    real and fake are (n B, ...); alpha (n B,) float32 is filled from stream 1 of the step.
    """
    launch.require_shapes((2,), state)
    launch.require_shapes((len(real),), alpha)
    _critic_inputs(3, real, fake, state, alpha, out)


def critic_pairs(real: Array, fake: Array, out: Array) -> None:
    """Fill out (n, 2, B, ...) with the inputs of n critic steps without penalty: real and fake."""
    _critic_inputs(2, real, fake, None, None, out)


def _critic_inputs(
    parts: int, real: Array, fake: Array, state: Array | None, alpha: Array | None, out: Array
) -> None:
    n, _, B = out.shape[:3]
    launch.require_equal((real.shape, fake.shape), (len(real), n * B))
    launch.require_equal((out.shape, (n, parts, B, *real.shape[1:])))
    size = real.size // len(real)
    grid = (launch.cdiv(size, CONFIG["BLOCK"]), len(real))
    pointers = real, fake, state, alpha, out
    launch.run(critic_inputs_kernel, grid, *pointers, BATCH=B, SIZE=size, **CONFIG)
