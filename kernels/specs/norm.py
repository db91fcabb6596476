"""Specs of norm.py."""

from functools import partial
from math import prod

from rawgan.kernels.norm import (
    affine,
    bias_db,
    kept_shape,
    mean,
    normalize,
    normalize_dx,
    normalize_dx2,
    standardize,
)
from rawgan.kernels.runtime.launch import cdiv
from rawgan.kernels.specs.spec import EXACT, Axes, Spec
from rawgan.ops import linear
from rawgan.ops import norm as ops

REDUCED = {"batch": (0, 1, 2), "layer": (1, 2, 3), "instance": (1, 2)}


def _make(arrays: int, stats: int, tail, array, shape, over):
    """Return tail(axes, values): arrays of `shape`, then `stats` positive statistics."""
    kept = kept_shape(shape, REDUCED[over])
    values = [array(*shape) for _ in range(arrays)] + [
        array(*kept, dtype="float32") ** 2 for _ in range(stats)
    ]
    return tail(REDUCED[over], values), {}


def _axes_last(axes, values):
    return (*values, axes)


def _spec(wrapper, reference, arrays, stats, tail, passes, float32=()) -> Spec:
    """Return the Spec of a wrapper.

    passes: arrays of x's size that all kernels together read or write.
    """
    large = {"shape": (128, 16, 16, 128)}
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=partial(_make, arrays, stats, tail),
        cases=tuple(
            {"shape": shape, "over": over}
            for shape in ((7, 9, 11, 5), (2, 16, 9, 70))
            for over in REDUCED
        ),
        benchmarks=({**large, "over": "batch"}, {**large, "over": "layer"}),
        traffic=lambda itemsize, shape, over: passes * itemsize * prod(shape),
        flops=lambda shape, over: 4 * passes * prod(shape),
        compiles=tuple(("bfloat16", {**large, "over": over}, {}) for over in ("batch", "layer")),
        float32=float32,
    )


def _sums_axes(launch) -> Axes:
    c = launch.constants
    columns = c["B"], c["BLOCK_B"]
    rows = launch.grid[0] // cdiv(*columns)
    axes = {"rows": (rows, EXACT)} if rows > 1 else {}  # BatchNorm has one row
    axes |= {"columns": columns} if c["B"] > 1 else {}  # LayerNorm has one column
    return axes | {"split-M": (c["M"], c["STEPS"] * c["BLOCK_M"])}


GRID_AXES = {
    "norm_sums_kernel": _sums_axes,
    "norm_means_kernel": lambda launch: {
        "values": (launch.constants["SUMS"] * launch.constants["AB"], launch.constants["BLOCK"]),
    },
    "norm_moments_kernel": lambda launch: {
        "values": (launch.constants["AB"], launch.constants["BLOCK"]),
    },
}

SPECS = (
    Spec(
        name="bias_db",
        wrapper=bias_db,
        reference=linear.bias_db,
        make=lambda array, shape: ((array(*shape),), {}),
        cases=({"shape": (7, 9, 11, 5)}, {"shape": (150, 70)}, {"shape": (1, 1)}),
        benchmarks=({"shape": (128, 16, 16, 128)},),
        traffic=lambda itemsize, shape: itemsize * prod(shape),
        flops=lambda shape: prod(shape),
        compiles=(("bfloat16", {"shape": (128, 16, 16, 128)}, {}),),
    ),
    _spec(mean, ops.mean, 2, 0, lambda axes, values: (axes, *values), 2, float32=(0,)),
    _spec(affine, ops.affine, 1, 2, lambda axes, values: tuple(values), 2),
    _spec(standardize, ops.standardize, 1, 2, lambda axes, values: tuple(values), 2),
    _spec(
        normalize,
        ops.normalize,
        1,
        0,
        lambda axes, values: (*values, axes, 1e-5),
        3,
        float32=(1, 2, 3),
    ),
    _spec(normalize_dx, ops.normalize_dx, 2, 1, _axes_last, 5),
    _spec(normalize_dx2, ops.normalize_dx2, 3, 1, _axes_last, 7),
)
