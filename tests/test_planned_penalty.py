"""The planned step of WGAN-GP trains as GAN.train_step does, penalty and all."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from planned_runs import WHERE, check, results

from rawgan.errors import UserError
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES, wgan_critic_steps
from rawgan.penalties import R1
from rawgan.planned_penalty import PlannedPenaltyStep
from rawgan.random import Random

WGAN_GP = RECIPES["wgan_gp"]


@WHERE
@pytest.mark.parametrize("name", ["wgan_gp", "wgan_gp, one-sided", "wgan_gp_mnist"])
def test_planned_penalty_trains_the_same(name, where):
    check(results("compare", where, "fp32", [name])[name])


def test_what_cannot_be_planned():
    """One sentence that names it."""
    images = np.zeros((1, 16, 16, 1), np.uint8)
    for recipe, words in (
        (RECIPES["dcgan"], "dcgan has no penalty of WGAN-GP"),
        (replace(WGAN_GP, penalty=R1()), "wgan_gp has no penalty of WGAN-GP"),
        (replace(WGAN_GP, critic_steps=lambda step: 1 + step), "a changing number of critic steps"),
        (replace(WGAN_GP, critic_steps=wgan_critic_steps), "a changing number of critic steps"),  # 100 in the first 25
        (replace(WGAN_GP, discriminator=partial(dcgan_discriminator, norm="batch")), "it wants ReLU or LeakyReLU alone"),
    ):
        gan = recipe.build(Random(0), 16, 1, 4)
        with pytest.raises(UserError, match=words):
            PlannedPenaltyStep(gan, recipe, images, 4)
