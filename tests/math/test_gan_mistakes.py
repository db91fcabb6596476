"""Mistakes put into the step of rawgan.gan by monkeypatch are detected by test_gan.py."""

import pytest

from rawgan.backend import array_module
from rawgan.gan import GAN
from rawgan.layers import BatchNorm, Parameters, Sequential
from rawgan.losses import BCE
from tests.support.gan_twin import assert_parity, assert_steps, dcgan


def not_connected(m):
    """Mistake: the generator's step gets no gradient through the discriminator."""
    backward = Sequential.backward

    def cut(self, dy, cache, need_dx=True, need_grads=True):
        dx, grads = backward(self, dy, cache, need_dx, need_grads)
        return (dx if need_grads else dx * 0), grads

    m.setattr(Sequential, "backward", cut)


def generator_descends(m):
    """Mistake: the generator's gradient has the wrong sign."""
    generator = BCE.generator
    m.setattr(BCE, "generator", lambda self, c: (generator(self, c)[0], -generator(self, c)[1]))


def discriminator_forgets_the_mean(m):
    """Mistake: the discriminator's gradients lack the factor 1/N."""
    discriminator = BCE.discriminator

    def summed(self, a, c):
        loss, da, dc = discriminator(self, a, c)
        return loss, da * a.size, dc * c.size

    m.setattr(BCE, "discriminator", summed)


def generator_forgets_the_mean(m):
    generator = BCE.generator
    m.setattr(
        BCE, "generator", lambda self, c: (generator(self, c)[0], generator(self, c)[1] * c.size)
    )


def leftover_gradients(m):
    """Mistake: D's gradients from the generator's step are added to its next step."""
    backward, flatten, left = Sequential.backward, Parameters.flatten_gradients, []

    def keep(self, dy, cache, need_dx=True, need_grads=True):
        dx, grads = backward(self, dy, cache, need_dx)
        if need_grads:
            return dx, grads
        left.append(grads)
        return dx, {}

    def flatten_all(self, *passes):
        return flatten(self, *passes, *(left and [left.pop()] if len(passes) == 2 else []))

    m.setattr(Sequential, "backward", keep)
    m.setattr(Parameters, "flatten_gradients", flatten_all)


def momentum_swapped(m):
    """Mistake: running = momentum running + (1 - momentum) batch."""
    track = BatchNorm.track

    def swapped(self, name, batch):
        with pytest.MonkeyPatch.context() as here:
            here.setattr(self, "momentum", 1 - self.momentum)
            track(self, name, batch)

    m.setattr(BatchNorm, "track", swapped)


def two_sided_smoothing(m):
    """Mistake: the fakes' label is 1 - real_label instead of 0."""
    discriminator = BCE.discriminator

    def smooth(self, a, c):
        loss, da, dc = discriminator(self, a, c)
        label = 1 - self.real_label
        return loss - label * c.mean(), da, dc - label / c.size

    m.setattr(BCE, "discriminator", smooth)


def one_batch(m):
    """Mistake: real and fake pass through D together, with common batch statistics."""

    def step(self, real, fake):
        D, n, xp = self.discriminator, len(real), array_module(real)
        scores, cache = D.forward(xp.concatenate([real, fake]))
        loss, da, dc = self.objective.discriminator(scores[:n], scores[n:])
        _, grads = D.backward(xp.concatenate([da, dc]), cache, need_dx=False)
        self.discriminator_optimizer.step(
            self.discriminator_optimizer.parameters.flatten_gradients(grads)
        )
        return {"d_loss": loss}

    m.setattr(GAN, "discriminator_step", step)


def old_discriminator(m):
    """Mistake: the generator's gradient comes from the discriminator before its step."""

    def step(self, real, z):
        fake, cache = self.generator.forward(z)
        return self.generator_step(fake, cache) | self.discriminator_step(real, fake)

    m.setattr(GAN, "train_step", step)


def fakes_drawn_twice(m):
    """Mistake: the generator runs twice, so that its running statistics move twice.

    The fakes are the same.
    """

    def step(self, real, z):
        return self.discriminator_step(real, self.generator.forward(z)[0]) | self.generator_step(
            *self.generator.forward(z)
        )

    m.setattr(GAN, "train_step", step)


def fakes_first(m):
    """Mistake: D sees the fakes before the real images.

    Its running statistics then end with the real images.
    """

    def step(self, real, fake):
        D, parameters = self.discriminator, self.discriminator_optimizer.parameters
        (c, fake_cache), (a, real_cache) = D.forward(fake), D.forward(real)
        loss, da, dc = self.objective.discriminator(a, c)
        passes = (
            D.backward(dy, cache, need_dx=False)[1]
            for dy, cache in ((da, real_cache), (dc, fake_cache))
        )
        self.discriminator_optimizer.step(parameters.flatten_gradients(*passes))
        return {"d_loss": loss}

    m.setattr(GAN, "discriminator_step", step)


def fakes_not_constant(m):
    """Mistake: the discriminator's step updates the generator as well, against its objective."""
    discriminator_step = GAN.discriminator_step

    def step(self, real, z):
        fake, cache = self.generator.forward(z)
        c, d_cache = self.discriminator.forward(fake, train=False)
        metrics = discriminator_step(self, real, fake)
        dfake, _ = self.discriminator.backward(
            self.objective.discriminator(c, c)[2], d_cache, need_grads=False
        )
        _, grads = self.generator.backward(dfake, cache, need_dx=False)
        self.generator_optimizer.step(self.generator_optimizer.parameters.flatten_gradients(grads))
        return metrics | self.generator_step(fake, cache)

    m.setattr(GAN, "train_step", step)


OF_A_STEP = [
    not_connected, generator_descends, discriminator_forgets_the_mean, generator_forgets_the_mean,
    two_sided_smoothing, one_batch,
]  # fmt: skip
OF_A_TRAJECTORY = [
    *OF_A_STEP, leftover_gradients, momentum_swapped, old_discriminator, fakes_drawn_twice,
    fakes_first, fakes_not_constant,
]  # fmt: skip


class TestMistakesAreCaught:
    @pytest.mark.parametrize("mistake", OF_A_TRAJECTORY, ids=lambda mistake: mistake.__name__)
    def test_by_the_trajectory(self, monkeypatch, mistake):
        assert_parity(dcgan(), 2)
        mistake(monkeypatch)
        with pytest.raises(AssertionError):
            assert_parity(dcgan(), 2)

    @pytest.mark.parametrize("mistake", OF_A_STEP, ids=lambda mistake: mistake.__name__)
    def test_by_one_step(self, monkeypatch, mistake):
        mistake(monkeypatch)
        with pytest.raises(AssertionError):
            assert_steps(dcgan())
