"""The cache of decoded pictures: by path, names, sizes and times; checked and bounded."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from rawgan.data import decoded, folder, load
from rawgan.errors import UserError
from tests.support.data_files import one_sentence


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Cache everything, however quickly it was decoded; return the cache's folder."""
    monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "WORTH", 0)
    return tmp_path / "cache" / "pictures"


@pytest.fixture
def pictures(tmp_path, rng):
    root = tmp_path / "mine"
    root.mkdir()
    for n in range(6):
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(root / f"{n}.png")
    return root


@pytest.fixture
def decodes(monkeypatch):
    """Return a list that grows by one whenever pictures are decoded."""
    calls, original = [], folder.decode_all
    monkeypatch.setattr(folder, "decode_all", lambda *args: calls.append(args) or original(*args))
    return calls


def test_the_second_start_decodes_nothing(cache, pictures, decodes):
    first, second = load(str(pictures), 8), load(str(pictures), 8)
    assert len(decodes) == 1 and len(list(cache.iterdir())) == 1
    np.testing.assert_array_equal(first.images, second.images)
    assert (first.source, first.notes, first.name) == (second.source, second.notes, second.name)
    assert second.images.flags.c_contiguous


def replace_a_picture(root):
    Image.new("RGB", (9, 12)).save(root / "3.png")


def touch(root):
    os.utime(root / "3.png", ns=(1, 1))


CHANGES = {
    "a picture replaced": replace_a_picture,
    "one added": lambda root: shutil.copy(root / "0.png", root / "9.png"),
    "one removed": lambda root: (root / "5.png").unlink(),
    "one renamed": lambda root: (root / "5.png").rename(root / "6.png"),
    "a time": touch,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed(cache, pictures, decodes, change):
    load(str(pictures), 8)
    change(pictures)
    got = load(str(pictures), 8)
    assert len(decodes) == 2
    shutil.rmtree(cache)
    np.testing.assert_array_equal(got.images, load(str(pictures), 8).images)


@pytest.mark.parametrize("arguments", [(16, None), (8, 1), (8, 3)])
def test_another_size_or_channels_is_another_file(cache, pictures, decodes, arguments):
    load(str(pictures), 8)
    load(str(pictures), *arguments)
    assert len(decodes) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[:-1],
        lambda b: b"",
        lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:],
        lambda b: b.replace(b"sizes", b"sizzs"),
    ],
)
def test_an_altered_file_is_said_and_not_used(cache, pictures, decodes, capsys, spoil):
    want = load(str(pictures), 8).images
    (path,) = cache.iterdir()
    path.write_bytes(spoil(path.read_bytes()))
    np.testing.assert_array_equal(load(str(pictures), 8).images, want)
    assert len(decodes) == 2 and "is not the file that was written there" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_a_warning(pictures, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "file"))
    monkeypatch.setattr(decoded, "WORTH", 0)
    assert len(load(str(pictures), 8)) == 6
    assert "could not be cached" in capsys.readouterr().err


def test_the_files_used_longest_ago_go(cache, pictures, monkeypatch):
    load(str(pictures), 8)
    (first,) = cache.iterdir()
    os.utime(first, (1, 1))
    monkeypatch.setattr(decoded, "ROOM", 6 * 16 * 16 * 3 + 100)
    load(str(pictures), 16)
    assert first not in list(cache.iterdir()) and len(list(cache.iterdir())) == 1


def test_a_use_is_noted(cache, pictures):
    load(str(pictures), 8)
    (file,) = cache.iterdir()
    os.utime(file, (1, 1))
    load(str(pictures), 8)
    assert file.stat().st_mtime > 1


def test_a_quick_load_is_not_cached(tmp_path, pictures, monkeypatch):
    monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "WORTH", 1e9)
    load(str(pictures), 8)
    assert not (tmp_path / "cache").exists()


class TestBroken:
    @pytest.mark.parametrize("names", [["1.png", "4.png"], ["0.png", "2.png", "5.png"]])
    def test_all_are_named_at_once_and_can_be_skipped(self, cache, pictures, decodes, names):
        whole = load(str(pictures), 8).images
        for name in names:
            (pictures / name).write_bytes(b"no picture")
        with pytest.raises(UserError) as error:
            load(str(pictures), 8)
        assert one_sentence(error, *names, f"{len(names)} of the 6", "--skip-broken")
        for _ in range(2):  # decoded, and from the cache
            got = load(str(pictures), 8, skip_broken=True)
            kept = [n for n in range(6) if f"{n}.png" not in names]
            np.testing.assert_array_equal(got.images, whole[kept])
            assert f"without {len(names)} pictures that cannot be read" in got.source
        assert len(decodes) == 2

    def test_too_many_for_a_message_are_listed_above_it(self, tmp_path, capsys):
        for n in range(90):
            (tmp_path / f"a picture with a long name {n}.png").write_bytes(b"no picture")
        with pytest.raises(UserError) as error:
            load(str(tmp_path), 8)
        assert one_sentence(error, "90 of the 90", "named above")
        lines = capsys.readouterr().err.splitlines()
        listed = [line for line in lines if line.startswith("cannot be read: ")]
        assert [f"long name {n}.png" in " ".join(listed) for n in range(90)] == [True] * 90

    def test_labels_stay_with_their_pictures(self, tmp_path):
        for k, name in enumerate(("cat", "dog", "fish")):
            (tmp_path / name).mkdir()
            for n in range(3):
                Image.new("L", (8, 8), 100 * k + n).save(tmp_path / name / f"{n}.png")
        for name in ("cat/0", "dog/0", "dog/1", "dog/2"):
            (tmp_path / f"{name}.png").write_bytes(b"no picture")
        got = load(str(tmp_path), 8, skip_broken=True)
        assert got.classes == ("cat", "fish") and got.labels.tolist() == [0, 0, 1, 1, 1]
        assert got.images[:, 0, 0, 0].tolist() == [1, 2, 200, 201, 202]

    def test_nothing_left_is_refused(self, tmp_path):
        (tmp_path / "0.png").write_bytes(b"no picture")
        with pytest.raises(UserError, match=r"0\.png"):
            load(str(tmp_path), 8, skip_broken=True)


class TestNotes:
    def notes(self, tmp_path, sizes, size=16):
        for n, shape in enumerate(sizes):
            Image.new("RGB", shape).save(tmp_path / f"{n}.png")
        return " ".join(load(str(tmp_path), size).notes)

    def test_sizes_that_fit_need_no_word(self, tmp_path):
        assert self.notes(tmp_path, [(16, 16)] * 3) == ""

    def test_shrinking_and_cropping_are_said_once_with_sizes(self, tmp_path):
        output = self.notes(tmp_path, [(40, 30), (200, 100), (64, 64)])
        for words in ("40x30 to 200x100", "shorter side is 16", "2 of 3 that are not square"):
            assert words in output

    def test_enlarging_is_said(self, tmp_path):
        assert "2 are smaller than that, and enlarged" in self.notes(
            tmp_path, [(8, 8), (15, 15), (16, 16)]
        )

    @pytest.mark.parametrize(
        "shape, size, words",
        [
            ((3, 64, 64), 28, "pictures of 64x64 are resized to 28x28"),
            ((3, 28, 28), 32, "pictures of 28x28 are padded with black to 32x32"),
            ((3, 20, 40), 16, "pictures of 40x20 are padded to 40x40 and resized to 16x16"),
            ((3, 28, 28), None, ""),
        ],
    )
    def test_of_arrays(self, tmp_path, shape, size, words):
        np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
        assert " ".join(load(str(tmp_path / "x.npy"), size).notes) == words


def test_sixteen_bit_tiff_and_cmyk_and_floats(tmp_path):
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "a.tif")
    assert load(str(tmp_path), 8).images.min() == 255
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "b.tiff")
    assert (load(str(tmp_path), 8).images == 255).all()
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "c.tif")
    with pytest.raises(UserError, match=r"c\.tif .*floating-point"):
        load(str(tmp_path), 8)
