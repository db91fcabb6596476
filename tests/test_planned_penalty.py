"""The planned step of WGAN-GP: what it launches, and that it trains as GAN.train_step does, penalty and all.

TRITON_INTERPRET=1 python tests/test_planned_penalty.py cpu      the worker: prints how far the two are apart, as JSON
"""

import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from test_kernels_worker import float64
from test_planned import STEPS, WHERE, Run, build, run_worker, state

from rawgan.backend import CPU, choose_device
from rawgan.errors import UserError
from rawgan.kernels import launch
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES
from rawgan.penalties import R1, WGANGP
from rawgan.planned_penalty import PlannedPenaltyStep
from rawgan.random import Random

WGAN_GP = RECIPES["wgan_gp"]
BATCH, CRITIC_STEPS = 4, 2
RUNS = {
    "two-sided": Run(replace(WGAN_GP, critic_steps=lambda step: CRITIC_STEPS), 16, 3, 8),
    "one-sided": Run(replace(WGAN_GP, critic_steps=lambda step: CRITIC_STEPS, penalty=WGANGP(0.5, one_sided=True)), 16, 1, 64),
}


class Alphas:
    """The random numbers that the planned step has drawn, for the penalty of another to draw."""

    def __init__(self, alphas):
        self.alphas = list(alphas)

    def random(self, shape):
        return self.alphas.pop(0).reshape(shape)


def worker(name: str, where: str) -> dict:
    """How far metrics, G, D and running statistics are from GAN.train_step in float64, planned and in float32 NumPy."""
    run, device, rng = RUNS[name], choose_device(where), np.random.default_rng(7)
    images = rng.integers(0, 256, (40, run.size, run.size, run.channels), dtype=np.uint8)
    gan, plain, exact = build(run, device), build(run, CPU), build(run, CPU, np.float64)
    step = PlannedPenaltyStep(gan, run.recipe, device.asarray(images), BATCH, seed=5, batches=3)
    step.feed(rng.integers(0, 40, (3, CRITIC_STEPS * BATCH)))
    said = {"planned": [], "numpy": []}
    launch.empty = None  # a plan makes no arrays
    for _ in range(STEPS):
        step.run()
        zs, reals, alphas = (float64(a).reshape(-1, BATCH, *a.shape[1:]) for a in (step.z, step.real, step.alpha))
        exact.rng, plain.rng = Alphas(alphas), Alphas(alphas)
        want = exact.train_step(list(reals), list(zs))
        got = {"planned": step.metrics(), "numpy": plain.train_step(*(list(a.astype(np.float32)) for a in (reals, zs)))}
        for who, metrics in got.items():
            said[who].append(max(abs(float(metrics[key]) - float(want[key])) for key in want))
    step.finish()
    apart = {
        who: [max(said[who]), *(float(np.abs(a - b).max()) for a, b in zip(state(g), state(exact)))]
        for who, g in (("planned", gan), ("numpy", plain))
    }
    return apart | {"t": [gan.generator_optimizer.t, gan.discriminator_optimizer.t]}


@WHERE
@pytest.mark.parametrize("name", RUNS)
def test_planned_penalty_trains_the_same(name, where):
    """No further from float64 than four times what NumPy's own float32 is."""
    said = run_worker(__file__, name, where)
    for what, got, plain in zip(("metrics", "G", "D", "running statistics"), said["planned"], said["numpy"]):
        assert got <= 4 * plain + 1e-9, f"{what}: {got:.3g} from float64, NumPy's float32 is {plain:.3g}"
    assert said["t"] == [STEPS, CRITIC_STEPS * STEPS]


def test_launches_and_memory():
    """WGAN-GP-64 with five critic steps in 143 launches, in an arena as small as what lives at once."""
    images = np.zeros((1, 64, 64, 3), np.uint8)
    plan = PlannedPenaltyStep(WGAN_GP.build(Random(0), 64, 3, 64), WGAN_GP, images, 64, precision="bf16").plan
    assert len(plan.launches) == 143
    assert plan.bytes <= 1.05 * plan.least < 0.5 * plan.separate


def test_what_cannot_be_planned():
    """One sentence that names it."""
    images = np.zeros((1, 16, 16, 1), np.uint8)
    for recipe, words in (
        (RECIPES["dcgan"], "dcgan has no penalty of WGAN-GP"),
        (replace(WGAN_GP, penalty=R1()), "wgan_gp has no penalty of WGAN-GP"),
        (replace(WGAN_GP, critic_steps=lambda step: 1 + step), "a changing number of critic steps"),
        (replace(WGAN_GP, discriminator=partial(dcgan_discriminator, norm="batch")), "it wants ReLU or LeakyReLU alone"),
    ):
        gan = recipe.build(Random(0), 16, 1, 4)
        with pytest.raises(UserError, match=words):
            PlannedPenaltyStep(gan, recipe, images, 4)


if __name__ == "__main__":
    print(json.dumps(worker(*sys.argv[1:])))
