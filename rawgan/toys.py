"""Two-dimensional Gaussian mixtures, the mode count for them, and small networks to learn them."""

from dataclasses import dataclass

import numpy as np

from rawgan.layers import Linear, ReLU, Sequential


@dataclass(frozen=True, eq=False)
class Mixture:
    """Mixture of K isotropic Gaussians with equal weights in the plane.

        x[n] = centres[k] + std e,  k uniform in 0 ... K-1, e ~ N(0, I)

    centres (K, 2); `mixture(rng, n)` draws x (n, 2) float32. `spread` is the standard deviation of
    x along an axis: the networks are trained on x / spread, as in the toy code of Gulrajani et al.
    2017 (there 1.414 and 2.828).
    """

    centres: np.ndarray
    std: float

    def __call__(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return n samples x (n, 2) float32."""
        k = rng.integers(len(self.centres), size=n)
        return (self.centres[k] + self.std * rng.standard_normal((n, 2))).astype(np.float32)

    @property
    def spread(self) -> np.float32:
        """Return the standard deviation of x along an axis."""
        return np.float32(np.sqrt(self.centres.var() + self.std**2))


def _ring(modes: int, radius: float) -> np.ndarray:
    angle = 2 * np.pi * np.arange(modes) / modes
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _grid(side: int, spacing: float) -> np.ndarray:
    along = spacing * (np.arange(side) - (side - 1) / 2)
    return np.stack(np.meshgrid(along, along), -1).reshape(-1, 2)


# Gulrajani et al. 2017 (arXiv:1704.00028), figure 2 and its code, before the division by the
# spread; the grid is also that of Srivastava et al. 2017 (arXiv:1705.07761) and of Lin et al. 2018
# (PacGAN, arXiv:1712.04086)
ring = Mixture(_ring(8, radius=2), std=0.02)
grid = Mixture(_grid(5, spacing=2), std=0.05)
TOYS = {"ring": ring, "grid": grid}


def count_modes(x: np.ndarray, centres: np.ndarray, std: float) -> tuple[int, float]:
    """Return the number of modes covered by samples x (N, 2), and the fraction of good samples.

        x[n] is good        |x[n] - nearest centre| <= 3 std    (0.989 of samples of the mixture)
        a mode is covered   it is the nearest mode of at least one good sample

    centres (K, 2), std > 0; a sample with a NaN is not good. Raises ValueError for other shapes,
    N = 0 and std <= 0. Source: Srivastava et al. 2017 (VEEGAN, arXiv:1705.07761), section 4.1,
    which counts on N = 2500.
    """
    x, centres = np.asarray(x), np.asarray(centres)
    if not (
        x.ndim == centres.ndim == 2
        and x.shape[1] == centres.shape[1]
        and len(x)
        and len(centres)
        and std > 0
    ):
        raise ValueError(
            f"expected samples (N, 2), centres (K, 2) and std > 0, got {x.shape}, "
            f"{centres.shape} and {std}"
        )
    distance = np.linalg.norm(x[:, None] - centres, axis=2)
    good = distance.min(1) <= 3 * std
    return len(np.unique(distance[good].argmin(1))), float(good.mean())


def _mlp(C: int, K: int, width: int) -> Sequential:
    """Return an MLP with three hidden ReLU layers.

    The toy code of Gulrajani et al. 2017 has the same layers, four times as wide.
    """
    return Sequential(
        Linear(C, width), ReLU(),
        Linear(width, width), ReLU(),
        Linear(width, width), ReLU(),
        Linear(width, K),
    )  # fmt: skip


def generator(width: int = 128, z: int = 2) -> Sequential:
    """Return a generator: z (N, 2) ~ N(0, I) to points (N, 2) of about unit variance."""
    return _mlp(z, 2, width)


def critic(width: int = 128) -> Sequential:
    """Return a critic: points (N, 2) of about unit variance to scores (N, 1).

    It has no normalisation, so that the gradient penalty is independent for each sample.
    """
    return _mlp(2, 1, width)
