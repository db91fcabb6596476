"""Every recipe: the parameter counts of its source, and its training, step for step, beside a PyTorch twin."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import assert_close
from torch import nn
from twins import MAKE, objective_twin, states, to_nchw, twin

from rawgan import layers
from rawgan.backend import CPU
from rawgan.data import Images
from rawgan.layers import leaves, parameter_count
from rawgan.losses import ACGAN
from rawgan.models.recipes import RECIPES, wgan_critic_steps
from rawgan.optim import Adam
from rawgan.penalties import WGANGP
from rawgan.random import Random
from rawgan.training.feed import Feed

COUNTS = {  # trained, and with running statistics, of G and of D
    "dcgan": (3_576_704, None, 2_765_568, None),
    "atienza_dcgan": (None, 1_301_505, None, 1_080_577),
    "raschka_mlp_gan": (81_184, 81_184, 78_601, 78_601),
    "raschka_wgan_gp": (804_832, 817_824, 1_039_489, 1_040_385),
}


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_of_the_source(name):
    gan = RECIPES[name].build(Random(0))
    got = [parameter_count(net, buffers) for net in (gan.generator, gan.discriminator) for buffers in (False, True)]
    for got_count, want in zip(got, COUNTS[name]):
        assert want in (None, got_count)


def test_conditional_counts_differ_from_the_plain_ones_by_the_labels_weights():
    plain, conditional = (RECIPES[name].build(Random(0)) for name in ("atienza_dcgan", "atienza_cgan"))
    assert parameter_count(conditional.generator) - parameter_count(plain.generator) == 10 * 7 * 7 * 128
    more = 10 * 784 + 784 + 25 * 32  # the Linear of the labels, and the first convolution's second channel
    assert parameter_count(conditional.discriminator) - parameter_count(plain.discriminator) == more


def test_the_names_are_the_keys_and_all_are_there():
    assert all(recipe.name == name for name, recipe in RECIPES.items())
    wanted = "raschka_mlp_gan raschka_dcgan raschka_wgan_gp atienza_dcgan atienza_cgan wgan wgan_gp_mnist lsgan hinge acgan dcgan"
    assert set(wanted.split()) <= RECIPES.keys()


def test_the_page_of_recipes_is_up_to_date():
    """Else: python docs/make_recipes.py"""
    spec = importlib.util.spec_from_file_location("make_recipes", Path(__file__).parents[1] / "docs" / "make_recipes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page()


def test_the_wgan_keeps_its_critic_near_the_optimum():
    assert [wgan_critic_steps(step) for step in (0, 24, 25, 499, 500, 501, 1000)] == [100, 100, 5, 5, 100, 5, 100]


# The twin


class Dropout(nn.Module):
    """With masks from a numpy generator, drawn as rawgan draws them."""

    def __init__(self, layer):
        super().__init__()
        self.p, self.rng = layer.p, None

    def forward(self, x):
        if not self.training:
            return x
        shape = x.movedim(1, -1).shape  # rawgan's order of axes
        keep = torch.from_numpy(self.rng.random(shape, dtype="float32") >= self.p).movedim(-1, 1)
        return x * keep / (1 - self.p)


class Condition(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.inner = MAKE[type(layer.inner)](layer.inner)

    def forward(self, pair):
        x, labels = pair
        return torch.cat([x, self.inner(labels)], 1)


class Function(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


MAKE.update({
    layers.Dropout: Dropout,
    layers.Condition: Condition,
    layers.OneHot: lambda layer: Function(lambda labels: F.one_hot(labels, layer.K).double()),
    layers.Planes: lambda layer: Function(lambda x: x[:, :, None, None].expand(-1, -1, layer.H, layer.W)),
    layers.Crop: lambda layer: Function(lambda x: x[:, :, : layer.H, : layer.W]),
})  # fmt: skip


class TwinGAN:
    """The same game in PyTorch, from the same weights, with autograd and PyTorch's optimizers."""

    def __init__(self, recipe, gan, seed: int):
        self.recipe, self.gan = recipe, gan
        self.G, self.D = twin(gan.generator), twin(gan.discriminator)
        random = Random(seed)
        for name, net in (("generator", self.G), ("discriminator", self.D)):
            for module in net.modules():
                if isinstance(module, Dropout):
                    module.rng = random.stream(f"{name} dropout")
        self.alpha = random.stream("penalty")
        self.g_optimizer = self.optimizer(gan.generator_optimizer, self.G)
        self.d_optimizer = self.optimizer(gan.discriminator_optimizer, self.D)

    @staticmethod
    def optimizer(ours, net):
        if isinstance(ours, Adam):
            return torch.optim.Adam(net.parameters(), ours.lr, ours.betas, ours.eps)
        return torch.optim.RMSprop(net.parameters(), ours.lr, ours.rho, ours.eps)

    def update(self, optimizer, ours, net, loss):
        params = list(net.parameters())
        for p, g in zip(params, torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)):
            p.grad = g
        for group in optimizer.param_groups:  # PyTorch's RMSprop has no decay
            group["lr"] = ours.lr / (1 + getattr(ours, "decay", 0) * ours.t)
        optimizer.step()

    def images(self, samples):
        """(x, labels or None) as tensors."""
        x, labels = samples if isinstance(samples, tuple) else (samples, None)
        return to_nchw(torch.from_numpy(np.asarray(x, np.float64))).contiguous(), labels if labels is None else torch.from_numpy(
            labels
        )

    def judge(self, x, labels):
        return self.D(x if labels is None or self.gan.objective.labelled else (x, labels))

    def generate(self, z, train=True):
        x, labels = self.images(z)
        return self.G.train(train)(x if labels is None else (x, labels)), labels

    def d_loss(self, a, c, real_labels, fake_labels):
        if isinstance(self.gan.objective, ACGAN):
            source = objective_twin(self.gan.objective.source)
            classes = F.cross_entropy(a[:, 1:], real_labels) + F.cross_entropy(c[:, 1:], fake_labels)
            return source.real(a[:, :1]) + source.fake(c[:, :1]) + classes
        objective = objective_twin(self.gan.objective)
        return objective.real(a) + objective.fake(c)

    def judged(self, real, fake):
        """D's loss, and D(fake) where the fakes passed on their own."""
        (x, labels), (y, fake_labels) = self.images(real), fake
        if self.recipe.joint:
            joined = None if labels is None else torch.cat([labels, fake_labels])
            a, c = self.judge(torch.cat([x, y]), joined).chunk(2)
            loss = self.d_loss(a, c, labels, fake_labels) / 2
        else:
            a, c = self.judge(x, labels), self.judge(y, fake_labels)
            loss = self.d_loss(a, c, labels, fake_labels)
        if self.recipe.penalty:
            alpha = torch.from_numpy(self.alpha.random((len(x), 1, 1, 1)))
            points = (alpha * x + (1 - alpha) * y).detach().requires_grad_()
            self.D.train(self.recipe.penalty_train)
            (g,) = torch.autograd.grad(self.judge(points, labels).sum(), points, create_graph=True)
            self.D.train()
            loss = loss + self.recipe.penalty.weight * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
        return loss, c

    def g_loss(self, c, labels):
        if isinstance(self.gan.objective, ACGAN):
            return objective_twin(self.gan.objective.source).generator(c[:, :1]) + F.cross_entropy(c[:, 1:], labels)
        return objective_twin(self.gan.objective).generator(c)

    def move_discriminator(self, loss):
        self.update(self.d_optimizer, self.gan.discriminator_optimizer, self.D, loss)
        if self.recipe.clip:
            for p in self.D.parameters():
                p.data.clamp_(-self.recipe.clip, self.recipe.clip)
        return loss.item()

    def discriminator_step(self, real, fake):
        return self.move_discriminator(self.judged(real, (fake[0].detach(), fake[1]))[0])

    def generator_step(self, fake):
        loss = self.g_loss(self.judge(*fake), fake[1])
        self.update(self.g_optimizer, self.gan.generator_optimizer, self.G, loss)
        return loss.item()

    def train_step(self, reals, zs):
        if self.recipe.first == "generator":
            fake = self.generate(zs[0], self.recipe.train_generator)
            g_loss = self.generator_step(fake)
            return {"d_loss": self.discriminator_step(reals[0], fake), "g_loss": g_loss}
        if self.recipe.first == "both":
            fake = self.generate(zs[0], self.recipe.train_generator)
            d_loss, c = self.judged(reals[0], fake)
            g_loss = self.g_loss(c, fake[1])
            theta = list(self.G.parameters())
            g_grads = torch.autograd.grad(g_loss, theta, retain_graph=True)
            self.move_discriminator(d_loss)
            linear = sum((g * p).sum() for g, p in zip(g_grads, theta))  # has exactly these gradients
            self.update(self.g_optimizer, self.gan.generator_optimizer, self.G, linear)
            return {"d_loss": d_loss.item(), "g_loss": g_loss.item()}
        for i, real in enumerate(reals):
            own = len(zs) > len(reals) or i < len(reals) - 1
            fake = self.generate(zs[i], self.recipe.train_fakes if own else self.recipe.train_generator)
            d_loss = self.discriminator_step(real, fake)
        if len(zs) > len(reals):
            fake = self.generate(zs[-1], self.recipe.train_generator)
        return {"d_loss": d_loss, "g_loss": self.generator_step(fake)}


SMALL = {
    "dcgan": (16, 4),
    "cgan": (16, 4),
    "wgan": (16, 4),
    "wgan_gp": (16, 4),
    "raschka_mlp_gan": (28, 10),
    "raschka_dcgan": (28, 16),
}


def trajectory(name: str, steps: int = 20, batch: int = 6, seed: int = 0):
    """Both games, `steps` generator steps with 5 critic steps each where the recipe has several; checks every loss on the way."""
    recipe = RECIPES[name]
    if recipe.critic_steps(0) > 1:
        recipe = replace(recipe, critic_steps=lambda step: 5)
    size, width = SMALL.get(name, (28, 4))
    gan = recipe.build(Random(seed), size, 1, width, dtype=np.float64)
    other = TwinGAN(recipe, gan, seed)
    rng = np.random.default_rng(1)
    data = Images(rng.integers(0, 256, (50, size, size, 1), np.uint8), rng.integers(0, 10, 50), "noise", "", "")
    feed = Feed(recipe, data, batch, Random(seed), CPU)
    for step in range(steps):
        reals, zs = ([double(samples) for samples in batches] for batches in feed.step(step))
        want = other.train_step(reals, zs)
        got = gan.train_step(reals, zs)
        for loss in ("d_loss", "g_loss"):
            assert_close(got[loss], want[loss], f"{loss} of step {step}", scale=1)
    return gan, other


def double(samples):
    return (samples[0].astype(np.float64), samples[1]) if isinstance(samples, tuple) else samples.astype(np.float64)


def compare(gan, other):
    """Every parameter and running statistic agrees; those near zero absolutely."""
    for net, copy in ((gan.generator, other.G), (gan.discriminator, other.D)):
        for name, (got, want) in states(net, copy).items():
            assert_close(got, want, name, scale=1)


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("name", RECIPES)
def test_trajectory_is_that_of_pytorch(name):
    compare(*trajectory(name))


def mutated(monkeypatch, name: str, put_in) -> None:
    put_in(monkeypatch)
    with pytest.raises(AssertionError):
        compare(*trajectory(name, steps=3))


def no_penalty(self, critic, x, condition, train):
    return x.sum() * 0, {}, x * 0


def generate_with_zero_labels(self, z, train=True):
    x, cache = self.generator.forward(z, train)
    return (x, z[1] * 0), cache


def forget(field, value=None):
    """Puts in GANs on which one field cannot be set to anything but `value`."""

    def put_in(patch):
        patch.setattr(
            "rawgan.gan.GAN.__setattr__", lambda gan, name, v: object.__setattr__(gan, name, value if name == field else v)
        )

    return put_in


MISTAKES = {
    "the penalty is never called": ("wgan_gp", lambda p: p.setattr(WGANGP, "__call__", no_penalty)),
    "the critic is not clipped": ("wgan", forget("clip")),
    "G first forgotten": ("raschka_mlp_gan", forget("first", "discriminator")),
    "D's fakes in training mode": ("atienza_dcgan", forget("train_fakes", True)),
    "the mean over both forgotten": ("atienza_dcgan", forget("joint")),
    "the penalty runs in training mode": ("raschka_wgan_gp", forget("penalty_train", True)),
    "D moves before G's gradient is taken": ("raschka_wgan_gp", forget("first", "discriminator")),
    "G learns in training mode": ("raschka_dcgan", forget("train_generator", True)),
    "wrong labels at the fakes": ("cgan", lambda p: p.setattr("rawgan.gan.GAN.generate", generate_with_zero_labels)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_caught(mistake, monkeypatch):
    mutated(monkeypatch, *MISTAKES[mistake])


# What a recipe feeds its networks


def test_a_feed_has_the_range_the_labels_and_the_numbers_that_the_recipe_says():
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (500, 28, 28, 1), np.uint8), np.arange(500) % 10, "noise", "", "")
    for name, low in (("atienza_cgan", 0), ("cgan", -1)):
        (reals, zs) = Feed(RECIPES[name], images, 100, Random(0), CPU).step(0)
        x, labels = reals[0]
        assert x.min() == low and x.max() == 1 and x.dtype == np.float32
        raw = images.images[:, 0, 0, 0] / 255 * (1 - low) + low
        assert all(np.isclose(raw[images.labels == label], pixel, atol=1e-6).any() for pixel, label in zip(x[:, 0, 0, 0], labels))
        assert len(zs) == 1 + RECIPES[name].fresh_z
    drawn = np.concatenate([Feed(RECIPES["cgan"], images, 100, Random(s), CPU).z()[1] for s in range(20)])
    assert np.bincount(drawn, minlength=10).min() > 120 and drawn.max() == 9  # the last class too


def test_z_is_uniform_or_normal():
    rng = np.random.default_rng(0)
    uniform, normal = (RECIPES[name].draw_z(rng, 1000) for name in ("raschka_mlp_gan", "dcgan"))
    assert uniform.shape == (1000, 20) and -1 <= uniform.min() < -0.99 and 0.99 < uniform.max() < 1
    assert normal.shape == (1000, 100) and abs(normal.std() - 1) < 0.02 and np.abs(normal).max() > 3


def test_every_layer_draws_its_dropout_from_the_seed():
    for _, layer in leaves(RECIPES["raschka_dcgan"].build(Random(0)).generator):
        assert not isinstance(layer, layers.Dropout) or layer.rng is not None
