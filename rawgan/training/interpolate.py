"""From one picture to another through latent space: along the straight line, or along the great circle."""

import io
from collections.abc import Callable
from math import atan2, sin
from pathlib import Path

import numpy as np

from rawgan.backend import Device
from rawgan.layers import Sequential
from rawgan.models.recipes import Recipe
from rawgan.training.loop import sample
from rawgan.training.pictures import save_grid, still
from rawgan.training.run import write_whole

Between = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def linear(z0: np.ndarray, z1: np.ndarray, t: float) -> np.ndarray:
    """z(t) = (1 - t) z0 + t z1, from exactly z0 at t = 0 to exactly z1 at t = 1; z0, z1 (Z,)."""
    return (1 - t) * z0 + t * z1


def spherical(z0: np.ndarray, z1: np.ndarray, t: float) -> np.ndarray:
    """z(t) = ( sin((1-t) a) z0 + sin(t a) z1 ) / sin a, with a the angle between z0 and z1 (Z,); exact at t = 0 and t = 1.

    Between vectors of one length it keeps that length. N(0, 1) in many dimensions lies near a sphere, and the middle of a straight
    line well inside it, where G has never been. Parallel vectors and 0 span no circle: there it is `linear`.
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


def walk(recipe: Recipe, generator: Sequential, device: Device, z0, z1, frames: int, between: Between, labels=None) -> np.ndarray:
    """The images on the way from z0[n] to z1[n], under labels[n]: uint8 (N, frames, H, W, C) for z0 and z1 (N, Z), frames >= 2."""
    z = np.stack([between(start, end, t) for start, end in zip(z0, z1) for t in np.linspace(0, 1, frames).tolist()])
    z = device.asarray(z)
    images = sample(recipe, generator, z if labels is None else (z, device.asarray(labels.repeat(frames))))
    return images.reshape(len(z0), frames, *images.shape[1:])


def save_strip(path: Path, images: np.ndarray, columns: int = 11) -> None:
    """Writes walks (N, frames, H, W, C) as a PNG: a row each, of at most `columns` evenly spaced frames, both ends among them."""
    frames = images.shape[1]
    shown = images[:, np.linspace(0, frames - 1, min(columns, frames)).round().astype(int)]
    save_grid(path, shown.reshape(-1, *images.shape[2:]), shown.shape[1])


def save_gif(path: Path, images: np.ndarray, duration: int = 60) -> None:
    """Writes walks (N, frames, H, W, C) as a GIF that plays them side by side, there and back, for ever.

    A frame stands for `duration` milliseconds, a multiple of 10; Pillow stores frames that are equal as one that stands longer.
    """
    stills = [still(images[:, t], columns=min(len(images), 8)) for t in range(images.shape[1])]
    gif = io.BytesIO()
    stills[0].save(gif, "gif", save_all=True, append_images=[*stills[1:], *stills[-2:0:-1]], duration=duration, loop=0)
    write_whole(path, gif.getvalue())
