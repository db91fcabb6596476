"""Images, the type of every loaded data set, and its conversions, resizing and batches."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from rawgan.errors import UserError

MAX_SIZE = 4096  # largest side of a picture, pixels
LIMIT = 4 << 30  # most bytes of pictures that a file may declare


class NoTestSplit(UserError):
    """The data set has no test split."""


@dataclass(frozen=True, eq=False)
class Images:
    """Pictures in memory: images uint8 (N, H, W, C) C-contiguous, labels int64 (N,) or None.

    name      of the data set
    licence   terms of use of the pictures
    source    their origin, one line
    classes   the names of the labels 0, 1, 2, ...: the numbers, unless given
    notes     sentences about how the pictures were resized and cropped
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    licence: str
    source: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if self.labels is not None and not self.classes:
            names = tuple(map(str, range(int(self.labels.max(initial=-1)) + 1)))
            object.__setattr__(self, "classes", names)

    def __len__(self) -> int:
        return len(self.images)


def to_float(images_uint8, dtype=np.float32):
    """Convert uint8 in [0, 255] to `dtype` in [-1, 1]; any shape, NumPy or CuPy.

        x = u * (2/255) - 1

    `to_uint8` is the exact inverse.
    """
    x = images_uint8.astype(dtype)
    x *= 2 / 255
    x -= 1
    return x


def to_uint8(x):
    """Convert floats in [-1, 1] to uint8 in [0, 255], clipped; any shape, NumPy or CuPy.

    u = clip(round((x + 1) * 255/2), 0, 255)
    """
    return ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def numbered(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels of any integers or texts as int64 0 ... K - 1, and the K names in their order.

    Only labels that a picture has are counted: 1, 2, 7 become 0, 1, 2 with the names "1", "2", "7".
    """
    values, index = np.unique(labels, return_inverse=True)
    return index.reshape(-1).astype(np.int64), tuple(str(value) for value in values.tolist())


def with_classes(images: Images, classes: tuple[str, ...]) -> Images:
    """Return the pictures with labels counted as in `classes`, of another split.

    Raises UserError for a class that is not among them.
    """
    if images.labels is None or images.classes == classes:
        return images
    number = {name: k for k, name in enumerate(classes)}
    if unknown := [name for name in images.classes if name not in number]:
        raise UserError(
            f"{images.source} has the class {', '.join(unknown)}, which the training pictures do "
            f"not have: they have {', '.join(classes)}."
        )
    index = np.array([number[name] for name in images.classes], np.int64)
    return replace(images, labels=index[images.labels], classes=classes)


class Batches:
    """Endless index arrays int64 (batch,), reshuffled every epoch.

    Each epoch is a new permutation drawn from `rng`; its incomplete last batch is dropped.
    `position()` and `seek` save and restore the position in the epoch. Raises UserError for a batch
    outside 1 to N.
    """

    def __init__(self, images: Images, batch: int, rng: np.random.Generator):
        self.N, self.batch, self.rng = len(images), batch, rng
        if not 1 <= batch <= self.N:
            raise UserError(
                f"A batch of {batch} cannot be drawn from the {self.N} pictures of "
                f"{images.name}: choose 1 to {self.N}."
            )
        self.epoch()

    def epoch(self) -> None:
        """Begin an epoch, whose permutation depends on the state of the random stream alone."""
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
        """Return the stream's state before the epoch and the number of pictures drawn since.

        Both are JSON-serialisable.
        """
        return {"epoch": self.before, "at": self.at}

    def seek(self, position: dict) -> None:
        """Restore a result of `position()`. Raises ValueError for an invalid one."""
        at = position["at"]
        if type(at) is not int or not 0 <= at <= self.N or at % self.batch:
            raise ValueError(f"position {at} in an epoch of {self.N} pictures")
        self.rng.bit_generator.state = position["epoch"]
        self.epoch()
        self.at = at


def allocate(shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return uint8 zeros of `shape`.

    Raises UserError, naming the data set, if they do not fit in memory.
    """
    try:
        return np.zeros(shape, np.uint8)
    except (MemoryError, ValueError):
        text = " x ".join(map(str, shape))
        raise UserError(
            f"{name} as {text} bytes does not fit in memory: ask for a smaller size."
        ) from None


def fit(images: np.ndarray, size: int | None, name: str) -> np.ndarray:
    """Pad or resize pictures uint8 (N, H, W, C), C 1 or 3, to (N, size, size, C).

    A size of None leaves them unchanged. A size at most 4 above max(H, W) pads evenly with 0, black
    (28 -> 32: two pixels on each side; an odd one goes below and right). Any other size resizes
    with Pillow's antialiased bicubic filter, after padding to a square.
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
        out[i] = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)).reshape(
            size, size, C
        )
    return out


def resize_note(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[str, ...]:
    """Return a sentence on how `fit` changed pictures (N, H, W, C), or none."""
    (H, W), size = before[1:3], after[1]
    if H == W == size or (H, W) == after[1:3]:
        return ()
    side = max(H, W)
    square = (
        "" if H == W else f" padded to {side}x{side} and" if size > side + 4 or size < side else ""
    )
    change = "padded with black" if side <= size <= side + 4 else "resized"
    return (f"pictures of {W}x{H} are{square} {change} to {size}x{size}",)


def with_channels(images: np.ndarray, channels: int | None, name: str) -> np.ndarray:
    """Convert pictures uint8 (N, H, W, C), C 1 or 3, to `channels`.

    Gray is repeated; colours become Pillow's luma (ITU-R 601):

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
