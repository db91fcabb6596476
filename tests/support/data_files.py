"""Files in the formats that rawgan reads, and a check of error messages, for tests of data sets."""

import re
import struct

import numpy as np

from rawgan.data import idx


def one_sentence(error, *words):
    """Assert that the message is one line that ends in a full stop and contains the words."""
    message = str(error.value)
    assert re.fullmatch(r"[^\n]+: [^\n]+\.", message), message
    for word in words:
        assert str(word) in message
    return True


def idx_bytes(array, kind=8):
    return (
        bytes([0, 0, kind, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def pictures(rng, N=12, H=28, W=28):
    return rng.integers(0, 256, (N, H, W), dtype=np.uint8)


def write_set(path, images, labels, stems=idx.STEMS["train"], spelling=str, pack=bytes, suffix=""):
    path.mkdir(parents=True, exist_ok=True)
    for stem, array in zip(stems, (images, labels)):
        (path / (spelling(stem) + suffix)).write_bytes(pack(idx_bytes(np.asarray(array, np.uint8))))


def files(path):
    return sorted(p.name for p in path.rglob("*") if p.is_file())
