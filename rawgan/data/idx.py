"""IDX files, the format of MNIST and Fashion-MNIST: parsed without trust, found or downloaded."""

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from rawgan.data.download import cache_folder, download
from rawgan.data.images import LIMIT, MAX_SIZE
from rawgan.errors import UserError

CLASSES = 10
CHUNK = 1 << 20  # bytes read at a time, so that memory follows what a file holds and not what it declares
STEMS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class Known:
    """A data set that can be had by name: where from, under which licence, and the sha256 of its .gz files."""

    licence: str
    mirrors: tuple[str, ...]
    sha256: dict[str, str]
    system: Path | None = None
    remedy: str = "give a folder that holds its IDX files"


KNOWN = {
    "mnist": Known(
        licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
        mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        sha256={
            "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": Known(
        licence="MIT, Zalando SE",
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        sha256={
            "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        system=Path("/usr/share/datasets/fashion-mnist"),
        remedy="give a folder that holds its IDX files, or install Debian's package dataset-fashion-mnist",
    ),
}


def read_idx(path: Path, dims: int) -> np.ndarray:
    """The uint8 array of `dims` dimensions that the IDX file at `path`, plain or gzipped, holds.

        0 0 8 dims | dims sizes, 4 bytes each, most significant first | the bytes, last index fastest

    Raises UserError for everything that is not exactly this. Memory follows what the file holds, not what it declares.
    Source: the format note that was published with MNIST, http://yann.lecun.com/exdb/mnist/.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path} is not there or not a file: give a folder that holds it.")
    try:
        with open(path, "rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else open(path, "rb") as stream:
            return _parse(stream, path, dims)
    except EOFError:
        raise UserError(f"{path} is a gzip file that ends too early: fetch it again.") from None
    except (gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path} is a broken gzip file: fetch it again.") from None
    except MemoryError:
        raise UserError(f"{path} does not fit in memory: give a smaller data set.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None


def _parse(stream, path: Path, dims: int) -> np.ndarray:
    magic = stream.read(4)
    if len(magic) == 4:
        if magic[:2] != b"\0\0":
            raise UserError(f"{path} is not an IDX file (it starts with 0x{magic.hex()}): give the original file.")
        if magic[2] != 8:
            raise UserError(f"{path} is an IDX file of type 0x{magic[2]:02x}: give one of unsigned bytes, 0x08.")
        if magic[3] != dims:
            raise UserError(f"{path} has {magic[3]} dimensions, not {dims}: give images and labels unswapped.")
    sizes = stream.read(4 * dims)
    if len(sizes) < 4 * dims:
        raise UserError(f"{path} ends within its header: fetch it again.")
    shape = struct.unpack(f">{dims}I", sizes)
    text, count = " x ".join(map(str, shape)), prod(shape)
    if not 0 < count <= LIMIT:
        raise UserError(f"{path} declares {text} bytes, where 1 to {LIMIT} can be used: fetch it again.")
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
    """The file in `folder` that is named `stem`, in either spelling (-idx3 or .idx3), plain before .gz; else None."""
    for name in (stem, stem.replace("-idx", ".idx")):
        for path in (folder / name, folder / f"{name}.gz"):
            if os.path.isfile(path):
                return path
    return None


def holds_idx(folder: Path) -> bool:
    """Whether any of the four standard files lies in `folder`."""
    return any(find(folder, stem) for stems in STEMS.values() for stem in stems)


def read_folder(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, H, W) and labels int64 (N,), 0 to 9, of the standard files in `folder`.

    Raises UserError where a file is missing or malformed, pictures too large, counts that differ, or a label above 9.
    """
    paths = []
    for stem in STEMS[split]:
        path = find(folder, stem)
        if path is None:
            raise UserError(f"{folder} holds no {stem} or {stem}.gz: put the file there.")
        paths.append(path)
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    N, H, W = images.shape
    if max(H, W) > MAX_SIZE:
        raise UserError(f"{paths[0]} holds pictures of {H} x {W}: give some of at most {MAX_SIZE} x {MAX_SIZE}.")
    if N != len(labels):
        raise UserError(f"{paths[0]} holds {N} images but {paths[1]} {len(labels)} labels: give a pair that matches.")
    if labels.max() >= CLASSES:
        raise UserError(f"{paths[1]} holds the label {labels.max()}: give one with 0 to {CLASSES - 1} only.")
    return images, labels.astype(np.int64)


def holds_split(folder: Path, split: str) -> bool:
    """Whether both files of a split lie in `folder`."""
    return all(find(folder, stem) for stem in STEMS[split])


def read_known(name: str, split: str) -> tuple[np.ndarray, np.ndarray, Path]:
    """Images, labels (as `read_folder`) and folder of a set in KNOWN: the system's, else the cache's, else downloaded.

    Raises UserError where a file is malformed or the download fails.
    """
    known = KNOWN[name]
    if known.system and holds_split(known.system, split):
        return *read_folder(known.system, split), known.system
    folder = cache_folder() / name
    if not holds_split(folder, split):
        for stem in STEMS[split]:
            urls = [f"{mirror}{stem}.gz" for mirror in known.mirrors]
            download(name, urls, known.sha256[stem], folder, f"{stem}.gz", known.remedy)
    return *read_folder(folder, split), folder
