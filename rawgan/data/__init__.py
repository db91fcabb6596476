"""Data sets, loaded whole into memory as uint8 (N, H, W, C).

| source | pictures | natural size, channels | from |
|---|---|---|---|
| "digits" | 8192 digits drawn from fonts, per split | 16, 1 | generated, needs nothing |
| "mnist" | 60000 + 10000 handwritten digits | 28, 1 | cache, download |
| "fashion-mnist" | 60000 + 10000 articles of clothing | 28, 1 | Debian's dataset-fashion-mnist, cache, download |
| a folder with IDX files | those | that of the files, 1 | |
| a folder of pictures | all below it | none: size must be given; 3, or 1 if all are gray | |
"""

import os
from pathlib import Path

from rawgan.data import digits, folder, idx
from rawgan.data.images import MAX_SIZE, Batches, Images, fit, to_float, to_uint8, with_channels
from rawgan.errors import UserError

__all__ = ["Batches", "Images", "load", "to_float", "to_uint8"]


def load(source: str, size: int | None = None, channels: int | None = None, split: str = "train") -> Images:
    """The data set called `source`, "digits", "mnist" or "fashion-mnist", or the one in the folder `source`.

    size      side of the pictures, 1 to 4096 (digits: 8 to 128); None: the natural one. IDX pictures are padded with
              black up to 4 above their natural size (28 -> 32: two pixels on each side) and resized otherwise; those of
              a folder are resized and centre-cropped
    channels  1, 3 (gray is repeated) or None: the natural number
    split     "train" or "test"; a folder of pictures has "train" only

    Raises UserError for anything that cannot be used: an argument, a missing or malformed file, a failed download.
    """
    if size is not None and not 1 <= size <= MAX_SIZE:
        raise UserError(f"Pictures of size {size} cannot be made: choose 1 to {MAX_SIZE}.")
    if channels not in (None, 1, 3):
        raise UserError(f"Pictures with {channels} channels cannot be made: choose 1, gray, or 3, RGB.")
    if split not in idx.STEMS:
        raise UserError(f"There is no split {split!r}: choose 'train' or 'test'.")

    if source == "digits":
        drawn = digits.digits(size=size or 16, seed=0 if split == "train" else 1)
        images = with_channels(drawn.images[..., 0], channels, drawn.name)
        return Images(images, drawn.labels, drawn.name, drawn.licence, drawn.source)

    path = Path(os.path.expanduser(source))
    if source in idx.KNOWN:
        name, licence = source, idx.KNOWN[source].licence
        images, labels, path = idx.read_known(source, split)
    elif not source or not os.path.isdir(path):
        names = ", ".join(["digits", *idx.KNOWN])
        raise UserError(f"There is no data set and no folder {source!r}: choose {names}, or give a folder.")
    elif idx.holds_idx(path):
        name, licence = path.resolve().name, "unknown: that of your own files"
        images, labels = idx.read_folder(path, split)
    elif split == "test":
        raise UserError(f"{path} holds pictures, which have no split 'test': load the folder of the test pictures.")
    else:
        return folder.read_folder(path, size, channels)
    return Images(with_channels(fit(images, size, name), channels, name), labels, name, licence, str(path))
