"""Latent vectors, and images of them in inference mode."""

from collections.abc import Callable

import numpy as np

from rawgan.backend import Device, to_host
from rawgan.data import to_uint8
from rawgan.gan import Samples
from rawgan.layers import Sequential
from rawgan.models.recipe import Recipe

COLUMNS = 40  # most columns of a grid of samples; more classes continue in the next rows


def latent(
    recipe: Recipe, rng: np.random.Generator, device: Device, n: int, labels=None
) -> Samples:
    """Return n latent vectors on the device, paired with their labels where there are any."""
    z = device.asarray(recipe.draw_z(rng, n))
    return z if labels is None else (z, device.asarray(labels))


def sample(
    recipe: Recipe,
    generator: Sequential,
    z: Samples,
    batch: int = 256,
    on_batch: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Return G(z) as uint8 images (N, H, W, C), computed `batch` at a time.

    In inference mode: an image depends on its own z alone. on_batch(n) is called after n images.
    """
    n = len(z[0] if isinstance(z, tuple) else z)
    images = []
    for i in range(0, n, batch):
        part = tuple(a[i : i + batch] for a in z) if isinstance(z, tuple) else z[i : i + batch]
        images.append(to_host(generator.forward(part, train=False)[0]))
        on_batch(len(images[-1]))
    x = np.concatenate(images)
    return to_uint8(2 * x - 1 if recipe.pixels == "unit" else x)
