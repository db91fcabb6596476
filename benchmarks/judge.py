"""Frechet distance on Fashion-MNIST in the 128 features of a small classifier, and the protocol it is sampled by.

The distance is of the FID's form, but its scale belongs to this one classifier: compare only numbers that were judged
with the same weights file (`Judge.sha256`). `python -m benchmarks.judge` prints accuracy, floor and noise.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rawgan.data.idx import read_folder

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian package dataset-fashion-mnist
WEIGHTS = Path(__file__).parent / "results" / "judge_fashion_mnist.safetensors"
EPOCHS, BATCH, LEARNING_RATE, SEED = 10, 64, 1e-3, 0

MARKS = (250, 1000, 2000, 4000)  # training steps after which a generator is judged
SAMPLES, LATENT, SAMPLE_SEED, SAMPLE_BATCH = 10_000, 100, 20_260_101, 500


def fashion_mnist(split: str, folder: Path = FASHION_MNIST) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images (N, 28, 28) and labels (N,) of `split`: "train" (60,000) or "t10k" (10,000)."""
    return read_folder(Path(folder), {"train": "train", "t10k": "test"}[split])


def to_input(images: np.ndarray) -> torch.Tensor:
    """Turn uint8 images (N, H, W) or (N, H, W, 1) with H = W = 28, or 32 to be cropped, into floats (N, 1, 28, 28)
    in [0, 1]."""
    if images.dtype != np.uint8:
        raise TypeError(f"the judge takes uint8 images, not {images.dtype}")
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.shape[1:] == (32, 32):
        images = images[:, 2:30, 2:30]
    if images.shape[1:] != (28, 28):
        raise ValueError(f"expected (N, 28, 28), (N, 32, 32) or the same with one channel, got {images.shape}")
    return torch.tensor(images).unsqueeze(1) / 255


def frechet(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Return the Frechet distance between the Gaussians fitted to features (N, d) and (M, d), in float64.

    tr (A B)^(1/2) is the sum of the square roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric and
    positive semi-definite also where A or B is singular; rounding below zero is cut off.
    """
    a, b = np.asarray(features_a, np.float64), np.asarray(features_b, np.float64)
    mean = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = root_a @ cov_b @ root_a
    cross = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    return max(0.0, float(mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


def build_classifier() -> nn.Sequential:
    """Return the classifier (N, 1, 28, 28) -> (N, 10); all but its last layer gives the features (N, 128)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(),
        nn.Linear(128, 10),
    )  # fmt: skip


def train_classifier(images: np.ndarray, labels: np.ndarray, epochs: int = EPOCHS, seed: int = SEED) -> nn.Sequential:
    """Train the classifier with Adam on uint8 images (N, 28, 28) and labels (N,)."""
    x, y = to_input(images), torch.from_numpy(labels.astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_classifier()
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
        for _ in range(epochs):
            for index in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
    return model


class Judge:
    """The trained classifier, on the CPU, and the 10,000 test images it compares samples with."""

    def __init__(self, model: nn.Sequential, sha256: str, folder: Path = FASHION_MNIST):
        """Keep the classifier, the digest of its weights file and the folder of the IDX files."""
        self.model, self.sha256, self.folder = model.eval(), sha256, Path(folder)

    @classmethod
    def load_or_train(cls, path: Path = WEIGHTS, folder: Path = FASHION_MNIST) -> "Judge":
        """Load the weights at `path`; where there are none, train them on the 60,000 training images and write them."""
        path = Path(path)
        if not path.exists():
            trained = train_classifier(*fashion_mnist("train", folder))
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(trained.state_dict(), path)
        model = build_classifier()
        model.load_state_dict(load_file(path))
        return cls(model, hashlib.sha256(path.read_bytes()).hexdigest(), folder)

    @torch.inference_mode()
    def _apply(self, model: nn.Module, images: np.ndarray) -> np.ndarray:
        return np.concatenate([model(part).numpy() for part in to_input(images).split(1000)])

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the float64 features (N, 128) of uint8 images (N, 28, 28[, 1]) or (N, 32, 32[, 1])."""
        return self._apply(self.model[:-1], images).astype(np.float64)

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of uint8 images (N, 28, 28[, 1]) that the classifier gives their label (N,)."""
        return float((self._apply(self.model, images).argmax(1) == labels).mean())

    @cached_property
    def reference(self) -> np.ndarray:
        """The features (10,000, 128) of the test images."""
        return self.features(fashion_mnist("t10k", self.folder)[0])

    def distance(self, samples: np.ndarray) -> float:
        """Return the Frechet distance of uint8 samples (N, 28, 28[, 1]) or (N, 32, 32[, 1]) to the test images."""
        return frechet(self.features(samples), self.reference)

    def report(self) -> dict:
        """Return the test accuracy, the distance of the first 10,000 training images, and that of uniform noise."""
        noise = np.random.default_rng(SAMPLE_SEED).integers(0, 256, (SAMPLES, 28, 28), np.uint8)
        return {
            "sha256": self.sha256,
            "accuracy": self.accuracy(*fashion_mnist("t10k", self.folder)),
            "floor": self.distance(fashion_mnist("train", self.folder)[0][:SAMPLES]),
            "noise": self.distance(noise),
        }


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Turn images in [-1, 1] of any shape into uint8, rounded to the nearest of 256 levels."""
    return np.rint((np.asarray(images, np.float32).clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def evaluate(sampler: Callable[[np.ndarray], np.ndarray], judge: Judge) -> float:
    """Return the distance of 10,000 samples; `sampler` turns float32 z (n, 100) into images (n, 32, 32, 1) in [-1, 1].

    The z are the same in every call; the sampler has to use the running statistics of its batch normalisation.
    """
    z = np.random.default_rng(SAMPLE_SEED).standard_normal((SAMPLES, LATENT), np.float32)
    images = np.concatenate([to_uint8(sampler(part)) for part in np.split(z, SAMPLES // SAMPLE_BATCH)])
    if images.shape != (SAMPLES, 32, 32, 1):
        raise ValueError(f"the sampler gave {images.shape} in place of {(SAMPLES, 32, 32, 1)}")
    return judge.distance(images)


def main() -> None:
    """Train or load the judge and print its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="safetensors file, written where there is none")
    parser.add_argument("--data", type=Path, default=FASHION_MNIST, help="folder of the four IDX files")
    args = parser.parse_args()
    print(json.dumps(Judge.load_or_train(args.weights, args.data).report(), indent=2))


if __name__ == "__main__":
    main()
