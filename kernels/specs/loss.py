"""Specs of loss.py."""

from functools import partial
from math import prod

from rawgan import losses
from rawgan.kernels.loss import (
    acgan_discriminator,
    acgan_generator,
    bce_discriminator,
    bce_generator,
    cross_entropy,
    hinge_discriminator,
    least_squares_discriminator,
    least_squares_generator,
    mean_probability,
    mean_score,
    relativistic_average,
    relativistic_pairs,
    wasserstein_discriminator,
    wasserstein_generator,
)
from rawgan.kernels.specs.spec import EXACT, Axes, Spec

PATCHES = (64, 30, 30, 1)  # scores of 70x70 patches of images of 256x256


def _make_scores(sides, array, shapes, **options):
    return tuple(array(*shape) for shape in shapes[:sides]), options


def _spec(
    wrapper,
    reference,
    sides: int,
    gradients: bool = True,
    options: tuple[dict, ...] = ({},),
    extra=(),
    same_shape: bool = False,
) -> Spec:
    """Return the Spec of a loss of scores.

    sides: 2 for the scores of real and fake, 1 for those of one. options: keywords to try.
    same_shape: both have the shape of the first.
    """
    train, patches = (
        {"shapes": (shape,) * sides, **options[0]} for shape in ((128, 1, 1, 1), PATCHES)
    )
    few, several, flat = ((5, 1), (3, 1)), ((7, 30, 29, 1), (5, 31, 29, 1)), ((1,), (2000,))
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=partial(_make_scores, sides),
        cases=tuple(
            {"shapes": (shapes[0],) * sides if same_shape else shapes[:sides], **option}
            for shapes in (few, several, flat, *extra)
            for option in options
        ),
        benchmarks=(train, patches),
        traffic=lambda itemsize, shapes, **_: (1 + gradients) * itemsize * sum(map(prod, shapes)),
        flops=lambda shapes, **_: 12 * sum(map(prod, shapes)),
        compiles=(
            ("bfloat16", train, {}),
            *((("bfloat16", patches, {}),) if wrapper is bce_discriminator else ()),
        ),
        float32=(0,),
    )


def _make_rows(sides, array, N, K, first=0, **options):
    """Rows of K logits, and labels of the classes that start in column `first`."""
    labels = [array(N, dtype="int64") % (K - first) for _ in range(sides)]
    return (*(array(N, K) for _ in range(sides)), *labels), options


def _rows_spec(
    wrapper, reference, sides: int, first: int, options: tuple[dict, ...] = ({},)
) -> Spec:
    def case(N, classes, option=options[0]):
        return {"N": N, "K": first + classes, "first": first, **option}

    def integer_labels(*arrays, **options):
        return reference(
            *arrays[:sides], *(labels.astype("int64") for labels in arrays[sides:]), **options
        )

    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=integer_labels,
        make=partial(_make_rows, sides),
        cases=tuple(
            case(*sizes, option)
            for sizes in ((5, 10), (1, 1), (50, 70), (147, 70))
            for option in options
        ),
        benchmarks=(case(128, 10), case(8192, 1000)),
        traffic=lambda itemsize, N, K, **_: sides * N * (2 * itemsize * K + 8),
        flops=lambda N, K, **_: 8 * sides * N * K,
        compiles=(("bfloat16", case(128, 10), {}), ("bfloat16", case(8192, 1000), {})),
        float32=(0,),
    )


RELATIVISTIC = {o.kernel_term[0]: o for o in (losses.RaGAN(), losses.RaLSGAN(), losses.RaHinge())}
SMOOTHED = ({"real_label": 1.0}, {"real_label": 0.9})
MINIMAX = ({"minimax": False}, {"minimax": True})


def _mean_terms_axes(launch) -> Axes:
    c = launch.constants
    sides = "A" if c["C_LOSS_TERM"] is None else "AC"
    return {f"values of {side}": (c[side], c[f"{side}_STEPS"] * c["BLOCK"]) for side in sides}


def _sum_rows_axes(launch) -> Axes:
    """Axes of sums of rows, as of squared norms; a large sum is split into partial sums."""
    c, (programs,) = launch.constants, launch.grid
    rows = {"rows": (programs // c["PARTIALS"], EXACT)} if programs > 1 else {}
    return rows | ({"partials": (c["ROW"], c["STEPS"] * c["BLOCK"])} if c["PARTIALS"] > 1 else {})


GRID_AXES = {
    "cross_entropy_kernel": lambda launch: {
        "rows": (launch.constants["N"], launch.constants["STEPS"] * launch.constants["ROWS"]),
    },
    "mean_terms_kernel": _mean_terms_axes,
    "relativistic_pairs_kernel": lambda launch: {
        "pairs": (launch.constants["SIZE"], launch.constants["STEPS"] * launch.constants["BLOCK"]),
    },
    "relativistic_average_kernel": lambda launch: {},
    "sum_rows_kernel": _sum_rows_axes,
}

SPECS = (
    _spec(
        bce_discriminator,
        lambda a, c, real_label: losses.BCE(real_label).discriminator(a, c),
        2,
        options=SMOOTHED,
    ),
    _spec(
        bce_generator,
        lambda c, minimax: losses.BCE(minimax=minimax).generator(c),
        1,
        options=MINIMAX,
    ),
    _spec(least_squares_discriminator, losses.LeastSquares().discriminator, 2),
    _spec(least_squares_generator, losses.LeastSquares().generator, 1),
    _spec(
        wasserstein_discriminator,
        losses.Wasserstein().discriminator,
        2,
        extra=(((140_007,), (3,)),),
    ),  # programs of two steps
    _spec(wasserstein_generator, losses.Wasserstein().generator, 1),
    _spec(hinge_discriminator, losses.Hinge().discriminator, 2),
    _spec(
        relativistic_pairs,
        losses.RpGAN().discriminator,
        2,
        same_shape=True,
        extra=(((140_007,), (140_007,)),),
    ),
    _spec(
        relativistic_average,
        lambda a, c, term, param: RELATIVISTIC[term].discriminator(a, c),
        2,
        options=tuple(dict(zip(("term", "param"), o.kernel_term)) for o in RELATIVISTIC.values()),
    ),
    _spec(mean_score, losses.Wasserstein().score, 1, gradients=False),
    _spec(
        mean_probability,
        lambda a, stride: losses.BCE().score(a.reshape(-1)[::stride]),
        1,
        False,
        ({"stride": 1}, {"stride": 3}),
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
        acgan_generator,
        lambda *scores, minimax: losses.ACGAN(losses.BCE(minimax=minimax)).generator(*scores),
        1,
        1,
        MINIMAX,
    ),
)
