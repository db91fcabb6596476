"""The last steps of a loss kernel: sums over the samples, to a row of the metrics."""

from typing import NamedTuple

import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.epilogue import load_f32


class MetricsArrays(NamedTuple):
    """The arrays through which the programs of a loss kernel sum up their samples."""

    # (2, N) float32: of each sample its loss, and what the metrics average: the score or the
    # probability (discriminator_head), the probability (acgan_step), the norm |g| (penalty_step)
    per_sample: Array
    counter: Array  # (1,) int32: programs that have finished, see reduce.is_last_program
    metrics: Array  # (rows, columns) float32
    state: Array  # (2,) int64: the seed and the step


def metrics_arrays(
    like: Array, metrics: Array, state: Array, step_counter: Array | None, columns: range
) -> MetricsArrays:
    """Return the arrays of a loss kernel for the samples of `like`.

    columns: those of the metrics that it writes. Raises ValueError where metrics does not have
    them, and for a state that is not (2,) or a step_counter that is not (1,).
    """
    launch.require_shapes((2,), state)
    launch.require_shapes((1,), step_counter)
    rows, width = metrics.shape
    if not (0 <= columns.start and columns.stop <= width):
        raise ValueError(f"metrics {rows, width} have no columns {columns.start} to {columns[-1]}")
    per_sample = launch.empty(like, (2, len(like)), "float32")
    return MetricsArrays(per_sample, array_module(like).zeros(1, "int32"), metrics, state)


@triton.jit
def metrics_row_ptr(
    arrays, METRICS_ROWS: tl.constexpr, METRICS_COLUMNS: tl.constexpr, COLUMN: tl.constexpr
):
    """Return the pointer to `COLUMN` of row `step mod METRICS_ROWS` of the metrics."""
    row = tl.load(arrays.state + 1) % METRICS_ROWS
    return arrays.metrics + row * METRICS_COLUMNS + COLUMN


@triton.jit
def store_metrics(
    arrays, N: tl.constexpr, REAL: tl.constexpr, FAKE: tl.constexpr, REAL_SCALE: tl.constexpr,
    FAKE_SCALE: tl.constexpr, ADD: tl.constexpr, METRICS_ROWS: tl.constexpr,
    METRICS_COLUMNS: tl.constexpr, COLUMN: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """Write a row of the metrics: the loss, and the means of the real and of the fake samples.

    Called by the last program, for sums over all N samples in their order. The first REAL samples
    are real, the FAKE after them fake; a mean over no samples is not written. ADD: the loss is
    added to the row's.
    """
    samples = tl.arange(0, SAMPLES)
    scores = load_f32(arrays.per_sample, N + samples, samples < N)
    out_ptr = metrics_row_ptr(arrays, METRICS_ROWS, METRICS_COLUMNS, COLUMN)
    loss = tl.sum(load_f32(arrays.per_sample, samples, samples < N), 0)
    if ADD:
        loss += tl.load(out_ptr)
    tl.store(out_ptr, loss)
    if REAL > 0:
        tl.store(out_ptr + 1, tl.sum(tl.where(samples < REAL, scores, 0.0), 0) * REAL_SCALE)
    if FAKE > 0:
        inside = (samples >= REAL) & (samples < REAL + FAKE)
        tl.store(out_ptr + 2, tl.sum(tl.where(inside, scores, 0.0), 0) * FAKE_SCALE)
