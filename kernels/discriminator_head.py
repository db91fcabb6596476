"""The last layer of a discriminator with the loss, its gradient and the metrics, in one launch.

    score[n] = sum over j of x[n, j] w[j] + b      dscore[n] = d loss / d score[n]

The layer is a dot product with the whole of a sample: a Linear, or a Conv2d whose filter has the
size of its input. Losses are terms of tile/loss_terms.py: one for the first `real` samples and one
for the `fake` ones after them, each a mean over its own. Samples after those have no loss and
gradient 1: a gradient penalty takes the gradient of the score itself. Where x is the output of an
activation without BatchNorm, or of Dropout after it, dx through both is computed too.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.activation import activate, activate_dx
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.dropout import DropoutMask, drop, mask_constants
from rawgan.kernels.tile.epilogue import load_f32
from rawgan.kernels.tile.loss_terms import loss_term
from rawgan.kernels.tile.metrics import metrics_arrays, store_metrics
from rawgan.kernels.tile.reduce import is_last_program

# Values of a sample that a program reads at a time: their loads do not wait for each other
LARGEST_BLOCK = 8192

Side = tuple[str, float]  # a loss term and its parameter


@triton.jit
def discriminator_head_kernel(
    x_ptr, w_ptr, b_ptr, score_ptr, dscore_ptr, dx_ptr, arrays, step_counter_ptr,
    N: tl.constexpr, REAL: tl.constexpr, FAKE: tl.constexpr, SIZE: tl.constexpr,
    REAL_LOSS_TERM: tl.constexpr, REAL_LOSS_PARAM: tl.constexpr, REAL_SCALE: tl.constexpr,
    FAKE_LOSS_TERM: tl.constexpr, FAKE_LOSS_PARAM: tl.constexpr, FAKE_SCALE: tl.constexpr,
    WEIGHT: tl.constexpr, PROBABILITY: tl.constexpr, ADD: tl.constexpr, ACT: tl.constexpr,
    SLOPE: tl.constexpr, P: tl.constexpr, STREAM: tl.constexpr, FIRST: tl.constexpr,
    METRICS_ROWS: tl.constexpr, METRICS_COLUMNS: tl.constexpr, COLUMN: tl.constexpr,
    SAMPLES: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """score = x w + b, loss, dscore, and with dx_ptr dx = dscore w act'(x), times a mask.

    GEMM view: M = N samples, N = 1, K = SIZE. Tile: one sample, BLOCK values at a time. The last
    program adds the losses and the scores of all samples, in their order, and writes the metrics.
    """
    wait_for_previous_kernel(PDL)
    # Main loop: the score of sample n
    n = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, SIZE, BLOCK):
        offs = first + lane
        total += load_f32(x_ptr, n * SIZE + offs, offs < SIZE) * load_f32(w_ptr, offs, offs < SIZE)
    score = tl.sum(total, 0)
    if b_ptr is not None:
        score += tl.load(b_ptr).to(tl.float32)
    # Loss and gradient, by the side of the sample
    real, real_derivative = loss_term(score, REAL_LOSS_TERM, REAL_LOSS_PARAM)
    fake, fake_derivative = loss_term(score, FAKE_LOSS_TERM, FAKE_LOSS_PARAM)
    real_loss = real * REAL_SCALE
    fake_loss = tl.where(n < REAL + FAKE, fake * FAKE_SCALE, 0.0)
    loss = tl.where(n < REAL, real_loss, fake_loss) * WEIGHT
    dreal = real_derivative * (REAL_SCALE * WEIGHT)
    dfake = tl.where(n < REAL + FAKE, fake_derivative * (FAKE_SCALE * WEIGHT), 1.0)
    dscore = tl.where(n < REAL, dreal, dfake)
    # Store them, and the score or the probability that the metrics average
    tl.store(score_ptr + n, score.to(score_ptr.dtype.element_ty))
    tl.store(dscore_ptr + n, dscore.to(dscore_ptr.dtype.element_ty))
    tl.store(arrays.per_sample + n, loss)
    if PROBABILITY:
        score = activate(score, "sigmoid", 0.0)
    tl.store(arrays.per_sample + N + n, score)
    # Gradient of the layer below, through its Dropout and activation
    if dx_ptr is not None:
        for start in range(0, SIZE, BLOCK):
            j = start + lane
            x = load_f32(x_ptr, n * SIZE + j, j < SIZE)
            dx = activate_dx(dscore * load_f32(w_ptr, j, j < SIZE), x, ACT, SLOPE)
            if P > 0:
                dx = drop(dx, arrays.state, FIRST + n * SIZE + j, P, STREAM)
            tl.store(dx_ptr + n * SIZE + j, dx.to(dx_ptr.dtype.element_ty), mask=j < SIZE)
    # Last program: metrics, sums over all samples
    if is_last_program(arrays.counter, N):
        store_metrics(
            arrays, N, REAL, FAKE, REAL_SCALE, FAKE_SCALE, ADD, METRICS_ROWS, METRICS_COLUMNS,
            COLUMN, SAMPLES,
        )  # fmt: skip
        if step_counter_ptr is not None:
            tl.store(step_counter_ptr, tl.load(step_counter_ptr) + 1)


def discriminator_head(
    x: Array, w: Array, metrics: Array, state: Array, real: int, real_side: Side | None,
    fake_side: Side | None, b: Array | None = None, fake: int | None = None, weight: float = 1.0,
    probability: bool = True, column: int = 0, add: bool = False, act: str | None = None,
    slope: float = 0.2, dx: bool = False, mask: DropoutMask | None = None,
    step_counter: Array | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    """Return (score, dscore), and with dx (score, dscore, dx); write the metrics.

    x, w, b       (N, ...), any shape of as many values as a sample, (1,); score and dscore are
                  (N, 1, ...) with x.ndim axes
    real, fake    the first `real` samples have real_side, the next `fake` (default: the rest)
                  have fake_side, each a Side
    metrics       (rows, columns) float32: from `column` on, row `step mod rows` gets the loss and
                  the mean score of the real and of the fake samples; a mean over no samples is not
                  written
    state         (2,) int64: the seed and the step
    weight        of the loss
    probability   average sigmoids instead of scores
    add           add the loss to the row's instead of replacing it
    act           of the layer below, ReLU, LeakyReLU or None: dx is the gradient before it
    mask          of the Dropout after that activation
    step_counter  (1,) int32, raised by 1: the step of the optimizer that minimizes this loss
    """
    N, (rows, columns) = len(x), metrics.shape
    fake = N - real if fake is None else fake
    launch.require_equal((w.size, x.size // N))
    launch.require_shapes((1,), b)
    shape = (N, *[1] * (x.ndim - 1))
    score, dscore = launch.empty(x, shape), launch.empty(x, shape)
    gradient = launch.empty(x, x.shape) if dx else None
    written = range(column, column + (3 if fake else 2))
    arrays = metrics_arrays(x, metrics, state, step_counter, written)
    (real_term, real_param), (fake_term, fake_param) = (
        side or ("linear", 0.0) for side in (real_side, fake_side)
    )
    constants = {"N": N, "REAL": real, "FAKE": fake, "SIZE": w.size}
    constants |= {"REAL_LOSS_TERM": real_term, "REAL_LOSS_PARAM": real_param}
    constants |= {"FAKE_LOSS_TERM": fake_term, "FAKE_LOSS_PARAM": fake_param}
    constants |= {"REAL_SCALE": 1 / max(real, 1), "FAKE_SCALE": 1 / max(fake, 1)}
    constants |= {"WEIGHT": weight, "PROBABILITY": probability, "ADD": add}
    constants |= {"METRICS_ROWS": rows, "METRICS_COLUMNS": columns, "COLUMN": column}
    constants |= {"SAMPLES": triton.next_power_of_2(N), "ACT": act, "SLOPE": slope}
    constants |= mask_constants(mask)
    pointers = x, w, b, score, dscore, gradient, arrays, step_counter
    block = min(max(triton.next_power_of_2(w.size), 1024), LARGEST_BLOCK)
    config = {"BLOCK": block, "num_warps": 4 if block == 1024 else 8, "maxnreg": 128}
    launch.run(discriminator_head_kernel, (N,), *pointers, **constants, **config)
    return (score, dscore, gradient) if dx else (score, dscore)
