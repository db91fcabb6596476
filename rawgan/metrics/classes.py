"""What a classifier sees in the samples: which classes, and whether those that were asked for."""

import numpy as np


def class_entropy(predicted: np.ndarray, classes: int) -> float:
    """The entropy of the classes (N,) found in the samples, in nats; log(classes) when all are equally many, 0 when one is left.

    H = - sum over k of p[k] log p[k],  p[k] = share of samples in class k
    """
    p = np.bincount(predicted, minlength=classes) / len(predicted)
    p = p[p > 0]
    return max(0.0, float(-(p * np.log(p)).sum()))


def conditional_accuracy(predicted: np.ndarray, wanted: np.ndarray) -> float:
    """The share of samples in which the class (N,) that was asked for is found (N,); at best the classifier's own accuracy."""
    return float((predicted == wanted).mean())
