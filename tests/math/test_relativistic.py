"""Losses that take D(real) in G's step, and several penalties: whole steps against PyTorch.

The losses alone are in test_losses.py, the penalties in test_penalties.py, both in every order of
updates, with labels, lazy and with BatchNorm here.
"""

import re
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from rawgan import losses
from rawgan.gan import Schedule
from rawgan.layers import Sequential
from rawgan.losses import BCE, RaGAN, RaHinge, RaLSGAN, RelativisticAverage, RpGAN
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES
from rawgan.penalties import R1, R2, WGANGP, Drift, Lazy, Penalties, as_penalties
from rawgan.random import Random
from rawgan.training.diagnostics import checked
from tests.support.recipe_twin import compare, trajectory
from tests.support.reference import assert_same

R3GAN, DCGAN, CGAN = (RECIPES[name] for name in ("r3gan", "dcgan", "cgan"))
WITHOUT_NORM = partial(dcgan_discriminator, norm="none")
CASES = {
    "pairs, D first, the same z": R3GAN.with_schedule(resample_z=False),
    "pairs, G first": replace(R3GAN, schedule=Schedule(order="generator_first")),
    "pairs, both at once": replace(R3GAN, schedule=Schedule(order="simultaneous")),
    "pairs, several D steps": R3GAN.with_schedule(critic_steps=lambda step: 5),
    "pairs, joint batch": R3GAN.with_schedule(joint_batch=True),
    "pairs, BatchNorm": replace(DCGAN, objective=RpGAN()),
    "pairs, labels, R1 and R2": replace(
        CGAN,
        objective=RpGAN(),
        penalty=(R1(1.0), R2(1.0)),
        discriminator=partial(WITHOUT_NORM, classes=10),
    ),
    "average, BatchNorm, D first": replace(DCGAN, objective=RaGAN()),
    "average, labels, G first": replace(
        CGAN, objective=RaGAN(), schedule=Schedule(order="generator_first")
    ),
    "least squares, both at once": replace(
        DCGAN, objective=RaLSGAN(), schedule=Schedule(order="simultaneous")
    ),
    "hinge, joint batch": replace(
        DCGAN, objective=RaHinge(), schedule=Schedule(joint_batch=True, resample_z=True)
    ),
    "lazy": replace(R3GAN, penalty=[Lazy(R1(1.0), 3), Lazy(R2(1.0), 4), Drift(0.1)]),
    "lazy, several D steps": replace(
        RECIPES["wgan_gp"], penalty=(WGANGP(10), Lazy(R1(1.0), 7), Lazy(Drift(0.1), 2))
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_trajectory_is_that_of_pytorch(case):
    compare(*trajectory(CASES[case], steps=20 if case == "lazy" else 8))


# Mistakes, each with a case that detects it


def other_generator(loss):
    """Return a mistake: another G loss of RpGAN, as a function of (c, a)."""
    return lambda patch: patch.setattr(RpGAN, "generator", lambda self, c, a: loss(self, c, a))


def discriminator_loss(change):
    """Return a mistake: D's results of RpGAN, changed."""
    original = RpGAN.discriminator
    return lambda patch: patch.setattr(
        RpGAN, "discriminator", lambda self, a, c: change(*original(self, a, c))
    )


def means(change):
    """Return a mistake: the means of the relativistic average, changed."""
    original = RelativisticAverage.means
    return lambda patch: patch.setattr(
        RelativisticAverage, "means", lambda self, *arrays: change(*original(self, *arrays))
    )


def penalty_at(points):
    return lambda patch: patch.setattr(R2, "points", points)


def every_step(patch):
    original = Penalties.gradients
    patch.setattr(
        Penalties,
        "gradients",
        lambda self, critic, real, fake, rng, step, *rest: original(
            self, critic, real, fake, rng, 0, *rest
        ),
    )


def unscaled(patch):
    patch.setattr(Lazy, "__call__", lambda self, *args: self.penalty(*args))


def first_alone(patch):
    patch.setattr("rawgan.penalties.as_penalties", lambda penalty: as_penalties(penalty)[:1])


def drift_without_its_two(patch):
    original = Drift.__call__

    def call(self, *args):
        value, grads, norms = original(self, *args)
        return value, {name: g / 2 for name, g in grads.items()}, norms

    patch.setattr(Drift, "__call__", call)


def scores_before_the_update(patch):
    """Mistake: G's loss takes D(real) of the step before."""
    kept = {}

    def generator(self, c, a):
        loss, dc, _ = self.discriminator(c, kept.get("a", a))
        kept["a"] = a
        return loss, dc

    patch.setattr(RpGAN, "generator", generator)


MISTAKES = {
    "G learns from D's loss": (
        "pairs, G first",
        other_generator(lambda o, c, a: (o.discriminator(a, c)[0], o.discriminator(a, c)[2])),
    ),
    "G's gradient has the wrong sign": (
        "pairs, G first",
        other_generator(lambda o, c, a: (o.discriminator(c, a)[0], -o.discriminator(c, a)[1])),
    ),
    "the gradient of the wrong score": (
        "pairs, G first",
        other_generator(lambda o, c, a: o.discriminator(c, a)[::2]),
    ),
    "G does not see the real scores": (
        "pairs, both at once",
        other_generator(lambda o, c, a: BCE().generator(c)),
    ),
    "the real scores of another step": ("pairs, both at once", scores_before_the_update),
    "D's gradient of the fakes has the wrong sign": (
        "pairs, joint batch",
        discriminator_loss(lambda loss, da, dc: (loss, da, -dc)),
    ),
    "D's gradient of the real scores is dropped": (
        "pairs, joint batch",
        discriminator_loss(lambda loss, da, dc: (loss, da * 0, dc)),
    ),
    "1/N forgotten": (
        "pairs, joint batch",
        discriminator_loss(lambda loss, da, dc: (loss, da * da.size, dc * dc.size)),
    ),
    "the means are exchanged": ("average, BatchNorm, D first", means(lambda a, c: (c, a))),
    "the mean of the real scores is dropped": (
        "least squares, both at once",
        means(lambda a, c: (a * 0, c)),
    ),
    "R2 at the real images": (
        "pairs, labels, R1 and R2",
        penalty_at(lambda self, real, fake, rng: real),
    ),
    "R2 with the labels of the real images": (
        "pairs, labels, R1 and R2",
        lambda patch: patch.setattr(R2, "labels", lambda self, real, fake: real),
    ),
    "the first penalty alone": ("lazy", first_alone),
    "a lazy penalty in every step": ("lazy", every_step),
    "a lazy penalty is not scaled": ("lazy", unscaled),
    "the 2 of drift's slope is dropped": ("lazy", drift_without_its_two),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_caught(mistake, monkeypatch):
    case, put_in = MISTAKES[mistake]
    put_in(monkeypatch)
    with pytest.raises(AssertionError):
        compare(*trajectory(CASES[case], steps=4))


# Cost: what a loss does not use is not computed


def passes(recipe, monkeypatch) -> dict[str, int]:
    """Return the passes through D of one training step, after the first step."""
    recipe = replace(recipe, size=16)
    gan = recipe.build(Random(0), 16, 1, 4)
    rng = np.random.default_rng(0)
    real = rng.normal(size=(4, 16, 16, 1)).astype(np.float32)
    zs = [recipe.draw_z(rng, 4) for _ in range(1 + recipe.schedule.resample_z)]
    gan.train_step([real], zs)
    counts = dict.fromkeys(("forward", "backward", "double_backward"), 0)
    for name in counts:
        original = getattr(Sequential, name)

        def count(self, *args, _original=original, _name=name, **options):
            counts[_name] += self is gan.discriminator
            return _original(self, *args, **options)

        monkeypatch.setattr(Sequential, name, count)
    gan.train_step([real], zs)
    return counts


PASSES = {  # D on both batches, its penalties, and G through D; backward passes of both steps
    "BCE": (replace(R3GAN, objective=BCE(), penalty=None), 2, 2, 0),
    "RpGAN": (replace(R3GAN, penalty=None), 3, 2, 0),
    "RpGAN, both at once": (
        replace(R3GAN, penalty=None, schedule=Schedule(order="simultaneous")), 2, 3, 0
    ),
    "r3gan": (R3GAN, 5, 2, 2),
    "r3gan, lazy, not due": (replace(R3GAN, penalty=Lazy(R1(1.0), 16)), 3, 2, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
def test_passes_through_the_discriminator(name, monkeypatch):
    """D(real) is one forward pass without a backward, and only where G's loss takes it."""
    recipe, *want = PASSES[name]
    assert list(passes(recipe, monkeypatch).values()) == want


# Objects


def test_an_objective_that_takes_real_scores_says_so():
    takers = {
        name
        for name, value in vars(losses).items()
        if isinstance(value, type) and getattr(value, "takes_real_scores", False)
    }
    assert takers == {"RpGAN", "RelativisticAverage", "RaGAN", "RaLSGAN", "RaHinge"}
    assert repr(RaGAN()) == "RaGAN()"


def test_the_mean_score_is_left_alone(rng):
    """A constant added to all scores changes neither loss: nothing but drift holds their mean."""
    a, c = rng.normal(size=(2, 5, 1))
    for objective in (RpGAN(), RaGAN(), RaLSGAN(), RaHinge()):
        _, da, dc = objective.discriminator(a, c)
        assert abs(da.sum() + dc.sum()) < 1e-15
        assert abs(objective.discriminator(a + 3, c + 3)[0] - objective.discriminator(a, c)[0]) < (
            1e-14
        )


def test_pairs_need_as_many_real_as_fake_scores():
    with pytest.raises(ValueError, match=re.escape("got (4, 1) and (3, 1)")):
        RpGAN().discriminator(np.zeros((4, 1)), np.zeros((3, 1)))


def test_a_step_of_g_without_the_real_batch():
    gan = R3GAN.build(Random(0), 16, 1, 4)
    fake, cache = gan.generate(np.zeros((2, 64), np.float32))
    with pytest.raises(ValueError, match=re.escape("G's loss of RpGAN() takes D(real)")):
        gan.generator_step(fake, cache)


def test_the_labels_cannot_be_smoothed():
    with pytest.raises(NotImplementedError, match="RpGAN has no binary cross-entropy"):
        RpGAN().with_real_label(0.9)


def test_an_interval_is_at_least_one():
    with pytest.raises(ValueError, match="1 or more, not 0"):
        Lazy(R1(), 0)


def test_one_penalty_or_several():
    assert as_penalties(None) == as_penalties([]) == () and not Penalties(None)
    assert as_penalties(R1(2)) == as_penalties([R1(2)]) == (R1(2),)


def test_a_sequence_of_one_is_that_penalty():
    """One penalty in a list gives the bits of the penalty alone."""
    results = []
    for penalty in (WGANGP(10), [WGANGP(10)]):
        gan = replace(RECIPES["wgan_gp"], penalty=penalty).build(Random(0), 16, 1, 4)
        real = np.random.default_rng(0).normal(size=(4, 16, 16, 1)).astype(np.float32)
        results.append([gan.discriminator_step(real, -real), gan.gradients["discriminator"]])
    (metrics, gradient), (want_metrics, want) = results
    assert metrics.keys() == want_metrics.keys() >= {"penalty", "gradient_norm"}
    for name, value in metrics.items():
        assert_same(value, want_metrics[name], name)
    assert_same(gradient, want)


def test_metrics_between_two_evaluations_are_those_of_the_last():
    gan = replace(R3GAN, penalty=(Lazy(R1(1.0), 2), Drift(1.0))).build(Random(0), 16, 1, 4)
    real = np.random.default_rng(0).normal(size=(4, 16, 16, 1)).astype(np.float32)
    first, second, third = (gan.discriminator_step(real, -real) for _ in range(3))
    assert first["gradient_norm"] == second["gradient_norm"] != third["gradient_norm"]
    lazy, drift = (value for value, _ in gan.penalties.last)
    assert third["penalty"] == lazy + drift and gan.norms.shape == (4,)


def test_drift_alone_has_no_gradient_norm():
    gan = replace(R3GAN, penalty=Drift(1.0)).build(Random(0), 16, 1, 4)
    real = np.ones((4, 16, 16, 1), np.float32)
    assert gan.discriminator_step(real, -real).keys() == {"d_loss", "d_real", "d_fake", "penalty"}
    assert gan.norms is None


def test_a_step_whose_numbers_are_checked():
    """The search for an overflow passes D(real) on, and gives the numbers of a plain step."""
    results = []
    for context in (nullcontext, checked):
        gan = R3GAN.build(Random(0), 16, 1, 4)
        rng = np.random.default_rng(0)
        real = rng.normal(size=(4, 16, 16, 1)).astype(np.float32)
        with context(gan):
            results.append(gan.train_step(real, [R3GAN.draw_z(rng, 4) for _ in range(2)]))
    assert results[0] == results[1]
