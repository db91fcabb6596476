"""rawgan.data: value ranges, batches, and the arguments of load."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from rawgan.data import NAMES, Batches, Images, idx, installed, load, to_float, to_uint8
from rawgan.errors import UserError
from rawgan.training.options import natural_size
from tests.support.data_files import one_sentence, pictures, write_set


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
        assert sorted(np.concatenate(list(islice(Batches(self.images(12), 4, rng), 3)))) == list(
            range(12)
        )

    def test_the_generator_decides(self):
        got = [
            np.stack(list(islice(Batches(self.images(50), 7, np.random.default_rng(s)), 20)))
            for s in (1, 1, 2)
        ]
        np.testing.assert_array_equal(got[0], got[1])
        assert (got[0] != got[2]).any()

    @pytest.mark.parametrize("batch", [0, -3, 24])
    def test_an_impossible_batch_is_refused_at_the_call(self, batch, rng):
        with pytest.raises(UserError) as error:
            Batches(self.images(23), batch, rng)
        assert one_sentence(error, batch, 23, "some")


class TestArguments:
    @pytest.mark.parametrize(
        "source", ["", "cifar", "/no/such", __file__, "nul\0byte", "x" * 5000, "~nobody-here/x"]
    )
    def test_an_unknown_source_is_named(self, source):
        with pytest.raises(UserError) as error:
            load(source)
        assert one_sentence(error, repr(source)[:400], "digits, mnist, fashion-mnist")

    @pytest.mark.parametrize(
        "kw",
        [
            {"size": 0},
            {"size": -1},
            {"size": 4097},
            {"channels": 2},
            {"channels": 0},
            {"split": "valid"},
        ],
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
        assert (
            subprocess.run(
                [sys.executable, "-c", code], check=False, cwd=Path(__file__).parent
            ).returncode
            == 0
        )


def test_every_name_has_a_natural_size():
    always = [name for name in NAMES if name not in installed.KNOWN]
    assert [natural_size(name) for name in always] == [
        16,
        28,
        28,
        32,
        28 if idx.is_here("mnist", "train") else 16,
    ]
