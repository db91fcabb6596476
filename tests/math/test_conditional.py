"""ConditionalBatchNorm and Projection against autograd, in networks that pass labels on."""

import numpy as np
import pytest
import torch

from rawgan import layers as L
from rawgan.gan import GAN
from rawgan.layers import conditional
from rawgan.losses import BCE
from rawgan.optim import SGD
from rawgan.parallel import Ranks
from rawgan.penalties import WGANGP
from tests.support.reference import assert_close, assert_same, check_layer, randomize

DTYPES = [np.float64, np.float32]
K = 4
LABELS = np.array([2, 0, 2, 3, 2])


def conditional_norm(layer, train):
    """Return ConditionalBatchNorm in PyTorch, with the layer's running statistics."""
    (norm,) = layer.layers

    def f(x, p):
        gamma, beta = (p[f"0.{name}"][LABELS] for name in ("gamma", "beta"))
        if x.ndim == 4:
            gamma, beta = gamma[:, None, None], beta[:, None, None]
        axes = tuple(range(x.ndim - 1))
        mu, var = x.mean(axes), x.var(axes, unbiased=False)
        if not train:
            mu, var = (torch.from_numpy(a.astype(np.float64)) for a in norm.buffers.values())
        return gamma * (x - mu) / (var + norm.eps).sqrt() + beta

    return f


@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 3, 2), (5, 1, 1, 1)])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gaps", [False, True])
def test_conditional_batch_norm(device, rng, shape, train, dtype, gaps):
    layer = L.ConditionalSequential(L.ConditionalBatchNorm(shape[-1], K, eps=0.03))
    x = rng.normal(0.5, 2, shape).astype(dtype)
    f = conditional_norm(layer, train)
    check_layer(layer, x, f, device=device, train=train, labels=LABELS, gaps=gaps)


def test_equal_rows_are_batch_norm(rng):
    """With one gamma and beta for all classes, value and running statistics are BatchNorm's."""
    layer, plain = L.ConditionalBatchNorm(3, K), L.BatchNorm(3)
    net = L.ConditionalSequential(layer)
    for n in (net, plain):
        L.Parameters(n, dtype=np.float64)
    for name in ("gamma", "beta"):
        layer.params[name][...] = plain.params[name][...] = rng.normal(size=3)
    for train in (True, True, False):
        x = rng.normal(0.5, 2, (5, 4, 3, 3))
        assert_close(net.forward((x, LABELS), train)[0], plain.forward(x, train)[0])
    for name, a in plain.buffers.items():
        assert_close(layer.buffers[name], a, name)


def projection(x, p, labels=LABELS, at="0."):
    e = p[f"{at}inner.w"][labels]
    return x @ p[f"{at}linear.w"].T + p[f"{at}linear.b"] + (e * x).sum(1, keepdim=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gaps", [False, True])
def test_projection(device, rng, dtype, gaps):
    layer = L.ConditionalSequential(L.Projection(L.Linear(3, 1), L.Embedding(K, 3)))
    x = rng.normal(size=(5, 3)).astype(dtype)
    check_layer(layer, x, projection, device=device, labels=LABELS, gaps=gaps)


def critic():
    return L.ConditionalSequential(
        L.Residual(L.Sequential(L.Linear(4, 4), L.Tanh())),
        *(L.Linear(4, 3), L.Softplus()),
        L.Projection(L.Linear(3, 1), L.Embedding(K, 3)),
    )


def critic_twin(x, p):
    x = x + (x @ p["0.inner.0.w"].T + p["0.inner.0.b"]).tanh()
    x = -torch.nn.functional.logsigmoid(-(x @ p["1.w"].T + p["1.b"]))
    return projection(x, p, at="3.")


def test_projection_critic(device, rng):
    check_layer(critic(), rng.normal(size=(5, 4)), critic_twin, device=device, labels=LABELS)


def test_penalty_of_a_projection_critic(rng):
    net = critic()
    randomize(net, rng)
    x = rng.normal(size=(5, 4))
    value, grads, _ = WGANGP()(net, x, LABELS)
    p = {name: torch.tensor(a.copy(), requires_grad=True) for name, a in net.params.items()}
    points = torch.tensor(x, requires_grad=True)
    (g,) = torch.autograd.grad(critic_twin(points, p).sum(), points, create_graph=True)
    want = 10 * ((g.norm(dim=1) - 1) ** 2).mean()
    assert_close(value, want.item())
    want.backward()
    for name, t in p.items():
        if t.grad is not None and name != "3.linear.b":
            assert_close(grads[name], t.grad.numpy(), name)


def test_labels_reach_the_layers_inside_and_leave_them(rng):
    """A block deep in a generator gets the labels; after the pass the layer has none."""
    block = L.Sequential(L.ConditionalBatchNorm(2, K), L.ReLU(), L.Upsample2d())
    net = L.ConditionalSequential(
        *(L.Linear(3, 8), L.Reshape(2, 2, 2)), L.Residual(block, L.Upsample2d())
    )
    randomize(net, rng)
    z = rng.normal(size=(5, 3))
    one, _ = net.forward((z, LABELS), train=False)
    other, _ = net.forward((z, (LABELS + 1) % K), train=False)
    assert one.shape == (5, 4, 4, 2) and (one != other).any()
    assert block.layers[0].labels is None


def test_caches_keep_their_labels(rng):
    net = critic()
    randomize(net, rng)
    x, dy = rng.normal(size=(5, 4)), rng.normal(size=(5, 1))
    _, cache = net.forward((x, LABELS))
    want = net.backward(dy, cache)[0]
    net.forward((x, (LABELS + 1) % K))
    assert_same(net.backward(dy, cache)[0], want)


def test_spectral_norm_of_both_parts(rng):
    """The projection of SN-GAN normalises the row and the table, each by its own sigma."""
    head = L.Projection(L.SpectralNorm(L.Linear(3, 1)), L.SpectralNorm(L.Embedding(K, 3)))
    net = L.ConditionalSequential(head)
    randomize(net, rng)
    x, dy = rng.normal(size=(5, 3)), rng.normal(size=(5, 1))
    for _ in range(50):
        y, cache = net.forward((x, LABELS))
    w, e = (head.children()[name].params["w"] for name in ("linear", "inner"))
    e = e / np.linalg.svd(e, compute_uv=False)[0]
    want = x @ (w / np.linalg.norm(w)).T + head.linear.params["b"]
    assert_close(y, want + (e[LABELS] * x).sum(1, keepdims=True))
    _, grads = net.backward(dy, cache)
    assert grads.keys() == net.params.keys()


@pytest.mark.parametrize(
    "layer, x, labels, message",
    [
        (L.ConditionalBatchNorm(3, K), (5, 3), LABELS + 2, r"must lie in \[0, 4\), got 2 to 5"),
        (L.ConditionalBatchNorm(3, K), (4, 3), LABELS, "5 labels for 4 samples"),
        (L.ConditionalBatchNorm(3, K), (1, 3), LABELS[:1], "one value per channel has no variance"),
        (
            L.Projection(L.Linear(3, 1), L.Embedding(K, 2)),
            (5, 3),
            LABELS,
            r"x of shape \(5, 3\) cannot be projected on \(5, 2\)",
        ),
    ],
)
def test_wrong_labels(layer, x, labels, message):
    with pytest.raises(ValueError, match=message):
        L.ConditionalSequential(layer).forward((np.zeros(x, np.float32), labels))
    assert layer.labels is None


def test_a_conditional_layer_needs_labels():
    with pytest.raises(ValueError, match=r"ConditionalBatchNorm.* takes labels: put it into a"):
        L.Sequential(L.ConditionalBatchNorm(3, K)).forward(np.zeros((5, 3), np.float32))
    with pytest.raises(ValueError, match="no layer of this ConditionalSequential takes labels"):
        L.ConditionalSequential(L.Linear(3, 1))


class TwoCopies(Ranks):
    """Two processes with the same samples: the mean over both is that of one."""

    size = 2

    def all_gather(self, a):
        return np.stack([a, a])


def test_synchronised_statistics_of_two_copies(rng):
    """With `ranks`, statistics and derivatives are those of the batch of both processes."""
    x, dy, ddx = (rng.normal(size=(5, 4, 3, 2)) for _ in range(3))
    results = []
    for copies in (1, 2):
        layer = L.ConditionalBatchNorm(2, K)
        net = L.ConditionalSequential(layer)
        optimizer = SGD(randomize(net, np.random.default_rng(1)), 0.1)
        other = L.Sequential(L.Linear(2, 1))
        gan = GAN(net, other, BCE(), optimizer, SGD(L.Parameters(other), 0.1))
        if copies == 1:
            x, dy, ddx = (np.concatenate([a, a]) for a in (x, dy, ddx))
        else:
            gan.join(TwoCopies(), synchronised=True)
            x, dy, ddx = (a[:5] for a in (x, dy, ddx))
        labels = np.concatenate([LABELS, LABELS])[: len(x)]
        y, cache = net.forward((x, labels))
        ddy, dx2, _ = net.double_backward(ddx, dy, cache)
        results.append([a[:5] for a in (y, net.backward(dy, cache)[0], ddy, dx2)])
        results[-1] += list(layer.buffers.values())
    for got, want in zip(*results[::-1], strict=True):
        assert_close(got, want)


# Mistakes


def labels_reversed(labels, K, dtype):
    return right(labels[::-1], K, dtype)


right = conditional.one_hot


def test_gradient_of_another_class_is_found(monkeypatch, rng):
    layer = L.ConditionalSequential(L.ConditionalBatchNorm(3, K))
    monkeypatch.setattr(conditional, "one_hot", labels_reversed)
    with pytest.raises(AssertionError, match=r"d0\.gamma"):
        check_layer(layer, rng.normal(size=(5, 3)), conditional_norm(layer, True), labels=LABELS)


def test_a_constant_statistic_is_found(monkeypatch, rng):
    layer = L.ConditionalSequential(L.ConditionalBatchNorm(3, K))
    monkeypatch.setattr(
        L.ConditionalBatchNorm,
        "through_statistics",
        lambda self, dxhat, xhat, rstd, _: dxhat * rstd,
    )
    with pytest.raises(AssertionError, match=": dx:"):
        check_layer(layer, rng.normal(size=(5, 3)), conditional_norm(layer, True), labels=LABELS)


def test_a_projection_without_its_second_order_is_found(monkeypatch, rng):
    layer = L.ConditionalSequential(L.Projection(L.Linear(3, 1), L.Embedding(K, 3)))

    def alone(self, ddx, dy, cache, need_ddy=True):
        ddy, dx, grads = self.linear.double_backward(ddx, dy, cache[2])
        return ddy, dx, self.named(grads, {})

    monkeypatch.setattr(L.Projection, "double_backward", alone)
    with pytest.raises(AssertionError, match="ddy"):
        check_layer(layer, rng.normal(size=(5, 3)), projection, labels=LABELS)
