"""Frechet distance between Gaussians fitted to two sets of features."""

import numpy as np


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Return the Frechet distance of features x (N, d) and y (M, d), N and M at least 2; float64.

    The `gaussian_distance` of the Gaussians fitted to both. Biased upwards by about 1/N: compare
    only distances computed from equally many samples. Source: Heusel et al. 2017
    (arXiv:1706.08500), where the features are of an Inception network and the distance is called
    FID.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return gaussian_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))


def gaussian_distance(
    mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray
) -> float:
    """Return the squared 2-Wasserstein distance between two Gaussians.

        |mean_x - mean_y|^2 + tr( A + B - 2 (A^(1/2) B A^(1/2))^(1/2) )

    of N(mean_x, A) and N(mean_y, B), A = cov_x, B = cov_y (d, d). The trace of the root is the sum
    of the square roots of the eigenvalues of A^(1/2) B A^(1/2), which unlike A B is symmetric, and
    positive semi-definite also for singular A or B; eigenvalues below zero from rounding count as
    0. Source: Dowson & Landau 1982.
    """
    mean, A, B = mean_x - mean_y, np.atleast_2d(cov_x), np.atleast_2d(cov_y)
    values, vectors = np.linalg.eigh(A)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = root @ B @ root
    cross = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    return max(0.0, float(mean @ mean + np.trace(A) + np.trace(B) - 2 * cross))
