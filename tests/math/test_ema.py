"""Moving average of a generator: parameters and running statistics with one decay."""

import numpy as np
import pytest

from rawgan.backend import CPU
from rawgan.data import load
from rawgan.ema import EMA
from rawgan.layers import BatchNorm, Linear, Parameters, Sequential, SpectralNorm, state
from rawgan.models.dcgan import dcgan_generator
from rawgan.training.options import Options
from rawgan.training.session import Session
from tests.support.reference import assert_close, assert_same


def network():
    net = dcgan_generator(8, 1, 4, z=5)
    parameters = Parameters(net, dtype=np.float64)
    parameters.flat[:] = np.random.default_rng(0).normal(size=parameters.flat.shape)
    return net, parameters


def check_follows(decay: float = 0.9, steps: int = 7):
    """Assert that the average is the sum over all past states with weight (1 - decay) decay^age."""
    rng = np.random.default_rng(1)
    net, parameters = network()
    ema = EMA(parameters, decay)
    want = state(net)
    for _ in range(steps):
        parameters.flat += rng.normal(size=parameters.flat.shape)
        net.forward(rng.normal(size=(4, 5)))  # changes the running statistics
        ema.update()
        want = {name: decay * a + (1 - decay) * state(net)[name] for name, a in want.items()}
    got = state(ema.net)
    assert got.keys() == want.keys() and any(name.endswith("running_var") for name in got)
    for name in want:
        assert_close(got[name], want[name], name)


def test_parameters_and_running_statistics_follow():
    check_follows()


def test_unit_vectors_are_copied():
    """SpectralNorm's vector u is copied, as a mean of unit vectors has length below 1.

    Its weights are averaged.
    """
    net = Sequential(SpectralNorm(Linear(6, 4)), BatchNorm(4))
    rng = np.random.default_rng(0)
    parameters = Parameters(net, dtype=np.float64)
    parameters.flat[:] = rng.normal(size=parameters.flat.shape)
    ema = EMA(parameters, 0.9)
    for _ in range(3):
        parameters.flat[:] = rng.normal(size=parameters.flat.shape)
        net.forward(rng.normal(size=(5, 6)))
        ema.update()
        assert_same(ema.net.buffers["0.u"], net.buffers["0.u"])
        assert ema.net.buffers["0.u"] is not net.buffers["0.u"]
    assert (ema.net.params["0.w"] != net.params["0.w"]).all()
    assert (ema.net.buffers["1.running_mean"] != net.buffers["1.running_mean"]).all()


def test_every_buffer_is_declared():
    """The buffers that a layer lists as averaged exist, and are those expected."""
    for layer in (BatchNorm(3), SpectralNorm(Linear(2, 3)), Linear(2, 3)):
        assert set(layer.averaged) <= layer.buffers.keys()
    assert (
        set(BatchNorm(3).averaged) == BatchNorm(3).buffers.keys()
        and not SpectralNorm(Linear(2, 3)).averaged
    )


def test_the_average_of_a_run_begins_with_the_first_step():
    """A run's average starts with the first weights and includes the state after every step.

    With decay 0.5 the weight of a state halves with its age.
    """
    options = Options("dcgan", size=16, width=4, steps=1, batch=8, ema=0.5)
    session = Session(options, load("digits", 16), CPU)
    want = state(session.gan.generator)
    for _ in range(3):
        session.run_steps(session.done + 1)
        want = {
            name: 0.5 * a + 0.5 * state(session.gan.generator)[name] for name, a in want.items()
        }
        for name, a in state(session.average.net).items():
            assert_close(a, want[name], name, scale=1)
    session.close()


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
