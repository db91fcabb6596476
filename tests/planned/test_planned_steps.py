"""The planned step of each recipe: launches, memory, refusals, and the effect of each fusion."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from rawgan.ema import EMA
from rawgan.errors import UserError
from rawgan.layers import (
    Condition,
    Conv2d,
    Embedding,
    LeakyReLU,
    Linear,
    OneHot,
    Planes,
    Reshape,
    Sequential,
    Tanh,
)
from rawgan.losses import ACGAN, BCE, Objective, RaGAN, RpGAN
from rawgan.models.dcgan import dcgan_discriminator, dcgan_generator
from rawgan.models.recipes import RECIPES
from rawgan.optim import SGD
from rawgan.penalties import DRAGAN, R1, WGANGP, Drift, Lazy
from rawgan.planned import plan_step
from rawgan.planned.discriminator_first import DiscriminatorFirstStep
from rawgan.planned.generator_first import GeneratorFirstStep
from rawgan.planned.simultaneous import SimultaneousStep
from rawgan.planned.wgan import WganStep
from rawgan.random import Random
from tests.support.planned_runs import WHERE, results

DCGAN, WGAN_GP, RASCHKA = RECIPES["dcgan"], RECIPES["wgan_gp"], RECIPES["raschka_wgan_gp"]


def curved(size, channels, width):
    return Sequential(Conv2d(channels, width, 3, 1, 1), Tanh(), Conv2d(width, 1, size))


def embedded(size, channels, width):
    """Return a D with learnt label embeddings."""
    return Sequential(
        Condition(Sequential(Embedding(10, 3), Planes(size, size))), Conv2d(channels + 3, 1, size)
    )


def signed(size, channels, width):
    """Return a D with a learnt label plane and a LeakyReLU on inputs of either sign."""
    plane = Sequential(OneHot(10), Linear(10, size * size), Reshape(size, size, 1))
    return Sequential(Condition(plane), LeakyReLU(0.2), Conv2d(channels + 1, 1, size))


def nested(size, channels, width):
    return Sequential(
        Sequential(Conv2d(channels, width, 3, 1, 1), LeakyReLU(0.2)), Conv2d(width, 1, size)
    )


def plan(recipe, size=None, channels=None, width=None, batch=None, **options):
    images = np.zeros(
        (1, size or recipe.size, size or recipe.size, channels or recipe.channels), np.uint8
    )
    labels = np.zeros(1, np.int64) if recipe.classes else None
    gan = recipe.build(Random(0), size, channels, width)
    return plan_step(
        gan, images, batch or recipe.batch, **{"labels": labels, "precision": "bf16", **options}
    )


LAUNCHES = {
    "dcgan": 60, "cgan": 50, "atienza_dcgan": 73, "lsgan": 73, "hinge": 73, "atienza_cgan": 80,
    "raschka_mlp_gan": 14, "raschka_dcgan": 55, "raschka_wgan_gp": 80, "wgan_gp": 143,
    "wgan_gp_mnist": 141, "wgan": 150, "acgan": 79,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("name", LAUNCHES)
def test_launches_and_memory(name):
    """The launches have the expected number, and the arena is at most 5 % above the live maximum.

    Each recipe has its default size.
    """
    memory_plan = plan(RECIPES[name]).plan
    assert len(memory_plan.launches) == LAUNCHES[name]
    assert (
        memory_plan.bytes <= 1.05 * memory_plan.peak_live_bytes < 0.6 * memory_plan.unshared_bytes
    )


REFUSED = {
    "atienza_acgan": "Heads",
    "r3gan": "the penalties R1 and R2",
    "sngan": "SpectralNorm",
    "sngan_resnet": "a learning rate that decays",
    "sngan_projection": "a learning rate that decays",
}


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in LAUNCHES])
def test_every_other_recipe_is_refused(name):
    with pytest.raises(UserError, match=REFUSED[name]):
        plan(RECIPES[name])


def test_a_sequence_of_one_penalty_is_planned():
    memory_plan = plan(replace(WGAN_GP, penalty=[WGAN_GP.penalty]), 16, 1, 4, 4).plan
    assert len(memory_plan.launches) == len(plan(WGAN_GP, 16, 1, 4, 4).plan.launches)


def test_critic_steps_that_change():
    """100 D steps have 20 times the launches of 5 and 20 rows of indices, but one step of G."""
    step = plan(RECIPES["wgan"], 16, 1, 4, 4, batches=3)
    assert [step.repeats(n) for n in (0, 24, 25, 499, 500)] == [
        20,
        20,
        1,
        1,
        20,
    ] and step.real_batches == 5
    critic, counts = step.plan.launches[: step.plan.repeated], step.plan.counts(20)
    assert len(step.plan.sequence(20)) == 19 * len(critic) + len(step.plan.launches)
    assert counts["adam_kernel"] == 101 and counts["step_inputs_kernel"] == 20
    assert len(step.index) == 20  # 3 would not suffice for the first step
    other = RECIPES["wgan"].with_schedule(critic_steps=lambda n: 5 if n < 10 else 7)
    other = replace(other, steps=10)
    with pytest.raises(
        UserError, match="step 10 of wgan has 7 critic steps, its plan any multiple of 5"
    ):
        plan(other, 16, 1, 4, 4).repeats(10)


@pytest.mark.parametrize("name", ["dcgan", "raschka_mlp_gan", "wgan"])
def test_launches_of_an_average(name):
    """A moving average adds one launch for running statistics, and none for parameters."""
    recipe = RECIPES[name]
    gan = recipe.build(Random(0), 16, 1, 4)
    average = EMA(gan.generator_optimizer.parameters, 0.9)
    images = np.zeros((1, 16, 16, 1), np.uint8)
    counts = [plan_step(gan, images, 4, average=a).plan.counts() for a in (None, average)]
    assert counts[1] - counts[0] == (
        {} if name == "raschka_mlp_gan" else {"moving_average_kernel": 1}
    )


def test_launches_at_32():
    assert len(plan(DCGAN, 32, 1, batch=128).plan.launches) == 46


FUSIONS = {
    "dcgan": {"joint pass": 9, "unused gradients": 3},
    "raschka_mlp_gan": {"shared forward pass": 1, "unused gradients": 3},
    "wgan_gp, one-sided": {"one generator pass": 3, "penalty pass": 8, "unused gradients": 2},
}


@WHERE
@pytest.mark.parametrize("name", FUSIONS)
def test_disabled_fusions(name, where):
    """Without a fusion a step has additional launches and trains the same.

    Unused gradients change no bit, the others the rounding of sums.
    """
    result = results("disable_fusions", where, "fp32", [name])[name]
    assert result.pop("the plan") == [0, 0]
    assert {fusion: launches for fusion, (launches, _) in result.items()} == FUSIONS[name]
    for fusion, (_, apart) in result.items():
        assert apart <= (0 if fusion == "unused gradients" else 1e-6), (
            f"without {fusion} it is {apart:.3g} apart"
        )


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize(
    "recipe, words",
    [
        (
            DCGAN.with_schedule(critic_steps=lambda step: 5),
            "dcgan has several critic steps and no new z for G",
        ),
        (
            RECIPES["wgan"].with_schedule(joint_batch=True),
            "several critic steps and a joint loss of real and fake",
        ),
        (
            RECIPES["cgan"].with_schedule(critic_steps=lambda step: 5, resample_z=True),
            "cgan has several critic steps and classes",
        ),
        (
            replace(RECIPES["wgan"], discriminator=RECIPES["raschka_dcgan"].discriminator),
            "does not support Dropout and several critic steps",
        ),
        (replace(WGAN_GP, penalty=R1()), "wgan_gp has the penalty R1, which"),
        (replace(WGAN_GP, penalty=DRAGAN()), "wgan_gp has the penalty DRAGAN, which"),
        (replace(WGAN_GP, penalty=Drift()), "wgan_gp has the penalty Drift, which"),
        (replace(WGAN_GP, penalty=Lazy(WGANGP())), "wgan_gp has the penalty Lazy, which"),
        (
            replace(WGAN_GP, penalty=[WGANGP(), Drift()]),
            "wgan_gp has the penalties WGANGP and Drift, which",
        ),
        (RECIPES["r3gan"], "r3gan has the penalties R1 and R2, which"),
        (
            replace(RECIPES["r3gan"], penalty=()),
            "the planned step does not support the losses of RpGAN",
        ),
        (replace(DCGAN, objective=RaGAN()), "does not support the losses of RaGAN"),
        (
            replace(RECIPES["raschka_mlp_gan"], objective=RpGAN()),
            "does not support the losses of RpGAN",
        ),
        (
            replace(RASCHKA, objective=RpGAN()),
            "both updates at once of losses other than Wasserstein's",
        ),
        (
            replace(RECIPES["raschka_mlp_gan"], penalty=WGANGP()),
            "has a penalty with a generator that is updated first, which",
        ),
        (replace(RASCHKA, penalty=None), "raschka_wgan_gp has no penalty, which"),
        (replace(RASCHKA, penalty=R1()), "raschka_wgan_gp has the penalty R1, which"),
        (
            RASCHKA.with_schedule(penalty_mode="train"),
            "a penalty pass in training mode with both updates at once",
        ),
        (
            replace(RASCHKA, objective=BCE()),
            "both updates at once of losses other than Wasserstein's",
        ),
        (
            RASCHKA.with_schedule(critic_steps=lambda step: 5),
            "several critic steps with both updates at once",
        ),
        (RASCHKA.with_schedule(resample_z=True), "a new z for G with both updates at once"),
        (
            replace(RASCHKA, discriminator=curved),
            "the planned penalty does not support tanh after layer 0, Conv2d",
        ),
        (
            replace(RECIPES["cgan"], discriminator=embedded),
            "does not support layer 0.inner.0, Embedding",
        ),
        (
            replace(RECIPES["cgan"], discriminator=signed),
            "does not support layer 0, Condition of OneHot, Linear, Reshape",
        ),
        (
            replace(DCGAN, discriminator=nested),
            "does not support layer 0, Sequential of Conv2d, LeakyReLU",
        ),
        (
            replace(DCGAN, discriminator=partial(dcgan_discriminator, norm="layer")),
            "does not support layer 3, LayerNorm",
        ),
        (
            replace(DCGAN, objective=ACGAN()),
            "dcgan has an objective that takes labels, and no classes",
        ),
        (
            replace(RECIPES["acgan"], discriminator=RECIPES["cgan"].discriminator),
            "that ends in 11 scores, not",
        ),
        (replace(DCGAN, objective=Objective()), "does not support the losses of Objective"),
        (
            replace(RECIPES["lsgan"], generator=dcgan_generator),
            "does not support layer 0, LeakyReLU",
        ),  # fakes may be negative
        (replace(DCGAN, generator_optimizer=partial(SGD, lr=1e-3)), "no kernel for SGD"),
    ],
)
def test_what_cannot_be_planned(recipe, words):
    """Each recipe that cannot be planned is refused in one sentence with the reason."""
    with pytest.raises(UserError, match=words):
        plan(recipe, 16, 1, 8, 4)


@pytest.mark.parametrize(
    "step, name, words",
    [
        (DiscriminatorFirstStep, "wgan_gp", "wgan_gp has a penalty, which"),
        (DiscriminatorFirstStep, "raschka_mlp_gan", "another order of updates"),
        (DiscriminatorFirstStep, "wgan", "several critic steps"),
        (GeneratorFirstStep, "dcgan", "another order of updates"),
        (WganStep, "wgan_gp", "a penalty"),
        (WganStep, "raschka_mlp_gan", "another order of updates"),
        (SimultaneousStep, "wgan_gp", "another order of updates"),
    ],
)
def test_step_of_another_schedule(step, name, words):
    """Each class refuses a GAN that plan_step gives to another one."""
    gan = RECIPES[name].build(Random(0), 8, 1, 8)
    with pytest.raises(UserError, match=words):
        step(gan, np.zeros((1, 8, 8, 1), np.uint8), 4)


def test_arguments():
    message = "precision 'fp8' is not known; choose fp32, bf16x3, tf32, bf16"
    with pytest.raises(UserError, match=message):
        plan(DCGAN, 16, 1, 4, 4, precision="fp8")
    with pytest.raises(
        UserError, match="cgan has 10 classes: its planned step requires the labels"
    ):
        plan(RECIPES["cgan"], 16, 1, 8, 4, labels=None)
    with pytest.raises(
        UserError, match="cannot disable 'sleep', only: joint pass, unused gradients"
    ):
        plan(DCGAN, 16, 1, 4, 4, disable=["sleep"])
    with pytest.warns(match="couples"), pytest.raises(UserError, match="only: nothing"):
        plan(RASCHKA, 8, 1, 8, 4, disable=["sleep"])
