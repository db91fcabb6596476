"""OneHot, Embedding, and Condition, which concatenates their output to its input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rawgan.backend import to_host
from rawgan.layers import (
    BatchNorm,
    Condition,
    Conv2d,
    Embedding,
    LeakyReLU,
    Linear,
    OneHot,
    Planes,
    Sequential,
    Tanh,
)
from tests.support.reference import assert_close, assert_same, check_layer, randomize, tensor

LABELS = np.array([2, 0, 2, 4, 2])  # one label twice, some once, some never


@pytest.mark.parametrize("integer", [np.uint8, np.int32, np.int64])
def test_one_hot(device, integer):
    layer = OneHot(5)
    labels = LABELS.astype(integer)
    y, cache = layer.forward(device.asarray(labels))
    assert y.dtype == layer.dtype
    assert_same(y, F.one_hot(torch.from_numpy(LABELS), 5).numpy().astype(np.float32))
    assert layer.backward(y, cache) == (None, {})


@pytest.mark.parametrize("integer", [np.uint8, np.int32, np.int64])
def test_embedding(device, rng, integer):
    layer = Embedding(5, 3)
    randomize(layer, rng, device)
    w, dy = tensor(layer.params["w"]).requires_grad_(), rng.normal(size=(5, 3))
    want = F.embedding(torch.from_numpy(LABELS), w)
    (dw,) = torch.autograd.grad(want, w, tensor(dy))
    y, cache = layer.forward(device.asarray(LABELS.astype(integer)))
    assert_close(y, want.detach())
    dx, grads = layer.backward(device.asarray(dy), cache)
    assert dx is None and grads.keys() == {"w"}
    assert_close(grads["w"], dw, "dw")
    assert not to_host(grads["w"])[[1, 3]].any()
    assert layer.backward(device.asarray(dy), cache, need_grads=False) == (None, {})


def one_hot(_):
    return F.one_hot(torch.from_numpy(LABELS), 5).double()


def embedding(p):
    return F.embedding(torch.from_numpy(LABELS), p["inner.w"])


def perceptron(p):
    c = F.embedding(torch.from_numpy(LABELS), p["inner.0.w"])
    return torch.tanh(F.linear(c, p["inner.1.w"], p["inner.1.b"]))


INNER = {
    "OneHot": (OneHot(5), one_hot),
    "Embedding": (Embedding(5, 3), embedding),
    "a network": (Sequential(Embedding(5, 3), Linear(3, 4), Tanh()), perceptron),
}


@pytest.mark.parametrize("inner, f", INNER.values(), ids=INNER)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_condition(device, rng, inner, f, dtype, gaps):
    x = rng.normal(size=(5, 2)).astype(dtype)
    check_layer(
        Condition(inner),
        x,
        lambda x, p: torch.cat([x, f(p)], -1),
        device=device,
        labels=LABELS,
        gaps=gaps,
    )


def test_condition_of_an_image(device, rng):
    check_layer(
        Condition(Sequential(OneHot(5), Planes(4, 3))),
        rng.normal(size=(5, 4, 3, 2)),
        lambda x, p: torch.cat([x, one_hot(p)[:, None, None].expand(5, 4, 3, 5)], -1),
        device=device,
        labels=LABELS,
    )


def test_condition_below_curvature(device, rng):
    """Layers after a Condition may have a second derivative, which reaches the embedding."""

    def f(x, p):
        y = F.linear(
            torch.cat([x, F.embedding(torch.from_numpy(LABELS), p["0.inner.w"])], -1),
            p["1.w"],
            p["1.b"],
        )
        y = F.batch_norm(y, None, None, p["2.gamma"], p["2.beta"], True)
        return F.linear(F.leaky_relu(y, 0.2), p["4.w"])

    net = Sequential(
        Condition(Embedding(5, 3)),
        Linear(5, 4),
        BatchNorm(4),
        LeakyReLU(),
        Linear(4, 1, bias=False),
    )
    check_layer(net, rng.normal(size=(5, 2)), f, device=device, labels=LABELS)


def test_condition_only_for_the_weights(rng):
    net = Sequential(Condition(Sequential(OneHot(5), Planes(4, 4))), Conv2d(7, 3, 3))
    randomize(net, rng)
    y, cache = net.forward((rng.normal(size=(5, 4, 4, 2)), LABELS))
    dx, grads = net.backward(y, cache, need_dx=False)
    assert dx is None and grads.keys() == {"1.w", "1.b"}


@pytest.mark.parametrize("layer", [OneHot(5), Embedding(5, 3)], ids=repr)
@pytest.mark.parametrize(
    "labels, error, message",
    [
        ([0, 5], ValueError, r"labels must lie in \[0, 5\), got 0 to 5"),
        ([-1, 3], ValueError, r"labels must lie in \[0, 5\), got -1 to 3"),
        ([0.0, 1.0], TypeError, r"labels must be a row of integers, got float64 of shape \(2,\)"),
        ([True, False], TypeError, r"labels must be a row of integers, got bool of shape \(2,\)"),
        ([[0, 1]], TypeError, r"labels must be a row of integers, got int64 of shape \(1, 2\)"),
    ],
)
def test_wrong_labels(layer, labels, error, message):
    with pytest.raises(error, match=f"layer 0, {type(layer).__name__}.*: {message}"):
        Sequential(layer).forward(np.array(labels))


def test_condition_that_does_not_fit():
    layer = Condition(OneHot(5))
    with pytest.raises(
        ValueError,
        match=r"Condition: x has shape \(5, 4, 4, 1\), which a condition of \(5, 5\) cannot join",
    ):
        layer.forward((np.zeros((5, 4, 4, 1), np.float32), LABELS))
    with pytest.raises(ValueError, match=r"x has shape \(3, 2\)"):
        layer.forward((np.zeros((3, 2), np.float32), LABELS))


@pytest.mark.parametrize("layer", [OneHot(5), Embedding(5, 3)], ids=repr)
def test_labels_have_no_second_derivative(layer):
    net = Sequential(layer)
    y, cache = net.forward(LABELS)
    with pytest.raises(
        NotImplementedError, match=f"layer 0, {type(layer).__name__}.* has no double_backward"
    ):
        net.double_backward(y, y, cache)


# Known mistakes of other implementations: with each of them, the check of this file fails.


def overwriting(layer, dy, cache, need_dx=True, need_grads=True):
    dw = np.zeros_like(layer.params["w"])
    dw[cache] = dy
    return None, {"w": dw} if need_grads else {}


def off_by_one(layer, dy, cache, need_dx=True, need_grads=True):
    dw = np.zeros_like(layer.params["w"])
    np.add.at(dw, (cache + 1) % layer.K, dy)
    return None, {"w": dw} if need_grads else {}


@pytest.mark.parametrize("wrong", [overwriting, off_by_one])
def test_mistake_is_found(monkeypatch, rng, wrong):
    x, f = rng.normal(size=(5, 2)), lambda x, p: torch.cat([x, embedding(p)], -1)
    monkeypatch.setattr(Embedding, "backward", wrong)
    with pytest.raises(AssertionError):
        check_layer(Condition(Embedding(5, 3)), x, f, labels=LABELS)
