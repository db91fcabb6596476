"""Flatten, Reshape, Planes and Crop move, copy or cut off values, and change none."""

import numpy as np
import pytest

from rawgan.layers import Condition, Crop, Flatten, OneHot, Planes, Reshape, Sequential
from tests.support.reference import assert_same, check_layer

CASES = {
    "Flatten an image": (Flatten(), (2, 3, 4, 5), lambda x, p: x.reshape(2, 60)),
    "Flatten a row": (Flatten(), (2, 5), lambda x, p: x),
    "Flatten, batch of one": (Flatten(), (1, 1, 1, 3), lambda x, p: x.reshape(1, 3)),
    "Reshape a row": (Reshape(3, 4, 5), (2, 60), lambda x, p: x.reshape(2, 3, 4, 5)),
    "Reshape an image": (Reshape(10, 6), (2, 3, 4, 5), lambda x, p: x.reshape(2, 10, 6)),
    "Planes": (Planes(3, 4), (2, 5), lambda x, p: x[:, None, None].expand(2, 3, 4, 5)),
    "Planes of one pixel": (Planes(1, 1), (2, 5), lambda x, p: x[:, None, None]),
    "Crop": (Crop(2, 3), (2, 3, 4, 5), lambda x, p: x[:, :2, :3]),
    "Crop nothing": (Crop(3, 4), (2, 3, 4, 5), lambda x, p: x[:, :3, :4]),
}


@pytest.mark.parametrize("layer, shape, f", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_shape(device, layer, shape, f, dtype, gaps):
    check_layer(
        layer,
        np.random.default_rng(1).normal(size=shape).astype(dtype),
        f,
        device=device,
        gaps=gaps,
    )


def test_order_is_height_width_channel():
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert_same(Flatten().forward(x)[0], np.arange(120).reshape(2, 60))
    assert_same(Reshape(3, 4, 5).forward(x.reshape(2, 60))[0], x)


def test_nothing_has_gaps(rng):
    """Outputs for contiguous inputs are contiguous, as kernels require."""
    labels = np.array([1, 0])
    for layer, x, dy_shape in (
        (Crop(2, 3), rng.normal(size=(2, 4, 4, 1)), (2, 2, 3, 1)),
        (
            Condition(Sequential(OneHot(2), Planes(4, 4))),
            (rng.normal(size=(2, 4, 4, 1)), labels),
            (2, 4, 4, 3),
        ),
    ):
        y, cache = layer.forward(x)
        dy = rng.normal(size=dy_shape)
        dx, _ = layer.backward(dy, cache)
        ddy, _, _ = layer.double_backward(dx, dy, cache)
        assert all(a.flags.c_contiguous for a in (y, dx, ddy)), layer


def test_what_was_cut_off_has_gradient_zero(rng):
    layer = Crop(2, 3)
    _, cache = layer.forward(rng.normal(size=(2, 4, 4, 1)))
    dx, _ = layer.backward(np.ones((2, 2, 3, 1)), cache)
    assert dx.sum() == 12 and not dx[:, 2:].any() and not dx[:, :, 3:].any()


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (Reshape(3, 4), (2, 13), "Reshape: a sample of shape (13,) does not fill one of (3, 4)"),
        (Planes(3, 4), (2, 1, 1, 5), "Planes: expected x of shape (N, any), got (2, 1, 1, 5)"),
        (
            Crop(3, 4),
            (2, 3, 3, 5),
            "Crop: an image of shape (2, 3, 3, 5) is smaller than what is to be kept",
        ),
        (Crop(3, 4), (2, 12), "Crop: an image of shape (2, 12) is smaller than what is to be kept"),
    ],
)
def test_wrong_x(layer, shape, message):
    with pytest.raises(ValueError) as error:
        layer.forward(np.zeros(shape))
    assert str(error.value) == message
