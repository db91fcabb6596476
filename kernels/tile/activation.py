"""Activations and their derivatives on a tile of float32 values.

The mathematics is in rawgan/ops/act.py.
ACT is None (the identity), "relu", "leaky_relu", "tanh", "sigmoid" or "softplus"; SLOPE is that of
leaky_relu. tanh and sigmoid have their derivatives as functions of their output y, the others of
their input x: `saved` is the one that is needed.
"""

import triton
import triton.language as tl

UNKNOWN_ACT: tl.constexpr = tl.constexpr(
    "ACT must be None, relu, leaky_relu, tanh, sigmoid or softplus"
)


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + exp(-x)); the exponent is never positive, so that it does not overflow."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x > 0, 1.0, e) / (1.0 + e)


@triton.jit
def log1p(e):
    """Return log(1 + e) of float32 e >= 0, accurate for small e.

    log(u) e / (u - 1) with u = 1 + e: the rounding of u cancels.
    """
    u = 1.0 + e
    return tl.where(u == 1.0, e, tl.log(u) * e / tl.where(u == 1.0, 1.0, u - 1.0))


@triton.jit
def activate(x, ACT: tl.constexpr, SLOPE: tl.constexpr):
    """Return f(x). Comparisons are written so that NaN stays NaN."""
    if ACT == "relu":
        x = tl.where(x <= 0, 0.0, x)
    elif ACT == "leaky_relu":
        x = tl.where(x <= 0, SLOPE * x, x)
    elif ACT == "tanh":
        e = tl.exp(-2.0 * tl.abs(x))
        far = (1.0 - e) / (1.0 + e)
        # Near 0 the difference 1 - e loses digits; five terms of the Taylor series lose none
        z = x * x
        near = x * (1.0 + z * (-1 / 3 + z * (2 / 15 + z * (-17 / 315 + z * (62 / 2835)))))
        x = tl.where(z < 0.06, near, tl.where(x < 0, -far, far))
    elif ACT == "sigmoid":
        x = sigmoid(x)
    elif ACT == "softplus":
        x = tl.where(x <= 0, 0.0, x) + log1p(tl.exp(-tl.abs(x)))
    else:
        tl.static_assert(ACT is None, UNKNOWN_ACT)
    return x


@triton.jit
def activate_dx(dy, saved, ACT: tl.constexpr, SLOPE: tl.constexpr):
    """Return the gradient f'(x) dy: saved = y for tanh and sigmoid, saved = x for the others."""
    if ACT is None:
        return dy
    elif ACT == "relu":
        return tl.where(saved > 0, dy, 0.0)
    elif ACT == "leaky_relu":
        return tl.where(saved > 0, dy, SLOPE * dy)
    elif ACT == "tanh":
        return (1.0 - saved) * (1.0 + saved) * dy
    elif ACT == "sigmoid":
        return saved * (1.0 - saved) * dy
    else:
        tl.static_assert(ACT == "softplus", UNKNOWN_ACT)
        return sigmoid(saved) * dy


@triton.jit
def activate_dx2(ddx, dy, saved, ACT: tl.constexpr):
    """Return the second derivative's product f''(x) dy ddx, saved as in activate_dx."""
    if ACT == "tanh":
        return -2.0 * saved * (1.0 - saved) * (1.0 + saved) * dy * ddx
    elif ACT == "sigmoid":
        return saved * (1.0 - saved) * (1.0 - 2.0 * saved) * dy * ddx
    else:
        tl.static_assert(ACT == "softplus", "ACT must be tanh, sigmoid or softplus")
        # s (1 - s) is even in saved; at -|saved|, where s is small, 1 - s is accurate
        s = sigmoid(-tl.abs(saved))
        return s * (1.0 - s) * dy * ddx


@triton.jit
def activate_dx_from_input(dy, z, ACT: tl.constexpr, SLOPE: tl.constexpr):
    """Return act'(z) dy from the input z of any activation; y is recomputed where it is needed."""
    if ACT == "tanh" or ACT == "sigmoid":
        return activate_dx(dy, activate(z, ACT, SLOPE), ACT, SLOPE)
    else:
        return activate_dx(dy, z, ACT, SLOPE)
