"""Fuzzing of data files: each is read or refused with a UserError, in bounded memory.

Nothing is written. The mutations are seeded. `pytest -m slow tests/data/test_fuzz_data.py` reads
100,000 of each kind.
"""

import gzip
import io
import tarfile
import tracemalloc

import numpy as np
import pytest

from rawgan.data import array, cifar, idx, load
from rawgan.errors import UserError
from tests.support.data_files import files, idx_bytes
from tests.support.file_faults import counts_of_child, replace

RECORDS = 2
MEMORY = 4 << 20  # bytes; the largest undamaged file has 40 KB
GROWTH = 64 << 20  # growth of resident memory in bytes that all mutations of a kind may cause
EDGES = [0, 1, 2, 3, 7, 8, 9, 10, 31, 32, 48, 55, 127, 128, 254, 255]
TYPES = [b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S", b"X", b"?"]
PAX = [
    b"20 size=99999999999\n",
    b"17 path=../../x\n",
    b"22 GNU.sparse.major=1\n",
    b"9 a=\xff\xfe\n",
    b"99999999 x=y\n",
    b"0 =\n",
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(cifar, "RECORDS", RECORDS)
    monkeypatch.setattr(cifar, "SLACK", 1 << 16)


def mutated(rng, body: bytes) -> bytes:
    """Apply one to five mutations to the bytes, mostly in the header.

    A byte or a range is set, cut off, inserted, deleted or repeated.
    """
    body = bytearray(body)
    for _ in range(rng.integers(1, 6)):
        at = (
            int(rng.integers(min(len(body), 80) if rng.random() < 0.7 else len(body)))
            if body
            else 0
        )
        end = at + int(rng.integers(1, 20))
        match rng.integers(6):
            case 0:
                body[at : at + 1] = bytes([int(rng.integers(256))])
            case 1:
                body[at : at + 1] = bytes([EDGES[rng.integers(len(EDGES))]])
            case 2 if rng.random() < 0.3:
                del body[at:]
            case 3:
                del body[at:end]
            case 4:
                body[at:at] = rng.bytes(end - at)
            case 5:
                body[at:at] = body[at:end]
    return bytes(body)


def maybe_zipped(rng, body: bytes) -> bytes:
    """Mutate a file without compression, before compression or after it."""
    match rng.integers(3):
        case 0:
            return mutated(rng, body)
        case 1:
            return gzip.compress(mutated(rng, body), 1)
        case _:
            return mutated(rng, gzip.compress(body, 1))


def records(rng) -> bytes:
    body = rng.integers(0, 256, (RECORDS, cifar.RECORD), dtype=np.uint8)
    body[:, 0] %= 10
    return body.tobytes()


def tarred(rng) -> bytes:
    """Return an archive with some invalid members and valid checksums."""
    out = io.BytesIO()
    for name in cifar.SPLITS["train"]:
        if rng.random() < 0.3:
            info = tarfile.TarInfo("././@LongLink" if rng.random() < 0.5 else "../outside")
            info.type, body = (
                TYPES[rng.integers(len(TYPES))],
                b"".join(PAX[i] for i in rng.integers(len(PAX), size=rng.integers(4))),
            )
            info.size = (
                len(body)
                if rng.random() < 0.7
                else int(rng.integers(1 << int(rng.integers(1, 40))))
            )
            out.write(info.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512))
        info = tarfile.TarInfo(cifar.INSIDE + name)
        info.size = RECORDS * cifar.RECORD
        if rng.random() < 0.1:
            info.type = TYPES[rng.integers(len(TYPES))]
        if rng.random() < 0.1:
            info.size = int(rng.integers(1 << int(rng.integers(1, 40))))
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        out.write(records(rng) + bytes(-RECORDS * cifar.RECORD % 512))
    return out.getvalue() + bytes(1024)


def npy(rng) -> bytes:
    out = io.BytesIO()
    shape = [(3, 4, 5), (3, 4, 4, 3), (2, 4, 5, 1)][rng.integers(3)]
    np.save(out, np.zeros(shape, np.uint8, order="CF"[rng.integers(2)]))
    return out.getvalue()


def read_cifar_folder(path):
    """Read the file as the only one of the test split."""
    return cifar.read_folder(path.parent, "test")


KINDS = {
    "idx": (
        "x",
        lambda rng: maybe_zipped(rng, idx_bytes(np.zeros((3, 4, 5), np.uint8))),
        lambda path: idx.read_idx(path, 3),
    ),
    "labels": (
        "x",
        lambda rng: maybe_zipped(rng, idx_bytes(np.zeros(7, np.uint8))),
        lambda path: idx.read_idx(path, 1),
    ),
    "npy": ("x.npy", lambda rng: mutated(rng, npy(rng)), array.read_npy),
    "npy as data": (
        "x.npy",
        lambda rng: mutated(rng, npy(rng)),
        lambda path: load(str(path), size=4, channels=1).images,
    ),
    "cifar file": ("test_batch.bin", lambda rng: mutated(rng, records(rng)), read_cifar_folder),
    "cifar archive": (
        "x",
        lambda rng: maybe_zipped(rng, tarred(rng)),
        lambda path: cifar.read_archive(path, "train"),
    ),
}


def fuzz(tmp_path, monkeypatch, kind, n):
    """Read n mutations of one kind; return how many were read and how many were refused."""
    name, make, read = KINDS[kind]
    path = tmp_path / "data" / name
    path.parent.mkdir()
    monkeypatch.chdir(path.parent)
    rng, counts = np.random.default_rng(7), [0, 0]
    tracemalloc.start()
    try:
        for i in range(n):
            replace(path, make(rng))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                got = read(path)
            except UserError as error:
                assert len(str(error).splitlines()) == 1, f"mutation {i}"
                counts[1] += 1
            else:
                assert (got if isinstance(got, np.ndarray) else got[0]).dtype == np.uint8, (
                    f"mutation {i}"
                )
                counts[0] += 1
            assert tracemalloc.get_traced_memory()[1] - before < MEMORY, f"mutation {i}"
    finally:
        tracemalloc.stop()
    assert set(files(tmp_path)) - {"log"} == {name}
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_are_read_or_refused(tmp_path, monkeypatch, kind):
    read, refused = fuzz(tmp_path, monkeypatch, kind, 500)
    assert read + refused == 500 and refused > 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_more_broken_files_are_read_or_refused(tmp_path, monkeypatch, kind, figures):
    def work():
        return dict(zip(("read", "refused"), fuzz(tmp_path, monkeypatch, kind, 100_000)))

    counts_of_child(work, tmp_path / "log", figures)
    assert figures.growth < GROWTH
