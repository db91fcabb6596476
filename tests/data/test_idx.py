"""IDX files: exact loading, and one sentence for every error."""

import gzip
import struct
import tracemalloc
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from rawgan.data import idx, load
from rawgan.errors import UserError
from tests.support.data_files import idx_bytes, one_sentence, pictures, write_set

TRAIN_IMAGES, TRAIN_LABELS = idx.STEMS["train"]


class TestIdx:
    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        want=arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, max_side=9)),
        zipped=st.booleans(),
    )
    def test_round_trip(self, tmp_path, want, zipped):
        data = idx_bytes(want)
        (tmp_path / "x").write_bytes(gzip.compress(data) if zipped else data)
        got = idx.read_idx(tmp_path / "x", want.ndim)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, want)

    @settings(
        max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(data=st.data())
    def test_a_mutated_file_is_read_or_refused_in_bounded_memory(self, tmp_path, data):
        body = bytearray(idx_bytes(np.arange(60, dtype=np.uint8).reshape(3, 4, 5)))
        if data.draw(st.booleans(), "zipped"):
            body = bytearray(gzip.compress(bytes(body), mtime=0))
        for _ in range(data.draw(st.integers(1, 4), "mutations")):
            at = data.draw(
                st.integers(0, len(body) - 1) | st.integers(0, min(15, len(body) - 1)), "at"
            )
            change = data.draw(st.sampled_from(["set", "cut", "insert", "delete"]), "change")
            if change == "set":
                body[at] = data.draw(st.integers(0, 255), "byte")
            elif change == "insert":
                body[at:at] = data.draw(st.binary(max_size=20), "bytes")
            elif change == "delete":
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
            (
                bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 20, 1 << 10, 1 << 10),
                "1048576 x 1024 x 1024",
            ),
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
    @pytest.mark.parametrize(
        "pack", [bytes, partial(gzip.compress, compresslevel=1)], ids=["plain", "gzip"]
    )
    def test_memory_follows_neither_the_bomb_nor_the_declaration(
        self, tmp_path, shape, held, word, pack
    ):
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
        assert (
            got.images.shape == (12, 28, 28, 1)
            and got.images.flags.c_contiguous
            and got.labels.dtype == np.int64
        )
        assert (got.name, got.source, len(got)) == ("mine", str(tmp_path / "mine"), 12)

    def test_a_plain_file_called_gz_and_the_reverse(self, tmp_path, rng):
        images = pictures(rng)
        write_set(tmp_path, images, np.zeros(12), suffix=".gz")
        (tmp_path / TRAIN_LABELS).write_bytes(gzip.compress(idx_bytes(np.full(12, 7, np.uint8))))
        got = load(str(tmp_path))
        np.testing.assert_array_equal(got.images[..., 0], images)
        assert got.labels.tolist() == [0] * 12 and got.classes == ("7",)

    def test_32_is_two_black_pixels_on_each_side(self, tmp_path, rng):
        images = pictures(rng)
        write_set(tmp_path, images, np.zeros(12))
        got = load(str(tmp_path), size=32, channels=3)
        np.testing.assert_array_equal(
            got.images, np.repeat(np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None], 3, 3)
        )
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
        want = [
            np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BICUBIC))
            for i in images
        ]
        np.testing.assert_array_equal(load(str(tmp_path), size=size).images[..., 0], want)

    def test_what_is_not_square_is_padded_to_it_first(self, tmp_path, rng):
        images = pictures(rng, 3, 4, 10)
        write_set(tmp_path, images, np.zeros(3))
        square = np.pad(images, ((0, 0), (3, 3), (0, 0)))
        assert load(str(tmp_path)).images.shape == (3, 4, 10, 1)
        np.testing.assert_array_equal(load(str(tmp_path), size=10).images[..., 0], square)
        want = [
            np.asarray(Image.fromarray(i).resize((5, 5), Image.Resampling.BICUBIC)) for i in square
        ]
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
            (
                4,
                np.zeros(5),
                idx.STEMS["train"],
                "train",
                (TRAIN_IMAGES, TRAIN_LABELS, "4 images", "5 labels"),
            ),
            (4, np.zeros(4), idx.STEMS["train"], "test", ("t10k-images-idx3-ubyte",)),
            (4, np.zeros(4), (TRAIN_IMAGES, "x"), "train", (TRAIN_LABELS,)),
            (4, np.zeros(4), (TRAIN_LABELS, TRAIN_IMAGES), "train", (TRAIN_IMAGES, "dimensions")),
        ],
        ids=["count", "no test files", "no labels", "swapped"],
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
