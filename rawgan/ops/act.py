"""Activations, each with its first and second derivative: f(x), f'(x) dy, and f''(x) dy ddx.

The backward of an activation is dx = f'(x) dy. As a function of (dy, x), its vector-Jacobian
product with a cotangent ddx is

    ddy = f'(x) ddx        dx = f''(x) dy ddx

so `f_dx` serves both sweeps, and `f_dx2` is the curvature. ReLU and LeakyReLU have none; at 0 they
take the left slope, as PyTorch does. The smooth ones take y = f(x) where the derivative is a
polynomial in it. Every function keeps its relative accuracy where it saturates: no difference of
two nearly equal rounded numbers is taken.
"""

from functools import partial

from rawgan.backend import Array, array_module, kernels_on
from rawgan.cpu import elementwise
from rawgan.kernels import kernels
from rawgan.kernels.cpu import act as cpu_act


@partial(elementwise, fast_form=cpu_act.relu)
def relu(x: Array) -> Array:
    """y = max(x, 0). Derivative: relu_dx. Source: Nair & Hinton 2010."""
    if kernels_on(x):
        return kernels.relu(x)
    return array_module(x).maximum(x, 0)


@partial(elementwise, fast_form=cpu_act.relu_dx)
def relu_dx(dy: Array, x: Array) -> Array:
    """dx = dy where x > 0, 0 elsewhere."""
    if kernels_on(dy, x):
        return kernels.relu_dx(dy, x)
    return dy * (x > 0)


@partial(elementwise, fast_form=cpu_act.leaky_relu)
def leaky_relu(x: Array, slope: float) -> Array:
    """y = x where x > 0, slope x elsewhere; 0 <= slope < 1.

    Derivative: leaky_relu_dx. Source: Maas et al. 2013.
    """
    if kernels_on(x):
        return kernels.leaky_relu(x, slope)
    return array_module(x).maximum(x, slope * x)


@partial(elementwise, fast_form=cpu_act.leaky_relu_dx)
def leaky_relu_dx(dy: Array, x: Array, slope: float) -> Array:
    """dx = dy where x > 0, slope dy elsewhere.

    Computed as a product, which is four times faster than a selection by `where`.
    """
    if kernels_on(dy, x):
        return kernels.leaky_relu_dx(dy, x, slope)
    return dy * (slope + (1 - slope) * (x > 0).astype(x.dtype))


@elementwise
def tanh(x: Array) -> Array:
    """y = tanh x, in (-1, 1). Derivatives: tanh_dx, tanh_dx2."""
    if kernels_on(x):
        return kernels.tanh(x)
    return array_module(x).tanh(x)


@partial(elementwise, fast_form=cpu_act.tanh_dx)
def tanh_dx(dy: Array, y: Array) -> Array:
    """dx = (1 - y^2) dy, with y = tanh x.

    Computed as (1 - y) (1 + y), because y^2 is rounded and 1 - y is exact where y is near 1.
    """
    if kernels_on(dy, y):
        return kernels.tanh_dx(dy, y)
    return (1 - y) * (1 + y) * dy


@elementwise
def tanh_dx2(ddx: Array, dy: Array, y: Array) -> Array:
    """dx = -2 y (1 - y^2) dy ddx, with y = tanh x."""
    if kernels_on(ddx, dy, y):
        return kernels.tanh_dx2(ddx, dy, y)
    return -2 * y * (1 - y) * (1 + y) * dy * ddx


@partial(elementwise, fast_form=cpu_act.sigmoid)
def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + exp(-x)), in (0, 1). Derivatives: sigmoid_dx, sigmoid_dx2.

    As (1 or e) / (1 + e) with e = exp(-|x|), 1 where x > 0: nothing overflows, and the tail keeps
    its digits.
    """
    if kernels_on(x):
        return kernels.sigmoid(x)
    xp = array_module(x)
    e = xp.exp(-xp.absolute(x))
    return xp.maximum(e, x > 0) / (1 + e)


@elementwise
def sigmoid_dx(dy: Array, y: Array) -> Array:
    """dx = y (1 - y) dy, with y = sigmoid x."""
    if kernels_on(dy, y):
        return kernels.sigmoid_dx(dy, y)
    return y * (1 - y) * dy


@elementwise
def sigmoid_dx2(ddx: Array, dy: Array, y: Array) -> Array:
    """dx = y (1 - y) (1 - 2 y) dy ddx, with y = sigmoid x."""
    if kernels_on(ddx, dy, y):
        return kernels.sigmoid_dx2(ddx, dy, y)
    return y * (1 - y) * (1 - 2 * y) * dy * ddx


@elementwise
def softplus(x: Array) -> Array:
    """y = log(1 + exp x), for any x without overflow. Derivatives: softplus_dx, softplus_dx2."""
    if kernels_on(x):
        return kernels.softplus(x)
    return array_module(x).logaddexp(x, x.dtype.type(0))


@elementwise
def softplus_dx(dy: Array, x: Array) -> Array:
    """dx = sigmoid(x) dy."""
    if kernels_on(dy, x):
        return kernels.softplus_dx(dy, x)
    return sigmoid(x) * dy


@elementwise
def softplus_dx2(ddx: Array, dy: Array, x: Array) -> Array:
    """dx = sigmoid(x) (1 - sigmoid(x)) dy ddx.

    An even function of x, computed at -|x|, where the sigmoid is small.
    """
    if kernels_on(ddx, dy, x):
        return kernels.softplus_dx2(ddx, dy, x)
    return sigmoid_dx(dy, sigmoid(-array_module(x).absolute(x))) * ddx
