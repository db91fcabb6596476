"""Residual, Skip, Heads and Lerp against autograd, alone, nested and under a gradient penalty."""

import numpy as np
import pytest
import torch

from rawgan import layers as L
from rawgan.layers import blocks
from rawgan.penalties import R1, WGANGP, Drift, source_size
from tests.support.reference import assert_close, assert_same, check_layer, randomize
from tests.support.twins import gradients, penalty_twin, to_nchw, twin


def u_net():
    """Return a U-Net of two levels: 8x8 and 4x4, in and out 2 channels."""
    innermost = L.Sequential(
        L.Conv2d(3, 4, 4, 2, 1),
        L.Tanh(),
        L.ConvTranspose2d(4, 3, 4, 2, 1, bias=False),
        L.InstanceNorm(3),
    )
    inner = L.Sequential(
        *(L.Conv2d(2, 3, 4, 2, 1), L.LeakyReLU(), L.Skip(innermost)),
        *(L.ConvTranspose2d(6, 5, 4, 2, 1), L.Tanh()),
    )
    return L.Sequential(L.Skip(inner), L.Conv2d(7, 2, 1))


def residual_critic():
    """Return a critic of two residual blocks with average pools, as that of SN-GAN, smooth."""
    down = L.Residual(
        L.Sequential(L.Conv2d(2, 3, 3, 1, 1), L.Tanh(), L.Conv2d(3, 3, 3, 1, 1), L.AvgPool2d()),
        L.Sequential(L.Conv2d(2, 3, 1), L.AvgPool2d()),
    )
    same = L.Residual(L.Sequential(L.Tanh(), L.Conv2d(3, 3, 3, 1, 1), L.LayerNorm(3)))
    return L.Sequential(down, same, L.Softplus(), L.GlobalSumPool(), L.Linear(3, 1))


def progressive_critic():
    """Return a small critic of the progressive GAN in a fade-in, with all of its layers."""
    new = L.Sequential(
        L.EqualizedLR(L.Conv2d(1, 3, 1)), L.LeakyReLU(), L.EqualizedLR(L.Conv2d(3, 4, 3, 1, 1)),
        L.AvgPool2d(),
    )  # fmt: skip
    old = L.Sequential(L.AvgPool2d(), L.EqualizedLR(L.Conv2d(1, 4, 1)))
    return L.Sequential(
        *(L.Lerp(old, new, 0.3), L.LeakyReLU(), L.MinibatchStd(2)),
        *(L.EqualizedLR(L.Conv2d(5, 3, 3, 1, 1)), L.Tanh(), L.Flatten()),
        L.EqualizedLR(L.Linear(48, 1), 1),
    )


def many_heads():
    """Return a body with three heads, one of them two layers deep."""
    return L.Sequential(
        *(L.Conv2d(2, 3, 3, 2, 1), L.Tanh(), L.Flatten()),
        L.Heads(
            L.Linear(48, 1),
            L.Sequential(L.Linear(48, 5), L.Tanh(), L.Linear(5, 3)),
            L.WeightNorm(L.Linear(48, 2)),
        ),
    )


NETS = {  # a network and its batch shape
    "residual, identity": (lambda: L.Residual(L.Sequential(L.Linear(4, 4), L.Tanh())), (5, 4)),
    "residual, shortcut": (
        lambda: L.Residual(L.Conv2d(2, 3, 3, 1, 1), L.Conv2d(2, 3, 1)),
        (2, 5, 4, 2),
    ),
    "residual of curvatures": (lambda: L.Residual(L.Tanh(), L.Softplus()), (3, 4)),
    "residual, linear": (lambda: L.Residual(L.Linear(4, 4)), (1, 4)),
    "skip": (lambda: L.Skip(L.Sequential(L.Linear(4, 3), L.Tanh())), (5, 4)),
    "skip of an image": (lambda: L.Skip(L.Conv2d(2, 3, 3, 1, 1)), (2, 5, 4, 2)),
    "lerp": (lambda: L.Lerp(L.Linear(4, 3), L.Sequential(L.Linear(4, 3), L.Tanh()), 0.25), (5, 4)),
    "lerp at 0": (lambda: L.Lerp(L.Linear(4, 3), L.Linear(4, 3), 0.0), (5, 4)),
    "lerp at 1": (lambda: L.Lerp(L.Linear(4, 3), L.Linear(4, 3), 1.0), (5, 4)),
    "heads": (lambda: L.Heads(L.Linear(4, 1), L.Linear(4, 3)), (5, 4)),
    "one head": (lambda: L.Heads(L.Linear(4, 1)), (5, 4)),
    "many heads": (many_heads, (3, 8, 8, 2)),
    "U-Net": (u_net, (2, 8, 8, 2)),
    "residual critic": (residual_critic, (3, 6, 4, 2)),
    "progressive critic": (progressive_critic, (4, 8, 8, 1)),
    "progressive generator": (
        lambda: L.Sequential(
            *(L.PixelNorm(), L.EqualizedLR(L.Linear(3, 16)), L.Reshape(2, 2, 4), L.PixelNorm()),
            *(L.Upsample2d(), L.EqualizedLR(L.Conv2d(4, 2, 3, 1, 1)), L.LeakyReLU()),
        ),
        (3, 3),
    ),
}
over_nets = pytest.mark.parametrize("make, shape", NETS.values(), ids=NETS)


@over_nets
@pytest.mark.parametrize("gaps", [False, True])
def test_second_order(device, make, shape, gaps):
    x = np.random.default_rng(1).normal(size=shape)
    check_layer(make(), x, device=device, gaps=gaps)


@over_nets
def test_in_float32(device, make, shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    check_layer(make(), x, device=device)


CRITICS = {
    "residual": (residual_critic, (4, 6, 4, 2)),
    "progressive": (progressive_critic, (4, 8, 8, 1)),
    "heads": (many_heads, (4, 8, 8, 2)),
    "U-Net": (
        lambda: L.Sequential(*u_net().layers, L.GlobalMeanPool(), L.Linear(2, 1)),
        (4, 8, 8, 2),
    ),
}


@pytest.mark.parametrize("make, shape", CRITICS.values(), ids=CRITICS)
@pytest.mark.parametrize("penalty", [WGANGP(), R1(), Drift(0.5)], ids=repr)
def test_penalty(make, shape, penalty):
    """A penalty of a critic of blocks, and its gradients, equal autograd's.

    That of Heads is a penalty of the first score alone.
    """
    critic, rng = make(), np.random.default_rng(2)
    randomize(critic, rng)
    x = rng.normal(size=shape)
    value, grads, _ = penalty(critic, x)
    copy = twin(critic)
    want = penalty_twin(penalty)(lambda x: copy(x)[:, :1], to_nchw(torch.from_numpy(x)))
    want.backward()
    assert_close(value, want.item(), "value")
    for name, g in gradients_or_zero(critic, copy).items():
        assert_close(grads.get(name, np.zeros_like(g)), g, name)


def gradients_or_zero(net, copy):
    """Return the twin's gradients, 0 for parameters that the penalty does not depend on."""
    for p in copy.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    return gradients(net, copy)


def test_the_source_is_the_first_head(rng):
    critic = many_heads()
    randomize(critic, rng)
    scores, cache = critic.forward(rng.normal(size=(4, 8, 8, 2)))
    assert scores.shape == (4, 6) and source_size(critic, scores, cache) == 1
    assert source_size(residual_critic(), scores[:, :2], None) == 2


def test_a_pass_keeps_its_alpha(rng):
    """alpha can change between forward and backward, as it does between two steps."""
    layer = L.Lerp(L.Linear(4, 3), L.Linear(4, 3), 0.25)
    randomize(layer, rng)
    x, dy, ddx = rng.normal(size=(5, 4)), rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    _, cache = layer.forward(x)
    want = layer.backward(dy, cache)[0], layer.double_backward(ddx, dy, cache)[0]
    layer.alpha = 0.75
    assert_same(layer.backward(dy, cache)[0], want[0])
    assert_same(layer.double_backward(ddx, dy, cache)[0], want[1])
    y, _ = layer.forward(x)
    outputs = [layer.branches[name].forward(x)[0] for name in "ab"]
    assert_close(y, 0.25 * outputs[0] + 0.75 * outputs[1])


@pytest.mark.parametrize("make, shape", CRITICS.values(), ids=CRITICS)
def test_the_upstream_sweep_is_not_repeated(monkeypatch, make, shape):
    """With the upstream gradients known, double_backward does no backward pass for them again.

    The second-order results keep their bits.
    """
    critic, rng = make(), np.random.default_rng(2)
    randomize(critic, rng)
    y, cache = critic.forward(rng.normal(size=shape))
    dy, ddx = rng.normal(size=y.shape), rng.normal(size=shape)
    dys = critic.upstream(dy, cache)
    want = critic.double_backward(ddx, dy, cache)

    def repeated(*_):
        raise AssertionError("the upstream sweep is repeated")

    monkeypatch.setattr(L.Sequential, "upstream", repeated)
    got = critic.double_backward(ddx, dy, cache, dys=dys)
    assert_same(got[0], want[0])
    assert_same(got[1], want[1])
    for name, g in want[2].items():
        assert_same(got[2][name], g, name)


def test_names_and_streams():
    """Parameters are named by branch, and a random stream reaches the layers inside."""
    net = L.Sequential(L.Skip(L.Sequential(L.Linear(4, 3), L.Dropout(0.5))), L.Linear(7, 1))
    assert list(net.params) == ["0.inner.0.w", "0.inner.0.b", "1.w", "1.b"]
    net.bind(np.random.default_rng(0))
    assert net.layers[0].branches["inner"].layers[1].rng is not None
    assert repr(L.Lerp(L.Tanh(), L.ReLU())) == "Lerp(Tanh(), ReLU(), alpha=0.0)"
    assert repr(L.Residual(L.Tanh())) == "Residual(Tanh())"


@pytest.mark.parametrize(
    "layer, message",
    [
        (
            L.Residual(L.Linear(4, 3)),
            r"Residual: outputs of shapes \(2, 3\) and \(2, 4\) cannot be added",
        ),
        (L.Lerp(L.Tanh(), L.Linear(4, 3)), r"Lerp: outputs of shapes \(2, 4\) and \(2, 3\) cann"),
        (L.Skip(L.Reshape(2, 2)), r"Skip: outputs of shapes \(2, 2, 2\) and \(2, 4\) cannot be c"),
        (L.Lerp(L.Tanh(), L.Tanh(), 1.5), r"Lerp: alpha lies in \[0, 1\], got 1.5"),
    ],
)
def test_outputs_that_do_not_join(layer, message):
    with pytest.raises(ValueError, match=message):
        layer.forward(np.zeros((2, 4), np.float32))


def test_no_heads():
    with pytest.raises(ValueError, match="Heads need at least one layer"):
        L.Heads()


def test_a_layer_without_second_derivative_inside_is_named(rng):
    net = L.Sequential(L.Residual(L.Sequential(First())), L.Linear(4, 1))
    randomize(net, rng)
    with pytest.raises(NotImplementedError, match=r"layer 0\.inner\.0, First\(\) has no double_b"):
        R1()(net, rng.normal(size=(2, 4)))


class First(L.Layer):
    """y = x, without double_backward."""

    def forward(self, x, train=True):
        return x, None

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return dy, {}


# Mistakes


def without_shortcut(self, dy, joint):
    return [dy, 0 * dy]


def exchanged(self, dy, joint):
    return [joint * dy, (1 - joint) * dy]


def one_column_off(self, dy, joint):
    return right(self, np.roll(dy, 1, -1), joint)


right = blocks._Concatenation.split


@pytest.mark.parametrize(
    "owner, wrong, name",
    [
        (L.Residual, without_shortcut, "residual, identity"),
        (L.Lerp, exchanged, "lerp"),
        (L.Skip, one_column_off, "skip"),
        (L.Heads, one_column_off, "heads"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_mistake_is_found(monkeypatch, owner, wrong, name):
    make, shape = NETS[name]
    monkeypatch.setattr(owner, "split", wrong)
    with pytest.raises(AssertionError, match=r"d\S+:|inner product"):
        check_layer(make(), np.random.default_rng(1).normal(size=shape))


def test_a_penalty_of_all_heads_is_found(monkeypatch):
    monkeypatch.setattr("rawgan.penalties.source_size", lambda critic, scores, cache: 6)
    with pytest.raises(AssertionError):
        test_penalty(*CRITICS["heads"], R1())


def test_curvature_of_one_branch_alone_is_found(monkeypatch):
    make, shape = NETS["residual of curvatures"]
    double_backward = L.Tanh.double_backward
    monkeypatch.setattr(
        L.Tanh, "double_backward", lambda *a, **k: (double_backward(*a, **k)[0], None, {})
    )
    with pytest.raises(AssertionError, match="dx2"):
        check_layer(make(), np.random.default_rng(1).normal(size=shape))
