"""A NumPy array in a file, as a data set."""

import io
import os
import warnings
from math import prod
from pathlib import Path

import numpy as np

from rawgan.data.images import LIMIT, MAX_SIZE
from rawgan.errors import UserError

HEAD = 1 << 14  # bytes, in which every header that NumPy reads has its place
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy(path: Path) -> np.ndarray:
    """The pictures uint8 (N, H, W, C), C 1 or 3, of a .npy file that holds uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3).

    Raises UserError for everything else. Nothing in the file is executed, and nothing is allocated before the file is seen to hold
    what its header declares. Source: NumPy's format note, NEP 1.
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
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions.") from None
    images = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return np.ascontiguousarray(images if len(shape) == 4 else images[..., None])


def header(head: bytes, path: Path) -> tuple[tuple, bool, np.dtype, int]:
    """(shape, whether the first index is fastest, dtype, where the data start) from the first bytes of the file.

    From those alone: a file that is asked for the 4 GiB which a header may claim to be long makes room for them first.
    """
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers as Python 2 wrote them, which are read all the same
            return *READERS[version](file), file.tell()
    except Exception as error:  # a broken header makes the parser behind NumPy's raise nearly anything
        raise UserError(f"{path} is no readable .npy file ({type(error).__name__}): write it with numpy.save.") from None


def check(shape: tuple, dtype: np.dtype, path: Path) -> None:
    """Raises UserError unless the header is that of pictures."""
    if dtype != np.uint8:
        raise UserError(f"{path} holds {str(dtype)[:40]}: give uint8, 0 to 255.")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise UserError(f"{path} holds an array of shape {str(shape)[:80]}: give (N, H, W), (N, H, W, 1) or (N, H, W, 3).")
    if min(shape) < 1 or max(shape[1:3]) > MAX_SIZE or prod(shape) > LIMIT:
        raise UserError(f"{path} holds an array of shape {shape}: give 1 to {MAX_SIZE} pixels a side, {LIMIT} bytes at most.")
