"""rawgan.random: streams depend on the whole seed and the whole name."""

import json

import numpy as np
import pytest

from rawgan.random import Random
from tests.support.reference import assert_same

NAMES = [
    "generator weights", "generator dropout", "generator", "discriminator weights",
    "discriminator dropout", "data order", "data",
    "judge weights", "judge data", "fixed z", "penalty", "plan",
]  # fmt: skip
SEEDS = [0, 1, 2**8, 2**16, 2**16 + 1, 2**32, 2**32 + 1, 2**63, 2**100 + 1]


def first(seed, name):
    return tuple(Random(seed).stream(name).integers(2**63, size=4))


def test_every_name_has_a_stream_of_its_own():
    """Every name has a different stream, also names with a common prefix."""
    assert len({first(0, name) for name in NAMES}) == len(NAMES)


def test_every_bit_of_the_seed_counts():
    assert len({first(seed, "data") for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_and_a_name_decide(seed):
    assert first(seed, "data") == first(seed, "data")


def test_a_seed_of_numpy_is_that_number():
    """The state of a seed that NumPy counted is JSON-serialisable, and its streams are the same."""
    random = Random(np.int64(3))
    random.stream("data")
    assert json.loads(json.dumps(random.state())) == random.state()
    assert_same(random.stream("data").random(5), Random(3).stream("data").random(5))


def test_one_stream_does_not_move_another():
    random = Random(3)
    random.stream("a").random(100)
    assert_same(random.stream("b").random(5), Random(3).stream("b").random(5))


def test_state_goes_back():
    random = Random(3)
    stream = random.stream("a")
    stream.random(7)
    before = random.state()
    want = np.concatenate([random.stream("a").random(3), random.stream("new").random(2)])
    random.restore(before)
    assert random.stream("a") is stream
    assert_same(
        np.concatenate([random.stream("a").random(3), random.stream("new").random(2)]), want
    )
