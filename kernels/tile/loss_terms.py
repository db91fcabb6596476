"""Loss terms f(x) and their derivatives: what losses and gradient penalties take the mean of."""

import triton
import triton.language as tl

from rawgan.kernels.tile.activation import activate


@triton.jit
def loss_term(x, LOSS_TERM: tl.constexpr, LOSS_PARAM: tl.constexpr):
    """Return (f(x), derivative).

    The derivative is f'(x). For "r1" and "grad_norm" x is |g|^2 of a gradient g, and in its place
    is the s with df/dg = s g.

        "bce_real"    softplus(x) - (1 - p) x = softplus(-x) + p x    BCE with label 1 - p
        "bce_fake"    p softplus(x)                                   BCE with label 0
        "sigmoid"     sigmoid(x)
        "square"      (x - p)^2
        "linear"      p x
        "hinge"       max(1 + p x, 0)
        "r1"          x / 2
        "grad_norm"   (sqrt(x) - 1)^2; for p = 1 one-sided, max(sqrt(x) - 1, 0)^2

    p is LOSS_PARAM. NaN in x gives NaN.
    """
    if LOSS_TERM == "bce_real":
        # As softplus(-x) + p x: no difference of two large numbers
        value = activate(-x, "softplus", 0.0) + LOSS_PARAM * x
        return value, LOSS_PARAM - activate(-x, "sigmoid", 0.0)
    elif LOSS_TERM == "bce_fake":
        value = LOSS_PARAM * activate(x, "softplus", 0.0)
        return value, LOSS_PARAM * activate(x, "sigmoid", 0.0)
    elif LOSS_TERM == "sigmoid":
        s = activate(-tl.abs(x), "sigmoid", 0.0)  # the derivative is even
        return activate(x, "sigmoid", 0.0), s * (1.0 - s)
    elif LOSS_TERM == "square":
        return (x - LOSS_PARAM) * (x - LOSS_PARAM), 2.0 * (x - LOSS_PARAM)
    elif LOSS_TERM == "linear":
        return LOSS_PARAM * x, tl.zeros_like(x) + LOSS_PARAM
    elif LOSS_TERM == "hinge":
        y = 1.0 + LOSS_PARAM * x
        return tl.where(y <= 0, 0.0, y), tl.where(y > 0, LOSS_PARAM, 0.0)
    elif LOSS_TERM == "r1":
        return 0.5 * x, tl.zeros_like(x) + 1.0
    else:
        tl.static_assert(LOSS_TERM == "grad_norm", "LOSS_TERM is none of those above")
        # df/dg = 2 (|g| - 1) g / |g|, and 0 at g = 0
        norm = tl.sqrt(x)
        excess = norm - 1.0
        if LOSS_PARAM == 1:
            excess = tl.where(excess <= 0, 0.0, excess)
        derivative = tl.where(norm > 0, 2.0 * excess / tl.where(norm > 0, norm, 1.0), 0.0)
        return excess * excess, tl.where(norm != norm, norm, derivative)
