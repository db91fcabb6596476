"""Specs of act.py."""

from math import prod

from rawgan.kernels.act import (
    leaky_relu,
    leaky_relu_dx,
    relu,
    relu_dx,
    sigmoid,
    sigmoid_dx,
    sigmoid_dx2,
    softplus,
    softplus_dx,
    softplus_dx2,
    tanh,
    tanh_dx,
    tanh_dx2,
)
from rawgan.kernels.specs.spec import Spec
from rawgan.ops import act as ops


def _spec(wrapper, reference, arrays: int, *options) -> Spec:
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=lambda array, shape: ((*(array(*shape) for _ in range(arrays)), *options), {}),
        cases=({"shape": (5, 7, 43)}, {"shape": (1, 1)}),
        benchmarks=({"shape": (128, 32, 32, 128)},),
        traffic=lambda itemsize, shape: (arrays + 1) * itemsize * prod(shape),
        flops=lambda shape: 4 * arrays * prod(shape),
        compiles=(("bfloat16", {"shape": (5, 7, 43)}, {}),),
    )


SPECS = (
    _spec(relu, ops.relu, 1),
    _spec(tanh, ops.tanh, 1),
    _spec(sigmoid, ops.sigmoid, 1),
    _spec(softplus, ops.softplus, 1),
    _spec(relu_dx, ops.relu_dx, 2),
    _spec(tanh_dx, ops.tanh_dx, 2),
    _spec(sigmoid_dx, ops.sigmoid_dx, 2),
    _spec(softplus_dx, ops.softplus_dx, 2),
    _spec(tanh_dx2, ops.tanh_dx2, 3),
    _spec(sigmoid_dx2, ops.sigmoid_dx2, 3),
    _spec(softplus_dx2, ops.softplus_dx2, 3),
    _spec(leaky_relu, ops.leaky_relu, 1, 0.2),
    _spec(leaky_relu_dx, ops.leaky_relu_dx, 2, 0.2),
)
