"""Comparison of arrays in the tests, with the tolerances of kernels/specs/tolerance.py."""

import numpy as np

from rawgan.backend import to_host
from rawgan.kernels.specs.tolerance import tolerance


def assert_close(got, want, name="value", dtype=None, allowed=None, **kind):
    """Raise AssertionError unless the shapes are equal and |got - want| <= allowed, entry by entry.

    allowed: tolerance(dtype, want, **kind) by default, with got's dtype.
    """
    got, want = np.asarray(to_host(got)), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{name}: got shape {got.shape}, want {want.shape}"
    allowed = np.broadcast_to(
        tolerance(dtype or got.dtype, want, **kind) if allowed is None else allowed, want.shape
    )
    error = np.abs(got.astype(np.float64) - want)
    wrong = ~(error <= allowed)  # so that NaN is wrong
    if wrong.any():
        excess = np.where(wrong, np.nan_to_num(error - allowed, nan=np.inf), -1)
        worst = tuple(map(int, np.unravel_index(excess.argmax(), want.shape)))
        raise AssertionError(
            f"{name}: {wrong.sum()} of {wrong.size} entries differ; the worst, at {worst}: "
            f"got {got[worst]!s}, want {want[worst]!s}, difference {error[worst]:.3g}, allowed "
            f"{allowed[worst]:.3g}"
        )
