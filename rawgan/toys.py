"""Two-dimensional toy distributions, on which mode collapse can be seen and counted, and the small networks that learn them."""

from dataclasses import dataclass

import numpy as np

from rawgan.layers import Linear, ReLU, Sequential


@dataclass(frozen=True, eq=False)
class Mixture:
    """Equally likely round Gaussians in the plane.

        x[n] = centres[k] + std e,  k uniform in 0 ... K-1, e ~ N(0, I)

    centres (K, 2); `mixture(rng, n)` draws x (n, 2) float32. `spread` is the standard deviation of x along an axis: the networks
    see x / spread, as in the toy code of Gulrajani et al. 2017 (there 1.414 and 2.828).
    """

    centres: np.ndarray
    std: float

    def __call__(self, rng: np.random.Generator, n: int) -> np.ndarray:
        k = rng.integers(len(self.centres), size=n)
        return (self.centres[k] + self.std * rng.standard_normal((n, 2))).astype(np.float32)

    @property
    def spread(self) -> np.float32:
        return np.float32(np.sqrt(self.centres.var() + self.std**2))


def _ring(modes: int, radius: float) -> np.ndarray:
    angle = 2 * np.pi * np.arange(modes) / modes
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _grid(side: int, spacing: float) -> np.ndarray:
    along = spacing * (np.arange(side) - (side - 1) / 2)
    return np.stack(np.meshgrid(along, along), -1).reshape(-1, 2)


# Gulrajani et al. 2017 (arXiv:1704.00028), figure 2 and its code, before its division by the spread; the grid is also that of
# Srivastava et al. 2017 (arXiv:1705.07761) and of Lin et al. 2018 (PacGAN, arXiv:1712.04086)
ring = Mixture(_ring(8, radius=2), std=0.02)
grid = Mixture(_grid(5, spacing=2), std=0.05)
TOYS = {"ring": ring, "grid": grid}


def count_modes(x: np.ndarray, centres: np.ndarray, std: float) -> tuple[int, float]:
    """How many modes the samples x (N, 2) cover, and the share of x in [0, 1] that is good.

        x[n] is good        |x[n] - nearest centre| <= 3 std        (0.989 of the samples of a true Gaussian)
        a mode is covered   it is the nearest one of at least one good sample

    centres (K, 2), std > 0; a sample with a NaN is not good. Raises ValueError for other shapes, N = 0 and std <= 0.
    Source: Srivastava et al. 2017 (VEEGAN, arXiv:1705.07761), section 4.1, which counts on N = 2500.
    """
    x, centres = np.asarray(x), np.asarray(centres)
    if not (x.ndim == centres.ndim == 2 and x.shape[1] == centres.shape[1] and len(x) and len(centres) and std > 0):
        raise ValueError(f"expected samples (N, 2), centres (K, 2) and std > 0, got {x.shape}, {centres.shape} and {std}")
    distance = np.linalg.norm(x[:, None] - centres, axis=2)
    good = distance.min(1) <= 3 * std
    return len(np.unique(distance[good].argmin(1))), float(good.mean())


def _mlp(C: int, K: int, width: int) -> Sequential:
    """Three hidden layers of ReLU, as in the toy code of Gulrajani et al. 2017, which is four times as wide."""
    return Sequential(
        Linear(C, width), ReLU(),
        Linear(width, width), ReLU(),
        Linear(width, width), ReLU(),
        Linear(width, K),
    )  # fmt: skip


def generator(width: int = 128, z: int = 2) -> Sequential:
    """z (N, 2), normal, to points (N, 2) of about unit variance."""
    return _mlp(z, 2, width)


def critic(width: int = 128) -> Sequential:
    """Points (N, 2) of about unit variance to scores (N, 1). No normalisation: the gradient penalty is one per sample."""
    return _mlp(2, 1, width)
