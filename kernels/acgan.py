"""The loss of ACGAN in a planned step: value, gradient and metrics of all 1 + K scores, one launch.

    loss = mean f(s[n, 0]) + mean( log sum_k exp(s[n, 1 + k]) - s[n, 1 + label[n]] )

f is a loss term of tile/loss_terms.py, one for the first `real` samples and one for the others, and
each mean is over its own samples. The mathematics is in rawgan/losses.py. The scores come from a
product, unlike those of discriminator_head.py.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.discriminator_head import Side
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.activation import activate
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.epilogue import load_f32
from rawgan.kernels.tile.loss_terms import loss_term
from rawgan.kernels.tile.metrics import metrics_arrays, store_metrics
from rawgan.kernels.tile.reduce import is_last_program

TILE = 512  # scores per program


@triton.jit
def acgan_step_kernel(
    s_ptr, labels_ptr, ds_ptr, arrays, step_counter_ptr,
    N: tl.constexpr, REAL: tl.constexpr, SCORES: tl.constexpr,
    REAL_LOSS_TERM: tl.constexpr, REAL_LOSS_PARAM: tl.constexpr, REAL_SCALE: tl.constexpr,
    FAKE_LOSS_TERM: tl.constexpr, FAKE_LOSS_PARAM: tl.constexpr, FAKE_SCALE: tl.constexpr,
    WEIGHT: tl.constexpr, ADD: tl.constexpr, METRICS_ROWS: tl.constexpr,
    METRICS_COLUMNS: tl.constexpr, COLUMN: tl.constexpr, SAMPLES: tl.constexpr,
    PROGRAMS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Loss and gradient of the scores, and the metrics.

    Tile: ROWS samples x BLOCK scores. The last program adds the losses and the probabilities of all
    samples, in their order, and writes the metrics.
    """
    wait_for_previous_kernel(PDL)
    # Offsets: column 0 is the score of "real", the others are the classes
    offs_n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    offs_k = tl.arange(0, BLOCK)
    mask_n = offs_n < N
    mask = mask_n[:, None] & (offs_k < SCORES)[None, :]
    offs = offs_n[:, None] * SCORES + offs_k[None, :]
    classes = mask & (offs_k > 0)[None, :]
    s = load_f32(s_ptr, offs, mask)
    # Cross-entropy of the classes, from the largest score of each row
    top = tl.where(mask_n, tl.max(tl.where(classes, s, float("-inf")), 1), 0.0)
    e = tl.where(classes, tl.exp(s - top[:, None]), 0.0)
    sum_e = tl.where(mask_n, tl.sum(e, 1), 1.0)
    label = tl.load(labels_ptr + offs_n, mask=mask_n, other=0)
    hit = classes & (offs_k[None, :] - 1 == label[:, None])
    class_loss = tl.log(sum_e) - tl.sum(tl.where(hit, s - top[:, None], 0.0), 1)
    class_derivative = e / sum_e[:, None] - hit.to(tl.float32)
    # The loss of "real", by the term of the sample's side
    source = tl.sum(tl.where((offs_k == 0)[None, :], s, 0.0), 1)
    real_loss, real_derivative = loss_term(source, REAL_LOSS_TERM, REAL_LOSS_PARAM)
    fake_loss, fake_derivative = loss_term(source, FAKE_LOSS_TERM, FAKE_LOSS_PARAM)
    is_real = offs_n < REAL
    scale = tl.where(is_real, REAL_SCALE * WEIGHT, FAKE_SCALE * WEIGHT)
    loss = (tl.where(is_real, real_loss, fake_loss) + class_loss) * scale
    derivative = tl.where(is_real, real_derivative, fake_derivative)
    # Store the gradient, and each sample's loss and probability of "real"
    ds = tl.where((offs_k == 0)[None, :], derivative[:, None], class_derivative) * scale[:, None]
    tl.store(ds_ptr + offs, ds.to(ds_ptr.dtype.element_ty), mask=mask)
    tl.store(arrays.per_sample + offs_n, loss, mask=mask_n)
    tl.store(arrays.per_sample + N + offs_n, activate(source, "sigmoid", 0.0), mask=mask_n)
    # Last program: metrics, sums over all samples
    if is_last_program(arrays.counter, PROGRAMS):
        store_metrics(
            arrays, N, REAL, N - REAL, REAL_SCALE, FAKE_SCALE, ADD, METRICS_ROWS, METRICS_COLUMNS,
            COLUMN, SAMPLES,
        )  # fmt: skip
        if step_counter_ptr is not None:
            tl.store(step_counter_ptr, tl.load(step_counter_ptr) + 1)


def acgan_step(
    scores: Array, labels: Array, metrics: Array, state: Array, real: int, real_side: Side | None,
    fake_side: Side | None, weight: float = 1.0, column: int = 0, add: bool = False,
    step_counter: Array | None = None,
) -> Array:  # fmt: skip
    """Return the gradient of the scores (N, 1 + K), in their dtype, and write the metrics.

    labels        (N,) int32 in [0, K)
    real          the first `real` samples have real_side, the others fake_side, each a Side
    metrics       (rows, columns) float32: from `column` on, row `step mod rows` gets the loss and
                  the mean probability of "real" of the real and of the fake samples; a mean over
                  no samples is not written
    state         (2,) int64: the seed and the step
    weight        of the loss
    add           add the loss to the row's instead of replacing it
    step_counter  (1,) int32, raised by 1
    """
    (N, width), (rows, columns) = scores.shape, metrics.shape
    launch.require_equal((labels.shape, (N,)), (labels.dtype, "int32"))
    if width < 2:
        raise ValueError("ACGAN's scores are one of real or fake and one of each class, got one")
    block = max(2, triton.next_power_of_2(width))
    tile_rows = max(1, min(TILE // block, triton.next_power_of_2(N)))
    programs = launch.cdiv(N, tile_rows)
    dscores = launch.empty(scores, scores.shape)
    written = range(column, column + (3 if real < N else 2))
    arrays = metrics_arrays(scores, metrics, state, step_counter, written)
    (real_term, real_param), (fake_term, fake_param) = (
        side or ("linear", 0.0) for side in (real_side, fake_side)
    )
    constants = {"N": N, "REAL": real, "SCORES": width, "WEIGHT": weight, "ADD": add}
    constants |= {"REAL_LOSS_TERM": real_term, "REAL_LOSS_PARAM": real_param}
    constants |= {"FAKE_LOSS_TERM": fake_term, "FAKE_LOSS_PARAM": fake_param}
    constants |= {"REAL_SCALE": 1 / max(real, 1), "FAKE_SCALE": 1 / max(N - real, 1)}
    constants |= {"METRICS_ROWS": rows, "METRICS_COLUMNS": columns, "COLUMN": column}
    constants |= {"SAMPLES": triton.next_power_of_2(N), "PROGRAMS": programs}
    constants |= {"ROWS": tile_rows, "BLOCK": block, "num_warps": 4}
    pointers = scores, labels, dscores, arrays, step_counter
    launch.run(acgan_step_kernel, (programs,), *pointers, **constants)
    return dscores
