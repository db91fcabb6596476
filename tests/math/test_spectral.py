"""Spectral normalisation against autograd with u and v constant, and its convergence."""

import numpy as np
import pytest
import torch

from rawgan import layers as L
from rawgan.penalties import WGANGP
from tests.support.reference import assert_close, assert_same, check_layer, randomize

INNER = {
    "linear": (lambda: L.Linear(6, 4), (5, 6)),
    "linear without bias": (lambda: L.Linear(6, 4, bias=False), (5, 6)),
    "conv": (lambda: L.Conv2d(3, 4, 3, 2, 1), (2, 7, 6, 3)),
}


def normalised(layer, x, p, train):
    """Return the inner layer in PyTorch with w / sigma, for the u and v of the forward pass."""
    w, u = p["w"], torch.from_numpy(layer.buffers["u"].copy())
    W = w.reshape(len(w), -1)
    with torch.no_grad():
        v = torch.nn.functional.normalize(u @ W, dim=0)
        if train:
            u = torch.nn.functional.normalize(W @ v, dim=0)
    wbar = w / (u @ W @ v)
    if w.ndim == 2:
        return torch.nn.functional.linear(x, wbar, p.get("b"))
    y = torch.nn.functional.conv2d(
        x.movedim(-1, 1), wbar.movedim(-1, 1), p["b"], layer.inner.stride, layer.inner.pad
    )
    return y.movedim(1, -1)


@pytest.mark.parametrize("name", INNER)
def test_inference(name):
    make, shape = INNER[name]
    layer = L.SpectralNorm(make())
    check_layer(
        layer,
        np.random.default_rng(0).normal(size=shape),
        lambda x, p: normalised(layer, x, p, False),
        train=False,
    )


@pytest.mark.parametrize("name", INNER)
def test_training_moves_u_once(name):
    make, shape = INNER[name]
    layer, rng = L.SpectralNorm(make()), np.random.default_rng(0)
    parameters = randomize(layer, rng)
    x = rng.normal(size=shape)
    p = {key: torch.tensor(a.copy(), requires_grad=True) for key, a in layer.params.items()}
    want = normalised(layer, torch.from_numpy(x), p, True)
    y, cache = layer.forward(x)
    assert_close(y, want.detach().numpy(), "y")
    dy = rng.normal(size=y.shape)
    want_grads = torch.autograd.grad(want, list(p.values()), torch.from_numpy(dy))
    _, grads = layer.backward(dy, cache)
    for key, g in zip(p, want_grads):
        assert_close(grads[key], g.numpy(), key)
    u = layer.buffers["u"].copy()
    layer.forward(x, train=False)
    assert_same(layer.buffers["u"], u)
    assert parameters.flat.size == sum(a.numel() for a in p.values())


@pytest.mark.parametrize("name", INNER)
def test_sigma_becomes_the_largest_singular_value(name):
    make, shape = INNER[name]
    layer, rng = L.SpectralNorm(make()), np.random.default_rng(0)
    randomize(layer, rng)
    for _ in range(300):
        _, (_, wbar, sigma, _, _) = layer.forward(rng.normal(size=shape))
    values = np.linalg.svd(layer.params["w"].reshape(len(wbar), -1), compute_uv=False)
    assert_close(sigma, values[0])
    assert_close(np.linalg.svd(wbar.reshape(len(wbar), -1), compute_uv=False)[0], 1.0)


def test_caches_of_two_forwards_do_not_mix():
    layer, rng = L.SpectralNorm(L.Linear(6, 4)), np.random.default_rng(0)
    randomize(layer, rng)
    x, dy = rng.normal(size=(5, 6)), rng.normal(size=(5, 4))
    _, first = layer.forward(x)
    want = layer.backward(dy, first)[0]
    layer.params["w"] *= 3
    layer.forward(x)
    assert_same(layer.backward(dy, first)[0], want)


def test_a_penalised_critic_of_them():
    rng = np.random.default_rng(0)
    critic = L.Sequential(
        L.SpectralNorm(L.Conv2d(1, 3, 4, 2, 1)),
        L.LeakyReLU(0.2),
        L.Flatten(),
        L.SpectralNorm(L.Linear(48, 1)),
    )
    randomize(critic, rng)
    _, grads, _ = WGANGP()(critic, rng.normal(size=(4, 8, 8, 1)), train=False)
    assert (
        grads["0.w"].shape == (3, 4, 4, 1)
        and np.isfinite(grads["0.w"]).all()
        and grads["0.w"].any()
    )


def test_zero_weights_stay_numbers():
    """With zero weights, sigma = 0: outputs and gradients are finite, and the layer can learn.

    Gradients are those of a weight that is not divided.
    """
    layer, rng = L.SpectralNorm(L.Linear(6, 4)), np.random.default_rng(0)
    parameters = L.Parameters(layer)
    x, dy = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 6), (5, 4)))
    for train in (True, True, False):
        y, cache = layer.forward(x, train)
        _, grads = layer.backward(dy, cache)
        assert not y.any()
        assert_same(grads["w"], dy.T @ x)
    parameters.flat -= np.float32(0.1) * parameters.flatten_gradients(grads)
    for _ in range(200):
        y, (_, wbar, *_) = layer.forward(x)
    assert_close(np.linalg.svd(wbar.astype(np.float64), compute_uv=False)[0], 1.0, dtype=np.float32)


@pytest.mark.parametrize(
    "scale", [1e-30, 1e-22, 1e25, np.repeat([1e-30, 1e-10, 1, 1e20], 6), np.repeat([0, 1], 12)]
)
def test_weights_of_any_size_are_normalised(scale):
    """Weights are normalised even if their squares underflow or overflow float32.

    So they are where the rows of one matrix have very different sizes.
    """
    layer, rng = L.SpectralNorm(L.Linear(6, 4, bias=False)), np.random.default_rng(0)
    parameters = L.Parameters(layer)
    parameters.flat[:] = rng.normal(size=24) * scale
    for _ in range(300):
        _, (_, wbar, *_) = layer.forward(np.zeros((1, 6), np.float32))
    assert_close(np.linalg.svd(wbar.astype(np.float64), compute_uv=False)[0], 1.0, dtype=np.float32)


def test_double_backward_is_of_the_weight_of_its_forward():
    """double_backward uses the weights of its own forward pass, not those of a later one."""
    layer, rng = L.SpectralNorm(L.Linear(6, 4)), np.random.default_rng(0)
    randomize(layer, rng)
    x, dy, ddx = rng.normal(size=(5, 6)), rng.normal(size=(5, 4)), rng.normal(size=(5, 6))
    _, first = layer.forward(x)
    want = layer.double_backward(ddx, dy, first)
    layer.params["w"] *= -3
    layer.forward(x)
    got = layer.double_backward(ddx, dy, first)
    assert_same(got[0], want[0])
    assert_same(got[2]["w"], want[2]["w"])
