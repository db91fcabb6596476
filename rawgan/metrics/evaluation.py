"""Every metric of a set of samples, beside the same of training pictures, which nobody betters, and of noise."""

from dataclasses import replace

import numpy as np

from rawgan.data import Images, NoTestSplit, load
from rawgan.errors import UserError
from rawgan.metrics.classes import class_entropy, conditional_accuracy
from rawgan.metrics.classifier import Classifier
from rawgan.metrics.frechet import frechet
from rawgan.metrics.kid import kid
from rawgan.metrics.memorisation import memorisation
from rawgan.metrics.precision_recall import precision_recall

NEIGHBOURS = 2000  # pictures whose nearest training picture is looked for
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
MEANING = {
    "frechet": "between the features, each set taken for a Gaussian; the lower the better",
    "kid": "between the features, without that assumption, and its spread over subsets; 0 on average for one distribution",
    "precision": "share of samples among the real pictures; low: bad pictures",
    "recall": "share of real pictures among the samples; low: some kinds are never drawn",
    "class_entropy": "of the classes found, in nats; low: few classes are drawn",
    "conditional_accuracy": "share of samples in which the class that was asked for is found",
    "nearest": "1: as near to the training pictures as unseen ones are; far below 1: copies; far above: unlike anything",
    "copies": "0.01 is what unseen pictures have; much more: training pictures are drawn again",
}


def splits(source: str, size: int | None, channels: int | None) -> tuple[Images, Images, str]:
    """Training and test pictures of a data set, and how they were told apart.

    Where a set has no test split, a sixth of it, drawn once and for all, stands for one: G may have been trained on it.
    """
    train = load(source, size, channels)
    try:
        return train, load(source, size, channels, split="test"), "its own test split"
    except NoTestSplit:
        held = np.zeros(len(train), bool)
        held[np.random.default_rng(0).permutation(len(train))[: len(train) // 6]] = True
        return part(train, ~held), part(train, held), "no test split: a sixth of the pictures stands for one, which G has also seen"


def part(images: Images, index: np.ndarray) -> Images:
    """The pictures that the index names, with their labels."""
    return replace(images, images=images.images[index], labels=None if images.labels is None else images.labels[index])


def evaluate(samples: np.ndarray, labels: np.ndarray | None, train: Images, test: Images, judge: Classifier, seed: int = 0) -> dict:
    """{"samples": scores, "train": scores, "noise": scores}: of samples uint8 (N, H, W, C), and of as many training pictures and
    as much uniform noise, all against at most N test pictures.

    The scores are frechet, kid and kid_std, precision and recall, nearest and copies; class_entropy where the judge knows classes,
    and conditional_accuracy where labels (N,) were asked for. Raises UserError for fewer than 8 samples, training or test pictures.
    """
    N = len(samples)
    if min(N, len(train), len(test)) < 8:
        raise UserError(f"{N} samples, {len(train)} training and {len(test)} test pictures are too few: 8 of each are needed")
    rng = np.random.default_rng([seed, 1])
    seen = part(train, rng.permutation(len(train))[:N])
    real = judge.features(test.images[rng.permutation(len(test))[:N]])
    noise = rng.integers(0, 256, samples.shape, np.uint8)
    wanted = rng.integers(judge.classes, size=N)
    known = judge.features(train.images)
    columns = {"samples": (samples, labels), "train": (seen.images, seen.labels), "noise": (noise, wanted)}
    result = {}
    for name, (images, asked) in columns.items():
        features, found = judge.judge(images)
        result[name] = scores(features, real, known, np.random.default_rng([seed, 2]))
        if judge.task == "classes":
            result[name]["class_entropy"] = class_entropy(found, judge.classes)
            if labels is not None:
                result[name]["conditional_accuracy"] = conditional_accuracy(found, asked)
    return result


def scores(features: np.ndarray, real: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> dict[str, float | None]:
    """The scores that need features alone: of the samples, of test pictures (`real`) and of training pictures (`known`).

    nearest is None where it is not finite, which JSON has no word for.
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


def said(scores: dict, name: str) -> str:
    """A score as it is printed, with its spread where there is one; a dash where it is missing or no number."""
    value, spread = scores.get(name), scores.get(f"{name}_std")
    if not isinstance(value, int | float):
        return "–"
    return digits(value, 3) + (f" ± {digits(spread, 2)}" if isinstance(spread, int | float) else "")


def digits(value: float, n: int) -> str:
    """A number with n digits, or as many as it has before its point: never with an exponent where that is large."""
    return f"{value:.0f}" if abs(value) >= 10**n else f"{value:.{n}g}"
