"""All metrics of a set of samples, and for comparison those of training pictures and of noise.

Training pictures are the upper reference, uniform noise the lower one.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rawgan.data import Images, NoTestSplit, load, with_classes
from rawgan.errors import UserError
from rawgan.metrics.classes import class_entropy, conditional_accuracy
from rawgan.metrics.classifier import Classifier
from rawgan.metrics.frechet import frechet
from rawgan.metrics.kid import kid
from rawgan.metrics.memorisation import memorisation
from rawgan.metrics.precision_recall import precision_recall

NEIGHBOURS = 2000  # pictures whose nearest training picture is searched
NAMES = {
    "frechet": "Frechet distance",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "class_entropy": "class entropy",
    "conditional_accuracy": "requested class found",
    "nearest": "distance to training set / test's",
    "copies": "nearer to it than 99 % of test",
}
BETTER = {  # the direction of each metric
    "frechet": "lower",
    "kid": "lower",
    "precision": "higher",
    "recall": "higher",
    "class_entropy": "as training",
    "conditional_accuracy": "higher",
    "nearest": "near 1",
    "copies": "near 0.01",
}
MEANING = {
    "frechet": "between the features, each set taken for a Gaussian; the lower the better",
    "kid": "between the features, without that assumption, and its spread over subsets; 0 on "
    "average for one distribution",
    "precision": "share of samples among the real pictures; low: bad pictures",
    "recall": "share of real pictures among the samples; low: some kinds are never drawn",
    "class_entropy": "of the classes found, in nats; low: few classes are drawn",
    "conditional_accuracy": "share of samples in which the class that was asked for is found",
    "nearest": "1: as near to the training pictures as unseen ones are; far below 1: copies; "
    "far above: unlike anything",
    "copies": "0.01 is what unseen pictures have; much more: training pictures are drawn again",
}


def splits(
    source: str,
    size: int | None,
    channels: int | None,
    classes: tuple[str, ...] = (),
    skip_broken: bool = False,
) -> tuple[Images, Images, str]:
    """Return training and test pictures of a data set, and a note on the split.

    For a set without a test split, a fixed random sixth of it takes that place: G may have been
    trained on these pictures. classes: the names that labels are counted by, those of the training
    pictures unless given. skip_broken: as in load.
    """
    skip = {"skip_broken": True} if skip_broken else {}
    train = load(source, size, channels, **skip)
    train = with_classes(train, classes or train.classes)
    try:
        test = load(source, size, channels, split="test", **skip)
        return train, with_classes(test, train.classes), "its own test split"
    except NoTestSplit:
        held = np.zeros(len(train), bool)
        held[np.random.default_rng(0).permutation(len(train))[: len(train) // 6]] = True
        return (
            part(train, ~held),
            part(train, held),
            "no test split: a sixth of the pictures stands for one, which G has also seen",
        )


def part(images: Images, index: np.ndarray) -> Images:
    """Return the pictures selected by an index or mask, with their labels."""
    return replace(
        images,
        images=images.images[index],
        labels=None if images.labels is None else images.labels[index],
    )


def evaluate(
    samples: np.ndarray,
    labels: np.ndarray | None,
    train: Images,
    test: Images,
    classifier: Classifier,
    seed: int = 0,
    on_batch: Callable[[int], None] = lambda n: None,
) -> dict:
    """Return {"samples": scores, "train": scores, "noise": scores}.

    The scores of samples uint8 (N, H, W, C), of N training pictures and of N pictures of uniform
    noise, all against at most N test pictures: frechet, kid and kid_std, precision and recall,
    nearest and copies; class_entropy if the classifier predicts the labels of the data, and
    conditional_accuracy if the samples have requested labels (N,). on_batch(n) is called after
    every n pictures of judged_count. Raises UserError for fewer than 8 samples, training or test
    pictures.
    """
    N = len(samples)
    check_counts(N, train, test)
    rng = np.random.default_rng([seed, 1])
    seen = part(train, rng.permutation(len(train))[:N])
    real = classifier.features(test.images[rng.permutation(len(test))[:N]], on_batch)
    noise = rng.integers(0, 256, samples.shape, np.uint8)
    wanted = rng.integers(classifier.classes, size=N)
    known = classifier.features(train.images, on_batch)
    columns = {
        "samples": (samples, labels),
        "train": (seen.images, seen.labels),
        "noise": (noise, wanted),
    }
    result = {}
    for name, (images, asked) in columns.items():
        features, predicted = classifier.classify(images, on_batch=on_batch)
        result[name] = scores(features, real, known, np.random.default_rng([seed, 2]))
        if classifier.task == "classes":
            result[name]["class_entropy"] = class_entropy(predicted, classifier.classes)
            if labels is not None:
                result[name]["conditional_accuracy"] = conditional_accuracy(predicted, asked)
    return result


def judged_count(N: int, train: Images, test: Images) -> int:
    """Return the number of pictures whose features `evaluate` computes for N samples."""
    return len(train) + min(N, len(test)) + 2 * N + min(N, len(train))


def too_few(N: int, train: Images, test: Images, classifier: Classifier) -> list[str]:
    """Return a sentence for each group of metrics that these numbers of pictures are too few for.

    The covariance of F features needs more than F pictures, a hundredth more than 100.
    """
    few, F = min(N, len(test)), classifier.head.C
    sentences = []
    if few < 2 * F:
        sentences.append(
            f"the Frechet distance of {F} features from {few} pictures is far too large: it needs "
            f"{2 * F} samples and test pictures, so compare it with the training column alone"
        )
    if few < 100:
        sentences.append(
            f"KID, precision and recall of {few} pictures vary by much: they need 100 samples and "
            "test pictures"
        )
    if len(test) < 100:
        sentences.append(
            f"copies are counted against the nearest hundredth of the test pictures, and "
            f"{len(test)} have none: they need 100"
        )
    if classifier.task == "classes" and N < 10 * classifier.classes:
        sentences.append(
            f"{N} samples are fewer than 10 for each of {classifier.classes} classes: the class "
            "entropy is too small"
        )
    if twins := in_both(train, test):
        sentences.append(
            f"{twins} of the {len(test)} test pictures stand in the training set too: they are "
            "left out where samples are compared with unseen pictures"
        )
    return sentences


def in_both(train: Images, test: Images) -> int:
    """Return the number of test pictures that are training pictures, byte by byte."""
    known = {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in train.images}
    return sum(
        hashlib.blake2b(image.tobytes(), digest_size=16).digest() in known for image in test.images
    )


def check_counts(N: int, train: Images, test: Images) -> None:
    """Raise UserError for fewer than 8 samples, training or test pictures."""
    if min(N, len(train), len(test)) < 8:
        raise UserError(
            f"{N} samples, {len(train)} training and {len(test)} test pictures are too few: 8 "
            "of each are needed"
        )


def scores(
    features: np.ndarray, real: np.ndarray, known: np.ndarray, rng: np.random.Generator
) -> dict[str, float | None]:
    """Return the scores that need features alone.

    features   of the samples
    real       of test pictures
    known      of training pictures

    nearest is None if it is not finite, which JSON cannot represent.
    """
    mean, std = kid(features, real, rng)
    precision, recall = precision_recall(real, features)
    nearest, copies = memorisation(features[:NEIGHBOURS], real[:NEIGHBOURS], known)
    return {
        "frechet": frechet(features, real),
        "kid": mean,
        "kid_std": std,
        "precision": precision,
        "recall": recall,
        "nearest": nearest if np.isfinite(nearest) else None,
        "copies": copies,
    }


def score_text(scores: dict, name: str) -> str:
    """Format a score with its standard deviation, if any; a dash if it is missing or no number."""
    value, spread = as_float(scores.get(name)), as_float(scores.get(f"{name}_std"))
    if value is None:
        return "–"
    return digits(value, 3) + ("" if spread is None else f" ± {digits(spread, 2)}")


def as_float(value: object) -> float | None:
    """Return a number as a float.

    None for anything else, and for a number beyond the range of float.
    """
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def digits(value: float, n: int) -> str:
    """Format a number with n significant digits, or all digits before the point if more.

    Exponents are used only from 1e15 up, and for small numbers.
    """
    return f"{value:.0f}" if 10**n <= abs(value) < 1e15 else f"{value:.{n}g}"
