"""rawgan.optim: optimizers against PyTorch or a scalar formula, on the flat parameter buffer."""

from math import sqrt

import numpy as np
import pytest
import torch

from rawgan.backend import to_host
from rawgan.init import dcgan_init
from rawgan.layers import BatchNorm, Linear, Parameters, Sequential
from rawgan.optim import SGD, Adam, LinearDecay, RMSprop
from tests.support.reference import assert_close, assert_same

STEPS = 20
everyone = pytest.mark.parametrize("make", [SGD, Adam, RMSprop])


@pytest.fixture
def parameters(device, rng):
    net = Sequential(Linear(5, 7), BatchNorm(7), Linear(7, 1))
    dcgan_init(net, rng)
    return Parameters(net, device, np.float64)


def gradients(parameters, steps=STEPS):
    """Return host gradients of many magnitudes, some exactly 0."""
    rng, n = np.random.default_rng(1), parameters.flat.size
    return [
        rng.normal(size=n) * 10 ** rng.uniform(-7, 2, n) * (rng.random(n) < 0.9)
        for _ in range(steps)
    ]


def check(device, optimizer, twin, schedule=lambda t: 1.0):
    """Compare 20 steps with twin([theta]), a PyTorch optimizer with a scheduled learning rate."""
    theta = torch.tensor(to_host(optimizer.parameters.flat), requires_grad=True)
    twin = twin([theta])
    schedule = torch.optim.lr_scheduler.LambdaLR(twin, schedule)
    for g in gradients(optimizer.parameters):
        optimizer.step(device.asarray(g))
        theta.grad = torch.tensor(g)
        twin.step()
        schedule.step()
        assert_close(optimizer.parameters.flat, theta.detach())


class TestAgainstPyTorch:
    def test_sgd(self, device, parameters):
        check(device, SGD(parameters, 1e-2), lambda p: torch.optim.SGD(p, 1e-2))

    @pytest.mark.parametrize(
        "lr, betas, eps",
        [(1e-3, (0.9, 0.999), 1e-8), (2e-4, (0.5, 0.999), 1e-8), (1e-2, (0.0, 0.9), 1e-3)],
    )
    def test_adam(self, device, parameters, lr, betas, eps):
        check(
            device, Adam(parameters, lr, betas, eps), lambda p: torch.optim.Adam(p, lr, betas, eps)
        )

    @pytest.mark.parametrize("lr, rho, eps", [(1e-3, 0.9, 1e-7), (5e-5, 0.99, 1e-8)])
    def test_rmsprop(self, device, parameters, lr, rho, eps):
        check(
            device,
            RMSprop(parameters, lr, rho, eps),
            lambda p: torch.optim.RMSprop(p, lr, rho, eps),
        )

    def test_rmsprop_with_decay(self, device, parameters):
        optimizer = RMSprop(parameters, 1e-3, decay=0.1)
        check(
            device,
            optimizer,
            lambda p: torch.optim.RMSprop(p, 1e-3, 0.9, 1e-7),
            lambda t: 1 / (1 + 0.1 * t),
        )

    @everyone
    def test_linear_decay(self, device, parameters, make):
        """The rate falls linearly to 0 in the 20 steps, as by PyTorch's scheduler."""
        optimizer, twins = (
            make(parameters, 1e-2),
            {
                SGD: lambda p: torch.optim.SGD(p, 1e-2),
                Adam: lambda p: torch.optim.Adam(p, 1e-2),
                RMSprop: lambda p: torch.optim.RMSprop(p, 1e-2, 0.9, 1e-7),
            },
        )
        decay, step = LinearDecay(STEPS, optimizer), optimizer.step

        def decayed_step(g):
            decay.set_rates(optimizer.t)
            step(g)

        optimizer.step = decayed_step
        check(device, optimizer, twins[make], lambda t: 1 - t / STEPS)
        for t in (STEPS, STEPS + 5):
            decay.set_rates(t)
            assert optimizer.lr == 0
        decay.set_rates(0)
        assert optimizer.lr == 1e-2

    def test_decay_in_the_last_third(self, parameters):
        """With parts=3 the rate is constant, and falls linearly to 0 over the last third."""
        optimizer = SGD(parameters, 1e-2)
        decay = LinearDecay(9, optimizer, parts=3)
        rates = []
        for t in range(11):
            decay.set_rates(t)
            rates.append(optimizer.lr)
        assert_close(rates, [1e-2] * 7 + [2e-2 / 3, 1e-2 / 3, 0, 0])


@everyone
def test_reset_begins_anew(make, device, parameters):
    """After it, a step is that of a new optimizer at the same parameters."""
    optimizer, first = make(parameters), make(parameters)
    *before, last = (device.asarray(g) for g in gradients(parameters, 4))
    for g in before:
        optimizer.step(g)
    theta = to_host(parameters.flat).copy()
    optimizer.reset()
    optimizer.step(last)
    after = to_host(parameters.flat).copy()
    parameters.flat[...] = device.asarray(theta)
    first.step(last)
    assert_same(after, parameters.flat)
    assert optimizer.t == 1


class TestByHand:
    def test_defaults(self, parameters):
        """Adam's defaults are those of Algorithm 1, RMSprop's those of Keras."""
        adam, rmsprop = Adam(parameters), RMSprop(parameters)
        assert (adam.lr, adam.betas, adam.eps) == (1e-3, (0.9, 0.999), 1e-8)
        assert (rmsprop.lr, rmsprop.rho, rmsprop.eps, rmsprop.decay) == (1e-3, 0.9, 1e-7, 0)

    def test_adams_first_step(self, device, parameters):
        """At t = 1 the bias corrections give mhat = g and vhat = g^2 for any betas."""
        theta, (g,) = to_host(parameters.flat).copy(), gradients(parameters, 1)
        optimizer = Adam(parameters, 0.3, (0.7, 0.8), 0.01)
        optimizer.step(device.asarray(g))
        assert_close(parameters.flat, theta - 0.3 * g / (np.abs(g) + 0.01))
        assert_close(optimizer.slots["m"], 0.3 * g)
        assert_close(optimizer.slots["v"], 0.2 * g**2)

    def test_keras_epsilon(self, device):
        """epsilon_hat follows Keras' formula.

        In the first step it acts as 31.6 times the epsilon of Algorithm 1.
        """
        g = np.array([1e-3, -1e-5, 1e-6, 1e-7])
        parameters = Parameters(Linear(4, 1, bias=False), device, np.float64)
        optimizer = Adam(parameters, 1e-3, (0.9, 0.999), 1e-7, epsilon_hat=True)
        theta, m, v = np.zeros(4), 0, 0
        for t in range(1, 6):
            optimizer.step(device.asarray(g))
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            alpha = 1e-3 * sqrt(1 - 0.999**t) / (1 - 0.9**t)
            theta -= alpha * m / (np.sqrt(v) + 1e-7)
            assert_close(parameters.flat, theta)

    def test_keras_decay(self, device, parameters):
        """Keras' decay equals a value by hand; the first step has the full learning rate."""
        optimizer, theta, v = RMSprop(parameters, 1e-2, decay=0.5), float(parameters.flat[3]), 0.0
        for t, g in enumerate(gradients(parameters), start=1):
            optimizer.step(device.asarray(g))
            v = 0.9 * v + 0.1 * g[3] ** 2
            theta -= 1e-2 / (1 + 0.5 * (t - 1)) * g[3] / (sqrt(v) + 1e-7)
            assert_close(parameters.flat[3], theta)


class TestOnTheFlatBuffer:
    @everyone
    def test_a_step_moves_the_layers(self, parameters, make):
        """A step updates parameters in place: layers keep their views, and nothing else changes."""
        net, views = parameters.net, dict(parameters.net.params)
        before = {name: to_host(a).copy() for name, a in {**net.params, **net.buffers}.items()}
        make(parameters).step(parameters.flat * 0 + 1)
        for name, a in net.params.items():
            assert a is views[name]
            assert (to_host(a) < before[name]).all(), name
        for name, a in net.buffers.items():
            assert_same(a, before[name], name)
        assert_same(
            parameters.flat, np.concatenate([to_host(a).ravel() for a in net.params.values()])
        )

    @everyone
    def test_counts_from_one_and_leaves_the_gradient_alone(self, device, parameters, make):
        optimizer, (g,) = make(parameters), gradients(parameters, 1)
        gradient = device.asarray(g.copy())
        assert optimizer.t == 0
        for t in (1, 2, 3):
            optimizer.step(gradient)
            assert optimizer.t == t
        assert_same(gradient, g)

    @everyone
    def test_float32_stays_float32(self, device, make):
        parameters = Parameters(Sequential(Linear(5, 7)), device)
        flat = parameters.flat
        optimizer = make(parameters)
        optimizer.step(flat + 1)
        assert parameters.flat is flat
        assert {a.dtype for a in (flat, *optimizer.slots.values())} == {np.dtype(np.float32)}

    @everyone
    @pytest.mark.parametrize(
        "spoil, error",
        [
            pytest.param(lambda g: g[:-1], ValueError, id="short"),
            pytest.param(lambda g: g[None], ValueError, id="one axis more"),
            pytest.param(lambda g: g[:1], ValueError, id="would broadcast"),
            pytest.param(lambda g: g.astype(np.float32), ValueError, id="float32"),
            pytest.param(lambda g: g.tolist(), TypeError, id="list"),
        ],
    )
    def test_a_wrong_gradient_changes_nothing(self, device, parameters, make, spoil, error):
        optimizer, (g, h) = make(parameters), map(device.asarray, gradients(parameters, 2))
        optimizer.step(g)
        before = [to_host(a).copy() for a in (parameters.flat, *optimizer.slots.values())]
        with pytest.raises(error):
            optimizer.step(spoil(h))
        assert optimizer.t == 1
        for got, want in zip((parameters.flat, *optimizer.slots.values()), before, strict=True):
            assert_same(got, want)

    def test_gather_adds_passes_up(self, device, parameters, rng):
        """flatten_gradients adds up passes, counts a missing parameter as 0, and starts at zero."""
        g, h = (
            {name: rng.normal(size=shape) for name, shape in parameters.shapes.items()}
            for _ in range(2)
        )
        del h["1.gamma"]
        passes = [{name: device.asarray(a) for name, a in grads.items()} for grads in (g, h)]
        for _ in range(2):
            got = parameters.views(parameters.flatten_gradients(*passes))
            for name in parameters.shapes:
                assert_same(got[name], g[name] + h[name] if name in h else g[name], name)
        assert not to_host(parameters.flatten_gradients()).any()
