"""The end of a discriminator: its last layer, which sees the whole of what is left of an image, with the loss and its gradient.

    score[n] = sum over j of x[n, j] w[j] + b    dscore[n] = slope of the loss at it

A program takes one sample. The losses are those of terms.py, one term for the first `real` samples and one for the `fake` ones
after them, each a mean over its own; the program that finishes last adds the sums up, in the order of the samples. Samples after
those have no loss, and gradient 1: where a penalty asks for the gradient of the score itself. Where x is the output of an
activation without BatchNorm, the gradient before that activation is computed too, each sample's from its own score.
"""

from math import prod

import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels import launch
from rawgan.kernels.act import activate, activate_dx
from rawgan.kernels.gemm import activated_dx, load
from rawgan.kernels.moments import last_of
from rawgan.kernels.spec import Spec
from rawgan.kernels.terms import term
from rawgan.ops.act import sigmoid, softplus

CONFIG = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def head_kernel(
    x_ptr, w_ptr, b_ptr, score_ptr, dscore_ptr, dx_ptr, values_ptr, counter_ptr, said_ptr, state_ptr,
    N: tl.constexpr, REAL: tl.constexpr, FAKE: tl.constexpr, SIZE: tl.constexpr, REAL_TERM: tl.constexpr, REAL_P: tl.constexpr,
    FAKE_TERM: tl.constexpr, FAKE_P: tl.constexpr, REAL_SCALE: tl.constexpr, FAKE_SCALE: tl.constexpr, WEIGHT: tl.constexpr,
    PROBABILITY: tl.constexpr, ADD: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, COLUMN: tl.constexpr,
    SAMPLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, SIZE, BLOCK):
        offs = first + lane
        total += load(x_ptr, n * SIZE + offs, offs < SIZE) * load(w_ptr, offs, offs < SIZE)
    score = tl.sum(total, 0)
    if b_ptr is not None:
        score += tl.load(b_ptr).to(tl.float32)
    real, real_slope = term(score, REAL_TERM, REAL_P)
    fake, fake_slope = term(score, FAKE_TERM, FAKE_P)
    dreal = real_slope * (REAL_SCALE * WEIGHT)
    dfake = fake_slope * (FAKE_SCALE * WEIGHT)
    dscore = tl.where(n < REAL, dreal, tl.where(n < REAL + FAKE, dfake, 1.0))
    value = tl.where(n < REAL, real * REAL_SCALE, tl.where(n < REAL + FAKE, fake * FAKE_SCALE, 0.0)) * WEIGHT
    tl.store(score_ptr + n, score.to(score_ptr.dtype.element_ty))
    tl.store(dscore_ptr + n, dscore.to(dscore_ptr.dtype.element_ty))
    tl.store(values_ptr + n, value)
    if PROBABILITY:
        score = activate(score, "sigmoid", 0.0)
    tl.store(values_ptr + N + n, score)
    if dx_ptr is not None:
        for first in range(0, SIZE, BLOCK):
            offs = first + lane
            dx = activate_dx(dscore * load(w_ptr, offs, offs < SIZE), load(x_ptr, n * SIZE + offs, offs < SIZE), ACT, SLOPE)
            tl.store(dx_ptr + n * SIZE + offs, dx.to(dx_ptr.dtype.element_ty), mask=offs < SIZE)
    if last_of(counter_ptr, N):
        samples = tl.arange(0, SAMPLES)
        scores = load(values_ptr, N + samples, samples < N)
        out_ptr = said_ptr + (tl.load(state_ptr + 1) % ROWS) * COLUMNS + COLUMN
        loss = tl.sum(load(values_ptr, samples, samples < N), 0)
        if ADD:
            loss += tl.load(out_ptr)
        tl.store(out_ptr, loss)
        if REAL > 0:
            tl.store(out_ptr + 1, tl.sum(tl.where(samples < REAL, scores, 0.0), 0) * REAL_SCALE)
        if FAKE > 0:
            inside = (samples >= REAL) & (samples < REAL + FAKE)
            tl.store(out_ptr + 2, tl.sum(tl.where(inside, scores, 0.0), 0) * FAKE_SCALE)


Side = tuple[str, float]  # a term and its number P


def head(
    x: Array, w: Array, said: Array, state: Array, real: int, real_side: Side | None, fake_side: Side | None,
    b: Array | None = None, fake: int | None = None, weight: float = 1.0, probability: bool = True, column: int = 0,
    add: bool = False, act: str | None = None, slope: float = 0.2, dx: bool = False,
) -> tuple[Array, ...]:  # fmt: skip
    """Scores (N, 1) and their gradient, and with dx that of x before its activation `act`; x (N, ...), w (1, ...), b (1,).

    The first `real` samples have the one side, the `fake` ones after them, all of the others unless given, the other. Row `step mod
    rows` of said (rows, columns) gets the loss, and the mean score of the real and of the fake, from `column` on (a mean over none
    is not written); state (2,) int64, the seed and the step. weight: of the loss. probability: means of sigmoids. add: the loss is
    added to what the row has. act: without curvature, or None.
    """
    N, (rows, columns) = len(x), said.shape
    fake = N - real if fake is None else fake
    launch.fit((w.size, x.size // N), (1, 1 if b is None else b.size))
    shape = (N, *[1] * (x.ndim - 1))
    score, dscore = launch.empty(x, shape), launch.empty(x, shape)
    gradient = launch.empty(x, x.shape) if dx else None
    values, counter = launch.empty(x, (2, N), "float32"), array_module(x).zeros(1, "int32")
    (real_term, real_p), (fake_term, fake_p) = (side or ("linear", 0.0) for side in (real_side, fake_side))
    scales = {"REAL_SCALE": 1 / max(real, 1), "FAKE_SCALE": 1 / max(fake, 1)}
    terms = {"REAL_TERM": real_term, "REAL_P": real_p, "FAKE_TERM": fake_term, "FAKE_P": fake_p}
    where = {"ROWS": rows, "COLUMNS": columns, "COLUMN": column, "SAMPLES": triton.next_power_of_2(N)}
    given = x, w, b, score, dscore, gradient, values, counter, said, state
    sizes = {"N": N, "REAL": real, "FAKE": fake, "SIZE": w.size, "WEIGHT": weight, "PROBABILITY": probability, "ADD": add}
    sizes |= {"ACT": act, "SLOPE": slope}
    launch.run(head_kernel, (N,), *given, **sizes, **terms, **scales, **where, **CONFIG)
    return (score, dscore, gradient) if dx else (score, dscore)


def _reference(x, w, said, state, real, real_side, fake_side, b, fake, weight, probability, column, add, act, dx):
    """In NumPy, by the losses that the terms belong to."""
    N = len(x)
    fake = N - real if fake is None else fake
    score = x.reshape(N, -1) @ w.reshape(-1) + (0 if b is None else b)
    row, dscore = said[int(state[1]) % len(said)], score * 0 + 1
    row[column] *= add
    for i, (part, side) in enumerate(((slice(0, real), real_side), (slice(real, real + fake), fake_side))):
        if part.start == part.stop:
            continue
        (kind, p), s = side, score[part]
        if kind == "real":
            value, slope = softplus(-s) + p * s, p - sigmoid(-s)
        elif kind == "fake":
            value, slope = p * softplus(s), p * sigmoid(s)
        else:
            value, slope = p * s, p + 0 * s
        row[column] += weight * value.mean()
        row[column + 1 + i] = (sigmoid(s) if probability else s).mean()
        dscore[part] = weight * slope / len(s)
    shape = (N, *[1] * (x.ndim - 1))
    results = score.reshape(shape), dscore.reshape(shape)
    return (*results, activated_dx(results[1] * w, act, x)) if dx else results


def _make(
    array, shape, real, real_side, fake_side, bias=False, fake=None, weight=1.0, probability=True, column=0, add=False, rows=4,
    step=6, act=None, dx=False,
):  # fmt: skip
    state, w, said = array(2, dtype="int64"), array(1, *shape[1:]), array(rows, 5, dtype="float32")
    state[:] = 1, step
    w *= w.dtype.type(0.1) if w.dtype.kind == "f" else 1
    how = {"b": array(1, dtype="float32") if bias else None, "fake": fake, "weight": weight, "probability": probability}
    how |= {"column": column, "add": add, "act": act, "dx": dx}
    return (array(*shape), w, said, state, real, real_side, fake_side), how


BCE = {"real_side": ("real", 0.1), "fake_side": ("fake", 1.0)}
WASSERSTEIN = {"real_side": ("linear", -1.0), "fake_side": ("linear", 1.0), "probability": False}
LARGE = {"shape": (256, 4, 4, 512), "real": 128}

SPECS = (
    Spec(
        name="head",
        wrapper=head,
        reference=_reference,
        make=_make,
        cases=(
            {"shape": (6, 3, 3, 7), "real": 3, **BCE},
            {"shape": (5, 1300), "real": 5, "real_side": ("real", 0.0), "fake_side": None, "column": 3},
            {"shape": (5, 30), "real": 2, "bias": True, "weight": 0.5, "add": True, **BCE},
            {"shape": (3, 5), "real": 1, **WASSERSTEIN},
            {"shape": (7, 2, 2, 300), "real": 3, "fake": 2, "act": "leaky_relu", "dx": True, **WASSERSTEIN},
        ),
        benchmarks=(LARGE | BCE, LARGE | {"fake": 64, "act": "leaky_relu", "dx": True} | WASSERSTEIN),
        traffic=lambda itemsize, shape, **_: itemsize * (prod(shape) + prod(shape[1:]) + 2 * shape[0]),
        flops=lambda shape, **_: 2 * prod(shape),
        compiles=(
            ("bfloat16", LARGE | BCE, {}),
            ("bfloat16", LARGE | {"fake": 64, "act": "leaky_relu", "dx": True} | WASSERSTEIN, {}),
        ),
        writes=(2,),
    ),
)
