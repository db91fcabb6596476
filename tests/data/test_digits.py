"""Digits drawn from fonts."""

import time

import numpy as np
import pytest

from rawgan.data import digits, load, to_float
from rawgan.errors import UserError
from tests.support.data_files import one_sentence


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
        assert rows[:, [0, -1]].mean() < 0.03 and columns[:, [0, -1]].mean() < 0.03, (
            "digits cut off at the border"
        )
        line = np.arange(size) - (size - 1) / 2
        for seen in (rows, columns):
            middle = [line[r].mean() for r in seen]
            assert np.abs(middle).max() <= 0.1 * size and abs(np.mean(middle)) < 0.02 * size
        assert 0.1 < bright.mean() < 0.4

    def test_the_seed_decides(self):
        one, same, other = (
            digits.digits(50, seed=3),
            digits.digits(50, seed=3),
            digits.digits(50, seed=4),
        )
        np.testing.assert_array_equal(one.images, same.images)
        np.testing.assert_array_equal(one.labels, same.labels)
        assert (one.images != other.images).any()

    @pytest.mark.parametrize("shares", [1, 7, 99])
    def test_threads_draw_the_same(self, shares, monkeypatch):
        """The digits do not depend on the number of threads, even more threads than digits."""
        want = digits.digits(50, seed=3)
        monkeypatch.setattr(digits, "SHARES", shares)
        np.testing.assert_array_equal(digits.digits(50, seed=3).images, want.images)

    def test_a_digit_is_told_by_its_neighbours(self):
        """The nearest training image of a test image has its label, so labels match images."""
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
            M = (
                np.array([[cos, -sin], [sin, cos]])
                @ [[1, shear[i]], [0, 1]]
                @ np.diag([wide[i], high[i]])
            )
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
        train, test, colour = (
            load("digits"),
            load("digits", split="test"),
            load("digits", size=20, channels=3),
        )
        assert train.images.shape == test.images.shape == (8192, 16, 16, 1)
        assert (train.images[:100] != test.images[:100]).any()
        assert colour.images.shape == (8192, 20, 20, 3) and colour.images.flags.c_contiguous
        assert (colour.images == colour.images[..., :1]).all()
        assert (train.name, "DejaVu" in train.licence, "generated" in train.source) == (
            "digits",
            True,
            True,
        )
