"""Feed of a training: prefetch in a thread, horizontal flips, and the position in the epoch."""

import json

import numpy as np
import pytest

from rawgan.backend import CPU
from rawgan.data import Batches, Images, to_float
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training.prefetch import Feed, Prefetcher
from tests.support.reference import assert_same


def pictures(n=50, size=8):
    rng = np.random.default_rng(1)
    return Images(
        rng.integers(256, size=(n, size, size, 1), dtype=np.uint8),
        np.arange(n) % 10,
        "noise",
        "",
        "",
    )


def feed(recipe="cgan", seed=0, **options):
    return Feed(RECIPES[recipe], pictures(), 8, Random(seed), CPU, **options)


def flat(step):
    """Return all arrays of a step as a flat list."""
    return [
        a
        for kind in step
        for samples in kind
        for a in (samples if isinstance(samples, tuple) else (samples,))
    ]


@pytest.mark.parametrize("recipe", ["cgan", "wgan_gp", "atienza_dcgan"])
def test_ahead_gives_the_same_as_one_after_another(recipe):
    plain, ahead = feed(recipe), Prefetcher(feed(recipe), 0)
    for step in range(12):
        assert (
            ahead.state == plain.state()
        )  # the state of what was taken, not of what is prefetched
        want, got = flat(plain.step(step)), flat(ahead.next())
        assert len(want) == len(got)
        for a, b in zip(got, want):
            assert_same(a, b)
    ahead.close()


def test_what_goes_wrong_in_the_thread_is_raised_by_take():
    broken = feed()
    broken.recipe.schedule.critic_steps(0)
    broken.real = lambda: 1 / 0
    ahead = Prefetcher(broken, 0)
    with pytest.raises(ZeroDivisionError):
        ahead.next()
    ahead.close()


@pytest.mark.parametrize("steps", [0, 1, 5, 6, 7, 13])
def test_state_and_restore(steps):
    """state and restore work within an epoch of six batches, at its end and after it.

    The state is restored into a feed that was already used.
    """
    one, other = feed(flip=True), feed(flip=True)
    for step in range(steps):
        one.step(step)
    state = one.state()
    for step in range(9):
        other.step(step)
    other.restore(state)
    for step in range(steps, steps + 15):
        for a, b in zip(flat(one.step(step)), flat(other.step(step))):
            assert_same(a, b)


def test_flipped_pictures_are_mirrored_left_to_right():
    plain, flipped = feed("dcgan"), feed("dcgan", flip=True)
    mirrored = 0
    for _ in range(40):
        x, y = plain.real(), flipped.real()
        for a, b in zip(x, y):
            same, other = (a == b).all(), (a[:, ::-1] == b).all()
            assert same != other
            mirrored += other
    assert 120 < mirrored < 200  # of 320
    assert_same(plain.z(), flipped.z())  # flips use a separate random stream


@pytest.mark.parametrize("recipe", ["dcgan", "cgan"])
@pytest.mark.parametrize("flip", [False, True])
def test_numbers_are_those_of_the_same_pictures(recipe, flip):
    """The indices for a planned step select the images that any other step gets, over epochs."""
    plain, numbered = feed(recipe, flip=flip), feed(recipe, flip=flip)
    images, labels = numbered.all_images()
    assert len(images) == 50 * (1 + flip) and (labels is None) == (recipe == "dcgan")
    for _ in range(20):
        want, index = plain.real(), numbered.next_indices()
        x, want_labels = want if recipe == "cgan" else (want, None)
        assert_same(to_float(images[index]), x)
        assert want_labels is None or (labels[index] == want_labels).all()
    assert numbered.state() == plain.state()


def test_flipping_leaves_the_pictures_as_they_are():
    data = pictures()
    before = data.images.copy()
    Feed(RECIPES["dcgan"], data, 8, Random(0), CPU, flip=True).real()
    assert_same(data.images, before)


def test_pixels_and_labels():
    data = pictures()
    x, labels = feed("atienza_cgan").real()
    order = next(Batches(data, 8, Random(0).stream("data")))
    assert_same(x, (to_float(data.images[order]) + 1) / 2)
    assert_same(labels, data.labels[order])


class TestBatches:
    @pytest.mark.parametrize("batch", [8, 10, 25, 50])
    def test_every_position_of_an_epoch_is_restored(self, batch):
        """Also the one after its last batch, of all pictures or of all but an incomplete one."""
        order = Batches(pictures(), batch, Random(0).stream("data"))
        for _ in range(2 * (50 // batch) + 1):
            again = Batches(pictures(), batch, Random(1).stream("data"))
            again.seek(json.loads(json.dumps(order.position())))
            for _ in range(3):
                assert_same(next(again), next(order))
            order.seek(again.position())
            next(order)

    @pytest.mark.parametrize("at", [1, -8, 56, 8.0, True, None, "8"])
    def test_positions_that_cannot_have_been(self, at):
        order = Batches(pictures(), 8, Random(0).stream("data"))
        with pytest.raises(ValueError):
            order.seek(order.position() | {"at": at})


def test_streams_stay_the_same_objects():
    """Restoring a feed keeps its generator objects, which layers and penalties refer to."""
    random = Random(3)
    dropout, later = random.stream("dropout"), None
    state = random.state()
    want = dropout.random(4)
    later = random.stream("later")
    later.random(7)
    random.restore(state)
    assert_same(dropout.random(4), want)
    assert random.stream("dropout") is dropout
    assert_same(random.stream("later").random(2), Random(3).stream("later").random(2))
