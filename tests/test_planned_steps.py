"""One planned step for each recipe, in how many launches and in what memory, or a sentence that says why not; and what each
saving is worth."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from planned_runs import WHERE, results

from rawgan.errors import UserError
from rawgan.losses import ACGAN
from rawgan.models.dcgan import dcgan_discriminator, dcgan_generator
from rawgan.models.recipes import RECIPES
from rawgan.optim import SGD
from rawgan.planned_steps import planned_step
from rawgan.random import Random

DCGAN = RECIPES["dcgan"]


def plan(recipe, size=None, channels=None, width=None, batch=None, **how):
    images = np.zeros((1, size or recipe.size, size or recipe.size, channels or recipe.channels), np.uint8)
    labels = np.zeros(1, np.int64) if recipe.classes else None
    gan = recipe.build(Random(0), size, channels, width)
    return planned_step(gan, recipe, images, batch or recipe.batch, **{"labels": labels, "precision": "bf16", **how})


LAUNCHES = {
    "dcgan": 61, "cgan": 51, "atienza_dcgan": 77, "lsgan": 77, "hinge": 77, "atienza_cgan": 84,
    "raschka_mlp_gan": 27, "raschka_dcgan": 60, "wgan_gp": 143, "wgan_gp_mnist": 153,
}  # fmt: skip


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches_and_memory(name):
    """At the recipe's own size, in an arena about as small as what lives at once."""
    this = plan(RECIPES[name]).plan
    assert len(this.launches) == LAUNCHES[name]
    assert this.bytes <= 1.05 * this.least < 0.6 * this.separate


def test_launches_at_32():
    assert len(plan(DCGAN, 32, 1, batch=128).plan.launches) == 47


SAVINGS = {
    "dcgan": {"joint pass": 10, "idle gradients": 4},
    "raschka_mlp_gan": {"reused forward": 2, "idle gradients": 7},
    "wgan_gp, one-sided": {"one generator pass": 3, "penalty pass": 8, "idle gradients": 2},
}


@WHERE
@pytest.mark.parametrize("name", SAVINGS)
def test_savings(name, where):
    """Without one there are more launches, and the training is the same: idle gradients change no bit, the others round sums."""
    found = results("leave_out", where, "fp32", [name])[name]
    assert found.pop("the plan") == [0, 0]
    assert {saving: more for saving, (more, _) in found.items()} == SAVINGS[name]
    for saving, (_, apart) in found.items():
        assert apart <= (0 if saving == "idle gradients" else 1e-6), f"without {saving} it is {apart:.3g} apart"


@pytest.mark.parametrize(
    "recipe, words",
    [
        (RECIPES["wgan"], "wgan has clipped weights"),
        (RECIPES["acgan"], "does not know the losses of ACGAN yet"),
        (RECIPES["raschka_wgan_gp"], "raschka_wgan_gp has both updates at once"),
        (replace(DCGAN, critic_steps=lambda step: 5), "dcgan has several critic steps"),
        (replace(DCGAN, discriminator=partial(dcgan_discriminator, norm="layer")), "cannot take layer 3, LayerNorm"),
        (replace(DCGAN, objective=ACGAN()), "does not know the losses of ACGAN yet"),
        (replace(RECIPES["lsgan"], generator=dcgan_generator), "cannot take layer 0, LeakyReLU"),  # of fakes that may be negative
        (replace(DCGAN, generator_optimizer=partial(SGD, lr=1e-3)), "no kernel for SGD"),
    ],
)
def test_what_cannot_be_planned(recipe, words):
    """One sentence that names it."""
    with pytest.raises(UserError, match=words):
        plan(recipe, 16, 1, 8, 4)


def test_arguments():
    with pytest.raises(UserError, match="precision 'fp8' is not known; choose fp32, tf32, bf16"):
        plan(DCGAN, 16, 1, 4, 4, precision="fp8")
    with pytest.raises(UserError, match="cgan has 10 classes: its planned step wants the labels"):
        plan(RECIPES["cgan"], 16, 1, 8, 4, labels=None)
    with pytest.raises(UserError, match="cannot go without 'sleep', only without: joint pass, idle gradients"):
        plan(DCGAN, 16, 1, 4, 4, without=["sleep"])
