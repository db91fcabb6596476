"""Checkpoints: files from which a run goes on as if it had never stopped.

checkpoints/step_NNNNNN.safetensors holds arrays, and in its metadata the `facts` as JSON with a SHA-256 of both. Each is written
beside its name, synced and renamed, so that a name always stands for a whole file.
"""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rawgan.errors import UserError
from rawgan.training.run import sync_folder, write_whole

NAME = re.compile(r"step_(\d{6,18})\.safetensors")


def checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints of a run by step, in order."""
    folder = run / "checkpoints"
    found = {int(match[1]): path for path in folder.glob("step_*.safetensors") if (match := NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def save_checkpoint(run: Path, step: int, arrays: dict[str, np.ndarray], facts: dict, keep: int) -> Path:
    """Writes a checkpoint; then of older ones only the last keep - 1 stay. Raises UserError where it cannot be written."""
    folder = run / "checkpoints"
    try:
        if not folder.is_dir():
            folder.mkdir()
            sync_folder(run)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}") from error
    path, text = folder / f"step_{step:06}.safetensors", json.dumps(facts)
    write_whole(path, save(arrays, {"facts": text, "sha256": checksum(arrays, text)}))
    older = [old for at, old in checkpoints(run).items() if at < step]
    for old in older[: max(len(older) - keep + 1, 0)]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the facts. Raises UserError unless the file is whole to the last bit.

    No more memory is taken than the file is large: its header is checked against its length before an array is made.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            text, digest = metadata["facts"], metadata["sha256"]
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if checksum(arrays, text) != digest:
            raise ValueError("its checksum is another")
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise ValueError("its facts are none")
    except KeyError as error:
        raise UserError(f"{path} is no checkpoint: its header names no {error}") from error
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): move it away, and the run goes on from the one before") from error
    return arrays, facts


def checksum(arrays: dict[str, np.ndarray], text: str) -> str:
    """SHA-256 of the facts and of every array with its name, dtype and shape, as hexadecimal digits."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        digest.update(f"\0{name}\0{a.dtype.str}\0{a.shape}\0".encode())
        digest.update(a.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def one_line(error: BaseException) -> str:
    """What an error says, on one line of moderate length."""
    return " ".join(str(error)[:200].split()) or type(error).__name__
