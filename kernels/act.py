"""Activations with both derivatives, elementwise: a program per BLOCK of values. The mathematics is in rawgan/ops/act.py.

`activate` is also the epilogue of the products in linear.py and conv.py. All arithmetic is in float32.
"""

from math import prod

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.spec import Spec
from rawgan.ops import act as ops

CONFIG = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(x > 0, 1.0, e) / (1.0 + e)


@triton.jit
def activate(x, ACT: tl.constexpr, SLOPE: tl.constexpr):
    """f(x) of float32 values; None is the identity. Comparisons are written so that NaN stays NaN."""
    if ACT == "relu":
        x = tl.where(x <= 0, 0.0, x)
    elif ACT == "leaky_relu":
        x = tl.where(x <= 0, SLOPE * x, x)
    elif ACT == "tanh":
        e = tl.exp(-2.0 * tl.abs(x))
        far = (1.0 - e) / (1.0 + e)
        z = x * x  # near 0 the difference 1 - e has few digits, and five terms of the series have all
        near = x * (1.0 + z * (-1 / 3 + z * (2 / 15 + z * (-17 / 315 + z * (62 / 2835)))))
        x = tl.where(z < 0.06, near, tl.where(x < 0, -far, far))
    elif ACT == "sigmoid":
        x = _sigmoid(x)
    elif ACT == "softplus":
        e = tl.exp(-tl.abs(x))
        u = 1.0 + e  # log1p(e) = log(u) e / (u - 1): the rounding of u cancels
        log1p = tl.where(u == 1.0, e, tl.log(u) * e / tl.where(u == 1.0, 1.0, u - 1.0))
        x = tl.where(x <= 0, 0.0, x) + log1p
    else:
        tl.static_assert(ACT is None, "there is no such activation")
    return x


@triton.jit
def activate_dx(dy, v, ACT: tl.constexpr, SLOPE: tl.constexpr):
    """f'(x) dy, with v = y for tanh and sigmoid, v = x for the others."""
    if ACT is None:
        return dy
    elif ACT == "relu":
        return tl.where(v > 0, dy, 0.0)
    elif ACT == "leaky_relu":
        return tl.where(v > 0, dy, SLOPE * dy)
    elif ACT == "tanh":
        return (1.0 - v * v) * dy
    elif ACT == "sigmoid":
        return v * (1.0 - v) * dy
    else:
        tl.static_assert(ACT == "softplus", "there is no such activation")
        return _sigmoid(v) * dy


@triton.jit
def activate_dx2(ddx, dy, v, ACT: tl.constexpr):
    """f''(x) dy ddx, v as in activate_dx."""
    if ACT == "tanh":
        return -2.0 * v * (1.0 - v * v) * dy * ddx
    elif ACT == "sigmoid":
        return v * (1.0 - v) * (1.0 - 2.0 * v) * dy * ddx
    else:
        tl.static_assert(ACT == "softplus", "there is no such activation with a second derivative")
        s = _sigmoid(v)
        return s * (1.0 - s) * dy * ddx


@triton.jit
def act_kernel(v_ptr, dy_ptr, ddx_ptr, out_ptr, SIZE: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SIZE
    v = tl.load(v_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    if dy_ptr is None:
        out = activate(v, ACT, SLOPE)
    else:
        dy = tl.load(dy_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        if ddx_ptr is None:
            out = activate_dx(dy, v, ACT, SLOPE)
        else:
            out = activate_dx2(tl.load(ddx_ptr + offs, mask=mask, other=0.0).to(tl.float32), dy, v, ACT)
    tl.store(out_ptr + offs, out.to(out_ptr.dtype.element_ty), mask=mask)


def _run(act: str, v: Array, dy: Array | None = None, ddx: Array | None = None, slope: float = 0.0) -> Array:
    launch.fit(*((v.shape, a.shape) for a in (dy, ddx) if a is not None))
    out = launch.empty(v, v.shape)
    grid = (launch.cdiv(v.size, CONFIG["BLOCK"]),)
    launch.run(act_kernel, grid, v, dy, ddx, out, SIZE=v.size, ACT=act, SLOPE=slope, **CONFIG)
    return out


def relu(x: Array) -> Array:
    return _run("relu", x)


def relu_dx(dy: Array, x: Array) -> Array:
    return _run("relu", x, dy)


def leaky_relu(x: Array, slope: float) -> Array:
    return _run("leaky_relu", x, slope=slope)


def leaky_relu_dx(dy: Array, x: Array, slope: float) -> Array:
    return _run("leaky_relu", x, dy, slope=slope)


def tanh(x: Array) -> Array:
    return _run("tanh", x)


def tanh_dx(dy: Array, y: Array) -> Array:
    return _run("tanh", y, dy)


def tanh_dx2(ddx: Array, dy: Array, y: Array) -> Array:
    return _run("tanh", y, dy, ddx)


def sigmoid(x: Array) -> Array:
    return _run("sigmoid", x)


def sigmoid_dx(dy: Array, y: Array) -> Array:
    return _run("sigmoid", y, dy)


def sigmoid_dx2(ddx: Array, dy: Array, y: Array) -> Array:
    return _run("sigmoid", y, dy, ddx)


def softplus(x: Array) -> Array:
    return _run("softplus", x)


def softplus_dx(dy: Array, x: Array) -> Array:
    return _run("softplus", x, dy)


def softplus_dx2(ddx: Array, dy: Array, x: Array) -> Array:
    return _run("softplus", x, dy, ddx)


def _spec(wrapper, arrays: int, *options) -> Spec:
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=getattr(ops, wrapper.__name__),
        make=lambda array, shape: ((*(array(*shape) for _ in range(arrays)), *options), {}),
        cases=({"shape": (5, 7, 43)}, {"shape": (1, 1)}),
        benchmarks=({"shape": (128, 32, 32, 128)},),
        traffic=lambda itemsize, shape: (arrays + 1) * itemsize * prod(shape),
        flops=lambda shape: 4 * arrays * prod(shape),
        compiles=(("bfloat16", {"shape": (5, 7, 43)}, {}),),
    )


SPECS = (
    *(_spec(f, 1) for f in (relu, tanh, sigmoid, softplus)),
    *(_spec(f, 2) for f in (relu_dx, tanh_dx, sigmoid_dx, softplus_dx)),
    *(_spec(f, 3) for f in (tanh_dx2, sigmoid_dx2, softplus_dx2)),
    _spec(leaky_relu, 1, 0.2),
    _spec(leaky_relu_dx, 2, 0.2),
)
