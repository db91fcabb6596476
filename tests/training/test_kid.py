"""The kernel distance (KID) against its definition, and its lack of bias over many draws."""

import numpy as np

from rawgan.metrics.kid import kid, mmd2
from tests.support.reference import assert_close


def k(u, v):
    return (u @ v / len(u) + 1) ** 3


def by_definition(x, y):
    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j)
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j)
    xy = sum(k(u, v) for u in x for v in y)
    return xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)


def test_definition(rng):
    for m, n, d in ((2, 2, 1), (5, 7, 3), (13, 4, 9)):
        x, y = rng.normal(size=(m, d)), rng.normal(size=(n, d)) + 1
        assert_close(mmd2(x, y), by_definition(x, y))


def test_it_has_no_bias(rng):
    """Over many draws the mean of the KID is the exact discrepancy of the distributions.

    It is known for points drawn with given probabilities. With the diagonal included the estimate
    would be off by the mean of k(x, x) over m, many standard errors.
    """
    points, p, q = (
        rng.normal(size=(6, 4)),
        np.array([3, 2, 1, 1, 1, 2]) / 10,
        np.array([1, 1, 1, 2, 3, 2]) / 10,
    )
    K = (points @ points.T / 4 + 1) ** 3
    want = (p - q) @ K @ (p - q)
    m = 8
    draws = [
        mmd2(points[rng.choice(6, m, p=p)], points[rng.choice(6, m, p=q)]) for _ in range(4000)
    ]
    error = np.std(draws) / np.sqrt(len(draws))
    bias = (p + q) @ np.diag(K) / m
    assert bias > 20 * error, "the test would not see a bias"
    assert abs(np.mean(draws) - want) < 4 * error


def test_of_one_distribution_it_is_zero_on_average_and_below_at_times(rng):
    draws = [mmd2(*rng.normal(size=(2, 20, 5))) for _ in range(2000)]
    assert min(draws) < 0 < max(draws)
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(len(draws))


def test_subsets(rng):
    """The mean over subsets is close to the estimate from all samples.

    A subset is at most half of a small set.
    """
    x, y = rng.normal(size=(300, 6)), 1.5 * rng.normal(size=(200, 6))
    mean, std = kid(x, y, np.random.default_rng(0), subsets=200, size=100)
    assert abs(mean - mmd2(x, y)) < 4 * std / np.sqrt(200) and std > 0
    mean, std = kid(x[:50], y[:50], np.random.default_rng(0), subsets=400)
    assert abs(mean - mmd2(x[:50], y[:50])) < 4 * std / np.sqrt(400) and std > 0


def test_the_generator_decides(rng):
    x, y = rng.normal(size=(2, 100, 4))
    got = [kid(x, y, np.random.default_rng(s), subsets=5, size=20) for s in (1, 1, 2)]
    assert got[0] == got[1] != got[2]
