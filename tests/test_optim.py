"""rawgan.optim: every optimizer against PyTorch's or a scalar formula, on the flat buffer that the layers look into."""

from math import sqrt

import numpy as np
import pytest
import torch

from rawgan.init import dcgan_init
from rawgan.layers import BatchNorm, Linear, Parameters, Sequential
from rawgan.optim import SGD, Adam, RMSprop

STEPS, TOLERANCE = 20, 1e-10
everyone = pytest.mark.parametrize("make", [SGD, Adam, RMSprop])


@pytest.fixture
def parameters():
    net = Sequential(Linear(5, 7), BatchNorm(7), Linear(7, 1))
    dcgan_init(net, np.random.default_rng(0))
    return Parameters(net, dtype=np.float64)


def gradients(parameters, steps=STEPS):
    """Gradients of many magnitudes, now and then exactly 0."""
    rng, n = np.random.default_rng(1), parameters.flat.size
    return [rng.standard_normal(n) * 10 ** rng.uniform(-7, 2, n) * (rng.random(n) < 0.9) for _ in range(steps)]


def assert_as_in_pytorch(optimizer, make_twin, schedule=lambda t: 1.0):
    theta = torch.tensor(optimizer.parameters.flat, requires_grad=True)
    twin = make_twin([theta])
    schedule = torch.optim.lr_scheduler.LambdaLR(twin, schedule)
    for g in gradients(optimizer.parameters):
        optimizer.step(g)
        theta.grad = torch.tensor(g)
        twin.step()
        schedule.step()
        np.testing.assert_allclose(optimizer.parameters.flat, theta.detach().numpy(), rtol=TOLERANCE, atol=1e-14)


class TestAgainstPyTorch:
    def test_sgd(self, parameters):
        assert_as_in_pytorch(SGD(parameters, 1e-2), lambda p: torch.optim.SGD(p, 1e-2))

    @pytest.mark.parametrize("lr, betas, eps", [(1e-3, (0.9, 0.999), 1e-8), (2e-4, (0.5, 0.999), 1e-8), (1e-2, (0.0, 0.9), 1e-3)])
    def test_adam(self, parameters, lr, betas, eps):
        assert_as_in_pytorch(Adam(parameters, lr, betas, eps), lambda p: torch.optim.Adam(p, lr, betas, eps))

    @pytest.mark.parametrize("lr, rho, eps", [(1e-3, 0.9, 1e-7), (5e-5, 0.99, 1e-8)])
    def test_rmsprop(self, parameters, lr, rho, eps):
        assert_as_in_pytorch(RMSprop(parameters, lr, rho, eps), lambda p: torch.optim.RMSprop(p, lr, rho, eps))

    def test_rmsprop_with_decay(self, parameters):
        optimizer = RMSprop(parameters, 1e-3, decay=0.1)
        assert_as_in_pytorch(optimizer, lambda p: torch.optim.RMSprop(p, 1e-3, 0.9, 1e-7), lambda t: 1 / (1 + 0.1 * t))


class TestByHand:
    def test_defaults(self, parameters):
        """Adam's are Algorithm 1's, RMSprop's are Keras'."""
        adam, rmsprop = Adam(parameters), RMSprop(parameters)
        assert (adam.lr, adam.betas, adam.eps) == (1e-3, (0.9, 0.999), 1e-8)
        assert (rmsprop.lr, rmsprop.rho, rmsprop.eps, rmsprop.decay) == (1e-3, 0.9, 1e-7, 0)

    def test_adams_first_step(self, parameters):
        """At t = 1 the corrections cancel the averaging: mhat = g and vhat = g^2, whatever the betas are."""
        theta, (g,) = parameters.flat.copy(), gradients(parameters, 1)
        optimizer = Adam(parameters, 0.3, (0.7, 0.8), 0.01)
        optimizer.step(g)
        np.testing.assert_allclose(parameters.flat, theta - 0.3 * g / (np.abs(g) + 0.01), rtol=TOLERANCE)
        np.testing.assert_allclose(optimizer.slots["m"], 0.3 * g, rtol=TOLERANCE)
        np.testing.assert_allclose(optimizer.slots["v"], 0.2 * g**2, rtol=TOLERANCE)

    def test_keras_decay(self, parameters):
        """One number, written out: the first step has the full learning rate."""
        optimizer, theta, v = RMSprop(parameters, 1e-2, decay=0.5), float(parameters.flat[3]), 0.0
        for t, g in enumerate(gradients(parameters), start=1):
            optimizer.step(g)
            v = 0.9 * v + 0.1 * g[3] ** 2
            theta -= 1e-2 / (1 + 0.5 * (t - 1)) * g[3] / (sqrt(v) + 1e-7)
            assert parameters.flat[3] == pytest.approx(theta, rel=TOLERANCE)


class TestOnTheFlatBuffer:
    @everyone
    def test_a_step_moves_the_layers(self, parameters, make):
        net, x = parameters.net, np.random.default_rng(2).standard_normal((4, 5))
        arrays, before = dict(net.params), {name: a.copy() for name, a in net.params.items()}
        buffers, y = {name: a.copy() for name, a in net.buffers.items()}, net.forward(x, train=False)[0]
        make(parameters).step(np.ones_like(parameters.flat))
        for name, a in net.params.items():
            assert a is arrays[name] and np.shares_memory(a, parameters.flat)
            assert (a < before[name]).all()
        for name, a in net.buffers.items():
            np.testing.assert_array_equal(a, buffers[name])
        assert (net.forward(x, train=False)[0] != y).all()

    @everyone
    def test_counts_from_one_and_leaves_the_gradient_alone(self, parameters, make):
        optimizer, (g,) = make(parameters), gradients(parameters, 1)
        assert optimizer.t == 0
        before = g.copy()
        for t in (1, 2, 3):
            optimizer.step(g)
            assert optimizer.t == t
        np.testing.assert_array_equal(g, before)

    @everyone
    def test_float32_stays_float32(self, make):
        parameters = Parameters(Sequential(Linear(5, 7)))
        flat = parameters.flat
        optimizer = make(parameters)
        optimizer.step(np.ones_like(flat))
        assert parameters.flat is flat
        assert {a.dtype for a in (flat, *optimizer.slots.values())} == {np.dtype(np.float32)}

    @everyone
    @pytest.mark.parametrize(
        "spoil, error",
        [
            (lambda g: g[:-1], ValueError),
            (lambda g: g[None], ValueError),
            (lambda g: g[:1], ValueError),  # would broadcast
            (lambda g: g.astype(np.float32), ValueError),
            (lambda g: g.tolist(), TypeError),
        ],
        ids=["short", "(1, P)", "(1,)", "float32", "list"],
    )
    def test_a_wrong_gradient_changes_nothing(self, parameters, make, spoil, error):
        optimizer, (g, h) = make(parameters), gradients(parameters, 2)
        optimizer.step(g)
        before = [a.copy() for a in (parameters.flat, *optimizer.slots.values())]
        with pytest.raises(error):
            optimizer.step(spoil(h))
        assert optimizer.t == 1
        for got, want in zip((parameters.flat, *optimizer.slots.values()), before):
            np.testing.assert_array_equal(got, want)

    def test_gather_adds_passes_up_afresh(self, parameters):
        g, h = ({name: rng.standard_normal(s) for name, s in parameters.shapes.items()} for rng in map(np.random.default_rng, (3, 4)))
        del h["1.gamma"]  # a pass without it counts as 0
        got = parameters.views(parameters.gather(g, h))
        for name in parameters.shapes:
            np.testing.assert_array_equal(got[name], g[name] + h[name] if name in h else g[name])
        np.testing.assert_array_equal(parameters.gather(g, h), parameters.gather(g, h))
        np.testing.assert_array_equal(parameters.gather(), np.zeros_like(parameters.flat))
