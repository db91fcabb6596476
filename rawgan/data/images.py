"""The value that every data set loads into, and what is done with it: ranges, sizes, channels, batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rawgan.errors import UserError

MAX_SIZE = 4096  # of a picture's side


@dataclass(frozen=True, eq=False)
class Images:
    """Pictures in memory: images uint8 (N, H, W, C) C-contiguous, labels int64 (N,) or None.

    `licence` says what the pictures may be used for, `source` is one line on where they came from.
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    licence: str
    source: str

    def __len__(self) -> int:
        return len(self.images)


def to_float(images_uint8, dtype=np.float32):
    """uint8 in [0, 255] to `dtype` in [-1, 1], any shape, NumPy or CuPy; `to_uint8` is the exact inverse.

    x = u * (2/255) - 1
    """
    x = images_uint8.astype(dtype)
    x *= 2 / 255
    x -= 1
    return x


def to_uint8(x):
    """Floats in [-1, 1] to uint8 in [0, 255], any shape, NumPy or CuPy: what lies outside is clipped.

    u = clip(round((x + 1) * 255/2), 0, 255)
    """
    return ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def batches(images: Images, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless index arrays int64 (batch,): every epoch a new permutation from `rng`, its incomplete last batch dropped.

    Raises UserError, at the call, unless 1 <= batch <= N.
    """
    N = len(images)
    if not 1 <= batch <= N:
        raise UserError(f"A batch of {batch} cannot be drawn from the {N} pictures of {images.name}: choose 1 to {N}.")

    def endless():
        while True:
            order = rng.permutation(N)
            for start in range(0, N - batch + 1, batch):
                yield order[start : start + batch]

    return endless()


def allocate(shape: tuple[int, ...], name: str) -> np.ndarray:
    """uint8 zeros of `shape`; raises UserError, which names the data set, where the memory is not to be had."""
    try:
        return np.zeros(shape, np.uint8)
    except (MemoryError, ValueError):
        text = " x ".join(map(str, shape))
        raise UserError(f"{name} as {text} bytes does not fit in memory: ask for a smaller size.") from None


def fit(images: np.ndarray, size: int | None, name: str) -> np.ndarray:
    """Gray pictures uint8 (N, H, W) to (N, size, size); None leaves them as they are.

    A size at most 4 above max(H, W) pads evenly with 0, black (28 -> 32: two pixels on each side; an odd one goes below
    and right). Any other size resizes with Pillow's antialiased bicubic filter, after padding what is not square.
    """
    N, H, W = images.shape
    side = max(H, W)
    if size is None or H == W == size:
        return np.ascontiguousarray(images)
    out = allocate((N, size, size), name)
    padded = side <= size <= side + 4
    frame = size if padded else side
    top, left = (frame - H) // 2, (frame - W) // 2
    if padded:
        out[:, top : top + H, left : left + W] = images
        return out
    canvas = np.zeros((side, side), np.uint8)
    for i, image in enumerate(images):
        canvas[top : top + H, left : left + W] = image
        out[i] = Image.fromarray(canvas).resize((size, size), Image.Resampling.BICUBIC)
    return out


def with_channels(images: np.ndarray, channels: int | None, name: str) -> np.ndarray:
    """Gray pictures uint8 (N, H, W) to (N, H, W, C): one channel, or the same three times."""
    if channels in (None, 1):
        return images[..., None]
    out = allocate((*images.shape, channels), name)
    out[:] = images[..., None]
    return out
