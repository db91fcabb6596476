"""The Frechet distance against SciPy's matrix square root, and on Gaussians with known distance."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from rawgan.metrics.frechet import frechet, gaussian_distance


def by_sqrtm(x, y):
    """Return the FID by tr(A + B - 2 (A B)^(1/2)), in float64 with SciPy's square root."""
    A, B, mean = np.cov(x, rowvar=False), np.cov(y, rowvar=False), x.mean(0) - y.mean(0)
    return mean @ mean + np.trace(A + B - 2 * sqrtm(A @ B).real)


@pytest.mark.parametrize("N, d", [(400, 8), (1000, 64), (3000, 128)])
def test_it_is_within_a_percent_of_the_reference(rng, N, d):
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    x, y = (
        np.maximum(rng.normal(size=(N, d)) @ mix, 0),
        np.maximum(1.3 * rng.normal(size=(N, d)) + 0.2, 0),
    )
    want = by_sqrtm(x, y)
    assert abs(frechet(x, y) - want) < 1e-8 * want
    assert abs(frechet(x.astype(np.float32), y.astype(np.float32)) - want) < 1e-4 * want


def exactly(rng, N, mean, cov):
    """Return N samples whose sample mean and covariance are exactly the given ones."""
    white = rng.normal(size=(N, len(mean)))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    return mean + white @ np.linalg.cholesky(cov).T


def test_gaussians_with_one_axes(rng):
    """For commuting covariances the distance is |mean - mean'|^2 + sum (s - s')^2.

    s and s' are the standard deviations along the common axes.
    """
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    s, t, a, b = (
        rng.uniform(0.5, 2, 5),
        rng.uniform(0.5, 2, 5),
        rng.normal(size=5),
        rng.normal(size=5),
    )
    want = ((a - b) ** 2).sum() + ((s - t) ** 2).sum()
    A, B = (turn * s**2) @ turn.T, (turn * t**2) @ turn.T
    assert abs(gaussian_distance(a, A, b, B) - want) < 1e-12 * want
    assert abs(frechet(exactly(rng, 50, a, A), exactly(rng, 70, b, B)) - want) < 1e-10 * want


def test_a_shift_is_its_square(rng):
    x = rng.normal(size=(100, 7))
    assert abs(frechet(x, x + np.array([3, 4, 0, 0, 0, 0, 0])) - 25) < 1e-10


def test_singular_covariances(rng):
    """Singular covariances are exact: dead features that are always 0, and few samples."""
    x, y = rng.normal(size=(60, 6)), rng.normal(size=(60, 6))
    want = frechet(x, y)
    padded = [np.concatenate([a, np.zeros((60, 3))], 1) for a in (x, y)]
    assert abs(frechet(*padded) - want) < 1e-9
    few = rng.normal(size=(5, 40))
    assert frechet(few, few) < 1e-10 and np.isfinite(frechet(few, rng.normal(size=(9, 40))))


def test_one_feature():
    assert (
        abs(frechet(np.array([[0.0], [2.0]]), np.array([[5.0], [5.0]])) - 18) < 1e-12
    )  # 4^2 + (sqrt 2 - 0)^2


def test_it_is_symmetric_and_zero_for_the_same(rng):
    x, y = rng.normal(size=(80, 6)), 2 * rng.normal(size=(90, 6))
    assert abs(frechet(x, y) - frechet(y, x)) < 1e-10 and frechet(x, x) < 1e-10


def test_the_estimate_falls_with_the_number_of_samples(rng):
    """The estimate decreases with the number of samples of one distribution."""
    few, many = (
        np.mean([frechet(*rng.normal(size=(2, N, 8))) for _ in range(20)]) for N in (50, 500)
    )
    assert few > 5 * many
