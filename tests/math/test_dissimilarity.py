"""rawgan.metrics.dissimilarity: against SciPy, by its axioms, and examples/dissimilarity.py."""

import importlib.util
import os
import sys
from math import inf, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, wasserstein_distance

from rawgan.metrics.dissimilarity import earth_movers, jensen_shannon, kl, total_variation
from tests.support.process import run_process
from tests.support.reference import assert_close

EXAMPLE = Path(__file__).parents[2] / "examples" / "dissimilarity.py"
MEASURES = (
    total_variation,
    kl,
    jensen_shannon,
    lambda p, q: earth_movers(p, q, np.arange(len(p)) / 3),
)


def distributions(K, count):
    """Strategy for `count` distributions on K points with many zeros."""
    weights = arrays(np.float64, (count, K), elements=st.one_of(st.just(0.0), st.floats(1e-6, 1)))
    return weights.filter(lambda w: w.any(1).all()).map(lambda w: w / w.sum(1, keepdims=True))


def several(count):
    return st.integers(1, 9).flatmap(lambda K: distributions(K, count))


def draw(rng, K, zeros=False):
    p = rng.exponential(size=K) * (rng.random(K) < (0.6 if zeros else 2))
    p[K // 2] += 0.1
    return p / p.sum()


class TestAgainstSciPy:
    """Measures equal SciPy's; the scale of all these values is 1, as assert_close assumes."""

    @pytest.mark.parametrize("K", [1, 2, 7, 101])
    @pytest.mark.parametrize("zeros", [False, True])
    def test_values(self, rng, K, zeros):
        for _ in range(20):
            p, q, x = draw(rng, K, zeros), draw(rng, K, zeros), np.sort(rng.normal(size=K)) * 3
            want = entropy(p, q)
            assert kl(p, q) == inf if want == inf else np.isclose(kl(p, q), want, 1e-12, 1e-14)
            assert_close(jensen_shannon(p, q), jensenshannon(p, q) ** 2, scale=1)
            assert_close(earth_movers(p, q, x), wasserstein_distance(x, x, p, q), scale=1)

    def test_positions_that_coincide(self):
        p, q, x = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.2, 0.7]), np.array([0.0, 2.0, 2.0])
        assert_close(earth_movers(p, q, x), wasserstein_distance(x, x, p, q))

    def test_float32_and_lists(self):
        """A float32 distribution whose sum is 1 up to rounding is accepted."""
        p, q = np.float32([0.1, 0.2, 0.7]), [0.6, 0.3, 0.1]
        assert_close(kl(p, q), entropy(p.astype(np.float64), q), scale=1)


class TestByHand:
    def test_four_measures_of_two_points(self):
        """All measures of two Bernoulli distributions equal their closed forms."""
        p, q = np.array([0.75, 0.25]), np.array([0.25, 0.75])
        assert_close(total_variation(p, q), 0.5)
        assert_close(kl(p, q), 0.5 * log(3))
        assert_close(jensen_shannon(p, q), 0.75 * log(1.5) - 0.25 * log(2))
        assert_close(earth_movers(p, q, np.array([-1.0, 4.0])), 2.5)

    @pytest.mark.parametrize("theta", [1, 2, 40])
    def test_parallel_lines(self, theta):
        """Of distributions on one point each, only earth mover's depends on their distance.

        Arjovsky et al., example 1.
        """
        p, q = np.eye(41)[0], np.eye(41)[theta]
        assert (total_variation(p, q), jensen_shannon(p, q), kl(p, q)) == (1, log(2), inf)
        assert earth_movers(p, q, np.arange(41) / 8) == theta / 8

    def test_zeros(self):
        """0 log 0 = 0, also against 0; p > 0 against 0 is infinite, in one direction only."""
        p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.75, 0.0])
        assert_close(kl(p, q), 0.5 * log(2) + 0.5 * log(2 / 3))
        p, q = np.array([0.0, 1.0]), np.array([0.5, 0.5])
        assert_close(kl(p, q), log(2))
        assert kl(q, p) == inf

    def test_smallest_numbers(self):
        """Neither p / q nor (p + q) / 2 is computed: one would overflow, the other underflow."""
        p, q = np.array([1.0, 0.0]), np.array([5e-324, 1.0])
        assert_close(kl(p, q), -log(5e-324))
        assert jensen_shannon(p, q) == log(2)


class TestProperties:
    @given(several(2))
    def test_ranges_and_symmetry(self, pq):
        p, q = pq
        tv, js, em = (MEASURES[i](p, q) for i in (0, 2, 3))
        assert 0 <= tv <= 1
        assert 0 <= js <= log(2)
        assert 0 <= em <= (len(p) - 1) / 3 * (1 + 1e-12)
        assert 0 <= kl(p, q) <= inf
        for measure, value in zip((MEASURES[i] for i in (0, 2, 3)), (tv, js, em)):
            assert np.isclose(measure(q, p), value, 1e-12, 1e-15)

    @given(several(1))
    def test_same(self, p):
        for measure in MEASURES:
            assert measure(p[0], p[0]) < 1e-15

    @given(several(3))
    def test_triangle_inequality(self, pqr):
        """The triangle inequality holds for the two metrics and the root of Jensen-Shannon."""
        p, q, r = pqr
        for measure in (total_variation, MEASURES[3], lambda p, q: jensen_shannon(p, q) ** 0.5):
            assert measure(p, r) <= measure(p, q) + measure(q, r) + 1e-7

    @given(several(2))
    def test_inequalities_between_them(self, pq):
        """Pinsker's inequality 2 TV^2 <= KL holds, JS <= log 2 TV, and EM is bounded by TV.

        EM lies between TV times the smallest and TV times the largest distance.
        """
        p, q = pq
        tv, em = total_variation(p, q), MEASURES[3](p, q)
        assert 2 * tv**2 <= kl(p, q) + 1e-12
        assert jensen_shannon(p, q) <= log(2) * tv + 1e-12
        assert tv / 3 - 1e-12 <= em <= tv * (len(p) - 1) / 3 + 1e-12

    @given(distributions(6, 2), st.floats(-5, 5), st.floats(0, 5))
    def test_earth_movers_moves_and_scales_with_the_positions(self, pq, shift, scale):
        x = np.array([-2.0, -1.5, 0.0, 0.1, 3.0, 3.5])
        assert np.isclose(
            earth_movers(*pq, shift + scale * x), scale * earth_movers(*pq, x), 1e-9, 1e-12
        )


HALF = np.array([0.5, 0.5])


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "p, words",
    [
        (np.array([0.5, 0.6]), "p is no distribution"),
        (np.array([1.5, -0.5]), "p is no distribution"),
        (np.array([np.nan, 1.0]), "p is no distribution"),
        (np.array([np.inf, 0.0]), "p is no distribution"),
        (np.array([0.2, 0.3, 0.5]), "one shape"),
        (np.array([[0.5, 0.5]]), "one shape"),
    ],
)
def test_what_is_no_distribution(measure, p, words):
    with pytest.raises(ValueError, match=words):
        measure(p, HALF)
    with pytest.raises(ValueError, match=words.replace("p is", "q is")):
        measure(HALF, p)


def test_empty_distributions():
    with pytest.raises(ValueError, match="p is no distribution"):
        total_variation([], [])


@pytest.mark.parametrize(
    "x", [[1.0, 0.0], [0.0, np.nan], [0.0, np.inf], [0.0, 1.0, 2.0], [[0.0, 1.0]]]
)
def test_what_are_no_positions(x):
    with pytest.raises(ValueError, match="ascending"):
        earth_movers(HALF, HALF, np.array(x))


class TestExample:
    @staticmethod
    def start(cwd, *args):
        command = [sys.executable, str(EXAMPLE), *map(str, args)]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        return run_process(command, cwd=cwd, env=environment, timeout=120)

    def test_picture(self, tmp_path):
        done = self.start(tmp_path)
        assert done.returncode == 0, done.stderr
        with Image.open(tmp_path / "runs" / "dissimilarity-001" / "measures.png") as picture:
            assert picture.width > 1000
            assert len(picture.getcolors(10**6)) > 50

    def test_nothing_is_overwritten(self, tmp_path):
        (tmp_path / "mine.png").write_bytes(b"mine")
        done = self.start(tmp_path, "--out", "mine.png")
        assert done.returncode == 2
        assert done.stderr == "error: mine.png is there already; give --out another name\n"
        assert (tmp_path / "mine.png").read_bytes() == b"mine"

    def test_other_kinds_of_pictures(self, tmp_path):
        done = self.start(tmp_path, "--out", "mine.jpg")
        assert (done.returncode, done.stderr) == (
            2,
            "error: the picture is a PNG, but mine.jpg does not end in .png\n",
        )
        assert not list(tmp_path.iterdir())

    def test_what_it_shows(self):
        """The curves are those that the panels' captions describe: flat, infinite, and theta."""
        spec = importlib.util.spec_from_file_location("example", EXAMPLE)
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        for shape in (example.bump, example.point):
            for theta in (0.01, 0.5, 1.0, 2.0, 3.0):
                p, q = shape(0), shape(theta)
                assert_close(earth_movers(p, q, example.X), theta)
                assert kl(p, q) == inf
                if theta >= 1 or shape is example.point:
                    assert_close(total_variation(p, q), 1)
                    assert_close(jensen_shannon(p, q), log(2))
