"""One planned step for each recipe, or a sentence that says why not."""

import numpy as np
import pytest

from rawgan.errors import UserError
from rawgan.models.recipes import RECIPES
from rawgan.planned import PlannedStep
from rawgan.planned_penalty import PlannedPenaltyStep
from rawgan.planned_steps import planned_step
from rawgan.random import Random


def plan(name, **how):
    recipe = RECIPES[name]
    return planned_step(recipe.build(Random(0), 16, 1, 8), recipe, np.zeros((1, 16, 16, 1), np.uint8), 4, **how)


def test_kinds():
    assert type(plan("dcgan")) is PlannedStep
    assert type(plan("wgan_gp")) is PlannedPenaltyStep


def test_what_cannot_be_planned():
    with pytest.raises(UserError, match="cgan has 10 classes: its planned step wants the labels"):
        plan("cgan")
    with pytest.raises(UserError, match="cannot go without 'sleep'"):
        plan("dcgan", without=["sleep"])
