"""The moving average of a generator: parameters and running statistics follow with one decay."""

import numpy as np
import pytest
from reference import assert_close, assert_same

from rawgan.ema import EMA
from rawgan.layers import Parameters, state
from rawgan.models.dcgan import dcgan_generator


def network():
    net = dcgan_generator(8, 1, 4, z=5)
    parameters = Parameters(net, dtype=np.float64)
    parameters.flat[:] = np.random.default_rng(0).normal(size=parameters.flat.shape)
    return net, parameters


def check_follows(decay: float = 0.9, steps: int = 7):
    """After some steps the average is the sum over all past states with weights (1 - decay) decay^age."""
    rng = np.random.default_rng(1)
    net, parameters = network()
    ema = EMA(parameters, decay)
    want = state(net)
    for _ in range(steps):
        parameters.flat += rng.normal(size=parameters.flat.shape)
        net.forward(rng.normal(size=(4, 5)))  # moves the running statistics
        ema.update()
        want = {name: decay * a + (1 - decay) * state(net)[name] for name, a in want.items()}
    got = state(ema.net)
    assert got.keys() == want.keys() and any(name.endswith("running_var") for name in got)
    for name in want:
        assert_close(got[name], want[name], name)


def test_parameters_and_running_statistics_follow():
    check_follows()


def test_the_trained_network_is_left_alone_and_shares_nothing():
    net, parameters = network()
    before = state(net)
    ema = EMA(parameters, 0.5)
    ema.parameters.flat[:] = 7
    for name, a in state(net).items():
        assert_same(a, before[name])


def test_an_average_that_forgets_the_statistics_is_caught(monkeypatch):
    def update(self):
        self.parameters.flat += (1 - self.decay) * (self.source.flat - self.parameters.flat)

    monkeypatch.setattr(EMA, "update", update)
    with pytest.raises(AssertionError):
        check_follows()


def test_a_decay_of_one_never_follows():
    with pytest.raises(ValueError, match="decay"):
        EMA(network()[1], 1.0)
