"""Data set in a .npy file, or with labels in a .npz file."""

import io
import os
import warnings
import zipfile
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rawgan.data.images import LIMIT, MAX_SIZE, NoTestSplit
from rawgan.errors import UserError, reason

HEAD = 1 << 14  # bytes; larger than every header that NumPy reads
CHUNK = 1 << 20  # bytes read at a time: memory grows with the content, not the declared size
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# names of the arrays of images and labels in a .npz file, by split
NAMES = {
    "train": (
        ("train_images", "train_labels"),
        ("x_train", "y_train"),
        ("X_train", "y_train"),
        ("images", "labels"),
        ("image", "label"),
        ("x", "y"),
        ("X", "y"),
        ("data", "labels"),
        ("data", "target"),
        ("arr_0", "arr_1"),
    ),
    "test": (
        ("test_images", "test_labels"),
        ("x_test", "y_test"),
        ("X_test", "y_test"),
        ("val_images", "val_labels"),
        ("x_val", "y_val"),
        ("X_val", "y_val"),
    ),
}


def read_npy(path: Path) -> np.ndarray:
    """Return the pictures uint8 (N, H, W, C), C 1 or 3, of a .npy file.

    The file holds uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3). Raises UserError for any other
    content. Nothing in the file is executed, and memory is allocated only after the size of the
    file has been checked against its header. Source: NumPy's format note, NEP 1.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path} is not there or not a file: give a .npy file.")
    try:
        with open(path, "rb") as file:
            shape, fortran, dtype, start = header(file.read(HEAD), path)
            check(shape, dtype, path)
            count, held = prod(shape), os.fstat(file.fileno()).st_size - start
            if held != count:
                text = " x ".join(map(str, shape))
                raise UserError(f"{path} declares {text} bytes but holds {held}: save it again.")
            file.seek(start)
            flat = np.fromfile(file, np.uint8, count)
    except MemoryError:
        raise UserError(f"{path} does not fit in memory: give a smaller data set.") from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): check its permissions."
        ) from None
    images = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return np.ascontiguousarray(images if len(shape) == 4 else images[..., None])


def peek_npy(path: Path) -> tuple[int, ...]:
    """Return the shape of a .npy file, of which only the header is read. Raises UserError."""
    try:
        with open(path, "rb") as file:
            shape, _, dtype, _ = header(file.read(HEAD), path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}): check its permissions."
        ) from None
    check(shape, dtype, path)
    return shape


def read_npz(path: Path, split: str = "train") -> tuple[np.ndarray, np.ndarray | None]:
    """Return pictures as read_npy, and labels (N,), integers or texts, or None, of a .npz file.

    The arrays have names of NAMES, such as images and labels, or x_train and y_train. Raises
    NoTestSplit where the file has no arrays of that split, and UserError for any other content.
    Nothing is executed or unpacked, and memory grows with the content, not with declared sizes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            images_name, labels_name = members(archive, path, split)
            images = read_member(archive, images_name, path)
            check(images.shape, images.dtype, f"{images_name} in {path}")
            labels = None
            if labels_name in archive.namelist():
                labels = read_member(archive, labels_name, path)
    except MemoryError:
        raise UserError(f"{path} does not fit in memory: give a smaller data set.") from None
    except UserError:
        raise
    except Exception as error:  # zipfile and zlib raise many types for a broken archive
        raise UserError(
            f"{path} is no readable .npz file ({reason(error)}): write it with numpy.savez."
        ) from None
    images = np.ascontiguousarray(images if images.ndim == 4 else images[..., None])
    if labels is None:
        return images, None
    if (
        labels.dtype.kind not in "iubU"
        or labels.size != len(images)
        or labels.shape[0] != len(images)
    ):
        raise UserError(
            f"{labels_name} in {path} holds {str(labels.dtype)[:40]} {str(labels.shape)[:80]}: "
            f"give {len(images)} integers or texts, one for each picture."
        )
    return images, labels.reshape(-1)


def peek_npz(path: Path) -> tuple[tuple[int, ...], bool]:
    """Return the shape of the training pictures in a .npz file, and whether it has their labels.

    Only headers are read. Raises UserError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            images_name, labels_name = members(archive, path, "train")
            with archive.open(images_name) as file:
                shape, _, dtype, _ = header(file.read(HEAD), path)
            labelled = labels_name in archive.namelist()
    except UserError:
        raise
    except Exception as error:  # as in read_npz
        raise UserError(
            f"{path} is no readable .npz file ({reason(error)}): write it with numpy.savez."
        ) from None
    check(shape, dtype, path)
    return shape, labelled


def members(archive: zipfile.ZipFile, path: Path, split: str) -> tuple[str, str]:
    """Return the names of the members that hold the images and the labels of a split."""
    present = archive.namelist()
    for images, labels in NAMES[split]:
        if f"{images}.npy" in present:
            return f"{images}.npy", f"{labels}.npy"
    if split == "test":
        raise NoTestSplit(
            f"{path} has no split 'test', such as arrays x_test and y_test: load the file of the "
            "test pictures."
        )
    held = ", ".join(name.removesuffix(".npy")[:40] for name in present[:8]) or "nothing"
    raise UserError(
        f"{path} holds {held}: name the array of pictures images, and that of labels labels."
    )


def read_member(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    """Return the array in a member of a .npz file; its dtype holds no Python objects."""
    with archive.open(name) as file:
        head = file.read(HEAD)
        shape, fortran, dtype, start = header(head, path)
        if dtype.hasobject or dtype.names or min(shape, default=1) < 0:
            raise UserError(f"{name} in {path} holds {str(dtype)[:40]}: give numbers or texts.")
        count = prod(shape) * dtype.itemsize
        if not 0 < count <= LIMIT:
            raise UserError(
                f"{name} in {path} declares {count} bytes, where 1 to {LIMIT} can be used: save it "
                "again."
            )
        body = read_up_to(file, bytearray(head[start:]), count + 1)
    if len(body) != count:
        rest_of = "more" if len(body) > count else len(body)
        raise UserError(
            f"{name} in {path} declares {count} bytes but holds {rest_of}: save it again."
        )
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


def read_up_to(file: BinaryIO, body: bytearray, count: int) -> bytearray:
    """Append to `body` from a file until it has `count` bytes, or the file ends."""
    while len(body) < count and (chunk := file.read(min(CHUNK, count - len(body)))):
        body += chunk
    return body


def header(head: bytes, path: Path) -> tuple[tuple, bool, np.dtype, int]:
    """Return (shape, Fortran order, dtype, offset of the data) from the first bytes of a .npy file.

    Parses these bytes only, because a header may claim a length of 4 GiB, and reading it from the
    file would allocate that much.
    """
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers written by Python 2, which are valid
            return *READERS[version](file), file.tell()
    except Exception as error:  # NumPy's parser raises many types for a broken header
        raise UserError(
            f"{path} is no readable .npy file ({type(error).__name__}): write it with numpy.save."
        ) from None


def check(shape: tuple, dtype: np.dtype, path: Path | str) -> None:
    """Raise UserError unless shape and dtype are those of pictures."""
    if dtype != np.uint8:
        raise UserError(f"{path} holds {str(dtype)[:40]}: give uint8, 0 to 255.")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise UserError(
            f"{path} holds an array of shape {str(shape)[:80]}: give (N, H, W), (N, H, W, 1) "
            "or (N, H, W, 3)."
        )
    if min(shape) < 1 or max(shape[1:3]) > MAX_SIZE or prod(shape) > LIMIT:
        raise UserError(
            f"{path} holds an array of shape {shape}: give 1 to {MAX_SIZE} pixels a side, "
            f"{LIMIT} bytes at most."
        )
