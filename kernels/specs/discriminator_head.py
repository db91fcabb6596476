"""Spec of discriminator_head.py."""

from math import prod

from rawgan.backend import Array
from rawgan.kernels.discriminator_head import Side, discriminator_head
from rawgan.kernels.specs.spec import EXACT, Spec
from rawgan.kernels.specs.step_inputs import dropout_reference
from rawgan.kernels.specs.testing import activated_dx
from rawgan.kernels.tile.dropout import DropoutMask
from rawgan.ops.act import sigmoid, softplus


def side_reference(side: Side, s: Array) -> tuple[Array, Array]:
    """Return the loss term of a side and its slope at the scores s."""
    term, p = side
    if term == "bce_real":
        return softplus(-s) + p * s, p - sigmoid(-s)
    if term == "bce_fake":
        return p * softplus(s), p * sigmoid(s)
    return p * s, p + 0 * s


def _reference(
    x,
    w,
    metrics,
    state,
    real,
    real_side,
    fake_side,
    b,
    fake,
    weight,
    probability,
    column,
    add,
    act,
    dx,
    mask=None,
    step_counter=None,
):
    """Return the loss of each side, in NumPy."""
    if step_counter is not None:
        step_counter += 1
    N = len(x)
    fake = N - real if fake is None else fake
    score = x.reshape(N, -1) @ w.reshape(-1) + (0 if b is None else b)
    row, dscore = metrics[int(state[1]) % len(metrics)], score * 0 + 1
    row[column] *= add
    for i, (part, side) in enumerate(
        ((slice(0, real), real_side), (slice(real, real + fake), fake_side))
    ):
        if part.start == part.stop:
            continue
        s = score[part]
        value, slope = side_reference(side, s)
        row[column] += weight * value.mean()
        row[column + 1 + i] = (sigmoid(s) if probability else s).mean()
        dscore[part] = weight * slope / len(s)
    shape = (N, *[1] * (x.ndim - 1))
    results = score.reshape(shape), dscore.reshape(shape)
    if not dx:
        return results
    gradient = activated_dx(results[1] * w, act, x)
    return *results, gradient if mask is None else dropout_reference(gradient, state, *mask)


def _make(
    array, shape, real, real_side, fake_side, bias=False, fake=None, weight=1.0, probability=True,
    column=0, add=False, rows=4, step=6, act=None, dx=False, mask=None, step_counter=False,
):  # fmt: skip
    state, w, metrics = (
        array(2, dtype="int64"),
        array(1, *shape[1:]),
        array(rows, 5, dtype="float32"),
    )
    state[:] = 1, step
    w *= w.dtype.type(0.1) if w.dtype.kind == "f" else 1
    options = {
        "b": array(1, dtype="float32") if bias else None,
        "fake": fake,
        "weight": weight,
        "probability": probability,
    }
    options |= {"column": column, "add": add, "act": act, "dx": dx, "mask": mask} | (
        {"step_counter": array(1, dtype="int32")} if step_counter else {}
    )
    return (array(*shape), w, metrics, state, real, real_side, fake_side), options


BCE = {"real_side": ("bce_real", 0.1), "fake_side": ("bce_fake", 1.0)}
WASSERSTEIN = {"real_side": ("linear", -1.0), "fake_side": ("linear", 1.0), "probability": False}
MASK = DropoutMask(0.5, 3, 1000)
LARGE = {"shape": (256, 4, 4, 512), "real": 128}

GRID_AXES = {
    "discriminator_head_kernel": lambda launch: {
        "samples": (launch.constants["N"], EXACT),
        "values": (launch.constants["SIZE"], launch.constants["BLOCK"]),
    },
}

SPECS = (
    Spec(
        name="discriminator_head",
        wrapper=discriminator_head,
        reference=_reference,
        make=_make,
        cases=(
            {"shape": (6, 3, 3, 7), "real": 3, **BCE},
            {
                "shape": (5, 1300),
                "real": 5,
                "real_side": ("bce_real", 0.0),
                "fake_side": None,
                "column": 3,
            },
            {"shape": (5, 30), "real": 2, "bias": True, "weight": 0.5, "add": True, **BCE},
            {"shape": (6, 1100), "real": 3, "act": "leaky_relu", "dx": True, "mask": MASK, **BCE},
            {"shape": (3, 5), "real": 1, "step_counter": True, **WASSERSTEIN},
            {
                "shape": (7, 3, 3, 1000),
                "real": 3,
                "fake": 2,
                "act": "leaky_relu",
                "dx": True,
                **WASSERSTEIN,
            },
        ),
        benchmarks=(
            LARGE | BCE,
            LARGE | {"fake": 64, "act": "leaky_relu", "dx": True} | WASSERSTEIN,
        ),
        traffic=lambda itemsize, shape, **_: (
            itemsize * (prod(shape) + prod(shape[1:]) + 2 * shape[0])
        ),
        flops=lambda shape, **_: 2 * prod(shape),
        compiles=(
            ("bfloat16", LARGE | BCE, {}),
            ("bfloat16", LARGE | {"fake": 64, "act": "leaky_relu", "dx": True} | WASSERSTEIN, {}),
        ),
        writes=(2,),
    ),
)
