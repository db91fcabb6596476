"""Activations with both derivatives, elementwise. The mathematics is in rawgan/ops/act.py.

A program computes BLOCK values, in float32. The same functions are the epilogue of the GEMMs in
linear.py and conv.py: tile/activation.py.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.activation import activate, activate_dx, activate_dx2
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.epilogue import load_f32

CONFIG = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def act_kernel(
    saved_ptr,
    dy_ptr,
    ddx_ptr,
    out_ptr,
    SIZE: tl.constexpr,
    ACT: tl.constexpr,
    SLOPE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """f(saved), with dy_ptr f'(saved) dy, with ddx_ptr too f''(saved) dy ddx. Tile: BLOCK values.

    saved is y for the derivatives of tanh and sigmoid, else x: see tile/activation.py.
    """
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SIZE
    saved = load_f32(saved_ptr, offs, mask)
    if dy_ptr is None:
        out = activate(saved, ACT, SLOPE)
    else:
        dy = load_f32(dy_ptr, offs, mask)
        if ddx_ptr is None:
            out = activate_dx(dy, saved, ACT, SLOPE)
        else:
            out = activate_dx2(load_f32(ddx_ptr, offs, mask), dy, saved, ACT)
    tl.store(out_ptr + offs, out.to(out_ptr.dtype.element_ty), mask=mask)


def _run(
    act: str, v: Array, dy: Array | None = None, ddx: Array | None = None, slope: float = 0.0
) -> Array:
    """Launch act_kernel and return its output, an array like v."""
    launch.require_equal(*((v.shape, a.shape) for a in (dy, ddx) if a is not None))
    out = launch.empty(v, v.shape)
    grid = (launch.cdiv(v.size, CONFIG["BLOCK"]),)
    launch.run(act_kernel, grid, v, dy, ddx, out, SIZE=v.size, ACT=act, SLOPE=slope, **CONFIG)
    return out


def relu(x: Array) -> Array:
    """ReLU, elementwise."""
    return _run("relu", x)


def relu_dx(dy: Array, x: Array) -> Array:
    """Return the derivative of relu times dy, from x."""
    return _run("relu", x, dy)


def leaky_relu(x: Array, slope: float) -> Array:
    """LeakyReLU, elementwise."""
    return _run("leaky_relu", x, slope=slope)


def leaky_relu_dx(dy: Array, x: Array, slope: float) -> Array:
    """Return the derivative of leaky_relu times dy, from x."""
    return _run("leaky_relu", x, dy, slope=slope)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent, elementwise."""
    return _run("tanh", x)


def tanh_dx(dy: Array, y: Array) -> Array:
    """Return the derivative of tanh times dy, from y = tanh(x)."""
    return _run("tanh", y, dy)


def tanh_dx2(ddx: Array, dy: Array, y: Array) -> Array:
    """Return the second derivative of tanh times dy ddx, from y = tanh(x)."""
    return _run("tanh", y, dy, ddx)


def sigmoid(x: Array) -> Array:
    """Logistic sigmoid, elementwise."""
    return _run("sigmoid", x)


def sigmoid_dx(dy: Array, y: Array) -> Array:
    """Return the derivative of sigmoid times dy, from y = sigmoid(x)."""
    return _run("sigmoid", y, dy)


def sigmoid_dx2(ddx: Array, dy: Array, y: Array) -> Array:
    """Return the second derivative of sigmoid times dy ddx, from y = sigmoid(x)."""
    return _run("sigmoid", y, dy, ddx)


def softplus(x: Array) -> Array:
    """Softplus, elementwise: log(1 + exp(x))."""
    return _run("softplus", x)


def softplus_dx(dy: Array, x: Array) -> Array:
    """Return the derivative of softplus times dy, from x."""
    return _run("softplus", x, dy)


def softplus_dx2(ddx: Array, dy: Array, x: Array) -> Array:
    """Return the second derivative of softplus times dy ddx, from x."""
    return _run("softplus", x, dy, ddx)
