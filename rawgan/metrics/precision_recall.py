"""How many samples are realistic, and how much of reality is sampled: two numbers where a distance is one."""

import numpy as np

from rawgan.metrics.neighbours import nearest, squared_distances


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Precision, the share of fake (N, d) inside the manifold of real (M, d), and recall, the share of real inside that of fake.

        manifold(X) = union over x in X of the ball about x that reaches its k-th nearest neighbour in X, x itself not counted

    Mode collapse shows as a low recall, bad pictures as a low precision. N and M must exceed k.
    Source: Kynkaanniemi et al. 2019 (arXiv:1904.06991), section 2.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"the {k}-th neighbour needs more than {k} of each, got {len(real)} real and {len(fake)} fake")
    return inside(fake, real, k), inside(real, fake, k)


def inside(x: np.ndarray, manifold: np.ndarray, k: int) -> float:
    """The share of x (N, d) that lies in any ball of the manifold (M, d)."""
    radius = nearest(manifold, manifold, k + 1)  # of the point itself, at 0, and k others
    hits = [(d <= radius**2 * (1 + 1e-12)).any(1) for _, d in squared_distances(x, manifold)]
    return float(np.concatenate(hits).mean())
