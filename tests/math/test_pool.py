"""Max, average and global pooling and nearest upsampling, and their linear maps."""

import numpy as np
import pytest
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from rawgan.layers import AvgPool2d, GlobalMeanPool, GlobalSumPool, MaxPool2d, Upsample2d
from rawgan.ops import pool
from tests.support.reference import assert_close, assert_same, check_layer

SHAPES = {
    "even": (2, 4, 6, 3),
    "odd": (3, 5, 7, 2),
    "one sample, one channel": (1, 2, 2, 1),
    "parts": (65, 9, 8, 5),
}


def torch_pool(k, pool=max_pool2d):
    return lambda x, p: pool(x.permute(0, 3, 1, 2), k).permute(0, 2, 3, 1)


def nearest(x, k):
    return interpolate(x, scale_factor=k, mode="nearest")


LINEAR = {
    "average": (AvgPool2d, lambda k: torch_pool(k, avg_pool2d)),
    "upsampling": (Upsample2d, lambda k: torch_pool(k, nearest)),
    "global mean": (lambda k: GlobalMeanPool(), lambda k: lambda x, p: x.mean((1, 2))),
    "global sum": (lambda k: GlobalSumPool(), lambda k: lambda x, p: x.sum((1, 2))),
}


@pytest.mark.parametrize("make, twin", LINEAR.values(), ids=LINEAR)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_linear_pooling(device, rng, make, twin, shape, k, dtype, gaps):
    if k > min(shape[1:3]):
        shape = (shape[0], k, k, shape[3])
    x = rng.normal(size=shape).astype(dtype)
    check_layer(make(k), x, twin(k), device=device, gaps=gaps)


def test_average_of_upsampled_is_the_identity(rng):
    x = rng.normal(size=(2, 3, 5, 4))
    y, _ = Upsample2d(2).forward(x)
    assert_same(AvgPool2d(2).forward(y)[0], x)


def test_the_sum_and_the_copy_are_adjoint(rng):
    x, dy = rng.normal(size=(3, 7, 6, 2)), rng.normal(size=(3, 3, 3, 2))
    got = np.vdot(pool.sum_pool_dx(dy, (7, 6), 2), x)
    assert_close(got, np.vdot(dy, pool.sum_pool(x, 2)))


@pytest.mark.parametrize("make, twin", LINEAR.values(), ids=LINEAR)
@pytest.mark.parametrize("method", ["backward", "double_backward"])
def test_wrong_scale_is_found(monkeypatch, rng, make, twin, method):
    """A gradient of half the size, as of a sum over half the square, is detected."""
    layer, f = make(2), twin(2)
    right = getattr(layer, method)
    monkeypatch.setattr(layer, method, lambda *a, **k: (right(*a, **k)[0] / 2, *right(*a, **k)[1:]))
    with pytest.raises(AssertionError, match="dx" if method == "backward" else "ddy"):
        check_layer(layer, rng.normal(size=(2, 4, 6, 3)), f)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_max_pool(device, rng, shape, k, dtype, gaps):
    if k > min(shape[1:3]):
        shape = (shape[0], k, k, shape[3])
    check_layer(
        MaxPool2d(k), rng.normal(size=shape).astype(dtype), torch_pool(k), device=device, gaps=gaps
    )


@pytest.mark.parametrize("k", [16, 17, 28])
def test_large_squares(device, rng, k):
    """Windows with more taps than a byte can index work: a global maximum over 28x28 has 784."""
    check_layer(MaxPool2d(k), rng.normal(size=(2, k, k + 1, 2)), torch_pool(k), device=device)


def test_the_first_of_equals_is_taken():
    """Of equal maxima the first one gets the whole gradient, as in PyTorch.

    Black squares are common in images.
    """
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
    """A wrong choice of the maximum is detected by the gradient, though the value is right."""

    def mistaken(x, k):
        y, taken = right(x, k)
        for tap in range(k * k):
            taken[wrong(x[pool._tap(y.shape, k, tap)], y)] = tap
        return y, taken

    right = pool.max_pool
    monkeypatch.setattr("rawgan.layers.pool.max_pool", mistaken)
    with pytest.raises(AssertionError):
        check_layer(MaxPool2d(2), x, torch_pool(2))


@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda: MaxPool2d(0), None),
        (MaxPool2d, (1, 1, 4, 1)),
        (MaxPool2d, (2, 4)),
        (lambda: AvgPool2d(0), None),
        (AvgPool2d, (1, 4, 1, 1)),
        (lambda: Upsample2d(0), None),
        (Upsample2d, (2, 4)),
        (GlobalMeanPool, (2, 4)),
        (GlobalSumPool, (0, 4, 4, 1)),
    ],
)
def test_what_cannot_be_pooled_is_refused(make, shape):
    with pytest.raises(ValueError):
        make().forward(np.zeros(shape))
