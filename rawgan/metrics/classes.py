"""Metrics of the classes that a classifier predicts for samples."""

import numpy as np


def class_entropy(predicted: np.ndarray, classes: int) -> float:
    """Return the entropy in nats of the predicted classes (N,) of samples.

        H = - sum over k of p[k] log p[k],  p[k] = fraction of samples in class k

    log(classes) if all classes are equally frequent, 0 if all samples are of one class.
    """
    p = np.bincount(predicted, minlength=classes) / len(predicted)
    p = p[p > 0]
    return max(0.0, float(-(p * np.log(p)).sum()))


def modes_covered(predicted: np.ndarray) -> int:
    """Return the number of classes that at least one sample is predicted to be of, (N,)."""
    return len(np.unique(predicted))


def kl_to_uniform(predicted: np.ndarray, classes: int) -> float:
    """Return KL(p, uniform) in nats of the predicted classes (N,) of samples.

        KL = sum over k of p[k] log(p[k] K) = log K - H,  p[k] = fraction of samples in class k

    Of N samples of the uniform distribution it is about (K - 1) / (2 N), not 0.
    """
    return float(np.log(classes)) - class_entropy(predicted, classes)


def conditional_accuracy(predicted: np.ndarray, wanted: np.ndarray) -> float:
    """Return the fraction of samples whose predicted class (N,) is the requested one (N,).

    It is limited by the accuracy of the classifier.
    """
    return float((predicted == wanted).mean())
