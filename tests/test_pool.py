"""Max pooling, and the two maps of the choice that it makes."""

import numpy as np
import pytest
from reference import assert_close, assert_same, check_layer
from torch.nn.functional import max_pool2d

from rawgan.layers import MaxPool2d
from rawgan.ops import pool

SHAPES = {"even": (2, 4, 6, 3), "odd": (3, 5, 7, 2), "one sample, one channel": (1, 2, 2, 1), "parts": (65, 9, 8, 5)}


def torch_pool(k):
    return lambda x, p: max_pool2d(x.permute(0, 3, 1, 2), k).permute(0, 2, 3, 1)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_max_pool(device, rng, shape, k, dtype, gaps):
    if k > min(shape[1:3]):
        shape = (shape[0], k, k, shape[3])
    check_layer(MaxPool2d(k), rng.normal(size=shape).astype(dtype), torch_pool(k), device=device, gaps=gaps)


def test_the_first_of_equals_is_taken():
    """Black squares are common: PyTorch gives the first entry the whole gradient, and so does this."""
    x = np.zeros((1, 4, 4, 1))
    x[0, 2:, :2, 0] = [[0, 7], [7, 7]]
    check_layer(MaxPool2d(2), x, torch_pool(2))


def test_what_fills_no_square_has_gradient_zero(rng):
    layer = MaxPool2d(2)
    _, cache = layer.forward(rng.normal(size=(2, 5, 5, 1)))
    dx, _ = layer.backward(np.ones((2, 2, 2, 1)), cache)
    assert dx.sum() == 8 and not dx[:, 4].any() and not dx[:, :, 4].any()


def test_the_two_maps_are_adjoint(rng):
    _, taken = pool.max_pool(rng.normal(size=(3, 7, 6, 2)), 2)
    dy, ddx = rng.normal(size=taken.shape), rng.normal(size=(3, 7, 6, 2))
    got = np.vdot(pool.max_pool_dx(dy, taken, (7, 6), 2), ddx)
    assert_close(got, np.vdot(dy, pool.max_pool_ddy(ddx, taken, 2)))


def test_the_input_is_unchanged(rng):
    x = rng.normal(size=(2, 4, 4, 1))
    before = x.copy()
    pool.max_pool(x, 2)
    assert_same(x, before)


MISTAKES = {
    "the last of equals": (lambda x, y: x >= y, np.zeros((1, 4, 4, 1))),
    "the smallest": (lambda x, y: x < y, np.arange(16.0).reshape(1, 4, 4, 1)),
}


@pytest.mark.parametrize("wrong, x", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_found(monkeypatch, wrong, x):
    """A choice by another comparison leaves the value right; the gradient shows it."""

    def mistaken(x, k):
        y, taken = right(x, k)
        for tap in range(k * k):
            taken[wrong(x[pool._tap(y.shape, k, tap)], y)] = tap
        return y, taken

    right = pool.max_pool
    monkeypatch.setattr("rawgan.layers.pool.max_pool", mistaken)
    with pytest.raises(AssertionError):
        check_layer(MaxPool2d(2), x, torch_pool(2))


@pytest.mark.parametrize("make, shape", [(lambda: MaxPool2d(0), None), (MaxPool2d, (1, 1, 4, 1)), (MaxPool2d, (2, 4))])
def test_what_cannot_be_pooled_is_refused(make, shape):
    with pytest.raises(ValueError):
        make().forward(np.zeros(shape))
