"""Spec of acgan.py: acgan_step."""

from rawgan import losses
from rawgan.kernels.acgan import acgan_step
from rawgan.kernels.specs.discriminator_head import side_reference
from rawgan.kernels.specs.spec import Spec
from rawgan.ops.act import sigmoid


def _reference(
    scores,
    labels,
    metrics,
    state,
    real,
    real_side,
    fake_side,
    weight,
    column,
    add,
    step_counter=None,
):
    """Return the loss of each side: its term, and the cross-entropy of its classes."""
    row, dscores, labels = metrics[int(state[1]) % len(metrics)], scores * 0, labels.astype("int64")
    row[column] *= add
    for i, (part, side) in enumerate(((slice(0, real), real_side), (slice(real, None), fake_side))):
        if not len(s := scores[part]):
            continue
        value, slope = side_reference(side, s[:, 0])
        class_value, class_slope = losses.cross_entropy(s[:, 1:], labels[part])
        row[column] += weight * (value.mean() + class_value)
        row[column + 1 + i] = sigmoid(s[:, 0]).mean()
        dscores[part, 0], dscores[part, 1:] = weight * slope / len(s), weight * class_slope
    if step_counter is not None:
        step_counter += 1
    return dscores


def _make(
    array, N, classes, real, real_side, fake_side, weight=1.0, column=0, add=False, rows=4, step=6,
    step_counter=False,
):  # fmt: skip
    state, metrics, labels = (
        array(2, dtype="int64"),
        array(rows, 5, dtype="float32"),
        array(N, dtype="int32"),
    )
    state[:], labels[...] = (1, step), labels % classes
    scores = array(N, 1 + classes)
    options = {"weight": weight, "column": column, "add": add} | (
        {"step_counter": array(1, dtype="int32")} if step_counter else {}
    )
    return (scores, labels, metrics, state, real, real_side, fake_side), options


DISCRIMINATOR = {"real_side": ("bce_real", 0.1), "fake_side": ("bce_fake", 1.0)}
GENERATOR = {"fake_side": None, "column": 3}

GRID_AXES = {
    "acgan_step_kernel": lambda launch: {
        "rows": (launch.constants["N"], launch.constants["ROWS"]),
    },
}

SPECS = (
    Spec(
        name="acgan_step",
        wrapper=acgan_step,
        reference=_reference,
        make=_make,
        cases=(
            {"N": 6, "classes": 10, "real": 3, "weight": 0.5, **DISCRIMINATOR},
            {
                "N": 70,
                "classes": 10,
                "real": 37,
                "step_counter": True,
                **DISCRIMINATOR,
            },  # three programs, the last with a tail
            {"N": 5, "classes": 3, "real": 0, "add": True, **DISCRIMINATOR},
            {"N": 37, "classes": 10, "real": 37, "real_side": ("bce_real", 0.0), **GENERATOR},
            {"N": 1, "classes": 1, "real": 1, "real_side": ("bce_fake", -1.0), **GENERATOR},
        ),
        benchmarks=({"N": 256, "classes": 10, "real": 128, **DISCRIMINATOR},),
        traffic=lambda itemsize, N, classes, **_: N * (2 * itemsize * (1 + classes) + 4),
        flops=lambda N, classes, **_: 8 * N * (1 + classes),
        compiles=(("bfloat16", {"N": 256, "classes": 10, "real": 128, **DISCRIMINATOR}, {}),),
        writes=(2,),
    ),
)
