"""Precision and recall: how many samples are realistic, and how much of the data is sampled."""

import numpy as np

from rawgan.metrics.neighbours import nearest, squared_distances


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Return precision and recall of fake (N, d) with respect to real (M, d), both features.

        precision   = fraction of fake inside manifold(real)
        recall      = fraction of real inside manifold(fake)
        manifold(X) = union over x in X of the ball about x whose radius is the distance
                      to the k-th nearest neighbour of x in X, x itself not counted

    Mode collapse shows as a low recall, bad pictures as a low precision. Raises ValueError unless N
    and M exceed k. Source: Kynkaanniemi et al. 2019 (arXiv:1904.06991), section 2.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(
            f"the {k}-th neighbour needs more than {k} of each, got {len(real)} real and "
            f"{len(fake)} fake"
        )
    return inside(fake, real, k), inside(real, fake, k)


def inside(x: np.ndarray, manifold: np.ndarray, k: int) -> float:
    """Return the fraction of x (N, d) that is inside any ball of the manifold (M, d)."""
    radius = nearest(manifold, manifold, k + 1)  # + 1 for the point itself, at distance 0
    hits = [(d <= radius**2 * (1 + 1e-12)).any(1) for _, d in squared_distances(x, manifold)]
    return float(np.concatenate(hits).mean())
