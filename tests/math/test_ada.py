"""Augmentation in whole training steps beside PyTorch, and the rule of ADA that moves p."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from rawgan.ada import ADA, AdaptiveGAN, Augmentation
from rawgan.errors import UserError
from rawgan.gan import GAN, Schedule
from rawgan.layers import Augment
from rawgan.losses import ACGAN, BCE, Hinge, LeastSquares, RaGAN, RpGAN, Wasserstein
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES
from rawgan.parallel import Ranks
from rawgan.penalties import R1
from rawgan.random import Random
from tests.support import augment_twin
from tests.support.recipe_twin import TwinGAN, compare, trajectory
from tests.support.reference import assert_same

ALL = Augmentation()
CASES = {
    "BatchNorm, two passes": RECIPES["dcgan"].with_augmentation(ALL),
    "penalty, one pass, several D steps": RECIPES["wgan_gp"].with_augmentation(ALL),
    "R1 and R2, D(real) in G's step": RECIPES["r3gan"].with_augmentation(ALL),
    "labels as channels": RECIPES["cgan"].with_augmentation(Augmentation(("color", "cutout"))),
    "joint batch, pixels in [0, 1]": RECIPES["atienza_dcgan"].with_augmentation(ALL),
    "classes in the loss": RECIPES["acgan"].with_augmentation(Augmentation(("translation",))),
    "G first": replace(RECIPES["dcgan"], schedule=Schedule(order="generator_first")),
    "both at once": replace(RECIPES["dcgan"], schedule=Schedule(order="simultaneous")),
}
CASES |= {name: CASES[name].with_augmentation(ALL) for name in ("G first", "both at once")}


@pytest.mark.parametrize("case", CASES)
def test_trajectory_is_that_of_pytorch(case):
    """Twenty steps in float64, with the same random numbers, of an augmentation by autograd."""
    compare(*trajectory(CASES[case]))


# ADA


class AdaptiveTwin(TwinGAN):
    """A TwinGAN with the rule of ADA: speed in images, the threshold of its objective."""

    def __init__(self, recipe, gan, seed, images, boundary):
        super().__init__(recipe, gan, seed)
        self.images_of_p, self.boundary, self.scores, self.path = images, boundary, [], []
        self.layer = next(m for m in self.D.modules() if isinstance(m, augment_twin.Augment))

    def judged(self, real, fake):
        loss, a, c = super().judged(real, fake)
        source = a[:, :1] if self.gan.objective.labelled else a
        self.scores.append(source.detach().numpy().ravel() - self.boundary)
        if len(self.scores) == 4:
            seen, self.scores = np.concatenate(self.scores), []
            change = len(seen) / self.images_of_p
            p = self.layer.p + np.sign(np.sign(seen).mean() - 0.6) * change
            self.layer.p = float(np.clip(p, 0, 1))
            self.path.append(self.layer.p)
        return loss, a, c


FAST = Augmentation(adaptive=True, ada_images=120)  # a batch of 6 for 4 steps moves p by 0.2
ADAPTIVE = {
    "dcgan": (RECIPES["dcgan"].with_lr(5e-3), 0.0),
    "hinge, R1, several D steps": (
        replace(
            RECIPES["wgan_gp"],
            objective=Hinge(),
            penalty=R1(1.0),
            discriminator=partial(dcgan_discriminator, norm="none"),
        ),
        0.0,
    ),
    "lsgan, joint batch": (RECIPES["lsgan"], 0.5),
    "acgan": (RECIPES["acgan"].with_lr(1e-3), 0.0),
}


@pytest.mark.parametrize("case", ADAPTIVE)
def test_adaptive_trajectory_is_that_of_pytorch(case):
    recipe, boundary = ADAPTIVE[case]
    twin_gan = partial(AdaptiveTwin, images=120, boundary=boundary)
    gan, other = trajectory(recipe.with_augmentation(FAST), twin_gan=twin_gan)
    compare(gan, other)
    assert gan.ada.layer.p == other.layer.p
    assert len(set(other.path)) > 1


def test_p_is_in_the_metrics():
    gan = CASES["BatchNorm, two passes"].with_augmentation(FAST).build(Random(0), 16, 1, 4)
    rng = np.random.default_rng(0)
    real, z = rng.normal(size=(6, 16, 16, 1)), rng.normal(size=(6, 100))
    metrics = [gan.train_step(*(a.astype(np.float32) for a in (real, z))) for _ in range(4)]
    assert [float(row["augment_p"]) for row in metrics[:3]] == [0, 0, 0]
    signs = [float(row["real_sign"]) for row in metrics]
    assert float(metrics[3]["augment_p"]) == (0.2 if np.mean(signs) > 0.6 else 0)
    assert isinstance(gan, AdaptiveGAN)


def rule(scores, n=10, images=100, **options):
    """Return p after each step of D with these shares of positive scores of n images."""
    ada = ADA(Augment(p=0.5), images, **options)
    path = []
    for share in scores:
        positive = round(share * n)
        a = np.r_[np.ones(positive), -np.ones(n - positive)] + ada.boundary
        ada.update(a, Ranks())
        path.append(round(ada.layer.p, 10))
    return path


@pytest.mark.parametrize("boundary", [0.0, 0.5])
def test_rule(boundary):
    """P moves after every fourth step, by the share of positive scores in all four."""
    up, down, neither = [0.9] * 4, [0.7] * 4, [0.8] * 4  # r = 0.8, 0.4, 0.6
    assert rule(up, boundary=boundary) == [0.5, 0.5, 0.5, 0.9]
    assert rule(down, boundary=boundary) == [0.5, 0.5, 0.5, 0.1]
    assert rule(neither, boundary=boundary)[-1] == 0.5
    assert rule([1, 1, 1, 0.3], boundary=boundary)[-1] == 0.9  # r = 0.65
    assert rule(up * 2 + down)[3::4] == [0.9, 1, 0.6]  # kept in [0, 1], and back at once
    assert rule(down * 3)[3::4] == [0.1, 0, 0]
    assert rule(up, images=1000)[-1] == 0.54
    assert rule([0.9] * 3, interval=1, n=20) == [0.7, 0.9, 1]


class TwoRanks(Ranks):
    """The first of two processes, whose partner has the scores of `partner`."""

    size = 2

    def all_gather(self, a):
        return np.stack([a, np.array([-6.0])])


def test_processes_move_p_alike():
    """R is of the scores of all processes, and so is the number of images."""
    ada = ADA(Augment(p=0.5), 100, interval=1)
    ada.update(np.ones(8), TwoRanks())  # r = (8 - 6) / 16
    assert ada.layer.p == 0.5 - 16 / 100


def test_several_scores_of_an_image():
    """R is over all scores, and images are counted, not scores."""
    ada = ADA(Augment(p=0.5), 100, interval=1)
    ada.update(np.ones((5, 3, 3, 1)), Ranks())
    assert ada.layer.p == 0.55


def test_state():
    ada, other = (ADA(Augment(p=p), 100) for p in (0.5, 0.0))
    for scores in ([1, 1, -1], [0, 1, 1], [1, 1, 1]):
        ada.update(np.float32(scores), Ranks())
    other.restore(ada.state(), np.float32(0))
    for each in (ada, other):
        each.update(np.float32([1, 1, 1]), Ranks())
    assert ada.state() == other.state() == [0.62, 0.0, 0]
    for wrong in ([], [0.5, 0.0], [2, 0, 0], [0.5, 0.5, 1], [0.5, 1.0, 4], ["p", 0, 0]):
        with pytest.raises((ValueError, TypeError)):
            other.restore(wrong, np.float32(0))


# The option in words, and what is refused


def test_parse():
    assert Augmentation.parse("cutout, color") == Augmentation(("color", "cutout"))
    assert Augmentation.parse("color,translation,cutout") == ALL
    assert Augmentation.parse("ada") == Augmentation(adaptive=True, ada_images=500_000)
    some = Augmentation(("translation",), True, 1000)
    assert Augmentation.parse("translation,ada", 1000) == some
    assert str(some) == "translation; p by ADA, 1 in 1,000 images"
    assert str(ALL) == "color, translation, cutout; p = 1"


@pytest.mark.parametrize("text", ["", "colour", "ada,flip", "color,,cutout"])
def test_unknown_words(text):
    with pytest.raises(UserError, match=r"--augment has no '.*color, translation, cutout, ada"):
        Augmentation.parse(text)


def test_ada_images_alone():
    with pytest.raises(UserError, match="--ada-images goes with --augment ada, not with"):
        Augmentation.parse("color", 1000)


BOUNDARIES = {BCE(): 0, Hinge(): 0, LeastSquares(): 0.5, ACGAN(): 0}
NONE = [Wasserstein(), RpGAN(), RaGAN()]


def test_boundaries():
    """A boundary is the score from which D's loss goes up and down alike as real and as fake."""
    for objective, boundary in BOUNDARIES.items():
        assert objective.boundary == boundary
        if not objective.labelled:
            a = np.array([[boundary]], float)
            _, da, dc = objective.discriminator(a, a)
            assert da == -dc
    assert all(objective.boundary is None for objective in NONE)


@pytest.mark.parametrize("objective", NONE, ids=lambda o: type(o).__name__)
def test_scores_without_a_boundary_refuse_ada(objective):
    recipe = replace(RECIPES["dcgan"], objective=objective)
    words = f"those of {type(objective).__name__} do not tell: .*--augment color,translation,cutout"
    with pytest.raises(UserError, match=words):
        recipe.with_augmentation(FAST)
    assert recipe.with_augmentation(ALL).augmentation == ALL


def test_a_penalty_in_inference_mode_is_refused():
    with pytest.raises(UserError, match="penalty of raschka_wgan_gp is taken in inference mode"):
        RECIPES["raschka_wgan_gp"].with_augmentation(ALL)


def test_a_recipe_without_augmentation_keeps_its_bits():
    """The weights and the stream of Dropout are those of a build without augmentation."""
    plain, augmented = (
        recipe.build(Random(3), 16, 1, 16)
        for recipe in (RECIPES["raschka_dcgan"], RECIPES["raschka_dcgan"].with_augmentation(ALL))
    )
    assert type(plain) is type(augmented) is GAN
    for net in ("generator", "discriminator"):
        ours, others = (getattr(gan, net).params for gan in (plain, augmented))
        assert ours.keys() == others.keys()
        for name, a in ours.items():
            assert_same(a, others[name])
    streams = [
        SimpleNamespace(**{type(layer).__name__: layer.rng for layer in gan.layers()
                           if hasattr(layer, "rng")})
        for gan in (plain, augmented)
    ]  # fmt: skip
    assert streams[0].Dropout.bit_generator.state == streams[1].Dropout.bit_generator.state
    assert streams[1].Augment.bit_generator.state != streams[1].Dropout.bit_generator.state


# Mistakes that a trajectory detects


def one_draw_for_all(patch):
    forward = Augment.forward

    def repeated(self, x, train=True):
        state = self.rng.bit_generator.state
        result = forward(self, x, train)
        self.rng.bit_generator.state = state
        return result

    patch.setattr(Augment, "forward", repeated)


def not_in_the_step_of_g(patch):
    step = GAN.generator_step

    def without(self, fake, g_cache, real=None):
        layer = self.discriminator.layers[0]
        layer.p, before = 0.0, layer.p
        try:
            return step(self, fake, g_cache, real)
        finally:
            layer.p = before

    patch.setattr(GAN, "generator_step", without)


def real_alone(patch):
    judged = GAN.separate_passes

    def passes(self, real, fake):
        layer, forward = self.discriminator.layers[0], Augment.forward
        calls = []

        def first_call(self, x, train=True):
            calls.append(x)
            return forward(self, x, train and len(calls) == 1)

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(type(layer), "forward", first_call)
            return judged(self, real, fake)

    patch.setattr(GAN, "separate_passes", passes)


@pytest.mark.parametrize("mistake", [one_draw_for_all, not_in_the_step_of_g, real_alone])
def test_mistake_is_found(monkeypatch, mistake):
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match="of step"):
        compare(*trajectory(CASES["BatchNorm, two passes"], steps=3))


def forget_the_fourth(patch):
    update = ADA.update
    patch.setattr(
        ADA,
        "update",
        lambda self, *args: setattr(self, "interval", 3) or update(self, *args),
    )


def all_scores(patch):
    update = ADA.update
    patch.setattr(ADA, "update", lambda self, a, ranks: update(self, a - 0.5, ranks))


@pytest.mark.parametrize("mistake", [forget_the_fourth, all_scores])
def test_mistake_of_the_rule_is_found(monkeypatch, mistake):
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match="of step"):
        test_adaptive_trajectory_is_that_of_pytorch("dcgan")
