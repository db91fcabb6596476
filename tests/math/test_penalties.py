"""Gradient penalties: value, gradients with respect to weights, cost, and common mistakes."""

import numpy as np
import pytest
import torch

from rawgan import layers as L
from rawgan import penalties
from rawgan.models import gulrajani
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES
from rawgan.penalties import DRAGAN, R1, WGANGP
from rawgan.random import Random
from tests.support.reference import assert_close, randomize
from tests.support.twins import PENALTIES, penalty_twin, to_nchw, twin

CRITICS = {
    "linear": lambda: [L.Flatten(), L.Linear(128, 7), L.LeakyReLU(0.2), L.Linear(7, 1)],
    "conv": lambda: [L.Conv2d(2, 3, 4, 2, 1), L.LeakyReLU(0.2), L.Conv2d(3, 1, 4)],
    "two scores": lambda: [L.Conv2d(2, 3, 4, 2, 1), L.LeakyReLU(0.2), L.Flatten(), L.Linear(48, 2)],
    "transposed": lambda: [L.ConvTranspose2d(2, 3, 3, 2, 1, 1), L.LeakyReLU(0.1),
        L.Conv2d(3, 1, 16)],
    "tanh": lambda: [L.Conv2d(2, 3, 3, 1, "same"), L.Tanh(), L.Flatten(), L.Linear(192, 4),
        L.Tanh(), L.Linear(4, 1)],
    "sigmoid": lambda: [L.Conv2d(2, 3, 4, 2, 1), L.Sigmoid(), L.Conv2d(3, 1, 4)],
    "softplus": lambda: [L.Conv2d(2, 3, 4, 2, 1), L.Softplus(), L.Conv2d(3, 1, 4), L.Softplus()],
    "layer norm": lambda: [L.Conv2d(2, 3, 4, 2, 1), L.LayerNorm((4, 4, 3)), L.LeakyReLU(0.2),
        L.Conv2d(3, 1, 4)],
    "instance norm": lambda: [L.Conv2d(2, 3, 4, 2, 1), L.InstanceNorm(3), L.LeakyReLU(0.2),
        L.Conv2d(3, 1, 4)],
    "batch norm": lambda: [L.Conv2d(2, 3, 4, 2, 1), L.BatchNorm(3), L.LeakyReLU(0.2),
        L.Conv2d(3, 1, 4)],
    "all": lambda: [
        L.Conv2d(2, 4, 3, 1, "same"), L.LayerNorm(4), L.Tanh(), L.ConvTranspose2d(4, 3, 4, 2, 1),
        L.InstanceNorm(3), L.Softplus(),
        L.Conv2d(3, 2, 4, 4), L.BatchNorm(2), L.Sigmoid(), L.Flatten(), L.Linear(32, 3),
        L.LeakyReLU(0.2), L.Linear(3, 1),
    ],
}  # fmt: skip


def critic_and_points(name: str, seed: int = 0):
    """Return a critic with random float64 parameters, its Parameters, and points (5, 8, 8, 2)."""
    rng = np.random.default_rng(seed)
    net = L.Sequential(*CRITICS[name]())
    return net, randomize(net, rng), rng.normal(size=(5, 8, 8, 2))


def torch_penalty(penalty, copy, x):
    """Return the penalty of a twin by autograd, as a tensor."""
    return penalty_twin(penalty)(copy, to_nchw(torch.from_numpy(x)).contiguous())


def check(penalty, net, x, train=True) -> None:
    """Assert that value and gradients of the penalty equal autograd's."""
    parameters = L.Parameters(net, dtype=np.float64)
    copy = twin(net).train(train)
    want = torch_penalty(penalty, copy, x)
    names = dict(zip(net.params, copy.parameters()))
    flat = torch.autograd.grad(
        want, list(names.values()), allow_unused=True, materialize_grads=True
    )
    value, grads, norms = penalty(net, x, train=train)
    assert_close(value, want.item(), "P")
    got = parameters.views(parameters.flatten_gradients(grads))
    flat = [penalty.interval * g for g in flat]
    scale = max(float(g.abs().max()) for g in flat)
    for (name, got_g), g in zip(got.items(), flat):
        want_g = (
            g.movedim(1, -1).numpy()
            if g.ndim == 4
            else g.movedim(0, -1).numpy()
            if g.ndim == 3
            else g.numpy()
        )
        assert_close(got_g, want_g, name, scale=scale)
    assert norms is None if penalty_twin(penalty).of_scores else norms.shape == (len(x),)


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
@pytest.mark.parametrize("name", CRITICS)
def test_gradients_are_those_of_autograd(name, penalty):
    net, _, x = critic_and_points(name)
    check(penalty, net, x)


@pytest.mark.parametrize("name", ["batch norm", "all"])
def test_inference_mode(name):
    net, _, x = critic_and_points(name)
    check(WGANGP(), net, x, train=False)


@pytest.mark.parametrize("name", ["layer norm", "instance norm", "batch norm", "all"])
def test_gamma_exactly_zero(name):
    net, _, x = critic_and_points(name)
    gammas = [gamma for key, gamma in net.params.items() if key.endswith("gamma")]
    gammas[0][:] = 0
    if len(gammas) > 1:
        check(WGANGP(), net, x)
    else:  # D is constant in x here: the penalty is (0 - 1)^2 and its subgradient 0
        value, grads, norms = WGANGP(10)(net, x)
        assert float(value) == 10 and not norms.any()
        assert all(np.isfinite(g).all() and not g.any() for g in grads.values())


def test_zero_gradient_is_finite_without_a_warning():
    net, parameters, x = critic_and_points("conv")
    parameters.flat[:] = 0
    with np.errstate(all="raise"):
        value, grads, norms = WGANGP(10)(net, x)
    assert float(value) == 10 and not norms.any()
    assert all(np.isfinite(g).all() for g in grads.values())


def test_points_lie_between_real_and_fake_one_alpha_per_sample():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 500, 4, 4, 2))
    alpha = (WGANGP().points(real, fake, np.random.default_rng(1)) - fake) / (real - fake)
    assert_close(alpha, np.broadcast_to(alpha[:, :1, :1, :1], alpha.shape), "alpha", scale=1e4)
    alpha = alpha[:, 0, 0, 0]
    assert 0 < alpha.min() < 0.02 and 0.98 < alpha.max() < 1
    assert abs(alpha.mean() - 0.5) < 5 / np.sqrt(12 * 500) and abs(alpha.var() - 1 / 12) < 0.02


def test_points_of_the_others():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 300, 4, 4, 2))
    assert R1().points(real, fake, None) is real
    moved = DRAGAN(spread=0.5).points(real, fake, np.random.default_rng(1)) - real
    assert moved.min() >= 0 and 0.45 < moved.max() / real.std() < 0.5


def test_a_critic_without_second_derivative_is_named():
    net = L.Sequential(L.Embedding(3, 2))
    with pytest.raises(NotImplementedError, match="Embedding"):
        net.layers[0].double_backward(None, None, None)


# Cost


def count_convolutions(monkeypatch, run) -> int:
    """Return the number of calls of the three operations of a convolution in `run`."""
    import rawgan.layers.conv as module

    calls = []
    for name in ("conv2d", "conv2d_dx", "conv2d_dw"):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, _f=original, **k: (calls.append(1), _f(*a, **k))[1]
        )
    run()
    return len(calls)


def test_a_critic_step_with_penalty_is_33_convolutions(monkeypatch):
    """A critic step with penalty has 33 convolutions for the 5 layers of dcgan_64.

    Real and fake together: 5 forward, 4 input gradients, 5 weight gradients. Points between them: 5
    forward, 5 input gradients, 4 JVPs, their 5 weight gradients. Autograd runs 56, on batches of
    one size.
    """
    gan = RECIPES["wgan_gp"].build(Random(0), 64, 1, 2)
    real = np.random.default_rng(0).normal(size=(2, 64, 64, 1)).astype(np.float32)
    assert count_convolutions(monkeypatch, lambda: gan.discriminator_step(real, -real)) == 33


def test_wgan_gp_mnist_has_no_convolution_too_many(monkeypatch):
    """A critic step of wgan_gp_mnist has 7 L - 1 operations for L layers, the last one linear.

    Its three convolutions have 6 forward, 2 + 3 input gradients, 3, 3 and 3 others.
    """
    net = gulrajani.critic(width=2)
    gan = RECIPES["wgan_gp_mnist"].build(Random(0), width=2)
    assert sum(isinstance(layer, L.Conv2d) for layer in net.layers) == 3
    real = np.random.default_rng(0).uniform(size=(2, 28, 28, 1)).astype(np.float32)
    assert count_convolutions(monkeypatch, lambda: gan.discriminator_step(real, real / 2)) == 20


# Warnings


def test_batch_norm_in_the_critic_warns_and_names_the_remedy():
    with pytest.warns(UserWarning, match=r"BatchNorm: it couples .* LayerNorm or InstanceNorm"):
        RECIPES["raschka_wgan_gp"].build(Random(0), width=8)
    for norm in ("layer", "instance", "none"):
        assert penalties.couples_samples(dcgan_discriminator(32, 1, 4, norm=norm)) is None


# Mistakes, which the check detects


MISTAKES = {}


def mistake(f):
    """Register a function that puts in one mistake with monkeypatch."""
    MISTAKES[f.__name__] = f
    return f


@mistake
def norm_over_the_channels_only(patch):
    def call(self, critic, x, condition=None, train=True):
        scores, cache = critic.forward(x, train)
        dys = critic.upstream(np.ones_like(scores), cache)
        g = dys[0]
        norm = np.sqrt((g * g).sum(-1, keepdims=True))
        value = self.weight * ((norm - 1) ** 2).mean()
        ddx = 2 * self.weight / norm.size * (norm - 1) / norm * g
        _, _, grads = critic.double_backward(ddx, dys[-1], cache, dys=dys)
        return value, grads, norm.reshape(len(x), -1).mean(1)

    patch.setattr(penalties.Penalty, "__call__", call)


@mistake
def value_without_its_gradient(patch):
    original = penalties.Penalty.__call__
    patch.setattr(
        penalties.Penalty,
        "__call__",
        lambda *a, **k: (original(*a, **k)[0], {}, original(*a, **k)[2]),
    )


@mistake
def weight_silently_zero(patch):
    original = WGANGP.value
    patch.setattr(
        WGANGP, "value", lambda self, squared: tuple(0 * v for v in original(self, squared))
    )


@mistake
def without_the_square(patch):
    def value(self, squared):
        norm = np.sqrt(squared)
        return self.weight * (norm - 1).mean(), self.weight / len(norm) / norm

    patch.setattr(WGANGP, "value", value)


@mistake
def one_sided_by_accident(patch):
    original = WGANGP.value
    patch.setattr(
        WGANGP,
        "value",
        lambda self, squared: original(WGANGP(self.weight, one_sided=True), squared),
    )


@mistake
def curvature_forgotten(patch):
    patch.setattr(
        "rawgan.layers.act.Tanh.double_backward",
        lambda self, ddx, dy, y, need_ddy=True: ((1 - y * y) * ddx, None, {}),
    )


@mistake
def mean_over_the_batch_forgotten(patch):
    original = WGANGP.value
    patch.setattr(
        WGANGP,
        "value",
        lambda self, squared: (
            original(self, squared)[0],
            original(self, squared)[1] * len(squared),
        ),
    )


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_caught(name, monkeypatch):
    net, parameters, x = critic_and_points("tanh")
    parameters.flat *= 0.3  # norms on both sides of 1
    check(WGANGP(), net, x)
    MISTAKES[name](monkeypatch)
    with pytest.raises(AssertionError):
        check(WGANGP(), net, x)


@pytest.mark.parametrize("draw", ["normal", "one per pixel", "one for the batch"])
def test_wrong_alphas_are_caught(draw, monkeypatch):
    shapes = {
        "one per pixel": lambda like: like.shape,
        "one for the batch": lambda like: (1,) * like.ndim,
    }

    def wrong(rng, like):
        if draw == "normal":
            return rng.normal(size=(len(like), *[1] * (like.ndim - 1)))
        return rng.random(shapes[draw](like))

    monkeypatch.setattr(penalties, "per_sample", wrong)
    with pytest.raises(AssertionError):
        test_points_lie_between_real_and_fake_one_alpha_per_sample()


def test_division_by_a_zero_norm_is_caught(monkeypatch):
    def value(self, squared):
        norm = np.sqrt(squared)
        return self.weight * ((norm - 1) ** 2).mean(), 2 * self.weight / len(norm) * (
            norm - 1
        ) / norm

    monkeypatch.setattr(WGANGP, "value", value)
    with pytest.raises((AssertionError, FloatingPointError)):
        test_zero_gradient_is_finite_without_a_warning()
