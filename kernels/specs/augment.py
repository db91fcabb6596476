"""Specs of augment.py."""

from math import prod

import numpy as np

from rawgan.backend import array_module
from rawgan.kernels.augment import augment, augment_ddy, augment_dx
from rawgan.kernels.specs.spec import EXACT, Spec
from rawgan.ops import augment as ops


def _make(array, shape, fill=None):
    """Return x and its draws, of which some leave a sample as it is; and fill, for augment."""
    x, draws = array(*shape), array(shape[0], ops.DRAWS, dtype="float32")
    uniforms = np.random.default_rng(0).random((shape[0], ops.UNIFORMS))
    numbers = ops.draw(uniforms, shape[1:3], p=0.8).astype("float32")
    draws[...] = array_module(draws).asarray(numbers)
    return (x, draws), {} if fill is None else {"fill": fill}


def _spec(wrapper, reference, **options) -> Spec:
    large = {"shape": (128, 32, 32, 3)} | options
    shapes = (5, 17, 19, 3), (3, 36, 32, 1), (2, 6, 1, 2), (1, 1, 1, 5)
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=_make,
        cases=tuple({"shape": shape} | options for shape in shapes),
        benchmarks=(large,),
        traffic=lambda itemsize, shape, **_: 2 * itemsize * prod(shape),
        flops=lambda shape, **_: 6 * prod(shape),
        compiles=(("bfloat16", large, {}),),
    )


GRID_AXES = {"augment_kernel": lambda launch: {"samples": (launch.grid[0], EXACT)}}

SPECS = (
    _spec(augment, ops.augment, fill=0.5),
    _spec(augment_dx, ops.augment_dx),
    _spec(augment_ddy, ops.augment_ddy),
)
