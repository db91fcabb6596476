"""The value that every data set loads into, and what is done with it: ranges, sizes, channels, batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rawgan.errors import UserError

MAX_SIZE = 4096  # of a picture's side
LIMIT = 4 << 30  # bytes: no file may declare more


class NoTestSplit(UserError):
    """The pictures are not divided into a training and a test set."""


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


class Batches:
    """Endless index arrays int64 (batch,): every epoch a new permutation from `rng`, its incomplete last batch dropped.

    `position()` says where in which epoch it stands, and `seek` goes back there. Raises UserError unless 1 <= batch <= N.
    """

    def __init__(self, images: Images, batch: int, rng: np.random.Generator):
        self.N, self.batch, self.rng = len(images), batch, rng
        if not 1 <= batch <= self.N:
            raise UserError(
                f"A batch of {batch} cannot be drawn from the {self.N} pictures of {images.name}: choose 1 to {self.N}."
            )
        self.epoch()

    def epoch(self) -> None:
        """Begins one; it follows from the stream's state alone."""
        self.before, self.at = self.rng.bit_generator.state, 0
        self.order = self.rng.permutation(self.N)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        if self.at + self.batch > self.N:
            self.epoch()
        self.at += self.batch
        return self.order[self.at - self.batch : self.at]

    def position(self) -> dict:
        """The stream's state before the epoch and the pictures of it that are gone, as plain JSON-able values."""
        return {"epoch": self.before, "at": self.at}

    def seek(self, position: dict) -> None:
        """Goes where `position()` was. Raises ValueError for what cannot have been one."""
        at = position["at"]
        if type(at) is not int or not 0 <= at <= self.N or at % self.batch:
            raise ValueError(f"position {at} in an epoch of {self.N} pictures")
        self.rng.bit_generator.state = position["epoch"]
        self.epoch()
        self.at = at


def allocate(shape: tuple[int, ...], name: str) -> np.ndarray:
    """uint8 zeros of `shape`; raises UserError, which names the data set, where the memory is not to be had."""
    try:
        return np.zeros(shape, np.uint8)
    except (MemoryError, ValueError):
        text = " x ".join(map(str, shape))
        raise UserError(f"{name} as {text} bytes does not fit in memory: ask for a smaller size.") from None


def fit(images: np.ndarray, size: int | None, name: str) -> np.ndarray:
    """Pictures uint8 (N, H, W, C), C 1 or 3, to (N, size, size, C); None leaves them as they are.

    A size at most 4 above max(H, W) pads evenly with 0, black (28 -> 32: two pixels on each side; an odd one goes below
    and right). Any other size resizes with Pillow's antialiased bicubic filter, after padding what is not square.
    """
    N, H, W, C = images.shape
    side = max(H, W)
    if size is None or H == W == size:
        return np.ascontiguousarray(images)
    out = allocate((N, size, size, C), name)
    padded = side <= size <= side + 4
    frame = size if padded else side
    top, left = (frame - H) // 2, (frame - W) // 2
    if padded:
        out[:, top : top + H, left : left + W] = images
        return out
    canvas = np.zeros((side, side, C), np.uint8)
    for i, image in enumerate(images):
        canvas[top : top + H, left : left + W] = image
        picture = Image.fromarray(canvas[..., 0] if C == 1 else canvas)
        out[i] = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)).reshape(size, size, C)
    return out


def with_channels(images: np.ndarray, channels: int | None, name: str) -> np.ndarray:
    """Pictures uint8 (N, H, W, C), C 1 or 3, to `channels`: gray is repeated, colours become Pillow's (ITU-R 601) luma.

    gray = (19595 R + 38470 G + 7471 B) / 2^16, rounded
    """
    if channels in (None, images.shape[3]):
        return images
    out = allocate((*images.shape[:3], channels), name)
    if channels == 3:
        out[:] = images
        return out
    for i, image in enumerate(images):
        out[i, :, :, 0] = (image @ np.array([19595, 38470, 7471], np.uint32) + 2**15) >> 16
    return out
