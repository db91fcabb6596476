"""The losses of both players from logits, each with its gradients in one launch.

The mathematics is in rawgan/losses.py. A loss that is a mean of one term per score is a call of
mean_terms. Cross-entropy, and ACGAN's loss with it, has a row of logits per sample and a kernel
here; so have the relativistic losses, whose terms take differences of scores.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.reduce_terms import CONFIG, PROGRAMS, STEPS, mean_terms, sum_rows
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.activation import log1p
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.epilogue import load_f32
from rawgan.kernels.tile.loss_terms import loss_term

TILE = 2048  # logits per program and step


@triton.jit
def cross_entropy_kernel(
    x_ptr, labels_ptr, out_ptr, dx_ptr, LOSS_TERM: tl.constexpr, LOSS_PARAM: tl.constexpr,
    N: tl.constexpr, K: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """out[program] = part of mean over n of log sum_k exp(x[n, k]) - x[n, label[n]].

    dx is the gradient of that mean. With a LOSS_TERM, column 0 is ACGAN's logit of "real": its loss
    term is added, and the classes begin at column 1. Tile: ROWS rows of K logits, STEPS times.
    """
    wait_for_previous_kernel(PDL)
    FIRST: tl.constexpr = 0 if LOSS_TERM is None else 1
    offs_k = tl.arange(0, BLOCK)
    total = tl.zeros((ROWS,), tl.float32)
    for step in range(STEPS):
        # Offsets and logits
        offs_n = (tl.program_id(0) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        mask_n = offs_n < N
        mask = mask_n[:, None] & (offs_k < K)[None, :]
        offs = offs_n[:, None] * K + offs_k[None, :]
        classes = mask & (offs_k >= FIRST)[None, :]
        x = load_f32(x_ptr, offs, mask)
        # Subtract the largest logit of the row
        top = tl.max(tl.where(classes, x, float("-inf")), 1)
        top = tl.where(mask_n, top, 0.0)
        label = tl.load(labels_ptr + offs_n, mask=mask_n, other=0).to(tl.int32)
        hit = classes & (offs_k[None, :] - FIRST == label[:, None])
        of_label = tl.sum(tl.where(hit, x - top[:, None], 0.0), 1)
        # Softmax; that of the label minus 1 is the negative sum of the others, which loses no
        # digits where the label leads
        miss = classes & (offs_k[None, :] - FIRST != label[:, None])
        others = tl.where(miss, tl.exp(x - top[:, None]), 0.0)
        sum_others = tl.sum(others, 1)
        e_label = tl.exp(of_label)
        value = log1p(sum_others + (e_label - 1.0)) - of_label
        dx = tl.where(hit, -sum_others[:, None], others) / (sum_others + e_label)[:, None]
        # The loss term of column 0
        if LOSS_TERM is not None:
            f, derivative = loss_term(x, LOSS_TERM, LOSS_PARAM)
            source = mask & (offs_k == 0)[None, :]
            value += tl.sum(tl.where(source, f, 0.0), 1)
            dx = tl.where(source, derivative, dx)
        total += tl.where(mask_n, value, 0.0)
        tl.store(dx_ptr + offs, (dx * (1.0 / N)).to(dx_ptr.dtype.element_ty), mask=mask)
    tl.store(out_ptr + tl.program_id(0), tl.sum(total, 0) * (1.0 / N))


@triton.jit
def relativistic_pairs_kernel(
    a_ptr, c_ptr, out_ptr, da_ptr, dc_ptr, SIZE: tl.constexpr, STEPS: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out[program] = part of mean softplus(-(a - c)); da = -sigmoid(c - a) / SIZE, dc = -da.

    Tile: BLOCK pairs, STEPS times.
    """
    wait_for_previous_kernel(PDL)
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(STEPS):
        # Differences of the scores of a block of pairs
        offs = (tl.program_id(0) * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        mask = offs < SIZE
        difference = load_f32(a_ptr, offs, mask) - load_f32(c_ptr, offs, mask)
        # Cross-entropy to the label 1, and both gradients
        value, derivative = loss_term(difference, "bce_real", 0.0)
        total += tl.where(mask, value, 0.0)
        da = derivative * (1.0 / SIZE)
        tl.store(da_ptr + offs, da.to(da_ptr.dtype.element_ty), mask=mask)
        tl.store(dc_ptr + offs, (-da).to(dc_ptr.dtype.element_ty), mask=mask)
    tl.store(out_ptr + tl.program_id(0), tl.sum(total, 0) * (1.0 / SIZE))


@triton.jit
def _mean_score(x_ptr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Return the mean of SIZE scores."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, SIZE, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        total += load_f32(x_ptr, offs, offs < SIZE)
    return tl.sum(total, 0) * (1.0 / SIZE)


@triton.jit
def _mean_difference_terms(
    x_ptr, centre, SIGN: tl.constexpr, LOSS_TERM: tl.constexpr, LOSS_PARAM: tl.constexpr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the means of f(d) and of f'(d) over d = SIGN (x - centre)."""
    values = tl.zeros((BLOCK,), tl.float32)
    derivatives = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, SIZE, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        mask = offs < SIZE
        value, derivative = loss_term(
            SIGN * (load_f32(x_ptr, offs, mask) - centre), LOSS_TERM, LOSS_PARAM
        )
        values += tl.where(mask, value, 0.0)
        derivatives += tl.where(mask, derivative, 0.0)
    return tl.sum(values, 0) * (1.0 / SIZE), tl.sum(derivatives, 0) * (1.0 / SIZE)


@triton.jit
def _store_difference_gradient(
    x_ptr, dx_ptr, centre, mean_other, SIGN: tl.constexpr, LOSS_TERM: tl.constexpr,
    LOSS_PARAM: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx = SIGN (f'(d) + mean_other) / (2 SIZE), d = SIGN (x - centre)."""
    for start in range(0, SIZE, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        mask = offs < SIZE
        _, derivative = loss_term(
            SIGN * (load_f32(x_ptr, offs, mask) - centre), LOSS_TERM, LOSS_PARAM
        )
        dx = (derivative + mean_other) * (SIGN * 0.5 / SIZE)
        tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def relativistic_average_kernel(
    a_ptr, c_ptr, out_ptr, da_ptr, dc_ptr, LOSS_TERM: tl.constexpr, LOSS_PARAM: tl.constexpr,
    A: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out = (mean f(a - mean c) + mean f(mean a - c)) / 2, and the derivatives da and dc.

    Tile: all A scores a and all C scores c, BLOCK at a time, in one program: each of the three
    phases needs a mean that the one before it has taken.
    """
    wait_for_previous_kernel(PDL)
    # Mean scores
    mean_a = _mean_score(a_ptr, A, BLOCK)
    mean_c = _mean_score(c_ptr, C, BLOCK)
    # Loss, and the mean derivative of each side
    real, p = _mean_difference_terms(a_ptr, mean_c, 1.0, LOSS_TERM, LOSS_PARAM, A, BLOCK)
    fake, q = _mean_difference_terms(c_ptr, mean_a, -1.0, LOSS_TERM, LOSS_PARAM, C, BLOCK)
    tl.store(out_ptr, 0.5 * (real + fake))
    # Gradients
    _store_difference_gradient(a_ptr, da_ptr, mean_c, q, 1.0, LOSS_TERM, LOSS_PARAM, A, BLOCK)
    _store_difference_gradient(c_ptr, dc_ptr, mean_a, p, -1.0, LOSS_TERM, LOSS_PARAM, C, BLOCK)


def relativistic_pairs(a: Array, c: Array) -> tuple[Array, Array, Array]:
    """Return (loss, da, dc): mean softplus(-(a - c)), a and c of one shape."""
    launch.require_equal((a.shape, c.shape))
    blocks = launch.cdiv(a.size, CONFIG["BLOCK"])
    programs = 1 if blocks <= STEPS else min(blocks, PROGRAMS)
    loss = launch.empty(a, (), "float32")
    partials = loss if programs == 1 else launch.empty(a, (programs,), "float32")
    da, dc = launch.empty(a, a.shape), launch.empty(c, c.shape)
    constants = {"SIZE": a.size, "STEPS": launch.cdiv(blocks, programs), **CONFIG}
    launch.run(relativistic_pairs_kernel, (programs,), a, c, partials, da, dc, **constants)
    return loss if programs == 1 else sum_rows(partials, loss), da, dc


def relativistic_average(a: Array, c: Array, term: str, param: float) -> tuple[Array, Array, Array]:
    """Return (loss, da, dc): (mean f(a - mean c) + mean f(mean a - c)) / 2, f a loss term."""
    loss = launch.empty(a, (), "float32")
    da, dc = launch.empty(a, a.shape), launch.empty(c, c.shape)
    constants = {"LOSS_TERM": term, "LOSS_PARAM": param, "A": a.size, "C": c.size, **CONFIG}
    launch.run(relativistic_average_kernel, (1,), a, c, loss, da, dc, **constants)
    return loss, da, dc


def bce_discriminator(a: Array, c: Array, real_label: float = 1.0) -> tuple[Array, Array, Array]:
    """Return (loss, da, dc): BCE with label real_label for a and 0 for c."""
    return mean_terms((a, "bce_real", 1 - real_label, 1.0), (c, "bce_fake", 1.0, 1.0))


def bce_generator(c: Array, minimax: bool = False) -> tuple[Array, Array]:
    """Return (loss, dc): BCE with label 1, or with minimax minus the BCE with label 0."""
    return mean_terms((c, "bce_fake", -1.0, 1.0) if minimax else (c, "bce_real", 0.0, 1.0))


def least_squares_discriminator(a: Array, c: Array) -> tuple[Array, Array, Array]:
    """Return (loss, da, dc): mean (a - 1)^2 + mean c^2."""
    return mean_terms((a, "square", 1.0, 1.0), (c, "square", 0.0, 1.0))


def least_squares_generator(c: Array) -> tuple[Array, Array]:
    """Return (loss, dc): mean (c - 1)^2."""
    return mean_terms((c, "square", 1.0, 1.0))


def wasserstein_discriminator(a: Array, c: Array) -> tuple[Array, Array, Array]:
    """Return (loss, da, dc): mean c - mean a."""
    return mean_terms((a, "linear", -1.0, 1.0), (c, "linear", 1.0, 1.0))


def wasserstein_generator(c: Array) -> tuple[Array, Array]:
    """Return (loss, dc): -mean c; the hinge loss of G is the same."""
    return mean_terms((c, "linear", -1.0, 1.0))


def hinge_discriminator(a: Array, c: Array) -> tuple[Array, Array, Array]:
    """Return (loss, da, dc): mean max(1 - a, 0) + mean max(1 + c, 0)."""
    return mean_terms((a, "hinge", -1.0, 1.0), (c, "hinge", 1.0, 1.0))


def mean_score(a: Array) -> Array:
    """Return mean a."""
    return mean_terms((a, "linear", 1.0, 1.0), gradients=False)[0]


def mean_probability(a: Array, stride: int = 1) -> Array:
    """Return the mean sigmoid of every stride-th score: for stride 1 + K, of ACGAN's "real"."""
    return mean_terms((a, "sigmoid", 0.0, 1.0), gradients=False, stride=stride)[0]


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Return (loss, dlogits): the mean softmax cross-entropy of logits (N, K), labels (N,)."""
    return _cross_entropy(logits, labels, launch.empty(logits, (), "float32"))


def acgan_discriminator(
    a: Array, c: Array, real_labels: Array, fake_labels: Array, real_label: float = 1.0
) -> tuple[Array, Array, Array]:
    """Return (loss, da, dc) of D: losses of "real" and cross-entropies of a and c (N, 1 + K).

    Two launches for the two batches, and one for the sum of their losses.
    """
    both = launch.empty(a, (2,), "float32")
    _, da = _cross_entropy(a, real_labels, both[:1], "bce_real", 1 - real_label)
    _, dc = _cross_entropy(c, fake_labels, both[1:], "bce_fake", 1.0)
    return sum_rows(both, launch.empty(a, (), "float32")), da, dc


def acgan_generator(c: Array, labels: Array, minimax: bool = False) -> tuple[Array, Array]:
    """Return (loss, dc) of G: the loss of "real" and the cross-entropy of c (N, 1 + K)."""
    source = ("bce_fake", -1.0) if minimax else ("bce_real", 0.0)
    return _cross_entropy(c, labels, launch.empty(c, (), "float32"), *source)


def _cross_entropy(
    x: Array, labels: Array, loss: Array, term: str | None = None, param: float = 0.0
) -> tuple[Array, Array]:
    """Return (loss, dx) of x (N, K), the loss written to `loss`; term: that of column 0, if any."""
    N, K = x.shape
    launch.require_equal((labels.shape, (N,)))
    if term is not None and K < 2:
        raise ValueError("ACGAN's scores are one of real or fake and one of each class, got one")
    block = triton.next_power_of_2(K)
    rows = max(1, min(TILE // block, triton.next_power_of_2(N)))
    steps = launch.cdiv(N, rows)
    programs = 1 if steps <= STEPS else min(steps, PROGRAMS)
    dx = launch.empty(x, x.shape)
    partials = loss if programs == 1 else launch.empty(x, (programs,), "float32")
    constants = {"LOSS_TERM": term, "LOSS_PARAM": param, "N": N, "K": K}
    constants |= {"STEPS": launch.cdiv(steps, programs), "ROWS": rows, "BLOCK": block}
    # Without maxnreg ptxas spills a few registers to fit one more block on a multiprocessor
    constants |= {"num_warps": 4, "maxnreg": 255}
    launch.run(cross_entropy_kernel, (programs,), x, labels, partials, dx, **constants)
    return loss if programs == 1 else sum_rows(partials, loss), dx
