"""Kernel distance (KID) between two sets of features: unbiased, without a Gaussian model."""

import numpy as np


def kid(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, subsets: int = 100, size: int = 1000
) -> tuple[float, float]:
    """Return the mean and the standard deviation of mmd2 over random subsets.

    x (N, d), y (M, d). Each of the `subsets` draws min(size, N/2, M/2) of both, at least 2, without
    replacement: at most half, so that small sets have a spread too. May be below 0, because the
    estimate is unbiased. Source: Binkowski et al. 2018 (arXiv:1801.01401).
    """
    n = max(2, min(size, len(x) // 2, len(y) // 2))
    values = [
        mmd2(*(rng.choice(a, n, replace=False, shuffle=False) for a in (x, y)))
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy.

        sum_{i != j} k(x_i, x_j) / (m (m-1))  +  sum_{i != j} k(y_i, y_j) / (n (n-1))
            -  2 sum_{i,j} k(x_i, y_j) / (m n)
        k(u, v) = (u.v / d + 1)^3

    x (m, d), y (n, d), m and n at least 2. Including the terms k(x_i, x_i) would add a bias.
    Source: Gretton et al. 2012, lemma 6.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(_mean_of_others(x) + _mean_of_others(y) - 2 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    k = x @ y.T
    k /= x.shape[1]
    k += 1
    return k * k * k


def _mean_of_others(x: np.ndarray) -> float:
    k = _kernel(x, x)
    return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))
