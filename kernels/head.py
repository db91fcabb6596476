"""The end of a discriminator: its last layer, which sees the whole of what is left of an image, with the loss and its gradient.

    score[n] = sum over j of x[n, j] w[j]        dscore[n] = slope of the loss at it

A program takes one sample. The losses are those of terms.py, one term for the first `real` samples and one for the others, each a
mean over its own; the program that finishes last adds the sums up, in the order of the samples.
"""

from math import prod

import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels import launch
from rawgan.kernels.act import activate
from rawgan.kernels.gemm import load
from rawgan.kernels.moments import last_of
from rawgan.kernels.spec import Spec
from rawgan.kernels.terms import term
from rawgan.ops.act import sigmoid, softplus

CONFIG = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def head_kernel(
    x_ptr, w_ptr, score_ptr, dscore_ptr, values_ptr, counter_ptr, said_ptr, state_ptr,
    N: tl.constexpr, REAL: tl.constexpr, SIZE: tl.constexpr, REAL_TERM: tl.constexpr, REAL_P: tl.constexpr,
    FAKE_TERM: tl.constexpr, FAKE_P: tl.constexpr, REAL_SCALE: tl.constexpr, FAKE_SCALE: tl.constexpr,
    PROBABILITY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, COLUMN: tl.constexpr,
    SAMPLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, SIZE, BLOCK):
        offs = first + lane
        total += load(x_ptr, n * SIZE + offs, offs < SIZE) * load(w_ptr, offs, offs < SIZE)
    score = tl.sum(total, 0)
    real, real_slope = term(score, REAL_TERM, REAL_P)
    fake, fake_slope = term(score, FAKE_TERM, FAKE_P)
    dscore = tl.where(n < REAL, real_slope * REAL_SCALE, fake_slope * FAKE_SCALE)
    tl.store(score_ptr + n, score.to(score_ptr.dtype.element_ty))
    tl.store(dscore_ptr + n, dscore.to(dscore_ptr.dtype.element_ty))
    tl.store(values_ptr + n, tl.where(n < REAL, real * REAL_SCALE, fake * FAKE_SCALE))
    if PROBABILITY:
        score = activate(score, "sigmoid", 0.0)
    tl.store(values_ptr + N + n, score)
    if last_of(counter_ptr, N):
        samples = tl.arange(0, SAMPLES)
        scores = load(values_ptr, N + samples, samples < N)
        out_ptr = said_ptr + (tl.load(state_ptr + 1) % ROWS) * COLUMNS + COLUMN
        tl.store(out_ptr, tl.sum(load(values_ptr, samples, samples < N), 0))
        if REAL > 0:
            tl.store(out_ptr + 1, tl.sum(tl.where(samples < REAL, scores, 0.0), 0) * REAL_SCALE)
        if REAL < N:
            tl.store(out_ptr + 2, tl.sum(tl.where(samples >= REAL, scores, 0.0), 0) * FAKE_SCALE)


Side = tuple[str, float]  # a term and its number P


def head(
    x: Array, w: Array, said: Array, state: Array, real: int, real_side: Side | None, fake_side: Side | None,
    probability: bool = True, column: int = 0,
) -> tuple[Array, Array]:  # fmt: skip
    """Scores and their gradient, like x's samples (N, 1); x (N, ...), w (1, ...).

    Row `step mod rows` of said (rows, columns) gets the loss, and the mean score of the first `real` samples and of the others,
    from `column` on (a mean over none is not written); state (2,) int64, the seed and the step. probability: means of sigmoids.
    """
    N, (rows, columns) = len(x), said.shape
    launch.fit((w.size, x.size // N))
    shape = (N, *[1] * (x.ndim - 1))
    score, dscore = launch.empty(x, shape), launch.empty(x, shape)
    values, counter = launch.empty(x, (2, N), "float32"), array_module(x).zeros(1, "int32")
    (real_term, real_p), (fake_term, fake_p) = (side or ("linear", 0.0) for side in (real_side, fake_side))
    scales = {"REAL_SCALE": 1 / max(real, 1), "FAKE_SCALE": 1 / max(N - real, 1)}
    terms = {"REAL_TERM": real_term, "REAL_P": real_p, "FAKE_TERM": fake_term, "FAKE_P": fake_p}
    where = {"ROWS": rows, "COLUMNS": columns, "COLUMN": column, "SAMPLES": triton.next_power_of_2(N)}
    given = x, w, score, dscore, values, counter, said, state
    sizes = {"N": N, "REAL": real, "SIZE": w.size, "PROBABILITY": probability}
    launch.run(head_kernel, (N,), *given, **sizes, **terms, **scales, **where, **CONFIG)
    return score, dscore


def _reference(x, w, said, state, real, real_side, fake_side, probability, column):
    """In NumPy, by the losses that the terms belong to."""
    score = x.reshape(len(x), -1) @ w.reshape(-1)
    row, slopes, ends = said[int(state[1]) % len(said)], [], ((0, real, real_side), (real, len(x), fake_side))
    row[column] = 0
    for i, (start, end, side) in enumerate(ends):
        part = score[start:end]
        if not part.size:
            continue
        kind, p = side
        if kind == "real":
            value, slope = softplus(-part) + p * part, p - sigmoid(-part)
        elif kind == "fake":
            value, slope = p * softplus(part), p * sigmoid(part)
        else:
            value, slope = p * part, p + 0 * part
        row[column] += value.mean()
        row[column + 1 + i] = (sigmoid(part) if probability else part).mean()
        slopes.append(slope / part.size)
    shape = (len(x), *[1] * (x.ndim - 1))
    return score.reshape(shape), array_module(x).concatenate(slopes).reshape(shape)


def _make(array, shape, real, real_side, fake_side, probability=True, column=0, rows=4, step=6):
    state, w, said = array(2, dtype="int64"), array(1, *shape[1:]), array(rows, 5, dtype="float32")
    state[:] = 1, step
    w *= w.dtype.type(0.1) if w.dtype.kind == "f" else 1
    return (array(*shape), w, said, state, real, real_side, fake_side), {"probability": probability, "column": column}


BCE = {"real_side": ("real", 0.1), "fake_side": ("fake", 1.0)}

SPECS = (
    Spec(
        name="head",
        wrapper=head,
        reference=_reference,
        make=_make,
        cases=(
            {"shape": (6, 3, 3, 7), "real": 3, **BCE},
            {"shape": (5, 1300), "real": 5, "real_side": ("real", 0.0), "fake_side": None, "column": 3},
            {"shape": (3, 5), "real": 1, "real_side": ("linear", -1.0), "fake_side": ("linear", 1.0), "probability": False},
        ),
        benchmarks=({"shape": (256, 4, 4, 512), "real": 128, **BCE},),
        traffic=lambda itemsize, shape, **_: itemsize * (prod(shape) + prod(shape[1:]) + 2 * shape[0]),
        flops=lambda shape, **_: 2 * prod(shape),
        compiles=(("bfloat16", {"shape": (256, 4, 4, 512), "real": 128, **BCE}, {}),),
        writes=(2,),
    ),
)
