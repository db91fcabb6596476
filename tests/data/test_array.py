"""A .npy file as a data set."""

import os
import pickle
import struct
import tracemalloc
import warnings

import numpy as np
import pytest

from rawgan.data import NoTestSplit, load
from rawgan.errors import UserError
from tests.support.data_files import one_sentence


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 1), (5, 8, 8, 3), (1, 4, 6)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_was_saved_is_loaded(tmp_path, rng, shape, order):
    want = rng.integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "mine.npy", np.array(want, order=order))
    got = load(str(tmp_path / "mine.npy"))
    np.testing.assert_array_equal(got.images, want.reshape(*shape[:3], -1))
    assert got.images.flags.c_contiguous and got.labels is None and got.name == "mine"


def test_size_and_channels(tmp_path, rng):
    want = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", want)
    got = load(str(tmp_path / "x.npy"), size=12, channels=3).images
    np.testing.assert_array_equal(
        got, np.pad(want, ((0, 0), (2, 2), (2, 2)))[..., None].repeat(3, 3)
    )


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("executed",)


REFUSED = {
    "pickle": (lambda: np.array([Bomb()], dtype=object), "object"),
    "floats": (lambda: np.zeros((2, 4, 4)), "float64"),
    "two channels": (lambda: np.zeros((2, 4, 4, 2), np.uint8), "(2, 4, 4, 2)"),
    "one picture": (lambda: np.zeros((4, 4), np.uint8), "(4, 4)"),
    "none": (lambda: np.zeros((0, 4, 4), np.uint8), "(0, 4, 4)"),
    "too wide": (lambda: np.zeros((1, 1, 5000), np.uint8), "4096"),
    "named fields": (lambda: np.zeros((1, 4, 4), [("中", np.uint8)]), "readable"),
}


@pytest.mark.parametrize("make, word", REFUSED.values(), ids=REFUSED)
def test_another_array_is_refused(tmp_path, monkeypatch, make, word):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of a format that old versions do not read
        np.save("x.npy", make(), allow_pickle=True)
    with pytest.raises(UserError) as error:
        load("x.npy")
    assert one_sentence(error, "x.npy", word) and os.listdir() == ["x.npy"]


def declared(shape, body=b"", descr="|u1"):
    """Write a file with an arbitrary header."""
    head = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


BROKEN = {
    "empty": b"",
    "a pickle": pickle.dumps([1, 2]),
    "version 9": b"\x93NUMPY\x09\x00" + bytes(100),
    "cut in the header": declared((2, 4, 4))[:40],
    "no literal": b"\x93NUMPY\x01\x00\x10\x00" + b"__import__('os')",
    "too short": declared((2, 4, 4), bytes(31)),
    "too long": declared((2, 4, 4), bytes(33)),
    "a petabyte": declared((2**30, 1024, 1024), bytes(8)),
    "two gigabytes": declared((2**9, 2048, 2048), bytes(8)),
    "negative": declared((-2, 4, 4), bytes(32)),
    "a truth for a size": declared((True, 4, 4), bytes(15)),
    "a header of 3 GiB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 3 << 30) + b"{" * 1000,
    "nested": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named(tmp_path, body):
    path = tmp_path / "x.npy"
    path.write_bytes(body)
    tracemalloc.start()
    with pytest.raises(UserError) as error:
        load(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert one_sentence(error, path) and peak < 4 << 20


def test_there_is_no_test_split(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(NoTestSplit) as error:
        load(str(tmp_path / "x.npy"), split="test")
    assert one_sentence(error, "x.npy")
