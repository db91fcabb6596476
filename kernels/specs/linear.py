"""Specs of linear.py."""

from rawgan.kernels.linear import linear, linear_dw, linear_dx
from rawgan.kernels.specs.spec import PRODUCTS, Axes, Spec
from rawgan.kernels.specs.testing import activated_dx, compiles
from rawgan.ops import linear as ops


def _spec(wrapper, reference, make, cases, benchmarks, bilinear_reference=None) -> Spec:
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make,
        cases=cases,
        benchmarks=benchmarks,
        traffic=lambda itemsize, N, C, K, **_: itemsize * (N * C + K * C + N * K),
        flops=lambda N, C, K, **_: 2 * N * C * K,
        compiles=compiles(
            {"N": 1024, "C": 512, "K": 512},
            {"N": 64, "C": 100, "K": 3} if wrapper is linear else None,
        ),
        dtypes=("float32", *PRODUCTS, "float16", "bfloat16"),
        bilinear_reference=bilinear_reference or reference,
    )


_TRAIN = (
    {"N": 128, "C": 100, "K": 16384},
    {"N": 128, "C": 784, "K": 512},
    {"N": 128, "C": 8192, "K": 1},
)


def _reference(x, w, b=None, act=None, v=None):
    return activated_dx(ops.linear(x, w, b), act, v)


def _make(array, N, C, K, bias=False, below=False, **act):
    return (array(N, C), array(K, C), *((array(K),) if bias else ())), act | (
        {"v": array(N, K)} if below else {}
    )


def _matmul_axes(launch) -> Axes:
    c = launch.constants
    axes = {"rows": (c["M"], c["BLOCK_M"]), "columns": (c["N"], c["BLOCK_N"])}
    return axes | {"split-K": (c["K"], c["STEPS"] * c["BLOCK_K"])}


GRID_AXES = {"matmul_kernel": _matmul_axes}

SPECS = (
    _spec(
        linear,
        _reference,
        _make,
        (
            {"N": 37, "C": 100, "K": 70, "bias": True, "act": "leaky_relu"},
            {"N": 1, "C": 17, "K": 1},
            {"N": 64, "C": 64, "K": 64},
            {"N": 5, "C": 700, "K": 3, "bias": True, "act": "sigmoid"},  # in partials
            {"N": 5, "C": 700, "K": 3, "below": True, "act": "leaky_relu"},
            {
                "N": 37,
                "C": 330,
                "K": 70,
                "bias": True,
                "act": "tanh",
            },  # several tiles along every axis
        ),
        _TRAIN,
        bilinear_reference=lambda x, w, b=None, act=None, v=None: ops.linear(x, w, b),
    ),
    _spec(
        linear_dx,
        lambda dy, w, act=None, v=None: activated_dx(ops.linear_dx(dy, w), act, v),
        lambda array, N, C, K, act=None: (
            (array(N, K), array(K, C)),
            {"act": act, "v": array(N, C)} if act else {},
        ),
        (
            {"N": 37, "C": 100, "K": 70},
            {"N": 1, "C": 17, "K": 1},
            {"N": 37, "C": 20, "K": 330, "act": "leaky_relu"},
            {"N": 37, "C": 70, "K": 330},
        ),
        _TRAIN,
        bilinear_reference=lambda dy, w, act=None, v=None: ops.linear_dx(dy, w),
    ),
    _spec(
        linear_dw,
        ops.linear_dw,
        lambda array, N, C, K: ((array(N, C), array(N, K)), {}),
        ({"N": 37, "C": 100, "K": 70}, {"N": 1, "C": 17, "K": 1}, {"N": 330, "C": 70, "K": 37}),
        _TRAIN,
    ),
)
