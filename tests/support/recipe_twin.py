"""PyTorch twin of a recipe's GAN: equal weights, masks and alpha, autograd, its optimizers."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rawgan import layers
from rawgan.backend import CPU
from rawgan.data import Images
from rawgan.losses import ACGAN
from rawgan.models.recipe import Recipe
from rawgan.optim import Adam, RMSprop
from rawgan.penalties import as_penalties
from rawgan.random import Random
from rawgan.training.prefetch import Feed
from tests.support.augment_twin import Augment
from tests.support.tolerance import assert_close
from tests.support.twins import (
    MAKE,
    make,
    objective_twin,
    penalty_twin,
    set_epsilon_hat,
    states,
    to_nchw,
    twin,
)


class Dropout(nn.Module):
    """Dropout with masks from a NumPy generator, drawn in rawgan's order."""

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
        self.inner = make(layer.inner)

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
    layers.Augment: Augment,
    layers.Condition: Condition,
    layers.OneHot: lambda layer: Function(lambda labels: F.one_hot(labels, layer.K).double()),
    layers.Planes: lambda layer: Function(
        lambda x: x[:, :, None, None].expand(-1, -1, layer.H, layer.W)),
    layers.Crop: lambda layer: Function(lambda x: x[:, :, : layer.H, : layer.W]),
})  # fmt: skip


class TwinGAN:
    """The same GAN in PyTorch: equal weights, autograd and PyTorch's optimizers."""

    def __init__(self, recipe, gan, seed: int):
        self.recipe, self.gan, self.schedule = recipe, gan, recipe.schedule
        self.G, self.D = twin(gan.generator), twin(gan.discriminator)
        random = Random(seed)
        for name, net in (("generator", self.G), ("discriminator", self.D)):
            for module in net.modules():
                if isinstance(module, Dropout):
                    module.rng = random.stream(f"{name} dropout")
                elif isinstance(module, Augment):
                    module.rng = random.stream("augment")
        self.penalty_rng, self.d_steps = random.stream("penalty"), 0
        self.last = {}  # value of each penalty at its last evaluation
        self.g_optimizer = self.optimizer(gan.generator_optimizer, self.G)
        self.d_optimizer = self.optimizer(gan.discriminator_optimizer, self.D)
        self.decays = []
        if recipe.lr_decay:
            self.decays = [
                torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=recipe.steps)
                for optimizer in (self.g_optimizer, self.d_optimizer)
            ]

    @staticmethod
    def optimizer(ours, net):
        if isinstance(ours, Adam):
            return torch.optim.Adam(net.parameters(), ours.lr, ours.betas, ours.eps)
        return torch.optim.RMSprop(net.parameters(), ours.lr, ours.rho, ours.eps)

    def update(self, optimizer, ours, net, loss):
        params = list(net.parameters())
        for p, g in zip(
            params, torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        ):
            p.grad = g
        if isinstance(ours, RMSprop):  # PyTorch's has no decay
            for group in optimizer.param_groups:
                group["lr"] = ours.lr / (1 + ours.decay * ours.t)
        if isinstance(ours, Adam) and ours.epsilon_hat:
            set_epsilon_hat(optimizer, ours.eps)
        optimizer.step()

    def images(self, samples):
        """Return (x, labels or None) as tensors."""
        x, labels = samples if isinstance(samples, tuple) else (samples, None)
        return to_nchw(
            torch.from_numpy(np.asarray(x, np.float64))
        ).contiguous(), labels if labels is None else torch.from_numpy(labels)

    def judge(self, x, labels):
        return self.D(x if labels is None or self.gan.objective.labelled else (x, labels))

    def generate(self, z, mode="train"):
        x, labels = self.images(z)
        return self.G.train(mode == "train")(x if labels is None else (x, labels)), labels

    def d_loss(self, a, c, real_labels, fake_labels):
        if isinstance(self.gan.objective, ACGAN):
            source = objective_twin(self.gan.objective.source)
            classes = F.cross_entropy(a[:, 1:], real_labels) + F.cross_entropy(
                c[:, 1:], fake_labels
            )
            return source.discriminator(a[:, :1], c[:, :1]) + classes
        return objective_twin(self.gan.objective).discriminator(a, c)

    def judged(self, real, fake):
        """Return D's loss, D(real), and D(fake) if the fakes passed separately.

        `reported` is the loss with the last value of each penalty, as in the metrics.
        """
        (x, labels), (y, fake_labels) = self.images(real), fake
        if self.schedule.joint_batch:
            joined = None if labels is None else torch.cat([labels, fake_labels])
            a, c = self.judge(torch.cat([x, y]), joined).chunk(2)
            loss = self.d_loss(a, c, labels, fake_labels) / 2
        else:
            a, c = self.judge(x, labels), self.judge(y, fake_labels)
            loss = self.d_loss(a, c, labels, fake_labels)
        self.reported = loss
        for i, penalty in enumerate(map(penalty_twin, as_penalties(self.recipe.penalty))):
            if self.d_steps % penalty.interval:
                self.reported = self.reported + self.last[i]
                continue
            points = penalty.points(x, y, self.penalty_rng)
            of_points = penalty.labels(labels, fake_labels)
            self.D.train(self.schedule.penalty_mode == "train")
            value = penalty(lambda x, of_points=of_points: self.judge(x, of_points), points)
            self.D.train()
            loss = loss + penalty.interval * value
            self.last[i], self.reported = value.detach(), self.reported + value
        return loss, a, c

    def g_loss(self, c, labels, a=None):
        if isinstance(self.gan.objective, ACGAN):
            source = objective_twin(self.gan.objective.source).generator(c[:, :1], None)
            return source + F.cross_entropy(c[:, 1:], labels)
        return objective_twin(self.gan.objective).generator(c, a)

    def update_discriminator(self, loss):
        self.update(self.d_optimizer, self.gan.discriminator_optimizer, self.D, loss)
        self.d_steps += 1
        if self.recipe.clip:
            for p in self.D.parameters():
                p.data.clamp_(-self.recipe.clip, self.recipe.clip)
        return self.reported.item()

    def discriminator_step(self, real, fake):
        return self.update_discriminator(self.judged(real, (fake[0].detach(), fake[1]))[0])

    def generator_step(self, fake, real):
        c, a = self.judge(*fake), None
        if self.gan.objective.takes_real_scores:
            a = self.judge(*self.images(real)).detach()
        loss = self.g_loss(c, fake[1], a)
        self.update(self.g_optimizer, self.gan.generator_optimizer, self.G, loss)
        return loss.item()

    def train_step(self, reals, zs):
        """Take one training step, then set the rates of the next."""
        losses = self.updates(reals, zs)
        for decay in self.decays:
            decay.step()
        return losses

    def updates(self, reals, zs):
        if self.schedule.order == "generator_first":
            fake = self.generate(zs[0], self.schedule.generator_mode)
            g_loss = self.generator_step(fake, reals[0])
            return {"d_loss": self.discriminator_step(reals[0], fake), "g_loss": g_loss}
        if self.schedule.order == "simultaneous":
            fake = self.generate(zs[0], self.schedule.generator_mode)
            d_loss, a, c = self.judged(reals[0], fake)
            g_loss = self.g_loss(c, fake[1], a.detach())
            theta = list(self.G.parameters())
            g_grads = torch.autograd.grad(g_loss, theta, retain_graph=True)
            self.update_discriminator(d_loss)
            linear = sum(
                (g * p).sum() for g, p in zip(g_grads, theta)
            )  # its gradients are exactly these
            self.update(self.g_optimizer, self.gan.generator_optimizer, self.G, linear)
            return {"d_loss": self.reported.item(), "g_loss": g_loss.item()}
        for i, real in enumerate(reals):
            later = len(zs) > len(reals) or i < len(reals) - 1
            fake = self.generate(
                zs[i], self.schedule.fake_mode if later else self.schedule.generator_mode
            )
            d_loss = self.discriminator_step(real, fake)
        if len(zs) > len(reals):
            fake = self.generate(zs[-1], self.schedule.generator_mode)
        return {"d_loss": d_loss, "g_loss": self.generator_step(fake, reals[-1])}


SMALL_WIDTHS = {"raschka_mlp_gan": 10, "raschka_dcgan": 16}  # 4 for all others


def trajectory(recipe: Recipe, steps: int = 20, batch: int = 6, seed: int = 0, twin_gan=TwinGAN):
    """Train both GANs for `steps` generator steps; assert equal losses in each.

    Recipes with several critic steps take 5. twin_gan: the class of the twin.
    """
    if recipe.schedule.critic_steps(0) > 1:
        recipe = recipe.with_schedule(critic_steps=lambda step: 5)
    recipe = replace(recipe, steps=steps)  # rates decay over the length of the run
    size, width = 28 if recipe.size == 28 else 16, SMALL_WIDTHS.get(recipe.name, 4)
    gan = recipe.build(Random(seed), size, 1, width, dtype=np.float64)
    other = twin_gan(recipe, gan, seed)
    rng = np.random.default_rng(1)
    data = Images(
        rng.integers(0, 256, (50, size, size, 1), np.uint8),
        rng.integers(0, 10, 50),
        "noise",
        "",
        "",
    )
    feed = Feed(recipe, data, batch, Random(seed), CPU)
    for step in range(steps):
        reals, zs = ([double(samples) for samples in batches] for batches in feed.step(step))
        want = other.train_step(reals, zs)
        got = gan.train_step(reals, zs)
        for loss in ("d_loss", "g_loss"):
            assert_close(got[loss], want[loss], f"{loss} of step {step}", scale=1)
    return gan, other


def double(samples):
    return (
        (samples[0].astype(np.float64), samples[1])
        if isinstance(samples, tuple)
        else samples.astype(np.float64)
    )


def compare(gan, other):
    """Assert equal parameters and running statistics; those near zero have an absolute bound."""
    for net, copy in ((gan.generator, other.G), (gan.discriminator, other.D)):
        for name, (got, want) in states(net, copy).items():
            assert_close(got, want, name, scale=1)
