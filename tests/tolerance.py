"""How far a result may be from what it should be: one tolerance and one comparison, for the tests and for benchmarks/kernels.py.

Without PyTorch, so that a process that has none can load it.
"""

import numpy as np

from rawgan.backend import array_module, to_host

# dtypes that NumPy lacks: one that it has, and by how much their rounding is coarser than that one's
ROUNDING = {"tf32": ("float16", 1), "bfloat16": ("float16", 8)}


def tolerance(dtype, want, terms=1, bound=None, scale=None, order=1):
    """The allowed |got - want|, entry by entry; the only numbers of this kind are here.

        integers         0
        float64          1e-10 (|want| + scale),  scale = max |want| unless given
        lower, bilinear  4 u sqrt(terms) bound,   bound = T(|x|, |w|), terms = T(1, 1): how many products are summed
        lower, others    16 u sqrt(terms) (|want| + scale)

    u is half the distance from 1 to the next number. Derivatives of second order (order=2) get twice that in lower precision.
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
    """`tolerance` for an output of a kernel; dtype in the words of a Spec, bound and terms where the kernel is bilinear."""
    base, coarser = ROUNDING.get(dtype, (dtype, 1))
    if bound is None:
        return tolerance(base, want, coarser**2)
    return tolerance(base, want, coarser**2 * array_module(terms).maximum(terms, 1), bound)


def assert_close(got, want, name="value", dtype=None, allowed=None, **kind):
    """The shapes are equal, and no entry differs by more than is allowed, tolerance(dtype, want, **kind) with got's dtype unless
    given."""
    got, want = np.asarray(to_host(got)), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{name}: got shape {got.shape}, want {want.shape}"
    allowed = np.broadcast_to(tolerance(dtype or got.dtype, want, **kind) if allowed is None else allowed, want.shape)
    error = np.abs(got.astype(np.float64) - want)
    wrong = ~(error <= allowed)  # so that NaN is wrong
    if wrong.any():
        excess = np.where(wrong, np.nan_to_num(error - allowed, nan=np.inf), -1)
        worst = tuple(map(int, np.unravel_index(excess.argmax(), want.shape)))
        raise AssertionError(
            f"{name}: {wrong.sum()} of {wrong.size} entries differ; the worst, at {worst}: "
            f"got {got[worst]!s}, want {want[worst]!s}, difference {error[worst]:.3g}, allowed {allowed[worst]:.3g}"
        )
