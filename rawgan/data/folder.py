"""A folder of pictures as a data set."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rawgan.data.images import Images, allocate
from rawgan.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")  # nothing else is tried, whatever the file says it is


def read_folder(folder: Path, size: int | None, channels: int | None = None) -> Images:
    """All pictures below `folder`, in the order of their paths: images uint8 (N, size, size, channels), labels None.

    Each is turned as its EXIF orientation says, laid on white where transparent, made gray or RGB (channels 1 or 3;
    None: 1 if all are gray), resized by Pillow's antialiased bicubic filter until its shorter side is `size`, and
    cropped about its centre. Of an animation the first frame counts. Hidden files are ignored; `source` counts the
    other files that are no pictures.

    Raises UserError for a folder that is missing, not a folder or without pictures, for a picture that is broken or too
    large, and for a size of None.
    """
    paths, others = find(folder)
    if size is None:
        raise UserError(f"{folder} holds pictures, which have no size in common: give one, such as size 64.")
    if channels is None:
        channels = 1 if all(map(is_gray, paths)) else 3
    images = allocate((len(paths), size, size, channels), str(folder))
    for i, path in enumerate(paths):
        with opened(path) as image:
            fitted = ImageOps.fit(flat(image, channels), (size, size), Image.Resampling.BICUBIC)
            images[i] = np.asarray(fitted).reshape(size, size, channels)
    source = str(folder) + (f" without {others} files that are no {'/'.join(SUFFIXES)}" if others else "")
    return Images(images, None, folder.resolve().name, "unknown: that of your own pictures", source)


def find(folder: Path) -> tuple[list[Path], int]:
    """The pictures below `folder`, links followed, sorted; and how many other files, hidden ones aside, lie there."""

    def refuse(error):
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}): give a readable folder.") from None

    paths, others, seen = [], 0, set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(root))
        visible = sorted(name for name in folders if name[0] != ".")
        folders[:] = [name for name in visible if os.path.realpath(Path(root, name)) not in seen]  # links may lead back
        for name in names:
            if name.lower().endswith(SUFFIXES) and name[0] != ".":
                paths.append(Path(root, name))
            elif name[0] != ".":
                others += 1
    if not paths:
        raise UserError(f"{folder} holds no pictures: give a folder with {', '.join(SUFFIXES)} files.")
    return sorted(paths), others


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture at `path`; whatever goes wrong with it inside the `with` is a UserError that names it."""
    if not os.path.isfile(path):
        raise UserError(f"{path} is not a file: remove it from the folder.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels: shrink or remove it.") from None
    except Exception as error:  # a broken file makes Pillow's decoders raise nearly anything
        raise UserError(f"{path} cannot be read as a picture ({type(error).__name__}): repair or remove it.") from error


def is_gray(path: Path) -> bool:
    """Whether the header of the picture says that it has no colours."""
    with opened(path) as image:
        return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def flat(image: Image.Image, channels: int) -> Image.Image:
    """Upright, opaque, 8 bits: mode "L" for one channel, "RGB" for three."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip to 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")
