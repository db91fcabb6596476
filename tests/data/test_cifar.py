"""CIFAR-10: exact reading, no extraction to disk, and one sentence for every error."""

import gzip
import io
import tarfile
import tracemalloc
from hashlib import sha256

import numpy as np
import pytest

from rawgan.data import cifar, load
from rawgan.errors import UserError
from tests.support.data_files import files, one_sentence

RECORDS = 20


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Use files of 20 images instead of 10,000, and a separate cache."""
    monkeypatch.setattr(cifar, "RECORDS", RECORDS)
    monkeypatch.setattr(cifar, "SLACK", 1 << 16)
    monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "cache"))


def batch(i):
    """Return the bytes of file i, and the images and labels in it."""
    rng = np.random.default_rng(i)
    images = rng.integers(0, 256, (RECORDS, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, RECORDS)
    planes = images.transpose(0, 3, 1, 2).reshape(RECORDS, -1)
    return np.concatenate([labels[:, None].astype(np.uint8), planes], 1).tobytes(), images, labels


def contents():
    names = [name for names in cifar.SPLITS.values() for name in names]
    return {name: batch(i)[0] for i, name in enumerate(names)}


def archive(members, prefix=cifar.INSIDE, change=lambda info: None):
    """Write a .tar.gz with these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(body)
            change(info)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def cached(tmp_path, monkeypatch, data):
    """Write the archive to the cache as if it were the published one."""
    path = tmp_path / "cache" / cifar.NAME / cifar.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    monkeypatch.setattr(cifar, "SHA256", sha256(data).hexdigest())
    return path


def check(got, which):
    want = [batch(i) for i in which]
    np.testing.assert_array_equal(got.images, np.concatenate([images for _, images, _ in want]))
    np.testing.assert_array_equal(got.labels, np.concatenate([labels for _, _, labels in want]))
    assert got.images.flags.c_contiguous and got.labels.dtype == np.int64


def test_the_archive_in_the_cache(tmp_path, monkeypatch):
    path = cached(tmp_path, monkeypatch, archive(contents() | {"readme.html": b"hello"}))
    check(load("cifar10"), range(5))
    check(load("cifar10", split="test"), [5])
    assert load("cifar10").source == str(path)
    assert files(tmp_path) == [cifar.FILE], "nothing is unpacked"


def test_a_folder_of_its_files(tmp_path):
    for name, body in contents().items():
        (tmp_path / name).write_bytes(body)
    check(load(str(tmp_path)), range(5))
    check(load(str(tmp_path), split="test"), [5])
    assert load(str(tmp_path), size=64).images.shape == (100, 64, 64, 3)


def test_gray_is_pillows(tmp_path):
    from PIL import Image

    for name, body in contents().items():
        (tmp_path / name).write_bytes(body)
    got = load(str(tmp_path), channels=1).images
    want = [np.asarray(Image.fromarray(image).convert("L")) for image in load(str(tmp_path)).images]
    np.testing.assert_array_equal(got[..., 0], want)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda b: b[:-1], ["20 records"]),
        (lambda b: b + b"\0", ["20 records"]),
        (lambda b: b"", ["20 records"]),
        (lambda b: b"\x0a" + b[1:], ["label 10", "0 to 9"]),
    ],
)
def test_a_broken_file_is_named(tmp_path, spoil, words):
    for name, body in contents().items():
        (tmp_path / name).write_bytes(spoil(body) if name == "data_batch_3.bin" else body)
    with pytest.raises(UserError) as error:
        load(str(tmp_path))
    assert one_sentence(error, tmp_path / "data_batch_3.bin", *words)


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(batch(0)[0])
    with pytest.raises(UserError) as error:
        load(str(tmp_path))
    assert one_sentence(error, tmp_path / "data_batch_2.bin", "No such file")


def symbolic(info):
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0


BROKEN = {
    "a member missing": (lambda: archive(dict(list(contents().items())[1:])), "data_batch_1.bin"),
    "outside its folder": (lambda: archive(contents(), prefix="../"), "data_batch_1.bin"),
    "an absolute path": (lambda: archive(contents(), prefix="/tmp/"), "data_batch_1.bin"),
    "a link": (lambda: archive(contents(), change=symbolic), "data_batch_1.bin"),
    "another size": (
        lambda: archive({name: body[:-1] for name, body in contents().items()}),
        "data_batch_1.bin",
    ),
    "8 GiB declared": (
        lambda: gzip.compress(header("data_batch_1.bin", 8 << 30)),
        "data_batch_1.bin",
    ),
    "a terabyte to seek through": (
        lambda: gzip.compress(header("other.bin", 1 << 40)),
        "broken archive",
    ),
    "cut short": (lambda: archive(contents())[:100_000], "broken archive"),
    "no gzip": (lambda: b"hello" * 100, "broken archive"),
    "no tar": (lambda: gzip.compress(b"hello" * 1000), "broken archive"),
    "long names without end": (lambda: gzip.compress(longnames(60)), "broken archive"),
    "a bomb behind a long name": (
        lambda: gzip.compress(longname(1 << 28) + bytes(1 << 28), 1),
        "broken archive",
    ),
}


def header(name, size):
    info = tarfile.TarInfo(cifar.INSIDE + name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def longname(size):
    """Return the tar header that announces a name of so many bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf(tarfile.GNU_FORMAT)


def longnames(n):
    return (longname(1) + bytes(512)) * n


@pytest.mark.parametrize("make, word", BROKEN.values(), ids=BROKEN)
def test_a_broken_archive_is_named_in_bounded_memory(tmp_path, monkeypatch, make, word):
    path = cached(tmp_path, monkeypatch, make())
    tracemalloc.start()
    with pytest.raises(UserError) as error:
        load("cifar10")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert one_sentence(error, path, word)
    assert files(tmp_path) == [cifar.FILE]
    assert peak < 4 << 20


def test_a_corrupt_cache_is_said_and_kept(tmp_path, monkeypatch):
    path = cached(tmp_path, monkeypatch, archive(contents()))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as error:
        load("cifar10")
    assert one_sentence(error, path, "delete it") and path.exists()
