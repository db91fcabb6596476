"""Precision, recall, class metrics and copies, on cases with known values."""

import numpy as np
import pytest

from rawgan.metrics.classes import class_entropy, conditional_accuracy
from rawgan.metrics.memorisation import memorisation
from rawgan.metrics.neighbours import nearest, squared_distances
from rawgan.metrics.precision_recall import precision_recall
from tests.support.reference import assert_close


def blob(rng, centre, N=60, d=4):
    return rng.normal(size=(N, d)) * 0.1 + centre


class TestPrecisionRecall:
    def test_one_distribution(self, rng):
        precision, recall = precision_recall(*rng.normal(size=(2, 500, 4)))
        assert precision > 0.9 and recall > 0.9

    def test_far_apart(self, rng):
        assert precision_recall(blob(rng, 0), blob(rng, 9)) == (0, 0)

    def test_one_mode_of_two(self, rng):
        """One mode of two has full precision and half recall, as in mode collapse."""
        real, fake = np.concatenate([blob(rng, 0), blob(rng, 9)]), blob(rng, 0)
        precision, recall = precision_recall(real, fake)
        assert precision > 0.85 and 0.4 < recall <= 0.5

    def test_two_modes_of_one(self, rng):
        """If half of the samples lie off the data, precision is half and recall full."""
        real, fake = blob(rng, 0), np.concatenate([blob(rng, 0), blob(rng, 9)])
        precision, recall = precision_recall(real, fake)
        assert 0.4 < precision <= 0.5 and recall > 0.85

    def test_radii_on_a_line(self):
        """On a line the radii of k-nearest neighbours are exact, borders included.

        With k = 2 the reals 0, 1, 3, 7 have radii 3, 2, 3, 6 and cover -3 ... 13: 13.1 and -3.1 lie
        outside, 13 and -3 on the border.
        """
        real = np.array([[0.0], [1], [3], [7]])
        fake = np.array([[-3.1], [-3], [5], [13], [13.1]])
        assert precision_recall(real, fake, k=2)[0] == 3 / 5

    def test_the_point_itself_is_no_neighbour(self):
        """A point is not its own neighbour.

        With k = 1, points in pairs reach exactly their partner; otherwise nothing would be inside.
        """
        real = np.array([[0.0], [1], [100], [101]])
        assert precision_recall(real, real + 0.5, k=1) == (1, 1)

    def test_collapse_to_one_point_of_the_data(self, rng):
        """A radius of exactly 0 covers exactly its point, also where rounding is coarse."""
        real = rng.normal(size=(50, 128)) + 1e4
        precision, recall = precision_recall(real, np.repeat(real[:1], 20, 0))
        assert precision == 1 and recall == 1 / 50

    def test_too_few(self, rng):
        with pytest.raises(ValueError, match="more than 3 of each, got 3 real and 9 fake"):
            precision_recall(rng.normal(size=(3, 2)), rng.normal(size=(9, 2)))


def test_nearest_in_blocks(rng, monkeypatch):
    monkeypatch.setattr("rawgan.metrics.neighbours.BLOCK", 70)
    x, y = rng.normal(size=(23, 5)), rng.normal(size=(17, 5))
    want = np.sort(np.linalg.norm(x[:, None] - y, axis=2), axis=1)
    for k in (1, 2, 17):
        assert_close(nearest(x, y, k), want[:, k - 1])


def test_points_that_coincide_have_distance_0(rng):
    """Only coincident points have distance 0.

    This holds far from the origin in many dimensions, where |x|^2 + |y|^2 - 2 x.y has rounding
    errors.
    """
    for dimensions, spread in ((128, 1.0), (1000, 1e3), (3, 1e-3)):
        x = rng.normal(size=(60, dimensions)) * spread + 1e4
        ((_, d),) = squared_distances(x, x)
        assert not d.diagonal().any()
        assert (d + np.eye(60) > 0).all()
    near = np.array([[0.0, 0.0], [1e-3, 0.0], [1.0, 1.0], [-1.0, 2.0]])
    ((_, d),) = squared_distances(near, near)
    assert_close(d[0, 1], 1e-6, scale=1e-4)


class TestClasses:
    def test_entropy(self):
        assert_close(class_entropy(np.arange(30) % 10, 10), np.log(10))
        assert class_entropy(np.full(9, 3), 10) == 0
        assert_close(
            class_entropy(np.array([0, 0, 0, 1]), 2), -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
        )

    def test_accuracy(self):
        assert conditional_accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 0])) == 0.5


class TestMemorisation:
    def test_new_samples_are_as_near_as_unseen_pictures(self, rng):
        train, test, samples = (rng.normal(size=(N, 5)) for N in (2000, 1000, 1000))
        ratio, copies = memorisation(samples, test, train)
        assert 0.9 < ratio < 1.1 and copies < 0.03

    def test_it_is_a_ratio_of_medians(self):
        """The score is a ratio of medians.

        Distances 1, 2, 30 of samples and 2, 5, 11 of the test set: medians 2 and 5, means 11 and 6.
        """
        train = np.zeros((1, 1))
        ratio, _ = memorisation(np.array([[1.0], [2], [30]]), np.array([[2.0], [5], [11]]), train)
        assert_close(ratio, 2 / 5)

    def test_copies_are_found(self, rng):
        train, test = rng.normal(size=(2000, 5)), rng.normal(size=(1000, 5))
        assert memorisation(train[:300], test, train) == (0, 1)

    def test_a_share_of_copies_with_noise(self, rng):
        train, test, fresh = (rng.normal(size=(N, 5)) for N in (2000, 1000, 600))
        samples = np.concatenate([fresh, train[:400] + 1e-4 * rng.normal(size=(400, 5))])
        assert 0.39 < memorisation(samples, test, train)[1] < 0.44

    def test_nonsense_is_far(self, rng):
        train, test = rng.normal(size=(2000, 5)), rng.normal(size=(1000, 5))
        ratio, copies = memorisation(test + 50, test, train)
        assert ratio > 20 and copies == 0

    def test_a_test_set_that_is_a_copy(self, rng):
        train = rng.normal(size=(100, 5))
        assert memorisation(train + 1, train, train) == (np.inf, 0)

    @pytest.mark.parametrize("share", [0.005, 0.02, 0.3, 0.99, 1])
    def test_test_pictures_that_stand_in_the_training_set(self, rng, share):
        """They are not unseen: a copier is found all the same, and fresh samples are no copies."""
        train, test, fresh = (rng.normal(size=(N, 5)) for N in (2000, 1000, 500))
        n = int(share * len(test))
        test[:n] = train[:n]
        assert memorisation(train[:300], test, train)[1] == 1
        assert memorisation(fresh, test, train)[1] < 0.15
        half = np.concatenate([train[:250], fresh[:250]])
        assert 0.5 <= memorisation(half, test, train)[1] < 0.6
