"""Checkpoints: files from which a run continues to the same bits as without the stop.

checkpoints/step_NNNNNN.safetensors holds the arrays; its metadata the state as JSON, under "state"
("facts" in files of earlier versions), and a SHA-256 of both. A file is written under a temporary
name, synced and renamed, so that a checkpoint is always complete.
"""

import hashlib
import json
import re
import zlib
from pathlib import Path

import numpy as np

from rawgan.data import Images
from rawgan.errors import UserError, reason
from rawgan.files import Unreadable, kind, load_arrays, save_arrays, sync_folder, write_whole

NAME = re.compile(r"step_(\d{6,18})\.safetensors")


def checkpoints(run: Path) -> dict[int, Path]:
    """Return the checkpoints of a run by step, in order.

    Raises UserError where checkpoints/ is a link, or anything but a folder.
    """
    folder = run / "checkpoints"
    if (actual := kind(folder)) not in (None, "a folder"):
        raise UserError(f"{folder} is {actual}: put the folder with the checkpoints in its place")
    try:
        paths = [*folder.iterdir()] if actual else []
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {reason(error)}") from error
    matches = ((NAME.fullmatch(path.name), path) for path in paths)
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def save_checkpoint(
    run: Path, step: int, arrays: dict[str, np.ndarray], state: dict, keep: int
) -> Path:
    """Write a checkpoint, then delete all older ones but the last keep - 1; return its path.

    Raises UserError where it cannot be written.
    """
    folder = run / "checkpoints"
    try:
        if kind(folder) is None:
            folder.mkdir()
            sync_folder(run)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {reason(error)}") from error
    older = [old for at, old in checkpoints(run).items() if at < step]
    path, text = folder / f"step_{step:06}.safetensors", json.dumps(state, sort_keys=True)
    write_whole(path, save_arrays(arrays, {"state": text, "sha256": checksum(arrays, text)}))
    for old in older[: max(len(older) - keep + 1, 0)]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return the arrays and the state. Raises UserError unless the checksum is right.

    A damaged header cannot make it allocate more memory than the file has bytes.
    """
    try:
        arrays, metadata = load_arrays(path)
        text, digest = metadata["facts" if "facts" in metadata else "state"], metadata["sha256"]
        if checksum(arrays, text) != digest:
            raise ValueError("its checksum is another")
        state = json.loads(text)
        if not isinstance(state, dict):
            raise ValueError("its state is no JSON object")
    except KeyError as error:
        raise UserError(f"{path} is no checkpoint: its header names no {error}") from error
    except (Unreadable, ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{path} is damaged ({reason(error)}): move it away, "
            "and the run goes on from the one before"
        ) from error
    return arrays, state


def checksum(arrays: dict[str, np.ndarray], text: str) -> str:
    """Return the SHA-256 in hex of the state's text and of every array, name, dtype and shape."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        digest.update(f"\0{name}\0{a.dtype.str}\0{a.shape}\0".encode())
        digest.update(a.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def former_identity(saved: dict) -> object:
    """Return the identity in a checkpoint's state.

    Earlier versions called it "of", and its images "pictures".
    """
    identity = saved.get("identity", saved.get("of"))
    if isinstance(identity, dict) and "pictures" in identity:
        identity = {"images" if key == "pictures" else key: a for key, a in identity.items()}
    return identity


def fingerprint(images: Images) -> list[int]:
    """Return the number of images and a checksum of them and their labels."""
    checksum = zlib.crc32(images.images)
    if images.labels is not None:
        checksum = zlib.crc32(np.ascontiguousarray(images.labels), checksum)
    return [len(images), checksum]
