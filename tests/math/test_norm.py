"""BatchNorm, LayerNorm, InstanceNorm, and the common projection of ops/norm.py."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rawgan import backend, cpu
from rawgan.layers import (
    BatchNorm,
    Conv2d,
    InstanceNorm,
    LayerNorm,
    LeakyReLU,
    Linear,
    Parameters,
    Sequential,
    Tanh,
)
from rawgan.layers import norm as layer_file
from rawgan.ops import norm as ops_file
from rawgan.ops.norm import normalize, normalize_dx
from tests.support.reference import assert_close, assert_same, check_layer, randomize, tensor
from tests.support.twins import NAMES, to_nchw, to_nhwc

DTYPES = [np.float64, np.float32]
SIZES = st.integers(2, 7)


@pytest.fixture(scope="module", autouse=True, params=["plain", "fast", "fast in parts"])
def form(request):
    """Run each test with the plain formula, and the fast CPU form in one part and in several."""
    with pytest.MonkeyPatch.context() as patch, backend.reference_cpu(request.param == "plain"):
        if request.param == "fast in parts":
            patch.setattr(cpu, "PARALLEL_BYTES", 0)
        yield request.param


def image(*shape, dtype=np.float64):
    return np.random.default_rng(1).normal(0.5, 2, shape).astype(dtype)


def group_norm(x, p, eps, groups=1):
    return to_nhwc(F.group_norm(to_nchw(x), groups, p["gamma"], p["beta"], eps))


def instance_norm(x, p, eps):
    if (
        len(x) == 1
        # PyTorch 2.13's gradient is wrong here if a cotangent is not contiguous as (N, C, H, W)
    ):
        return group_norm(x, p, eps, groups=x.shape[-1])
    return to_nhwc(F.instance_norm(to_nchw(x), None, None, p["gamma"], p["beta"], eps=eps))


@given(
    N=SIZES,
    H=SIZES,
    W=SIZES,
    C=st.integers(1, 5),
    flat=st.booleans(),
    gaps=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_batch_norm(device, N, H, W, C, flat, gaps, dtype):
    x = image(N + 2, C, dtype=dtype) if flat else image(N, H, W, C, dtype=dtype)
    for train in (True, False):
        for trained_scale in (True, False):
            layer = BatchNorm(C, eps=0.03, trained_scale=trained_scale)
            check_layer(layer, x, device=device, train=train, gaps=gaps)


@given(
    N=st.integers(1, 7),
    H=SIZES,
    W=SIZES,
    C=st.integers(1, 5),
    gaps=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_layer_and_instance_norm(device, N, H, W, C, gaps, dtype):
    x, rows, eps = image(N, H, W, C, dtype=dtype), image(N, C + 2, dtype=dtype), 0.03
    check_layer(LayerNorm(C, eps), x, lambda x, p: group_norm(x, p, eps), device=device, gaps=gaps)
    check_layer(
        LayerNorm(C + 2, eps), rows, lambda x, p: group_norm(x, p, eps), device=device, gaps=gaps
    )
    check_layer(
        LayerNorm((H, W, C), eps),
        x,
        lambda x, p: F.layer_norm(x, (H, W, C), p["gamma"], p["beta"], eps),
        device=device,
        gaps=gaps,
    )
    check_layer(
        InstanceNorm(C, eps), x, lambda x, p: instance_norm(x, p, eps), device=device, gaps=gaps
    )


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
    """Between other layers, norms pass on gradients and second-order terms correctly."""
    check_layer(Sequential(Conv2d(2, 3, 3, 1, 1), layer, Tanh()), image(4, 5, 4, 2), device=device)
    check_layer(
        Sequential(layer, LeakyReLU(), Conv2d(3, 2, 3), layer_like(layer), Tanh()),
        image(4, 5, 4, 3),
        device=device,
    )


def layer_like(layer):
    """Return a norm of the same kind for images (3, 2, 2) after a 3x3 convolution."""
    return LayerNorm((3, 2, 2)) if len(layer.shape) == 3 else type(layer)(2)


def test_batch_norm_in_a_perceptron(device):
    check_layer(
        Sequential(Linear(3, 5), BatchNorm(5), LeakyReLU(), Linear(5, 2), BatchNorm(2)),
        image(7, 3),
        device=device,
    )


def test_batch_norm_of_many_samples(device):
    """BatchNorm is right on batches larger than the part size of elementwise."""
    check_layer(BatchNorm(3), image(600, 8, 8, 3), device=device)


def test_constant_scale():
    """Without a trained scale, gamma is a buffer of 1: neither trained nor averaged."""
    layer, x = BatchNorm(3, trained_scale=False), image(6, 3)
    assert layer.params.keys() == {"beta"} and (layer.buffers["gamma"] == 1).all()
    assert "gamma" not in layer.averaged and repr(layer).endswith(", trained_scale=False)")
    randomize(trained := BatchNorm(3), np.random.default_rng(2))
    trained.params["gamma"][...], layer.params = 1, {"beta": trained.params["beta"]}
    assert_same(layer.forward(x)[0], trained.forward(x)[0])


@pytest.mark.parametrize("shape", [(7, 3), (5, 4, 2, 3)])
def test_running_statistics(shape):
    """Running statistics equal PyTorch's after three batches, and are used in inference.

    The momentum, 0.3, differs between the two conventions.
    """
    layer = BatchNorm(3, eps=0.03, momentum=0.3)
    randomize(layer, np.random.default_rng(2))
    twin = (torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d)(
        3, eps=0.03, momentum=0.3, dtype=torch.float64
    )
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
    """The variance is accurate for a mean of 10^4 standard deviations."""
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
    "layer, shape",
    [(InstanceNorm(3), (8, 1, 1, 3)), (LayerNorm(1), (8, 1)), (LayerNorm(1), (8, 1, 1, 1))],
    ids=str,
)
@pytest.mark.parametrize("train", [True, False])
def test_one_value_has_no_variance(layer, shape, train):
    """A norm over one value raises; its outputs would all be beta and its gradients 0."""
    with pytest.raises(ValueError, match=r"layer 0, \w+Norm\(.*one value has no variance"):
        Sequential(layer).forward(np.ones(shape, np.float32), train)


LONG = {
    "BatchNorm": (BatchNorm(16), (16, 32, 32, 16)),
    "BatchNorm of rows": (BatchNorm(4), (30_000, 4)),
    "BatchNorm of one channel": (BatchNorm(1), (30, 33, 31, 1)),
    "LayerNorm": (LayerNorm(16), (3, 64, 64, 16)),
    "LayerNorm of rows": (LayerNorm(30_000), (2, 30_000)),
    "InstanceNorm": (InstanceNorm(16), (3, 64, 65, 16)),
    "InstanceNorm of one channel": (InstanceNorm(1), (3, 64, 65, 1)),
}
over_long = pytest.mark.parametrize("layer, shape", LONG.values(), ids=LONG)
# a few roundings of float32 (6e-8), however long the sums are; PyTorch's float32 errors are smaller
DIGITS = 1e-6


@over_long
def test_long_sums_keep_their_digits(rng, layer, shape):
    """Value, gradients and second derivatives in float32 are accurate at a mean of ten std."""
    randomize(layer, np.random.default_rng(3), dtype=np.float64)
    x, dy, ddx = rng.normal(10, 1, shape), rng.normal(1, 1, shape), rng.normal(1, 1, shape)
    results = {}
    for dtype in (np.float32, np.float64):
        Parameters(layer, dtype=dtype)
        y, cache = layer.forward(x.astype(np.float32).astype(dtype))
        dx, grads = layer.backward(dy.astype(np.float32).astype(dtype), cache)
        ddy, dx2, grads2 = layer.double_backward(
            ddx.astype(np.float32).astype(dtype), dy.astype(np.float32).astype(dtype), cache
        )
        results[dtype] = {
            "y": y,
            "dx": dx,
            "ddy": ddy,
            "dx2": dx2,
            **grads,
            **{f"{name}2": g for name, g in grads2.items()},
        }
    for name, want in results[np.float64].items():
        terms = (
            1 if want.shape == shape else x.size // want.size
        )  # of a sum whose terms have both signs
        assert np.abs(results[np.float32][name] - want).max() < DIGITS * max(
            20, terms, np.abs(want).max()
        ), name


@over_long
@pytest.mark.parametrize("value", [0.7, 0.1, 1.0, 3.3])
def test_constant_input_gives_beta(layer, shape, value):
    """A constant input gives beta, though 1 / sqrt(eps) = 316 amplifies rounding of x - mean."""
    layer = type(layer)(layer.shape if isinstance(layer, LayerNorm) else layer.shape[0])
    y, _ = layer.forward(np.full(shape, value, np.float32))
    assert np.abs(y).max() < 1e-5


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
    """The defaults of eps and momentum, as printed, equal PyTorch's."""
    assert repr(BatchNorm(3)) == "BatchNorm(3, eps=1e-05, momentum=0.1)"
    assert repr(LayerNorm((5, 4, 3))) == "LayerNorm((5, 4, 3), eps=1e-05)"
    assert repr(InstanceNorm(3)) == "InstanceNorm(3, eps=1e-05)"


@over_layers
def test_wrong_dtype(layer):
    layer = type(layer)(layer.shape if len(layer.shape) > 1 else 3)
    with pytest.raises(
        TypeError, match=f"{type(layer).__name__}: x is float64 but gamma is float32"
    ):
        layer.forward(image(6, 5, 4, 3))


# Known mistakes of other implementations: with each of them, the check of this file fails.


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
        lambda ddx, dxhat, xhat, rstd, axes, _: (
            -rstd * normalize_dx(ddx * (dxhat * xhat).mean(axes), xhat, rstd, axes)
        ),
        zero_gamma,
    ),
    "biased running variance": (
        BatchNorm,
        "track",
        biased,
        lambda: test_running_statistics((7, 3)),
    ),
    "momentum the other way": (
        BatchNorm,
        "track",
        reversed_momentum,
        lambda: test_running_statistics((7, 3)),
    ),
}


@pytest.mark.parametrize("place, name, wrong, check", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_found(monkeypatch, place, name, wrong, check):
    with backend.reference_cpu():
        check()
        monkeypatch.setattr(place, name, wrong)
        with pytest.raises(AssertionError):
            check()
