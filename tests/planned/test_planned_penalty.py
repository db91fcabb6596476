"""The planned step of WGAN-GP equals GAN.train_step, penalty included."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from rawgan.errors import UserError
from rawgan.layers import Conv2d, Dropout, Sequential, Tanh
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES, wgan_critic_steps
from rawgan.penalties import R1
from rawgan.planned.wgan_gp import WganGpStep
from rawgan.random import Random
from tests.support.planned_runs import WHERE, check, results

WGAN_GP = RECIPES["wgan_gp"]


@WHERE
@pytest.mark.parametrize("name", ["wgan_gp", "wgan_gp, one-sided", "wgan_gp_mnist"])
def test_planned_penalty_trains_the_same(name, where):
    check(results("compare", where, "fp32", [name])[name])


def critic(after):
    """Return a constructor of a critic with the layer `after` behind its first layer."""
    return lambda size, channels, width: Sequential(
        Conv2d(channels, width, 3, 1, 1), after, Conv2d(width, 1, size)
    )


def test_what_cannot_be_planned():
    """Each recipe that cannot be planned is refused in one sentence with the reason."""
    images = np.zeros((1, 16, 16, 1), np.uint8)
    for recipe, words in (
        (RECIPES["dcgan"], "dcgan has no penalty"),
        (replace(WGAN_GP, penalty=R1()), "wgan_gp has the penalty R1, which"),
        (
            WGAN_GP.with_schedule(critic_steps=lambda step: 1 + step),
            "a changing number of critic steps",
        ),
        (
            WGAN_GP.with_schedule(critic_steps=wgan_critic_steps),
            "a changing number of critic steps",
        ),  # 100 steps in the first 25
        (
            replace(WGAN_GP, discriminator=partial(dcgan_discriminator, norm="batch")),
            "the planned penalty does not support layer 3, BatchNorm.*:"
            " after each layer .* this step requires ReLU or LeakyReLU alone",
        ),
        (
            replace(
                WGAN_GP.with_schedule(penalty_mode="inference"),
                discriminator=partial(dcgan_discriminator, norm="batch"),
            ),
            "does not support layer 3, BatchNorm.*: .* this step requires ReLU or LeakyReLU alone",
        ),
        (
            replace(WGAN_GP, discriminator=critic(Dropout(0.5))),
            "does not support the Dropout after layer 0, Conv2d",
        ),
        (
            replace(WGAN_GP, discriminator=critic(Tanh())),
            "does not support tanh after layer 0, Conv2d.*: .* requires ReLU or LeakyReLU",
        ),
    ):
        gan = recipe.build(Random(0), 16, 1, 4)
        with pytest.raises(UserError, match=words):
            WganGpStep(gan, images, 4)
