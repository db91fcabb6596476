"""Data set in a folder, or in a zip archive, of pictures.

A folder per class (the convention of torchvision's ImageFolder) gives labels; folders train/ and
test/ (or val/) give the two splits. Pictures are decoded by several threads, and the decoded ones
are cached (decoded.py).
"""

import os
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from rawgan.data import decoded
from rawgan.data.decoded import Decoded, Sizes
from rawgan.data.images import Images, NoTestSplit, allocate
from rawgan.errors import UserError, printable, reason

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
# the only decoders that Pillow may use
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
MEMBER = 1 << 30  # bytes; no picture in a zip archive is larger
LISTED = 700  # characters of names of broken pictures in a message
OWN = "unknown: that of your own pictures"


class Pictures(NamedTuple):
    """The pictures of a folder or archive: found, not decoded.

    root     the folder or archive
    names    of the pictures below root, with "/", in the order of their paths
    stamps   (size in bytes, time of change in ns) of each file; of an archive, its own alone
    others   number of the files that are no pictures
    open     function: name -> file; raises UserError or what zipfile raises
    labels   int64 (N,), from the folders per class, or None
    classes  the names of these folders
    """

    root: Path
    names: list[str]
    stamps: list[tuple[int, int]]
    others: int
    open: Callable[[str], BinaryIO | Path]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()


def read_folder(
    folder: Path,
    size: int | None,
    channels: int | None = None,
    split: str = "train",
    skip_broken: bool = False,
) -> Images:
    """Load all pictures in `folder` and its subfolders, or in a zip archive, by their paths.

    Returns images uint8 (N, size, size, channels), and labels int64 (N,) where every picture is in
    one of two or more subfolders, one for each class; else None. Each picture is rotated by its
    EXIF orientation, composited on white if transparent, converted to gray or RGB (channels 1 or 3;
    None: 1 if all are gray), resized by Pillow's antialiased bicubic filter until its shorter side
    is `size`, and centre-cropped. Of an animation the first frame is used. Hidden files are
    ignored; `source` counts the other files that are not pictures.

    skip_broken: leave out pictures that cannot be read. Raises NoTestSplit, and UserError for a
    folder that is missing, not a folder or without pictures, for pictures that are broken or too
    large, all named at once, and for a size of None.
    """
    pictures = find_split(folder, split)
    if size is None:
        raise UserError(
            f"{folder} holds pictures, which have no size in common: give one, such as size 64."
        )
    key = decoded.digest(pictures.root, pictures.names, pictures.stamps, size, channels)
    result = decoded.load(key)
    if result is None:
        start = time.monotonic()
        result = decode_all(pictures, size, channels)
        if time.monotonic() - start > decoded.WORTH:
            decoded.save(key, result)
    broken = {name for name, _ in result.broken}
    if broken and not (skip_broken and len(broken) < len(pictures.names)):
        raise broken_pictures(pictures, result.broken)
    kept = np.array([name not in broken for name in pictures.names])
    source = str(folder)
    left_out = [f"{pictures.others} files that are no {'/'.join(SUFFIXES)}"] * bool(pictures.others)
    left_out += [f"{len(broken)} pictures that cannot be read"] * bool(broken)
    source += f" without {' and '.join(left_out)}" if left_out else ""
    labels, classes = pictures.labels, pictures.classes
    if labels is not None and broken:
        present, labels = np.unique(labels[kept], return_inverse=True)
        classes = tuple(classes[k] for k in present)
        labels, classes = (labels, classes) if len(classes) > 1 else (None, ())
    name = folder.resolve().name
    return Images(
        result.images,
        labels,
        name if os.path.isdir(folder) else Path(name).stem,
        OWN,
        source,
        classes,
        notes(result.sizes, len(result.images), size),
    )


def notes(sizes: Sizes, N: int, size: int) -> tuple[str, ...]:
    """Return a sentence on the pictures' own sizes where they were cropped or resized."""
    if sizes.smallest == sizes.largest == (size, size):
        return ()
    low, high = ("x".join(map(str, pair)) for pair in (sizes.smallest, sizes.largest))
    text = f"pictures of {low} " + (f"to {high} " if high != low else "")
    text += f"are resized until the shorter side is {size}"
    if sizes.not_square:
        text += f", and the {sizes.not_square} of {N} that are not square cropped to the middle"
    if sizes.enlarged:
        text += f"; {sizes.enlarged} are smaller than that, and enlarged"
    return (text,)


# Finding the pictures


def find(folder: Path) -> tuple[list[Path], int]:
    """Return the sorted paths of the pictures in `folder`, and the number of other visible files.

    Subfolders are searched and links followed.
    """

    def refuse(error):
        raise UserError(
            f"{error.filename} cannot be listed ({error.strerror}): give a readable folder."
        ) from None

    paths, others, seen = [], 0, set()
    with progress(None, "scan", " files") as bar:
        for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
            bar.update(len(names))
            seen.add(os.path.realpath(root))
            visible = sorted(name for name in folders if name[0] != ".")
            # links may form a cycle
            folders[:] = [
                name for name in visible if os.path.realpath(Path(root, name)) not in seen
            ]
            for name in names:
                if name.lower().endswith(SUFFIXES) and name[0] != ".":
                    paths.append(Path(root, name))
                elif name[0] != ".":
                    others += 1
    if not paths:
        raise UserError(
            f"{folder} holds no pictures: give a folder with {', '.join(SUFFIXES)} files."
        )
    return sorted(paths), others


def find_split(root: Path, split: str = "train") -> Pictures:
    """Return the pictures of a split in a folder or zip archive, with labels by their folders.

    Raises NoTestSplit, and UserError for a folder or archive that cannot be read or holds none.
    """
    zipped = root.suffix.lower() == ".zip" and os.path.isfile(root)
    pictures = in_archive(root) if zipped else in_folder(root)
    parts = [name.split("/", 1)[0] if "/" in name else "" for name in pictures.names]
    tops = {top.lower() for top in parts}
    if tops & set(TRAIN) and tops & set(TEST) and tops <= {*TRAIN, *TEST}:
        wanted = next(name for name in (TRAIN if split == "train" else TEST) if name in tops)
        chosen = [i for i, top in enumerate(parts) if top.lower() == wanted]
        pictures = pictures._replace(
            names=[pictures.names[i] for i in chosen], stamps=[pictures.stamps[i] for i in chosen]
        )
        parts = [(name.split("/", 2)[1:-1] or [""])[0] for name in pictures.names]
    elif split == "test":
        raise NoTestSplit(
            f"{root} holds pictures, which have no split 'test': load the folder of the test "
            "pictures."
        )
    classes = sorted(set(parts))
    if len(classes) < 2 or "" in classes:
        return pictures
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[part] for part in parts], np.int64)
    return pictures._replace(labels=labels, classes=tuple(classes))


def in_folder(folder: Path) -> Pictures:
    """Return the pictures in a folder."""
    paths, others = find(folder)
    names, stamps = [path.relative_to(folder).as_posix() for path in paths], []
    for path in paths:
        try:
            info = os.stat(path)
            stamps.append((info.st_size, info.st_mtime_ns))
        except OSError:  # a dangling link: decoding names it
            stamps.append((0, 0))
    return Pictures(folder, names, stamps, others, lambda name: folder / name)


def in_archive(path: Path) -> Pictures:
    """Return the pictures in a zip archive, whose members are read and never unpacked to disk.

    A folder that holds all of them is left out of their names. Raises UserError.
    """
    try:
        archive, info = zipfile.ZipFile(path), os.stat(path)
        members = [member for member in archive.infolist() if not member.is_dir()]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} is no readable zip archive ({reason(error)}): make it again."
        ) from (error)
    visible = [
        member
        for member in members
        if not any(part.startswith((".", "__MACOSX")) for part in member.filename.split("/"))
    ]
    by_name = {m.filename: m for m in visible if m.filename.lower().endswith(SUFFIXES)}
    if not by_name:
        raise UserError(
            f"{path} holds no pictures: give an archive of {', '.join(SUFFIXES)} files."
        )
    common = ""
    while len({name[len(common) :].split("/", 1)[0] for name in by_name}) == 1 and all(
        "/" in name[len(common) :] for name in by_name
    ):
        common += next(iter(by_name))[len(common) :].split("/", 1)[0] + "/"

    def open_member(name: str) -> BinaryIO:
        member = by_name[common + name]
        if member.file_size > MEMBER:
            raise UserError(f"larger than {MEMBER >> 20} MiB")
        return archive.open(member)

    names = sorted(name[len(common) :] for name in by_name)
    stamps = [(info.st_size, info.st_mtime_ns)] * len(names)
    return Pictures(path, names, stamps, len(visible) - len(by_name), open_member)


# Decoding


def decode_all(pictures: Pictures, size: int, channels: int | None) -> Decoded:
    """Return the decoded pictures, without those that cannot be read, in several threads.

    Pillow releases the GIL while it decodes and resizes.
    """
    N, C = len(pictures.names), channels or 3
    images = allocate((N, size, size, C), str(pictures.root))
    Image.init()  # loads the decoders, which threads must not do at once

    def decode(i: int) -> tuple[bool, tuple[int, int]] | str:
        try:
            with opened(pictures.open(pictures.names[i])) as image:
                upright = ImageOps.exif_transpose(image)
                gray = is_gray(upright)
                used = channels or (1 if gray else 3)
                fitted = ImageOps.fit(flat(upright, used), (size, size), Image.Resampling.BICUBIC)
                images[i] = np.asarray(fitted).reshape(size, size, used)
                return gray, upright.size
        except Exception as error:  # Pillow and zipfile raise many types for a broken file
            return str(error) if isinstance(error, UserError) else type(error).__name__

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # opened() refuses such pictures; filters are of the process, not of a thread
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with progress(N, "pictures", "") as bar:
            results = []
            for result in pool.map(decode, range(N)):
                results.append(result)
                bar.update()
    broken = [(name, r) for name, r in zip(pictures.names, results) if isinstance(r, str)]
    read = [i for i, result in enumerate(results) if not isinstance(result, str)]
    images = images if len(read) == N else images[read]
    if channels is None and all(results[i][0] for i in read):
        images = np.ascontiguousarray(images[..., :1])
    return Decoded(images, broken, measured([results[i][1] for i in read], size))


def measured(shapes: list[tuple[int, int]], size: int) -> Sizes:
    """Return the smallest and largest (width, height), and the counts that notes() needs."""
    if not shapes:
        return Sizes((size, size), (size, size), 0, 0)
    by_area = sorted(set(shapes), key=lambda shape: (shape[0] * shape[1], shape))
    return Sizes(
        by_area[0],
        by_area[-1],
        sum(w != h for w, h in shapes),
        sum(min(shape) < size for shape in shapes),
    )


def broken_pictures(pictures: Pictures, broken: list[tuple[str, str]]) -> UserError:
    """Return the error that names all pictures that cannot be read.

    Where the names are too many for a message, a line for each is printed to stderr before it.
    """
    root, listed = pictures.root, ", ".join(f"{name} ({why})" for name, why in broken)
    if len(broken) == 1:
        name, why = broken[0]
        return UserError(
            f"{root / name} cannot be read as a picture ({why}): repair or remove it, or go on "
            "without it, --skip-broken."
        )
    if len(listed) > LISTED:
        for name, why in broken:
            print(printable(f"cannot be read: {root / name} ({why})"), file=sys.stderr)
        listed = "named above"
    return UserError(
        f"{len(broken)} of the {len(pictures.names)} pictures in {root} cannot be read, {listed}: "
        "repair or remove them, or go on without them, --skip-broken."
    )


def progress(total: int | None, name: str, unit: str):
    """Return a progress bar, which appears after a second."""
    from tqdm import tqdm  # here, because only long loads show it

    every = 0.1 if sys.stderr.isatty() else 10
    return tqdm(
        total=total, desc=name, unit=unit or "it", delay=1, mininterval=every, dynamic_ncols=True
    )


@contextmanager
def opened(file: Path | BinaryIO) -> Iterator[Image.Image]:
    """Open a picture. Raises UserError, with a reason, for what is no file or has too many pixels.

    Pillow raises many other types for a broken file.
    """
    if isinstance(file, Path) and not os.path.isfile(file):
        raise UserError("not a file")
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except Image.DecompressionBombError:
        raise UserError(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None


def is_gray(image: Image.Image) -> bool:
    """Return whether the picture's mode has no colours."""
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def flat(image: Image.Image, channels: int) -> Image.Image:
    """Return an upright picture opaque, with 8 bits: mode "L" for one channel, "RGB" for three.

    Raises UserError for pixels that are floating-point numbers, whose range is not known.
    """
    if image.mode == "F":
        raise UserError("pixels of floating-point numbers")
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip to 255
        values = np.rint(np.asarray(image) / 257)
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")
