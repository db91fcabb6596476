"""Dropout and GaussianNoise: statistics, and one draw for all derivatives of a pass."""

from functools import partial

import numpy as np
import pytest

from rawgan.gan import GAN
from rawgan.layers import Dropout, GaussianNoise, Linear, Parameters, Sequential, Tanh
from rawgan.losses import BCE
from rawgan.optim import SGD
from rawgan.parallel import Ranks
from rawgan.penalties import R1
from tests.support.reference import assert_close, assert_same, check_layer, tensor

stream = partial(np.random.default_rng, 11)


def bound(p):
    layer = Dropout(p)
    layer.bind(stream())
    return layer


def check_one_mask(x, device=None, **kind):
    """Assert that all derivatives use the mask of the first forward pass.

    The mask is known from a pass over ones with an equal stream.
    """
    m, _ = bound(0.3).forward(np.ones(x.shape))
    kind |= {"device": device} if device else {}
    check_layer(bound(0.3), x, lambda x, p: x * tensor(m), **kind)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 4, 5, 2)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_one_mask(device, rng, shape, dtype, gaps):
    check_one_mask(rng.normal(size=shape).astype(dtype), device, gaps=gaps)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_statistics(p):
    m, _ = bound(p).forward(np.ones((400, 500)))
    kept = np.count_nonzero(m)
    assert abs(kept - m.size * (1 - p)) < 5 * np.sqrt(m.size * p * (1 - p))
    assert_close(m[m != 0], np.full(kept, 1 / (1 - p)))


@pytest.mark.parametrize(
    "layer, train", [(Dropout(0.5), False), (Dropout(0), True)], ids=["inference", "p = 0"]
)
def test_identity_without_a_stream(device, rng, layer, train):
    check_layer(layer, rng.normal(size=(5, 7)), lambda x, p: x * 1, device=device, train=train)


def test_stream():
    """Equal streams give equal masks in each pass, and masks within a stream differ.

    Inference draws no random numbers.
    """
    x = np.ones((20, 30), np.float32)
    first, second = bound(0.5), bound(0.5)
    second.forward(x, train=False)
    masks = [first.forward(x)[0] for _ in range(2)]
    for m in masks:
        assert_same(second.forward(x)[0], m)
    assert (masks[0] != masks[1]).any()


def test_no_stream():
    net = Sequential(Linear(3, 4), Sequential(Tanh(), Dropout(0.2)))
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(
        ValueError, match=r"layer 1\.1, Dropout\(0\.2\) has no random stream: call bind"
    ):
        net.forward(x)
    net.bind(stream())
    net.forward(x)


@pytest.mark.parametrize("p", [-0.1, 1, 2, float("nan")])
def test_probability_out_of_range(p):
    with pytest.raises(ValueError, match=rf"probability of Dropout lies in \[0, 1\), got {p}"):
        Dropout(p)


def fresh_mask(layer, dy, cache, need_dx=True, need_grads=True):
    return layer.forward(dy)[0], {}


def without_the_scale(layer, ddx, dy, cache, need_ddy=True):
    return ddx * (cache > 0), None, {}


@pytest.mark.parametrize(
    "name, wrong", [("backward", fresh_mask), ("double_backward", without_the_scale)]
)
def test_mistake_is_found(monkeypatch, rng, name, wrong):
    monkeypatch.setattr(Dropout, name, wrong)
    with pytest.raises(AssertionError):
        check_one_mask(rng.normal(size=(5, 7)))


# GaussianNoise


def noisy(std, seed=11):
    layer = GaussianNoise(std)
    layer.bind(np.random.default_rng(seed))
    return layer


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 4, 5, 2)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_noise_is_a_constant(device, rng, shape, dtype, gaps):
    n, _ = noisy(0.3).forward(np.zeros(shape, dtype))
    x = rng.normal(size=shape).astype(dtype)
    check_layer(noisy(0.3), x, lambda x, p: x + tensor(n), device=device, gaps=gaps)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_noise_is_normal(dtype):
    """Mean, standard deviation and the share beyond two of them are those of N(0, 0.5^2)."""
    n = noisy(0.5).forward(np.zeros((400, 500), dtype))[0].ravel()
    assert n.dtype == dtype
    M = n.size
    assert abs(n.mean()) < 5 * 0.5 / np.sqrt(M)
    assert abs(n.std() - 0.5) < 5 * 0.5 / np.sqrt(2 * M)
    share = 0.0455
    assert abs((abs(n) > 1).mean() - share) < 5 * np.sqrt(share * (1 - share) / M)


def test_parts_of_a_batch_draw_what_the_batch_draws():
    """Real and fake in one pass, or in one each, and the shards of processes get the same noise."""
    x = np.zeros((6, 2, 3))
    whole, layer = noisy(0.5).forward(x)[0], noisy(0.5)
    assert_same(np.concatenate([layer.forward(x[:4])[0], layer.forward(x[4:])[0]]), whole)


class OneOfTwo(Ranks):
    """Rank r of two processes, without the other."""

    size = 2

    def __init__(self, rank):
        self.rank = rank


@pytest.mark.parametrize("make", [Dropout, GaussianNoise])
def test_processes_draw_their_part(make):
    """GAN.join gives each process the draws of its samples: together those of one process."""
    parts = []
    for ranks in (Ranks(), OneOfTwo(0), OneOfTwo(1)):
        nets = [Sequential(Linear(3, 3)), Sequential(make(0.5), Linear(3, 1))]
        optimizers = [SGD(Parameters(net, dtype=np.float64), 0.1) for net in nets]
        nets[1].bind(stream())
        gan = GAN(*nets, BCE(), *optimizers, rng=stream())
        gan.join(ranks)
        parts.append(nets[1].layers[0].forward(np.ones((8 // ranks.size, 3)))[0])
    assert_same(np.concatenate(parts[1:]), parts[0])


@pytest.mark.parametrize("std, train", [(0.5, False), (0, True)])
def test_no_noise(rng, std, train):
    """In inference, or with std 0, nothing is added or drawn."""
    x = rng.normal(size=(3, 4))
    assert_same(GaussianNoise(std).forward(x, train)[0], x)


def test_a_penalty_meets_one_draw(rng):
    """The four sweeps of a penalty use one draw: its gradient is that at the noisy points."""
    x = rng.normal(size=(4, 3))
    noisy_critic = Sequential(noisy(0.5), Linear(3, 5), Tanh(), Linear(5, 1))
    plain = Sequential(Linear(3, 5), Tanh(), Linear(5, 1))
    for net in (noisy_critic, plain):
        parameters = Parameters(net, dtype=np.float64)
        parameters.flat[:] = np.linspace(-1, 1, parameters.flat.size)
    value, grads, _ = R1()(noisy_critic, x)
    want, want_grads, _ = R1()(plain, noisy(0.5).forward(x)[0])
    assert_same(value, want)
    for name, i in (("w", 0), ("b", 0), ("w", 2)):
        assert_same(grads[f"{i + 1}.{name}"], want_grads[f"{i}.{name}"])


@pytest.mark.parametrize("std", [-0.1, float("nan")])
def test_negative_std_is_refused(std):
    with pytest.raises(ValueError, match=f"deviation of GaussianNoise is 0 or more, got {std}"):
        GaussianNoise(std)


def test_noise_needs_a_stream():
    net = Sequential(Tanh(), GaussianNoise(0.2))
    with pytest.raises(ValueError, match=r"layer 1, GaussianNoise\(0\.2\) has no random stream"):
        net.forward(np.zeros((2, 3)))


def test_noise_in_a_gradient_is_found(monkeypatch, rng):
    monkeypatch.setattr(
        GaussianNoise, "backward", lambda self, dy, cache, **_: (self.forward(dy)[0], {})
    )
    n, _ = noisy(0.3).forward(np.zeros((5, 7)))
    with pytest.raises(AssertionError, match="dx"):
        check_layer(noisy(0.3), rng.normal(size=(5, 7)), lambda x, p: x + tensor(n))
