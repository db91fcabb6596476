"""rawgan.training.interpolate: both paths from z0 to z1, the images, and the files written."""

import numpy as np
import pytest
from PIL import Image

from rawgan.backend import CPU
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training.interpolate import interpolate, linear, save_gif, save_strip, spherical
from rawgan.training.sampling import sample
from tests.support.reference import assert_close, assert_same

ways = pytest.mark.parametrize("between", [linear, spherical])
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def pair(rng, dtype=np.float64, Z=100):
    """Return two vectors of different length and direction."""
    return rng.normal(size=Z).astype(dtype), (3 * rng.normal(size=Z)).astype(dtype)


def angle(u, v):
    return np.arccos(np.clip(u @ v / np.linalg.norm(u) / np.linalg.norm(v), -1, 1))


class TestInterpolation:
    @ways
    @dtypes
    def test_the_ends_are_exact(self, between, dtype, rng):
        for _ in range(20):
            z0, z1 = pair(rng, dtype)
            assert_same(between(z0, z1, 0), z0)
            assert_same(between(z0, z1, 0.0), z0)
            assert_same(between(z0, z1, 1.0), z1)
            assert between(z0, z1, 0.3).dtype == dtype

    @ways
    def test_back_is_the_same_way(self, between, rng):
        z0, z1 = pair(rng)
        for t in (0.1, 0.5, 0.8):
            assert_close(between(z1, z0, 1 - t), between(z0, z1, t))

    @ways
    def test_inputs_are_unchanged(self, between, rng):
        z0, z1 = pair(rng)
        before = z0.copy(), z1.copy()
        between(z0, z1, 0.4)
        assert_same(z0, before[0])
        assert_same(z1, before[1])

    def test_linear(self):
        assert_same(linear(np.array([0.0, 8.0]), np.array([4.0, 0.0]), 0.25), np.array([1.0, 6.0]))

    def test_a_quarter_of_the_circle(self):
        got = spherical(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 1 / 3)
        assert_close(got, [np.cos(np.pi / 6), np.sin(np.pi / 6)])

    def test_as_white_wrote_it(self, rng):
        z0, z1 = pair(rng)
        a = angle(z0, z1)
        for t in (0.2, 0.5, 0.9):
            assert_close(
                spherical(z0, z1, t),
                np.sin((1 - t) * a) / np.sin(a) * z0 + np.sin(t * a) / np.sin(a) * z1,
            )

    def test_the_length_stays_and_the_angle_grows_evenly(self, rng):
        z0, z1 = pair(rng)
        z1 *= np.linalg.norm(z0) / np.linalg.norm(z1)
        for t in np.linspace(0, 1, 11).tolist():
            z = spherical(z0, z1, t)
            assert_close(np.linalg.norm(z), np.linalg.norm(z0))
            if t:
                assert abs(angle(z0, z) - t * angle(z0, z1)) < 1e-7
        assert np.linalg.norm(linear(z0, z1, 0.5)) < 0.8 * np.linalg.norm(
            z0
        )  # the purpose of spherical interpolation

    @dtypes
    @pytest.mark.parametrize("factor", [1, 3, 1 / 3, 1e-30, -1, -0.7, 0])
    def test_parallel_vectors_fall_back_to_the_line(self, factor, dtype, rng):
        z0, _ = pair(rng, dtype)
        z1 = dtype(factor) * z0
        for start, end in ((z0, z1), (z1, z0)):
            for t in (0, 0.25, 0.6, 1):
                assert_same(spherical(start, end, t), linear(start, end, t))

    def test_two_zeros(self):
        assert not spherical(np.zeros(4), np.zeros(4), 0.5).any()

    @pytest.mark.parametrize("tilt", [1e-3, 1e-5, 1e-6, 1.1e-7, 0.9e-7, 1e-9, 1e-15])
    def test_almost_parallel_vectors_jump_nowhere(self, tilt):
        z0, z1 = np.array([1.0, 0.0]), np.array([np.cos(tilt), np.sin(tilt)])
        got, want = spherical(z0, z1, 0.3), np.array([np.cos(0.3 * tilt), np.sin(0.3 * tilt)])
        assert np.abs(got - want).max() < 1e-14


class TestWalk:
    def test_rows_start_and_end_where_they_should(self, rng):
        recipe = RECIPES["dcgan"]
        net = recipe.build(Random(0), 16, 1, 4).generator
        z0, z1 = (recipe.draw_z(rng, 3) for _ in range(2))
        images = interpolate(recipe, net, CPU, z0, z1, 5, spherical)
        assert images.shape == (3, 5, 16, 16, 1) and images.dtype == np.uint8
        for n in range(3):
            ends = sample(recipe, net, np.stack([z0[n], spherical(z0[n], z1[n], 0.5), z1[n]]))
            assert (
                np.abs(images[n, [0, 2, 4]].astype(int) - ends).max() <= 1
            )  # a rounding may change one gray level

    def test_each_row_keeps_its_label(self, rng):
        recipe = RECIPES["cgan"]
        net = recipe.build(Random(0), 16, 1, 4).generator
        z = recipe.draw_z(rng, 1)
        labels = np.array([7, 2])
        images = interpolate(recipe, net, CPU, z.repeat(2, 0), z.repeat(2, 0), 3, linear, labels)
        assert (images == images[:, :1]).all()  # from z to the same z all images are equal
        for n, label in enumerate(labels):
            alone = sample(recipe, net, (z, np.array([label])))[0]
            assert np.abs(images[n, 0].astype(int) - alone).max() <= 1
        assert (images[0] != images[1]).any()


def noise(rng, *shape):
    return rng.integers(256, size=shape, dtype=np.uint8)


class TestFiles:
    @pytest.mark.parametrize("C, mode", [(1, "L"), (3, "RGB")])
    def test_strip(self, C, mode, tmp_path, rng):
        images = noise(rng, 2, 21, 16, 16, C)
        save_strip(tmp_path / "a.png", images)
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.mode == mode and picture.size == (4 * (11 * 17 + 1), 4 * (2 * 17 + 1))
            got = np.asarray(picture).reshape(*picture.size[::-1], C)[::4, ::4]
        for row in range(2):
            for column, t in enumerate(range(0, 21, 2)):
                top, left = 1 + 17 * row, 1 + 17 * column
                assert_same(got[top : top + 16, left : left + 16], images[row, t])

    def test_a_short_interpolation_is_shown_whole(self, tmp_path, rng):
        save_strip(tmp_path / "a.png", noise(rng, 1, 3, 64, 64, 1))
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.size == (3 * 65 + 1, 66)

    @pytest.mark.parametrize("frames", [2, 3, 6])
    def test_gif_there_and_back(self, frames, tmp_path, rng):
        images = noise(rng, 3, frames, 16, 16, 1)
        save_gif(tmp_path / "a.gif", images)
        with Image.open(tmp_path / "a.gif") as picture:
            assert picture.format == "GIF" and picture.n_frames == 2 * frames - 2
            assert picture.info["loop"] == 0
            for n, t in enumerate([*range(frames), *range(frames - 2, 0, -1)]):
                picture.seek(n)
                assert picture.info["duration"] == 60
                got = np.asarray(picture.convert("L"))[::4, ::4]
                for i in range(3):
                    assert_same(got[1:17, 1 + 17 * i : 17 + 17 * i], images[i, t, ..., 0])

    def test_gif_in_colour(self, tmp_path, rng):
        images = (noise(rng, 1, 2, 1, 1, 3)).repeat(16, 2).repeat(16, 3)
        save_gif(tmp_path / "a.gif", images)
        with Image.open(tmp_path / "a.gif") as picture:
            for n in range(2):
                picture.seek(n)
                assert (
                    np.abs(
                        np.asarray(picture.convert("RGB"))[30, 30].astype(int) - images[0, n, 0, 0]
                    ).max()
                    <= 8
                )

    def test_a_gif_where_nothing_moves_still_lasts_its_time(self, tmp_path):
        save_gif(tmp_path / "a.gif", np.full((1, 5, 16, 16, 1), 90, np.uint8))
        with Image.open(tmp_path / "a.gif") as picture:
            assert picture.n_frames == 1 and picture.info["duration"] == 8 * 60
