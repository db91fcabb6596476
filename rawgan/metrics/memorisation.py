"""Whether samples are copies of training pictures."""

import numpy as np

from rawgan.metrics.neighbours import nearest


def memorisation(samples: np.ndarray, test: np.ndarray, train: np.ndarray, level: float = 0.01) -> tuple[float, float]:
    """How near the samples come to the training set, measured by how near unseen pictures come; features (N, d), (M, d), (L, d).

        nearest = median over samples of d(x) / median over test of d(x),  d(x) = distance to the nearest of train
        copies  = share of samples with d(x) below the `level` quantile of d over test

    An honest generator has nearest about 1 or above and copies about `level`; one that copies has nearest 0 and copies 1.
    Bad samples lie far from everything: a nearest far above 1 is no merit. nearest is inf where the test set itself is a copy.
    Source: the comparison with held-out data follows Meehan et al. 2020 (arXiv:2004.05675).
    """
    d, unseen = nearest(samples, train), nearest(test, train)
    scale = float(np.median(unseen))
    ratio = float(np.median(d)) / scale if scale else float("inf")
    return ratio, float((d < np.quantile(unseen, level)).mean())
