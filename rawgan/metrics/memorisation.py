"""Memorisation: tests whether samples are copies of training pictures."""

import numpy as np

from rawgan.metrics.neighbours import nearest


def memorisation(
    samples: np.ndarray, test: np.ndarray, train: np.ndarray, level: float = 0.01
) -> tuple[float, float]:
    """Return (nearest, copies): distances to the training set, relative to those of test pictures.

        nearest = median over samples of d(x) / median over test of d(x)
        copies  = fraction of samples with d(x) = 0, or below the `level` quantile of d over test
        d(x)    = distance of x to the nearest training picture

    Test pictures with d(x) = 0 stand in the training set too: they are not unseen, and are left out
    of the median and the quantile. samples (N, d), test (M, d) and train (L, d) are features. A
    generator that does not copy has nearest about 1 or above and copies about `level`; one that
    copies has nearest 0 and copies 1. Bad samples are far from everything: a nearest far above 1 is
    no merit. nearest is inf, and copies counts d(x) = 0 alone, if all of the test set stands in the
    training set. Source: the comparison with held-out data follows Meehan et al. 2020
    (arXiv:2004.05675).
    """
    d, unseen = nearest(samples, train), nearest(test, train)
    unseen = unseen[unseen > 0]
    if not len(unseen):
        return float("inf"), float((d == 0).mean())
    ratio = float(np.median(d)) / float(np.median(unseen))
    return ratio, float(((d == 0) | (d < np.quantile(unseen, level))).mean())
