"""Dissimilarity of two distributions on a common grid of K points.

Total variation, Kullback-Leibler, Jensen-Shannon and earth mover's distance. p and q are
probabilities (K,), each >= 0 with sum 1 (within 1e-6, then made exact). 0 log 0 = 0, and logarithms
are natural. All raise ValueError for anything else. Source: Raschka & Mirjalili, Python Machine
Learning, 3rd ed., ch. 17; Arjovsky et al. 2017 (arXiv:1701.07875), section 2.
"""

from math import log

import numpy as np


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Return the total variation distance, the largest difference of the probability of an event.

        TV = max over A of |P(A) - Q(A)| = 1/2 sum over k of |p[k] - q[k]|

    In [0, 1], 1 for disjoint supports.
    """
    p, q = _probabilities(p, q)
    return min(1.0, float(np.abs(p - q).sum() / 2))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Kullback-Leibler divergence of p from q, which is not symmetric.

        KL(p | q) = sum over k of p[k] log(p[k] / q[k])

    In [0, inf], inf if q[k] = 0 < p[k] for some k.
    """
    p, q = _probabilities(p, q)
    return max(0.0, _relative(p, q))


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence: the mean divergence of p and q from their mean m.

        JS = 1/2 KL(p | m) + 1/2 KL(q | m),  m = (p + q) / 2

    Symmetric, in [0, log 2], log 2 for disjoint supports. The best discriminator of Goodfellow et
    al. 2014 (arXiv:1406.2661, theorem 1) reaches V(G, D) = 2 JS - log 4.
    """
    p, q = _probabilities(p, q)
    return max(0.0, log(2) + (_relative(p, p + q) + _relative(q, p + q)) / 2)


def earth_movers(p: np.ndarray, q: np.ndarray, x: np.ndarray) -> float:
    """Return the earth mover's (Wasserstein-1) distance at ascending positions x (K,).

        EM = sum over k of |P[k] - Q[k]| (x[k+1] - x[k]),  P[k] = p[0] + ... + p[k], Q alike

    The least work that turns p into q, probability times distance, in [0, x[-1] - x[0]]. Exact on a
    line: P[k] - Q[k] is the mass that must move from x[k] to x[k+1].
    """
    p, q = _probabilities(p, q)
    x = np.asarray(x, np.float64)
    if x.shape != p.shape or not np.isfinite(x).all() or (np.diff(x) < 0).any():
        raise ValueError(
            f"expected finite positions x {p.shape} in ascending order, got x {x.shape}"
        )
    return float(np.abs(np.cumsum(p - q)[:-1]) @ np.diff(x))


def _probabilities(*ps: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return p and q in float64 with sum 1."""
    ps = tuple(np.asarray(p, np.float64) for p in ps)
    for name, p in zip("pq", ps):
        if p.ndim != 1 or p.shape != ps[0].shape:
            raise ValueError(
                f"expected p and q of one shape (K,), got {ps[0].shape} and {ps[1].shape}"
            )
        if not (p >= 0).all() or not abs(p.sum() - 1) < 1e-6:  # written so that NaN is rejected
            raise ValueError(f"{name} is no distribution: its entries are not all >= 0 with sum 1")
    return tuple(p / p.sum() for p in ps)


def _relative(p: np.ndarray, q: np.ndarray) -> float:
    """Return the sum over p[k] > 0 of p[k] (log p[k] - log q[k]).

    A difference of logarithms, because the quotient overflows for the smallest q.
    """
    p, q = p[p > 0], q[p > 0]
    return float(p @ (np.log(p) - np.log(q))) if (q > 0).all() else np.inf
