"""The losses of the two players from logits, each with its gradients in one launch. The mathematics is in rawgan/losses.py.

Those that are means of one term per score are in terms.py. Cross-entropy has a row of K logits per sample: a program takes ROWS
rows whole, with what ACGAN puts beside them: in column 0 the logit of "real", with its own term.
"""

from functools import partial
from math import prod

import triton
import triton.language as tl

from rawgan import losses
from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.spec import Spec
from rawgan.kernels.terms import PROGRAMS, STEPS, mean_terms, sum_rows, term

TILE = 2048  # logits that a program holds


@triton.jit
def cross_entropy_kernel(
    x_ptr, labels_ptr, out_ptr, dx_ptr, TERM: tl.constexpr, P: tl.constexpr,
    N: tl.constexpr, K: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    FIRST: tl.constexpr = 0 if TERM is None else 1
    offs_k = tl.arange(0, BLOCK)
    total = tl.zeros((ROWS,), tl.float32)
    for step in range(STEPS):
        offs_n = (tl.program_id(0) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        mask_n = offs_n < N
        mask = mask_n[:, None] & (offs_k < K)[None, :]
        offs = offs_n[:, None] * K + offs_k[None, :]
        classes = mask & (offs_k >= FIRST)[None, :]
        x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        top = tl.max(tl.where(classes, x, float("-inf")), 1)
        top = tl.where(mask_n, top, 0.0)
        e = tl.where(classes, tl.exp(x - top[:, None]), 0.0)
        sums = tl.where(mask_n, tl.sum(e, 1), 1.0)
        label = tl.load(labels_ptr + offs_n, mask=mask_n, other=0).to(tl.int32)
        hit = classes & (offs_k[None, :] - FIRST == label[:, None])
        value = tl.log(sums) - tl.sum(tl.where(hit, x - top[:, None], 0.0), 1)
        dx = e / sums[:, None] - hit.to(tl.float32)
        if TERM is not None:
            f, slope = term(x, TERM, P)
            source = mask & (offs_k == 0)[None, :]
            value += tl.sum(tl.where(source, f, 0.0), 1)
            dx = tl.where(source, slope, dx)
        total += tl.where(mask_n, value, 0.0)
        tl.store(dx_ptr + offs, (dx * (1.0 / N)).to(dx_ptr.dtype.element_ty), mask=mask)
    tl.store(out_ptr + tl.program_id(0), tl.sum(total, 0) * (1.0 / N))


def bce_discriminator(a: Array, c: Array, real_label: float = 1.0) -> tuple[Array, Array, Array]:
    return mean_terms((a, "real", 1 - real_label, 1.0), (c, "fake", 1.0, 1.0))


def bce_generator(c: Array, minimax: bool = False) -> tuple[Array, Array]:
    return mean_terms((c, "fake", -1.0, 1.0) if minimax else (c, "real", 0.0, 1.0))


def least_squares_discriminator(a: Array, c: Array) -> tuple[Array, Array, Array]:
    return mean_terms((a, "square", 1.0, 1.0), (c, "square", 0.0, 1.0))


def least_squares_generator(c: Array) -> tuple[Array, Array]:
    return mean_terms((c, "square", 1.0, 1.0))


def wasserstein_discriminator(a: Array, c: Array) -> tuple[Array, Array, Array]:
    return mean_terms((a, "linear", -1.0, 1.0), (c, "linear", 1.0, 1.0))


def wasserstein_generator(c: Array) -> tuple[Array, Array]:
    """Also that of the hinge loss."""
    return mean_terms((c, "linear", -1.0, 1.0))


def hinge_discriminator(a: Array, c: Array) -> tuple[Array, Array, Array]:
    return mean_terms((a, "hinge", -1.0, 1.0), (c, "hinge", 1.0, 1.0))


def mean_score(a: Array) -> Array:
    return mean_terms((a, "linear", 1.0, 1.0), slopes=False)[0]


def mean_probability(a: Array, stride: int = 1) -> Array:
    """The mean of the sigmoid of every stride-th score: with stride 1 + K, of ACGAN's logits of "real"."""
    return mean_terms((a, "sigmoid", 0.0, 1.0), slopes=False, stride=stride)[0]


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    return _rows(logits, labels, launch.empty(logits, (), "float32"))


def acgan_discriminator(
    a: Array, c: Array, real_labels: Array, fake_labels: Array, real_label: float = 1.0
) -> tuple[Array, Array, Array]:
    """Two launches for the two batches, and one for the sum of their losses."""
    both = launch.empty(a, (2,), "float32")
    _, da = _rows(a, real_labels, both[:1], "real", 1 - real_label)
    _, dc = _rows(c, fake_labels, both[1:], "fake", 1.0)
    return sum_rows(both, launch.empty(a, (), "float32")), da, dc


def acgan_generator(c: Array, labels: Array, minimax: bool = False) -> tuple[Array, Array]:
    source = ("fake", -1.0) if minimax else ("real", 0.0)
    return _rows(c, labels, launch.empty(c, (), "float32"), *source)


def _rows(x: Array, labels: Array, loss: Array, source: str | None = None, p: float = 0.0) -> tuple[Array, Array]:
    """Cross-entropy of each row of x (N, K), with a term in column 0 where one is named; the loss goes to the array given."""
    N, K = x.shape
    launch.fit((labels.shape, (N,)))
    block = triton.next_power_of_2(K)
    rows = max(1, min(TILE // block, triton.next_power_of_2(N)))
    steps = launch.cdiv(N, rows)
    programs = 1 if steps <= STEPS else min(steps, PROGRAMS)
    dx = launch.empty(x, x.shape)
    partial = loss if programs == 1 else launch.empty(x, (programs,), "float32")
    launch.run(
        cross_entropy_kernel, (programs,), x, labels, partial, dx, TERM=source, P=p,
        N=N, K=K, STEPS=launch.cdiv(steps, programs), ROWS=rows, BLOCK=block, num_warps=4, maxnreg=255,
    )  # fmt: skip
    return loss if programs == 1 else sum_rows(partial, loss), dx


PATCHES = (64, 30, 30, 1)  # scores of 70x70 patches of images of 256x256


def _make_scores(sides, array, shapes, **options):
    return tuple(array(*shape) for shape in shapes[:sides]), options


def _spec(wrapper, reference, sides: int, gradients: bool = True, options: tuple[dict, ...] = ({},), extra=()) -> Spec:
    """sides: 2 for the scores of real and fake, 1 for those of one; options: keywords of wrapper and reference to try."""
    train, patches = ({"shapes": (shape,) * sides, **options[0]} for shape in ((128, 1, 1, 1), PATCHES))
    few, several, flat = ((5, 1), (3, 1)), ((7, 30, 29, 1), (2, 3, 3, 1)), ((1,), (2000,))
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=partial(_make_scores, sides),
        cases=tuple({"shapes": shapes[:sides], **option} for shapes in (few, several, flat, *extra) for option in options),
        benchmarks=(train, patches),
        traffic=lambda itemsize, shapes, **_: (1 + gradients) * itemsize * sum(map(prod, shapes)),
        flops=lambda shapes, **_: 12 * sum(map(prod, shapes)),
        compiles=(("bfloat16", train, {}), *((("bfloat16", patches, {}),) if wrapper is bce_discriminator else ())),
    )


def _make_rows(sides, array, N, K, first=0, **options):
    """Rows of K logits, and labels of the classes that start in column `first`."""
    labels = [array(N, dtype="int64") % (K - first) for _ in range(sides)]
    return (*(array(N, K) for _ in range(sides)), *labels), options


def _rows_spec(wrapper, reference, sides: int, first: int, options: tuple[dict, ...] = ({},)) -> Spec:
    def case(N, classes, option=options[0]):
        return {"N": N, "K": first + classes, "first": first, **option}

    def integer_labels(*arrays, **options):
        return reference(*arrays[:sides], *(labels.astype("int64") for labels in arrays[sides:]), **options)

    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=integer_labels,
        make=partial(_make_rows, sides),
        cases=tuple(case(*sizes, option) for sizes in ((5, 10), (1, 1), (50, 70), (147, 70)) for option in options),
        benchmarks=(case(128, 10), case(8192, 1000)),
        traffic=lambda itemsize, N, K, **_: sides * N * (2 * itemsize * K + 8),
        flops=lambda N, K, **_: 8 * sides * N * K,
        compiles=(("bfloat16", case(128, 10), {}), ("bfloat16", case(8192, 1000), {})),
    )


SMOOTHED = ({"real_label": 1.0}, {"real_label": 0.9})
MINIMAX = ({"minimax": False}, {"minimax": True})

SPECS = (
    _spec(bce_discriminator, lambda a, c, real_label: losses.BCE(real_label).discriminator(a, c), 2, options=SMOOTHED),
    _spec(bce_generator, lambda c, minimax: losses.BCE(minimax=minimax).generator(c), 1, options=MINIMAX),
    _spec(least_squares_discriminator, losses.LeastSquares().discriminator, 2),
    _spec(least_squares_generator, losses.LeastSquares().generator, 1),
    _spec(wasserstein_discriminator, losses.Wasserstein().discriminator, 2, extra=(((140_007,), (3,)),)),  # programs of two steps
    _spec(wasserstein_generator, losses.Wasserstein().generator, 1),
    _spec(hinge_discriminator, losses.Hinge().discriminator, 2),
    _spec(mean_score, losses.Wasserstein().score, 1, gradients=False),
    _spec(
        mean_probability, lambda a, stride: losses.BCE().score(a.reshape(-1)[::stride]), 1, False, ({"stride": 1}, {"stride": 3})
    ),
    _rows_spec(cross_entropy, losses.cross_entropy, 1, 0),
    _rows_spec(
        acgan_discriminator,
        lambda *scores, real_label: losses.ACGAN(losses.BCE(real_label)).discriminator(*scores),
        2,
        1,
        SMOOTHED,
    ),
    _rows_spec(
        acgan_generator, lambda *scores, minimax: losses.ACGAN(losses.BCE(minimax=minimax)).generator(*scores), 1, 1, MINIMAX
    ),
)
