"""Dropout: the mask's statistics, and that one mask serves all derivatives of a pass."""

from functools import partial

import numpy as np
import pytest
from reference import assert_close, assert_same, check_layer, tensor

from rawgan.layers import Dropout, Linear, Sequential, Tanh

stream = partial(np.random.default_rng, 11)


def bound(p):
    layer = Dropout(p)
    layer.bind(stream())
    return layer


def check_one_mask(x, device=None, **kind):
    """The mask of the first pass, known from a pass over ones with a stream like it, is that of all derivatives."""
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


@pytest.mark.parametrize("layer, train", [(Dropout(0.5), False), (Dropout(0), True)], ids=["inference", "p = 0"])
def test_identity_without_a_stream(device, rng, layer, train):
    check_layer(layer, rng.normal(size=(5, 7)), lambda x, p: x * 1, device=device, train=train)


def test_stream():
    """Equal streams give equal masks, pass after pass; within a stream no two are alike. Inference draws nothing."""
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
    with pytest.raises(ValueError, match=r"layer 1\.1, Dropout\(0\.2\) has no random stream: call bind"):
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


@pytest.mark.parametrize("name, wrong", [("backward", fresh_mask), ("double_backward", without_the_scale)])
def test_mistake_is_found(monkeypatch, rng, name, wrong):
    monkeypatch.setattr(Dropout, name, wrong)
    with pytest.raises(AssertionError):
        check_one_mask(rng.normal(size=(5, 7)))
