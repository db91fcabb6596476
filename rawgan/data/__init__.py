"""Data sets, loaded whole into memory as uint8 (N, H, W, C).

| source | pictures | natural size, channels | from |
|---|---|---|---|
| "digits" | 8192 digits drawn from fonts, per split | 16, 1 | generated, needs nothing |
| "mnist" | 60000 + 10000 handwritten digits | 28, 1 | cache, download |
| "fashion-mnist" | 60000 + 10000 articles of clothing | 28, 1 | Debian's dataset-fashion-mnist, cache, download |
| "cifar10" | 50000 + 10000 photographs in 10 classes | 32, 3 | cache, download |
| a folder with IDX files | those | that of the files, 1 | |
| a folder with CIFAR-10's .bin files | those | 32, 3 | |
| a .npy file, uint8 (N, H, W) or (N, H, W, C) | those | that of the array | |
| a folder of pictures | all below it | none: size must be given; 3, or 1 if all are gray | |
"""

import os
from pathlib import Path

from rawgan.data import array, cifar, digits, folder, idx
from rawgan.data.images import MAX_SIZE, Batches, Images, NoTestSplit, fit, to_float, to_uint8, with_channels
from rawgan.errors import UserError

__all__ = ["NAMES", "Batches", "Images", "NoTestSplit", "load", "to_float", "to_uint8"]

NAMES = ("digits", *idx.KNOWN, cifar.NAME)
OWN = "unknown: that of your own files"


def load(source: str, size: int | None = None, channels: int | None = None, split: str = "train") -> Images:
    """The data set called `source`, one of NAMES, or the one in the folder or the .npy file `source`.

    size      side of the pictures, 1 to 4096 (digits: 8 to 128); None: the natural one. Pictures that have a size of their own
              are padded with black up to 4 above it (28 -> 32: two pixels on each side) and resized otherwise; those of a folder
              are resized and centre-cropped
    channels  1, 3 (gray is repeated) or None: the natural number
    split     "train" or "test"; a folder of pictures and an array have "train" only

    Raises UserError for anything that cannot be used: an argument, a missing or malformed file, a failed download; NoTestSplit,
    which is one, for a test split that there is none of.
    """
    if size is not None and not 1 <= size <= MAX_SIZE:
        raise UserError(f"Pictures of size {size} cannot be made: choose 1 to {MAX_SIZE}.")
    if channels not in (None, 1, 3):
        raise UserError(f"Pictures with {channels} channels cannot be made: choose 1, gray, or 3, RGB.")
    if split not in idx.STEMS:
        raise UserError(f"There is no split {split!r}: choose 'train' or 'test'.")

    path = Path(os.path.expanduser(source))
    name, licence, labels = source, OWN, None
    if source == "digits":
        drawn = digits.digits(size=size or 16, seed=0 if split == "train" else 1)
        return Images(with_channels(drawn.images, channels, source), drawn.labels, drawn.name, drawn.licence, drawn.source)
    if source in idx.KNOWN:
        licence = idx.KNOWN[source].licence
        images, labels, path = idx.read_known(source, split)
    elif source == cifar.NAME:
        licence = cifar.LICENCE
        images, labels, path = cifar.read_known(split)
    elif path.suffix == ".npy" and os.path.isfile(path):
        if split == "test":
            raise NoTestSplit(f"{path} is one array, which has no split 'test': load the array of the test pictures.")
        images, name = array.read_npy(path), path.stem
    elif not source or not os.path.isdir(path):
        raise UserError(f"There is no data set, folder or .npy file {source!r}: choose {', '.join(NAMES)}, or give one.")
    elif idx.holds_idx(path):
        images, labels = idx.read_folder(path, split)
        name = path.resolve().name
    elif cifar.holds_cifar(path):
        images, labels = cifar.read_folder(path, split)
        name = path.resolve().name
    elif split == "test":
        raise NoTestSplit(f"{path} holds pictures, which have no split 'test': load the folder of the test pictures.")
    else:
        return folder.read_folder(path, size, channels)
    if images.ndim == 3:
        images = images[..., None]
    return Images(with_channels(fit(images, size, name), channels, name), labels, name, licence, str(path))
