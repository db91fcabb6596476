"""CIFAR-10 in its binary version, read from the published archive or from a folder of .bin files.

The archive is read as a stream and never unpacked to disk.
"""

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np

from rawgan.data.download import cache_folder, download
from rawgan.data.images import allocate
from rawgan.errors import UserError

NAME, FILE = "cifar10", "cifar-10-binary.tar.gz"
LICENCE = "none stated; cite Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images"
URLS = ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
INSIDE = "cifar-10-batches-bin/"
RECORDS = 10_000  # pictures per file
SHAPE = (3, 32, 32)
CLASSES = 10
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, the green and the blue plane, row by row
SPLITS = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
SLACK = 1 << 20  # bytes of an archive for everything but the pictures


def read_known(split: str) -> tuple[np.ndarray, np.ndarray, Path]:
    """Return images uint8 (N, 32, 32, 3), labels int64 (N,), and the path of the cached archive.

    Downloads the archive if the cache does not hold it. Raises UserError if the download fails or
    the archive is not the published one.
    """
    folder = cache_folder() / NAME
    path = folder / FILE
    if not path.is_file():
        download(
            NAME,
            URLS,
            SHA256,
            folder,
            FILE,
            f"put {FILE} into {folder}, or give a folder with its .bin files",
        )
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): check its permissions."
        ) from None
    if digest != SHA256:
        raise UserError(
            f"{path} is not the archive that was published: delete it, and it is downloaded again."
        )
    return *read_archive(path, split), path


def holds_cifar(folder: Path) -> bool:
    """Return whether `folder` holds any of the six files."""
    return any(os.path.isfile(folder / name) for names in SPLITS.values() for name in names)


def read_folder(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 (N, 32, 32, 3) and labels int64 (N,) of a split's .bin files in `folder`.

    Raises UserError if a file is missing, does not hold 10,000 records, or has a label above 9.
    """
    images, labels = room(split)
    for i, name in enumerate(SPLITS[split]):
        path = folder / name
        try:
            with open(path, "rb") as file:
                body = file.read(RECORDS * RECORD + 1)
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): put the file of CIFAR-10 there."
            ) from None
        parse(body, path, images, labels, i)
    return images, labels


def read_archive(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels as `read_folder`, from a .tar.gz file.

    Only members of the expected names and sizes are read, and none is unpacked to disk. Memory is
    bounded by the size of the pictures, whatever the archive declares. Raises UserError for any
    other content.
    """
    images, labels = room(split)
    wanted = {INSIDE + name: i for i, name in enumerate(SPLITS[split])}
    limit = 6 * RECORDS * RECORD + SLACK
    try:
        with (
            gzip.open(path) as plain,
            tarfile.open(fileobj=Bounded(plain, limit), mode="r|") as archive,
        ):
            for member in archive:
                if (i := wanted.get(member.name)) is None:
                    continue
                if not member.isreg() or member.size != RECORDS * RECORD:
                    raise UserError(
                        f"{path} holds a {member.name} that is no file of {RECORDS * RECORD} "
                        "bytes: fetch it again."
                    )
                parse(archive.extractfile(member).read(), path, images, labels, i)
                del wanted[member.name]
    except UserError:
        raise
    except Exception as error:  # gzip and tarfile raise many types for a broken archive
        raise UserError(
            f"{path} is a broken archive ({type(error).__name__}): fetch it again."
        ) from None
    for name in wanted:
        raise UserError(f"{path} holds no {name}: fetch it again.")
    return images, labels


class Bounded(io.RawIOBase):
    """Stream that ends after `limit` bytes, so that larger archives cannot exhaust memory.

    The end is reported once as an empty read, and by EOFError afterwards: tarfile would otherwise
    seek through a terabyte that a header declares in empty reads.
    """

    def __init__(self, stream, limit: int):
        self.stream, self.left, self.ended = stream, limit, False

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes; raise EOFError after the end was reported."""
        if self.ended:
            raise EOFError("read beyond the end")
        chunk = self.stream.read(min(size, self.left) if size >= 0 else self.left)
        self.left -= len(chunk)
        self.ended = not chunk
        return chunk


def room(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return empty arrays for the images and labels of a split."""
    N = RECORDS * len(SPLITS[split])
    return allocate((N, *SHAPE[1:], SHAPE[0]), NAME), np.zeros(N, np.int64)


def parse(body: bytes, path: Path, images: np.ndarray, labels: np.ndarray, i: int) -> None:
    """Copy the records of the i-th file of a split into `images` and `labels`.

        record = label, then x[c,h,w] as bytes, w fastest

    Raises UserError for a file of another size or with a label above 9.
    Source: https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    if len(body) != RECORDS * RECORD:
        raise UserError(
            f"{path} does not hold {RECORDS} records of {RECORD} bytes: give the binary "
            "version of CIFAR-10."
        )
    records, here = (
        np.frombuffer(body, np.uint8).reshape(RECORDS, RECORD),
        slice(i * RECORDS, (i + 1) * RECORDS),
    )
    if records[:, 0].max() >= CLASSES:
        raise UserError(
            f"{path} holds the label {records[:, 0].max()}: give the binary version of "
            "CIFAR-10, with 0 to 9."
        )
    labels[here] = records[:, 0]
    images[here] = records[:, 1:].reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
