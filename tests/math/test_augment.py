"""Differentiable augmentation: value, derivatives and adjoint of a draw; what draws depend on.

ADA and the command line are in test_ada.py and tests/training/test_augmented_runs.py.
"""

from functools import partial

import numpy as np
import pytest
import torch

from rawgan.ada import Augmentation
from rawgan.gan import GAN
from rawgan.layers import Augment, Conv2d, Flatten, Linear, Parameters, Sequential, Tanh
from rawgan.layers import augment as layer_file
from rawgan.losses import BCE
from rawgan.models.recipes import RECIPES
from rawgan.ops import augment as ops
from rawgan.optim import SGD
from rawgan.parallel import Ranks
from rawgan.penalties import R1, couples_samples
from rawgan.random import Random
from tests.support.augment_twin import augmented
from tests.support.reference import assert_close, assert_same, check_layer, randomize, tensor
from tests.support.twins import to_nchw, to_nhwc

stream = partial(np.random.default_rng, 11)
SHAPES = [(1, 1, 1, 1), (3, 5, 7, 3), (6, 8, 8, 1), (2, 1, 6, 2), (4, 16, 9, 3)]
POLICIES = [ops.TRANSFORMS, ("color",), ("translation",), ("cutout",), ("color", "cutout")]


def bound(*args, seed=11, **kwargs) -> Augment:
    layer = Augment(*args, **kwargs)
    layer.bind(np.random.default_rng(seed))
    return layer


def check(shape, dtype=np.float64, transforms=ops.TRANSFORMS, p=1.0, pixels="tanh", **kind):
    """Assert that an Augment is its twin of the same random numbers, to second order."""
    uniforms = stream().random((shape[0], 12))

    def f(x, params):
        return to_nhwc(augmented(to_nchw(x), uniforms, transforms, p, pixels))

    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    check_layer(bound(transforms, p, pixels), x, f, **kind)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_augment(device, shape, dtype, gaps):
    check(shape, dtype, device=device, gaps=gaps)


@pytest.mark.parametrize("transforms", POLICIES, ids=",".join)
@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("pixels", ["tanh", "unit"])
def test_transforms(transforms, p, pixels):
    check((8, 8, 6, 3), transforms=transforms, p=p, pixels=pixels)


def random_draws(rng, shape, **kwargs):
    return ops.draw(rng.random((shape[0], 12)), shape[1:3], **kwargs)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_two_maps_are_adjoint(rng, shape):
    """<A x, y> = <x, A' y>, and A is the linear part of the augmentation."""
    draws = random_draws(rng, shape, p=0.7)
    x, y = rng.normal(size=shape), rng.normal(size=shape)
    mapped = ops.augment_ddy(x, draws)
    assert_close(np.vdot(mapped, y), np.vdot(x, ops.augment_dx(y, draws)), scale=x.size)
    constant = ops.augment(0 * x, draws, 0.3)
    assert_close(ops.augment(x, draws, 0.3) - constant, mapped, scale=1)


def test_each_factor_is_the_adjoint_that_is_named(rng):
    x, y = (rng.normal(size=(5, 8, 6, 3)) for _ in range(2))
    b, s, c, u, v, p, q = random_draws(rng, x.shape).T
    places = [a.astype(int) for a in (u, v, p, q)]
    u, v, p, q = places
    for linear, adjoint in (
        (ops.color(x, 0 * b, s, c), ops.color(y, 0 * b, s, c)),
        (ops.translate(x, u, v), ops.translate(y, -u, -v)),
        (ops.cutout(x, p, q), ops.cutout(y, p, q)),
    ):
        assert_close(np.vdot(linear, y), np.vdot(x, adjoint), scale=x.size)


# The draws


def test_ranges():
    """The smallest and the largest random number give the ends of each range, H = 32, W = 12."""
    below_one = np.nextafter(1, 0)
    least, most = (np.full((1, 12), a) for a in (0.0, below_one))
    for uniforms in (least, most):
        uniforms[:, :5] = 0  # all transforms act
    assert ops.draw(least, (32, 12))[0].tolist() == [-0.5, 0, 0.5, -4, -2, 0, 0]
    got = ops.draw(most, (32, 12))[0]
    assert_close(got[:3], np.array([0.5, 2, 1.5]))
    assert got[3:].tolist() == [4, 2, 32, 12]
    odd = ops.draw(most, (5, 6))[0]  # holes of 3 rows and of 3 columns
    assert odd[3:].tolist() == [1, 1, 4, 5]
    assert ops.draw(most, (32, 32), brightness=0.25)[0, 0] == pytest.approx(0.25)


def test_every_place_is_as_likely():
    draws = ops.draw(np.random.default_rng(0).random((60_000, 12)), (16, 8))
    for column, values in ((3, 5), (4, 3), (5, 17), (6, 9)):
        _, counts = np.unique(draws[:, column], return_counts=True)
        share = 1 / values
        spread = np.sqrt(share * (1 - share) / len(draws))
        assert len(counts) == values
        assert (abs(counts / len(draws) - share) < 5 * spread).all()
    assert abs(draws[:, :3].mean(0) - [0, 1, 1]).max() < 5 * np.sqrt(1 / 3 / len(draws))


def test_probability():
    """Each of the five transforms acts on a share p of the samples, independently."""
    draws = ops.draw(np.random.default_rng(0).random((40_000, 12)), (16, 16), p=0.3)
    neutral = ops.draw(np.zeros((1, 12)), (16, 16), p=0)[0]
    acts = (draws != neutral)[:, [0, 1, 2, 5, 6]]
    assert (acts[:, 3] == acts[:, 4]).all()  # of a hole, both or neither
    shares = acts[:, :4].mean(0)
    spread = np.sqrt(0.3 * 0.7 / len(draws))
    assert abs(shares - 0.3).max() < 5 * spread
    together = (acts[:, 0] & acts[:, 3]).mean()
    assert abs(together - 0.09) < 5 * np.sqrt(0.09 * 0.91 / len(draws))


@pytest.mark.parametrize("pixels", ["tanh", "unit"])
def test_probability_0_changes_no_bit(rng, pixels):
    x = rng.normal(size=(4, 7, 6, 3)).astype(np.float32)
    y, cache = bound(p=0, pixels=pixels).forward(x)
    assert_same(y, x)
    assert_same(Augment().backward(x, cache)[0], x)


def test_inference_changes_and_draws_nothing(rng):
    x = rng.normal(size=(3, 4, 4, 1))
    layer = bound()
    before = layer.rng.bit_generator.state
    y, cache = layer.forward(x, train=False)
    assert y is x and layer.rng.bit_generator.state == before
    assert layer.backward(x, cache)[0] is x and layer.double_backward(x, x, cache)[0] is x


def test_gray_fills_the_middle_of_the_range():
    for pixels, gray in (("tanh", 0), ("unit", 0.5)):
        y, _ = bound(("cutout",), pixels=pixels).forward(np.ones((50, 8, 8, 1)))
        assert set(np.unique(y)) == {gray, 1}


# One layer for real and fake


def test_parts_of_a_batch_draw_what_the_batch_draws():
    """Real and fake in one pass, or in one each, get the same draws, and no two samples one."""
    x = np.random.default_rng(0).normal(size=(6, 8, 8, 3))
    whole, layer = bound().forward(x)[1], bound()
    assert_same(np.concatenate([layer.forward(x[:4])[1], layer.forward(x[4:])[1]]), whole)
    assert len(np.unique(whole, axis=0)) == 6


@pytest.mark.parametrize("name", ["wgan_gp", "dcgan"])
def test_real_and_fake_are_drawn_independently(name):
    """Also of equal images, in one pass and in two; each pass of D draws anew."""
    gan = RECIPES[name].with_augmentation(Augmentation()).build(Random(0), 16, 1, 4)
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 1)).astype(np.float32)
    passes = gan.one_pass if gan.takes_one_pass() else gan.separate_passes
    assert gan.takes_one_pass() == (name == "wgan_gp")
    seen = []
    forward = Augment.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Augment, "forward", lambda *args: seen.append(forward(*args)) or seen[-1])
        passes(x, x)
    draws = np.concatenate([cache for _, cache in seen])
    assert len(draws) == len(np.unique(draws, axis=0)) == 8


class OneOfTwo(Ranks):
    """Rank r of two processes, without the other."""

    size = 2

    def __init__(self, rank):
        self.rank = rank


def test_processes_draw_their_part():
    """GAN.join gives each process the draws of its samples: together those of one process."""
    parts = []
    for ranks in (Ranks(), OneOfTwo(0), OneOfTwo(1)):
        nets = [
            Sequential(Linear(3, 3)),
            Sequential(Augment(), Flatten(), Linear(64, 1)),
        ]
        optimizers = [SGD(Parameters(net, dtype=np.float64), 0.1) for net in nets]
        nets[1].bind(stream())
        GAN(*nets, BCE(), *optimizers, rng=stream()).join(ranks)
        parts.append(nets[1].layers[0].forward(np.ones((8 // ranks.size, 8, 8, 1)))[1])
    assert_same(np.concatenate(parts[1:]), parts[0])


def test_labels_pass_through(rng):
    x, labels = rng.normal(size=(4, 8, 8, 3)), np.array([3, 1, 4, 1])
    (y, same), _ = bound().forward((x, labels))
    assert same is labels
    assert_same(y, bound().forward(x)[0])


# Penalties


def critic(*first) -> Sequential:
    """Return a critic with random weights in float64, whose second derivative is not 0."""
    net = Sequential(Conv2d(3, 4, 3), Tanh(), Flatten(), Linear(4 * 6 * 6, 1))
    for layer in first:
        net.prepend("augment", layer)
    randomize(net, np.random.default_rng(5))
    return net


def test_a_penalty_is_that_of_one_draw(rng):
    """All sweeps use one draw: value, gradients and norms are those of autograd for that draw."""
    x, uniforms = rng.normal(size=(5, 8, 8, 3)), stream().random((5, 12))
    net = critic(bound())
    value, grads, norms = R1(3.0)(net, x)
    p = {name: tensor(a).requires_grad_() for name, a in net.params.items()}
    points = tensor(x).requires_grad_()
    h = augmented(to_nchw(points), uniforms, ops.TRANSFORMS)
    h = torch.nn.functional.conv2d(h, p["0.w"].movedim(-1, 1), p["0.b"]).tanh().movedim(1, -1)
    scores = h.flatten(1) @ p["3.w"].T + p["3.b"]
    (g,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    want = 1.5 * g.pow(2).flatten(1).sum(1).mean()
    assert_close(value, want.item())
    assert_close(norms, g.flatten(1).norm(dim=1).detach().numpy())
    assert grads.keys() >= {"0.w", "0.b", "3.w"}
    for name in ("0.w", "0.b", "3.w"):
        (w,) = torch.autograd.grad(want, p[name], retain_graph=True)
        assert_close(grads[name], w.numpy(), name)


def test_a_penalty_stays_one_per_sample():
    assert couples_samples(critic(Augment())) is None


def test_names_of_the_other_layers_stay():
    """Weights of a critic with and without augmentation are interchangeable."""
    assert critic(Augment()).params.keys() == critic().params.keys()
    assert list(critic(Augment()).children()) == ["augment", "0", "1", "2", "3"]


# What is refused


def test_refusals():
    with pytest.raises(ValueError, match="Augment has color, translation, cutout, not 'colour'"):
        Augment(("colour",))
    with pytest.raises(ValueError, match=r"probability of Augment lies in \[0, 1\], got 1.5"):
        Augment(p=1.5)
    with pytest.raises(ValueError, match=r"Augment\(.* before layer 0 has no random stream"):
        critic(Augment()).forward(np.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"Augment.* before layer 0: expected x of shape"):
        critic(bound()).forward(np.zeros((2, 192)))


# Mistakes, each in place of a function of the operation or a method of the layer


def without(factor):
    """Return augment_dx without one of its factors."""
    identity = {"translate": lambda x, u, v: x, "cutout": lambda x, p, q: x}

    def augment_dx(dy, draws):
        u, v, p, q = ops._whole(draws)
        b, s, c = draws[:, :3].T
        cutout, translate = (
            identity[name] if name == factor else getattr(ops, name)
            for name in ("cutout", "translate")
        )
        return ops.color(translate(cutout(dy, p, q), -u, -v), 0 * b, s, c)

    return augment_dx


def shift_not_back(dy, draws):
    u, v, p, q = ops._whole(draws)
    b, s, c = draws[:, :3].T
    return ops.color(ops.translate(ops.cutout(dy, p, q), u, v), 0 * b, s, c)


def hole_after_the_shift(dy, draws):
    u, v, p, q = ops._whole(draws)
    b, s, c = draws[:, :3].T
    return ops.color(ops.cutout(ops.translate(dy, -u, -v), p, q), 0 * b, s, c)


def brightness_in_the_gradient(dy, draws):
    u, v, p, q = ops._whole(draws)
    return ops.color(ops.translate(ops.cutout(dy, p, q), -u, -v), *draws[:, :3].T)


def means_as_constants(dy, draws):
    u, v, p, q = ops._whole(draws)
    sc = (draws[:, 1] * draws[:, 2]).reshape(-1, 1, 1, 1)
    return sc * ops.translate(ops.cutout(dy, p, q), -u, -v)


def rolled(x, u, v, fill=0.0):
    return np.stack([np.roll(a, (i, j), (0, 1)) for a, i, j in zip(x, u, v)])


def contrast_of_the_batch(x, b, s, c):
    b, s, c = (a.reshape(-1, 1, 1, 1) for a in (b, s, c))
    return s * c * x + c * (1 - s) * x.mean(3, keepdims=True) + ((1 - c) * x.mean() + b)


def contrast_before_saturation_forgets_its_mean(x, b, s, c):
    b, s, c = (a.reshape(-1, 1, 1, 1) for a in (b, s, c))
    means = x.mean(3, keepdims=True), x.mean((1, 2, 3), keepdims=True)
    return s * c * x + (1 - s) * means[0] + ((1 - c) * means[1] + b)


def hole_in_the_rows_alone(x, p, q, fill=0.0):
    H = x.shape[1]
    offset = np.arange(H) - p[:, None] + ops._hole(H) // 2
    inside = (offset >= 0) & (offset < ops._hole(H))
    return np.where(inside[:, :, None, None], fill, x)


def unfilled(x, draws, fill=0.0):
    u, v, p, q = ops._whole(draws)
    return ops.cutout(ops.translate(ops.color(x, *draws[:, :3].T), u, v), p, q)


def draws_again(self, dy, cache, need_dx=True, need_grads=True):
    return ops.augment_dx(dy, self.forward(dy)[1]), {}


def with_brightness(self, ddx, dy, cache, need_ddy=True):
    return ops.augment(ddx, cache), None, {}


def adjoint_of_the_adjoint(self, ddx, dy, cache, need_ddy=True):
    return ops.augment_dx(ddx, cache), None, {}


MISTAKES = [
    *((layer_file, "augment_dx", without(factor)) for factor in ("translate", "cutout")),
    (layer_file, "augment_dx", shift_not_back),
    (layer_file, "augment_dx", hole_after_the_shift),
    (layer_file, "augment_dx", brightness_in_the_gradient),
    (layer_file, "augment_dx", means_as_constants),
    (ops, "translate", rolled),
    (ops, "color", contrast_of_the_batch),
    (ops, "color", contrast_before_saturation_forgets_its_mean),
    (ops, "cutout", hole_in_the_rows_alone),
    (layer_file, "augment", unfilled),
    (Augment, "backward", draws_again),
    (Augment, "double_backward", with_brightness),
    (Augment, "double_backward", adjoint_of_the_adjoint),
]


@pytest.mark.parametrize("where, name, wrong", MISTAKES, ids=lambda a: getattr(a, "__name__", ""))
def test_mistake_is_found(monkeypatch, where, name, wrong):
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError):
        check((4, 8, 6, 3), pixels="unit")
