"""Interpolate between images through latent space, along a straight line or a great circle."""

import io
from collections.abc import Callable
from math import atan2, sin
from pathlib import Path

import numpy as np

from rawgan.backend import Device
from rawgan.files import write_whole
from rawgan.layers import Sequential
from rawgan.models.recipe import Recipe
from rawgan.training.plots import evenly_spaced, grid_image, save_grid
from rawgan.training.sampling import sample

COLUMNS = 11  # frames of an interpolation in a strip
FRAME_MS = 60  # duration of a frame in a GIF, which counts in units of 10 ms
Interpolation = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def linear(z0: np.ndarray, z1: np.ndarray, t: float) -> np.ndarray:
    """Return z(t) = (1 - t) z0 + t z1, exactly z0 at t = 0 and z1 at t = 1; z0, z1 (Z,)."""
    return (1 - t) * z0 + t * z1


def spherical(z0: np.ndarray, z1: np.ndarray, t: float) -> np.ndarray:
    """Return the spherical interpolation of z0 and z1 (Z,), exact at t = 0 and t = 1.

        z(t) = ( sin((1-t) a) z0 + sin(t a) z1 ) / sin a,   a the angle between z0 and z1

    It keeps the length of vectors of one length. Samples of N(0, 1) in many dimensions lie near a
    sphere, and the middle of a straight line well inside it, where G was not trained. Parallel
    vectors and 0 span no circle: there it is `linear`.
    Source: White 2016 (arXiv:1609.04468); the angle after Kahan, exact where arccos is not.
    """
    lengths = [float(np.linalg.norm(z.astype(np.float64))) for z in (z0, z1)]
    if not all(lengths):
        return linear(z0, z1, t)
    u0, u1 = (z.astype(np.float64) / length for z, length in zip((z0, z1), lengths))
    a = 2 * atan2(np.linalg.norm(u0 - u1), np.linalg.norm(u0 + u1))
    if sin(a) < 1e-7:
        return linear(z0, z1, t)
    return (sin((1 - t) * a) / sin(a)) * z0 + (sin(t * a) / sin(a)) * z1


def interpolate(
    recipe: Recipe,
    generator: Sequential,
    device: Device,
    z0,
    z1,
    frames: int,
    interpolation: Interpolation,
    labels=None,
) -> np.ndarray:
    """Return images from z0[n] to z1[n] under labels[n]: uint8 (N, frames, H, W, C).

    z0 and z1 (N, Z), frames >= 2; interpolation: linear or spherical.
    """
    z = np.stack(
        [
            interpolation(start, end, t)
            for start, end in zip(z0, z1)
            for t in np.linspace(0, 1, frames).tolist()
        ]
    )
    z = device.asarray(z)
    images = sample(
        recipe, generator, z if labels is None else (z, device.asarray(labels.repeat(frames)))
    )
    return images.reshape(len(z0), frames, *images.shape[1:])


def save_strip(path: Path, images: np.ndarray) -> None:
    """Write interpolations (N, frames, H, W, C) as a PNG: a row each, of at most COLUMNS frames.

    The frames are evenly spaced and include both ends.
    """
    shown = images[:, evenly_spaced(images.shape[1], COLUMNS)]
    save_grid(path, shown.reshape(-1, *images.shape[2:]), shown.shape[1])


def save_gif(path: Path, images: np.ndarray) -> None:
    """Write interpolations (N, frames, H, W, C) as a GIF, forwards and backwards in a loop.

    They are in one grid. Pillow merges equal frames into one that lasts longer.
    """
    grids = [grid_image(images[:, t], columns=min(len(images), 8)) for t in range(images.shape[1])]
    gif = io.BytesIO()
    grids[0].save(
        gif,
        "gif",
        save_all=True,
        append_images=[*grids[1:], *grids[-2:0:-1]],
        duration=FRAME_MS,
        loop=0,
    )
    write_whole(path, gif.getvalue())
