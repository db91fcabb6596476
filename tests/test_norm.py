"""BatchNorm, LayerNorm, InstanceNorm, and the projection of ops/norm.py that they share."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_close, check_layer, randomize, tensor
from twins import NAMES, to_nchw, to_nhwc

from rawgan import backend
from rawgan.layers import BatchNorm, Conv2d, InstanceNorm, LayerNorm, LeakyReLU, Linear, Sequential, Tanh
from rawgan.layers import norm as layer_file
from rawgan.ops import norm as ops_file
from rawgan.ops.norm import normalize, normalize_dx

DTYPES = [np.float64, np.float32]
SIZES = st.integers(2, 7)


@pytest.fixture(scope="module", autouse=True, params=["plain", "fast", "fast in parts"])
def form(request):
    """Every test of this file is run with the plain formula and with the fast form for the CPU, of one part and of several."""
    with pytest.MonkeyPatch.context() as patch, backend.use_plain(request.param == "plain"):
        if request.param == "fast in parts":
            patch.setattr(backend, "SPREAD", 0)
        yield request.param


def image(*shape, dtype=np.float64):
    return np.random.default_rng(1).normal(0.5, 2, shape).astype(dtype)


def group_norm(x, p, eps, groups=1):
    return to_nhwc(F.group_norm(to_nchw(x), groups, p["gamma"], p["beta"], eps))


def instance_norm(x, p, eps):
    if len(x) == 1:  # PyTorch 2.13's own has a wrong gradient here, for a cotangent that is not contiguous as (N, C, H, W)
        return group_norm(x, p, eps, groups=x.shape[-1])
    return to_nhwc(F.instance_norm(to_nchw(x), None, None, p["gamma"], p["beta"], eps=eps))


@given(N=SIZES, H=SIZES, W=SIZES, C=st.integers(1, 5), flat=st.booleans(), gaps=st.booleans(), dtype=st.sampled_from(DTYPES))
def test_batch_norm(device, N, H, W, C, flat, gaps, dtype):
    x = image(N + 2, C, dtype=dtype) if flat else image(N, H, W, C, dtype=dtype)
    for train in (True, False):
        check_layer(BatchNorm(C, eps=0.03), x, device=device, train=train, gaps=gaps)


@given(N=st.integers(1, 7), H=SIZES, W=SIZES, C=st.integers(1, 5), gaps=st.booleans(), dtype=st.sampled_from(DTYPES))
def test_layer_and_instance_norm(device, N, H, W, C, gaps, dtype):
    x, rows, eps = image(N, H, W, C, dtype=dtype), image(N, C + 2, dtype=dtype), 0.03
    check_layer(LayerNorm(C, eps), x, lambda x, p: group_norm(x, p, eps), device=device, gaps=gaps)
    check_layer(LayerNorm(C + 2, eps), rows, lambda x, p: group_norm(x, p, eps), device=device, gaps=gaps)
    check_layer(
        LayerNorm((H, W, C), eps),
        x,
        lambda x, p: F.layer_norm(x, (H, W, C), p["gamma"], p["beta"], eps),
        device=device,
        gaps=gaps,
    )
    check_layer(InstanceNorm(C, eps), x, lambda x, p: instance_norm(x, p, eps), device=device, gaps=gaps)


LAYERS = {
    "BatchNorm": BatchNorm(3),
    "LayerNorm": LayerNorm(3),
    "LayerNorm per element": LayerNorm((5, 4, 3)),
    "InstanceNorm": InstanceNorm(3),
}
over_layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@over_layers
def test_gamma_exactly_zero(device, layer):
    for gamma in (0, (0, 1.5, -2)):
        check_layer(layer, image(6, 5, 4, 3), device=device, params={"gamma": gamma})


@over_layers
def test_between_layers(device, layer):
    """With layers around it, the gradient that reaches the norm and the curvature it sends down are no special ones."""
    check_layer(Sequential(Conv2d(2, 3, 3, 1, 1), layer, Tanh()), image(4, 5, 4, 2), device=device)
    check_layer(Sequential(layer, LeakyReLU(), Conv2d(3, 2, 3), layer_like(layer), Tanh()), image(4, 5, 4, 3), device=device)


def layer_like(layer):
    """One of the same kind for images of shape (3, 2, 2), behind a 3x3 convolution."""
    return LayerNorm((3, 2, 2)) if len(layer.shape) == 3 else type(layer)(2)


def test_batch_norm_in_a_perceptron(device):
    check_layer(Sequential(Linear(3, 5), BatchNorm(5), LeakyReLU(), Linear(5, 2), BatchNorm(2)), image(7, 3), device=device)


def test_batch_norm_of_many_samples(device):
    """More than elementwise works on at a time."""
    check_layer(BatchNorm(3), image(600, 8, 8, 3), device=device)


@pytest.mark.parametrize("shape", [(7, 3), (5, 4, 2, 3)])
def test_running_statistics(shape):
    """Three batches, with a momentum that is not the same in both conventions; then inference."""
    layer = BatchNorm(3, eps=0.03, momentum=0.3)
    randomize(layer, np.random.default_rng(2))
    twin = (torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d)(3, eps=0.03, momentum=0.3, dtype=torch.float64)
    for name, a in layer.params.items():
        twin.get_parameter(NAMES[name]).data = tensor(a)
    for name, a in layer.buffers.items():
        twin.get_buffer(name).copy_(tensor(a))
    for step in range(3):
        x = image(*shape) * (step + 1) + step
        layer.forward(x)
        twin(to_nchw(tensor(x)))
    for name in layer.buffers:
        assert_close(layer.buffers[name], twin.get_buffer(name), name)
    before = {name: a.copy() for name, a in layer.buffers.items()}
    y, _ = layer.forward(x, train=False)
    assert_close(y, to_nhwc(twin.eval()(to_nchw(tensor(x)))).detach())
    assert all((layer.buffers[name] == a).all() for name, a in before.items())


@pytest.mark.parametrize("M", [64, 65536])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_mean(rng, dtype, M):
    """The mean is 10^4 standard deviations, and the variance keeps its digits."""
    x = rng.normal(1e4, 1, (M // 16, 4, 4, 3)).astype(dtype)
    _, rstd, mean, var = normalize(x, (0, 1, 2), 1e-5)
    wide = x.astype(np.longdouble)
    assert_close(mean.ravel(), wide.mean((0, 1, 2)), "mean")
    assert_close(var.ravel(), wide.var((0, 1, 2)), "var", terms=M)
    assert_close(rstd.ravel(), (wide.var((0, 1, 2)) + 1e-5) ** -0.5, "rstd", terms=M)


def test_large_mean_in_a_layer():
    check_layer(BatchNorm(3), image(8, 4, 4, 3) + 1e4)
    check_layer(LayerNorm(3), image(8, 4, 4, 3) + 1e4)
    check_layer(InstanceNorm(3), image(8, 4, 4, 3) + 1e4)


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1, 3)])
def test_batch_too_small(shape):
    net = Sequential(BatchNorm(3))
    with pytest.raises(ValueError, match=r"layer 0, BatchNorm\(3.*2 or more"):
        net.forward(np.ones(shape, np.float32))
    net.forward(np.ones(shape, np.float32), train=False)


@pytest.mark.parametrize(
    "layer, shape, wanted",
    [
        (BatchNorm(3), (2, 4), "(N, 3)"),
        (BatchNorm(3), (2, 5, 3), "(N, 3)"),
        (BatchNorm(3), (2, 3, 4, 4), "(N, any, any, 3)"),
        (LayerNorm(3), (2, 4), "(N, 3)"),
        (LayerNorm((5, 4, 3)), (2, 4, 5, 3), "(N, 5, 4, 3)"),
        (LayerNorm((5, 4, 3)), (2, 60), "(N, 5, 4, 3)"),
        (InstanceNorm(3), (2, 3), "(N, any, any, 3)"),
    ],
)
def test_wrong_x(layer, shape, wanted):
    with pytest.raises(ValueError) as error:
        layer.forward(np.zeros(shape, np.float32))
    assert str(error.value) == f"{type(layer).__name__}: expected x of shape {wanted}, got {shape}"


def test_defaults_are_those_of_pytorch():
    """Said by what they are printed as."""
    assert repr(BatchNorm(3)) == "BatchNorm(3, eps=1e-05, momentum=0.1)"
    assert repr(LayerNorm((5, 4, 3))) == "LayerNorm((5, 4, 3), eps=1e-05)"
    assert repr(InstanceNorm(3)) == "InstanceNorm(3, eps=1e-05)"


@over_layers
def test_wrong_dtype(layer):
    layer = type(layer)(layer.shape if len(layer.shape) > 1 else 3)
    with pytest.raises(TypeError, match=f"{type(layer).__name__}: x is float64 but gamma is float32"):
        layer.forward(image(6, 5, 4, 3))


# Mistakes that others made: with each of them put in, the check that this file makes fails.


def one_pass(x, axes, eps, ranks):
    mean = x.mean(axes, keepdims=True)
    var = (x * x).mean(axes, keepdims=True) - mean * mean
    rstd = (var + eps) ** -0.5
    return (x - mean) * rstd, rstd, mean, var


def eps_outside(x, axes, eps, ranks):
    xhat, _, mean, var = normalize(x, axes, 0)
    rstd = 1 / (np.sqrt(var) + eps)
    return xhat * np.sqrt(var) * rstd, rstd, mean, var


def divided_by_gamma(self, ddx, dy, cache, need_ddy=True):
    (ddy, dx, _), (first, _) = correct(self, ddx, dy, cache), self.backward(dy, cache)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ddy, dx, {"gamma": (ddx * first).sum((0, 1, 2)) / self.params["gamma"]}


correct = BatchNorm.double_backward


def biased(self, name, batch):
    batch = batch * 6 / 7 if name == "running_var" else batch
    self.buffers[name] += self.momentum * (batch - self.buffers[name])


def reversed_momentum(self, name, batch):
    self.buffers[name] += (1 - self.momentum) * (batch - self.buffers[name])


def zero_gamma():
    check_layer(BatchNorm(3), image(6, 5, 4, 3), params={"gamma": (0, 1.5, -2)})


MISTAKES = {
    "E[x^2] - E[x]^2": (ops_file, "normalize", one_pass, test_large_mean_in_a_layer),
    "eps outside the root": (ops_file, "normalize", eps_outside, zero_gamma),
    "divided by gamma": (BatchNorm, "double_backward", divided_by_gamma, zero_gamma),
    "variance taken as constant": (
        layer_file,
        "normalize_dx",
        lambda v, xhat, rstd, axes, _: rstd * (v - v.mean(axes)),
        zero_gamma,
    ),
    "no second derivative of rstd": (
        layer_file,
        "normalize_dx2",
        lambda ddx, dxhat, xhat, rstd, axes, _: -rstd * normalize_dx(ddx * (dxhat * xhat).mean(axes), xhat, rstd, axes),
        zero_gamma,
    ),
    "biased running variance": (BatchNorm, "track", biased, lambda: test_running_statistics((7, 3))),
    "momentum the other way": (BatchNorm, "track", reversed_momentum, lambda: test_running_statistics((7, 3))),
}


@pytest.mark.parametrize("place, name, wrong, check", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_found(monkeypatch, place, name, wrong, check):
    with backend.use_plain():
        check()
        monkeypatch.setattr(place, name, wrong)
        with pytest.raises(AssertionError):
            check()
