"""Long sums on the CPU: nearly as fast as in float32, with the accuracy of float64.

One running sum in float32 loses digits as it grows. Here float32 adds at most a block of terms, and
the sums of the blocks are added in float64. The blocks, and so the bits, depend on the shapes
alone.
"""

from math import prod

import numpy as np

from rawgan.backend import Array

ROWS = 256  # of a product with ones, in which BLAS keeps several partial sums
WIDTH = 512  # numbers in a row from which a product of ROWS rows is worth its call
TERMS = 256  # products in one running sum


def column_sums(rows: Array) -> Array:
    """Return the sum of each column of rows (R, L), float64 (L,).

    A product with a row of ones is faster than a reduction.
    """
    R, L = rows.shape
    if R <= ROWS:
        return (np.ones(R, rows.dtype) @ rows).astype(np.float64)
    side_by_side = max(1, WIDTH // L)
    whole = R - R % side_by_side
    wide = rows[:whole].reshape(-1, side_by_side * L)
    ones, total = np.ones(min(len(wide), ROWS), rows.dtype), rows[whole:].sum(0, np.float64)
    for start in range(0, len(wide), ROWS):
        block = wide[start : start + ROWS]
        total += (ones[: len(block)] @ block).reshape(-1, L).sum(0, np.float64)
    return total


def column_dots(a: Array, b: Array) -> Array:
    """Return the sum over axis -2 of a b, both (..., R, L): float64 (..., L). a b is not stored."""
    *outer, R, L = a.shape
    if R <= TERMS:
        return np.einsum("...rl,...rl->...l", a, b).astype(np.float64)
    whole = R - R % TERMS
    blocks = (v[..., :whole, :].reshape(*outer, -1, TERMS, L) for v in (a, b))
    total = np.einsum("...rl,...rl->...l", *blocks).sum(-2, np.float64)
    return total if whole == R else total + column_dots(a[..., whole:, :], b[..., whole:, :])


def over(axes: tuple[int, ...], *factors: Array) -> Array:
    """Return the sum of f, or of f g, over consecutive axes, kept as 1: float64."""
    shape = factors[0].shape
    terms, outer = prod(shape[axis] for axis in axes), prod(shape[: axes[0]])
    views = [f.reshape(outer, terms, -1) for f in factors]
    sums = (
        column_dots(*views) if len(views) == 2 else np.einsum("nrl->nl", *views, dtype=np.float64)
    )
    return sums.reshape([1 if axis in axes else n for axis, n in enumerate(shape)])
