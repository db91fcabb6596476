"""Nearest-neighbour distances between two sets of features, a block of rows at a time."""

from collections.abc import Iterator

import numpy as np

BLOCK = 2**22  # distances in memory at a time


def squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows, d) for consecutive blocks of rows of x (N, d), d[i,j] = |x_i - y_j|^2, float64.

        |x - y|^2 = |x|^2 + |y|^2 - 2 x.y

    y is (M, d). Both are shifted by the mean of y, which changes no distance and keeps the sums
    small. For points that coincide the difference is a rounding error: values within it count as 0.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x, y = x - y.mean(0), y - y.mean(0)
    x_squared, y_squared = (x * x).sum(1), (y * y).sum(1)
    step = max(1, BLOCK // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        sums = x_squared[rows, None] + y_squared
        d = sums - 2 * x[rows] @ y.T
        d[d < 4 * np.finfo(np.float64).eps * x.shape[1] * sums] = 0
        yield rows, d


def nearest(x: np.ndarray, y: np.ndarray, k: int = 1) -> np.ndarray:
    """Return the distance (N,) of each x (N, d) to its k-th nearest of y (M, d), 1 <= k <= M."""
    out = np.empty(len(x))
    for rows, d in squared_distances(x, y):
        out[rows] = np.sqrt(d.min(1) if k == 1 else np.partition(d, k - 1, axis=1)[:, k - 1])
    return out
