"""EqualizedLR and WeightNorm against autograd, and the first values that data give."""

from math import sqrt

import numpy as np
import pytest
import torch

from rawgan import layers as L
from rawgan.init import data_dependent_init, normal_init
from rawgan.layers.reparameterize import WeightNorm, fan_in
from rawgan.penalties import WGANGP
from tests.support.reference import assert_close, assert_same, check_layer, randomize
from tests.support.reference import torch_function as inner_twin

INNER = {
    "linear": (lambda: L.Linear(6, 4), (5, 6), (1,)),
    "linear without bias": (lambda: L.Linear(6, 4, bias=False), (1, 6), (1,)),
    "conv": (lambda: L.Conv2d(3, 4, 3, 2, 1), (2, 7, 6, 3), (1, 2, 3)),
    "transposed": (lambda: L.ConvTranspose2d(3, 2, 4, 2, 1), (2, 3, 5, 3), (0, 1, 2)),
}
over_inner = pytest.mark.parametrize("make, shape, axes", INNER.values(), ids=INNER)


def equalized(layer, gain):
    f, scale = inner_twin(layer.inner), gain / sqrt(fan_in(layer.inner))
    return lambda x, p: f(x, p | {"w": p["w"] * scale})


def weight_normed(layer, axes, g=None):
    """Return the layer in PyTorch; g: fixed scales."""
    f = inner_twin(layer.inner)

    def run(x, p):
        w = p["w"]
        length = w.pow(2).sum(axes, keepdim=True).sqrt()
        scale = (p["g"] if g is None else torch.from_numpy(g)).reshape(length.shape)
        rest = {name: a for name, a in p.items() if name != "g"}
        return f(x, rest | {"w": scale * w / length})

    return run


@over_inner
@pytest.mark.parametrize("gain", [1, sqrt(2)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_equalized(device, rng, make, shape, axes, gain, dtype, gaps):
    layer = L.EqualizedLR(make(), gain)
    x = rng.normal(size=shape).astype(dtype)
    check_layer(layer, x, equalized(layer, gain), device=device, gaps=gaps)


@over_inner
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_weight_norm(device, rng, make, shape, axes, dtype, gaps):
    layer = WeightNorm(make())
    x = rng.normal(size=shape).astype(dtype)
    check_layer(layer, x, weight_normed(layer, axes), device=device, gaps=gaps)


@over_inner
def test_scale_that_is_not_trained(rng, make, shape, axes):
    """The scale is a buffer: it has no gradient and no place in the flat parameters."""
    layer = WeightNorm(make(), trained_scale=False)
    ones = np.ones_like(layer.buffers["g"])
    parameters = L.Parameters(layer)
    assert parameters.flat.size == sum(a.size for a in make().params.values())
    assert_same(parameters.flat_buffers, ones)

    def f(x, p):
        return weight_normed(layer, axes, layer.buffers["g"].astype(np.float64))(x, p)

    check_layer(layer, rng.normal(size=shape), f)


def test_pytorchs_weight_norm_is_the_same(rng):
    """torch.nn.utils.parametrizations.weight_norm computes the same function."""
    layer = WeightNorm(L.Linear(6, 4))
    randomize(layer, rng)
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 4).double())
    p = {name: torch.from_numpy(a.copy()) for name, a in layer.params.items()}
    weights = theirs.parametrizations.weight
    weights.original0.data, weights.original1.data = p["g"][:, None], p["w"]
    theirs.bias.data = p["b"]
    x = rng.normal(size=(5, 6))
    assert_close(layer.forward(x)[0], theirs(torch.from_numpy(x)).detach().numpy())


def test_fan_in():
    for layer, n in (
        (L.Linear(6, 4), 6),
        (L.Conv2d(3, 4, 3), 27),
        (L.ConvTranspose2d(3, 2, 4), 48),
    ):
        assert fan_in(layer) == n


def test_outputs_of_an_equalized_layer_have_variance_one(rng):
    """With w ~ N(0, 1) and gain 1, unit inputs give outputs of variance 1, whatever the width."""
    for width in (10, 1000):
        layer = L.EqualizedLR(L.Linear(width, 400), 1)
        normal_init(layer, rng)
        y, _ = layer.forward(rng.normal(size=(400, width)).astype(np.float32))
        assert abs(y.std() - 1) < 0.1


def test_zero_direction_stays_a_number():
    layer = WeightNorm(L.Linear(6, 4))
    L.Parameters(layer)
    x, dy = np.ones((5, 6), np.float32), np.ones((5, 4), np.float32)
    y, cache = layer.forward(x)
    _, grads = layer.backward(dy, cache)
    assert not y.any()
    assert_same(grads["w"], dy.T @ x)


def test_caches_of_two_forwards_do_not_mix(rng):
    for layer in (L.EqualizedLR(L.Linear(6, 4)), WeightNorm(L.Linear(6, 4))):
        randomize(layer, rng)
        x, dy = rng.normal(size=(5, 6)), rng.normal(size=(5, 4))
        _, first = layer.forward(x)
        want = layer.backward(dy, first)[0]
        layer.params["w"][0] *= -3
        layer.forward(x)
        assert_same(layer.backward(dy, first)[0], want)


def test_a_penalised_critic_of_them(rng):
    critic = L.Sequential(
        *(L.EqualizedLR(L.Conv2d(1, 3, 4, 2, 1)), L.LeakyReLU(0.2), L.Flatten()),
        *(WeightNorm(L.Linear(48, 5)), L.Tanh(), WeightNorm(L.Linear(5, 1))),
    )
    randomize(critic, rng)
    _, grads, _ = WGANGP()(critic, rng.normal(size=(4, 8, 8, 1)))
    for name in ("0.w", "3.w", "3.g", "5.w", "5.g"):
        assert grads[name].shape == critic.params[name].shape and grads[name].any()


@pytest.mark.parametrize("wrap", [L.EqualizedLR, WeightNorm])
@pytest.mark.parametrize(
    "inner", [L.Tanh(), L.Sequential(L.Linear(2, 2)), L.SpectralNorm(L.Linear(2, 2))], ids=repr
)
def test_other_layers_are_refused(wrap, inner):
    with pytest.raises(TypeError, match=f"{wrap.__name__} takes a Linear, Conv2d or Conv"):
        wrap(inner)


# First values from data


def test_first_values_from_data(device, rng):
    """Every layer's outputs have mean 0 and standard deviation 1 over the batch."""
    net = L.Sequential(
        *(WeightNorm(L.Conv2d(2, 3, 3, 1, 1)), L.LeakyReLU(0.2)),
        *(WeightNorm(L.ConvTranspose2d(3, 4, 2, 2), trained_scale=False), L.Flatten()),
        WeightNorm(L.Linear(4 * 100, 6)),
    )
    randomize(net, rng, device)
    x = device.asarray(rng.normal(1, 3, (20, 5, 5, 2)))
    data_dependent_init(net, x)
    for layer in net.layers:
        x, _ = layer.forward(x)
        if isinstance(layer, WeightNorm):
            axes = tuple(range(x.ndim - 1))
            assert_close(x.mean(axes), np.zeros(x.shape[-1]), allowed=1e-10)
            assert_close(x.std(axes), np.ones(x.shape[-1]), allowed=1e-10)


def test_first_values_are_set_once(rng):
    layer = WeightNorm(L.Linear(3, 2))
    randomize(layer, rng)
    data_dependent_init(layer, rng.normal(size=(8, 3)))
    before = layer.params["g"].copy()
    layer.forward(rng.normal(5, 1, (8, 3)))
    assert_same(layer.params["g"], before)


@pytest.mark.parametrize(
    "layer, message",
    [
        (WeightNorm(L.Linear(3, 2, bias=False)), "need a bias"),
        (WeightNorm(L.Linear(3, 2)), "an output is constant over the batch"),
    ],
)
def test_first_values_that_data_cannot_give(layer, message):
    randomize(layer, np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"WeightNorm: .*{message}"):
        data_dependent_init(layer, np.ones((4, 3)))
    assert not layer.from_data


# Mistakes


def not_scaled(self, grads, saved):
    return grads


def not_projected(self, grads, saved):
    u, slope = saved
    dg = (grads["w"] * u).sum(self.axes, keepdims=True)
    return grads | {"w": slope * grads["w"], "g": dg.reshape(-1)}


@pytest.mark.parametrize(
    "layer, wrong, twin",
    [
        (L.EqualizedLR(L.Linear(6, 4), 1), not_scaled, lambda layer: equalized(layer, 1)),
        (WeightNorm(L.Linear(6, 4)), not_projected, lambda layer: weight_normed(layer, (1,))),
    ],
    ids=["gradient not scaled", "gradient along the direction"],
)
def test_mistake_is_found(monkeypatch, rng, layer, wrong, twin):
    monkeypatch.setattr(type(layer), "through_weight", wrong)
    with pytest.raises(AssertionError, match=": dw:"):
        check_layer(layer, rng.normal(size=(5, 6)), twin(layer))
