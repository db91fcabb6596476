"""Activations, and their first and second derivatives in ops/act.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from rawgan.layers import LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from rawgan.ops import act
from tests.support.reference import assert_close, check_layer, derivatives, torch_function

LAYERS = [ReLU(), LeakyReLU(), LeakyReLU(0.7), LeakyReLU(0), Tanh(), Sigmoid(), Softplus()]
over_layers = pytest.mark.parametrize("layer", LAYERS, ids=repr)


def numbers(shape, dtype=np.float64):
    """Return normal numbers, every fifth exactly 0 and every seventh large."""
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    x.flat[::5] = 0
    x.flat[::7] *= 30
    return x


@over_layers
@given(
    shape=array_shapes(max_dims=4, max_side=9),
    gaps=st.booleans(),
    dtype=st.sampled_from([np.float64, np.float32]),
)
def test_activation(device, layer, shape, gaps, dtype):
    check_layer(layer, numbers((*shape, 2), dtype), device=device, gaps=gaps)


@over_layers
def test_large_arrays(device, layer):
    """Activations are right on arrays larger than the part size of elementwise."""
    check_layer(layer, numbers((150, 16, 16, 3)), device=device)


@over_layers
def test_no_overflow(layer):
    """Far from 0, each value and derivative equals PyTorch's in float64, without a warning."""
    for value in (-1e4, -120, 120, 1e4):
        x, one = np.full((1, 1), value, np.float32), np.ones((1, 1), np.float32)
        with np.errstate(all="raise", under="ignore"):
            y, cache = layer.forward(x)
            dx, _ = layer.backward(one, cache)
            ddy, dx2, _ = layer.double_backward(one, one, cache)
        want = derivatives(torch_function(layer), x, {}, one, one)
        for name, got in {"y": y, "dx": dx, "ddy": ddy, "dx2": dx2}.items():
            assert np.isfinite(want[name]).all(), (
                f"PyTorch's {name} of {layer!r} at {value} is {want[name]}: write its module in "
                "tests/support/twins.py in a form that does not overflow"
            )
            assert_close(one * 0 if got is None else got, want[name], f"{name} at {value}", scale=1)


# name: function of x, and the same in float64 by another formula; each tends to 0 on one side
TAILS = {
    "sigmoid": (act.sigmoid, lambda x: np.exp(x - np.log1p(np.exp(x))), "left"),
    "softplus": (act.softplus, lambda x: np.log1p(np.exp(x)), "left"),
    "softplus_dx": (lambda x: act.softplus_dx(x * 0 + 1, x),
        lambda x: np.exp(x - np.log1p(np.exp(x))), "left"),
    "softplus_dx2": (
        lambda x: act.softplus_dx2(x * 0 + 1, x * 0 + 1, x),
        lambda x: np.exp(-abs(x)) / (1 + np.exp(-abs(x))) ** 2, "both",
    ),
    "tanh_dx of y": (lambda y: act.tanh_dx(y * 0 + 1, y), lambda y: (1 - y) * (1 + y), "y"),
    "tanh_dx2 of y": (lambda y: act.tanh_dx2(y * 0 + 1, y * 0 + 1, y),
        lambda y: -2 * y * (1 - y) * (1 + y), "y"),
    "sigmoid_dx of y": (lambda y: act.sigmoid_dx(y * 0 + 1, y), lambda y: y * (1 - y), "y"),
    "sigmoid_dx2 of y": (lambda y: act.sigmoid_dx2(y * 0 + 1, y * 0 + 1, y),
        lambda y: y * (1 - y) * (1 - 2 * y), "y"),
}  # fmt: skip


@pytest.mark.parametrize("f, want, where", TAILS.values(), ids=TAILS)
@pytest.mark.parametrize("repeat", [1, 3000], ids=["few", "many"])
def test_tails_keep_their_digits(f, want, where, repeat):
    """Values near 0 have relative accuracy in float32; an absolute tolerance would accept 0."""
    x = np.float32([-80, -60, -20, -18, -15, -12, -8, -3, -0.5])
    x = {
        "left": x,
        "both": np.concatenate([x, -x]),
        "y": np.float32([1 - 2**-24, 1 - 2**-20, 0.999, 0.9, 1e-3, 1e-20]),
    }[where]
    x = x.repeat(repeat)
    got = f(x)
    assert got.dtype == np.float32
    want = want(x.astype(np.float64))
    assert (abs(got - want) <= 4e-6 * abs(want)).all(), (got, want)


@pytest.mark.parametrize("slope", [-0.1, 1, 1.5, float("nan")])
def test_slope_out_of_range(slope):
    with pytest.raises(ValueError, match=rf"slope of a LeakyReLU lies in \[0, 1\), got {slope}"):
        LeakyReLU(slope)


MISTAKES = {
    "slope 1 at 0": (ReLU(), "relu_dx", lambda dy, x: dy * (x >= 0)),
    "leaky: slope 1 at 0": (
        LeakyReLU(),
        "leaky_relu_dx",
        lambda dy, x, slope: dy * np.where(x >= 0, 1, slope),
    ),
    "leaky: 0 for the slope": (LeakyReLU(), "leaky_relu_dx", lambda dy, x, slope: dy * (x > 0)),
    "tanh'' without its 2": (Tanh(), "tanh_dx2", lambda ddx, dy, y: -y * (1 - y * y) * dy * ddx),
    "sigmoid'' as y (1 - y)": (Sigmoid(), "sigmoid_dx2", lambda ddx, dy, y: y * (1 - y) * dy * ddx),
    "sigmoid' of x for y": (
        Sigmoid(),
        "sigmoid_dx",
        lambda dy, y: act.sigmoid(y) * (1 - act.sigmoid(y)) * dy,
    ),
    "softplus overflows": (Softplus(), "softplus", lambda x: np.log(1 + np.exp(30 * x)) / 30),
}


@pytest.mark.parametrize("layer, name, wrong", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_found(monkeypatch, layer, name, wrong):
    monkeypatch.setattr(act, name, wrong)
    with np.errstate(over="ignore"), pytest.raises(AssertionError):
        check_layer(layer, numbers((5, 4)))
