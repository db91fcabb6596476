"""rawgan.data: what is loaded is exact, and whatever is wrong with the input ends in one UserError sentence."""

import gzip
import http.server
import re
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageOps

from rawgan.data import Batches, Images, digits, folder, idx, load, to_float, to_uint8
from rawgan.errors import UserError

DEBIAN = idx.KNOWN["fashion-mnist"].system
debian = pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
TRAIN_IMAGES, TRAIN_LABELS = idx.STEMS["train"]


def one_sentence(error, *words):
    """The message is one line, ends in a full stop and names what the user has to look for."""
    message = str(error.value)
    assert re.fullmatch(r"[^\n]+: [^\n]+\.", message), message
    for word in words:
        assert str(word) in message
    return True


def idx_bytes(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pictures(rng, N=12, H=28, W=28):
    return rng.integers(0, 256, (N, H, W), dtype=np.uint8)


def write_set(path, images, labels, stems=idx.STEMS["train"], spelling=str, pack=bytes, suffix=""):
    path.mkdir(parents=True, exist_ok=True)
    for stem, array in zip(stems, (images, labels)):
        (path / (spelling(stem) + suffix)).write_bytes(pack(idx_bytes(np.asarray(array, np.uint8))))


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def image_files(tmp_path, rng):
    """Five pictures of 40 x 30 in nested folders, one per lossless or lossy format, and what they hold."""
    array = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for name in ("b.png", "a/c.bmp", "a/A.PNG", "z/d.jpg", "z/e.webp"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    return tmp_path / "pictures", array


class TestRanges:
    def test_every_value_survives_the_round_trip(self):
        u = np.arange(256, dtype=np.uint8)
        for dtype in (np.float64, np.float32, np.float16):
            x = to_float(u, dtype)
            assert x.dtype == dtype
            np.testing.assert_array_equal(to_uint8(x), u)
        assert to_uint8(x).dtype == np.uint8

    def test_the_ends_are_minus_one_and_one(self):
        x = to_float(np.array([0, 255], np.uint8))
        assert x.dtype == np.float32
        assert x.tolist() == [-1, 1]

    def test_what_lies_outside_is_clipped(self):
        assert to_uint8(np.array([-7.0, -1.001, 1.001, 300.0])).tolist() == [0, 0, 255, 255]

    def test_the_input_is_unchanged(self, rng):
        u = pictures(rng)
        before = u.copy()
        x = to_float(u)
        y = x.copy()
        to_uint8(x)
        np.testing.assert_array_equal(u, before)
        np.testing.assert_array_equal(x, y)


class TestBatches:
    def images(self, N):
        return Images(np.zeros((N, 1, 1, 1), np.uint8), None, "some", "", "")

    def test_an_epoch_takes_no_index_twice_and_the_next_one_is_new(self, rng):
        got = list(islice(Batches(self.images(24), 5, rng), 8))
        assert all(index.shape == (5,) for index in got)
        first, second = np.concatenate(got[:4]), np.concatenate(got[4:])
        for epoch in (first, second):
            assert len(set(epoch.tolist())) == 20
            assert set(epoch.tolist()) <= set(range(24))
        assert first.tolist() != second.tolist()

    def test_every_index_comes_where_the_batch_divides_n(self, rng):
        assert sorted(np.concatenate(list(islice(Batches(self.images(12), 4, rng), 3)))) == list(range(12))

    def test_the_generator_decides(self):
        got = [np.stack(list(islice(Batches(self.images(50), 7, np.random.default_rng(s)), 20))) for s in (1, 1, 2)]
        np.testing.assert_array_equal(got[0], got[1])
        assert (got[0] != got[2]).any()

    @pytest.mark.parametrize("batch", [0, -3, 24])
    def test_an_impossible_batch_is_refused_at_the_call(self, batch, rng):
        with pytest.raises(UserError) as error:
            Batches(self.images(23), batch, rng)
        assert one_sentence(error, batch, 23, "some")


class TestDigits:
    @pytest.mark.parametrize("size", [16, 28])
    def test_they_fill_the_frame_in_full_range_about_its_centre(self, size):
        got = digits.digits(n=500, size=size)
        assert got.images.shape == (500, size, size, 1)
        assert got.images.dtype == np.uint8 and got.images.flags.c_contiguous
        assert got.labels.dtype == np.int64 and np.bincount(got.labels).tolist() == [50] * 10
        assert (got.images.max(axis=(1, 2, 3)) == 255).all()
        bright = got.images[..., 0] > 64
        rows, columns = bright.any(2), bright.any(1)
        assert (rows.sum(1) >= 0.6 * size).all(), "a digit much lower than its frame"
        assert rows[:, [0, -1]].mean() < 0.03 and columns[:, [0, -1]].mean() < 0.03, "digits cut off at the border"
        line = np.arange(size) - (size - 1) / 2
        for seen in (rows, columns):
            middle = [line[r].mean() for r in seen]
            assert np.abs(middle).max() <= 0.1 * size and abs(np.mean(middle)) < 0.02 * size
        assert 0.1 < bright.mean() < 0.4

    def test_the_seed_decides(self):
        one, same, other = digits.digits(50, seed=3), digits.digits(50, seed=3), digits.digits(50, seed=4)
        np.testing.assert_array_equal(one.images, same.images)
        np.testing.assert_array_equal(one.labels, same.labels)
        assert (one.images != other.images).any()

    def test_a_digit_is_told_by_its_neighbours(self):
        """Labels belong to pictures, train and test look alike: the nearest training picture has the right label."""
        train, test = digits.digits(2000, seed=0), digits.digits(200, seed=1)
        x, y = (to_float(s.images).reshape(len(s), -1) for s in (train, test))
        nearest = ((x**2).sum(1) - 2 * y @ x.T).argmin(1)
        assert (train.labels[nearest] == test.labels).mean() > 0.97

    def test_affine_is_the_inverse_of_what_it_says(self, rng):
        angle, shear, wide, high, x, y = rng.uniform(-1, 1, (6, 4))
        wide, high = wide + 2, high + 2
        got = digits.affine(angle, shear, wide, high, np.stack([x, y]), centre=7)
        for i in range(4):
            cos, sin = np.cos(angle[i]), np.sin(angle[i])
            M = np.array([[cos, -sin], [sin, cos]]) @ [[1, shear[i]], [0, 1]] @ np.diag([wide[i], high[i]])
            glyph = rng.normal(size=2)
            picture = M @ (glyph - 7) + 7 + [x[i], y[i]]
            np.testing.assert_allclose(got[i].reshape(2, 3) @ [*picture, 1], glyph, rtol=1e-10)

    def test_8192_take_at_most_three_seconds(self):
        begin = time.process_time()
        digits.digits()
        assert time.process_time() - begin < 3

    @pytest.mark.parametrize("kw", [{"n": 0}, {"size": 7}, {"size": 129}])
    def test_what_cannot_be_drawn_is_refused(self, kw):
        with pytest.raises(UserError) as error:
            digits.digits(**kw)
        assert one_sentence(error, *kw.values())

    def test_a_missing_font_is_named(self, monkeypatch):
        monkeypatch.setattr(digits, "FONTS", ("NoSuchFont",))
        with pytest.raises(UserError) as error:
            digits.digits(1)
        assert one_sentence(error, "NoSuchFont.ttf", "matplotlib")

    def test_load_knows_splits_sizes_and_channels(self):
        train, test, colour = load("digits"), load("digits", split="test"), load("digits", size=20, channels=3)
        assert train.images.shape == test.images.shape == (8192, 16, 16, 1)
        assert (train.images[:100] != test.images[:100]).any()
        assert colour.images.shape == (8192, 20, 20, 3) and colour.images.flags.c_contiguous
        assert (colour.images == colour.images[..., :1]).all()
        assert (train.name, "DejaVu" in train.licence, "generated" in train.source) == ("digits", True, True)


class TestIdx:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(want=arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, max_side=9)), zipped=st.booleans())
    def test_round_trip(self, tmp_path, want, zipped):
        data = idx_bytes(want)
        (tmp_path / "x").write_bytes(gzip.compress(data) if zipped else data)
        got = idx.read_idx(tmp_path / "x", want.ndim)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, want)

    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_mutated_file_is_read_or_refused_in_bounded_memory(self, tmp_path, data):
        body = bytearray(idx_bytes(np.arange(60, dtype=np.uint8).reshape(3, 4, 5)))
        if data.draw(st.booleans(), "zipped"):
            body = bytearray(gzip.compress(bytes(body), mtime=0))
        for _ in range(data.draw(st.integers(1, 4), "mutations")):
            at = data.draw(st.integers(0, len(body) - 1) | st.integers(0, min(15, len(body) - 1)), "at")
            how = data.draw(st.sampled_from(["set", "cut", "insert", "delete"]), "how")
            if how == "set":
                body[at] = data.draw(st.integers(0, 255), "byte")
            elif how == "insert":
                body[at:at] = data.draw(st.binary(max_size=20), "bytes")
            elif how == "delete":
                del body[at]
            else:
                del body[at:]
            body = body or bytearray(1)
        path = tmp_path / "mutated"
        path.write_bytes(body)
        tracemalloc.start()
        try:
            got = idx.read_idx(path, 3)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert got.ndim == 3 and got.dtype == np.uint8 and got.size
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 4 << 20

    good = idx_bytes(np.zeros((2, 3, 4), np.uint8))

    @pytest.mark.parametrize(
        ("data", "word"),
        [
            (b"", "header"),
            (good[:15], "header"),
            (b"\x00\x01" + good[2:], "not an IDX file"),
            (b"<html>no such page here</html>", "not an IDX file"),
            (idx_bytes(np.zeros((2, 3, 4), np.uint8), kind=0x0D), "type 0x0d"),
            (idx_bytes(np.zeros(40, np.uint8)), "1 dimensions, not 3"),
            (good[:-1], "2 x 3 x 4 bytes but holds 23"),
            (good + b"\0", "goes on"),
            (good[:8] + bytes(8), "2 x 0 x 0"),
            (bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(9), "4294967295 x 4294967295"),
            (bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 20, 1 << 10, 1 << 10), "1048576 x 1024 x 1024"),
        ],
    )
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_a_malformed_file_is_named(self, tmp_path, data, word, pack):
        path = tmp_path / "some-file"
        path.write_bytes(pack(data))
        with pytest.raises(UserError) as error:
            idx.read_idx(path, 3)
        assert one_sentence(error, path, word)

    @pytest.mark.parametrize(
        ("spoil", "word"),
        [
            (lambda z: z[:-9], "too early"),
            (lambda z: z[:-1], "too early"),
            (lambda z: z[:40] + b"\xff\xff\xff\xff" + z[44:], "broken gzip"),
            (lambda z: z[:-8] + b"abcd" + z[-4:], "broken gzip"),
            (lambda z: z + b"rubbish", "broken gzip"),
        ],
    )
    def test_a_broken_gzip_file_is_named(self, tmp_path, rng, spoil, word):
        path = tmp_path / "x.gz"
        path.write_bytes(spoil(gzip.compress(idx_bytes(pictures(rng, 2)))))
        with pytest.raises(UserError) as error:
            idx.read_idx(path, 3)
        assert one_sentence(error, path, word)

    @pytest.mark.parametrize(
        ("shape", "held", "word"),
        [((2, 3, 4), 64 << 20, "goes on"), ((4, 1 << 15, 1 << 15), 24, "but holds 24")],
        ids=["a bomb of 64 MiB behind 24 bytes", "24 bytes that declare 4 GiB"],
    )
    @pytest.mark.parametrize("pack", [bytes, partial(gzip.compress, compresslevel=1)], ids=["plain", "gzip"])
    def test_memory_follows_neither_the_bomb_nor_the_declaration(self, tmp_path, shape, held, word, pack):
        path = tmp_path / "bomb"
        path.write_bytes(pack(bytes([0, 0, 8, 3]) + struct.pack(">3I", *shape) + bytes(held)))
        tracemalloc.start()
        with pytest.raises(UserError) as error:
            idx.read_idx(path, 3)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert one_sentence(error, path, word)
        assert peak < 4 << 20

    def test_a_missing_file_and_a_folder_of_that_name_are_named(self, tmp_path):
        for path in (tmp_path / "nothing", tmp_path):
            with pytest.raises(UserError) as error:
                idx.read_idx(path, 3)
            assert one_sentence(error, path)


class TestIdxFolder:
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    @pytest.mark.parametrize("spelling", [str, lambda stem: stem.replace("-idx", ".idx")])
    def test_every_spelling_loads_in_natural_size(self, tmp_path, rng, spelling, suffix):
        images, labels = pictures(rng), np.arange(12) % 10
        pack = gzip.compress if suffix else bytes
        write_set(tmp_path / "mine", images, labels, spelling=spelling, pack=pack, suffix=suffix)
        got = load(str(tmp_path / "mine"))
        np.testing.assert_array_equal(got.images[..., 0], images)
        np.testing.assert_array_equal(got.labels, labels)
        assert got.images.shape == (12, 28, 28, 1) and got.images.flags.c_contiguous and got.labels.dtype == np.int64
        assert (got.name, got.source, len(got)) == ("mine", str(tmp_path / "mine"), 12)

    def test_a_plain_file_called_gz_and_the_reverse(self, tmp_path, rng):
        images = pictures(rng)
        write_set(tmp_path, images, np.zeros(12), suffix=".gz")
        (tmp_path / TRAIN_LABELS).write_bytes(gzip.compress(idx_bytes(np.full(12, 7, np.uint8))))
        got = load(str(tmp_path))
        np.testing.assert_array_equal(got.images[..., 0], images)
        assert got.labels.tolist() == [7] * 12

    def test_32_is_two_black_pixels_on_each_side(self, tmp_path, rng):
        images = pictures(rng)
        write_set(tmp_path, images, np.zeros(12))
        got = load(str(tmp_path), size=32, channels=3)
        np.testing.assert_array_equal(got.images, np.repeat(np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None], 3, 3))
        assert got.images.flags.c_contiguous

    def test_an_odd_pixel_goes_below_and_right(self, tmp_path, rng):
        images = pictures(rng)
        write_set(tmp_path, images, np.zeros(12))
        got = load(str(tmp_path), size=29).images[..., 0]
        np.testing.assert_array_equal(got, np.pad(images, ((0, 0), (0, 1), (0, 1))))

    @pytest.mark.parametrize("size", [16, 33, 64])
    def test_other_sizes_are_pillows_bicubic(self, tmp_path, rng, size):
        images = pictures(rng, 3)
        write_set(tmp_path, images, np.zeros(3))
        want = [np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BICUBIC)) for i in images]
        np.testing.assert_array_equal(load(str(tmp_path), size=size).images[..., 0], want)

    def test_what_is_not_square_is_padded_to_it_first(self, tmp_path, rng):
        images = pictures(rng, 3, 4, 10)
        write_set(tmp_path, images, np.zeros(3))
        square = np.pad(images, ((0, 0), (3, 3), (0, 0)))
        assert load(str(tmp_path)).images.shape == (3, 4, 10, 1)
        np.testing.assert_array_equal(load(str(tmp_path), size=10).images[..., 0], square)
        want = [np.asarray(Image.fromarray(i).resize((5, 5), Image.Resampling.BICUBIC)) for i in square]
        np.testing.assert_array_equal(load(str(tmp_path), size=5).images[..., 0], want)

    def test_the_split_chooses_the_files(self, tmp_path, rng):
        train, test = pictures(rng), pictures(rng, 3)
        write_set(tmp_path, train, np.zeros(12))
        write_set(tmp_path, test, np.ones(3), stems=idx.STEMS["test"])
        np.testing.assert_array_equal(load(str(tmp_path), split="train").images[..., 0], train)
        np.testing.assert_array_equal(load(str(tmp_path), split="test").images[..., 0], test)

    @pytest.mark.parametrize(
        ("N", "labels", "stems", "split", "words"),
        [
            (4, np.zeros(5), idx.STEMS["train"], "train", (TRAIN_IMAGES, TRAIN_LABELS, "4 images", "5 labels")),
            (4, np.array([0, 9, 10, 1]), idx.STEMS["train"], "train", (TRAIN_LABELS, "label 10")),
            (4, np.zeros(4), idx.STEMS["train"], "test", ("t10k-images-idx3-ubyte",)),
            (4, np.zeros(4), (TRAIN_IMAGES, "x"), "train", (TRAIN_LABELS,)),
            (4, np.zeros(4), (TRAIN_LABELS, TRAIN_IMAGES), "train", (TRAIN_IMAGES, "dimensions")),
        ],
        ids=["count", "range", "no test files", "no labels", "swapped"],
    )
    def test_files_that_do_not_belong_together(self, tmp_path, rng, N, labels, stems, split, words):
        write_set(tmp_path, pictures(rng, N), labels, stems=stems)
        with pytest.raises(UserError) as error:
            load(str(tmp_path), split=split)
        assert one_sentence(error, tmp_path, *words)

    def test_huge_pictures_and_hopeless_sizes(self, tmp_path, monkeypatch):
        write_set(tmp_path / "wide", np.zeros((1, 1, 5000)), np.zeros(1))
        with pytest.raises(UserError) as error:
            load(str(tmp_path / "wide"), size=8)
        assert one_sentence(error, TRAIN_IMAGES, "1 x 5000")
        write_set(tmp_path / "many", np.zeros((1 << 17, 1, 1)), np.zeros(1 << 17))
        monkeypatch.setattr(np, "zeros", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(UserError) as error:
            load(str(tmp_path / "many"), size=4096)
        assert one_sentence(error, "many", "131072 x 4096 x 4096", "smaller size")


def upstream(stem):
    """The .gz file as Zalando published it: Debian took name and time out of its header, and changed nothing else."""
    file = (DEBIAN / f"{stem}.gz").read_bytes()
    when = struct.pack("<I", 1504176606 if stem.startswith("train") else 1504176627)
    return b"\x1f\x8b\x08\x08" + when + file[8:10] + stem.encode() + b"\0" + file[10:]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An http server on this machine, the only mirror; yields its folder and the paths that were asked of it."""
    asked, root = [], tmp_path / "server"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, form, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root))
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "cache"))
    mirrors = (f"http://127.0.0.1:{httpd.server_port}/",)
    for name, known in idx.KNOWN.items():
        monkeypatch.setitem(idx.KNOWN, name, idx.Known(known.licence, mirrors, known.sha256, None, known.remedy))
    yield root, asked
    httpd.shutdown()
    httpd.server_close()


def files(path):
    return sorted(p.name for p in path.rglob("*") if p.is_file())


class TestKnown:
    @debian
    def test_fashion_mnist_from_debian(self):
        train, test = load("fashion-mnist"), load("fashion-mnist", 32, split="test")
        assert train.images.shape == (60000, 28, 28, 1) and test.images.shape == (10000, 32, 32, 1)
        assert np.bincount(train.labels).tolist() == [6000] * 10
        assert np.bincount(test.labels).tolist() == [1000] * 10
        assert (train.name, train.licence, train.source) == ("fashion-mnist", "MIT, Zalando SE", str(DEBIAN))
        assert abs(train.images.mean() - 72.94) < 0.005

    @debian
    def test_download_then_cache(self, server, tmp_path, capfd):
        root, asked = server
        for stem in idx.STEMS["test"]:
            (root / f"{stem}.gz").write_bytes(upstream(stem))
        got = load("fashion-mnist", split="test")
        assert got.source == str(tmp_path / "cache" / "fashion-mnist")
        assert files(tmp_path / "cache") == [f"{stem}.gz" for stem in idx.STEMS["test"]]
        assert "100%" in capfd.readouterr().err
        again = load("fashion-mnist", split="test")
        assert len(asked) == 2, "the second time the cache serves"
        want, labels = idx.read_folder(DEBIAN, "test")
        for images in (got, again):
            np.testing.assert_array_equal(images.images[..., 0], want)
            np.testing.assert_array_equal(images.labels, labels)

    @debian
    def test_checksums_of_fashion_mnist(self):
        want = idx.KNOWN["fashion-mnist"].sha256
        assert {stem: sha256(upstream(stem)).hexdigest() for stem in want} == want

    @pytest.mark.parametrize(("name", "remedies"), [("mnist", ["folder"]), ("fashion-mnist", ["folder", "dataset-fashion-mnist"])])
    @pytest.mark.parametrize("fault", ["missing", "wrong", "cut short", "no server"])
    def test_a_failed_download_leaves_nothing(self, server, tmp_path, monkeypatch, name, remedies, fault):
        root, _ = server
        if fault == "wrong":
            (root / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(bytes(1000)))
        if fault == "cut short":
            send = http.server.SimpleHTTPRequestHandler.send_header
            longer = {"Content-Length": "5000"}
            monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "send_header", lambda h, k, v: send(h, k, longer.get(k, v)))
            (root / f"{TRAIN_IMAGES}.gz").write_bytes(bytes(1000))
        if fault == "no server":
            known = idx.KNOWN[name]
            mirrors = ("http://127.0.0.1:9/", "http://127.0.0.1:9/again/")
            monkeypatch.setitem(idx.KNOWN, name, idx.Known(known.licence, mirrors, known.sha256, None, known.remedy))
        with pytest.raises(UserError) as error:
            load(name)
        assert one_sentence(error, name, TRAIN_IMAGES, *remedies)
        assert files(tmp_path / "cache") == []

    def test_the_second_mirror_is_tried(self, server, tmp_path, monkeypatch, rng):
        root, asked = server
        write_set(root, pictures(rng), np.zeros(12), pack=gzip.compress, suffix=".gz")
        sums = {stem: sha256((root / f"{stem}.gz").read_bytes()).hexdigest() for stem in idx.STEMS["train"]}
        (here,) = idx.KNOWN["mnist"].mirrors
        monkeypatch.setitem(idx.KNOWN, "mnist", idx.Known("", (f"{here}empty/", here), sums))
        assert load("mnist").images.shape == (12, 28, 28, 1)
        assert asked == [f"{place}/{stem}.gz" for stem in sums for place in ("/empty", "")]

    def test_files_put_into_the_cache_by_hand_are_used_and_kept(self, server, tmp_path, rng):
        images = pictures(rng)
        write_set(tmp_path / "cache" / "mnist", images, np.zeros(12))
        np.testing.assert_array_equal(load("mnist").images[..., 0], images)
        assert server[1] == []

    def test_a_broken_file_in_the_cache_is_named(self, server, tmp_path, rng):
        write_set(tmp_path / "cache" / "mnist", pictures(rng), np.zeros(11))
        with pytest.raises(UserError) as error:
            load("mnist")
        assert one_sentence(error, tmp_path / "cache" / "mnist" / TRAIN_LABELS)

    def test_a_cache_that_cannot_be_made_is_named(self, server, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "file"))
        with pytest.raises(UserError) as error:
            load("mnist")
        assert one_sentence(error, tmp_path / "file", "RAWGAN_DATA")


class TestPictures:
    def test_all_formats_in_the_order_of_their_paths(self, image_files):
        path, array = image_files
        got = load(str(path), size=30)
        assert got.images.shape == (5, 30, 30, 3)
        assert got.images.dtype == np.uint8 and got.images.flags.c_contiguous and got.labels is None
        order = ["a/A.PNG", "a/c.bmp", "b.png", "z/d.jpg", "z/e.webp"]
        assert folder.find(path)[0] == [path / name for name in order]
        for image, name in zip(got.images, order):
            want = np.asarray(Image.open(path / name).convert("RGB"))[:, 5:35]
            np.testing.assert_array_equal(image, want)
        np.testing.assert_array_equal(got.images[0], array[:, 5:35])
        assert (got.name, got.source) == ("pictures", str(path))

    def test_the_shorter_side_is_resized_and_the_centre_kept(self, tmp_path):
        ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (60, 1))
        Image.fromarray(ramp).save(tmp_path / "x.png")
        got = load(str(tmp_path), size=15).images[0, ..., 0]
        columns = np.arange(15) * 4 + 31.5
        np.testing.assert_allclose(got[:, 1:-1], np.tile(2 * columns, (15, 1))[:, 1:-1], atol=1)

    def test_channels(self, image_files, tmp_path, rng):
        path, array = image_files
        want = ImageOps.grayscale(Image.fromarray(array)).crop((5, 0, 35, 30))
        np.testing.assert_array_equal(load(str(path), 30, channels=1).images[0, ..., 0], want)
        gray = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        (tmp_path / "gray").mkdir()
        Image.fromarray(gray).save(tmp_path / "gray" / "x.png")
        np.testing.assert_array_equal(load(str(tmp_path / "gray"), 8).images[0, ..., 0], gray)
        np.testing.assert_array_equal(load(str(tmp_path / "gray"), 8, 3).images[0], np.stack([gray] * 3, -1))

    def test_exif_orientation(self, tmp_path, rng):
        array = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise by a quarter
        Image.fromarray(array).save(tmp_path / "x.png", exif=exif)
        np.testing.assert_array_equal(load(str(tmp_path), 8).images[0], np.rot90(array, -1))

    def test_transparency_lies_on_white(self, tmp_path):
        Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
        Image.new("RGBA", (4, 4), (10, 20, 30, 255)).save(tmp_path / "opaque.png")
        got = load(str(tmp_path), 4).images
        assert (got[0] == 255).all() and (got[1] == (10, 20, 30)).all()

    def test_sixteen_bits_are_scaled(self, tmp_path):
        Image.fromarray(np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)).save(tmp_path / "x.png")
        np.testing.assert_array_equal(load(str(tmp_path), 16).images[0, ..., 0].ravel(), np.arange(256))

    def test_the_first_frame_of_a_gif(self, tmp_path):
        frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
        frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
        assert (load(str(tmp_path), 4).images[0] == (255, 0, 0)).all()

    def test_hidden_files_are_ignored_and_others_counted(self, image_files):
        path, _ = image_files
        for name in (".hidden.png", ".git/x.png", "notes.txt", "a/labels.csv"):
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text("no picture")
        got = load(str(path), 8)
        assert len(got) == 5
        assert got.source.startswith(f"{path} without 2 files")

    def test_links_are_followed_but_not_in_circles(self, image_files, tmp_path):
        path, _ = image_files
        (tmp_path / "linked").mkdir()
        (tmp_path / "linked" / "there").symlink_to(path)
        (path / "z" / "back").symlink_to(tmp_path / "linked")
        assert len(load(str(tmp_path / "linked"), 8)) == 5

    @pytest.mark.parametrize("name", ["b.png", "a/c.bmp", "z/d.jpg", "z/e.webp"])
    @pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"GIF89a" + b[6:40], lambda b: b[:20]])
    @pytest.mark.parametrize("channels", [None, 3])
    def test_a_broken_picture_is_named(self, image_files, name, spoil, channels):
        path = image_files[0] / name
        path.write_bytes(spoil(path.read_bytes()))
        with pytest.raises(UserError) as error:
            load(str(image_files[0]), 8, channels)
        assert one_sentence(error, path)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_mutated_picture_is_read_or_refused(self, tmp_path_factory, data):
        path = tmp_path_factory.mktemp("mutated") / f"x{data.draw(st.sampled_from(folder.SUFFIXES))}"
        Image.new("RGB", (9, 7), (1, 2, 3)).save(path)
        body = bytearray(path.read_bytes())
        for at in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=5)):
            body[at] = data.draw(st.integers(0, 255))
        path.write_bytes(body)
        try:
            assert load(str(path.parent), 4, 3).images.shape == (1, 4, 4, 3)
        except UserError as error:
            assert path.name in str(error)

    @pytest.mark.parametrize("limit", [150, 50], ids=["Pillow warns", "Pillow refuses"])
    def test_a_decompression_bomb_is_named(self, tmp_path, monkeypatch, limit):
        Image.new("L", (16, 16)).save(tmp_path / "bomb.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError) as error:
            load(str(tmp_path), 8)
        assert one_sentence(error, tmp_path / "bomb.png", f"more than {limit} pixels")

    def test_what_only_looks_like_a_picture_is_named(self, tmp_path, monkeypatch):
        Image.new("RGB", (4, 4)).save(tmp_path / "x.png", format="TIFF")
        with pytest.raises(UserError) as error:
            load(str(tmp_path), 8)
        assert one_sentence(error, tmp_path / "x.png")
        (tmp_path / "x.png").unlink()
        (tmp_path / "x.png").symlink_to(tmp_path / "nowhere")
        with pytest.raises(UserError) as error:
            load(str(tmp_path), 8)
        assert one_sentence(error, tmp_path / "x.png", "not a file")

    def test_a_size_has_to_be_given(self, image_files):
        with pytest.raises(UserError) as error:
            load(str(image_files[0]))
        assert one_sentence(error, image_files[0], "size 64")

    def test_there_is_no_test_split(self, image_files):
        with pytest.raises(UserError) as error:
            load(str(image_files[0]), 8, split="test")
        assert one_sentence(error, image_files[0], "test")

    def test_folders_without_pictures(self, tmp_path):
        (tmp_path / "notes.txt").write_text("no picture")
        for name, word in ((".", "no pictures"), ("notes.txt", "Not a directory"), ("nothing", "No such")):
            with pytest.raises(UserError) as error:
                folder.read_folder(tmp_path / name, 8)
            assert one_sentence(error, tmp_path / name, word)


class TestArguments:
    @pytest.mark.parametrize("source", ["", "cifar", "/no/such", __file__, "nul\0byte", "x" * 5000, "~nobody-here/x"])
    def test_an_unknown_source_is_named(self, source):
        with pytest.raises(UserError) as error:
            load(source)
        assert one_sentence(error, repr(source), "digits, mnist, fashion-mnist")

    @pytest.mark.parametrize(
        "kw", [{"size": 0}, {"size": -1}, {"size": 4097}, {"channels": 2}, {"channels": 0}, {"split": "valid"}]
    )
    def test_bad_arguments_are_named(self, kw):
        with pytest.raises(UserError) as error:
            load("digits", **kw)
        assert one_sentence(error, *kw.values(), "choose")

    def test_a_folder_under_the_home(self, tmp_path, monkeypatch, rng):
        monkeypatch.setenv("HOME", str(tmp_path))
        write_set(tmp_path / "mine", pictures(rng), np.zeros(12))
        assert len(load("~/mine")) == 12

    def test_importing_loads_neither_pooch_nor_matplotlib(self):
        code = "import sys, rawgan.data; sys.exit(bool({'pooch', 'matplotlib'} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent).returncode == 0
