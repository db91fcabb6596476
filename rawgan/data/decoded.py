"""Cache of decoded pictures, so that the next start on the same folder reads one file.

The file is found by the digest of the folder's path, of the names, sizes and times of its pictures,
and of the size and channels they are decoded to. Its content is checked with a SHA-256.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from rawgan.data.download import cache_folder
from rawgan.data.images import LIMIT
from rawgan.errors import UserError
from rawgan.files import Unreadable, kind, load_arrays, write_whole

FORMAT = 1  # increase when decoding changes, to invalidate cached pictures
WORTH = 1.0  # seconds of decoding from which the result is cached
ROOM = 8 << 30  # bytes of all cached pictures: the ones used longest ago are deleted


class Sizes(NamedTuple):
    """Sizes of the pictures before they were resized.

    smallest, largest  (width, height), by area
    not_square         how many are not square
    enlarged           how many are smaller than the size they are resized to
    """

    smallest: tuple[int, int]
    largest: tuple[int, int]
    not_square: int
    enlarged: int


class Decoded(NamedTuple):
    """Decoded pictures uint8 (N, H, W, C); (name, reason) of those that could not be read."""

    images: np.ndarray
    broken: list[tuple[str, str]]
    sizes: Sizes


def digest(
    root: Path,
    names: list[str],
    stamps: list[tuple[int, int]],
    size: int,
    channels: int | None,
) -> str:
    """Return the digest of everything that the decoded pictures depend on."""
    about = [FORMAT, PIL.__version__, os.path.realpath(root), size, channels, names, stamps]
    return hashlib.sha256(json.dumps(about).encode("utf-8", "surrogatepass")).hexdigest()


def path_of(key: str) -> Path:
    """Return the path of the cache file of a digest."""
    return cache_folder() / "pictures" / f"{key[:32]}.safetensors"


def load(key: str) -> Decoded | None:
    """Return the cached pictures of a digest, or None.

    A file that was altered is named on stderr, and the pictures are decoded again.
    """
    path = path_of(key)
    if kind(path) is None:
        return None
    try:
        arrays, metadata = load_arrays(path)
        images, about = arrays["images"], json.loads(metadata["about"])
        if metadata["sha256"] != checksum(images, metadata["about"]):
            raise ValueError("its checksum is another")
        smallest, largest, *counts = about["sizes"]
        broken = [(name, why) for name, why in about["broken"]]
        result = Decoded(images, broken, Sizes(tuple(smallest), tuple(largest), *counts))
    except (Unreadable, KeyError, ValueError, TypeError) as error:
        print(
            f"warning: {path} is not the file that was written there ({error}): the pictures are "
            "decoded again",
            file=sys.stderr,
        )
        return None
    try:
        os.utime(path)  # the time of its last use
    except OSError:
        pass  # a cache of somebody else: only the order of deletion depends on it
    return result


def save(key: str, result: Decoded) -> None:
    """Cache decoded pictures; warn on stderr where that is not possible."""
    images, path = np.ascontiguousarray(result.images), path_of(key)
    if images.nbytes > LIMIT:
        return
    about = json.dumps({"sizes": result.sizes, "broken": result.broken})
    header = {
        "__metadata__": {"about": about, "sha256": checksum(images, about)},
        "images": {"dtype": "U8", "shape": images.shape, "data_offsets": [0, images.nbytes]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_room(path.parent, images.nbytes)
        write_whole(path, len(text).to_bytes(8, "little") + text, images.reshape(-1).data)
    except (OSError, UserError) as error:
        print(
            f"warning: the decoded pictures could not be cached ({error}): the next start decodes "
            "them again",
            file=sys.stderr,
        )


def checksum(images: np.ndarray, about: str) -> str:
    """Return the SHA-256 in hex of the pictures and of what is known about them."""
    digest = hashlib.sha256(f"{images.shape}\0{about}".encode())
    digest.update(np.ascontiguousarray(images).reshape(-1).data)
    return digest.hexdigest()


def make_room(folder: Path, needed: int) -> None:
    """Delete the files used longest ago until `needed` bytes more are within ROOM."""
    files = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
    files.sort(key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    for path in files:
        if total + needed <= ROOM:
            break
        total -= path.stat().st_size
        path.unlink(missing_ok=True)
