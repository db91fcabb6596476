"""A small classifier, built from the project's own layers and trained by it, in whose features pictures are compared.

Its scale is its own: only numbers that were judged by the same weights (`Classifier.sha256`) may be compared.
"""

import hashlib
import json
import re
import sys
from math import cos, pi
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from rawgan.backend import CPU, Device, to_host
from rawgan.data import Images
from rawgan.data.download import cache_folder
from rawgan.errors import UserError
from rawgan.init import he_uniform
from rawgan.layers import Conv2d, Flatten, Linear, MaxPool2d, Parameters, ReLU, Sequential, state
from rawgan.losses import cross_entropy
from rawgan.optim import Adam
from rawgan.random import Random
from rawgan.training.run import write_whole

FEATURES = 128
STEPS, BATCH, PEAK = 2000, 128, 2e-3
FORMAT = 1  # to be raised when network or training change, so that no judge of before is taken for one of now


def network(side: int, channels: int, classes: int) -> Sequential:
    """Pictures (N, side, side, channels) in [0, 1] to logits (N, classes); all but the last layer gives the features (N, 128).

    Two convolutions of 3 x 3 with ReLU and pooling, the first with 16 filters, and more until the side is at most 8.
    Raises UserError for a side below 4.
    """
    if side < 4:
        raise UserError(f"pictures of {side}x{side} are too small for a judge: it needs a side of at least 4")
    layers, C, K = [], channels, 16
    while len(layers) < 6 or side > 8:
        layers += [Conv2d(C, K, 3, pad=1), ReLU(), MaxPool2d(2)]
        side, C, K = side // 2, K, min(2 * K, 128)
    return Sequential(*layers, Flatten(), Linear(side * side * C, FEATURES), ReLU(), Linear(FEATURES, classes))


class Classifier:
    """A trained network on a device: what it says of uint8 pictures, and the features it says it from.

    task    "classes": the labels of the data; "quarter turns": by how many quarters a picture is turned, for data without labels
    sha256  the digest of its weights
    """

    def __init__(self, net: Sequential, classes: int, task: str = "classes", device: Device = CPU):
        self.net, self.classes, self.task, self.device = net, classes, task, device
        self.body, self.head = Sequential(*net.layers[:-1]), net.layers[-1]
        arrays = sorted(state(net).items())
        self.sha256 = hashlib.sha256(b"".join(name.encode() + a.tobytes() for name, a in arrays)).hexdigest()

    def judge(self, images: np.ndarray, batch: int = 500) -> tuple[np.ndarray, np.ndarray]:
        """Features float64 (N, 128) and classes (N,) of uint8 pictures (N, H, W, C)."""
        features, classes = [], []
        for start in range(0, len(images), batch):
            f, _ = self.body.forward(to_input(images[start : start + batch], self.device), train=False)
            features.append(to_host(f))
            classes.append(to_host(self.head.forward(f, train=False)[0]).argmax(1))
        return np.concatenate(features).astype(np.float64), np.concatenate(classes)

    def features(self, images: np.ndarray) -> np.ndarray:
        """The features alone."""
        return self.judge(images)[0]

    def accuracy(self, test: Images) -> float:
        """The share of pictures in which it finds what is there: the label, or a turn that is made for it here."""
        images, labels = test.images, test.labels
        if self.task == "quarter turns":
            labels = np.arange(len(images)) % 4
            images = turned(images, labels)
        return float((self.judge(images)[1] == labels).mean())


def to_input(images: np.ndarray, device: Device):
    """uint8 pictures (N, H, W, C) as float32 in [0, 1] on the device."""
    if images.dtype != np.uint8:
        raise TypeError(f"the judge takes uint8 pictures, not {images.dtype}")
    return device.asarray(images).astype(np.float32) / np.float32(255)


def turned(images: np.ndarray, quarters: np.ndarray) -> np.ndarray:
    """Each square picture (N, H, H, C) turned by its number of quarters (N,), 0 to 3, against the clock."""
    out = images.copy()
    for q in (1, 2, 3):
        out[quarters == q] = np.rot90(images[quarters == q], q, axes=(1, 2))
    return out


def task_of(train: Images) -> tuple[str, int]:
    """What a judge of these pictures learns, and how many classes that has."""
    return ("quarter turns", 4) if train.labels is None else ("classes", int(train.labels.max()) + 1)


def train_classifier(train: Images, seed: int = 0, steps: int | None = None, device: Device = CPU) -> Classifier:
    """Adam on the cross-entropy, from 2e-3 down to 0 along a cosine, over `steps` (2000) batches of 128 training pictures.

    Data without labels teaches it to tell quarter turns, for which the features have to know what is in a picture.
    Sources: Loshchilov & Hutter 2017 (arXiv:1608.03983) for the cosine; Gidaris et al. 2018 (arXiv:1803.07728) for the turns.
    """
    random, steps = Random(seed), STEPS if steps is None else steps
    task, classes = task_of(train)
    net = network(train.images.shape[1], train.images.shape[3], classes)
    he_uniform(net, random.stream("judge weights"))
    parameters = Parameters(net, device)
    optimizer, rng = Adam(parameters), random.stream("judge data")
    for step in tqdm(range(steps), "judge", unit="step", dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 10):
        index = rng.integers(len(train), size=min(BATCH, len(train)))
        images = train.images[index]
        labels = rng.integers(4, size=len(index)) if train.labels is None else train.labels[index]
        x = to_input(turned(images, labels) if train.labels is None else images, device)
        logits, cache = net.forward(x)
        _, dlogits = cross_entropy(logits, device.asarray(labels))
        _, grads = net.backward(dlogits, cache, need_dx=False)
        optimizer.lr = PEAK * (1 + cos(pi * step / steps)) / 2
        optimizer.step(parameters.gather(grads))
    return Classifier(net, classes, task, device)


def judge_for(train: Images, seed: int = 0, device: Device = CPU) -> Classifier:
    """The judge of a data set: the one in the cache folder, else trained and kept there.

    Its name holds a digest of the pictures, the labels and how it is trained. Raises UserError where the cached file is not as it
    was written, and where the folder cannot be written.
    """
    about = {"format": FORMAT, "steps": STEPS, "batch": BATCH, "peak": PEAK, "seed": seed, "shape": train.images.shape}
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(np.ascontiguousarray(train.images))
    digest.update(b"" if train.labels is None else np.ascontiguousarray(train.labels))
    stem = re.sub(r"[^\w.-]", "_", train.name)[:40]
    path = cache_folder() / "judges" / f"{stem}-{digest.hexdigest()[:16]}.safetensors"
    if path.exists():
        return load_classifier(path, train, device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be made ({error.strerror}): set RAWGAN_DATA to a folder of yours.") from None
    judge = train_classifier(train, seed, device=device)
    write_whole(path, save(state(judge.net), {"sha256": judge.sha256}))
    return judge


def load_classifier(path: Path, train: Images, device: Device = CPU) -> Classifier:
    """The judge that `judge_for` wrote. Raises UserError unless every weight is as it was written."""
    task, classes = task_of(train)
    net = network(train.images.shape[1], train.images.shape[3], classes)
    try:
        with safe_open(path, "numpy") as file:
            written, arrays = (file.metadata() or {}).get("sha256"), {name: file.get_tensor(name) for name in file.keys()}
        Parameters(net, device).load(arrays)
    except (SafetensorError, OSError, UserError):
        written = None
    judge = Classifier(net, classes, task, device)
    if judge.sha256 != written:
        raise UserError(f"{path} is not the judge that was written there: delete it, and it is trained again.")
    return judge
