"""The activations, and their first and second derivatives in ops/act.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from reference import assert_close, check_layer

from rawgan.layers import LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from rawgan.ops import act

LAYERS = [ReLU(), LeakyReLU(), LeakyReLU(0.7), LeakyReLU(0), Tanh(), Sigmoid(), Softplus()]
over_layers = pytest.mark.parametrize("layer", LAYERS, ids=repr)


def numbers(shape, dtype=np.float64):
    """Normal ones, every fifth of them exactly 0, every seventh large."""
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    x.flat[::5] = 0
    x.flat[::7] *= 30
    return x


@over_layers
@given(shape=array_shapes(max_dims=4, max_side=9), gaps=st.booleans(), dtype=st.sampled_from([np.float64, np.float32]))
def test_activation(device, layer, shape, gaps, dtype):
    check_layer(layer, numbers((*shape, 2), dtype), device=device, gaps=gaps)


@over_layers
def test_large_arrays(device, layer):
    """Larger than what elementwise works on at a time."""
    check_layer(layer, numbers((150, 16, 16, 3)), device=device)


@over_layers
def test_no_overflow(layer):
    """Far out, the value is the asymptote and the derivatives are those of it, without a warning."""
    x = np.float32([[-1e4, -120, 120, 1e4]])
    asymptotes = {ReLU: (0, x, 0, 1), LeakyReLU: (getattr(layer, "slope", 0) * x, x, getattr(layer, "slope", 0), 1)}
    asymptotes |= {Tanh: (-1, 1, 0, 0), Sigmoid: (0, 1, 0, 0), Softplus: (0, x, 0, 1)}
    left, right, left_dx, right_dx = asymptotes[type(layer)]
    with np.errstate(all="raise", under="ignore"):
        y, cache = layer.forward(x)
        dx, _ = layer.backward(np.ones_like(x), cache)
        _, dx2, _ = layer.double_backward(np.ones_like(x), np.ones_like(x), cache)
    assert_close(y, np.where(x < 0, left, right))
    assert_close(dx, np.where(x < 0, left_dx, right_dx))
    assert dx2 is None or not dx2.any()


@pytest.mark.parametrize("slope", [-0.1, 1, 1.5, float("nan")])
def test_slope_out_of_range(slope):
    with pytest.raises(ValueError, match=rf"slope of a LeakyReLU lies in \[0, 1\), got {slope}"):
        LeakyReLU(slope)


MISTAKES = {
    "slope 1 at 0": (ReLU(), "relu_dx", lambda dy, x: dy * (x >= 0)),
    "leaky: slope 1 at 0": (LeakyReLU(), "leaky_relu_dx", lambda dy, x, slope: dy * np.where(x >= 0, 1, slope)),
    "leaky: 0 for the slope": (LeakyReLU(), "leaky_relu_dx", lambda dy, x, slope: dy * (x > 0)),
    "tanh'' without its 2": (Tanh(), "tanh_dx2", lambda ddx, dy, y: -y * (1 - y * y) * dy * ddx),
    "sigmoid'' as y (1 - y)": (Sigmoid(), "sigmoid_dx2", lambda ddx, dy, y: y * (1 - y) * dy * ddx),
    "sigmoid' of x for y": (Sigmoid(), "sigmoid_dx", lambda dy, y: act.sigmoid(y) * (1 - act.sigmoid(y)) * dy),
    "softplus overflows": (Softplus(), "softplus", lambda x: np.log(1 + np.exp(30 * x)) / 30),
}


@pytest.mark.parametrize("layer, name, wrong", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_found(monkeypatch, layer, name, wrong):
    monkeypatch.setattr(act, name, wrong)
    with np.errstate(over="ignore"), pytest.raises(AssertionError):
        check_layer(layer, numbers((5, 4)))
