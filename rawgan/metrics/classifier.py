"""Classifier whose features are used to compare pictures in the evaluation.

A small network of rawgan's layers, trained on the data set itself. Metrics are comparable only if
they were computed with the same weights (`Classifier.sha256`).
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from math import cos, pi, sqrt
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rawgan.backend import CPU, Device, to_host
from rawgan.data import Images
from rawgan.data.download import cache_folder
from rawgan.errors import UserError
from rawgan.files import Unreadable, kind, load_arrays, save_arrays, write_whole
from rawgan.init import he_uniform
from rawgan.layers import Conv2d, Flatten, Linear, MaxPool2d, Parameters, ReLU, Sequential, state
from rawgan.losses import cross_entropy
from rawgan.optim import Adam
from rawgan.random import Random

FEATURES = 128
STEPS, BATCH, PEAK = 2000, 128, 2e-3
# a smaller set gets a smaller judge: of so many features, trained for a step per picture
SMALL, VERY_SMALL, FEW_STEPS = 2000, 500, 300
FORMAT = 1  # increase when network or training change, to invalidate cached classifiers


def network(side: int, channels: int, classes: int, features: int = FEATURES) -> Sequential:
    """Return the network: pictures (N, side, side, channels) in [0, 1] to logits (N, classes).

    Convolutions of 3 x 3 with ReLU and 2 x 2 pooling, at least two, and more until the side is at
    most 8; the first has 16 filters. All but the last layer give the features (N, features).
    Raises UserError for a side below 4.
    """
    if side < 4:
        raise UserError(
            f"pictures of {side}x{side} are too small for the classifier:"
            " it needs a side of at least 4"
        )
    layers, C, K = [], channels, 16
    while len(layers) < 6 or side > 8:
        layers += [Conv2d(C, K, 3, pad=1), ReLU(), MaxPool2d(2)]
        side, C, K = side // 2, K, min(2 * K, 128)
    return Sequential(
        *layers, Flatten(), Linear(side * side * C, features), ReLU(), Linear(features, classes)
    )


class Classifier:
    """Trained network on a device that returns the features and classes of uint8 pictures.

    task    "classes": the labels of the data; "quarter turns": the number of quarter turns by which
            a picture is rotated, for data without labels
    sha256  the digest of its weights
    """

    def __init__(self, net: Sequential, classes: int, task: str = "classes", device: Device = CPU):
        self.net, self.classes, self.task, self.device = net, classes, task, device
        self.body, self.head = Sequential(*net.layers[:-1]), net.layers[-1]
        arrays = sorted(state(net).items())
        self.sha256 = hashlib.sha256(
            b"".join(name.encode() + a.tobytes() for name, a in arrays)
        ).hexdigest()

    def classify(
        self, images: np.ndarray, batch: int = 500, on_batch: Callable[[int], None] = lambda n: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return features float64 (N, F) and predicted classes (N,) of pictures uint8 (N, H, W, C).

        on_batch(n) is called after every n pictures.
        """
        features, classes = [], []
        for start in range(0, len(images), batch):
            f, _ = self.body.forward(
                to_input(images[start : start + batch], self.device), train=False
            )
            features.append(to_host(f))
            classes.append(to_host(self.head.forward(f, train=False)[0]).argmax(1))
            on_batch(len(f))
        return np.concatenate(features).astype(np.float64), np.concatenate(classes)

    def features(
        self, images: np.ndarray, on_batch: Callable[[int], None] = lambda n: None
    ) -> np.ndarray:
        """Return the features alone."""
        return self.classify(images, on_batch=on_batch)[0]

    def accuracy(self, test: Images) -> float:
        """Return the fraction of pictures whose predicted class is correct.

        For "quarter turns" the pictures are rotated here.
        """
        labels, predicted = self.answers(test)
        return float((predicted == labels).mean())

    def answers(self, test: Images) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes of the pictures, turned for "quarter turns", and those predicted."""
        images, labels = test.images, test.labels
        if self.task == "quarter turns":
            labels = np.arange(len(images)) % 4
            images = turned(images, labels)
        return labels, self.classify(images)[1]

    def require_better_than_chance(self, test: Images) -> float:
        """Return the accuracy. Raises UserError for a judge that guesses.

        The accuracy that counts here is the mean of those of each class, which is 1/K by chance
        however many pictures a class has; it must exceed that by twice its standard error.
        """
        labels, predicted = self.answers(test)
        counts = np.bincount(labels, minlength=self.classes)
        present = counts > 0
        right = np.bincount(labels[predicted == labels], minlength=self.classes)
        K, chance = present.sum(), 1 / self.classes
        balanced = (right[present] / counts[present]).mean()
        error = sqrt((chance * (1 - chance) / counts[present]).sum()) / K
        if balanced <= chance + 2 * error:
            raise UserError(
                f"the classifier finds {balanced:.0%} of the {self.task} of {len(labels)} test "
                f"pictures, where guessing finds {chance:.0%}: it has learned no features to "
                "compare pictures by; give it more pictures, or pictures with labels, by --data"
            )
        return float((predicted == labels).mean())


def to_input(images: np.ndarray, device: Device):
    """Return uint8 pictures (N, H, W, C) as float32 in [0, 1] on the device."""
    if images.dtype != np.uint8:
        raise TypeError(f"the classifier takes uint8 pictures, not {images.dtype}")
    return device.asarray(images).astype(np.float32) / np.float32(255)


def turned(images: np.ndarray, quarters: np.ndarray) -> np.ndarray:
    """Return square pictures (N, H, H, C), each rotated counterclockwise by quarter turns.

    quarters (N,) is the number of turns, 0 to 3.
    """
    out = images.copy()
    for q in (1, 2, 3):
        out[quarters == q] = np.rot90(images[quarters == q], q, axes=(1, 2))
    return out


def task_of(train: Images) -> tuple[str, int]:
    """Return the task of a classifier for these pictures, and its number of classes.

    Fewer than two labels teach nothing: they are no task.
    """
    if train.labels is None or len(np.unique(train.labels)) < 2:
        return "quarter turns", 4
    return "classes", len(train.classes)


def settings(N: int) -> tuple[int, int]:
    """Return the number of steps and of features of a judge for N training pictures."""
    if N >= SMALL:
        return STEPS, FEATURES
    return min(STEPS, max(N, FEW_STEPS)), FEATURES // 2 if N >= VERY_SMALL else FEATURES // 4


def train_classifier(
    train: Images, seed: int = 0, steps: int | None = None, device: Device = CPU
) -> Classifier:
    """Train a classifier with Adam on cross-entropy.

    `steps` (2000, fewer for a small set) batches of 128 training pictures; the learning rate
    decreases from 2e-3 to 0 along a cosine. Without labels the task is to classify quarter turns,
    which requires features of the content. Sources: Loshchilov & Hutter 2017 (arXiv:1608.03983) for
    the cosine; Gidaris et al. 2018 (arXiv:1803.07728) for the turns.
    """
    random, (usual, features) = Random(seed), settings(len(train))
    steps = usual if steps is None else steps
    task, classes = task_of(train)
    net = network(train.images.shape[1], train.images.shape[3], classes, features)
    he_uniform(net, random.stream("judge weights"))
    parameters = Parameters(net, device)
    optimizer, rng = Adam(parameters), random.stream("judge data")
    for step in tqdm(
        range(steps),
        "classifier",
        unit="step",
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10,
    ):
        index = rng.integers(len(train), size=min(BATCH, len(train)))
        images = train.images[index]
        turn = task == "quarter turns"
        labels = rng.integers(4, size=len(index)) if turn else train.labels[index]
        x = to_input(turned(images, labels) if turn else images, device)
        logits, cache = net.forward(x)
        _, dlogits = cross_entropy(logits, device.asarray(labels))
        _, grads = net.backward(dlogits, cache, need_dx=False)
        optimizer.lr = PEAK * (1 + cos(pi * step / steps)) / 2
        optimizer.step(parameters.flatten_gradients(grads))
    return Classifier(net, classes, task, device)


def load_or_train_classifier(train: Images, seed: int = 0, device: Device = CPU) -> Classifier:
    """Return the classifier of a data set: the cached one, else trained and cached.

    The file name contains a digest of the pictures, the labels and the training settings. Raises
    UserError if the cached file has been altered, or if the folder cannot be written.
    """
    steps, features = settings(len(train))
    about = {
        "format": FORMAT,
        "steps": steps,
        "batch": BATCH,
        "peak": PEAK,
        "seed": seed,
        "shape": train.images.shape,
    }
    if features != FEATURES:
        about["features"] = features
    if train.labels is not None and task_of(train)[0] != "classes":
        about["task"] = task_of(train)[0]
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(np.ascontiguousarray(train.images))
    digest.update(b"" if train.labels is None else np.ascontiguousarray(train.labels))
    stem = re.sub(r"[^\w.-]", "_", train.name)[:40]
    path = cache_folder() / "judges" / f"{stem}-{digest.hexdigest()[:16]}.safetensors"
    if kind(path) is not None:
        return load_classifier(path, train, device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be made ({error.strerror}): set RAWGAN_DATA to a folder of "
            "yours."
        ) from None
    classifier = train_classifier(train, seed, device=device)
    write_whole(path, save_arrays(state(classifier.net), {"sha256": classifier.sha256}))
    return classifier


def load_classifier(path: Path, train: Images, device: Device = CPU) -> Classifier:
    """Load a classifier that `load_or_train_classifier` saved.

    Raises UserError if any weight has changed.
    """
    task, classes = task_of(train)
    features = settings(len(train))[1]
    net = network(train.images.shape[1], train.images.shape[3], classes, features)
    try:
        arrays, metadata = load_arrays(path)
        written = metadata.get("sha256")
        Parameters(net, device).load(arrays)
    except (Unreadable, UserError, ValueError):
        written = None
    classifier = Classifier(net, classes, task, device)
    if classifier.sha256 != written:
        raise UserError(
            f"{path} is not the classifier that was written there: delete it, "
            "and it is trained again."
        )
    return classifier
