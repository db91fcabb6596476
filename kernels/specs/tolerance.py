"""The allowed error of a result: for the tests, and for benchmarks before they time a kernel.

Needs NumPy alone: neither Triton nor PyTorch.
"""

import numpy as np

from rawgan.backend import array_module
from rawgan.kernels.specs.spec import PRODUCTS

# dtypes that NumPy lacks: (a dtype that it has, how many times coarser their rounding is).
# bf16x3 sums in float32; the loss of its products is PRODUCT_ERROR
ROUNDING = {"bf16x3": ("float32", 1), "tf32": ("float16", 1), "bfloat16": ("float16", 8)}

# Products per tensor-core addition
STEP = {"float32": 8, "tf32": 8, "bf16x3": 16, "float16": 16, "bfloat16": 16}
CHUNK = 32  # BLOCK_K of three products in kernels/gemm_config.py

# The relative error of a product of two float32 numbers on tensor cores: kernels/gemm_config.py
PRODUCT_ERROR = {"float32": 3 * 2**-22, "bf16x3": 2**-15, "tf32": 2**-10}


def tolerance(dtype, want, terms=1, bound=None, scale=None, order=1):
    """Return the allowed |got - want|, entry by entry.

        integers         0
        float64          1e-10 (|want| + scale),  scale = max |want| by default
        lower, bilinear  4 u sqrt(terms) bound    bound = T(|x|, |w|); terms = T(1, 1), the number
                                                  of products in each sum
        lower, others    16 u sqrt(terms) (|want| + scale)

    u is half the distance from 1 to the next number of the dtype. Derivatives of second order
    (order=2) get twice that in lower precision.
    """
    if scale is None:
        scale = abs(want).max() if want.size else 0
    if np.dtype(dtype).kind in "iu":
        return abs(want) * 0.0
    if np.dtype(dtype) == np.float64:
        return 1e-10 * (abs(want) + scale)
    u = float(np.finfo(dtype).eps) / 2
    if bound is not None:
        return 4 * order * u * terms**0.5 * bound
    return 16 * order * u * terms**0.5 * (abs(want) + scale)


def kernel_tolerance(dtype, want, bound=None, terms=None):
    """Return `tolerance` for an output of a kernel; dtype is one of a Spec's `dtypes`.

    bound and terms where the kernel is bilinear. A product of float32 numbers loses up to 3 2^-22
    on tensor cores (tf32x3), three times the rounding that `tolerance` allows for. In bf16x3 each
    loses up to 2^-15, so their sum up to 2^-15 bound, besides the rounding of float32.
    """
    coarser = 3 if dtype == "float32" and bound is not None else 1
    base, coarser = ROUNDING.get(dtype, (dtype, coarser))
    if bound is None:
        return tolerance(base, want, coarser**2)
    allowed = tolerance(base, want, coarser**2 * array_module(terms).maximum(terms, 1), bound)
    return allowed + PRODUCT_ERROR[dtype] * bound if dtype == "bf16x3" else allowed


def loss_of_sum(dtype: str, terms: int) -> float:
    """Return the relative loss, in the root mean square, of a sum of products on tensor cores.

    They add STEP products to the sum exactly and cut the result off to 24 bits: half a unit in the
    last place in the mean, 2^-24 of the sum, always toward 0. So the losses add up where roundings
    would cancel:

        loss = PRODUCT_ERROR + (terms / STEP) 2^-24

    for factors of random signs, whose partial sums are in the root mean square no larger than the
    sum. The three products of float32 operands are summed CHUNK terms at a time, a BLOCK_K, and
    the sums of the chunks are rounded: only those lose.
    """
    if not terms:
        return 0.0
    if dtype in ("float32", "bf16x3"):
        steps = 3 * -(-min(terms, CHUNK) // STEP[dtype])
    else:
        steps = -(-terms // STEP[dtype])
    return PRODUCT_ERROR.get(dtype, 0.0) + steps * 2.0**-24


def statistics_tolerance(want, loss=0.0):
    """Return the allowed |got - want| of BatchNorm's statistics (5, groups, K) of values z.

    loss: the relative loss of z. With e = 16 u + loss and |dz| <= e |z| in the root mean square, to
    first order

        mean   e rms(z)                                      rms(z)^2 = mean^2 + var
        var    2 e sqrt(var) rms(z)                          2 cov(z, dz)
        rstd   rstd^3 / 2 dvar + 16 u rstd
        scale  |scale| drstd / rstd + 16 u |scale|
        shift  |scale| dmean + |mean| dscale + 16 u (|shift| + |mean scale|)
    """
    xp, u = array_module(want), 2.0**-24
    mean, var, rstd, scale, shift = abs(want)
    error, rms = 16 * u + loss, (mean**2 + var) ** 0.5
    dmean, dvar = error * rms, 2 * error * var**0.5 * rms
    drstd = rstd**3 / 2 * dvar + 16 * u * rstd
    dscale = scale * drstd / rstd + 16 * u * scale
    dshift = scale * dmean + mean * dscale + 16 * u * (shift + mean * scale)
    return xp.stack([dmean, dvar, drstd, dscale, dshift])


def spec_tolerance(spec, case, dtype, i, held, want, bound=None, terms=None):
    """Return the allowed error of output i of a Spec's case in one of its dtypes.

    held: the dtype of the output array. bound and terms where the Spec has a bilinear_reference.
    Outputs in float32 that are sums over the values of a product have the loss of those sums too:
    each is at most as wrong, relative to its largest entry, as they are.
    """
    loss = loss_of_sum(dtype, spec.terms(**case)) if spec.terms and held == "float32" else 0.0
    if i == spec.stats:
        return statistics_tolerance(want, loss)
    allowed = kernel_tolerance(dtype if dtype in PRODUCTS else held, want, bound, terms)
    return allowed + loss * (abs(want) + abs(want).max()) if loss else allowed
