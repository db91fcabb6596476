"""IDX files, the format of MNIST and Fashion-MNIST: a validating parser, lookup and download."""

import gzip
import hashlib
import io
import os
import struct
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from rawgan.data.download import cache_folder, download
from rawgan.data.images import LIMIT, MAX_SIZE
from rawgan.errors import UserError
from rawgan.files import Unreadable, read_file

PUBLISHED = 64 << 20  # largest file of a data set in KNOWN, bytes
CHUNK = 1 << 20  # bytes read at a time: memory grows with the content, not the declared size
STEMS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class Known:
    """Published data set: licence, download mirrors, the sha256 of its .gz files.

    `system` is the folder of a distribution's package, `remedy` the advice if the download fails.
    """

    licence: str
    mirrors: tuple[str, ...]
    sha256: dict[str, str]
    system: Path | None = None
    remedy: str = "give a folder that holds its IDX files"


KNOWN = {
    "mnist": Known(
        licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        sha256={
            "train-images-idx3-ubyte": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
    ),
    "fashion-mnist": Known(
        licence="MIT, Zalando SE",
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        sha256={
            "train-images-idx3-ubyte": (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
            ),
            "train-labels-idx1-ubyte": (
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
            ),
            "t10k-images-idx3-ubyte": (
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
            ),
            "t10k-labels-idx1-ubyte": (
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
            ),
        },
        system=Path("/usr/share/datasets/fashion-mnist"),
        remedy="give a folder that holds its IDX files, or install Debian's package "
        "dataset-fashion-mnist",
    ),
}


def read_idx(path: Path, dims: int, sha256: str | None = None) -> np.ndarray:
    """Return the uint8 array with `dims` dimensions in an IDX file, plain or gzipped.

        0 0 8 dims | dims sizes, 4 bytes each, big-endian | the bytes, last index fastest

    With sha256 the file must have this checksum, and the bytes that were checked are the bytes that
    are parsed. Memory grows with the content of the file, not with the size that it declares.
    Raises UserError for anything that is not exactly this format. Source: the format note that was
    published with MNIST, http://yann.lecun.com/exdb/mnist/.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path} is not there or not a file: give a folder that holds it.")
    try:
        with open(path, "rb") if sha256 is None else published(path, sha256) as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            with gzip.open(plain) if zipped else nullcontext(plain) as stream:
                return _parse(stream, path, dims)
    except EOFError:
        raise UserError(f"{path} is a gzip file that ends too early: fetch it again.") from None
    except (gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path} is a broken gzip file: fetch it again.") from None
    except MemoryError:
        raise UserError(f"{path} does not fit in memory: give a smaller data set.") from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): check its permissions."
        ) from None


def published(path: Path, sha256: str) -> io.BytesIO:
    """Return the content of a file. Raises UserError if its checksum is not `sha256`."""
    try:
        content = read_file(path, PUBLISHED, follow=True)
    except Unreadable as error:
        raise UserError(
            f"{path} cannot be read ({error}): delete it, and it is downloaded again."
        ) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{path} is not the file that was published: delete it, and it is downloaded again."
        )
    return io.BytesIO(content)


def _parse(stream, path: Path, dims: int) -> np.ndarray:
    magic = stream.read(4)
    if len(magic) == 4:
        if magic[:2] != b"\0\0":
            raise UserError(
                f"{path} is not an IDX file (it starts with 0x{magic.hex()}): give the "
                "original file."
            )
        if magic[2] != 8:
            raise UserError(
                f"{path} is an IDX file of type 0x{magic[2]:02x}: give one of unsigned bytes, 0x08."
            )
        if magic[3] != dims:
            raise UserError(
                f"{path} has {magic[3]} dimensions, not {dims}: give images and labels unswapped."
            )
    sizes = stream.read(4 * dims)
    if len(sizes) < 4 * dims:
        raise UserError(f"{path} ends within its header: fetch it again.")
    shape = struct.unpack(f">{dims}I", sizes)
    text, count = " x ".join(map(str, shape)), prod(shape)
    if not 0 < count <= LIMIT:
        raise UserError(
            f"{path} declares {text} bytes, where 1 to {LIMIT} can be used: fetch it again."
        )
    body = bytearray()
    while len(body) < count:
        chunk = stream.read(min(CHUNK, count - len(body)))
        if not chunk:
            raise UserError(f"{path} declares {text} bytes but holds {len(body)}: fetch it again.")
        body += chunk
    if stream.read(1):
        raise UserError(f"{path} goes on after the {text} bytes that it declares: fetch it again.")
    return np.frombuffer(body, np.uint8).reshape(shape)


def find(folder: Path, stem: str) -> Path | None:
    """Return the path of the file `stem` in `folder`, or None.

    Accepts both spellings (-idx3, .idx3), and prefers the plain file to .gz. A name may begin with
    that of the data set, as in emnist-letters-train-images-idx3-ubyte. Raises UserError where the
    folder has several such files.
    """
    names = [name + end for name in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")]
    for name in names:
        if os.path.isfile(folder / name):
            return folder / name
    try:
        entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return None
    for name in names:
        longer = [entry for entry in entries if entry.endswith(f"-{name}")]
        if len(longer) > 1:
            raise UserError(
                f"{folder} holds {' and '.join(longer[:4])}: put the files of one data set into a "
                "folder of their own."
            )
        if longer:
            return folder / longer[0]
    return None


def holds_idx(folder: Path) -> bool:
    """Return whether `folder` holds any of the four standard files."""
    return any(find(folder, stem) for stems in STEMS.values() for stem in stems)


def read_folder(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 (N, H, W) and labels int64 (N,), 0 to 255, of a split in `folder`.

    Raises UserError for a missing or malformed file, pictures that are too large, or different
    counts of images and labels.
    """
    return read_pair(*paths_of(folder, split))


def paths_of(folder: Path, split: str) -> list[Path]:
    """Return the paths of the images and labels of a split. Raises UserError for a missing one."""
    paths = []
    for stem in STEMS[split]:
        path = find(folder, stem)
        if path is None:
            raise UserError(f"{folder} holds no {stem} or {stem}.gz: put the file there.")
        paths.append(path)
    return paths


def peek(path: Path) -> tuple[int, int, int]:
    """Return the shape (N, H, W) that a file of images declares, of which only the header is read.

    Raises UserError for any other file.
    """
    try:
        with open(path, "rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            with gzip.open(plain) if zipped else nullcontext(plain) as stream:
                head = stream.read(16)
    except (OSError, EOFError, zlib.error):
        head = b""
    if len(head) < 16 or head[:4] != bytes([0, 0, 8, 3]):
        raise UserError(f"{path} is no IDX file of images: fetch it again.")
    return struct.unpack(">3I", head[4:])


def read_pair(
    pictures: Path, classes: Path, sums: tuple[str | None, str | None] = (None, None)
) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels as `read_folder`, from a file of images and one of labels.

    `sums` are their sha256 checksums, or None to skip the check.
    """
    images, labels = read_idx(pictures, 3, sums[0]), read_idx(classes, 1, sums[1])
    N, H, W = images.shape
    if max(H, W) > MAX_SIZE:
        raise UserError(
            f"{pictures} holds pictures of {H} x {W}: give some of at most {MAX_SIZE} x {MAX_SIZE}."
        )
    if N != len(labels):
        raise UserError(
            f"{pictures} holds {N} images but {classes} {len(labels)} labels: give a pair "
            "that matches."
        )
    return images, labels.astype(np.int64)


def holds_split(folder: Path, split: str) -> bool:
    """Return whether `folder` holds both files of a split."""
    return all(find(folder, stem) for stem in STEMS[split])


def is_here(name: str, split: str) -> bool:
    """Return whether a split of a data set in KNOWN can be read without a download."""
    system, folder = KNOWN[name].system, cache_folder() / name
    cached = all(os.path.isfile(folder / f"{stem}.gz") for stem in STEMS[split])
    return cached or bool(system and holds_split(system, split))


def read_known(name: str, split: str) -> tuple[np.ndarray, np.ndarray, Path]:
    """Return images, labels (as `read_folder`) and the folder of a data set in KNOWN.

    Uses the system's folder, else the cache, else downloads. The cached files are checked against
    the published checksums on every load. Raises UserError if a file is not the published one, or
    if the download fails.
    """
    known = KNOWN[name]
    if known.system and holds_split(known.system, split):
        return *read_folder(known.system, split), known.system
    folder, paths = cache_folder() / name, []
    for stem in STEMS[split]:
        path = folder / f"{stem}.gz"
        if not os.path.isfile(path):
            if other := find(folder, stem):
                raise UserError(
                    f"{other} is not the file that was published, {stem}.gz: delete it, or "
                    "give its folder as the data."
                )
            urls = [f"{mirror}{stem}.gz" for mirror in known.mirrors]
            download(name, urls, known.sha256[stem], folder, f"{stem}.gz", known.remedy)
        paths.append(path)
    return *read_pair(*paths, tuple(known.sha256[stem] for stem in STEMS[split])), folder
