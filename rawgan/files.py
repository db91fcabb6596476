"""Read untrusted files and write files atomically: those of a run and of the cache.

A run folder may come from anybody. Nothing in it is read or written through a link, nothing but
regular files is opened (a FIFO would block, /dev/zero never end), and no file is read beyond a
limit.
"""

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from rawgan.errors import UserError, reason

TEXT = 1 << 20  # bytes of a file of text or JSON
ARRAYS = 8 << 30  # bytes of a file of arrays: no network here has more
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link",
}


class Unreadable(ValueError):
    """A file cannot be read; the message is a reason that can follow the path."""


def kind(path: Path) -> str | None:
    """Return "a file", a value of KINDS, or None for no file; links are not followed."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return None
    return KINDS.get(stat.S_IFMT(mode), "a file")


def check_regular(info: os.stat_result, limit: int) -> None:
    """Raise Unreadable unless `info` is of a regular file of at most `limit` bytes."""
    if not stat.S_ISREG(info.st_mode):
        raise Unreadable(
            f"it is {KINDS.get(stat.S_IFMT(info.st_mode), 'something else')}, not a file"
        )
    if info.st_size > limit:
        raise Unreadable(f"it is larger than {limit >> 20} MiB")


def open_file(path: Path, limit: int, follow: bool = False) -> BinaryIO:
    """Open a regular file of at most `limit` bytes to read; follow links only with `follow`.

    Raises Unreadable.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    try:
        # before it is opened, which some devices react to
        check_regular(os.stat(path, follow_symlinks=follow), limit)
        file = open(path, "rb", opener=lambda name, _: os.open(name, flags))
    except Unreadable:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte in it
        raise Unreadable(reason(error)) from error
    try:
        check_regular(os.fstat(file.fileno()), limit)
    except Unreadable:
        file.close()
        raise
    return file


def read_file(path: Path, limit: int, follow: bool = False) -> bytes:
    """Return the content of a file; arguments as in open_file. Raises Unreadable."""
    with open_file(path, limit, follow) as file:
        try:
            content = file.read(limit + 1)
        except (OSError, MemoryError) as error:
            raise Unreadable(reason(error)) from error
    if len(content) > limit:
        raise Unreadable(f"it is larger than {limit >> 20} MiB")
    return content


def read_json(path: Path, limit: int = TEXT, follow: bool = False) -> dict:
    """Return the object in a JSON file. Raises Unreadable for every other file."""
    try:
        content = json.loads(read_file(path, limit, follow))
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is no JSON: {reason(error)}") from error
    if not isinstance(content, dict):
        raise Unreadable("it holds no JSON object")
    return content


def load_arrays(path: Path, follow: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file. Raises Unreadable for any other.

    Arrays of bfloat16 are returned as float32.

    The library checks the header against the file's length before it allocates an array, so a bad
    header cannot make it allocate more memory than the file has bytes.
    """
    from safetensors import (  # here and below: what writes no arrays needs no safetensors
        safe_open,
    )

    open_file(path, ARRAYS, follow).close()
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            halves = {n for n in names if file.get_slice(n).get_dtype() == "BF16"}
            arrays = {n: file.get_tensor(n) for n in names if n not in halves}
            metadata = file.metadata() or {}
        return arrays | (load_bfloat16(path, halves, follow) if halves else {}), metadata
    except Exception as error:  # safetensors raises many classes for a bad header or dtype
        raise Unreadable(reason(error)) from error


def load_bfloat16(path: Path, names: set[str], follow: bool) -> dict[str, np.ndarray]:
    """Return arrays of bfloat16, of which NumPy has no type, as float32: no bit is lost.

    A bfloat16 is the upper half of a float32.
    """
    from safetensors import deserialize

    arrays = {}
    for name, about in deserialize(read_file(path, ARRAYS, follow)):
        if name in names:
            half = np.frombuffer(about["data"], "<u2").astype(np.uint32)
            arrays[name] = (half << 16).view(np.float32).reshape(about["shape"])
    return arrays


def save_arrays(arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Return a safetensors file of the arrays: the same bytes for the same arrays and metadata.

    The library writes the entries of its header in any order, so they are sorted here.
    """
    from safetensors.numpy import save

    content = save(arrays, metadata)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[8 + length :]))


def temporary_name(name: str) -> str:
    """Return a random name for a file that will be renamed to `name`; long names are cut."""
    return f"{os.fsdecode(os.fsencode(name)[:200])}.{secrets.token_hex(8)}.part"


def write_whole(path: Path, *content: bytes | memoryview) -> None:
    """Write a file atomically: under a random temporary name in its folder, synced, then renamed.

    content: written one after the other.

    The temporary file is created exclusively, so no link is followed and no other writer's file is
    used. Raises UserError, leaving no temporary file, where the file cannot be written.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        try:
            with open(temporary, "xb") as file:  # O_EXCL: fails for any existing name, also a link
                for part in content:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason(error)}") from error


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, on POSIX systems."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder inside; the system releases it when the process ends.

    wait: wait while another process has it; else raise UserError. It does nothing on systems and
    file systems that cannot lock folders.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {folder}: wait for its end, or stop it"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        yield
    finally:
        os.close(descriptor)
