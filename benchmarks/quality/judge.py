"""Frechet distance on Fashion-MNIST in the features of a stored classifier; its protocol.

The network and the distance are in rawgan.metrics; the weights are stored here, so that all
published distances use the same classifier: compare only distances with equal `Judge.sha256`.
`python -m benchmarks.quality.judge` prints accuracy, floor and noise.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from rawgan.backend import CPU, Device
from rawgan.data import Images
from rawgan.data.idx import read_folder
from rawgan.layers import Parameters
from rawgan.metrics.classifier import Classifier, network
from rawgan.metrics.frechet import frechet
from rawgan.training.run_folder import load_weights

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian package dataset-fashion-mnist
WEIGHTS = Path(__file__).parents[1] / "results" / "judge_fashion_mnist.safetensors"

MARKS = (250, 1000, 2000, 4000)  # training steps after which a generator is judged
SAMPLES, LATENT, SAMPLE_SEED, SAMPLE_BATCH = 10_000, 100, 20_260_101, 500


def fashion_mnist(split: str, folder: Path = FASHION_MNIST) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images (N, 28, 28) and labels (N,).

    `split`: "train" (60,000) or "t10k" (10,000).
    """
    return read_folder(Path(folder), {"train": "train", "t10k": "test"}[split])


def cropped(images: np.ndarray) -> np.ndarray:
    """Convert uint8 images (N, H, W) or (N, H, W, 1) to (N, 28, 28, 1).

    H = W = 28, or 32: then the border is cropped.
    """
    images = images if images.ndim == 4 else images[..., None]
    if images.shape[1:] == (32, 32, 1):
        images = images[:, 2:30, 2:30]
    if images.shape[1:] != (28, 28, 1):
        raise ValueError(
            f"expected (N, 28, 28), (N, 32, 32) or the same with one channel, got {images.shape}"
        )
    return images


def classifier(path: Path = WEIGHTS, device: Device = CPU) -> Classifier:
    """Return the stored classifier on a device.

    It was trained in PyTorch: its weights are (K, C, R, S), and it flattens in the order C, H, W.
    """
    theirs, net = load_weights(path), network(28, 1, 10)
    ours = {
        f"{name.removesuffix('.bias')}.b": a for name, a in theirs.items() if name.endswith(".bias")
    }
    for name in ("0", "3"):
        ours[f"{name}.w"] = theirs[f"{name}.weight"].transpose(0, 2, 3, 1)
    ours["7.w"] = theirs["7.weight"].reshape(128, 32, 7, 7).transpose(0, 2, 3, 1).reshape(128, -1)
    ours["9.w"] = theirs["9.weight"]
    Parameters(net, device).load(ours)
    return Classifier(net, 10, device=device)


class Judge:
    """The stored classifier on a device, and the 10,000 test images."""

    def __init__(self, path: Path = WEIGHTS, folder: Path = FASHION_MNIST, device: Device = CPU):
        """Load the classifier; keep the SHA-256 of its weights file and the IDX folder."""
        self.classifier, self.folder = classifier(path, device), Path(folder)
        self.sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the float64 features (N, 128) of uint8 images.

        images: (N, 28, 28[, 1]) or (N, 32, 32[, 1]).
        """
        return self.classifier.features(cropped(images))

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of uint8 images (shapes as in `features`) classified as their label.

        labels: (N,).
        """
        return self.classifier.accuracy(Images(cropped(images), labels, "fashion-mnist", "", ""))

    @cached_property
    def reference(self) -> np.ndarray:
        """The features (10,000, 128) of the test images."""
        return self.features(fashion_mnist("t10k", self.folder)[0])

    def distance(self, samples: np.ndarray) -> float:
        """Return the Frechet distance to the test images of samples, as in `features`."""
        return frechet(self.features(samples), self.reference)

    def report(self) -> dict:
        """Return the test accuracy, the floor and the distance of uniform noise.

        The floor is the distance of the first 10,000 training images.
        """
        noise = np.random.default_rng(SAMPLE_SEED).integers(0, 256, (SAMPLES, 28, 28), np.uint8)
        return {
            "sha256": self.sha256,
            "accuracy": self.accuracy(*fashion_mnist("t10k", self.folder)),
            "floor": self.distance(fashion_mnist("train", self.folder)[0][:SAMPLES]),
            "noise": self.distance(noise),
        }


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Convert images in [-1, 1] of any shape to uint8, rounding to the nearest of 256 levels."""
    return np.rint((np.asarray(images, np.float32).clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def evaluate(sampler: Callable[[np.ndarray], np.ndarray], judge: Judge) -> float:
    """Return the distance of 10,000 samples.

    `sampler` maps float32 z (n, 100) to images (n, 32, 32, 1) in [-1, 1]; its batch normalisation
    must use running statistics. z is the same in every call.
    """
    z = np.random.default_rng(SAMPLE_SEED).standard_normal((SAMPLES, LATENT), np.float32)
    images = np.concatenate(
        [to_uint8(sampler(part)) for part in np.split(z, SAMPLES // SAMPLE_BATCH)]
    )
    if images.shape != (SAMPLES, 32, 32, 1):
        raise ValueError(f"the sampler gave {images.shape} in place of {(SAMPLES, 32, 32, 1)}")
    return judge.distance(images)


def main() -> None:
    """Load the judge and print its report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="safetensors file of the classifier"
    )
    parser.add_argument(
        "--data", type=Path, default=FASHION_MNIST, help="folder of the four IDX files"
    )
    args = parser.parse_args()
    print(json.dumps(Judge(args.weights, args.data).report(), indent=2))


if __name__ == "__main__":
    main()
